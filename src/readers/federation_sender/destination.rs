//! A server that is sent to, as it stands in memory: counters, how far it
//! acknowledged, and what is told beside events. What waits lies in the tables.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use log_format::record::input::Emitted;
use parking_lot::{Mutex, MutexGuard};
use ruma::{OwnedServerName, ServerName};

use super::back_off::pause;
use super::edus::Edus;
use crate::logs::log::PartitionId;
use crate::query::deliveries::Delivery;

/// A server that is not tried for so long is not told what is true for a while:
/// most of it will not be by then, and thousands of such servers cost nothing.
const TOLD_WITHIN: Duration = Duration::from_secs(60 * 60);

/// One destination. Shared by the fold, its courier and whoever looks at it.
pub struct Destination {
    pub name: OwnedServerName,
    state: Mutex<State>,
    /// When anybody last had something for it, in milliseconds since the epoch.
    used_at_ms: AtomicU64,
}

/// How it stands with a destination.
#[derive(Debug, Default)]
pub struct State {
    /// By partition, where anything was ever sent or waits.
    pub lines: BTreeMap<PartitionId, Line>,
    /// Attempts that failed since the last one that did not.
    pub failures: u32,
    /// Not tried again before then, in milliseconds since the epoch.
    pub retry_at_ms: u64,
    /// When it was last tried, by this process.
    pub tried_at_ms: u64,
    /// When it last acknowledged something; 0 if it never did.
    pub succeeded_ms: u64,
    /// Of the last attempt.
    pub error: Option<Box<str>>,
    /// How often the transaction that comes next was refused for what is in it.
    pub refusals: u32,
    /// What is to be told beside events.
    pub edus: Edus,
    /// What was tried to be told and not answered. It is repeated as it was, and
    /// before anything else (server-server API, *Transactions*: "The sending
    /// server must wait and retry for a 200 OK response before sending a
    /// transaction with a different `txnId`").
    pub under_way: Option<Arc<Told>>,
    /// The last transaction was one of events.
    pub told_events: bool,
    /// The partition whose turn it was last.
    pub turn: PartitionId,
    pub courier: Courier,
    /// Waits in the runner's list for `retry_at_ms`.
    pub timed: bool,
}

/// A transaction of what is true for a while.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    pub edus: Edus,
    /// When it was put together, in milliseconds since the epoch.
    pub at_ms: u64,
}

/// Whether somebody carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Courier {
    #[default]
    Home,
    /// On the way, or waiting for a place on it.
    Out,
    /// The same, and there is more since it left.
    OutAndCalled,
}

/// What waits of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The last event that was acknowledged.
    pub upto: Option<Emitted>,
    /// The last event of the transaction that comes next. It stands from when
    /// the transaction is first tried, or from the acknowledgement before it, so
    /// that a repeat is the same.
    pub next: Option<Emitted>,
    /// Rows, about: what two tasks count apart may be off by what they meet at.
    pub waiting: u64,
    /// So much waited that only the newest event of each room is kept.
    pub newest_only: bool,
}

impl Destination {
    /// From what was recorded, as of now.
    pub fn new(name: OwnedServerName, known: &Delivery, now_ms: u64) -> Destination {
        let lines = known.progress.iter().map(|(partition, progress)| {
            let line = Line {
                upto: Some(progress.upto),
                next: progress.next,
                ..Line::default()
            };
            (*partition, line)
        });
        Destination {
            name,
            used_at_ms: AtomicU64::new(now_ms),
            state: Mutex::new(State {
                lines: lines.collect(),
                failures: known.failures,
                retry_at_ms: known.retry_at_ms,
                succeeded_ms: known.succeeded_ms,
                ..State::default()
            }),
        }
    }

    /// Held for some instructions, never across a wait.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Somebody has something for it.
    pub fn use_at(&self, now_ms: u64) {
        self.used_at_ms.store(now_ms, Ordering::Relaxed);
    }

    /// How long nobody had anything for it, nor was it tried.
    pub fn idle_for(&self, now_ms: u64) -> Duration {
        let used = self.used_at_ms.load(Ordering::Relaxed);
        let last = used.max(self.state().tried_at_ms);
        Duration::from_millis(now_ms.saturating_sub(last))
    }
}

impl State {
    /// What waits of a partition.
    pub fn line(&mut self, partition: PartitionId) -> &mut Line {
        self.lines.entry(partition).or_default()
    }

    /// Whether it may be tried. A time further ahead than any pause is of a clock
    /// that was set back since.
    pub fn is_due(&self, server: &ServerName, now_ms: u64) -> bool {
        let left = self.retry_at_ms.saturating_sub(now_ms);
        left == 0 || u128::from(left) > longest_pause(server, self.failures, self.refusals)
    }

    /// How long it is not to be tried.
    pub fn pause_left(&self, now_ms: u64) -> Duration {
        Duration::from_millis(self.retry_at_ms.saturating_sub(now_ms))
    }

    /// Whether it is told what is true for a while.
    pub fn is_told(&self, now_ms: u64) -> bool {
        self.pause_left(now_ms) <= TOLD_WITHIN
    }

    /// Whether there is anything to send, as far as memory knows.
    pub fn has_work(&self) -> bool {
        self.is_to_tell() || self.lines.values().any(|line| line.waiting > 0)
    }

    /// Whether there is anything to tell beside events.
    pub fn is_to_tell(&self) -> bool {
        self.under_way.is_some() || !self.edus.is_empty()
    }

    /// What the next transaction tells, if it is not the turn of events (`wait` says
    /// that there are any): what was tried before, or else what waits.
    pub fn next_told(&mut self, wait: bool, now_ms: u64) -> Option<Arc<Told>> {
        let may_begin = !wait || (self.failures == 0 && self.told_events);
        if self.under_way.is_none() && may_begin && !self.edus.is_empty() {
            let edus = self.edus.take();
            let at_ms = now_ms;
            self.under_way = Some(Arc::new(Told { edus, at_ms }));
        }
        self.under_way.clone()
    }

    /// Rows that wait, over all partitions.
    pub fn waiting(&self) -> u64 {
        self.lines.values().map(|line| line.waiting).sum()
    }
}

/// In milliseconds, after so many failures and refusals.
fn longest_pause(server: &ServerName, failures: u32, refusals: u32) -> u128 {
    let after = |count| pause(server, count).as_millis();
    after(failures).max(after(refusals))
}

impl Line {
    /// Whether an event need not be sent (again).
    pub fn has(&self, at: Emitted) -> bool {
        self.upto.is_some_and(|upto| at <= upto)
    }
}
