//! Rows and keys of the room server's tables. Compact, and the same bytes for
//! the same facts: the state digest covers them.
//!
//! What a record of *input* says already (sender, type, transaction, JSON) is
//! in no row: an event's interned id is its record's offset.

use bytes::Bytes;
use log_format::record::output::{Decision, Membership, Reason, Visibility};

use crate::query::ids::{EventSn, Place, RoomSn, StateId};
use crate::storage::columns::{
    EARLY_REDACTIONS, EVENTS, ROOMS, STATE_HISTORY, TIMELINE, Table, USER_ROOMS,
};
use crate::storage::keys::{Key, RowReader, RowWriter};
use crate::storage::overlay::{Overlay, Read, StoreError};

/// What an event became. See [`crate::query::rooms::StoredEvent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRow {
    pub room: RoomSn,
    pub decision: Decision,
    /// Why, if it was refused or has no place in the graph.
    pub reason: Reason,
    /// Whether an accepted event builds on it, though it is not accepted itself.
    pub built_on: bool,
    pub visibility: Visibility,
    pub place: Place,
    pub depth: u64,
    /// Both [`StateId::EMPTY`] where the state is not known.
    pub state_before: StateId,
    pub state_after: StateId,
    pub replaces: Option<EventSn>,
    pub redacted_by: Option<EventSn>,
}

const DECISIONS: [Decision; 5] = [
    Decision::Accepted,
    Decision::SoftFailed,
    Decision::Rejected,
    Decision::Outlier,
    Decision::Duplicate,
];
const REASONS: [Reason; 12] = [
    Reason::None,
    Reason::Forbidden,
    Reason::UnknownRoom,
    Reason::RoomExists,
    Reason::MissingEvents,
    Reason::Rebase,
    Reason::Malformed,
    Reason::Taken,
    Reason::NotFound,
    Reason::TooMuchWork,
    Reason::MissingAuthEvents,
    Reason::RejectedAuthEvent,
];
const VISIBILITIES: [Visibility; 4] = [
    Visibility::WorldReadable,
    Visibility::Shared,
    Visibility::Invited,
    Visibility::Joined,
];
const MEMBERSHIPS: [Membership; 5] = [
    Membership::Join,
    Membership::Invite,
    Membership::Knock,
    Membership::Leave,
    Membership::Ban,
];

fn position<T: PartialEq>(all: &[T], value: &T) -> u8 {
    // Each array above names every variant; a missing one would read back as an error.
    all.iter()
        .position(|other| other == value)
        .map_or(u8::MAX, |index| index as u8)
}

/// Membership as one byte, 0 for none.
pub fn membership_byte(membership: Option<Membership>) -> u8 {
    membership.map_or(0, |membership| position(&MEMBERSHIPS, &membership) + 1)
}

fn membership_of(row: &RowReader<'_>, byte: u8) -> Result<Option<Membership>, StoreError> {
    match byte.checked_sub(1) {
        None => Ok(None),
        Some(index) => match MEMBERSHIPS.get(usize::from(index)) {
            Some(membership) => Ok(Some(*membership)),
            None => Err(row.error("unknown membership")),
        },
    }
}

/// Reads [`membership_byte`].
pub fn read_membership(row: &mut RowReader<'_>) -> Result<Option<Membership>, StoreError> {
    let byte = row.u8()?;
    membership_of(row, byte)
}

fn visibility_of(row: &RowReader<'_>, byte: u8) -> Result<Visibility, StoreError> {
    let known = VISIBILITIES.get(usize::from(byte)).copied();
    known.ok_or_else(|| row.error("unknown visibility"))
}

impl EventRow {
    /// Whether the state at the event is known. Only a room's create event has
    /// nothing before it, and it has something after it.
    pub fn has_state(&self) -> bool {
        self.state_after != StateId::EMPTY
    }

    /// The row of an event, if it is known.
    pub fn load(
        tables: &dyn Read,
        partition: u32,
        event: EventSn,
    ) -> Result<Option<EventRow>, StoreError> {
        let bytes = tables.get(EVENTS, event_key(partition, event).as_ref())?;
        bytes.map(|bytes| EventRow::decode(&bytes)).transpose()
    }

