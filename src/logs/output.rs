//! The *output* topic: what projectors made of *input*.
//!
//! Derived, so flushed when asked and not before an answer; damaged, it is set
//! aside and made again. One projector thread appends; readers follow at once.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use log_format::partition::partition_dir;
use log_format::root::TopicRoot;
use log_format::{
    AppendError as FormatError, LogId, OpenError, PartitionReader, PartitionWriter, Pending,
    Recovery, Topic,
};

use super::log::{AppendError, Log, LogRecord, PartitionId, ReadError, Waiting};
use super::open::{LogSettings, OpenLogError, check_partitions, set_aside};
use super::tail::Tail;
use crate::telemetry::names;

/// The value of the label `topic`.
const TOPIC: &str = "output";

/// The embedded *output* log of one epoch.
pub struct OutputLog {
    settings: LogSettings,
    root: TopicRoot,
    partitions: Vec<Partition>,
}

struct Partition {
    tail: Tail,
    dir: PathBuf,
    /// `None` after a cut failed half-way. Held for an append or a flush; no
    /// other lock is taken inside.
    writer: Mutex<Option<PartitionWriter>>,
}

/// How a partition of *output* was found.
#[derive(Clone, Debug)]
pub struct OutputPartition {
    /// Offset behind the last record.
    pub end: u64,
    /// Chain link there.
    pub link: [u8; 32],
    /// Where the damaged files were put, if the partition begins anew.
    pub set_aside: Option<PathBuf>,
}

impl OutputLog {
    /// Opens every partition of the *output* that belongs to `input` and
    /// `epoch`, making it if there is none. What is of another log or epoch, or
    /// damaged, is set aside (renamed) and reported.
    pub fn open(
        settings: &LogSettings,
        input: LogId,
        epoch: u64,
    ) -> Result<(OutputLog, Vec<OutputPartition>), OpenLogError> {
        let fs = &settings.fs;
        let topic_dir = settings.topic_dir(Topic::Output);
        let wanted = TopicRoot::new_output(input, epoch, settings.partitions);
        let root = match TopicRoot::read(&**fs, &topic_dir) {
            Ok(Some(root)) if root.log_id == wanted.log_id => root,
            Ok(None) => {
                let mut root = wanted;
                root.write(&**fs, &topic_dir).map_err(OpenLogError::Root)?;
                root
            }
            Ok(Some(_)) | Err(OpenError::Refused { .. }) => {
                set_aside(settings, &topic_dir).map_err(OpenLogError::Root)?;
                let mut root = wanted;
                root.write(&**fs, &topic_dir).map_err(OpenLogError::Root)?;
                root
            }
            Err(error) => return Err(OpenLogError::Root(error)),
        };
        check_partitions(&topic_dir, root.partitions, settings.partitions)?;
        let mut log = OutputLog {
            settings: settings.clone(),
            root,
            partitions: Vec::new(),
        };
        let mut found = Vec::new();
        for number in 0..log.root.partitions {
            let (partition, state) = log.open_partition(number)?;
            log.partitions.push(partition);
            found.push(state);
        }
        Ok((log, found))
    }

    fn open_partition(&self, number: u32) -> Result<(Partition, OutputPartition), OpenLogError> {
        let dir = partition_dir(&self.settings.topic_dir(Topic::Output), number);
        let failed = |source| OpenLogError::Partition {
            partition: number,
            source,
        };
        let mut aside = None;
        let (writer, recovery) = match self.open_writer(&dir, number, None) {
            Err(error @ (OpenError::Corrupt(_) | OpenError::Refused { .. })) => {
                tracing::error!(partition = number, %error, "output is damaged and set aside");
                aside = Some(set_aside(&self.settings, &dir).map_err(failed)?);
                self.open_writer(&dir, number, None).map_err(failed)?
            }
            opened => opened.map_err(failed)?,
        };
        if let Recovery::Torn { end, cut_bytes, .. } = &recovery {
            tracing::info!(
                partition = number,
                end,
                cut_bytes,
                "torn tail of output was cut"
            );
        }
        let reader = PartitionReader::open_in(self.settings.fs.clone(), &dir)?;
        let state = OutputPartition {
            end: writer.end(),
            link: writer.link(),
            set_aside: aside,
        };
        let partition = Partition {
            tail: Tail::new(self.settings.fs.clone(), reader, writer.end()),
            dir,
            writer: Mutex::new(Some(writer)),
        };
        Ok((partition, state))
    }

