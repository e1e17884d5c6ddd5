//! Destinations that need no memory: those for which nothing was to be done for a
//! while leave it, and come back from their rows, with the next event or when
//! their time comes.
//!
//! So what is in memory is bounded by the servers with which something goes on,
//! and not by all that ever were: thousands that are gone for good cost their
//! rows, and a look at these now and then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ruma::{OwnedServerName, ServerName};

use super::destination::{Courier, Destination, State};
use super::destinations::Destinations;
use super::queue;
use super::rows;
use crate::logs::log::PartitionId;
use crate::query::rooms::QueryError;
use crate::storage::columns::SENDER_QUEUE;
use crate::storage::keys::prefix_end;
use crate::storage::overlay::StoreError;

/// How often the rows are gone through for those whose time comes.
pub const WALK_EVERY: Duration = Duration::from_secs(10 * 60);
/// Servers that are looked at in a row, before others get their turn.
const WALK_SERVERS: usize = 64;
/// A destination with which nothing went on for so long leaves memory.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);
/// The same while very many are in memory. Never shorter: what was recorded of a
/// destination has to be in its row.
const IDLE_MAX_IN_A_CROWD: Duration = Duration::from_secs(60);
/// Destinations in memory above which it is a crowd: some 30 megabytes.
const CROWD: usize = 20_000;
/// One that has to be tried earlier stays, so that a walk finds in time who left.
const PAUSE_MIN: Duration = Duration::from_secs(2 * 10 * 60);
/// Destinations that leave at a time: each costs a look at its row.
const LEAVE_AT_A_TIME: usize = 1_024;

/// What waits for those that are not in memory, to be told by metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtRest {
    /// Events.
    pub waiting: u64,
    /// Servers for which any waits, and whose last transaction failed.
    pub failing: u64,
}

impl AtRest {
    /// Counts one in that leaves memory.
    fn rests(&mut self, state: &State) {
        self.waiting += state.waiting();
        self.failing += u64::from(waits_in_vain(state));
    }

    /// Counts one out. Nothing counts below nothing: a row that was taken back by
    /// a crash may have been counted, or not.
    pub fn is_back(&mut self, state: &State) {
        self.waiting = self.waiting.saturating_sub(state.waiting());
        self.failing = self.failing.saturating_sub(u64::from(waits_in_vain(state)));
    }
}

/// A walk through the servers for which something waits on the disk.
#[derive(Debug, Default)]
pub struct Walk {
    partition: PartitionId,
    after: Option<OwnedServerName>,
}

impl Destinations {
    /// Counts what waits on the disk: all are at rest still.
    pub fn count_rows(&self) -> Result<(), QueryError> {
        let mut count = AtRest::default();
        let mut failing: BTreeSet<OwnedServerName> = BTreeSet::new();
        let mut walk = Walk::default();
        while let Some(server) = self.next_waiting(&mut walk).map_err(unreadable)? {
            let recorded = self.deliveries.delivery(&server)?;
            let progress = recorded.progress.get(&walk.partition);
            let upto = progress.map(|progress| progress.upto);
            let waiting = queue::settle(&*self.store, walk.partition, &server, upto);
            let waiting = waiting.map_err(unreadable)?;
            count.waiting += waiting;
            if waiting > 0 && recorded.failures > 0 {
                failing.insert(server);
            }
        }
        count.failing = failing.len() as u64;
        *self.at_rest.lock() = count;
        Ok(())
    }

    /// Goes on with a walk, and calls those whose time comes before the next one.
    /// Returns whether there is more to walk.
    pub fn walk_on(&self, walk: &mut Walk) -> Result<bool, QueryError> {
        for _ in 0..WALK_SERVERS {
            let Some(server) = self.next_waiting(walk).map_err(unreadable)? else {
                return Ok(false);
            };
            if self.in_memory(&server).is_some() {
                continue;
            }
            let recorded = self.deliveries.delivery(&server)?;
            let now = self.time.now_ms();
            let soon = now.saturating_add(WALK_EVERY.as_millis() as u64);
            let as_recorded = Destination::new(server, &recorded, now);
            if as_recorded.state().is_due(&as_recorded.name, soon) {
                self.call(&self.of(&as_recorded.name)?);
            }
        }
        Ok(true)
    }

