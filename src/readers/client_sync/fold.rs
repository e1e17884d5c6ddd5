//! Folds *output* into this reader's rows and memory.
//!
//! A plain message costs one row of 24 bytes and one number in memory, however
//! many members its room has.

use std::collections::{BTreeMap, BTreeSet};

use log_format::codec;
use log_format::record::output::{
    Decision, MembershipChange, OutputRoomEvent, OutputRoomState, OutputUser, StateChange, Timeline,
};
use log_format::record::{Envelope, Kind};
use ruma::{EventId, OwnedUserId, RoomId, UserId};

use super::memory::{Memory, RoomIx};
use super::rows::{
    self, AccountDataRow, Delta, Key, MembershipRow, RoomRow, StateRow, TimelineRow,
};
use crate::logs::log::{LogRecord, PartitionId};
use crate::matrix::ids::domain_of;
use crate::query::ids::{EventSn, Place, RoomSn};
use crate::query::rooms::Rooms;
use crate::readers::run::ReaderError;
use crate::storage::columns::{
    SYNC_DATA, SYNC_DATA_AT, SYNC_MEMBERS, SYNC_ROOMS, SYNC_STATE, SYNC_TIMELINE,
};
use crate::storage::overlay::{Overlay, Read};

const MEMBER: &str = "m.room.member";

/// What became of users of this server, by user id.
type Memberships = Vec<(String, MembershipRow)>;

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
        let memberships = self.local_memberships(room_id, &body.memberships, &body.state_delta)?;
        let row = StateRow::Part {
            first: *self.memory.room_mut(ix).parts_from.get_or_insert(offset),
            deltas: deltas(&body.state_delta),
            memberships,
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
        let slot = self.memory.room(ix);
        let (room, room_id) = (slot.room, slot.room_id.clone());
        if let Some(first) = parts_from {
            let mut next = first;
            while let Some((at, part)) = self.part_from(room, next, offset)? {
                for (user, row) in part {
                    self.set_membership(ix, offset, &user, row);
                }
                next = at + 1;
            }
        }
        let row = StateRow::Change {
            state: body.current_state,
            first: parts_from,
            deltas: deltas(&body.state_delta),
        };
        let key = Key::new(self.partition).room(room).number(offset);
        rows::put(&mut self.rows, SYNC_STATE, &key, &row);
        // The record says itself which event it is about.
        let own = body.memberships.first().and_then(|own| {
            let changed = body.state_delta.iter();
            let mut of_user =
                changed.filter(|change| change.kind == MEMBER && change.state_key == own.user_id);
            let is_own = of_user.any(|change| change.to.as_deref() == Some(event_id));
            is_own.then(|| (own.user_id.clone(), own.to))
        });
        let others = body.memberships.get(usize::from(own.is_some())..);
        let others = others.unwrap_or_default();
        for (user, row) in self.local_memberships(&room_id, others, &body.state_delta)? {
            self.set_membership(ix, offset, &user, row);
        }
        if let Some((user, membership)) = own {
            let row = MembershipRow {
                membership,
                event: Some(body.event_sn),
            };
            self.set_membership(ix, offset, &user, row);
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

    /// The changes that concern users of this server, each with its event.
    fn local_memberships(
        &self,
        room_id: &RoomId,
        changes: &[MembershipChange],
        state_delta: &[StateChange],
    ) -> Result<Memberships, ReaderError> {
        let is_local = |change: &&MembershipChange| {
            domain_of(&change.user_id) == Some(self.server_name.as_str())
        };
        let local: Vec<&MembershipChange> = changes.iter().filter(is_local).collect();
        if local.is_empty() {
            return Ok(Vec::new());
        }
        let members = state_delta.iter();
        let members = members.filter(|change| change.kind == MEMBER);
        let events: BTreeMap<&str, Option<&str>> = members
            .map(|change| (&*change.state_key, change.to.as_deref()))
            .collect();
        let mut found = Vec::with_capacity(local.len());
        for change in local {
            let event = events.get(&*change.user_id).copied().flatten();
            let event = event.and_then(|event| <&EventId>::try_from(event).ok());
            let event = match event {
                Some(event) => self.rooms.event(room_id, event)?,
                None => None,
            };
            let row = MembershipRow {
                membership: change.to,
                event: event.map(|event| event.event.0),
            };
            found.push((change.user_id.clone(), row));
        }
        Ok(found)
    }

    fn set_membership(&mut self, ix: RoomIx, offset: u64, user: &str, row: MembershipRow) {
        let Ok(user) = <&UserId>::try_from(user) else {
            return;
        };
        if user.server_name() != self.server_name {
            return;
        }
        let user_ix = self.memory.intern_user(user);
        let event = row.event.map(EventSn);
        self.memory
            .set_membership(user_ix, ix, row.membership, event, offset);
        let room = self.memory.room(ix).room;
        let key = Key::new(self.partition)
            .text(user.as_str())
            .room(room)
            .number(offset);
        rows::put(&mut self.rows, SYNC_MEMBERS, &key, &row);
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
