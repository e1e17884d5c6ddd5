//! What can go wrong between a caller and a partition.
//!
//! One enum per thing that a caller does; causes that a caller treats
//! differently are variants of their own.

use std::io;
use std::path::PathBuf;

use crate::frame::FrameFault;
use crate::recovery::Evidence;

/// Why a partition was not opened for writing.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another writer of this one) has it.
    #[error("{} is locked by another writer", .0.display())]
    Locked(PathBuf),
    /// Acknowledged bytes are damaged or missing. Nothing was changed.
    #[error("log is corrupt: {0}")]
    Corrupt(Box<Evidence>),
    /// The files are not a log that this version may write to. Nothing was changed.
    #[error("{}: {why}", path.display())]
    Refused { path: PathBuf, why: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Why a batch was not appended, or not made durable.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk is full. Nothing of the batch counts; later appends may succeed.
    #[error("disk is full")]
    Full,
    /// A record is larger than the log takes. Nothing was written.
    #[error("record {index} of the batch has {bytes} bytes, the largest is {max}")]
    TooLarge {
        index: usize,
        bytes: usize,
        max: usize,
    },
    /// More records or bytes than one batch takes. Nothing was written.
    #[error("batch of {records} records and {bytes} bytes is too large")]
    BatchTooLarge { records: usize, bytes: usize },
    /// The payload is not a record of that kind, or its digest was not computed.
    #[error("record {index} of the batch is malformed")]
    Malformed { index: usize },
    /// A write or sync failed: what was not yet synced may or may not survive.
    /// The writer takes nothing more.
    #[error("log failed, what was not synced is of unknown outcome: {0}")]
    OutcomeUnknown(io::Error),
    /// An earlier failure; the writer takes nothing more.
    #[error("log is closed after an earlier failure")]
    Poisoned,
}

/// Why records could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The files begin behind the offset.
    #[error("offset {asked} is gone, the log begins at {begin}")]
    Trimmed { asked: u64, begin: u64 },
    /// The files end before the offset.
    #[error("offset {asked} is beyond the end, {end}")]
    BeyondEnd { asked: u64, end: u64 },
    /// Bytes that were read are not what was written.
    #[error("{} is damaged at byte {position}, offset {offset}: {fault}", segment.display())]
    Damaged {
        segment: PathBuf,
        position: u64,
        offset: u64,
        fault: FrameFault,
    },
    /// A file is not a segment of this log.
    #[error("{}: {why}", path.display())]
    Refused { path: PathBuf, why: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}
