//! `engram replay`: make store and *output* again from *input*, and verify
//! that what is on disk is what a replay makes.
//!
//! Nothing here reads a clock: rates and time left are the caller's to show
//! from [`Progress`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::applied::Applied;
use super::digest::{self, RowDifference};

pub use super::digest::Digest;
use super::engine::{Engine, RunError};
use super::lanes::Lane;
use super::output_log::{Difference, OutputLog, OutputRecord};
use super::run::read_group;
use crate::logs::log::{AppendError, Log, LogRecord, PartitionId, ReadError, Waiting};
use crate::storage::open::Store;
use crate::storage::overlay::StoreError;

/// Folded records between two syncs of *output*, which also empty its tail.
const RECORDS_PER_SYNC: u64 = 100_000;

/// How far a replay is. Records of all partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

/// Why a replay or verification could not be carried through.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("store failed: {0}")]
    Store(#[from] StoreError),
    #[error("log could not be read: {0}")]
    Read(#[from] ReadError),
    #[error("output could not be synced: {0}")]
    Output(#[from] AppendError),
}

/// Makes the lanes of a partition; the argument is its number.
pub type MakeLanes<'a> = dyn Fn(u32) -> Vec<Lane> + 'a;

/// Folds everything that *input* has behind what `store` has applied, partitions
/// side by side, and flushes both derived stores. The state digest at the end.
pub fn replay(
    store: &Arc<Store>,
    input: &Arc<dyn Log>,
    output: &Arc<dyn OutputLog>,
    make_lanes: &MakeLanes<'_>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Digest, ReplayError> {
    let partitions = 0..input.partitions();
    let ends: Vec<u64> = partitions.map(|partition| input.end(partition)).collect();
    replay_to(&ends, store, input, output, make_lanes, progress)?;
    for partition in 0..input.partitions() {
        output.sync(partition)?;
    }
    store.flush()?;
    Ok(digest::state_digest(store)?)
}

fn replay_to(
    ends: &[u64],
    store: &Arc<Store>,
    input: &Arc<dyn Log>,
    output: &Arc<dyn OutputLog>,
    make_lanes: &MakeLanes<'_>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(), ReplayError> {
    let mut engines = Vec::new();
    let mut total = 0;
    for (partition, end) in (0..).zip(ends) {
        let engine = Engine::new(
            partition,
            store.clone(),
            input.clone(),
            output.clone(),
            make_lanes(partition),
            Box::new(|| false),
        )?;
        total += end.saturating_sub(engine.applied().input_end);
        engines.push((partition, engine, *end));
    }
    let done = AtomicU64::new(0);
    let advance = |records: u64| {
        let done = done.fetch_add(records, Ordering::Relaxed) + records;
        progress(Progress { done, total });
    };
    advance(0);
    std::thread::scope(|scope| {
        let spawned = engines.into_iter().map(|(partition, engine, end)| {
            let (input, output, advance) = (input.as_ref(), output.as_ref(), &advance);
            scope.spawn(move || replay_partition(partition, engine, end, input, output, advance))
        });
        // All are started before the first is waited for.
        let threads: Vec<_> = spawned.collect();
        let mut results = threads.into_iter().map(|thread| {
            let panicked = |_| Err(RunError::Lane(super::lanes::LaneError::Panicked).into());
            thread.join().unwrap_or_else(panicked)
        });
        results.by_ref().collect::<Result<(), ReplayError>>()
    })
}

fn replay_partition(
    partition: u32,
    mut engine: Engine,
    end: u64,
    input: &dyn Log,
    output: &dyn OutputLog,
    advance: &(dyn Fn(u64) + Sync),
) -> Result<(), ReplayError> {
    while engine.applied().input_end < end {
        let from = engine.applied().input_end;
        let mut records = read_group(input, partition, from)?;
        records.retain(|record| record.offset < end);
        if records.is_empty() {
            break;
        }
        engine.step(records)?;
        let made = engine.applied().output_end;
        let unsynced = made.saturating_sub(output.synced_end(partition));
        if unsynced >= RECORDS_PER_SYNC {
            output.sync(partition)?;
        }
        advance(engine.applied().input_end - from);
    }
    Ok(())
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Digest of the store on disk.
    pub stored: Digest,
    /// Digest of what the replay made up to the same offsets.
    pub replayed: Digest,
    /// Records that were replayed.
    pub records: u64,
    pub difference: Option<FirstDifference>,
}

/// The first thing that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstDifference {
    Row(RowDifference),
    Output(Difference),
}

impl std::fmt::Display for FirstDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FirstDifference::Row(row) => row.fmt(f),
            FirstDifference::Output(output) => {
                let Difference {
                    partition,
                    output_offset,
                    what,
                } = output;
                write!(
                    f,
                    "output partition {partition}, offset {output_offset}: {what}"
                )
            }
        }
    }
}