    pub fn store(&self, tables: &mut Overlay<'_>, partition: u32, event: EventSn) {
        tables.put(EVENTS, event_key(partition, event).as_ref(), self.encode());
    }

    fn encode(&self) -> Vec<u8> {
        let mut row = RowWriter::with_capacity(40);
        row.varint(self.room.0)
            .u8(position(&DECISIONS, &self.decision))
            .u8(position(&REASONS, &self.reason) << 1 | u8::from(self.built_on))
            .u8(position(&VISIBILITIES, &self.visibility))
            .bytes(&self.place.to_bytes())
            .varint(self.depth)
            .varint(self.state_before.0)
            .varint(self.state_after.0)
            .optional_varint(self.replaces.map(|event| event.0))
            .optional_varint(self.redacted_by.map(|event| event.0));
        row.finish()
    }

    fn decode(bytes: &[u8]) -> Result<EventRow, StoreError> {
        let mut row = RowReader::new(EVENTS, bytes);
        let room = RoomSn(row.varint()?);
        let decision = row.u8()?;
        let decision = DECISIONS.get(usize::from(decision)).copied();
        let decision = decision.ok_or_else(|| row.error("unknown decision"))?;
        let why = row.u8()?;
        let reason = REASONS.get(usize::from(why >> 1)).copied();
        let reason = reason.ok_or_else(|| row.error("unknown reason"))?;
        let visibility = row.u8()?;
        let read = EventRow {
            room,
            decision,
            reason,
            built_on: why & 1 != 0,
            visibility: visibility_of(&row, visibility)?,
            place: Place::from_bytes(row.array()?),
            depth: row.varint()?,
            state_before: StateId(row.varint()?),
            state_after: StateId(row.varint()?),
            replaces: row.optional_varint()?.map(EventSn),
            redacted_by: row.optional_varint()?.map(EventSn),
        };
        row.finish()?;
        Ok(read)
    }
}

/// What of a room changes with each event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomRow {
    pub room_id: Box<str>,
    pub version: Box<str>,
    pub state_id: StateId,
    pub last_place: Place,
    pub visibility: Visibility,
    pub joined_members: u64,
    pub invited_members: u64,
    /// Redactions that wait for their event; lets a fold skip the look-up.
    pub early_redactions: u64,
    /// The same of events that wait for others, and of states given for events.
    pub waiting: u64,
    pub given_states: u64,
    /// Ordered by event id.
    pub extremities: Vec<ExtremityRow>,
}

/// A forward extremity as the room's row holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtremityRow {
    pub event_id: Box<str>,
    pub event: EventSn,
    pub depth: u64,
    pub state_after: StateId,
}

impl RoomRow {
    pub fn load(
        tables: &dyn Read,
        partition: u32,
        room: RoomSn,
    ) -> Result<Option<RoomRow>, StoreError> {
        let bytes = tables.get(ROOMS, room_key(partition, room).as_ref())?;
        bytes.map(|bytes| RoomRow::decode(&bytes)).transpose()
    }

    fn decode(bytes: &[u8]) -> Result<RoomRow, StoreError> {
        let mut row = RowReader::new(ROOMS, bytes);
        let mut read = RoomRow {
            room_id: row.text()?.into(),
            version: row.text()?.into(),
            state_id: StateId(row.varint()?),
            last_place: Place::from_bytes(row.array()?),
            visibility: {
                let byte = row.u8()?;
                visibility_of(&row, byte)?
            },
            joined_members: row.varint()?,
            invited_members: row.varint()?,
            early_redactions: row.varint()?,
            waiting: row.varint()?,
            given_states: row.varint()?,
            extremities: vec![],
        };
        while !row.is_empty() {
            read.extremities.push(ExtremityRow {
                event_id: row.text()?.into(),
                event: EventSn(row.varint()?),
                depth: row.varint()?,
                state_after: StateId(row.varint()?),
            });
        }
        Ok(read)
    }
}

