//! The queue of one partition: what writers hand over, in order.
//!
//! Bounded by bytes, since records differ by a factor of a thousand. The thread
//! that empties it is in `append.rs`.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log_format::record::envelope::PAYLOAD_BYTES_MAX;
use tokio::sync::oneshot;

use super::log::{AppendError, Appended, NewRecord};

/// Payload bytes that may wait for one partition of *input*. At 100 MB/s of disk that is
/// under a second; more would only hide that the disk is too slow.
pub(super) const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Payload bytes and records that one flush takes at most: enough that a flush
/// costs less than the writing, little enough that nobody waits long for it.
pub(super) const GROUP_BYTES_MAX: usize = 1 << 20;
/// See [`GROUP_BYTES_MAX`].
pub(super) const GROUP_RECORDS_MAX: usize = 4096;
/// Payload bytes of one batch, which lies in one segment as a whole.
pub(super) const BATCH_BYTES_MAX: usize = 16 << 20;

const _: () = assert!(BATCH_BYTES_MAX < QUEUE_BYTES_MAX && PAYLOAD_BYTES_MAX <= BATCH_BYTES_MAX);

/// What a writer waits for.
pub(super) type Answer = Result<Appended, AppendError>;

/// A batch that waits.
pub(super) struct Job {
    pub records: Vec<NewRecord>,
    pub bytes: usize,
    pub handed_over: Instant,
    pub answer: oneshot::Sender<Answer>,
}

/// What the appending thread is to do next.
pub(super) enum Work {
    /// At least one batch, none of which was given before.
    Group(Vec<Job>),
    /// Nothing came for as long as was asked.
    Idle,
    /// Nothing will come any more.
    Closed,
}

/// Batches in the order in which they were handed over.
pub(super) struct Queue {
    bytes_max: usize,
    state: Mutex<QueueState>,
    changed: Condvar,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue::bounded(QUEUE_BYTES_MAX)
    }
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    /// A queue in which so many payload bytes may wait.
    pub fn bounded(bytes_max: usize) -> Queue {
        Queue {
            bytes_max,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Adds a batch; never blocks beyond the short lock.
    pub fn push(&self, records: Vec<NewRecord>) -> Result<oneshot::Receiver<Answer>, AppendError> {
        let bytes = check(&records)?;
        let (answer, answered) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(AppendError::Closed);
        }
        if state.bytes + bytes > self.bytes_max {
            return Err(AppendError::Overloaded);
        }
        state.bytes += bytes;
        let was_empty = state.jobs.is_empty();
        state.jobs.push_back(Job {
            records,
            bytes,
            handed_over: Instant::now(),
            answer,
        });
        drop(state);
        if was_empty {
            self.changed.notify_one();
        }
        Ok(answered)
    }

    /// Takes what one flush takes; waits for it, at most `patience` if given.
    pub fn take(&self, patience: Option<Duration>) -> Work {
        let mut state = self.lock();
        while state.jobs.is_empty() {
            if state.closed {
                return Work::Closed;
            }
            state = match patience {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    let waited = self.changed.wait_timeout(state, patience);
                    let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                    if timeout.timed_out() && state.jobs.is_empty() && !state.closed {
                        return Work::Idle;
                    }
                    state
                }
            };
        }
        let (mut bytes, mut records) = (0, 0);
        let fits = state.jobs.iter().take_while(|job| {
            bytes += job.bytes;
            records += job.records.len();
            bytes <= GROUP_BYTES_MAX && records <= GROUP_RECORDS_MAX
        });
        // The first batch is taken whatever its size.
        let count = fits.count().max(1);
        let group: Vec<Job> = state.jobs.drain(..count).collect();
        state.bytes -= group.iter().map(|job| job.bytes).sum::<usize>();
        Work::Group(group)
    }

    /// Takes nothing more; what waits is still given out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Closes, and answers what waits with `error`: nothing of it was written.
    pub fn close_refusing(&self, error: &AppendError) {
        let jobs = {
            let mut state = self.lock();
            state.closed = true;
            state.bytes = 0;
            std::mem::take(&mut state.jobs)
        };
        for job in jobs {
            let _ = job.answer.send(Err(error.clone()));
        }
    }

    /// Payload bytes that wait.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Payload bytes of a batch that the log takes.
fn check(records: &[NewRecord]) -> Result<usize, AppendError> {
    let mut bytes = 0;
    for record in records {
        if record.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(AppendError::TooLarge {
                bytes: record.payload.len(),
                max: PAYLOAD_BYTES_MAX,
            });
        }
        if record.digest == [0; 32] {
            tracing::error!(
                kind = record.kind.name(),
                "record was handed over without a digest"
            );
            return Err(AppendError::Closed);
        }
        bytes += record.payload.len();
    }
    if bytes > BATCH_BYTES_MAX {
        return Err(AppendError::TooLarge {
            bytes,
            max: BATCH_BYTES_MAX,
        });
    }
    Ok(bytes)
}
