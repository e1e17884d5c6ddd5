//! What the tests share: records, writers, and the tool as a user runs it.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use log_format::file_system::RealFileSystem;
use log_format::partition::{LogId, Topic, partition_dir};
use log_format::record::{Envelope, Kind, NewEnvelope, Source};
use log_format::root::TopicRoot;
use log_format::{PartitionWriter, Pending, WriterConfig};
use serde_json::Value;

pub const SEGMENT_BYTES: u64 = 256 << 10;
pub const FIRST_TIME_US: u64 = 1_795_428_000_000_000;
pub const ROOM: &str = "!room";

pub fn pending(kind: Kind, time_us: u64, envelope: &NewEnvelope<'_>) -> Pending {
    let payload = envelope.encode(kind, Source::Client);
    let digest = Envelope::parse(&payload).unwrap().digest();
    Pending {
        kind,
        time_us,
        payload,
        digest,
    }
}

/// A writer of a topic with one partition.
pub fn writer(log: &Path, topic: Topic, config: WriterConfig) -> PartitionWriter {
    writer_of(log, topic, config, 0, 1)
}

/// A writer of one of a topic's partitions.
pub fn writer_of(
    log: &Path,
    topic: Topic,
    config: WriterConfig,
    number: u32,
    partitions: u32,
) -> PartitionWriter {
    let dir = log.join(topic.name());
    let partition = partition_dir(&dir, number);
    std::fs::create_dir_all(&partition).unwrap();
    let id = LogId([9; 16]);
    if !dir.join("ROOT").exists() {
        TopicRoot::new(topic, id, partitions)
            .write(&RealFileSystem, &dir)
            .unwrap();
    }
    let fs = Arc::new(RealFileSystem);
    PartitionWriter::open(fs, &partition, config, id, number, None)
        .unwrap()
        .0
}

pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_engram-log"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

pub fn lines(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let output = run(folder, arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
