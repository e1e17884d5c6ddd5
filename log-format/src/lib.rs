//! All that one needs to read and write Engram's logs: bytes, segments, hash
//! chain, recovery, record types. No tokio, no RocksDB, no HTTP.
//!
//! `FORMAT.md` beside this crate specifies every byte. A writer opens a
//! partition with [`PartitionWriter::open`], a reader with
//! [`PartitionReader::open`]; [`recovery::examine`] says what state a partition
//! is in without touching it.

pub mod append;
pub mod chain;
pub mod checkpoint;
mod checkpoint_writer;
pub mod codec;
mod cut;
pub mod error;
pub mod file_system;
mod fill;
pub mod frame;
pub mod index;
mod open;
pub mod partition;
pub mod read;
pub mod record;
pub mod recovery;
mod roll;
pub mod root;
pub mod scan;
pub mod seal;
pub mod segment;
pub mod trim;
pub mod verify;

pub use append::{PartitionWriter, Pending, SyncMode, WriterConfig};
pub use error::{AppendError, OpenError, ReadError};
pub use file_system::{FileSystem, RealFileSystem};
pub use fill::Filler;
pub use partition::{LogId, Topic, Witness};
pub use read::{End, PartitionReader, StoredRecord};
pub use recovery::{Recovery, Verdict};
