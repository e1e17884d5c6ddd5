//! The outcomes board: what became of the last records of each partition, and
//! who waits to hear it.
//!
//! Filled by the partition's thread after a group is stored, visible and in
//! *output*; asked by writers. No lock is held across an await.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use log_format::record::output::{Decision, Reason};
use parking_lot::Mutex;
use ruma::OwnedEventId;
use tokio::sync::oneshot;

use super::engine::Outcomes as GroupOutcomes;
use crate::logs::log::{Appended, PartitionId};
use crate::query::ids::OutputOffset;
use crate::query::outcome::{Outcome, OutcomeError, OutcomeFuture, Outcomes};

/// Outcomes kept for each partition. A writer asks right after its append, so
/// only one that was asleep for this many records comes too late.
const OUTCOMES_KEPT: usize = 65_536;
/// Outcomes kept of records that waited longer than that: each has a writer
/// that was just woken to fetch it.
const LATE_OUTCOMES_MAX: usize = 4_096;

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordOutcome {
    pub decision: Decision,
    pub reason: Reason,
    pub duplicate_of: Option<OwnedEventId>,
    /// *Output* offset behind what the record led to.
    pub visible_at: OutputOffset,
}

/// One board for all partitions of a server.
pub struct OutcomesBoard {
    partitions: Vec<Mutex<Board>>,
    /// By partition: whether its projection waits for room on the disk.
    stalled: Vec<AtomicBool>,
}

struct Board {
    /// Offset of the first outcome in `kept`.
    first: u64,
    /// None for a record that waits for its decision.
    kept: VecDeque<Option<RecordOutcome>>,
    /// Offsets of records that wait, kept or not.
    waiting: BTreeSet<u64>,
    /// By the offset that they wait for.
    waiters: BTreeMap<u64, Vec<oneshot::Sender<()>>>,
    /// Outcomes that came late, of records that are not kept any more.
    late: BTreeMap<u64, RecordOutcome>,
    stopped: bool,
}

impl OutcomesBoard {
    /// A board on which each partition stands at its applied end; nothing
    /// before that is known.
    pub fn new(applied_ends: &[u64]) -> OutcomesBoard {
        let board = |first: &u64| {
            Mutex::new(Board {
                first: *first,
                kept: VecDeque::new(),
                waiting: BTreeSet::new(),
                waiters: BTreeMap::new(),
                late: BTreeMap::new(),
                stopped: false,
            })
        };
        OutcomesBoard {
            partitions: applied_ends.iter().map(board).collect(),
            stalled: applied_ends
                .iter()
                .map(|_| AtomicBool::new(false))
                .collect(),
        }
    }

    /// Posts the outcomes of a group, `first` being its first record's offset,
    /// and wakes who waits for them. Who waits for a record that waits itself
    /// is woken when that is settled.
    pub fn post(&self, partition: u32, first: u64, outcomes: GroupOutcomes) {
        let Some(board) = self.partitions.get(partition as usize) else {
            return;
        };
        let ready = {
            let mut board = board.lock();
            if board.end() != first {
                // A hole in the offsets, which only another log than the
                // embedded one has: what was kept is not adjacent any more.
                board.kept.clear();
                board.first = first;
            }
            let waiting = (first..).zip(&outcomes.of_group);
            let waiting = waiting.filter(|(_, outcome)| outcome.is_none());
            board.waiting.extend(waiting.map(|(offset, _)| offset));
            board.kept.extend(outcomes.of_group);
            let beyond = board.kept.len().saturating_sub(OUTCOMES_KEPT);
            board.kept.drain(..beyond);
            board.first += beyond as u64;
            let settled = outcomes.settled.into_iter();
            let mut ready: Vec<_> = settled
                .filter_map(|(offset, outcome)| board.settle(offset, outcome))
                .flatten()
                .collect();
            let end = board.end();
            let later = board.waiters.split_off(&end);
            let waiting: Vec<u64> = board.waiters.keys().copied().collect();
            for offset in waiting {
                if !board.is_waiting(offset) {
                    ready.extend(board.waiters.remove(&offset).into_iter().flatten());
                }
            }
            board.waiters.extend(later);
            ready
        };
        for waiter in ready {
            // A writer whose client went away no longer listens.
            let _ = waiter.send(());
        }
    }

