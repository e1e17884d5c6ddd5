//! Records in, records and answers out, over a real RocksDB.

mod batches;
mod differential;
mod forks;
mod harness;
mod hunted;
mod levels;
mod mistakes;
mod model;
mod outside;
mod parked;
mod purges;
mod redactions;
mod rooms;
mod scenario;
mod states;
mod told;