    fn next_waiting(&self, walk: &mut Walk) -> Result<Option<OwnedServerName>, StoreError> {
        while walk.partition < self.partitions {
            let prefix = rows::partition_key(walk.partition);
            let behind = walk
                .after
                .as_deref()
                .and_then(|server| prefix_end(rows::queue_key(walk.partition, server).as_bytes()));
            let from = behind.as_deref();
            let first = self
                .store
                .range(SENDER_QUEUE, prefix.as_bytes(), from, false, 1)?;
            if let Some((key, _)) = first.first() {
                let server = rows::server_name(SENDER_QUEUE, rows::queued_at(key)?.0)?;
                walk.after = Some(server.clone());
                return Ok(Some(server));
            }
            walk.partition += 1;
            walk.after = None;
        }
        Ok(None)
    }

    /// Has those leave memory with which nothing goes on.
    pub fn let_rest(&self) -> Result<(), QueryError> {
        let now = self.time.now_ms();
        let idle: Vec<OwnedServerName> = {
            let known = self.known.read();
            let idle_max = match known.len() > CROWD {
                true => IDLE_MAX_IN_A_CROWD,
                false => IDLE_MAX,
            };
            let idle = known.values().filter(|destination| {
                destination.idle_for(now) > idle_max && may_rest(&destination.state(), now)
            });
            let idle = idle.take(LEAVE_AT_A_TIME);
            idle.map(|destination| destination.name.clone()).collect()
        };
        for server in idle {
            self.rest(&server, now)?;
        }
        Ok(())
    }

    fn rest(&self, server: &ServerName, now_ms: u64) -> Result<(), QueryError> {
        let comes_back_the_same = match self.in_memory(server) {
            Some(destination) => self.is_in_its_rows(&destination)?,
            None => return Ok(()),
        };
        if !comes_back_the_same {
            return Ok(());
        }
        let mut known = self.known.write();
        let Some(destination) = known.get(server) else {
            return Ok(());
        };
        // Whoever holds it has something for it. Nobody can get hold of it now.
        let is_alone = Arc::strong_count(destination) == 1;
        if is_alone && may_rest(&destination.state(), now_ms) {
            self.at_rest.lock().rests(&destination.state());
            known.remove(server);
        }
        Ok(())
    }

    /// Whether what is in memory is what would be read: the records of it are
    /// folded, and nothing stands there that is not recorded.
    fn is_in_its_rows(&self, destination: &Destination) -> Result<bool, QueryError> {
        let recorded = self.deliveries.delivery(&destination.name)?;
        let (lines, same) = {
            let state = destination.state();
            // One that spoke is tried earlier than was recorded; that it did is
            // forgotten where there is nothing to try.
            let same_time = state.retry_at_ms == recorded.retry_at_ms
                || (state.retry_at_ms < recorded.retry_at_ms && !state.has_work());
            let same = state.failures == recorded.failures && state.refusals == 0 && same_time;
            (state.lines.clone(), same)
        };
        for (partition, line) in lines {
            let known = recorded.progress.get(&partition);
            // Where no transaction is recorded as the next, it is the first event.
            let next = match known.and_then(|known| known.next) {
                Some(next) => Some(next),
                None => queue::first(&*self.store, partition, &destination.name, line.upto)
                    .map_err(unreadable)?,
            };
            let is_next = line.next.is_none() || line.next == next;
            if known.map(|known| known.upto) != line.upto || !is_next {
                return Ok(false);
            }
        }
        Ok(same)
    }
}

fn waits_in_vain(state: &State) -> bool {
    state.failures > 0 && state.waiting() > 0
}

fn unreadable(error: StoreError) -> QueryError {
    QueryError::Store(error.to_string())
}

/// Whether nobody has to do anything for it before long.
fn may_rest(state: &State, now_ms: u64) -> bool {
    let is_home = state.courier == Courier::Home && !state.is_to_tell();
    is_home && (!state.has_work() || state.pause_left(now_ms) > PAUSE_MIN)
}
