//! Records and partitions for the tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use log_format::record::{Envelope, Kind, NewEnvelope, Part, Source};
use log_format::{
    FileSystem, LogId, OpenError, PartitionReader, PartitionWriter, Pending, Recovery,
    StoredRecord, Witness, WriterConfig,
};

pub const LOG_ID: LogId = LogId(*b"a log for tests!");

/// A record whose content follows from `number`.
pub fn record(number: u64, body_bytes: usize) -> Pending {
    let body: Vec<u8> = (0..body_bytes)
        .map(|at| (at as u64 * 31 + number) as u8)
        .collect();
    let payload = NewEnvelope {
        received_us: number,
        key: "!room:example.org",
        room_id: Some("!room:example.org"),
        body: &[0; 4],
        body_part: Part::Present(&body),
        salt: [number as u8; 32],
        ..NewEnvelope::default()
    }
    .encode(Kind::InputRoomEvent, Source::Client);
    let digest = Envelope::parse(&payload).expect("just encoded").digest();
    Pending {
        kind: Kind::InputRoomEvent,
        time_us: 1_700_000_000_000_000 + number,
        payload,
        digest,
    }
}

/// Where the tests' partition lies, in whatever file system.
pub fn dir() -> PathBuf {
    PathBuf::from("/log/input/p0000")
}

pub fn open(
    fs: &Arc<dyn FileSystem>,
    config: &WriterConfig,
) -> Result<(PartitionWriter, Recovery), OpenError> {
    open_knowing(fs, config, None)
}

pub fn open_knowing(
    fs: &Arc<dyn FileSystem>,
    config: &WriterConfig,
    least_end: Option<Witness>,
) -> Result<(PartitionWriter, Recovery), OpenError> {
    PartitionWriter::open(fs.clone(), &dir(), config.clone(), LOG_ID, 0, least_end)
}

pub fn read_all(fs: &Arc<dyn FileSystem>, dir: &Path, below: u64) -> Vec<StoredRecord> {
    let reader = PartitionReader::open_in(fs.clone(), dir).expect("reader opens");
    reader.read(0, below, usize::MAX).expect("log reads")
}

/// What was read is what was appended, in order and from offset 0.
pub fn assert_same(read: &[StoredRecord], appended: &[Pending]) {
    assert_eq!(read.len(), appended.len(), "number of records");
    for (number, (read, appended)) in read.iter().zip(appended).enumerate() {
        assert_eq!(read.offset, number as u64);
        assert_eq!(read.kind(), Some(appended.kind));
        assert_eq!(read.time_us, appended.time_us);
        assert_eq!(read.digest, appended.digest);
        assert_eq!(read.payload, appended.payload, "payload of {number}");
    }
}

/// Small segments, so that a few records roll.
pub fn small_segments(zero_fill: bool) -> WriterConfig {
    WriterConfig {
        zero_fill,
        fill_step_bytes: 16 << 10,
        ..WriterConfig::input(32 << 10)
    }
}