    /// Notes whether a partition waits for room on the disk. Returns whether
    /// that is news.
    pub fn stall(&self, partition: u32, stalled: bool) -> bool {
        let held = self.stalled.get(partition as usize);
        // Read first, since this is asked for each group.
        held.is_some_and(|held| {
            held.load(Ordering::Relaxed) != stalled
                && held.swap(stalled, Ordering::Relaxed) != stalled
        })
    }

    /// No more outcomes will come for this partition: whoever waits hears so.
    pub fn stop(&self, partition: u32) {
        if let Some(board) = self.partitions.get(partition as usize) {
            let mut board = board.lock();
            board.stopped = true;
            board.waiters.clear();
        }
    }
}

impl Board {
    fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// Whether a record was folded and waits for its decision.
    fn is_waiting(&self, offset: u64) -> bool {
        self.waiting.contains(&offset)
    }

    /// A record that waited is decided: who waits for it.
    fn settle(&mut self, offset: u64, outcome: RecordOutcome) -> Option<Vec<oneshot::Sender<()>>> {
        self.waiting.remove(&offset);
        let at = offset.checked_sub(self.first);
        let slot = at.and_then(|at| self.kept.get_mut(usize::try_from(at).ok()?));
        match slot {
            // What was decided before has been told.
            Some(Some(_)) => return None,
            Some(slot) => *slot = Some(outcome),
            None if self.waiters.contains_key(&offset) => {
                self.late.insert(offset, outcome);
                if self.late.len() > LATE_OUTCOMES_MAX {
                    self.late.pop_first();
                }
            }
            None => return None,
        }
        self.waiters.remove(&offset)
    }

    fn look_up(&self, batch: Appended) -> Option<Outcome> {
        if let (Some(late), 1) = (self.late.get(&batch.first), batch.count.max(1)) {
            return Some(late.clone().into());
        }
        let from = usize::try_from(batch.first.checked_sub(self.first)?).ok()?;
        let count = batch.count.max(1) as usize;
        let outcomes = self.kept.range(from.min(self.kept.len())..);
        let outcomes: Vec<&RecordOutcome> = outcomes.take(count).flatten().collect();
        if outcomes.len() < count {
            return None;
        }
        // The first of the worst: what came after it was refused because of it.
        let mut worst = *outcomes.first()?;
        for outcome in &outcomes {
            if severity(outcome.decision) > severity(worst.decision) {
                worst = outcome;
            }
        }
        Some(Outcome {
            decision: worst.decision,
            reason: worst.reason,
            duplicate_of: worst.duplicate_of.clone(),
            visible_at: outcomes.last()?.visible_at,
        })
    }
}

impl From<RecordOutcome> for Outcome {
    fn from(outcome: RecordOutcome) -> Outcome {
        Outcome {
            decision: outcome.decision,
            reason: outcome.reason,
            duplicate_of: outcome.duplicate_of,
            visible_at: outcome.visible_at,
        }
    }
}

/// How bad a decision is for the batch that it stands in.
fn severity(decision: Decision) -> u8 {
    match decision {
        Decision::Accepted => 0,
        Decision::Outlier => 1,
        Decision::Duplicate => 2,
        Decision::SoftFailed => 3,
        Decision::Rejected => 4,
    }
}

impl Outcomes for OutcomesBoard {
    fn is_stalled(&self, partition: PartitionId) -> bool {
        let stalled = self.stalled.get(partition as usize);
        stalled.is_some_and(|stalled| stalled.load(Ordering::Relaxed))
    }

