//! What can go wrong, and the exit code that says so.

use std::io;
use std::path::PathBuf;

use log_format::{OpenError, ReadError};

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Clean = 0,
    /// The tail was never acknowledged and will be cut at the next start.
    Torn = 1,
    /// Acknowledged records are damaged or missing.
    Corrupt = 2,
    /// Not a log that this version can judge.
    Refused = 3,
    /// A file could not be read.
    Unreadable = 4,
    Usage = 64,
}

/// Why a verb gave up.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error(
        "{0} is no log, topic, partition or segment: give a data folder's log/ or something in it"
    )]
    NotALog(PathBuf),
    #[error("{0}")]
    Refused(#[from] OpenError),
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("output could not be written: {0}")]
    Print(#[from] io::Error),
    #[error("PATH holds {0} partitions: say which with --partition")]
    WhichPartition(usize),
    #[error("{path} has no partition {partition}")]
    NoPartition { path: PathBuf, partition: u32 },
    #[error("offset {offset} is not in {path}: it holds {begin} to {end}")]
    NoOffset {
        path: PathBuf,
        offset: u64,
        begin: u64,
        end: u64,
    },
    #[error("no record of {0} found")]
    NoEvent(String),
    #[error("no record of the room {0} found up to that moment")]
    NoRoom(String),
    #[error("{0} holds no output topic, which is where states are read")]
    NoOutput(PathBuf),
    #[error("the first moment is later than the second")]
    Moments,
    #[error("{0:?} is no public key: give 64 hex digits")]
    Key(String),
}

impl ToolError {
    /// The exit code.
    pub fn status(&self) -> Status {
        match self {
            ToolError::NotALog(_) | ToolError::Refused(_) => Status::Refused,
            ToolError::Read(ReadError::Damaged { .. }) => Status::Corrupt,
            ToolError::Read(_) | ToolError::Io { .. } | ToolError::Print(_) => Status::Unreadable,
            ToolError::NoOffset { .. } | ToolError::NoEvent(_) | ToolError::NoRoom(_) => {
                Status::Unreadable
            }
            ToolError::WhichPartition(_)
            | ToolError::NoPartition { .. }
            | ToolError::NoOutput(_)
            | ToolError::Moments
            | ToolError::Key(_) => Status::Usage,
        }
    }

    /// Whether the reader of our output went away.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, ToolError::Print(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
