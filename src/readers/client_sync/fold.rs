//! Folds *output* into this reader's rows and memory.
//!
//! A plain message costs one row of 24 bytes and one number in memory, however
//! many members its room has.

use std::collections::BTreeSet;

use log_format::codec;
use log_format::record::output::{
    Decision, Membership, MembershipChange, OutputRoomEvent, OutputRoomState, OutputUser,
    StateChange, Timeline,
};
use log_format::record::{Envelope, Kind};
use ruma::{OwnedUserId, RoomId, UserId};

use super::memory::{Memory, RoomIx};
use super::rows::{
    self, AccountDataRow, Delta, Key, MembershipRow, RoomRow, StateRow, TimelineRow,
};
use crate::logs::log::{LogRecord, PartitionId};
use crate::matrix::ids::domain_of;
use crate::query::ids::{EventSn, Place, RoomSn, StateId};
use crate::query::rooms::{Rooms, StateKey};
use crate::readers::run::ReaderError;
use crate::storage::columns::{
    SYNC_DATA, SYNC_DATA_AT, SYNC_MEMBERS, SYNC_ROOMS, SYNC_STATE, SYNC_TIMELINE,
};
use crate::storage::overlay::{Overlay, Read};

const MEMBER: &str = "m.room.member";

/// What became of users of this server, by user id.
type Memberships = Vec<(String, Membership)>;

/// One group of records on its way into rows and memory.
pub struct Group<'a, 's> {
    pub partition: PartitionId,
    pub memory: &'a mut Memory,
    pub rows: Overlay<'s>,
    pub rooms: &'a dyn Rooms,
    pub server_name: &'a ruma::ServerName,
    /// Rooms whose row is to be written at the end of the group.
    changed: BTreeSet<RoomIx>,
}

impl<'a, 's> Group<'a, 's> {
    pub fn new(
        partition: PartitionId,
        memory: &'a mut Memory,
        rows: Overlay<'s>,
        rooms: &'a dyn Rooms,
        server_name: &'a ruma::ServerName,
    ) -> Group<'a, 's> {
        Group {
            partition,
            memory,
            rows,
            rooms,
            server_name,
            changed: BTreeSet::new(),
        }
    }

    /// Folds one record.
    pub fn fold(&mut self, record: &LogRecord) -> Result<(), ReaderError> {
        let offset = record.offset;
        let envelope = record
            .envelope()
            .map_err(|source| ReaderError::Envelope { offset, source })?;
        match envelope.kind {
            Kind::OutputRoomEvent => {
                let body = codec::decode(envelope.body)
                    .map_err(|source| ReaderError::Body { offset, source })?;
                self.room_event(offset, &envelope, body)
            }
            Kind::OutputRoomState => {
                let body = codec::decode(envelope.body)
                    .map_err(|source| ReaderError::Body { offset, source })?;
                self.state_part(offset, &envelope, &body)
            }
            Kind::OutputUser => {
                let body = codec::decode(envelope.body)
                    .map_err(|source| ReaderError::Body { offset, source })?;
                self.user(offset, &envelope, &body)
            }
            // The directory, aliases and gaps are no part of sync; kinds of
            // another topic never appear here.
            _ => Ok(()),
        }
    }

