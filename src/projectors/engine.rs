//! One partition's projection, a group at a time: fold in lanes, merge in
//! offset order, one store batch, then *output*.
//!
//! The same engine runs live, at a start that catches up, in a replay and in a
//! verification; what differs is only where records come from and go to.

use std::collections::VecDeque;
use std::sync::Arc;

use log_format::chain;

use super::applied::Applied;
use super::fold::{FoldOutcome, PROJECTOR_VERSION};
use super::lanes::{Lane, LaneError, LaneFold, Lanes};
use super::outcomes::RecordOutcome;
use super::output_log::{self, Difference, OutputLog, OutputRecord, compare};
use super::tail::{self, TailRow};
use crate::logs::log::{AppendError, Log, LogRecord, ReadError};
use crate::query::ids::OutputOffset;
use crate::storage::columns::{APPLIED, OUTPUT_TAIL};
use crate::storage::keys::tagged;
use crate::storage::open::Store;
use crate::storage::overlay::StoreError;

/// Why a partition's projection stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Lane(#[from] LaneError),
    #[error("store failed: {0}")]
    Store(#[from] StoreError),
    #[error("log could not be read: {0}")]
    Read(#[from] ReadError),
    #[error("output could not be appended: {0}")]
    Output(AppendError),
    /// The same input led to something else than it did before.
    #[error(
        "projection is not deterministic: partition {}, output offset {}: {}",
        .0.partition, .0.output_offset, .0.what
    )]
    NotDeterministic(Difference),
    #[error("records came up to offset {found}, expected {expected}")]
    OutOfOrder { expected: u64, found: u64 },
    #[error("projection panicked; its group was not applied")]
    Panicked,
    #[error("projection thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// Asked when the disk is full: waits a little; whether to try again.
pub type Patience = dyn Fn() -> bool + Send + Sync;

/// The projection of one partition.
pub struct Engine {
    partition: u32,
    store: Arc<Store>,
    input: Arc<dyn Log>,
    output: Arc<dyn OutputLog>,
    lanes: Lanes,
    applied: Applied,
    /// Rows of the output tail: first and end offset.
    tails: VecDeque<(u64, u64)>,
    patience: Box<Patience>,
}

/// What became of the records of one group.
#[derive(Default)]
pub struct Outcomes {
    /// By record; none for one that waits.
    pub of_group: Vec<Option<RecordOutcome>>,
    /// Of earlier records that waited, by offset.
    pub settled: Vec<(u64, RecordOutcome)>,
}

struct Merged {
    output: Vec<OutputRecord>,
    outcomes: Outcomes,
    tail: TailRow,
    applied: Applied,
    /// For each record, the offset of the first *output* record it led to.
    first_output: Vec<u64>,
}

impl Engine {
    /// An engine that goes on behind `applied`.
    pub fn new(
        partition: u32,
        store: Arc<Store>,
        input: Arc<dyn Log>,
        output: Arc<dyn OutputLog>,
        lanes: Vec<Lane>,
        patience: Box<Patience>,
    ) -> Result<Engine, RunError> {
        let applied = match Applied::read(store.as_ref(), partition)? {
            Some(applied) => applied,
            None => Applied::start(partition, input.as_ref(), output.as_ref())?,
        };
        let tails = tail::rows(store.as_ref(), partition)?;
        let lanes = Lanes::new(partition, store.clone(), lanes).map_err(RunError::Thread)?;
        Ok(Engine {
            partition,
            store,
            input,
            output,
            lanes,
            applied,
            tails,
            patience,
        })
    }

    /// How far it has come.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Folds one group, which must begin where the last one ended.
    ///
    /// Order: the store's batch first, because it holds what completes *output*;
    /// then the query window and *output*, so that who reads *output* and asks
    /// the window finds there at least what they read; outcomes are the
    /// caller's to post, last of all. Nothing of it can be taken back by a
    /// crash, since all of it follows from records that are durable in *input*.
    pub fn step(&mut self, records: Vec<LogRecord>) -> Result<Outcomes, RunError> {
        let Some(last) = records.last() else {
            return Ok(Outcomes::default());
        };
        let input_end = last.offset + 1;
        let first = records.first().map_or(0, |record| record.offset);
        if first < self.applied.input_end {
            return Err(RunError::OutOfOrder {
                expected: self.applied.input_end,
                found: first,
            });
        }
        let records: Arc<[LogRecord]> = records.into();
        let mut folds = self.lanes.fold(&records)?;
        let mut merged = self.merge(&records, input_end, &mut folds)?;
        for fold in &mut folds {
            stamp(fold, &records, &merged.first_output);
        }
        self.write(folds, &mut merged)?;
        self.lanes.publish();
        self.emit(&merged.output)?;
        self.applied = merged.applied;
        Ok(merged.outcomes)
    }

