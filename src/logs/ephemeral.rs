//! The *ephemeral* topic: typing and presence, true for minutes.
//!
//! One partition, since a sync token names one position in it. Written by a
//! thread like *input*, but never flushed: a power cut may take all of it, and
//! a log that is found damaged is set aside and begun anew. A restart goes on
//! behind what is there. It is kept for a time, and within a size.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log_format::partition::partition_dir;
use log_format::root::TopicRoot;
use log_format::{LogId, OpenError, PartitionReader, PartitionWriter, Topic};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::append::Appender;
use super::log::{
    Append, AppendError, AppendTicket, Appended, Log, LogRecord, NewRecord, PartitionId, ReadError,
    Waiting,
};
use super::open::{LogSettings, OpenLogError, set_aside};
use super::partition::Queue;
use super::space::Space;
use super::tail::Tail;
use crate::crypto::random;

/// The one partition.
pub const PARTITION: PartitionId = 0;

/// How long records are kept at least: whoever follows the log is behind by
/// milliseconds, and a restart takes less.
pub const KEPT_FOR: Duration = Duration::from_secs(10 * 60);
/// Payload bytes above which records go before their time: some hundred
/// thousand records.
pub const KEPT_BYTES_MAX: u64 = 32 << 20;
/// Size of a segment. The newest one always stays, so this much may be older
/// than [`KEPT_FOR`] where little happens.
const SEGMENT_BYTES: u64 = 256 << 10;
/// Payload bytes that may wait to be written: a tenth of a second of a slow disk.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// How often an end is noted, in time and payload bytes: [`KEPT_FOR`] and
/// [`KEPT_BYTES_MAX`] are kept to this.
const NOTED_EVERY: Duration = Duration::from_secs(30);
const NOTED_EVERY_BYTES: u64 = 1 << 20;

const _: () = assert!(SEGMENT_BYTES < KEPT_BYTES_MAX);

/// The embedded *ephemeral* log.
pub struct EphemeralLog {
    queue: Arc<Queue>,
    tail: Arc<Tail>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Payload bytes that were handed over since the opening.
    bytes: AtomicU64,
    /// The oldest first, at least [`NOTED_EVERY`] or [`NOTED_EVERY_BYTES`] apart.
    marks: Mutex<VecDeque<Mark>>,
}

/// Where the log stood at a time.
struct Mark {
    at: Instant,
    bytes: u64,
    end: u64,
}

impl EphemeralLog {
    /// Opens the log, making it if there is none, and starts its thread.
    pub fn open(settings: &LogSettings) -> Result<EphemeralLog, OpenLogError> {
        let fs = &settings.fs;
        let topic_dir = settings.topic_dir(Topic::Ephemeral);
        let root = match TopicRoot::read(&**fs, &topic_dir) {
            Ok(Some(root)) if root.partitions == 1 => root,
            Ok(None) => new_root(settings)?,
            Ok(Some(_)) | Err(OpenError::Refused { .. }) => {
                set_aside(settings, &topic_dir).map_err(OpenLogError::Root)?;
                new_root(settings)?
            }
            Err(error) => return Err(OpenLogError::Root(error)),
        };
        let dir = partition_dir(&topic_dir, PARTITION);
        let writer = open_writer(settings, &root)?;
        let reader = PartitionReader::open_in(fs.clone(), &dir)?;
        let tail = Arc::new(Tail::new(fs.clone(), reader, writer.end()));
        let queue = Arc::new(Queue::bounded(QUEUE_BYTES_MAX));
        let appender = Appender {
            topic: Topic::Ephemeral,
            partition: PARTITION,
            writer,
            queue: queue.clone(),
            tail: tail.clone(),
            space: Space::new(fs.clone(), dir, settings.reserve_bytes),
            marker: None,
            waker: None,
            // Nobody follows it: without this log the server goes on, and says
            // so to whoever types.
            failure: watch::Sender::new(None),
        };
        let thread = std::thread::Builder::new()
            .name("ephemeral".to_owned())
            .spawn(move || appender.run())
            .map_err(OpenLogError::Thread)?;
        Ok(EphemeralLog {
            queue,
            tail,
            thread: Mutex::new(Some(thread)),
            bytes: AtomicU64::new(0),
            marks: Mutex::default(),
        })
    }

