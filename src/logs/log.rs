//! The `Log` port: append a batch, read from an offset, follow the end, trim.
//!
//! One contract test-suite covers every implementation. The port promises
//! increasing offsets; only the embedded log promises dense ones. Nothing here
//! assumes that the reader shares memory with the writer.

use std::future::Future;
use std::pin::Pin;

use log_format::record::{Envelope, EnvelopeError, Kind, NewEnvelope, Source};

/// Number of a partition within its topic, from 0.
pub type PartitionId = u32;

/// A record that a writer hands over, encoded and digested by the handing task
/// so that the one appending thread does neither.
#[derive(Debug)]
pub struct NewRecord {
    pub kind: Kind,
    pub payload: Vec<u8>,
    /// [`Envelope::digest`] of the payload.
    pub digest: [u8; 32],
}

impl NewRecord {
    /// Encodes and digests an envelope.
    pub fn new(kind: Kind, source: Source, envelope: &NewEnvelope<'_>) -> NewRecord {
        let payload = envelope.encode(kind, source);
        // What was just encoded parses; were it not so, the zero digest would
        // make the append refuse the record instead of chaining a wrong one.
        let digest = Envelope::parse(&payload)
            .map(|read| read.digest())
            .unwrap_or_default();
        NewRecord {
            kind,
            payload,
            digest,
        }
    }
}

/// A record as it is read back.
#[derive(Clone, Debug)]
pub struct LogRecord {
    pub offset: u64,
    /// Append time in microseconds since the epoch; of *output* records the source record's.
    pub time_us: u64,
    pub payload: bytes::Bytes,
}

impl LogRecord {
    /// The payload, read in place.
    pub fn envelope(&self) -> Result<Envelope<'_>, EnvelopeError> {
        Envelope::parse(&self.payload)
    }
}

/// Where a durable batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub partition: PartitionId,
    /// Offset of the batch's first record; the others follow without a hole.
    pub first: u64,
    pub count: u32,
}

impl Appended {
    /// Offset of the batch's last record, at which its outcome is whole.
    pub fn last(&self) -> u64 {
        self.first + u64::from(self.count.saturating_sub(1))
    }
}

/// Why a batch was not appended.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AppendError {
    /// More bytes wait than the queue allows; try again shortly.
    #[error("the append queue is full")]
    Overloaded,
    /// The disk is below its reserve. Nothing was written.
    #[error("the disk is full")]
    DiskFull,
    /// A record is larger than the log takes.
    #[error("a record of {bytes} bytes exceeds the largest, {max}")]
    TooLarge { bytes: usize, max: usize },
    /// Nothing more is accepted; nothing of this batch was written.
    #[error("the log is closed")]
    Closed,
    /// The write or its sync failed: the batch may or may not survive a restart.
    #[error("the log failed while the batch was being made durable")]
    OutcomeUnknown,
}

/// Why records could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("partition {0} does not exist")]
    NoSuchPartition(PartitionId),
    /// The records were trimmed away.
    #[error("offset {asked} is gone, the log begins at {begin}")]
    Trimmed { asked: u64, begin: u64 },
    #[error("log is damaged: {0}")]
    Damaged(String),
    #[error("log could not be read: {0}")]
    Io(#[from] std::io::Error),
}

/// Resolves once the batch is durable, or failed.
pub type AppendTicket = Pin<Box<dyn Future<Output = Result<Appended, AppendError>> + Send>>;

/// A future without a value.
pub type Waiting<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A topic that can be read and followed.
pub trait Log: Send + Sync {
    /// How many partitions the topic has; fixed for the life of the log.
    fn partitions(&self) -> u32;

    /// Offset behind the last readable record. *Input* records are readable
    /// once durable, *output* records once appended.
    fn end(&self, partition: PartitionId) -> u64;

    /// Offset of the first record that is still there.
    fn begin(&self, partition: PartitionId) -> u64;

    /// Records from offset `from` on, as many as fit `max_bytes`, at least one
    /// if there is one; none at the end.
    fn read(
        &self,
        partition: PartitionId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, ReadError>;

    /// The chain link behind the record before `offset`, which names the log's
    /// whole content up to there.
    fn link_before(&self, partition: PartitionId, offset: u64) -> Result<[u8; 32], ReadError>;

    /// Resolves when [`Log::end`] exceeds `offset`.
    fn wait_beyond(&self, partition: PartitionId, offset: u64) -> Waiting<'_>;

    /// Removes whole segments below `before`; keeps what shares a segment with it.
    fn trim(&self, partition: PartitionId, before: u64) -> Result<(), ReadError>;
}

/// A log that writers append to: *input* and *ephemeral*.
pub trait Append: Log {
    /// Queues a batch that becomes durable as one. Never blocks; the order of
    /// calls is the order of offsets within a partition.
    fn enqueue(
        &self,
        partition: PartitionId,
        batch: Vec<NewRecord>,
    ) -> Result<AppendTicket, AppendError>;

    /// The partition of a key (FORMAT.md): the first eight bytes of its BLAKE3,
    /// little-endian, modulo the number of partitions.
    fn partition_of(&self, key: &str) -> PartitionId {
        partition_of(key, self.partitions())
    }
}

/// See [`Append::partition_of`].
pub fn partition_of(key: &str, partitions: u32) -> PartitionId {
    let hash = blake3::hash(key.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    (u64::from_le_bytes(first) % u64::from(partitions.max(1))) as u32
}
