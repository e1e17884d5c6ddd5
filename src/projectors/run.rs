//! The running projection: one thread per partition that follows *input*, and
//! the housekeeping that follows the app's ticks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::applied::Applied;
use super::engine::{Engine, RunError};
use super::fold::PROJECTOR_VERSION;
use super::lanes::Lane;
use super::outcomes::OutcomesBoard;
use super::output_log::OutputLog;
use super::snapshots::{SnapshotError, Snapshots};
use crate::logs::log::{AppendError, Log, LogRecord, ReadError};
use crate::storage::open::Store;
use crate::storage::overlay::StoreError;

/// Bounds of a group: it is held in memory, and its outcomes come together.
const GROUP_BYTES_MAX: usize = 2 << 20;
const GROUP_RECORDS_MAX: usize = 4096;
/// Unsynced *output* records of a partition beyond which it is synced before
/// its time, so that the output tail in the store stays small.
const OUTPUT_UNSYNCED_MAX: u64 = 50_000;
/// *Output* is derived, so it is synced rarely: an append waits while a sync runs.
const OUTPUT_SYNC_EVERY_US: u64 = 5_000_000;
/// How often a full disk is tried again.
const DISK_FULL_PAUSE: Duration = Duration::from_millis(200);

/// The epoch of *output*: what one projector version makes of one *input* is
/// always the same, so the version names it.
pub fn epoch() -> u64 {
    u64::from(PROJECTOR_VERSION)
}

/// When snapshots are made. Either reason suffices; zero switches it off.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotSchedule {
    pub seconds: u64,
    pub records: u64,
}

