//! Folds *output* into this reader's rows.
//!
//! A plain message costs one row of some ten bytes, the time at which it was
//! sent. One that relates to another is added to what its parent has, whether
//! the parent is known or not; a redaction that took effect takes it away again.
//! Which of the two comes first changes nothing in the end: that an event is
//! redacted is asked of the room server, where it never becomes untrue.

use log_format::codec;
use log_format::record::output::{Decision, OutputRoomEvent, Timeline};
use log_format::record::{Envelope, Kind};
use ruma::{EventId, RoomId};

use super::presence::Presence;
use super::rows::{self, ChildRow, RoomKeys, digest, encode_number, encode_summary};
use crate::logs::log::{LogRecord, PartitionId};
use crate::matrix::redaction::REDACTION_TYPE;
use crate::matrix::relation::{ANNOTATION, REFERENCE, Relation, THREAD};
use crate::query::ids::{EventSn, Place, RoomSn};
use crate::query::relations::{Annotation, Summary};
use crate::query::rooms::Rooms;
use crate::readers::run::ReaderError;
use crate::storage::columns::{
    RELATIONS_ANNOTATIONS, RELATIONS_BY_TYPE, RELATIONS_CHILDREN, RELATIONS_EDITS, RELATIONS_OF,
    RELATIONS_PARENTS, RELATIONS_REPLIERS, RELATIONS_THREADS, RELATIONS_TIMES,
};
use crate::storage::overlay::{Overlay, StoreError};

/// One group of records on its way into rows.
pub struct Group<'a, 's> {
    pub partition: PartitionId,
    pub rows: Overlay<'s>,
    pub rooms: &'a dyn Rooms,
    pub presence: &'a Presence,
}

impl Group<'_, '_> {
    /// Folds one record.
    pub fn fold(&mut self, record: &LogRecord) -> Result<(), ReaderError> {
        let offset = record.offset;
        let envelope = record
            .envelope()
            .map_err(|source| ReaderError::Envelope { offset, source })?;
        if envelope.kind != Kind::OutputRoomEvent {
            return Ok(());
        }
        let body: OutputRoomEvent =
            codec::decode(envelope.body).map_err(|source| ReaderError::Body { offset, source })?;
        let missing = |what| ReaderError::Field { offset, what };
        let Some(event_id) = envelope.event_id else {
            return Err(missing("event id"));
        };
        let room_id = envelope.room_id.map(<&RoomId>::try_from);
        let Some(Ok(room_id)) = room_id else {
            return Err(missing("room id"));
        };
        if body.timeline != Timeline::Outside {
            self.enters_timeline(room_id, event_id, &envelope, &body)?;
        }
        let redacts = body.redacts.as_deref();
        if let Some(target) = redacts
            && body.decision == Decision::Accepted
            && envelope.event_type == Some(REDACTION_TYPE)
        {
            self.redacted(room_id, RoomSn(body.room_sn), target)?;
        }
        Ok(())
    }

    fn keys(&self, room: RoomSn) -> RoomKeys {
        RoomKeys {
            partition: self.partition,
            room,
        }
    }

    fn enters_timeline(
        &mut self,
        room_id: &RoomId,
        event_id: &str,
        envelope: &Envelope<'_>,
        body: &OutputRoomEvent,
    ) -> Result<(), ReaderError> {
        let keys = self.keys(RoomSn(body.room_sn));
        let place = Place::from_bytes(body.place);
        let time = keys.time(envelope.origin_ts_ms, place);
        let event = encode_number(body.event_sn);
        self.rows.put(RELATIONS_TIMES, time.as_ref(), event);
        // What was erased was redacted before, and relates to nothing.
        let relation = envelope.body_part.bytes().and_then(Relation::of_event);
        let (Some(relation), Some(sender), Some(kind)) =
            (relation, envelope.sender, envelope.event_type)
        else {
            return Ok(());
        };
        let annotation = relation.key.as_deref();
        let annotation = annotation.filter(|_| relation.rel_type == ANNOTATION);
        let child = ChildRow {
            event: EventSn(body.event_sn),
            place,
            parent: relation.parent.as_ref().into(),
            rel_type: relation.rel_type.as_ref().into(),
            sender: sender.into(),
            kind: kind.into(),
            ts: envelope.origin_ts_ms,
            is_edit: relation.replaces(kind, envelope.state_key.is_some()),
            annotation: annotation.map(|key| digest(Annotation { sender, kind, key })),
        };
        let of = keys.event(event_id);
        // An event enters once, but a repeat of its record must not count twice.
        if self.rows.get(RELATIONS_OF, of.as_ref())?.is_some()
            || self.is_redacted(room_id, event_id)?
        {
            return Ok(());
        }
        self.rows.put(RELATIONS_OF, of.as_ref(), child.encode());
        self.add(keys, event_id, &child)?;
        Ok(())
    }

