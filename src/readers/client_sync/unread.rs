//! Unread counts: events since the user's own last one, or since they joined,
//! that the push rules would notify of (client-server API, *Receiving notifications*).
//!
//! Counted when an answer tells of the room, on from where the last count of
//! the same user ended; nothing is counted when an event is sent.

use parking_lot::Mutex;
use quick_cache::unsync::Cache;
use ruma::{OwnedUserId, UserId};
use serde::Serialize;

use super::SyncError;
use super::history::RoomHistory;
use super::memory::Standing;
use super::push::Evaluator;
use super::timeline::events_of;
use super::visible::Judge;
use crate::logs::log::PartitionId;
use crate::query::ids::RoomSn;

/// Counts that are remembered, of some 100 bytes each.
const COUNTS_MAX: usize = 50_000;
/// Events that one count looks at. A room with more than these unread shows
/// what is in the newest of them.
const SCAN_ROWS_MAX: usize = 500;

/// `Unread Notification Counts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub highlight_count: u64,
    pub notification_count: u64,
}

/// How far a count went.
#[derive(Clone, Copy, Debug)]
struct Counted {
    /// Offset behind the last event looked at.
    to: u64,
    /// Of the stay in the room that was counted in.
    joined_at: u64,
    counts: Counts,
}

/// Remembered counts of all users. In memory only: they are counted again.
pub struct UnreadCounts {
    counted: Mutex<Cache<(OwnedUserId, PartitionId, RoomSn), Counted>>,
}

impl Default for UnreadCounts {
    fn default() -> UnreadCounts {
        UnreadCounts {
            counted: Mutex::new(Cache::new(COUNTS_MAX)),
        }
    }
}

impl UnreadCounts {
    /// What is unread for a joined user below `to`.
    pub fn counts(
        &self,
        history: &RoomHistory<'_>,
        user: &UserId,
        standing: &Standing,
        judge: &Judge<'_>,
        to: u64,
    ) -> Result<Counts, SyncError> {
        let joined_at = standing.joined_at.unwrap_or(to);
        let key = (user.to_owned(), history.partition, history.room);
        let known = self.counted.lock().get(&key).copied();
        let known = known.filter(|known| known.joined_at == joined_at);
        if let Some(known) = known.filter(|known| known.to >= to) {
            return Ok(known.counts);
        }
        let from = known.map_or(joined_at + 1, |known| known.to);
        let mut counts = known.map(|known| known.counts).unwrap_or_default();
        let rows = history.timeline_before(from, to, SCAN_ROWS_MAX)?;
        if rows.len() == SCAN_ROWS_MAX {
            counts = Counts::default();
        }
        let mut events = events_of(history, rows)?;
        if let Some(own) = events.iter().position(|(_, event)| event.sender == user) {
            events.truncate(own);
            counts = Counts::default();
        }
        if !events.is_empty() {
            let mut evaluator = Evaluator::new(history, user, standing)?;
            for (row, event) in events {
                let verdict = evaluator.evaluate(&event);
                // Few events notify; of the others nobody asks who sees them.
                if verdict.notify && judge.tells(&event, row.offset)? {
                    counts.notification_count += 1;
                    counts.highlight_count += u64::from(verdict.highlight);
                }
            }
        }
        let counted = Counted {
            to,
            joined_at,
            counts,
        };
        self.counted.lock().insert(key, counted);
        Ok(counts)
    }
}