/// The parts of a room row, borrowed from a head: written at each fold.
pub struct RoomRowRef<'a> {
    pub room_id: &'a str,
    pub version: &'a str,
    pub state_id: StateId,
    pub last_place: Place,
    pub visibility: Visibility,
    pub joined_members: u64,
    pub invited_members: u64,
    pub early_redactions: u64,
    pub waiting: u64,
    pub given_states: u64,
    pub extremities: &'a [crate::query::rooms::Extremity],
}

impl RoomRowRef<'_> {
    pub fn encode(&self) -> Vec<u8> {
        let mut row = RowWriter::with_capacity(160);
        row.text(self.room_id)
            .text(self.version)
            .varint(self.state_id.0)
            .bytes(&self.last_place.to_bytes())
            .u8(position(&VISIBILITIES, &self.visibility))
            .varint(self.joined_members)
            .varint(self.invited_members)
            .varint(self.early_redactions)
            .varint(self.waiting)
            .varint(self.given_states);
        for extremity in self.extremities {
            row.text(extremity.event_id.as_str())
                .varint(extremity.event.0)
                .varint(extremity.depth)
                .varint(extremity.state_after.0);
        }
        row.finish()
    }
}

/// An event's entry in the history of a state key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// None where resolution removed the key.
    pub event: Option<EventSn>,
    /// Of an `m.room.member` event, so that members need no look at the events.
    pub membership: Option<Membership>,
}

impl HistoryEntry {
    pub fn encode(&self) -> Vec<u8> {
        let mut row = RowWriter::with_capacity(8);
        row.u8(membership_byte(self.membership));
        if let Some(event) = self.event {
            row.varint(event.0);
        }
        row.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<HistoryEntry, StoreError> {
        let mut row = RowReader::new(STATE_HISTORY, bytes);
        let byte = row.u8()?;
        let membership = membership_of(&row, byte)?;
        let event = match row.is_empty() {
            true => None,
            false => Some(EventSn(row.varint()?)),
        };
        Ok(HistoryEntry { event, membership })
    }
}

/// A user's membership of a room.
pub fn user_room(membership: Membership, event: EventSn) -> Vec<u8> {
    let mut row = RowWriter::with_capacity(8);
    row.u8(membership_byte(Some(membership))).varint(event.0);
    row.finish()
}

/// Reads [`user_room`].
pub fn read_user_room(bytes: &[u8]) -> Result<(Membership, EventSn), StoreError> {
    let mut row = RowReader::new(USER_ROOMS, bytes);
    let byte = row.u8()?;
    let membership = membership_of(&row, byte)?;
    let membership = membership.ok_or_else(|| row.error("no membership"))?;
    Ok((membership, EventSn(row.varint()?)))
}

/// A redaction that came before its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlyRedaction {
    pub event: EventSn,
    /// Whether its sender had the redact level (or its version asks for none).
    pub has_power: bool,
    pub sender_domain: Box<str>,
}

/// Writes the redactions that wait for one event, in the order of their folds.
pub fn early_redactions(waiting: &[EarlyRedaction]) -> Vec<u8> {
    let mut row = RowWriter::with_capacity(32);
    for redaction in waiting {
        row.varint(redaction.event.0)
            .u8(u8::from(redaction.has_power))
            .text(&redaction.sender_domain);
    }
    row.finish()
}

/// Reads [`early_redactions`].
pub fn read_early_redactions(bytes: &[u8]) -> Result<Vec<EarlyRedaction>, StoreError> {
    let mut row = RowReader::new(EARLY_REDACTIONS, bytes);
    let mut waiting = vec![];
    while !row.is_empty() {
        waiting.push(EarlyRedaction {
            event: EventSn(row.varint()?),
            has_power: row.u8()? != 0,
            sender_domain: row.text()?.into(),
        });
    }
    Ok(waiting)
}

/// A row that is one number: an interned id.
pub fn number(value: u64) -> Bytes {
    let mut row = RowWriter::with_capacity(9);
    row.varint(value);
    row.finish().into()
}

