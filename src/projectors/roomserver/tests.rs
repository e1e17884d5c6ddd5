//! Records in, records and answers out, over a real RocksDB.

mod batches;
mod harness;
mod levels;
mod redactions;
mod rooms;
mod states;