/// Why housekeeping failed. What it does is repeated at the next tick.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    #[error("output could not be synced: {0}")]
    Output(#[from] AppendError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// Everything that the projection runs on.
pub struct Parts {
    pub store: Arc<Store>,
    pub input: Arc<dyn Log>,
    pub output: Arc<dyn OutputLog>,
    pub snapshots: Snapshots,
    pub schedule: SnapshotSchedule,
    /// By partition, each with as many lanes as are to fold in parallel.
    pub lanes: Vec<Vec<Lane>>,
}

/// The running projectors of all partitions.
pub struct Projection {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    snapshots: Snapshots,
    schedule: SnapshotSchedule,
    upkeep: Mutex<Upkeep>,
}

struct Shared {
    store: Arc<Store>,
    input: Arc<dyn Log>,
    output: Arc<dyn OutputLog>,
    outcomes: Arc<OutcomesBoard>,
    /// Applied *input* ends by partition.
    applied: Vec<AtomicU64>,
    /// Changes when an applied end does.
    moved: watch::Sender<()>,
    /// Set once; also read inside waits that are not async.
    stopping: AtomicBool,
    stop: watch::Sender<bool>,
    /// The first failure of a partition.
    failure: watch::Sender<Option<Arc<RunError>>>,
}

/// What the last ticks saw.
#[derive(Default)]
struct Upkeep {
    started_us: Option<u64>,
    output_synced_us: u64,
    snapshot_us: u64,
    snapshot_records: u64,
}

impl Projection {
    /// Starts a thread for each partition. What is in *input* and not in the
    /// store yet is caught up first: see [`Projection::caught_up`].
    pub fn start(parts: Parts) -> Result<Projection, RunError> {
        let (store, input, output) = (parts.store, parts.input, parts.output);
        let mut engines = Vec::new();
        let (stop, stopped) = watch::channel(false);
        let mut ends = Vec::new();
        let mut lanes = parts.lanes.into_iter();
        let shared = {
            for partition in 0..input.partitions() {
                let applied = Applied::read(store.as_ref(), partition)?;
                ends.push(applied.map_or(0, |applied| applied.input_end));
            }
            Arc::new(Shared {
                outcomes: Arc::new(OutcomesBoard::new(&ends)),
                store: store.clone(),
                input: input.clone(),
                output: output.clone(),
                applied: ends.iter().copied().map(AtomicU64::new).collect(),
                moved: watch::channel(()).0,
                stopping: AtomicBool::new(false),
                stop,
                failure: watch::channel(None).0,
            })
        };
        for partition in 0..input.partitions() {
            let patience = {
                let shared = shared.clone();
                Box::new(move || shared.wait_for_space(partition))
            };
            let lanes = lanes.next().unwrap_or_default();
            let (store, input, output) = (store.clone(), input.clone(), output.clone());
            engines.push(Engine::new(
                partition, store, input, output, lanes, patience,
            )?);
        }
        let mut threads = Vec::new();
        for (partition, engine) in engines.into_iter().enumerate() {
            let (shared, stopped) = (shared.clone(), stopped.clone());
            let thread = std::thread::Builder::new()
                .name(format!("projector-{partition}"))
                .spawn(move || shared.follow(partition as u32, engine, stopped))
                .map_err(RunError::Thread)?;
            threads.push(thread);
        }
        let upkeep = Upkeep {
            snapshot_records: ends.iter().sum(),
            ..Upkeep::default()
        };
        Ok(Projection {
            shared,
            threads: Mutex::new(threads),
            snapshots: parts.snapshots,
            schedule: parts.schedule,
            upkeep: Mutex::new(upkeep),
        })
    }

    /// Where writers learn what became of their records.
    pub fn outcomes(&self) -> Arc<OutcomesBoard> {
        self.shared.outcomes.clone()
    }

    /// Offset behind the last folded *input* record of a partition.
    pub fn applied(&self, partition: u32) -> u64 {
        let applied = self.shared.applied.get(partition as usize);
        applied.map_or(0, |applied| applied.load(Ordering::Acquire))
    }

    /// Durable *input* records of all partitions that are not folded yet.
    pub fn lag(&self) -> u64 {
        let partitions = 0..self.shared.input.partitions();
        partitions
            .map(|partition| {
                let end = self.shared.input.end(partition);
                end.saturating_sub(self.applied(partition))
            })
            .sum()
    }

    /// Resolves once everything is folded that was durable at the call.
    ///
    /// Errors: the projection failed or was stopped first.
    pub async fn caught_up(&self) -> Result<(), Option<Arc<RunError>>> {
        let ends: Vec<u64> = (0..self.shared.input.partitions())
            .map(|partition| self.shared.input.end(partition))
            .collect();
        let mut moved = self.shared.moved.subscribe();
        loop {
            moved.borrow_and_update();
            let mut all = self.shared.applied.iter().zip(&ends);
            if all.all(|(applied, end)| applied.load(Ordering::Acquire) >= *end) {
                return Ok(());
            }
            if let Some(failure) = self.shared.failure.borrow().clone() {
                return Err(Some(failure));
            }
            if self.shared.stopping.load(Ordering::Acquire) || moved.changed().await.is_err() {
                return Err(None);
            }
        }
    }

    /// Resolves when a partition's projection failed; never otherwise. The
    /// process should stop then: nothing that is appended is folded any more.
    pub async fn failed(&self) -> Arc<RunError> {
        let mut failure = self.shared.failure.subscribe();
        loop {
            if let Some(failure) = failure.borrow_and_update().clone() {
                return failure;
            }
            if failure.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Housekeeping; to be called each second or so, on a thread that may
    /// block. Syncs *output*, flushes the store when due, and makes a snapshot
    /// when due. `now_us` is any time in microseconds that only grows.
    ///
    /// Returns the records covered by a snapshot that was made.
    pub fn tick(&self, now_us: u64) -> Result<Option<u64>, UpkeepError> {
        let mut upkeep = self.upkeep.lock();
        if now_us.saturating_sub(upkeep.output_synced_us) >= OUTPUT_SYNC_EVERY_US {
            self.shared.sync_output()?;
            upkeep.output_synced_us = now_us;
        }
        self.shared.store.flush_if_due(now_us)?;
        if upkeep.started_us.is_none() {
            upkeep.started_us = Some(now_us);
            upkeep.snapshot_us = now_us;
        }
        let records = self.records();
        let new_records = records.saturating_sub(upkeep.snapshot_records);
        let since_us = now_us.saturating_sub(upkeep.snapshot_us);
        let by_records = self.schedule.records > 0 && new_records >= self.schedule.records;
        let by_time = self.schedule.seconds > 0
            && new_records > 0
            && since_us >= self.schedule.seconds.saturating_mul(1_000_000);
        if !by_records && !by_time {
            return Ok(None);
        }
        // Noted first: a snapshot that fails is tried at its next time, not at
        // each tick.
        upkeep.snapshot_us = now_us;
        upkeep.snapshot_records = records;
        self.snapshot()
    }

    /// Makes a snapshot now, if anything is new since the last one.
    pub fn snapshot(&self) -> Result<Option<u64>, UpkeepError> {
        let made = self
            .snapshots
            .make(&self.shared.store, || self.shared.sync_output())?;
        Ok(made.map(|snapshot| snapshot.records))
    }

    /// Stops: the group in progress is finished, then *output* is synced and
    /// the store flushed. With `snapshot`, one is made. Blocks.
    pub fn stop(&self, snapshot: bool) -> Result<(), UpkeepError> {
        self.halt();
        self.shared.sync_output()?;
        if snapshot {
            self.snapshot()?;
        }
        self.shared.store.flush()?;
        Ok(())
    }

    /// Stops the threads and leaves the stores as a crash would.
    pub fn halt(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.stop.send_replace(true);
        self.shared.moved.send_replace(());
        for thread in self.threads.lock().drain(..) {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }

    fn records(&self) -> u64 {
        let applied = self.shared.applied.iter();
        applied.map(|end| end.load(Ordering::Acquire)).sum()
    }
}

impl Drop for Projection {
    fn drop(&mut self) {
        self.halt();
    }
}

impl Shared {
    /// The life of a partition's thread.
    fn follow(&self, partition: u32, engine: Engine, stopped: watch::Receiver<bool>) {
        // Also after a panic somebody must hear that nothing is folded any more.
        let ended = catch_unwind(AssertUnwindSafe(|| {
            self.follow_until_stopped(partition, engine, stopped)
        }));
        let ended = ended.unwrap_or(Err(RunError::Panicked));
        if let Err(error) = ended {
            tracing::error!(partition, %error, "projection stopped");
            self.failure.send_if_modified(|failure| {
                let first = failure.is_none();
                failure.get_or_insert(Arc::new(error));
                first
            });
        }
        self.outcomes.stop(partition);
        self.moved.send_replace(());
    }

    fn follow_until_stopped(
        &self,
        partition: u32,
        mut engine: Engine,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(), RunError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(RunError::Thread)?;
        while !self.stopping.load(Ordering::Acquire) {
            let from = engine.applied().input_end;
            let records = read_group(self.input.as_ref(), partition, from)?;
            let Some(first) = records.first().map(|record| record.offset) else {
                runtime.block_on(async {
                    let more = self.input.wait_beyond(partition, from);
                    let stop = std::pin::pin!(stopped.changed());
                    match select(more, stop).await {
                        Either::Left(_) | Either::Right(_) => {}
                    }
                });
                continue;
            };
            let outcomes = engine.step(records)?;
            if self.outcomes.stall(partition, false) {
                tracing::info!(partition, "disk has room again, projection goes on");
            }
            if let Some(applied) = self.applied.get(partition as usize) {
                applied.store(engine.applied().input_end, Ordering::Release);
            }
            self.outcomes.post(partition, first, outcomes);
            self.moved.send_replace(());
            let made = engine.applied().output_end;
            let unsynced = made.saturating_sub(self.output.synced_end(partition));
            if unsynced > OUTPUT_UNSYNCED_MAX {
                self.output.sync(partition).map_err(RunError::Output)?;
            }
        }
        Ok(())
    }

    fn sync_output(&self) -> Result<(), UpkeepError> {
        for partition in 0..self.output.partitions() {
            if self.output.synced_end(partition) < self.output.end(partition) {
                self.output.sync(partition)?;
            }
        }
        Ok(())
    }

    fn wait_for_space(&self, partition: u32) -> bool {
        if self.outcomes.stall(partition, true) {
            tracing::error!(
                partition,
                "projection waits for room on the disk, writes are refused"
            );
        }
        std::thread::sleep(DISK_FULL_PAUSE);
        !self.stopping.load(Ordering::Acquire)
    }
}

/// The next group behind `from`, within the bounds of one; none at the end.
pub fn read_group(input: &dyn Log, partition: u32, from: u64) -> Result<Vec<LogRecord>, ReadError> {
    let mut records = input.read(partition, from, GROUP_BYTES_MAX)?;
    records.truncate(GROUP_RECORDS_MAX);
    Ok(records)
}
