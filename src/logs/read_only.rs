//! A topic read from its files alone, up to where it ended when it was opened:
//! for verification, also beside a running server. Takes no lock, writes nothing.

use log_format::partition::partition_dir;
use log_format::read::EndScan;
use log_format::root::TopicRoot;
use log_format::{LogId, PartitionReader, Topic};

use super::log::{Log, LogRecord, PartitionId, ReadError, Waiting};
use super::open::{LogSettings, OpenLogError, check_partitions};
use super::tail::Tail;

/// A topic that is not followed and not changed.
pub struct ReadOnlyLog {
    log_id: LogId,
    tails: Vec<Tail>,
}

impl ReadOnlyLog {
    /// Opens a topic; none if there is none.
    pub fn open(settings: &LogSettings, topic: Topic) -> Result<Option<ReadOnlyLog>, OpenLogError> {
        let dir = settings.topic_dir(topic);
        let root = TopicRoot::read(&*settings.fs, &dir).map_err(OpenLogError::Root)?;
        let Some(root) = root else {
            return Ok(None);
        };
        check_partitions(&dir, root.partitions, settings.partitions)?;
        let mut tails = Vec::new();
        for number in 0..root.partitions {
            let dir = partition_dir(&dir, number);
            let reader = PartitionReader::open_in(settings.fs.clone(), &dir)?;
            let end = reader.find_end(&mut EndScan::default())?;
            tails.push(Tail::new(settings.fs.clone(), reader, end.written));
        }
        let log_id = root.log_id;
        Ok(Some(ReadOnlyLog { log_id, tails }))
    }

    /// Names the log for ever.
    pub fn log_id(&self) -> LogId {
        self.log_id
    }

    fn tail(&self, partition: PartitionId) -> Result<&Tail, ReadError> {
        let found = self.tails.get(partition as usize);
        found.ok_or(ReadError::NoSuchPartition(partition))
    }
}

impl Log for ReadOnlyLog {
    fn partitions(&self) -> u32 {
        self.tails.len() as u32
    }

    fn end(&self, partition: PartitionId) -> u64 {
        self.tail(partition).map_or(0, Tail::end)
    }

    fn begin(&self, partition: PartitionId) -> u64 {
        self.tail(partition).map_or(0, Tail::begin)
    }

    fn read(
        &self,
        partition: PartitionId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, ReadError> {
        self.tail(partition)?.read(from, max_bytes)
    }

    fn link_before(&self, partition: PartitionId, offset: u64) -> Result<[u8; 32], ReadError> {
        self.tail(partition)?.link_before(offset)
    }

    /// Never resolves beyond the end: nothing here follows the files.
    fn wait_beyond(&self, partition: PartitionId, offset: u64) -> Waiting<'_> {
        match self.tail(partition) {
            Ok(tail) => tail.wait_beyond(offset),
            Err(_) => Box::pin(std::future::pending()),
        }
    }

    fn trim(&self, _: PartitionId, _: u64) -> Result<(), ReadError> {
        Err(ReadError::Io(std::io::ErrorKind::ReadOnlyFilesystem.into()))
    }
}
