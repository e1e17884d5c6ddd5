//! How much disk an event and a state change take: counted along *output*,
//! set against the store's sizes, shown as metrics and left in `space.json`
//! for `engram-log stats`.
//!
//! What was counted is in the file, too, so a restart goes on from there.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use log_format::LogId;
use log_format::codec;
use log_format::record::output::{Decision, OutputRoomEvent, OutputRoomState};
use log_format::record::{Envelope, Kind};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::data_dir;
use crate::logs::log::ReadError;
use crate::projectors::output_log::OutputLog;
use crate::projectors::start::witnesses;
use crate::storage::columns::Family;
use crate::storage::open::Store;
use crate::telemetry::names;

/// Bytes of *output* that are read at a time.
const READ_BYTES: usize = 1 << 20;
/// Bytes that one call of [`Space::count`] reads: beside a busy server it takes
/// some hundredths of a processor, and catches up when there is less to do.
const COUNT_BYTES_MAX: usize = 32 << 20;

/// The content of `space.json`; docs/operating.md says what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SpaceFile {
    /// Microseconds since the epoch.
    time_us: u64,
    /// Ends of *output* by partition that the store contained.
    output_ends: Vec<u64>,
    families: BTreeMap<String, FamilyBytes>,
    counted: Counted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FamilyBytes {
    file_bytes: u64,
    memtable_bytes: u64,
}

/// What *output* holds below some offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counted {
    /// Names the log, as hex.
    output: String,
    /// Offsets behind the last counted record by partition.
    ends: Vec<u64>,
    /// Accepted events.
    events: u64,
    /// Changed entries of current state.
    state_changes: u64,
}

/// Counts, and leaves the file.
pub struct Space {
    store: Arc<Store>,
    output: Arc<dyn OutputLog>,
    path: PathBuf,
    counted: Mutex<Counted>,
    /// Flushes of the store at the last write of the file.
    written_at: Mutex<Option<u64>>,
}

impl Space {
    /// Goes on from what the file says was counted of this *output*; a file that
    /// is missing, or of another log, counts as nothing.
    pub fn open(
        store: Arc<Store>,
        output: Arc<dyn OutputLog>,
        output_id: LogId,
        path: PathBuf,
    ) -> Space {
        let nothing = Counted {
            output: output_id.to_string(),
            ends: vec![0; output.partitions() as usize],
            ..Counted::default()
        };
        let file = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<SpaceFile>(&bytes).ok());
        let counted = file.map(|file| file.counted).filter(|counted| {
            let within = |(partition, end): (usize, &u64)| *end <= output.end(partition as u32);
            counted.output == nothing.output
                && counted.ends.len() == nothing.ends.len()
                && counted.ends.iter().enumerate().all(within)
        });
        Space {
            store,
            output,
            path,
            counted: Mutex::new(counted.unwrap_or(nothing)),
            written_at: Mutex::new(None),
        }
    }

    /// Counts on, a bounded step. Returns whether the end was reached. Blocks.
    pub fn count(&self) -> Result<bool, ReadError> {
        let mut counted = self.counted.lock();
        let mut left = COUNT_BYTES_MAX;
        for partition in 0..self.output.partitions() {
            let Some(mut next) = counted.ends.get(partition as usize).copied() else {
                continue;
            };
            // What was trimmed away before it was counted is not counted.
            next = next.max(self.output.begin(partition));
            while next < self.output.end(partition) {
                if left == 0 {
                    return Ok(false);
                }
                let records = self.output.read(partition, next, READ_BYTES)?;
                for record in &records {
                    next = record.offset + 1;
                    left = left.saturating_sub(record.payload.len());
                    // A kind that this version does not know is none of ours.
                    if let Ok(envelope) = record.envelope() {
                        counted.add(&envelope);
                    }
                }
                if records.is_empty() {
                    break;
                }
                if let Some(end) = counted.ends.get_mut(partition as usize) {
                    *end = next;
                }
            }
        }
        Ok(true)
    }

    /// Counts on and sets the gauges; those that set sizes against counts only
    /// once everything is counted. Blocks.
    pub fn measure(&self) -> Result<(), ReadError> {
        let whole = self.count()?;
        let sizes = self.store.sizes();
        for size in &sizes {
            metrics::gauge!(names::STORE_FAMILY_BYTES, "family" => size.family.name())
                .set(size.file_bytes as f64);
        }
        let (events, changes) = {
            let counted = self.counted.lock();
            (counted.events, counted.state_changes)
        };
        metrics::gauge!(names::ROOM_EVENTS).set(events as f64);
        metrics::gauge!(names::STATE_CHANGES).set(changes as f64);
        let state = sizes.iter().find(|size| size.family == Family::State);
        let state = state.map_or(0, |size| size.file_bytes);
        let all: u64 = sizes.iter().map(|size| size.file_bytes).sum();
        for (name, bytes, count) in [
            (names::STATE_BYTES_PER_CHANGE, state, changes),
            (names::STATE_BYTES_PER_EVENT, state, events),
            (names::STORE_BYTES_PER_EVENT, all, events),
        ] {
            if whole && count > 0 {
                metrics::gauge!(name).set(bytes as f64 / count as f64);
            }
        }
        Ok(())
    }

    /// Writes the file if the store was flushed since the last time, which is
    /// when its files changed. Blocks.
    pub fn write_if_flushed(&self, now_us: u64) -> io::Result<bool> {
        let flushes = self.store.metrics().flushes;
        if *self.written_at.lock() == Some(flushes) {
            return Ok(false);
        }
        self.write(now_us)?;
        *self.written_at.lock() = Some(flushes);
        Ok(true)
    }

    /// Leaves the file at a stop, after the last flush. Blocks.
    pub fn leave(&self, now_us: u64) {
        // It is for `engram-log stats` and saves counting again; no stop fails by it.
        if let Err(error) = self.count() {
            tracing::warn!(%error, "output not counted");
        }
        if let Err(error) = self.write(now_us) {
            tracing::warn!(%error, "space.json not written");
        }
    }

    fn write(&self, now_us: u64) -> io::Result<()> {
        let folded = witnesses(&self.store, self.output.partitions());
        let families = self.store.sizes().into_iter().map(|size| {
            let bytes = FamilyBytes {
                file_bytes: size.file_bytes,
                memtable_bytes: size.memtable_bytes,
            };
            (size.family.name().to_owned(), bytes)
        });
        let file = SpaceFile {
            time_us: now_us,
            output_ends: folded
                .into_iter()
                .map(|applied| applied.map_or(0, |applied| applied.output_end))
                .collect(),
            families: families.collect(),
            counted: self.counted.lock().clone(),
        };
        data_dir::replace(&self.path, &serde_json::to_vec(&file)?)
    }
}

impl Counted {
    fn add(&mut self, envelope: &Envelope<'_>) {
        match envelope.kind {
            Kind::OutputRoomEvent => {
                if let Ok(body) = codec::decode::<OutputRoomEvent>(envelope.body) {
                    self.events += u64::from(body.decision == Decision::Accepted);
                    self.state_changes += body.state_delta.len() as u64;
                }
            }
            Kind::OutputRoomState => {
                if let Ok(body) = codec::decode::<OutputRoomState>(envelope.body) {
                    self.state_changes += body.state_delta.len() as u64;
                }
            }
            _ => {}
        }
    }
}
