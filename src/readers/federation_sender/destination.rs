//! A server that is sent to, as it stands in memory: counters, how far it
//! acknowledged, and what is told beside events. What waits lies in the tables.

use std::collections::BTreeMap;

use log_format::record::input::Emitted;
use parking_lot::{Mutex, MutexGuard};
use ruma::{OwnedServerName, ServerName};

use super::back_off::pause;
use super::edus::Edus;
use crate::logs::log::PartitionId;
use crate::query::deliveries::Delivery;

/// One destination. Shared by the fold, its courier and whoever looks at it.
pub struct Destination {
    pub name: OwnedServerName,
    state: Mutex<State>,
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
    pub edus: Edus,
    /// The partition whose turn it was last.
    pub turn: PartitionId,
    pub courier: Courier,
    /// Waits in the runner's list for `retry_at_ms`.
    pub timed: bool,
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
    /// From what was recorded.
    pub fn new(name: OwnedServerName, known: &Delivery) -> Destination {
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
}

impl State {
    /// What waits of a partition.
    pub fn line(&mut self, partition: PartitionId) -> &mut Line {
        self.lines.entry(partition).or_default()
    }

    /// The last attempt went well: whoever is like that does not share its way
    /// with those that may be gone.
    pub fn is_proven(&self) -> bool {
        self.failures == 0 && self.succeeded_ms > 0
    }

    /// Whether it may be tried. A time further ahead than any pause is of a clock
    /// that was set back since.
    pub fn is_due(&self, server: &ServerName, now_ms: u64) -> bool {
        let left = self.retry_at_ms.saturating_sub(now_ms);
        left == 0 || u128::from(left) > longest_pause(server, self.failures, self.refusals)
    }

    /// Whether there is anything to send, as far as memory knows.
    pub fn has_work(&self) -> bool {
        !self.edus.is_empty() || self.lines.values().any(|line| line.waiting > 0)
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
