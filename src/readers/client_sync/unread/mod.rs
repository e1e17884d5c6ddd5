//! Unread counts (client-server API, *Receiving notifications*): the events that
//! a user is notified of since they joined, but for those that they have read.
//!
//! Counted when an answer tells of the room, on from where the last count of the
//! same user ended; nothing is counted when an event is sent. A thread is read up
//! to the user's receipts and up to their own last message in it. What a count
//! found is kept in a row every now and then, so that a restart does not count
//! anew what nobody reads.
//!
//! Bounds: of a stretch that no count has seen yet the newest
//! [`look::EVENTS_MAX`] events count; what is kept of a thread has bounds in
//! [`counted`]. Within them counts are exact.

mod counted;
mod look;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::unsync::Cache;
use ruma::{OwnedUserId, UserId};
use serde::Serialize;

use self::counted::Counted;
use self::look::Look;
use super::SyncError;
use super::history::RoomHistory;
use super::memory::Standing;
use super::rows::{self, Key};
use super::visible::Judge;
use crate::logs::log::PartitionId;
use crate::query::ids::{OutputOffset, RoomSn};
use crate::query::notified::Notified;
use crate::query::receipts::{ReadUpTo, Receipts};
use crate::readers::store::Write;
use crate::storage::columns::SYNC_UNREAD;
use crate::storage::overlay::{Overlay, Read, StoreError};

/// Counts that are in memory, of some 200 bytes each, and 8 for each unread
/// notification.
const COUNTS_MAX: usize = 50_000;
/// Events after which a count is kept in its row, at least: what is written for
/// an event and a user is then a few bytes.
const EVENTS_PER_ROW: usize = 64;

/// `Unread Notification Counts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub highlight_count: u64,
    pub notification_count: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.highlight_count += other.highlight_count;
        self.notification_count += other.notification_count;
    }
}

/// What is unread in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomCounts {
    /// Of the main timeline.
    pub main: Counts,
    /// Of threads, by the event id of their root; those with nothing are left out.
    pub threads: BTreeMap<String, Counts>,
}

impl RoomCounts {
    /// Of the whole room.
    pub fn total(&self) -> Counts {
        let mut total = self.main;
        self.threads.values().for_each(|thread| total += *thread);
        total
    }
}

/// Whose counts of which room are asked for, and as of when.
pub struct Asked<'a> {
    pub history: &'a RoomHistory<'a>,
    /// Joined to the room.
    pub user: &'a UserId,
    pub standing: &'a Standing,
    pub judge: &'a Judge<'a>,
    /// Where the list of those whom the user ignores last changed.
    pub ignored_at: Option<OutputOffset>,
    /// At or behind the newest receipt that the user sent in the room.
    pub receipts_at: Option<u64>,
    /// Offset behind the last event that counts.
    pub to: u64,
}

type CountKey = (OwnedUserId, PartitionId, RoomSn);

/// A count, and what belongs to it in memory alone.
#[derive(Default)]
struct Known {
    /// None: not read from its row yet.
    counted: Option<Counted>,
    /// As of [`Counted::receipts_at`]; none: not read yet.
    read: Option<ReadUpTo>,
    /// Events that were looked at since the row was written.
    unsaved: usize,
}

/// The counts of all users.
pub struct UnreadCounts {
    store: Arc<dyn Write>,
    receipts: Arc<dyn Receipts>,
    notified: Arc<Notified>,
    known: Mutex<Cache<CountKey, Arc<Mutex<Known>>>>,
}

impl UnreadCounts {
    pub fn new(
        store: Arc<dyn Write>,
        receipts: Arc<dyn Receipts>,
        notified: Arc<Notified>,
    ) -> UnreadCounts {
        UnreadCounts {
            store,
            receipts,
            notified,
            known: Mutex::new(Cache::new(COUNTS_MAX)),
        }
    }