    /// Payload bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// Up to where records are too old, or too many, at most once for each
    /// offset: what of them is needed still is to be appended again, and the
    /// others trimmed. To be asked every few seconds.
    pub fn due(&self, now: Instant) -> Option<u64> {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let mut marks = self.marks.lock();
        let is_new = |mark: &Mark| {
            now.duration_since(mark.at) >= NOTED_EVERY || bytes - mark.bytes >= NOTED_EVERY_BYTES
        };
        if marks.back().is_none_or(is_new) {
            marks.push_back(Mark {
                at: now,
                bytes,
                end: self.tail.end(),
            });
        }
        let mut before = None;
        while let Some(mark) = marks.front()
            && (now.duration_since(mark.at) >= KEPT_FOR || bytes - mark.bytes >= KEPT_BYTES_MAX)
        {
            before = Some(mark.end);
            marks.pop_front();
        }
        before
    }

    /// Takes nothing more, writes what waits, and gives the files back. Blocks
    /// until that is done.
    pub fn close(&self) {
        self.queue.close();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("thread of the ephemeral log panicked");
        }
    }
}

fn new_root(settings: &LogSettings) -> Result<TopicRoot, OpenLogError> {
    let mut root = TopicRoot::new(Topic::Ephemeral, LogId(random::bytes()), 1);
    root.write(&*settings.fs, &settings.topic_dir(Topic::Ephemeral))
        .map_err(OpenLogError::Root)?;
    Ok(root)
}

/// What was not flushed may be found in any state after a power cut.
fn open_writer(settings: &LogSettings, root: &TopicRoot) -> Result<PartitionWriter, OpenLogError> {
    let dir = partition_dir(&settings.topic_dir(Topic::Ephemeral), PARTITION);
    let open = || {
        let config = settings.ephemeral_config(settings.segment_bytes.min(SEGMENT_BYTES));
        PartitionWriter::open(
            settings.fs.clone(),
            &dir,
            config,
            root.log_id,
            PARTITION,
            None,
        )
    };
    let failed = |source| OpenLogError::Partition {
        partition: PARTITION,
        source,
    };
    let opened = match open() {
        Err(error @ (OpenError::Corrupt(_) | OpenError::Refused { .. })) => {
            tracing::warn!(%error, "ephemeral log is damaged, is set aside and begins anew");
            set_aside(settings, &dir).map_err(failed)?;
            open()
        }
        opened => opened,
    };
    opened.map(|(writer, _)| writer).map_err(failed)
}

impl Drop for EphemeralLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl EphemeralLog {
    fn check(&self, partition: PartitionId) -> Result<&Tail, ReadError> {
        match partition {
            PARTITION => Ok(&self.tail),
            _ => Err(ReadError::NoSuchPartition(partition)),
        }
    }
}

impl Log for EphemeralLog {
    fn partitions(&self) -> u32 {
        1
    }

    fn end(&self, partition: PartitionId) -> u64 {
        self.check(partition).map_or(0, Tail::end)
    }

    fn begin(&self, partition: PartitionId) -> u64 {
        self.check(partition).map_or(0, Tail::begin)
    }

    fn read(
        &self,
        partition: PartitionId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, ReadError> {
        self.check(partition)?.read(from, max_bytes)
    }

    fn link_before(&self, partition: PartitionId, offset: u64) -> Result<[u8; 32], ReadError> {
        self.check(partition)?.link_before(offset)
    }

    fn wait_beyond(&self, partition: PartitionId, offset: u64) -> Waiting<'_> {
        match self.check(partition) {
            Ok(tail) => tail.wait_beyond(offset),
            Err(_) => Box::pin(std::future::pending()),
        }
    }

    fn trim(&self, partition: PartitionId, before: u64) -> Result<(), ReadError> {
        self.check(partition)?.trim(before)
    }
}

impl Append for EphemeralLog {
    fn enqueue(
        &self,
        partition: PartitionId,
        batch: Vec<NewRecord>,
    ) -> Result<AppendTicket, AppendError> {
        self.check(partition).map_err(|_| AppendError::Closed)?;
        let bytes: usize = batch.iter().map(|record| record.payload.len()).sum();
        let answered = self.queue.push(batch)?;
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(Box::pin(async move {
            let lost: Result<Appended, AppendError> = Err(AppendError::OutcomeUnknown);
            answered.await.unwrap_or(lost)
        }))
    }
}
