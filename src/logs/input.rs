//! The *input* topic: what writers append, durable before it is acknowledged.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use log_format::partition::partition_dir;
use log_format::{LogId, PartitionReader, PartitionWriter, Recovery, SyncMode, Topic, Witness};
use tokio::sync::watch;

use super::append::Appender;
use super::fill::{FillSettings, Filling};
use super::log::{
    Append, AppendError, AppendTicket, Appended, Log, LogRecord, NewRecord, PartitionId, ReadError,
    Waiting,
};
use super::marker::SyncedMarker;
use super::open::{LogSettings, OpenLogError, input_root};
use super::partition::Queue;
use super::space::Space;
use super::tail::Tail;

/// The embedded *input* log.
pub struct InputLog {
    log_id: LogId,
    partitions: Vec<Partition>,
    failure: watch::Sender<Option<String>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Ended after `threads`.
    fillings: Mutex<Vec<Filling>>,
}

struct Partition {
    queue: Arc<Queue>,
    tail: Arc<Tail>,
    dir: PathBuf,
}

impl InputLog {
    /// Opens every partition, making the log if there is none, and starts their
    /// threads. Second value: what recovery did, by partition.
    ///
    /// `known`: by partition, what the store says was durable (may be shorter).
    pub fn open(
        settings: &LogSettings,
        known: &[Option<Witness>],
    ) -> Result<(InputLog, Vec<Recovery>), OpenLogError> {
        let root = input_root(settings)?;
        let topic_dir = settings.topic_dir(Topic::Input);
        let failure = watch::Sender::new(None);
        let mut log = InputLog {
            log_id: root.log_id,
            partitions: Vec::new(),
            failure: failure.clone(),
            threads: Mutex::default(),
            fillings: Mutex::default(),
        };
        let mut recoveries = Vec::new();
        for number in 0..root.partitions {
            let dir = partition_dir(&topic_dir, number);
            let (mut writer, recovery) = PartitionWriter::open(
                settings.fs.clone(),
                &dir,
                settings.input_config(),
                root.log_id,
                number,
                known.get(number as usize).copied().flatten(),
            )
            .map_err(|source| OpenLogError::Partition {
                partition: number,
                source,
            })?;
            let reader = PartitionReader::open_in(settings.fs.clone(), &dir)?;
            let tail = Arc::new(Tail::new(settings.fs.clone(), reader, writer.end()));
            let queue = Arc::new(Queue::default());
            // With the sync switched off nothing is ever flushed, and the marker says so.
            let marker = (settings.synced_marker && settings.sync == SyncMode::Real)
                .then(|| SyncedMarker::open(&topic_dir, number).map_err(OpenLogError::Marker))
                .transpose()?;
            let filling = writer.filler().map(|filler| {
                let room = FillSettings {
                    fs: settings.fs.clone(),
                    dir: dir.clone(),
                    reserve_bytes: settings.reserve_bytes,
                };
                Filling::start(number, filler, room).map_err(OpenLogError::Thread)
            });
            let (filling, waker) = filling.transpose()?.unzip();
            log.fillings().extend(filling);
            let appender = Appender {
                topic: Topic::Input,
                partition: number,
                writer,
                queue: queue.clone(),
                tail: tail.clone(),
                space: Space::new(settings.fs.clone(), dir.clone(), settings.reserve_bytes),
                marker,
                waker,
                failure: failure.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("append-{number}"))
                .spawn(move || appender.run())
                .map_err(OpenLogError::Thread)?;
            log.threads().push(thread);
            log.partitions.push(Partition { queue, tail, dir });
            recoveries.push(recovery);
        }
        Ok((log, recoveries))
    }

    /// Names the log for ever.
    pub fn log_id(&self) -> LogId {
        self.log_id
    }

    /// Folder of a partition, for tools and tests.
    pub fn partition_dir(&self, partition: PartitionId) -> Option<&std::path::Path> {
        Some(&self.partitions.get(partition as usize)?.dir)
    }

    /// Payload bytes that wait to be written, over all partitions.
    pub fn queued_bytes(&self) -> usize {
        self.partitions
            .iter()
            .map(|partition| partition.queue.bytes())
            .sum()
    }

    /// Resolves with the reason once the log failed for good: the process is to
    /// say so and exit.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // The sender lives in `self`.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes nothing more, writes what waits, flushes, and gives the files back.
    /// Blocks until that is done.
    pub fn close(&self) {
        for partition in &self.partitions {
            partition.queue.close();
        }
        let threads = std::mem::take(&mut *self.threads());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("append thread panicked");
            }
        }
        // Each waits for its thread.
        self.fillings().clear();
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fillings(&self) -> std::sync::MutexGuard<'_, Vec<Filling>> {
        self.fillings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn partition(&self, partition: PartitionId) -> Result<&Partition, ReadError> {
        let found = self.partitions.get(partition as usize);
        found.ok_or(ReadError::NoSuchPartition(partition))
    }
}

impl Drop for InputLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl Log for InputLog {
    fn partitions(&self) -> u32 {
        self.partitions.len() as u32
    }

    fn end(&self, partition: PartitionId) -> u64 {
        self.partition(partition)
            .map_or(0, |found| found.tail.end())
    }

    fn begin(&self, partition: PartitionId) -> u64 {
        self.partition(partition)
            .map_or(0, |found| found.tail.begin())
    }

    fn read(
        &self,
        partition: PartitionId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, ReadError> {
        self.partition(partition)?.tail.read(from, max_bytes)
    }

    fn link_before(&self, partition: PartitionId, offset: u64) -> Result<[u8; 32], ReadError> {
        self.partition(partition)?.tail.link_before(offset)
    }

    fn wait_beyond(&self, partition: PartitionId, offset: u64) -> Waiting<'_> {
        match self.partition(partition) {
            Ok(found) => found.tail.wait_beyond(offset),
            Err(_) => Box::pin(std::future::pending()),
        }
    }

    fn trim(&self, partition: PartitionId, before: u64) -> Result<(), ReadError> {
        self.partition(partition)?.tail.trim(before)
    }
}

impl Append for InputLog {
    fn enqueue(
        &self,
        partition: PartitionId,
        batch: Vec<NewRecord>,
    ) -> Result<AppendTicket, AppendError> {
        let found = self.partition(partition).map_err(|_| AppendError::Closed)?;
        let answered = found.queue.push(batch)?;
        Ok(Box::pin(async move {
            let lost: Result<Appended, AppendError> = Err(AppendError::OutcomeUnknown);
            // The thread answers every batch; if it died, nobody knows.
            answered.await.unwrap_or(lost)
        }))
    }
}