    /// What is unread. If another device of the user was told of more already,
    /// then as of there.
    pub fn counts(&self, asked: &Asked<'_>) -> Result<RoomCounts, SyncError> {
        let history = asked.history;
        let key = (asked.user.to_owned(), history.partition, history.room);
        let slot = {
            let mut known = self.known.lock();
            match known.get(&key) {
                Some(slot) => slot.clone(),
                None => {
                    let slot = Arc::<Mutex<Known>>::default();
                    known.insert(key, slot.clone());
                    slot
                }
            }
        };
        // Held while counting: another device of the user gets the same count.
        let mut known = slot.lock();
        let counted = match known.counted.take() {
            Some(counted) => Some(counted),
            None => self.load(history, asked.user)?,
        };
        let joined_at = asked.standing.joined_at.unwrap_or(asked.to);
        let ignored_at = asked.ignored_at.map(|at| at.0);
        let same =
            |counted: &Counted| counted.joined_at == joined_at && counted.ignored_at == ignored_at;
        let mut counted = counted
            .filter(same)
            .unwrap_or_else(|| Counted::new(joined_at, ignored_at));
        let read = match known.read.take() {
            Some(read) if counted.receipts_at >= asked.receipts_at => read,
            _ => {
                let receipts = self.receipts.of_user(&history.room_id, asked.user)?;
                let read = ReadUpTo::of(&receipts);
                counted.read(history, &read)?;
                counted.receipts_at = asked.receipts_at;
                read
            }
        };
        if counted.to < asked.to {
            let look = Look {
                asked,
                notified: &self.notified,
                read: &read,
            };
            known.unsaved += look.on(&mut counted)?;
        }
        if known.unsaved >= EVENTS_PER_ROW.max(counted.len() / 4) {
            let key = row_key(asked.user, history.partition, history.room);
            self.save([(key, &counted)])?;
            known.unsaved = 0;
        }
        let counts = counted.counts();
        known.counted = Some(counted);
        known.read = Some(read);
        Ok(counts)
    }

    /// Keeps all counts in their rows, before a stop.
    pub fn save_all(&self) -> Result<(), StoreError> {
        let all: Vec<_> = {
            let known = self.known.lock();
            known
                .iter()
                .map(|(key, slot)| (key.clone(), slot.clone()))
                .collect()
        };
        for ((user, partition, room), slot) in all {
            // One that is being counted is kept by its row and counted on from there.
            let Some(mut known) = slot.try_lock() else {
                continue;
            };
            if let Some(counted) = known.counted.as_ref().filter(|_| known.unsaved > 0) {
                self.save([(row_key(&user, partition, room), counted)])?;
                known.unsaved = 0;
            }
        }
        Ok(())
    }

    /// Forgets a count whose room is gone; its row is the fold's to remove.
    pub fn forget(&self, user: &UserId, partition: PartitionId, room: RoomSn) {
        let key = (user.to_owned(), partition, room);
        self.known.lock().remove(&key);
    }

    /// The row of a count.
    pub fn row(user: &UserId, partition: PartitionId, room: RoomSn) -> Key {
        row_key(user, partition, room)
    }

    fn load(
        &self,
        history: &RoomHistory<'_>,
        user: &UserId,
    ) -> Result<Option<Counted>, StoreError> {
        let key = row_key(user, history.partition, history.room);
        let row = self.store.get(SYNC_UNREAD, key.bytes())?;
        row.map(|row| rows::decode(SYNC_UNREAD, &row)).transpose()
    }

    fn save<const N: usize>(&self, counted: [(Key, &Counted); N]) -> Result<(), StoreError> {
        let mut group = Overlay::new(self.store.as_ref() as &dyn Read);
        for (key, counted) in counted {
            rows::put(&mut group, SYNC_UNREAD, &key, counted);
        }
        self.store.write(group.into_writes())
    }
}

fn row_key(user: &UserId, partition: PartitionId, room: RoomSn) -> Key {
    Key::new(partition).text(user.as_str()).room(room)
}