/// Replays into `scratch`, an empty store, as far as `stored` has come, and
/// compares rows and *output* with what is there. `stored` may have been opened
/// read-only beside a running server: it stands at its last flush.
pub fn verify(
    stored: &Store,
    scratch: &Arc<Store>,
    input: &Arc<dyn Log>,
    output: &Arc<dyn Log>,
    make_lanes: &MakeLanes<'_>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Verified, ReplayError> {
    let mut ends = Vec::new();
    for partition in 0..input.partitions() {
        let applied = Applied::read(stored, partition)?;
        ends.push(applied.map_or(0, |applied| applied.input_end));
    }
    let comparing: Arc<dyn OutputLog> = Arc::new(Comparing::new(output.clone()));
    let replayed = replay_to(&ends, scratch, input, &comparing, make_lanes, progress);
    let difference = match replayed {
        Err(ReplayError::Run(RunError::NotDeterministic(difference))) => {
            Some(FirstDifference::Output(difference))
        }
        replayed => {
            replayed?;
            None
        }
    };
    let (stored_digest, replayed) = (
        digest::state_digest(stored)?,
        digest::state_digest(scratch)?,
    );
    let difference = match difference {
        None if stored_digest != replayed => {
            digest::first_difference(stored, scratch)?.map(FirstDifference::Row)
        }
        difference => difference,
    };
    Ok(Verified {
        stored: stored_digest,
        replayed,
        records: ends.iter().sum(),
        difference,
    })
}

/// *Output* as a verification sees it: what the log lacks is not written.
struct Comparing {
    output: Arc<dyn Log>,
}

impl Comparing {
    fn new(output: Arc<dyn Log>) -> Comparing {
        Comparing { output }
    }
}

impl Log for Comparing {
    fn partitions(&self) -> u32 {
        self.output.partitions()
    }

    fn end(&self, partition: PartitionId) -> u64 {
        self.output.end(partition)
    }

    fn begin(&self, partition: PartitionId) -> u64 {
        self.output.begin(partition)
    }

    fn read(
        &self,
        partition: PartitionId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, ReadError> {
        self.output.read(partition, from, max_bytes)
    }

    fn link_before(&self, partition: PartitionId, offset: u64) -> Result<[u8; 32], ReadError> {
        self.output.link_before(partition, offset)
    }

    fn wait_beyond(&self, partition: PartitionId, offset: u64) -> Waiting<'_> {
        self.output.wait_beyond(partition, offset)
    }

    fn trim(&self, partition: PartitionId, before: u64) -> Result<(), ReadError> {
        self.output.trim(partition, before)
    }
}

impl OutputLog for Comparing {
    /// Reached only for records beyond the end of *output*: a store that was
    /// flushed before *output* was, which the next start completes.
    fn append(&self, _: u32, _: &[OutputRecord]) -> Result<(), AppendError> {
        Ok(())
    }

    fn sync(&self, partition: u32) -> Result<u64, AppendError> {
        Ok(self.synced_end(partition))
    }

    /// As if all of it were synced: the scratch store keeps no tail.
    fn synced_end(&self, _: u32) -> u64 {
        u64::MAX
    }

    fn cut(&self, _: u32, _: u64) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem))
    }
}
