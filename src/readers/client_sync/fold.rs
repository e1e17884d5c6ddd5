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

use super::memory::{MembershipNews, Memory, RoomIx};
use super::rows::{
    self, AccountDataRow, Delta, Key, MembershipRow, RoomRow, StateRow, TimelineRow,
};
use crate::logs::log::{LogRecord, PartitionId};
use crate::matrix::client_event::content_of;
use crate::matrix::ids::domain_of;
use crate::query::ids::{EventSn, Place, RoomSn, StateId};
use crate::query::rooms::{Rooms, StateKey};
use crate::readers::run::ReaderError;
use crate::storage::columns::{
    SYNC_DATA, SYNC_DATA_AT, SYNC_MEMBERS, SYNC_ROOMS, SYNC_STATE, SYNC_TIMELINE,
};
use crate::storage::overlay::{Overlay, Read};

const MEMBER: &str = "m.room.member";
const CREATE: &str = "m.room.create";
const ENCRYPTION: &str = "m.room.encryption";

/// Events that mean that somebody is there (MSC4186, `bump_stamp`), with the
/// names that they had before they became part of the specification.
const BUMPING: [&str; 9] = [
    CREATE,
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "org.matrix.msc3381.poll.start",
    "m.beacon_info",
    "org.matrix.msc3672.beacon_info",
];

/// Records that may end sessions, whose requests must not wait on.
const ENDS_SESSIONS: [Kind; 4] = [
    Kind::InputDeviceLoggedIn,
    Kind::InputDevicesRemoved,
    Kind::InputPasswordSet,
    Kind::InputAccountDeactivated,
];

/// What became of users of this server, by user id.
type Memberships = Vec<(String, Membership)>;

/// The record that changes current state.
struct Cause<'a> {
    offset: u64,
    /// Its time in microseconds since the epoch.
    at_us: u64,
    event_id: &'a str,
    sender: Option<&'a str>,
    body: &'a OutputRoomEvent,
}

/// A part of a change that is too large for one record.
struct Part {
    at: u64,
    deltas: Vec<Delta>,
    memberships: Memberships,
}