    fn redacted(
        &mut self,
        room_id: &RoomId,
        room: RoomSn,
        target: &str,
    ) -> Result<(), ReaderError> {
        let keys = self.keys(room);
        let of = keys.event(target);
        let Some(child) = self.rows.get(RELATIONS_OF, of.as_ref())? else {
            return Ok(());
        };
        if !self.is_redacted(room_id, target)? {
            return Ok(());
        }
        let child = ChildRow::decode(&child)?;
        self.rows.delete(RELATIONS_OF, of.as_ref());
        self.remove(keys, target, &child)?;
        Ok(())
    }

    /// Whether a redaction of the event took effect, by now.
    fn is_redacted(&self, room_id: &RoomId, event_id: &str) -> Result<bool, ReaderError> {
        let Ok(event_id) = <&EventId>::try_from(event_id) else {
            return Ok(false);
        };
        let event = self.rooms.event(room_id, event_id)?;
        Ok(event.is_some_and(|event| event.redacted_by.is_some()))
    }

    fn add(&mut self, keys: RoomKeys, id: &str, child: &ChildRow) -> Result<(), StoreError> {
        let parent = &*child.parent;
        let rows = &mut self.rows;
        let listed = child.encode_listed(id);
        let key = keys.child(parent, child.place);
        rows.put(RELATIONS_CHILDREN, key.as_ref(), listed.clone());
        let key = keys.child_of_type(parent, &child.rel_type, child.place);
        rows.put(RELATIONS_BY_TYPE, key.as_ref(), listed);
        if let Some(digest) = child.annotation {
            let key = keys.annotation(parent, digest, child.place);
            rows.put(RELATIONS_ANNOTATIONS, key.as_ref(), Vec::new());
        }
        let mut summary = self.summary(keys, parent)?;
        summary.children += 1;
        if child.is_edit {
            let key = keys.edit(child, id);
            let event = encode_number(child.event.0);
            self.rows.put(RELATIONS_EDITS, key.as_ref(), event);
            summary.edits += 1;
        }
        match &*child.rel_type {
            REFERENCE => summary.references += 1,
            THREAD => self.add_reply(keys, child, &mut summary)?,
            _ => {}
        }
        if summary.is_bundled() {
            self.presence.add(keys.partition, keys.room, parent);
        }
        self.put_summary(keys, parent, &summary);
        Ok(())
    }

    fn remove(&mut self, keys: RoomKeys, id: &str, child: &ChildRow) -> Result<(), StoreError> {
        let parent = &*child.parent;
        let rows = &mut self.rows;
        let key = keys.child(parent, child.place);
        rows.delete(RELATIONS_CHILDREN, key.as_ref());
        let key = keys.child_of_type(parent, &child.rel_type, child.place);
        rows.delete(RELATIONS_BY_TYPE, key.as_ref());
        if let Some(digest) = child.annotation {
            let key = keys.annotation(parent, digest, child.place);
            rows.delete(RELATIONS_ANNOTATIONS, key.as_ref());
        }
        let mut summary = self.summary(keys, parent)?;
        summary.children = summary.children.saturating_sub(1);
        if child.is_edit {
            self.rows
                .delete(RELATIONS_EDITS, keys.edit(child, id).as_ref());
            summary.edits = summary.edits.saturating_sub(1);
        }
        match &*child.rel_type {
            REFERENCE => summary.references = summary.references.saturating_sub(1),
            THREAD => self.remove_reply(keys, child, &mut summary)?,
            _ => {}
        }
        self.put_summary(keys, parent, &summary);
        Ok(())
    }

