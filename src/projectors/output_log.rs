//! The port through which the merge stage writes *output*: synchronously, on
//! the partition's own thread, flushed lazily.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use log_format::record::Envelope;

use crate::logs;
use crate::logs::log::{AppendError, Log, LogRecord, NewRecord, PartitionId, ReadError, Waiting};

/// An *output* record, with the time of its source record.
pub use log_format::Pending as OutputRecord;

/// *Output* as its one writer sees it. Partition `i` is written only from
/// partition `i` of *input*, by one thread.
pub trait OutputLog: Log {
    /// Appends behind the end, all or nothing, readable when it returns, not synced.
    ///
    /// Errors: after `DiskFull` nothing was written and the same may be tried
    /// again; any other error is final.
    fn append(&self, partition: u32, batch: &[OutputRecord]) -> Result<(), AppendError>;

    /// Makes what was appended durable; the offset behind it.
    fn sync(&self, partition: u32) -> Result<u64, AppendError>;

    /// Offset behind the last durable record. Asked for each group: never waits.
    fn synced_end(&self, partition: u32) -> u64;

    /// Takes the records from `end` on off the log. Before readers start.
    fn cut(&self, partition: u32, end: u64) -> io::Result<()>;
}

/// A record that a fold made, at the time of its source.
pub fn made(time_us: u64, record: NewRecord) -> OutputRecord {
    OutputRecord {
        kind: record.kind,
        time_us,
        payload: record.payload,
        digest: record.digest,
    }
}

/// The embedded *output* log. It knows what it synced without asking the
/// log's writer, which a sync in progress would make wait.
pub struct EmbeddedOutput {
    log: Arc<logs::OutputLog>,
    synced: Vec<AtomicU64>,
}

impl EmbeddedOutput {
    /// Takes over the writing of `log`, all of which is durable as it was opened.
    pub fn new(log: Arc<logs::OutputLog>) -> EmbeddedOutput {
        let ends = (0..log.partitions()).map(|partition| AtomicU64::new(log.end(partition)));
        EmbeddedOutput {
            synced: ends.collect(),
            log,
        }
    }
}

impl Log for EmbeddedOutput {
    fn partitions(&self) -> u32 {
        self.log.partitions()
    }

    fn end(&self, partition: PartitionId) -> u64 {
        self.log.end(partition)
    }

    fn begin(&self, partition: PartitionId) -> u64 {
        self.log.begin(partition)
    }

    fn read(
        &self,
        partition: PartitionId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, ReadError> {
        self.log.read(partition, from, max_bytes)
    }

    fn link_before(&self, partition: PartitionId, offset: u64) -> Result<[u8; 32], ReadError> {
        self.log.link_before(partition, offset)
    }

    fn wait_beyond(&self, partition: PartitionId, offset: u64) -> Waiting<'_> {
        self.log.wait_beyond(partition, offset)
    }

    fn trim(&self, partition: PartitionId, before: u64) -> Result<(), ReadError> {
        self.log.trim(partition, before)
    }
}

impl OutputLog for EmbeddedOutput {
    fn append(&self, partition: u32, batch: &[OutputRecord]) -> Result<(), AppendError> {
        self.log.append(partition, batch).map(|_| ())
    }

    fn sync(&self, partition: u32) -> Result<u64, AppendError> {
        let end = self.log.sync(partition)?;
        if let Some(synced) = self.synced.get(partition as usize) {
            synced.fetch_max(end, Ordering::AcqRel);
        }
        Ok(end)
    }

    fn synced_end(&self, partition: u32) -> u64 {
        let synced = self.synced.get(partition as usize);
        synced.map_or(0, |synced| synced.load(Ordering::Acquire))
    }

    fn cut(&self, partition: u32, end: u64) -> io::Result<()> {
        self.log.cut(partition, end).map_err(io::Error::other)?;
        if let Some(synced) = self.synced.get(partition as usize) {
            synced.fetch_min(end, Ordering::AcqRel);
        }
        Ok(())
    }
}

/// The first record in which what is in *output* differs from what the fold made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub partition: u32,
    pub output_offset: u64,
    pub what: String,
}

/// Compares records that the fold made with those that *output* holds from
/// offset `from` on, as far as it goes. How many were compared, or the first difference.
pub fn compare(
    output: &dyn Log,
    partition: u32,
    from: u64,
    made: &[OutputRecord],
) -> Result<Result<usize, Difference>, ReadError> {
    let mut compared = 0;
    while compared < made.len() {
        let at = from + compared as u64;
        let there = output.read(partition, at, READ_BYTES)?;
        if there.is_empty() {
            break;
        }
        for (there, made) in there.iter().zip(made.get(compared..).unwrap_or_default()) {
            let different = |what: String| Difference {
                partition,
                output_offset: there.offset,
                what,
            };
            let digest = Envelope::parse(&there.payload).map(|read| read.digest());
            let what = match digest {
                Err(error) => format!("the record on disk is no envelope: {error}"),
                Ok(digest) if digest != made.digest => "payload digests differ".to_owned(),
                Ok(_) if there.time_us != made.time_us => "times differ".to_owned(),
                Ok(_) => {
                    compared += 1;
                    continue;
                }
            };
            return Ok(Err(different(what)));
        }
    }
    Ok(Ok(compared))
}

/// How much of a log is read at once.
pub const READ_BYTES: usize = 1 << 20;