    /// Errors: `Stopped` also for a batch that is older than what is kept.
    fn outcome(&self, batch: Appended) -> OutcomeFuture<'_> {
        Box::pin(async move {
            let partition = self.partitions.get(batch.partition as usize);
            let partition = partition.ok_or(OutcomeError::Stopped)?;
            let waiting = {
                let mut board = partition.lock();
                if batch.last() < board.end() && !board.is_waiting(batch.last()) {
                    return board.look_up(batch).ok_or(OutcomeError::Stopped);
                }
                if board.stopped {
                    return Err(OutcomeError::Stopped);
                }
                let (tell, told) = oneshot::channel();
                board.waiters.entry(batch.last()).or_default().push(tell);
                told
            };
            waiting.await.map_err(|_| OutcomeError::Stopped)?;
            partition.lock().look_up(batch).ok_or(OutcomeError::Stopped)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(visible_at: u64) -> RecordOutcome {
        RecordOutcome {
            decision: Decision::Accepted,
            reason: Reason::None,
            duplicate_of: None,
            visible_at: OutputOffset(visible_at),
        }
    }

    fn group(outcomes: impl IntoIterator<Item = RecordOutcome>) -> GroupOutcomes {
        GroupOutcomes {
            of_group: outcomes.into_iter().map(Some).collect(),
            settled: vec![],
        }
    }

    #[tokio::test]
    async fn who_waits_for_a_parked_record_hears_when_it_is_settled() {
        let board = std::sync::Arc::new(OutcomesBoard::new(&[0]));
        let ask = |first: u64| {
            let board = board.clone();
            tokio::spawn(async move { board.outcome(batch(first, 1)).await })
        };
        let before = ask(0);
        tokio::task::yield_now().await;
        let mut parked = group([accepted(1)]);
        parked.of_group.insert(0, None);
        board.post(0, 0, parked);
        let after = ask(0);
        tokio::task::yield_now().await;
        assert!(!before.is_finished() && !after.is_finished());
        assert!(ask(1).await.unwrap().is_ok());
        let mut settling = group((2..OUTCOMES_KEPT as u64 + 50).map(accepted));
        board.post(0, 2, std::mem::take(&mut settling));
        tokio::task::yield_now().await;
        assert!(!before.is_finished() && !after.is_finished());
        settling.of_group = vec![Some(accepted(9))];
        settling.settled = vec![(0, accepted(7))];
        board.post(0, OUTCOMES_KEPT as u64 + 50, settling);
        for asked in [before, after] {
            let outcome = asked.await.unwrap().unwrap();
            assert_eq!(outcome.visible_at, OutputOffset(7));
        }
    }

    fn batch(first: u64, count: u32) -> Appended {
        Appended {
            partition: 0,
            first,
            count,
        }
    }

    #[tokio::test]
    async fn a_waiter_hears_the_worst_of_its_batch() {
        let board = std::sync::Arc::new(OutcomesBoard::new(&[10]));
        let asked = {
            let board = board.clone();
            tokio::spawn(async move { board.outcome(batch(10, 3)).await })
        };
        tokio::task::yield_now().await;
        board.post(0, 10, group([accepted(1), accepted(2)]));
        tokio::task::yield_now().await;
        assert!(
            !asked.is_finished(),
            "the batch's last record is not folded"
        );
        let mut refused = accepted(3);
        refused.decision = Decision::Rejected;
        refused.reason = Reason::Forbidden;
        board.post(0, 12, group([refused]));
        let outcome = asked.await.unwrap().unwrap();
        assert_eq!(outcome.decision, Decision::Rejected);
        assert_eq!(outcome.reason, Reason::Forbidden);
        assert_eq!(outcome.visible_at, OutputOffset(3));
        let first = board.outcome(batch(10, 1)).await.unwrap();
        assert_eq!(first.decision, Decision::Accepted);
    }

    #[tokio::test]
    async fn waiters_hear_that_the_projector_stopped() {
        let board = std::sync::Arc::new(OutcomesBoard::new(&[0]));
        let asked = {
            let board = board.clone();
            tokio::spawn(async move { board.outcome(batch(5, 1)).await })
        };
        tokio::task::yield_now().await;
        board.stop(0);
        assert_eq!(asked.await.unwrap(), Err(OutcomeError::Stopped));
        assert_eq!(board.outcome(batch(6, 1)).await, Err(OutcomeError::Stopped));
    }

    #[tokio::test]
    async fn old_outcomes_make_room() {
        let board = OutcomesBoard::new(&[0]);
        board.post(0, 0, group((0..OUTCOMES_KEPT as u64 + 10).map(accepted)));
        assert_eq!(board.outcome(batch(9, 1)).await, Err(OutcomeError::Stopped));
        let kept = board.outcome(batch(10, 1)).await.unwrap();
        assert_eq!(kept.visible_at, OutputOffset(10));
    }
}
