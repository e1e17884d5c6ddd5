//! What became of a record: the *receipt of append* that a writer waits for.

use std::future::Future;
use std::pin::Pin;

use log_format::record::output::{Decision, Reason};
use ruma::OwnedEventId;

use super::ids::OutputOffset;
use crate::logs::log::{Appended, PartitionId};

/// The fold's outcome for one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The worst decision within the batch, which stands or falls as one.
    pub decision: Decision,
    pub reason: Reason,
    /// For `Duplicate`: the event that the first record with the same idempotency key made.
    pub duplicate_of: Option<OwnedEventId>,
    /// *Output* offset behind the batch's last record in its partition. A read
    /// that waits for a reader's cursor to reach it sees the batch.
    pub visible_at: OutputOffset,
}

/// Why no outcome will come.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum OutcomeError {
    #[error("the projector stopped before it reached the record")]
    Stopped,
}

/// Resolves at the fold of the batch's last record.
pub type OutcomeFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Outcome, OutcomeError>> + Send + 'a>>;

/// Where writers learn what became of a durable batch.
pub trait Outcomes: Send + Sync {
    /// The outcome of a batch; also when its fold has passed already. Outcomes
    /// are kept for the last 65,536 records of a partition.
    fn outcome(&self, batch: Appended) -> OutcomeFuture<'_>;

    /// Whether a partition's projection waits for room on the disk, so that
    /// nobody can say when a new batch would have its outcome.
    fn is_stalled(&self, _partition: PartitionId) -> bool {
        false
    }
}