    fn open_writer(
        &self,
        dir: &Path,
        number: u32,
        cut: Option<u64>,
    ) -> Result<(PartitionWriter, Recovery), OpenError> {
        let fs = self.settings.fs.clone();
        let config = self.settings.output_config();
        let id = self.root.log_id;
        match cut {
            None => PartitionWriter::open(fs, dir, config, id, number, None),
            Some(end) => PartitionWriter::open_cut(fs, dir, config, id, number, end),
        }
    }

    /// Names the log for ever: a function of *input*'s name and the epoch.
    pub fn log_id(&self) -> LogId {
        self.root.log_id
    }

    /// Number of the rebuild that this log comes from.
    pub fn epoch(&self) -> u64 {
        self.root.epoch
    }

    /// Appends a batch and makes it readable; durable after the next
    /// [`OutputLog::sync`]. Times are those of the source records.
    ///
    /// Returns the offset behind it.
    pub fn append(&self, partition: PartitionId, batch: &[Pending]) -> Result<u64, AppendError> {
        let found = self.partition(partition).map_err(|_| AppendError::Closed)?;
        let mut writer = found.writer();
        let writer = writer.as_mut().ok_or(AppendError::Closed)?;
        let segments = writer.segments_begun();
        let offsets = writer.append(batch).map_err(append_error)?;
        found.tail.publish(offsets.end, writer.link());
        let bytes: usize = batch.iter().map(|record| record.payload.len()).sum();
        metrics::counter!(names::APPENDED_RECORDS, "topic" => TOPIC).increment(batch.len() as u64);
        metrics::counter!(names::APPENDED_BYTES, "topic" => TOPIC).increment(bytes as u64);
        let rolls = writer.segments_begun() - segments;
        metrics::counter!(names::SEGMENT_ROLLS, "topic" => TOPIC).increment(rolls);
        Ok(offsets.end)
    }

    /// Flushes what was appended; returns the offset behind what is durable.
    pub fn sync(&self, partition: PartitionId) -> Result<u64, AppendError> {
        let found = self.partition(partition).map_err(|_| AppendError::Closed)?;
        let mut writer = found.writer();
        let writer = writer.as_mut().ok_or(AppendError::Closed)?;
        let began = Instant::now();
        let end = writer.sync().map_err(append_error)?;
        metrics::histogram!(names::SYNC_SECONDS, "topic" => TOPIC).record(began.elapsed());
        Ok(end)
    }

    /// Offset behind the last record that is durable.
    pub fn durable_end(&self, partition: PartitionId) -> u64 {
        let found = self.partition(partition).ok();
        found.map_or(0, |found| {
            found
                .writer()
                .as_ref()
                .map_or(0, PartitionWriter::durable_end)
        })
    }

    /// Chain link behind the last record; `None` for a partition that is not there.
    pub fn link(&self, partition: PartitionId) -> Option<[u8; 32]> {
        let found = self.partition(partition).ok()?;
        found.writer().as_ref().map(PartitionWriter::link)
    }

    /// Takes off every record from `end` on. Before readers start.
    pub fn cut(&self, partition: PartitionId, end: u64) -> Result<(), OpenLogError> {
        let failed = |source| OpenLogError::Partition { partition, source };
        let found = self.partition(partition).map_err(|_| {
            failed(OpenError::Refused {
                path: self.settings.topic_dir(Topic::Output),
                why: "no such partition".to_owned(),
            })
        })?;
        let mut writer = found.writer();
        // Gives the lock file back before it is taken again.
        *writer = None;
        let (cut, _) = self
            .open_writer(&found.dir, partition, Some(end))
            .map_err(failed)?;
        let end = cut.end();
        *writer = Some(cut);
        found.tail.cut_back(end).map_err(|error| {
            failed(OpenError::Refused {
                path: found.dir.clone(),
                why: error.to_string(),
            })
        })
    }

    fn partition(&self, partition: PartitionId) -> Result<&Partition, ReadError> {
        let found = self.partitions.get(partition as usize);
        found.ok_or(ReadError::NoSuchPartition(partition))
    }
}

impl Partition {
    fn writer(&self) -> MutexGuard<'_, Option<PartitionWriter>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for OutputLog {
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

fn append_error(error: FormatError) -> AppendError {
    match error {
        FormatError::Full => AppendError::DiskFull,
        FormatError::TooLarge { bytes, max, .. } => AppendError::TooLarge { bytes, max },
        FormatError::BatchTooLarge { bytes, .. } => AppendError::TooLarge {
            bytes,
            max: log_format::append::BATCH_BYTES_MAX,
        },
        FormatError::Malformed { .. } | FormatError::Poisoned => AppendError::Closed,
        FormatError::OutcomeUnknown(_) => AppendError::OutcomeUnknown,
    }
}