    /// Writes what is written once a group, and gives its rows.
    pub fn finish(mut self) -> Overlay<'s> {
        for ix in std::mem::take(&mut self.changed) {
            let slot = self.memory.room(ix);
            let row = RoomRow {
                room_id: slot.room_id.to_string(),
                last_change: slot.last_change,
            };
            let key = Key::new(self.partition).room(slot.room);
            rows::put(&mut self.rows, SYNC_ROOMS, &key, &row);
        }
        self.rows
    }

    fn room_event(
        &mut self,
        offset: u64,
        envelope: &Envelope<'_>,
        body: OutputRoomEvent,
    ) -> Result<(), ReaderError> {
        let missing = |what| ReaderError::Field { offset, what };
        // History that is found later is for `/messages`: it is older than what
        // clients have, and sync gives what is new.
        let in_timeline = body.timeline == Timeline::Live;
        let room_id = envelope.room_id.map(<&RoomId>::try_from);
        let room_id = room_id.transpose().ok().flatten();
        let known = room_id.and_then(|room_id| self.memory.room_ix(room_id));
        let parts_from = known.and_then(|ix| self.memory.room_mut(ix).parts_from.take());
        let changes_state = parts_from.is_some() || !body.state_delta.is_empty();
        if !in_timeline && !changes_state {
            return Ok(());
        }
        let room_id = room_id.ok_or(missing("room id"))?;
        let room = RoomSn(body.room_sn);
        let ix = self.memory.intern_room(room_id, self.partition, room);
        if in_timeline {
            let row = TimelineRow {
                offset,
                event: EventSn(body.event_sn),
                place: Place::from_bytes(body.place),
            };
            let key = Key::new(self.partition).room(room).number(offset);
            self.rows.put(SYNC_TIMELINE, key.bytes(), row.encode());
        }
        if changes_state {
            let event_id = envelope.event_id.ok_or(missing("event id"))?;
            self.change_state(ix, offset, event_id, parts_from, &body)?;
        }
        self.memory.room_mut(ix).last_change = offset;
        self.changed.insert(ix);
        self.memory.wake_room(ix);
        Ok(())
    }

    /// Keeps a part of a large change until its end: in the rows, so that the
    /// memory does not grow with it and a restart in between finds it again.
    fn state_part(
        &mut self,
        offset: u64,
        envelope: &Envelope<'_>,
        body: &OutputRoomState,
    ) -> Result<(), ReaderError> {
        let missing = |what| ReaderError::Field { offset, what };
        let room_id = envelope.room_id.ok_or(missing("room id"))?;
        let room_id = <&RoomId>::try_from(room_id).map_err(|_| missing("room id"))?;
        let room = RoomSn(body.room_sn);
        let ix = self.memory.intern_room(room_id, self.partition, room);
        let row = StateRow::Part {
            first: *self.memory.room_mut(ix).parts_from.get_or_insert(offset),
            deltas: deltas(&body.state_delta),
            memberships: self.local(&body.memberships).collect(),
        };
        let key = Key::new(self.partition).room(room).number(offset);
        rows::put(&mut self.rows, SYNC_STATE, &key, &row);
        self.changed.insert(ix);
        Ok(())
    }

    /// Current state changed, and with it memberships: by the parts that came
    /// before, then by what the record itself says.
    fn change_state(
        &mut self,
        ix: RoomIx,
        offset: u64,
        event_id: &str,
        parts_from: Option<u64>,
        body: &OutputRoomEvent,
    ) -> Result<(), ReaderError> {
        let room = self.memory.room(ix).room;
        let row = StateRow::Change {
            state: body.current_state,
            first: parts_from,
            deltas: deltas(&body.state_delta),
        };
        let key = Key::new(self.partition).room(room).number(offset);
        rows::put(&mut self.rows, SYNC_STATE, &key, &row);
        let mut next = parts_from;
        while let Some(from) = next {
            let part = self.part_from(room, from, offset)?;
            next = part.as_ref().map(|(at, _)| at + 1);
            for (user, membership) in part.map(|(_, part)| part).unwrap_or_default() {
                self.set_membership(ix, offset, (&user, membership), event_id, body)?;
            }
        }
        let last: Memberships = self.local(&body.memberships).collect();
        for (user, membership) in last {
            self.set_membership(ix, offset, (&user, membership), event_id, body)?;
        }
        Ok(())
    }

    /// The memberships of the first part of a change in `[from, to)`, and where it stands.
    fn part_from(
        &self,
        room: RoomSn,
        from: u64,
        to: u64,
    ) -> Result<Option<(u64, Memberships)>, ReaderError> {
        let prefix = Key::new(self.partition).room(room);
        let start = Key::new(self.partition).room(room).number(from);
        let (prefix, start) = (prefix.bytes(), Some(start.bytes()));
        let found = Read::range(&self.rows, SYNC_STATE, prefix, start, false, 1)?;
        let Some((key, value)) = found.first() else {
            return Ok(None);
        };
        let at = rows::last_number(SYNC_STATE, key)?;
        match rows::decode(SYNC_STATE, value)? {
            StateRow::Part { memberships, .. } if at < to => Ok(Some((at, memberships))),
            _ => Ok(None),
        }
    }

    /// The changes that concern users of this server.
    fn local(&self, changes: &[MembershipChange]) -> impl Iterator<Item = (String, Membership)> {
        let server_name = self.server_name.as_str();
        let local = changes
            .iter()
            .filter(move |change| domain_of(&change.user_id) == Some(server_name));
        local.map(|change| (change.user_id.clone(), change.to))
    }

    /// Keeps a membership, with the event that holds it in current state. Of
    /// the record's own event that is known without a look.
    fn set_membership(
        &mut self,
        ix: RoomIx,
        offset: u64,
        (user, membership): (&str, Membership),
        event_id: &str,
        body: &OutputRoomEvent,
    ) -> Result<(), ReaderError> {
        let Ok(user) = <&UserId>::try_from(user) else {
            return Ok(());
        };
        let is_own = |change: &StateChange| {
            change.kind == MEMBER
                && change.state_key == user.as_str()
                && change.to.as_deref() == Some(event_id)
        };
        let slot = self.memory.room(ix);
        let room = slot.room;
        let event = match body.state_delta.first().is_some_and(is_own) {
            true => Some(EventSn(body.event_sn)),
            false => {
                let state = StateId(body.current_state);
                let key = StateKey::new(MEMBER, user.as_str());
                self.rooms.state_entry(&slot.room_id, state, &key)?
            }
        };
        let user_ix = self.memory.intern_user(user);
        self.memory
            .set_membership(user_ix, ix, membership, event, offset);
        let key = Key::new(self.partition)
            .text(user.as_str())
            .room(room)
            .number(offset);
        let row = MembershipRow {
            membership,
            event: event.map(|event| event.0),
        };
        rows::put(&mut self.rows, SYNC_MEMBERS, &key, &row);
        Ok(())
    }

    fn user(
        &mut self,
        offset: u64,
        envelope: &Envelope<'_>,
        body: &OutputUser,
    ) -> Result<(), ReaderError> {
        let account_data = body.kind == Kind::InputAccountData.number();
        if !account_data || body.decision != Decision::Accepted {
            return Ok(());
        }
        let missing = |what| ReaderError::Field { offset, what };
        let event_type = envelope.event_type.ok_or(missing("type"))?;
        let user =
            OwnedUserId::try_from(envelope.key).map_err(|_| missing("user id as its key"))?;
        let row = AccountDataRow {
            room_id: envelope.room_id.map(str::to_owned),
            event_type: event_type.to_owned(),
        };
        let of_user = || Key::new(self.partition).text(user.as_str());
        // One row for each piece of data, at its newest change.
        let at = of_user()
            .text(envelope.room_id.unwrap_or_default())
            .text(event_type);
        if let Some(before) = self.rows.get(SYNC_DATA_AT, at.bytes())? {
            let before = rows::last_number(SYNC_DATA_AT, &before)?;
            self.rows
                .delete(SYNC_DATA, of_user().number(before).bytes());
        }
        let key = of_user().number(offset);
        rows::put(&mut self.rows, SYNC_DATA, &key, &row);
        self.rows
            .put(SYNC_DATA_AT, at.bytes(), offset.to_be_bytes().to_vec());
        let ix = self.memory.intern_user(&user);
        self.memory.user_mut(ix).account_data_at = Some(offset);
        self.memory.wake(ix);
        Ok(())
    }
}

/// What a change of state leaves to tell.
fn deltas(changes: &[StateChange]) -> Vec<Delta> {
    let deltas = changes.iter().map(|change| Delta {
        kind: change.kind.clone(),
        state_key: change.state_key.clone(),
        to: change.to.clone(),
    });
    deltas.collect()
}
