//! Keys and values of this reader's tables. All of them can be rebuilt from *output*.

use bincode::{Decode, Encode};
use bytes::Bytes;
use log_format::codec;
use log_format::record::input::ReceiptType;
use log_format::record::output::Membership;

use crate::logs::log::PartitionId;
use crate::query::ids::{EventSn, Place, RoomSn};
use crate::storage::columns::Table;
use crate::storage::overlay::{Overlay, StoreError};

/// Raised whenever a row's meaning changes; the tables are then rebuilt.
pub const TABLES_VERSION: u32 = 6;

/// Builds a key: integers big-endian, texts with their length before them, so
/// that no text is another's prefix.
pub struct Key(Vec<u8>);

impl Key {
    /// Every key begins with its partition.
    pub fn new(partition: PartitionId) -> Key {
        Key((partition as u16).to_be_bytes().to_vec())
    }

    pub fn number(mut self, number: u64) -> Key {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub fn room(self, room: RoomSn) -> Key {
        self.number(room.0)
    }

    pub fn text(mut self, text: &str) -> Key {
        self.0.extend_from_slice(&(text.len() as u32).to_be_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn damaged(table: Table, why: impl ToString) -> StoreError {
    StoreError::Row {
        table: table.name,
        why: why.to_string(),
    }
}

/// The number that a key ends with: an offset, in most tables.
pub fn last_number(table: Table, key: &[u8]) -> Result<u64, StoreError> {
    let bytes = key.last_chunk::<8>();
    let bytes = bytes.ok_or_else(|| damaged(table, "key is too short"))?;
    Ok(u64::from_be_bytes(*bytes))
}

/// One event of a room's timeline, in the order of *output*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineRow {
    pub offset: u64,
    pub event: EventSn,
    pub place: Place,
}

impl TimelineRow {
    pub fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(24);
        row.extend_from_slice(&self.event.0.to_be_bytes());
        row.extend_from_slice(&self.place.to_bytes());
        row
    }

    pub fn decode(table: Table, key: &[u8], value: &[u8]) -> Result<TimelineRow, StoreError> {
        let wrong = || damaged(table, "value is not 24 bytes");
        let (event, place) = value.split_first_chunk::<8>().ok_or_else(wrong)?;
        Ok(TimelineRow {
            offset: last_number(table, key)?,
            event: EventSn(u64::from_be_bytes(*event)),
            place: Place::from_bytes(place.try_into().map_err(|_| wrong())?),
        })
    }
}

/// One key of current state that changed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Delta {
    pub kind: String,
    pub state_key: String,
    /// Event id that holds the key now, if any does.
    pub to: Option<String>,
}

/// How current state changed at an offset.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum StateRow {
    /// A part of a change that is too large for one record. It counts from the
    /// offset of the [`StateRow::Change`] that follows it, not from its own.
    Part {
        /// Offset of the change's first part.
        first: u64,
        deltas: Vec<Delta>,
        /// Memberships of local users that change with it.
        memberships: Vec<(String, Membership)>,
    },
    Change {
        /// Id of current state from here on.
        state: u64,
        /// Offset of the change's first part, if it has parts before this row.
        first: Option<u64>,
        deltas: Vec<Delta>,
    },
}

/// A membership of a local user, from an offset on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MembershipRow {
    pub membership: Membership,
    /// Interned id of the `m.room.member` event; none where resolution removed it.
    pub event: Option<u64>,
    /// When the server got the record, in microseconds since the epoch.
    pub at_us: u64,
    /// The user did it themselves: no invite, kick or ban.
    pub by_self: bool,
    /// The room was encrypted then, for those who may not know what came later.
    pub encrypted: bool,
    /// Seen from outside: no room state says it, see [`crate::query::outside`].
    pub outside: bool,
}

/// A room, as found again at start.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RoomRow {
    pub room_id: String,
    /// Offset of the last record that changed what members see.
    pub last_change: u64,
    pub traits: RoomTraits,
}

/// What room lists are sorted and filtered by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RoomTraits {
    /// When the server got the newest event of the timeline, in microseconds
    /// since the epoch; never the same for two events of a room.
    pub active_us: u64,
    /// Of that event among those which mean that somebody is there (MSC4186,
    /// `bump_stamp`).
    pub bumped_us: u64,
    /// Current state has `m.room.encryption`.
    pub encrypted: bool,
    /// `type` of the create event.
    pub room_type: Option<String>,
}

/// A piece of account data changed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AccountDataRow {
    /// None: global.
    pub room_id: Option<String>,
    pub event_type: String,
}

/// A receipt, as clients are told of it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReceiptRow {
    pub user_id: String,
    pub receipt_type: ReceiptType,
    /// `thread_id`, if there is one.
    pub thread: Option<String>,
    pub event_id: String,
    /// Milliseconds since the epoch.
    pub ts: u64,
}

/// Reads a row of one of the types above.
pub fn decode<T: Decode<()>>(table: Table, value: &[u8]) -> Result<T, StoreError> {
    codec::decode(value).map_err(|error| damaged(table, error))
}

/// Adds a row to a group.
pub fn put<T: Encode>(group: &mut Overlay<'_>, table: Table, key: &Key, row: &T) {
    group.put(table, key.bytes(), Bytes::from(codec::encode(row)));
}

/// The text at the beginning of what follows a key's partition, and the rest.
pub fn split_text(table: Table, key: &[u8]) -> Result<(&str, &[u8]), StoreError> {
    let after = key
        .get(2..)
        .ok_or_else(|| damaged(table, "key is too short"))?;
    take_text(table, after)
}

/// The text at the beginning of a part of a key, and the rest.
pub fn take_text(table: Table, part: &[u8]) -> Result<(&str, &[u8]), StoreError> {
    let short = || damaged(table, "key is too short");
    let (len, after) = part.split_first_chunk::<4>().ok_or_else(short)?;
    let len = u32::from_be_bytes(*len) as usize;
    let (text, rest) = after.split_at_checked(len).ok_or_else(short)?;
    let text = std::str::from_utf8(text).map_err(|error| damaged(table, error))?;
    Ok((text, rest))
}
