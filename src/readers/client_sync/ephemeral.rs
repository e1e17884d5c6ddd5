//! The `ephemeral` section of a room, and receipts in it (client-server API,
//! *Receipts*). Typing is in `typing.rs`.
//!
//! A receipt has one row, at the offset of its newest change, so that what
//! changed in a stretch is a range of rows. Those that everybody is shown and
//! those that their user alone is shown lie apart: nobody's answer reads
//! another's private receipts.

use std::collections::BTreeMap;
use std::ops::Range;

use log_format::record::Envelope;
use log_format::record::input::ReceiptType;
use log_format::record::output::{Decision, OutputReceipt};
use ruma::{RoomId, UserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::answer::Building;
use super::fold::Group;
use super::room::{Candidate, Events, Stretch};
use super::rows::{self, Key, ReceiptRow};
use super::{ClientSync, SyncError};
use crate::logs::log::PartitionId;
use crate::query::ids::RoomSn;
use crate::readers::run::ReaderError;
use crate::storage::columns::{SYNC_OWN_RECEIPTS, SYNC_RECEIPTS, SYNC_RECEIPTS_AT, Table};

/// Receipts of one room that one answer tells of, the newest ones: whoever comes
/// to a room of tens of thousands needs to know who reads it now, and a client
/// shows a handful of them.
const RECEIPTS_MAX: usize = 5_000;
/// Threads of one room in which a client is told how far its own user has read.
const OWN_RECEIPTS_MAX: usize = 500;
/// Rows that one range read takes.
const PAGE_ROWS: usize = 256;

const RECEIPT: &str = "m.receipt";

impl Group<'_, '_> {
    /// Keeps a receipt that moved, in place of the one before.
    pub(super) fn receipt(
        &mut self,
        offset: u64,
        envelope: &Envelope<'_>,
        body: &OutputReceipt,
    ) -> Result<(), ReaderError> {
        if body.decision != Decision::Accepted {
            return Ok(());
        }
        let missing = |what| ReaderError::Field { offset, what };
        let room_id = envelope.room_id.ok_or(missing("room id"))?;
        let room_id = <&RoomId>::try_from(room_id).map_err(|_| missing("room id"))?;
        let user_id = envelope.sender.ok_or(missing("sender"))?;
        let event_id = envelope.event_id.ok_or(missing("event id"))?;
        // A room without any event has nothing that could be read.
        let Some(ix) = self.memory.room_ix(room_id) else {
            return Ok(());
        };
        let room = self.memory.room(ix).room;
        let row = ReceiptRow {
            user_id: user_id.to_owned(),
            receipt_type: body.receipt_type,
            thread: body.thread.clone(),
            event_id: event_id.to_owned(),
            ts: envelope.origin_ts_ms,
        };
        let (table, of_table) = table_of(self.partition, room, user_id, body.receipt_type);
        let thread = body.thread.as_deref().unwrap_or_default();
        let at = Key::new(self.partition).room(room).text(user_id);
        let at = at.number(row.receipt_type as u64).text(thread);
        if let Some(before) = self.rows.get(SYNC_RECEIPTS_AT, at.bytes())? {
            let before = rows::last_number(SYNC_RECEIPTS_AT, &before)?;
            self.rows.delete(table, of_table().number(before).bytes());
        }
        rows::put(&mut self.rows, table, &of_table().number(offset), &row);
        self.rows
            .put(SYNC_RECEIPTS_AT, at.bytes(), offset.to_be_bytes().to_vec());
        match body.receipt_type {
            ReceiptType::Read => {
                self.memory.room_mut(ix).receipts_at = Some(offset);
                self.memory.news.rooms.insert(ix);
            }
            ReceiptType::ReadPrivate => {
                let Ok(user) = <&UserId>::try_from(user_id) else {
                    return Ok(());
                };
                let user = self.memory.intern_user(user);
                self.memory.user_mut(user).own_receipts.insert(ix, offset);
                self.memory.news.users.insert(user);
            }
        }
        Ok(())
    }
}

/// The table of a receipt's row, and the key up to its offset.
fn table_of(
    partition: PartitionId,
    room: RoomSn,
    user: &str,
    receipt_type: ReceiptType,
) -> (Table, impl Fn() -> Key) {
    let table = match receipt_type {
        ReceiptType::Read => SYNC_RECEIPTS,
        ReceiptType::ReadPrivate => SYNC_OWN_RECEIPTS,
    };
    let prefix = move || match receipt_type {
        ReceiptType::Read => Key::new(partition).room(room),
        ReceiptType::ReadPrivate => Key::new(partition).text(user).room(room),
    };
    (table, prefix)
}

impl Building<'_> {
    /// The section for a room that the user is joined to: what changed since
    /// the client last heard of the room, or all that is current.
    pub(super) fn ephemeral(
        &self,
        candidate: &Candidate,
        stretch: &Stretch,
    ) -> Result<Events, SyncError> {
        let filter = &self.request.filter.room.ephemeral;
        let mut events = Vec::new();
        if !filter.matches_room(&candidate.room_id) {
            return Ok(Events { events });
        }
        let from = stretch.known_at.unwrap_or(0);
        // Most answers tell of a message, and of no receipt: memory knows that.
        let has_changed = candidate.receipts_at >= Some(from);
        if has_changed && filter.matches_without_sender(RECEIPT) {
            let (partition, room) = (candidate.partition, candidate.room);
            let changed = from..stretch.to;
            let user = &self.request.user;
            events = self.sync.receipt_events(partition, room, user, changed)?;
        }
        events.extend(self.typing_event(&candidate.room_id, stretch)?);
        Ok(Events { events })
    }
}