    /// Counts a reply, and moves the thread where its newest reply stands.
    fn add_reply(
        &mut self,
        keys: RoomKeys,
        child: &ChildRow,
        summary: &mut Summary,
    ) -> Result<(), StoreError> {
        let thread = &mut summary.thread;
        if thread.replies == 0 || child.place > thread.latest {
            if thread.replies > 0 {
                let before = keys.thread(thread.latest);
                self.rows.delete(RELATIONS_THREADS, before.as_ref());
            }
            thread.latest = child.place;
            self.put_thread(keys, child.place, &child.parent);
        }
        thread.replies += 1;
        let replier = keys.replier(&child.parent, &child.sender);
        let replies = match self.rows.get(RELATIONS_REPLIERS, replier.as_ref())? {
            Some(value) => rows::number(RELATIONS_REPLIERS, &value)?,
            None => 0,
        };
        thread.senders += u64::from(replies == 0);
        let replies = encode_number(replies + 1);
        self.rows.put(RELATIONS_REPLIERS, replier.as_ref(), replies);
        Ok(())
    }

    /// Undoes [`Group::add_reply`]; the reply's own rows are gone already.
    fn remove_reply(
        &mut self,
        keys: RoomKeys,
        child: &ChildRow,
        summary: &mut Summary,
    ) -> Result<(), StoreError> {
        let thread = &mut summary.thread;
        thread.replies = thread.replies.saturating_sub(1);
        if child.place == thread.latest {
            self.rows
                .delete(RELATIONS_THREADS, keys.thread(child.place).as_ref());
            let replies = keys.of_type(&child.parent, THREAD);
            let newest = Overlay::range(
                &self.rows,
                RELATIONS_BY_TYPE,
                replies.as_ref(),
                None,
                true,
                1,
            )?;
            thread.latest = Place::START;
            if let Some((key, _)) = newest.first() {
                thread.latest = rows::last_place(RELATIONS_BY_TYPE, key)?;
                self.put_thread(keys, thread.latest, &child.parent);
            }
        }
        let replier = keys.replier(&child.parent, &child.sender);
        let replies = match self.rows.get(RELATIONS_REPLIERS, replier.as_ref())? {
            Some(value) => rows::number(RELATIONS_REPLIERS, &value)?,
            None => 0,
        };
        match replies {
            0 | 1 => {
                self.rows.delete(RELATIONS_REPLIERS, replier.as_ref());
                thread.senders = thread.senders.saturating_sub(replies);
            }
            replies => {
                let replies = encode_number(replies - 1);
                self.rows.put(RELATIONS_REPLIERS, replier.as_ref(), replies);
            }
        }
        Ok(())
    }

    fn put_thread(&mut self, keys: RoomKeys, latest: Place, root: &str) {
        let root = root.as_bytes().to_vec();
        self.rows
            .put(RELATIONS_THREADS, keys.thread(latest).as_ref(), root);
    }

    fn summary(&self, keys: RoomKeys, parent: &str) -> Result<Summary, StoreError> {
        let row = self
            .rows
            .get(RELATIONS_PARENTS, keys.event(parent).as_ref())?;
        row.map_or(Ok(Summary::default()), |row| rows::summary(&row))
    }

    fn put_summary(&mut self, keys: RoomKeys, parent: &str, summary: &Summary) {
        let key = keys.event(parent);
        match summary.children {
            0 => self.rows.delete(RELATIONS_PARENTS, key.as_ref()),
            _ => {
                let row = encode_summary(summary);
                self.rows.put(RELATIONS_PARENTS, key.as_ref(), row);
            }
        }
    }
}
