//! Tests of the real `engram` binary through its edges: HTTP in, HTTP out,
//! signals, files. One binary, since each one links RocksDB.

mod harness;
mod start;
