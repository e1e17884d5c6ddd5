//! Key and row of the receipt server's table.

use log_format::record::input::ReceiptType;
use ruma::{OwnedEventId, RoomId};

use crate::query::ids::{OutputOffset, Place};
use crate::query::receipts::{Receipt, ReceiptThread};
use crate::storage::columns::RECEIPTS;
use crate::storage::keys::{Key, RowReader, RowWriter};
use crate::storage::overlay::StoreError;

/// Longest text that a key takes; longer ones are refused as malformed.
pub(super) const KEY_TEXT_BYTES_MAX: usize = u16::MAX as usize;

/// Prefix of a room's receipts.
pub(super) fn room_prefix(partition: u32, room: &str) -> Key {
    Key::of(partition).text(room)
}

/// What the keys of a room's receipts begin with, for who drops them all.
pub fn keys_of_room(partition: u32, room: &RoomId) -> Key {
    room_prefix(partition, room.as_str())
}

/// Prefix of a user's receipts in a room.
pub(super) fn user_prefix(partition: u32, room: &str, user: &str) -> Key {
    room_prefix(partition, room).text(user)
}

/// Key of one receipt. A thread id is never empty, so that no thread is confused
/// with the room as a whole.
pub(super) fn key(
    partition: u32,
    (room, user): (&str, &str),
    receipt_type: ReceiptType,
    thread: Option<&str>,
) -> Key {
    let number = match receipt_type {
        ReceiptType::Read => 1,
        ReceiptType::ReadPrivate => 2,
    };
    user_prefix(partition, room, user)
        .bytes(&[number])
        .bytes(thread.unwrap_or_default().as_bytes())
}

/// Row of [`RECEIPTS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReceiptRow {
    /// First, so that it can be stamped; see [`crate::projectors::fold::Stamp`].
    pub changed_at: u64,
    pub place: Option<Place>,
    pub ts: u64,
    pub event_id: String,
}

impl ReceiptRow {
    pub fn encode(&self) -> Vec<u8> {
        let mut row = RowWriter::with_capacity(40 + self.event_id.len());
        row.bytes(&self.changed_at.to_be_bytes());
        match self.place {
            None => row.u8(0),
            Some(place) => row.u8(1).bytes(&place.to_bytes()),
        };
        row.varint(self.ts).text(&self.event_id);
        row.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<ReceiptRow, StoreError> {
        let mut row = RowReader::new(RECEIPTS, bytes);
        let changed_at = u64::from_be_bytes(row.array()?);
        let place = match row.u8()? {
            0 => None,
            1 => Some(Place::from_bytes(row.array()?)),
            _ => return Err(row.error("option is neither 0 nor 1")),
        };
        let read = ReceiptRow {
            changed_at,
            place,
            ts: row.varint()?,
            event_id: row.text()?.to_owned(),
        };
        row.finish()?;
        Ok(read)
    }
}

/// Reads what stands behind [`room_prefix`] in a key: user, type, thread.
pub(super) fn split_key(rest: &[u8]) -> Result<(&str, ReceiptType, Option<&str>), StoreError> {
    let mut key = RowReader::new(RECEIPTS, rest);
    let user = key.key_text()?;
    let receipt_type = match key.u8()? {
        1 => ReceiptType::Read,
        2 => ReceiptType::ReadPrivate,
        _ => return Err(key.error("no such receipt type")),
    };
    let thread = key.rest_text()?;
    Ok((user, receipt_type, (!thread.is_empty()).then_some(thread)))
}

/// A row as the query window shows it.
pub(super) fn receipt(
    receipt_type: ReceiptType,
    thread: Option<&str>,
    row: &[u8],
) -> Result<Receipt, StoreError> {
    let bad = |why: &str| StoreError::Row {
        table: RECEIPTS.name,
        why: why.to_owned(),
    };
    let row = ReceiptRow::decode(row)?;
    Ok(Receipt {
        receipt_type,
        thread: ReceiptThread::parse(thread).ok_or_else(|| bad("no such thread"))?,
        event_id: OwnedEventId::try_from(row.event_id).map_err(|_| bad("no event id"))?,
        place: row.place,
        ts: row.ts,
        changed_at: OutputOffset(row.changed_at),
    })
}
