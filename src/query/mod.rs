//! The read-only window into what the projectors derived.
//!
//! Traits and answer types only: projectors implement them, writers, readers
//! and doors ask them. Nobody here knows RocksDB or the log.

pub mod authority;
pub mod ids;
pub mod outcome;
pub mod rooms;
pub mod tokens;
pub mod users;
