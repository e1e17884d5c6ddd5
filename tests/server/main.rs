//! Tests of the real `engram` binary through its edges (HTTP in, HTTP out,
//! signals, files), and of projection from records to records. One binary,
//! since each one links RocksDB.

mod big_room;
mod commands;
mod connections;
mod crash;
mod endpoints;
mod ephemeral;
mod federation;
mod forked_rooms;
mod forked_sync;
mod full_disk;
mod graph;
mod harness;
// A bench uses more of it.
#[allow(dead_code)]
mod lane;
mod listeners;
mod memory_log;
mod poison;
mod push;
mod records;
mod relations;
mod replay;
mod room_records;
mod room_work;
mod rooms;
mod scale;
mod search;
mod sliding_sync;
mod start;
mod users;
mod visibility;
