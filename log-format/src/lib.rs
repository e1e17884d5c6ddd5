//! All that one needs to read and write Engram's logs: bytes, segments, hash
//! chain, recovery, record types. No tokio, no RocksDB, no HTTP.
//!
//! `FORMAT.md` beside this crate specifies every byte.

pub mod codec;
pub mod record;