/// Reads [`number`].
pub fn read_number(table: Table, bytes: &[u8]) -> Result<u64, StoreError> {
    let mut row = RowReader::new(table, bytes);
    let value = row.varint()?;
    row.finish()?;
    Ok(value)
}

/// Reads the number under a key, if there is one.
pub fn find_number(tables: &dyn Read, table: Table, key: &Key) -> Result<Option<u64>, StoreError> {
    let bytes = tables.get(table, key.as_ref())?;
    bytes.map(|bytes| read_number(table, &bytes)).transpose()
}

pub fn room_key(partition: u32, room: RoomSn) -> Key {
    Key::of(partition).number(room.0)
}

pub fn event_key(partition: u32, event: EventSn) -> Key {
    Key::of(partition).number(event.0)
}

/// `room sn` and a text that ends the key: an event id.
pub fn room_text_key(partition: u32, room: RoomSn, text: &str) -> Key {
    room_key(partition, room).bytes(text.as_bytes())
}

pub fn timeline_key(partition: u32, room: RoomSn, place: Place) -> Key {
    room_key(partition, room).bytes(&place.to_bytes())
}

/// The place that ends a timeline key behind its room's prefix.
pub fn place_of_key(key: &[u8], prefix: &[u8]) -> Result<Place, StoreError> {
    let place = key
        .get(prefix.len()..)
        .and_then(|rest| rest.try_into().ok());
    place.map(Place::from_bytes).ok_or(StoreError::Row {
        table: TIMELINE.name,
        why: "a key holds no place".to_owned(),
    })
}

pub fn idempotency_key(partition: u32, room: RoomSn, key: &[u8; 16]) -> Key {
    room_key(partition, room).bytes(key)
}

pub fn room_id_key(partition: u32, room_id: &str) -> Key {
    Key::of(partition).bytes(room_id.as_bytes())
}

pub fn user_room_key(partition: u32, user: &str, room_id: &str) -> Key {
    user_rooms_prefix(partition, user).bytes(room_id.as_bytes())
}

/// Prefix of those who are something to a room, seen from outside.
pub fn outside_users_prefix(partition: u32, room_id: &str) -> Key {
    Key::of(partition).text(room_id)
}

pub fn outside_user_key(partition: u32, room_id: &str, user: &str) -> Key {
    outside_users_prefix(partition, room_id).bytes(user.as_bytes())
}

pub fn user_rooms_prefix(partition: u32, user: &str) -> Key {
    Key::of(partition).text(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn event_rows_read_back(
            numbers: [u64; 4], place: u128, replaces: Option<u64>, redacted: Option<u64>,
            decision in 0usize..5, reason in 0usize..12, built_on: bool, visibility in 0usize..4,
        ) {
            let row = EventRow {
                room: RoomSn(numbers[0]),
                decision: DECISIONS[decision],
                reason: REASONS[reason],
                built_on,
                visibility: VISIBILITIES[visibility],
                place: Place(place),
                depth: numbers[1],
                state_before: StateId(numbers[2]),
                state_after: StateId(numbers[3]),
                replaces: replaces.map(EventSn),
                redacted_by: redacted.map(EventSn),
            };
            prop_assert_eq!(EventRow::decode(&row.encode()).unwrap(), row);
        }

        #[test]
        fn damaged_rows_are_errors_and_no_panics(bytes: Vec<u8>) {
            let _ = EventRow::decode(&bytes);
            let _ = RoomRow::decode(&bytes);
            let _ = HistoryEntry::decode(&bytes);
            let _ = read_user_room(&bytes);
            let _ = read_early_redactions(&bytes);
        }
    }

    #[test]
    fn history_entries_read_back() {
        for membership in MEMBERSHIPS.map(Some).into_iter().chain([None]) {
            for event in [None, Some(EventSn(0)), Some(EventSn(1 << 40))] {
                let entry = HistoryEntry { event, membership };
                assert_eq!(HistoryEntry::decode(&entry.encode()).unwrap(), entry);
            }
        }
    }
}
