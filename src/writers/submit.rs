//! Append and wait for the outcome: the road that every write takes.

use std::sync::Arc;

use log_format::record::output::{Decision, Reason};
use ruma::{OwnedEventId, UserId};

/// Doors map it to an answer without knowing the log.
pub use crate::logs::log::AppendError;
use crate::logs::log::{Append, AppendTicket, NewRecord};
use crate::query::marks::ReadMarks;
use crate::query::outcome::{Outcome, OutcomeError, Outcomes};

/// Why a write did not happen, or is not known to have happened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Outcome(#[from] OutcomeError),
    /// The fold refused the record.
    #[error("refused: {0:?}")]
    Refused(Reason),
}

/// What a write led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    pub outcome: Outcome,
}

impl Submitted {
    /// The event that an earlier request with the same idempotency key made.
    pub fn duplicate_of(&self) -> Option<&OwnedEventId> {
        self.outcome.duplicate_of.as_ref()
    }
}

/// Hands records to *input* and waits until they are durable and folded.
#[derive(Clone)]
pub struct Submitter {
    input: Arc<dyn Append>,
    outcomes: Arc<dyn Outcomes>,
    marks: Arc<ReadMarks>,
}

/// A queued batch.
pub struct PendingSubmit {
    ticket: AppendTicket,
    outcomes: Arc<dyn Outcomes>,
    marks: Arc<ReadMarks>,
}

impl Submitter {
    pub fn new(
        input: Arc<dyn Append>,
        outcomes: Arc<dyn Outcomes>,
        marks: Arc<ReadMarks>,
    ) -> Submitter {
        Submitter {
            input,
            outcomes,
            marks,
        }
    }

    /// Queues a batch under its partition key. The order of calls is the order
    /// in the log, so a caller that holds a room's sequencer decides the order.
    pub fn enqueue(&self, key: &str, batch: Vec<NewRecord>) -> Result<PendingSubmit, SubmitError> {
        let partition = self.input.partition_of(key);
        if self.outcomes.is_stalled(partition) {
            return Err(AppendError::DiskFull.into());
        }
        let ticket = self.input.enqueue(partition, batch)?;
        Ok(PendingSubmit {
            ticket,
            outcomes: self.outcomes.clone(),
            marks: self.marks.clone(),
        })
    }

    /// [`Submitter::enqueue`] and [`PendingSubmit::finish`] in one.
    pub async fn submit(
        &self,
        key: &str,
        batch: Vec<NewRecord>,
        on_behalf_of: &UserId,
    ) -> Result<Submitted, SubmitError> {
        self.enqueue(key, batch)?.finish(on_behalf_of).await
    }
}

impl PendingSubmit {
    /// Waits until the batch is durable and folded, and notes for `on_behalf_of`
    /// that their next read must show it.
    ///
    /// Errors: a batch that the fold refused is [`SubmitError::Refused`].
    pub async fn finish(self, on_behalf_of: &UserId) -> Result<Submitted, SubmitError> {
        let appended = self.ticket.await?;
        let outcome = self.outcomes.outcome(appended).await?;
        self.marks
            .note(on_behalf_of, appended.partition, outcome.visible_at);
        match outcome.decision {
            Decision::Rejected | Decision::SoftFailed => Err(SubmitError::Refused(outcome.reason)),
            Decision::Accepted | Decision::Duplicate | Decision::Outlier => {
                Ok(Submitted { outcome })
            }
        }
    }
}
