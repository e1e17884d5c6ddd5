//! The logs: topics of partitions that are appended to and followed by offset.
//!
//! [`log`] is the port that writers, projectors and readers know; everything
//! else here is the embedded implementation of it on the crate `log-format`:
//! [`input`] with a thread per partition that flushes before it acknowledges
//! (and one that prepares the next segment), [`output`] written by the projector and flushed lazily,
//! [`ephemeral`] with one partition that is never flushed and kept for minutes.

mod append;
#[cfg(test)]
mod contract;
pub mod ephemeral;
mod fill;
pub mod input;
pub mod log;
mod marker;
mod open;
pub mod output;
mod partition;
mod priority;
pub mod read_only;
mod space;
mod tail;

pub use ephemeral::EphemeralLog;
pub use input::InputLog;
pub use open::{LogSettings, OpenLogError};
pub use output::{OutputLog, OutputPartition};
pub use read_only::ReadOnlyLog;
