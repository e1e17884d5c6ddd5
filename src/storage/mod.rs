//! RocksDB at one offset: everything here can be thrown away and rebuilt by
//! replaying the logs.
//!
//! Keys and values are bytes; who owns which table stands in [`columns`].

pub mod batch;
pub mod columns;
mod flush;
pub mod keys;
pub mod open;
pub mod overlay;
