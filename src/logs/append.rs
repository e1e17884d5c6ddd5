//! Group commit: the one thread that writes a partition of *input* or *ephemeral*.
//!
//! It takes everything that waits, writes it as one batch, flushes once (of
//! *ephemeral* nothing is flushed), then makes it readable and answers. The next
//! batch gathers during the flush, so there is no delay to tune. A failed flush
//! ends the thread for good.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log_format::{AppendError as FormatError, PartitionWriter, Pending, Topic};
use tokio::sync::watch;

use super::fill::Waker;
use super::log::{AppendError, Appended, PartitionId};
use super::marker::SyncedMarker;
use super::partition::{Job, Queue, Work};
use super::priority;
use super::space::Space;
use super::tail::Tail;
use crate::clock;
use crate::telemetry::names;

/// Idleness after which an empty commit frame covers the last batch.
const IDLE_AFTER: Duration = Duration::from_millis(50);
/// Everything that the thread owns.
pub(super) struct Appender {
    pub topic: Topic,
    pub partition: PartitionId,
    pub writer: PartitionWriter,
    pub queue: Arc<Queue>,
    pub tail: Arc<Tail>,
    pub space: Space,
    /// For crash tests only.
    pub marker: Option<SyncedMarker>,
    /// Of the thread that makes the next segment ahead.
    pub waker: Option<Waker>,
    /// Says why, once the log failed for good.
    pub failure: watch::Sender<Option<String>>,
}

impl Appender {
    /// Runs until the queue is closed and empty, or the log fails.
    pub fn run(mut self) {
        // Nobody waits long for what is not flushed.
        if self.topic == Topic::Input && !priority::raise() {
            tracing::debug!(self.partition, "append thread keeps its priority");
        }
        // A panic must not leave a queue that takes records and never writes them.
        let followed = catch_unwind(AssertUnwindSafe(|| self.follow()));
        if followed.is_err() {
            self.fail("append thread panicked".to_owned());
        }
    }

    fn follow(&mut self) {
        // Whether the last batch still lacks a frame behind it that witnesses it.
        let mut uncovered = false;
        loop {
            match self.queue.take(uncovered.then_some(IDLE_AFTER)) {
                Work::Group(jobs) => uncovered |= self.commit(jobs),
                Work::Idle => {
                    uncovered = false;
                    self.cover();
                }
                Work::Closed => break,
            }
            if self.writer.is_poisoned() {
                return;
            }
        }
        self.cover();
        if self.writer.sync().is_err() {
            tracing::warn!(
                self.partition,
                "last flush failed; acknowledged records were flushed before"
            );
        }
    }

    /// Writes, flushes and answers one group. Says whether it was appended.
    fn commit(&mut self, mut jobs: Vec<Job>) -> bool {
        let topic = self.topic.name();
        if !self.space.is_enough() {
            refuse(jobs, &AppendError::DiskFull);
            return false;
        }
        let time_us = clock::now_us();
        let mut batch = Vec::new();
        let mut counts = Vec::with_capacity(jobs.len());
        for job in &mut jobs {
            counts.push(job.records.len() as u32);
            batch.extend(job.records.drain(..).map(|record| Pending {
                kind: record.kind,
                time_us,
                payload: record.payload,
                digest: record.digest,
            }));
        }
        let bytes: usize = jobs.iter().map(|job| job.bytes).sum();
        let segments = self.writer.segments_begun();
        let offsets = match self.writer.append(&batch) {
            Ok(offsets) => offsets,
            Err(error) => {
                self.give_up(jobs, error);
                return false;
            }
        };
        let flush_began = Instant::now();
        let durable_end = match self.writer.sync() {
            Ok(end) => end,
            Err(error) => {
                self.give_up(jobs, error);
                return false;
            }
        };
        let done = Instant::now();
        if let Some(marker) = &self.marker {
            marker.note(durable_end);
        }
        // Readable first: who gets an answer may read at once.
        self.tail.publish(durable_end, self.writer.link());
        let mut first = offsets.start;
        for (job, count) in jobs.into_iter().zip(counts) {
            let waited = done.duration_since(job.handed_over);
            metrics::histogram!(names::APPEND_SECONDS, "topic" => topic).record(waited);
            let _ = job.answer.send(Ok(Appended {
                partition: self.partition,
                first,
                count,
            }));
            first += u64::from(count);
        }
        metrics::histogram!(names::SYNC_SECONDS, "topic" => topic).record(done - flush_began);
        metrics::histogram!(names::BATCH_RECORDS, "topic" => topic).record(batch.len() as f64);
        metrics::counter!(names::APPENDED_RECORDS, "topic" => topic).increment(batch.len() as u64);
        metrics::counter!(names::APPENDED_BYTES, "topic" => topic).increment(bytes as u64);
        let rolls = self.writer.segments_begun() - segments;
        metrics::counter!(names::SEGMENT_ROLLS, "topic" => topic).increment(rolls);
        if let Some(waker) = &self.waker {
            waker.wake_if_wanted();
        }
        true
    }

    /// Answers a group that was not made durable, and ends everything if that
    /// was more than a refusal.
    fn give_up(&mut self, jobs: Vec<Job>, error: FormatError) {
        match error {
            FormatError::Full => {
                self.space.met_full_disk();
                refuse(jobs, &AppendError::DiskFull);
            }
            FormatError::TooLarge { bytes, max, .. } => {
                refuse(jobs, &AppendError::TooLarge { bytes, max });
            }
            // The queue checks sizes, and encodes digests: a bug of ours, not of
            // the group's writers, and nothing was written.
            FormatError::BatchTooLarge { .. } | FormatError::Malformed { .. } => {
                tracing::error!(self.partition, %error, "append refused a group");
                refuse(jobs, &AppendError::Closed);
            }
            FormatError::OutcomeUnknown(_) | FormatError::Poisoned => {
                self.fail(error.to_string());
                refuse(jobs, &AppendError::OutcomeUnknown);
            }
        }
    }

    /// Covers the last batch with an empty commit frame.
    fn cover(&mut self) {
        match self.writer.idle_commit() {
            Ok(()) => {}
            // The frame is not needed for what it covers to be durable.
            Err(FormatError::Full) => self.space.met_full_disk(),
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// Closes the partition for good and says so.
    fn fail(&mut self, why: String) {
        tracing::error!(self.partition, %why, "log failed, nothing more is accepted");
        // What still waits was never touched.
        self.queue.close_refusing(&AppendError::Closed);
        self.failure.send_replace(Some(why));
    }
}

fn refuse(jobs: Vec<Job>, error: &AppendError) {
    for job in jobs {
        let _ = job.answer.send(Err(error.clone()));
    }
}
