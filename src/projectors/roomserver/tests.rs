//! Records in, records and answers out, over a real RocksDB.

mod harness;
mod rooms;
