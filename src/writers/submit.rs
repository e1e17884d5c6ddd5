//! Append and wait for the outcome: the road that every write takes.

use std::sync::Arc;

use log_format::record::output::{Decision, Reason};
use ruma::OwnedEventId;
use tokio::time::{Instant, timeout_at};

/// Doors map it to an answer without knowing the log.
pub use crate::logs::log::AppendError;
use crate::logs::log::{Append, AppendTicket, Appended, NewRecord};
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

/// A batch that is durable, and may not be folded yet.
pub struct Durable {
    appended: Appended,
    outcomes: Arc<dyn Outcomes>,
}

/// Hands records to *input* and waits until they are durable and folded.
#[derive(Clone)]
pub struct Submitter {
    input: Arc<dyn Append>,
    outcomes: Arc<dyn Outcomes>,
}

/// A queued batch.
pub struct PendingSubmit {
    ticket: AppendTicket,
    outcomes: Arc<dyn Outcomes>,
}

impl Submitter {
    pub fn new(input: Arc<dyn Append>, outcomes: Arc<dyn Outcomes>) -> Submitter {
        Submitter { input, outcomes }
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
        })
    }

    /// [`Submitter::enqueue`] and [`PendingSubmit::finish`] in one.
    pub async fn submit(&self, key: &str, batch: Vec<NewRecord>) -> Result<Submitted, SubmitError> {
        self.enqueue(key, batch)?.finish().await
    }
}

impl PendingSubmit {
    /// Waits until the batch is durable and folded. It is in *output* then, and
    /// whoever reads waits for the *output* that there is when they ask.
    ///
    /// Errors: a batch that the fold refused is [`SubmitError::Refused`].
    pub async fn finish(self) -> Result<Submitted, SubmitError> {
        let appended = self.ticket.await?;
        let outcome = self.outcomes.outcome(appended).await?;
        match outcome.decision {
            Decision::Rejected | Decision::SoftFailed => Err(SubmitError::Refused(outcome.reason)),
            Decision::Accepted | Decision::Duplicate | Decision::Outlier => {
                Ok(Submitted { outcome })
            }
        }
    }
}

impl PendingSubmit {
    /// Waits until the batch is durable, and no longer.
    pub async fn durable(self) -> Result<Durable, SubmitError> {
        Ok(Durable {
            appended: self.ticket.await?,
            outcomes: self.outcomes,
        })
    }
}

impl Durable {
    /// What became of the batch, refused or not; none if that is not known by
    /// then. A room that is parked may take its time.
    pub async fn outcome_by(self, deadline: Instant) -> Result<Option<Outcome>, SubmitError> {
        let outcome = self.outcomes.outcome(self.appended);
        match timeout_at(deadline, outcome).await {
            Ok(outcome) => Ok(Some(outcome?)),
            Err(_) => Ok(None),
        }
    }
}
