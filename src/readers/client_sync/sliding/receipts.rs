//! The receipts extension: how far members have read the rooms that lists and
//! subscriptions name (MSC3960).
//!
//! How far a room's receipts were told is kept with the room, so that a client
//! which comes back to a room has missed none of them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use ruma::{OwnedRoomId, UserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::super::ephemeral::word_of;
use super::super::rows::ReceiptRow;
use super::super::{ClientSync, SyncError};
use super::connection::RoomKey;
use crate::query::receipts::ReceiptThread;

/// Receipts of a room that a client is told when it first asks for them, beside
/// its user's own: the newest, of whom the events that it shows are read by.
const FIRST_MAX: usize = 50;
/// Receipts of a room that changed which one answer tells of, the newest.
const CHANGED_MAX: usize = 2_000;

/// A room whose receipts may have changed.
pub struct ReceiptsDue {
    pub key: RoomKey,
    pub room_id: OwnedRoomId,
}

/// `receipts` of an answer's extensions.
#[derive(Debug, Default, Serialize)]
pub struct ReceiptsBody {
    pub rooms: BTreeMap<OwnedRoomId, Box<RawValue>>,
}

impl ClientSync {
    /// The receipts of a room that changed in a stretch, as the one event that
    /// the extension has for each room; from 0 on those to begin with. None if
    /// there are none. The user has to be in the room.
    pub(super) fn receipts_event(
        &self,
        room: RoomKey,
        user: &UserId,
        changed: Range<u64>,
    ) -> Result<Option<Box<RawValue>>, SyncError> {
        let RoomKey { partition, room } = room;
        let is_first = changed.start == 0;
        let max = if is_first { FIRST_MAX } else { CHANGED_MAX };
        let mut receipts = self.changed_receipts(partition, room, user, changed, max)?;
        if is_first {
            receipts.extend(self.own_receipts(partition, room, user)?);
        }
        if receipts.is_empty() {
            return Ok(None);
        }
        Ok(Some(to_raw_value(&Event {
            kind: "m.receipt",
            content: Content::of(receipts),
        })?))
    }
}

#[derive(Serialize)]
struct Event {
    #[serde(rename = "type")]
    kind: &'static str,
    content: Content,
}

#[derive(Serialize)]
struct Receipt {
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<String>,
}

/// Event id → receipt type → user id → receipt.
#[derive(Default, Serialize)]
struct Content(BTreeMap<String, BTreeMap<&'static str, BTreeMap<String, Receipt>>>);

impl Content {
    /// In one event a user has one receipt of a type for an event. Of several, for
    /// different threads, that which says most is told: the whole room is read
    /// that far, or what is in no thread.
    fn of(receipts: Vec<ReceiptRow>) -> Content {
        let mut content = Content::default();
        for row in receipts {
            let of_event = content.0.entry(row.event_id).or_default();
            let of_type = of_event.entry(word_of(row.receipt_type)).or_default();
            let receipt = Receipt {
                ts: row.ts,
                thread_id: row.thread,
            };
            match of_type.entry(row.user_id) {
                Entry::Vacant(entry) => drop(entry.insert(receipt)),
                Entry::Occupied(mut known) => {
                    if said_by(&receipt) < said_by(known.get()) {
                        known.insert(receipt);
                    }
                }
            }
        }
        content
    }
}

/// Less for what says more.
fn said_by(receipt: &Receipt) -> u8 {
    match receipt.thread_id.as_deref() {
        None => 0,
        Some(ReceiptThread::MAIN) => 1,
        Some(_) => 2,
    }
}

#[cfg(test)]
mod tests {
    use log_format::record::input::ReceiptType;
    use serde_json::json;

    use super::*;

    #[test]
    fn of_several_receipts_for_an_event_the_widest_is_told() {
        let row = |user: &str, thread: Option<&str>, ts| ReceiptRow {
            user_id: user.to_owned(),
            receipt_type: ReceiptType::Read,
            thread: thread.map(str::to_owned),
            event_id: "$e".to_owned(),
            ts,
        };
        let mut rows = vec![
            row("@a:here", Some("$e"), 1),
            row("@a:here", Some("main"), 2),
            row("@a:here", None, 3),
            row("@b:here", Some("$e"), 4),
            row("@b:here", Some("main"), 5),
        ];
        let told = json!({"$e": {"m.read": {
            "@a:here": {"ts": 3}, "@b:here": {"ts": 5, "thread_id": "main"},
        }}});
        for _ in 0..2 {
            let content = serde_json::to_value(Content::of(rows.clone()));
            assert_eq!(content.expect("JSON"), told);
            rows.reverse();
        }
    }
}
