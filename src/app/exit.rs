//! What the process's exit code tells the one who started it.

use super::data_dir::DataDirError;
use super::doors::DoorError;

/// A verb that did not succeed.
#[derive(Debug)]
pub struct Exit {
    pub code: u8,
    pub message: String,
}

/// Something failed, or a comparison found a difference.
pub const FAILED: u8 = 1;
/// Arguments or configuration are wrong. Nothing was touched.
pub const USAGE: u8 = 2;
/// Another process uses the data folder.
pub const IN_USE: u8 = 3;
/// The log is damaged or of a kind that this version does not read. Nothing was
/// changed; `engram-log verify` tells more.
pub const LOG_DAMAGED: u8 = 4;
/// A write or flush of the log failed while the server ran. What was
/// acknowledged is on disk; look at the disk before starting again.
pub const LOG_FAILED: u8 = 5;

impl Exit {
    pub fn failed(message: impl Into<String>) -> Exit {
        Exit::with(FAILED, message)
    }

    pub fn usage(message: impl Into<String>) -> Exit {
        Exit::with(USAGE, message)
    }

    pub fn with(code: u8, message: impl Into<String>) -> Exit {
        Exit {
            code,
            message: message.into(),
        }
    }
}

impl From<DataDirError> for Exit {
    fn from(error: DataDirError) -> Exit {
        let code = match error {
            DataDirError::InUse { .. } => IN_USE,
            DataDirError::OtherServer { .. } => USAGE,
            DataDirError::Io { .. } => FAILED,
        };
        Exit::with(code, error.to_string())
    }
}

impl From<DoorError> for Exit {
    fn from(error: DoorError) -> Exit {
        Exit::failed(error.to_string())
    }
}