impl ClientSync {
    /// What a user is to be told of a room's receipts that changed at offsets of
    /// a stretch and have not changed since: one `m.receipt` event for each
    /// thread, as the specification asks. From 0 on it is all that is current,
    /// of at most [`RECEIPTS_MAX`] receipts. Whether the user may know of the
    /// room's receipts is the caller's to decide: only who is joined may.
    pub(super) fn receipt_events(
        &self,
        partition: PartitionId,
        room: RoomSn,
        user: &UserId,
        changed: Range<u64>,
    ) -> Result<Vec<Box<RawValue>>, SyncError> {
        let mut threads = Threads::new();
        for row in self.changed_receipts(partition, room, user, changed, RECEIPTS_MAX)? {
            let receipt = Shown {
                ts: row.ts,
                thread_id: row.thread.clone(),
            };
            let thread = threads.entry(row.thread).or_default();
            let event = thread.entry(row.event_id).or_default();
            let users = event.entry(word_of(row.receipt_type)).or_default();
            users.insert(row.user_id, receipt);
        }
        let events = threads.into_values().map(|content| {
            to_raw_value(&Event {
                content,
                event_type: RECEIPT,
            })
        });
        Ok(events.collect::<Result<_, _>>()?)
    }

    /// The receipts themselves: those that everybody is shown, then the user's
    /// private ones, of each kind the `max` newest, the newest first.
    pub(super) fn changed_receipts(
        &self,
        partition: PartitionId,
        room: RoomSn,
        user: &UserId,
        changed: Range<u64>,
        max: usize,
    ) -> Result<Vec<ReceiptRow>, SyncError> {
        let mut found = Vec::new();
        for receipt_type in [ReceiptType::Read, ReceiptType::ReadPrivate] {
            let (table, prefix) = table_of(partition, room, user.as_str(), receipt_type);
            found.extend(self.newest_receipts(table, &prefix, &changed, max)?);
        }
        Ok(found)
    }

    /// A user's own receipts in a room, of at most [`OWN_RECEIPTS_MAX`] threads.
    pub(super) fn own_receipts(
        &self,
        partition: PartitionId,
        room: RoomSn,
        user: &UserId,
    ) -> Result<Vec<ReceiptRow>, SyncError> {
        let mut found = Vec::new();
        for receipt_type in [ReceiptType::Read, ReceiptType::ReadPrivate] {
            let (table, of_table) = table_of(partition, room, user.as_str(), receipt_type);
            let own = Key::new(partition).room(room).text(user.as_str());
            let own = own.number(receipt_type as u64);
            let rows =
                self.store
                    .range(SYNC_RECEIPTS_AT, own.bytes(), None, false, OWN_RECEIPTS_MAX)?;
            for (_, at) in &rows {
                let at = rows::last_number(SYNC_RECEIPTS_AT, at)?;
                if let Some(row) = self.store.get(table, of_table().number(at).bytes())? {
                    found.push(rows::decode(table, &row)?);
                }
            }
        }
        Ok(found)
    }

    /// Rows of a stretch, at most `max`, the newest first.
    fn newest_receipts(
        &self,
        table: Table,
        prefix: &dyn Fn() -> Key,
        changed: &Range<u64>,
        max: usize,
    ) -> Result<Vec<ReceiptRow>, SyncError> {
        let mut found = Vec::new();
        let mut end = changed.end;
        while end > changed.start && found.len() < max {
            let (all, last) = (prefix(), prefix().number(end - 1));
            let (all, last) = (all.bytes(), Some(last.bytes()));
            let page = self.store.range(table, all, last, true, PAGE_ROWS)?;
            for (key, value) in &page {
                end = rows::last_number(table, key)?;
                if end < changed.start || found.len() == max {
                    return Ok(found);
                }
                found.push(rows::decode(table, value)?);
            }
            if page.len() < PAGE_ROWS {
                break;
            }
        }
        Ok(found)
    }
}

/// Event id → receipt type → user id → receipt.
type Content = BTreeMap<String, BTreeMap<&'static str, BTreeMap<String, Shown>>>;
/// By `thread_id`; none for receipts of the whole room.
type Threads = BTreeMap<Option<String>, Content>;

/// A receipt as clients see it.
#[derive(Serialize)]
struct Shown {
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<String>,
}

#[derive(Serialize)]
struct Event<T> {
    content: T,
    #[serde(rename = "type")]
    event_type: &'static str,
}

pub(super) fn word_of(receipt_type: ReceiptType) -> &'static str {
    match receipt_type {
        ReceiptType::Read => "m.read",
        ReceiptType::ReadPrivate => "m.read.private",
    }
}