/// One group of records on its way into rows and memory.
pub struct Group<'a, 's> {
    pub partition: PartitionId,
    pub memory: &'a mut Memory,
    pub rows: Overlay<'s>,
    pub rooms: &'a dyn Rooms,
    pub server_name: &'a ruma::ServerName,
    /// Rooms whose row is to be written at the end of the group.
    pub(super) changed: BTreeSet<RoomIx>,
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
                self.room_event(record, &envelope, body)
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
            Kind::OutputReceipt => {
                let body = codec::decode(envelope.body)
                    .map_err(|source| ReaderError::Body { offset, source })?;
                self.receipt(offset, &envelope, &body)
            }
            Kind::OutputOutsideMembership => {
                let body = codec::decode(envelope.body)
                    .map_err(|source| ReaderError::Body { offset, source })?;
                self.outside_membership(record, &envelope, &body)
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
                traits: slot.traits.clone(),
            };
            let key = Key::new(self.partition).room(slot.room);
            rows::put(&mut self.rows, SYNC_ROOMS, &key, &row);
        }
        self.rows
    }

    fn room_event(
        &mut self,
        record: &LogRecord,
        envelope: &Envelope<'_>,
        body: OutputRoomEvent,
    ) -> Result<(), ReaderError> {
        let offset = record.offset;
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
        let ix = self.room_inside(room_id, room)?;
        if in_timeline {
            let row = TimelineRow {
                offset,
                event: EventSn(body.event_sn),
                place: Place::from_bytes(body.place),
            };
            let key = Key::new(self.partition).room(room).number(offset);
            self.rows.put(SYNC_TIMELINE, key.bytes(), row.encode());
            self.memory.room_mut(ix).newest.timeline.push(row);
        }
        if changes_state {
            let cause = Cause {
                offset,
                at_us: record.time_us,
                event_id: envelope.event_id.ok_or(missing("event id"))?,
                sender: envelope.sender,
                body: &body,
            };
            self.change_state(ix, &cause, parts_from)?;
        }
        let slot = self.memory.room_mut(ix);
        slot.last_change = offset;
        if in_timeline {
            // The clock may be put back; a room's own events stay in order.
            let traits = &mut slot.traits;
            traits.active_us = record.time_us.max(traits.active_us + 1);
            if envelope
                .event_type
                .is_some_and(|kind| BUMPING.contains(&kind))
            {
                traits.bumped_us = traits.active_us;
            }
        }
        self.changed.insert(ix);
        self.memory.news.rooms.insert(ix);
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
        let ix = self.room_inside(room_id, room)?;
        let row = StateRow::Part {
            first: *self.memory.room_mut(ix).parts_from.get_or_insert(offset),
            deltas: deltas(&body.state_delta),
            memberships: self.local(&body.memberships).collect(),
        };
        let key = Key::new(self.partition).room(room).number(offset);
        rows::put(&mut self.rows, SYNC_STATE, &key, &row);
        let newest = &mut self.memory.room_mut(ix).newest;
        (newest.state_changed_at, newest.state) = (Some(offset), None);
        self.changed.insert(ix);
        Ok(())
    }

    /// Current state changed, and with it memberships: by the parts that came
    /// before, then by what the record itself says.
    fn change_state(
        &mut self,
        ix: RoomIx,
        cause: &Cause<'_>,
        parts_from: Option<u64>,
    ) -> Result<(), ReaderError> {
        let room = self.memory.room(ix).room;
        let deltas = deltas(&cause.body.state_delta);
        self.set_traits(ix, &deltas)?;
        let row = StateRow::Change {
            state: cause.body.current_state,
            first: parts_from,
            deltas,
        };
        let key = Key::new(self.partition).room(room).number(cause.offset);
        rows::put(&mut self.rows, SYNC_STATE, &key, &row);
        let newest = &mut self.memory.room_mut(ix).newest;
        newest.state_changed_at = Some(cause.offset);
        newest.state = Some(StateId(cause.body.current_state));
        let mut next = parts_from;
        while let Some(from) = next {
            let part = self.part_from(room, from, cause.offset)?;
            next = part.as_ref().map(|part| part.at + 1);
            let Some(part) = part else { break };
            self.set_traits(ix, &part.deltas)?;
            for (user, membership) in part.memberships {
                self.set_membership(ix, cause, &user, membership)?;
            }
        }
        let last: Memberships = self.local(&cause.body.memberships).collect();
        for (user, membership) in last {
            self.set_membership(ix, cause, &user, membership)?;
        }
        Ok(())
    }

    /// Keeps what room lists are filtered by.
    fn set_traits(&mut self, ix: RoomIx, deltas: &[Delta]) -> Result<(), ReaderError> {
        for delta in deltas.iter().filter(|delta| delta.state_key.is_empty()) {
            match &*delta.kind {
                ENCRYPTION => self.memory.room_mut(ix).traits.encrypted = delta.to.is_some(),
                CREATE => {
                    let room_id = self.memory.room(ix).room_id.clone();
                    let event_id = delta.to.as_deref();
                    let event_id = event_id.and_then(|id| <&ruma::EventId>::try_from(id).ok());
                    let event = match event_id {
                        Some(event_id) => self.rooms.event(&room_id, event_id)?,
                        None => None,
                    };
                    let room_type = event.and_then(|event| room_type(&event.json));
                    self.memory.room_mut(ix).traits.room_type = room_type;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The memberships of the first part of a change in `[from, to)`, and where it stands.
    fn part_from(&self, room: RoomSn, from: u64, to: u64) -> Result<Option<Part>, ReaderError> {
        let prefix = Key::new(self.partition).room(room);
        let start = Key::new(self.partition).room(room).number(from);
        let (prefix, start) = (prefix.bytes(), Some(start.bytes()));
        let found = Read::range(&self.rows, SYNC_STATE, prefix, start, false, 1)?;
        let Some((key, value)) = found.first() else {
            return Ok(None);
        };
        let at = rows::last_number(SYNC_STATE, key)?;
        match rows::decode(SYNC_STATE, value)? {
            StateRow::Part {
                deltas,
                memberships,
                ..
            } if at < to => Ok(Some(Part {
                at,
                deltas,
                memberships,
            })),
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
        cause: &Cause<'_>,
        user: &str,
        membership: Membership,
    ) -> Result<(), ReaderError> {
        let Ok(user) = <&UserId>::try_from(user) else {
            return Ok(());
        };
        let is_own = |change: &StateChange| {
            change.kind == MEMBER
                && change.state_key == user.as_str()
                && change.to.as_deref() == Some(cause.event_id)
        };
        let slot = self.memory.room(ix);
        let (room, encrypted) = (slot.room, slot.traits.encrypted);
        let (event, by_self) = match cause.body.state_delta.first().is_some_and(is_own) {
            true => {
                let event = EventSn(cause.body.event_sn);
                (Some(event), cause.sender == Some(user.as_str()))
            }
            false => {
                let state = StateId(cause.body.current_state);
                let key = StateKey::new(MEMBER, user.as_str());
                let event = self.rooms.state_entry(&slot.room_id, state, &key)?;
                let wanted: Vec<EventSn> = event.into_iter().collect();
                let found = self.rooms.events(&slot.room_id, &wanted)?;
                (event, found.iter().any(|event| event.sender == user))
            }
        };
        let user_ix = self.memory.intern_user(user);
        let news = MembershipNews {
            membership,
            event,
            offset: cause.offset,
            at_us: cause.at_us,
            by_self,
            encrypted,
            outside: false,
        };
        self.memory.set_membership(user_ix, ix, news);
        let key = Key::new(self.partition)
            .text(user.as_str())
            .room(room)
            .number(cause.offset);
        let row = MembershipRow {
            membership,
            event: event.map(|event| event.0),
            at_us: cause.at_us,
            by_self,
            encrypted,
            outside: false,
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
        if body.decision != Decision::Accepted {
            return Ok(());
        }
        if ENDS_SESSIONS.iter().any(|kind| kind.number() == body.kind)
            && let Ok(user) = <&UserId>::try_from(envelope.key)
            && let Some(user) = self.memory.user_ix(user)
        {
            self.memory.news.users.insert(user);
        }
        if body.kind != Kind::InputAccountData.number() {
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
        self.memory.news.users.insert(ix);
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

/// `type` of a create event.
fn room_type(pdu: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Content {
        #[serde(rename = "type")]
        room_type: Option<String>,
    }
    let content = content_of(pdu).ok()?;
    serde_json::from_str::<Content>(content).ok()?.room_type
}
