//! Folds *output* into this reader's rows and memory.
//!
//! A plain message costs one row of 24 bytes and one number in memory, however
//! many members its room has.

use std::collections::BTreeSet;

use log_format::codec;
use log_format::record::output::{
    Decision, Membership, OutputRoomEvent, OutputUser, StateChange, Timeline,
};
use log_format::record::{Envelope, Kind};
use ruma::{OwnedUserId, RoomId, UserId};
use serde::Deserialize;

use super::memory::{Memory, RoomIx};
use super::rows::{
    self, AccountDataRow, Delta, Key, MembershipRow, RoomRow, StateRow, TimelineRow,
};
use crate::logs::log::{LogRecord, PartitionId};
use crate::query::ids::{EventSn, Place, RoomSn};
use crate::query::rooms::Rooms;
use crate::readers::run::ReaderError;
use crate::storage::columns::{
    SYNC_DATA, SYNC_DATA_AT, SYNC_MEMBERS, SYNC_ROOMS, SYNC_STATE, SYNC_TIMELINE,
};
use crate::storage::overlay::Overlay;

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
            Kind::OutputUser => {
                let body = codec::decode(envelope.body)
                    .map_err(|source| ReaderError::Body { offset, source })?;
                self.user(offset, &envelope, &body)
            }
            // The directory and aliases are no part of sync.
            Kind::OutputRoomPublished | Kind::OutputAlias => Ok(()),
            // Kinds of another topic never appear here.
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
        if !in_timeline && body.state_delta.is_empty() {
            return Ok(());
        }
        let room_id = envelope.room_id.ok_or(missing("room id"))?;
        let room_id = <&RoomId>::try_from(room_id).map_err(|_| missing("room id"))?;
        let event_id = envelope.event_id.ok_or(missing("event id"))?;
        let room = RoomSn(body.room_sn);
        let ix = self.memory.intern_room(room_id, self.partition, room);
        let event = EventSn(body.event_sn);

        if in_timeline {
            let row = TimelineRow {
                offset,
                event,
                place: Place::from_bytes(body.place),
            };
            let key = Key::new(self.partition).room(room).number(offset);
            self.rows.put(SYNC_TIMELINE, key.bytes(), row.encode());
        }
        self.state(ix, offset, event_id, &body);
        for change in &body.state_delta {
            if change.kind == "m.room.member" {
                self.membership(ix, offset, event_id, &body, change)?;
            }
        }
        self.memory.room_mut(ix).last_change = offset;
        self.changed.insert(ix);
        self.memory.wake_room(ix);
        Ok(())
    }

    /// Keeps how current state follows from states by id, so that it can be
    /// told for any offset; see [`StateRow`].
    fn state(&mut self, ix: RoomIx, offset: u64, event_id: &str, body: &OutputRoomEvent) {
        let slot = self.memory.room_mut(ix);
        let only_extremity = matches!(body.extremities.as_slice(), [only] if only == event_id);
        let exact = body.decision == Decision::Accepted && only_extremity;
        if body.state_delta.is_empty() && (slot.state.exact || !exact) {
            return;
        }
        slot.state.exact = exact;
        if exact {
            slot.state.base = Some(offset);
        }
        let row = StateRow {
            exact,
            state_after: body.state_after,
            base: slot.state.base,
            deltas: body
                .state_delta
                .iter()
                .map(|change| Delta {
                    kind: change.kind.clone(),
                    state_key: change.state_key.clone(),
                    to: change.to.clone(),
                })
                .collect(),
        };
        let key = Key::new(self.partition).room(slot.room).number(offset);
        rows::put(&mut self.rows, SYNC_STATE, &key, &row);
    }

    fn membership(
        &mut self,
        ix: RoomIx,
        offset: u64,
        event_id: &str,
        body: &OutputRoomEvent,
        change: &StateChange,
    ) -> Result<(), ReaderError> {
        let Ok(user) = <&UserId>::try_from(change.state_key.as_str()) else {
            return Ok(());
        };
        if user.server_name() != self.server_name {
            return Ok(());
        }
        let own = body.memberships.first();
        let (membership, event) = match (&change.to, own) {
            // The record itself says what its own event made of the user.
            (Some(to), Some(own)) if to == event_id && own.user_id == user.as_str() => {
                (own.to, Some(EventSn(body.event_sn)))
            }
            (Some(to), _) => self.membership_of_event(ix, to)?,
            (None, _) => (Membership::Leave, None),
        };
        let user_ix = self.memory.intern_user(user);
        self.memory
            .set_membership(user_ix, ix, membership, event, offset);
        let room = self.memory.room(ix).room;
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

    /// What an event that state resolution chose says; an event never changes
    /// its membership, a redaction does not either.
    fn membership_of_event(
        &self,
        ix: RoomIx,
        event_id: &str,
    ) -> Result<(Membership, Option<EventSn>), ReaderError> {
        let found = match <&ruma::EventId>::try_from(event_id) {
            Ok(event_id) => self.rooms.event(&self.memory.room(ix).room_id, event_id)?,
            Err(_) => None,
        };
        let Some(event) = found else {
            return Ok((Membership::Leave, None));
        };
        let membership = serde_json::from_slice::<MemberEvent<'_>>(&event.json)
            .ok()
            .and_then(|member| Membership::parse(member.content.membership))
            .unwrap_or(Membership::Leave);
        Ok((membership, Some(event.event)))
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

#[derive(Deserialize)]
struct MemberEvent<'a> {
    #[serde(borrow)]
    content: MemberContent<'a>,
}

#[derive(Deserialize)]
struct MemberContent<'a> {
    membership: &'a str,
}