    /// Puts what the lanes decided into the order of the records.
    fn merge(
        &self,
        records: &[LogRecord],
        input_end: u64,
        folds: &mut [LaneFold],
    ) -> Result<Merged, RunError> {
        let mut decided: Vec<_> = Vec::new();
        decided.resize_with(records.len(), || None);
        for (at, folded) in folds.iter_mut().flat_map(|fold| fold.folded.drain(..)) {
            if let Some(slot) = decided.get_mut(at) {
                *slot = Some(folded);
            }
        }
        let mut offset = self.applied.output_end;
        let mut chained = self.applied.output_link;
        let mut merged = Merged {
            output: Vec::with_capacity(records.len()),
            outcomes: Outcomes::default(),
            tail: TailRow::new(offset),
            applied: self.applied.clone(),
            first_output: Vec::with_capacity(records.len()),
        };
        for (source, folded) in records.iter().zip(decided) {
            // Every record is in exactly one lane's share.
            let folded = folded.ok_or(LaneError::Panicked)?;
            merged.first_output.push(offset);
            for record in folded.output {
                merged.tail.push(source, &record);
                let kind = record.kind.number();
                chained = chain::link(&chained, offset, source.time_us, kind, &record.digest);
                offset += 1;
                merged.output.push(output_log::made(source.time_us, record));
            }
            let told = |outcome: FoldOutcome| RecordOutcome {
                decision: outcome.decision,
                reason: outcome.reason,
                duplicate_of: outcome.duplicate_of,
                visible_at: OutputOffset(offset),
            };
            merged.outcomes.of_group.push(folded.outcome.map(told));
            let settled = folded.settled.into_iter();
            let settled = settled.map(|(offset, outcome)| (offset, told(outcome)));
            merged.outcomes.settled.extend(settled);
        }
        merged.applied = Applied {
            input_end,
            input_link: self.input.link_before(self.partition, input_end)?,
            output_end: offset,
            output_link: chained,
            projector_version: PROJECTOR_VERSION,
        };
        Ok(merged)
    }

    /// Writes tables, applied offset and output tail as one batch.
    fn write(&mut self, folds: Vec<LaneFold>, merged: &mut Merged) -> Result<(), RunError> {
        let mut batch = self.store.batch();
        for fold in folds {
            batch.apply(fold.writes)?;
        }
        let synced = self.output.synced_end(self.partition);
        while let Some((first, end)) = self.tails.front().copied() {
            if end > synced {
                break;
            }
            batch.delete(
                OUTPUT_TAIL,
                tail::tail_key(self.partition, first).as_bytes(),
            )?;
            self.tails.pop_front();
        }
        let first = self.applied.output_end;
        let row = std::mem::replace(&mut merged.tail, TailRow::new(first));
        if !row.is_empty() {
            let (key, value) = row.finish(self.partition);
            batch.put(OUTPUT_TAIL, key.as_bytes(), &value)?;
            self.tails.push_back((first, merged.applied.output_end));
        }
        let (key, value) = merged.applied.row(self.partition);
        batch.put(APPLIED, key.as_bytes(), &value)?;
        self.store.write_patiently(batch, &*self.patience)?;
        Ok(())
    }

    /// Appends to *output*, or compares with what is there already.
    fn emit(&self, made: &[OutputRecord]) -> Result<(), RunError> {
        let first = self.applied.output_end;
        let there = self.output.end(self.partition).saturating_sub(first);
        let known = usize::try_from(there).unwrap_or(usize::MAX).min(made.len());
        if known > 0 {
            let known = made.get(..known).unwrap_or_default();
            compare(self.output.as_ref(), self.partition, first, known)?
                .map_err(RunError::NotDeterministic)?;
        }
        let new = made.get(known..).unwrap_or_default();
        append_patiently(self.output.as_ref(), self.partition, new, &*self.patience)
    }
}

/// Appends to *output*; on a full disk again and again, as long as `patience` lasts.
pub fn append_patiently(
    output: &dyn OutputLog,
    partition: u32,
    records: &[OutputRecord],
    patience: &Patience,
) -> Result<(), RunError> {
    if records.is_empty() {
        return Ok(());
    }
    loop {
        match output.append(partition, records) {
            Ok(()) => return Ok(()),
            Err(AppendError::DiskFull) if patience() => {}
            Err(error) => return Err(RunError::Output(error)),
        }
    }
}

/// Puts *output* offsets into the rows that asked for them.
fn stamp(fold: &mut LaneFold, records: &[LogRecord], first_output: &[u64]) {
    for stamp in std::mem::take(&mut fold.stamps) {
        let at = records.binary_search_by_key(&stamp.input_offset, |record| record.offset);
        let output = at.ok().and_then(|at| first_output.get(at));
        let key = (stamp.table.family, tagged(stamp.table, &stamp.key));
        let (Some(output), Some(Some(value))) = (output, fold.writes.get_mut(&key)) else {
            continue;
        };
        let Some((held, rest)) = value.split_first_chunk::<8>() else {
            continue;
        };
        if *held == stamp.input_offset.to_be_bytes() {
            let mut stamped = Vec::with_capacity(value.len());
            stamped.extend_from_slice(&output.to_be_bytes());
            stamped.extend_from_slice(rest);
            *value = stamped.into();
        }
    }
}
