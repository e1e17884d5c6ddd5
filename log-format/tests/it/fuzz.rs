//! Fuzz targets as plain functions over bytes: none may panic, and what decodes
//! encodes to the same bytes. Called here with random and with mutated input.

use log_format::PartitionReader;
use log_format::checkpoint::{self, Checkpoint};
use log_format::codec;
use log_format::frame::{FrameHeader, HEADER_BYTES};
use log_format::index::SparseIndex;
use log_format::record::{Envelope, input, output};
use log_format::recovery::examine;
use log_format::segment::{SegmentHeader, file_name};
use log_format::verify::{Level, verify};
use proptest::prelude::*;

use crate::fake::FakeFs;
use crate::support::{dir, open, record, small_segments};

fn fuzz_frame_header(bytes: &[u8]) {
    if let Some(raw) = bytes.first_chunk::<HEADER_BYTES>()
        && let Ok(header) = FrameHeader::decode(raw)
    {
        assert_eq!(header.encode(), *raw);
    }
}

fn fuzz_envelope(bytes: &[u8]) {
    if let Ok(envelope) = Envelope::parse(bytes) {
        let again = envelope.to_new().encode(envelope.kind, envelope.source);
        assert_eq!(again, bytes);
        let _ = envelope.digest();
    }
}

fn fuzz_bodies(bytes: &[u8]) {
    fn one<T: bincode::Decode<()> + bincode::Encode>(bytes: &[u8]) {
        if let Ok(body) = codec::decode::<T>(bytes) {
            assert_eq!(codec::encode(&body), bytes);
        }
    }
    one::<input::InputRoomEvent>(bytes);
    one::<input::InputAccountCreated>(bytes);
    one::<input::InputDeviceLoggedIn>(bytes);
    one::<input::InputDevicesRemoved>(bytes);
    one::<output::OutputRoomEvent>(bytes);
    one::<output::OutputUser>(bytes);
}

fn fuzz_small_files(bytes: &[u8]) {
    let (whole, used) = checkpoint::parse_file(bytes);
    let again: Vec<u8> = whole.iter().flat_map(Checkpoint::encode).collect();
    assert_eq!(again, bytes[..used]);
    if let Some(index) = SparseIndex::decode(bytes, 0, 7) {
        assert_eq!(index.encode(0, 7), bytes);
    }
    if let Ok(header) = SegmentHeader::decode(bytes) {
        assert_eq!(header.encode(), bytes[..4096]);
    }
}

/// The bytes are the first segment of a partition, whatever they are.
fn fuzz_segment(bytes: &[u8]) {
    let fs = FakeFs::new();
    fs.put(&dir().join(file_name(0)), bytes.to_vec());
    let _ = examine(&fs, &dir(), None).expect("the fake does not fail");
    let _ = verify(&fs, &dir(), Level::Chain, &[], |_| {});
    if let Ok(reader) = PartitionReader::open_in(fs.shared(), &dir()) {
        let _ = reader.read(0, u64::MAX, 1 << 20);
        let _ = reader.link_at(5);
        let _ = reader.offset_at_time(1_700_000_000_000_005, 100);
    }
    if let Ok((mut writer, _)) = open(&fs.shared(), &small_segments(true)) {
        let next = record(writer.end(), 10);
        writer.append(&[next]).expect("appends");
    }
}

fn fuzz_all(bytes: &[u8]) {
    fuzz_frame_header(bytes);
    fuzz_envelope(bytes);
    fuzz_bodies(bytes);
    fuzz_small_files(bytes);
    fuzz_segment(bytes);
}

/// A valid file of each kind, to be mutated.
fn seeds() -> Vec<Vec<u8>> {
    let fs = FakeFs::new();
    let (mut writer, _) = open(&fs.shared(), &small_segments(false)).expect("opens");
    let records: Vec<_> = (0..60).map(|number| record(number, 700)).collect();
    for batch in records.chunks(3) {
        writer.append(batch).expect("appends");
    }
    let mut seeds: Vec<Vec<u8>> = fs.paths().iter().map(|path| fs.bytes(path)).collect();
    assert!(seeds.len() > 2);
    seeds.push(records[0].payload.clone());
    let segment = fs.bytes(&dir().join(file_name(0)));
    seeds.push(segment[4096..4096 + HEADER_BYTES].to_vec());
    assert!(FrameHeader::decode(segment[4096..].first_chunk().expect("80 bytes")).is_ok());
    seeds
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_never_fatal(bytes in prop::collection::vec(any::<u8>(), 0..6000)) {
        fuzz_all(&bytes);
    }

    #[test]
    fn mutated_files_are_never_fatal(
        seed in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<Option<prop::sample::Index>>(),
        mend in any::<bool>(),
    ) {
        thread_local!(static SEEDS: Vec<Vec<u8>> = seeds());
        let mut bytes = SEEDS.with(|seeds| seed.get(seeds).clone());
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
            // Mend the checksum of the frame that the change is in, so that what
            // lies behind the checksum is reached.
            if mend && at >= 4096 {
                mend_header(&mut bytes, at);
            }
        }
        if let Some(cut) = cut {
            let len = cut.index(bytes.len());
            bytes.truncate(len);
        }
        fuzz_all(&bytes);
    }
}

/// Computes the header checksum anew of the last frame that begins before `at`.
fn mend_header(bytes: &mut [u8], at: usize) {
    let magic = log_format::frame::MAGIC.to_le_bytes();
    let start = (4096..=at)
        .rev()
        .filter(|start| start % 8 == 0)
        .find(|start| bytes[*start..].starts_with(&magic));
    if let Some(start) = start.filter(|start| at - start < 76 && start + 80 <= bytes.len()) {
        let crc = crc32c::crc32c(&bytes[start..start + 76]);
        bytes[start + 76..start + 80].copy_from_slice(&crc.to_le_bytes());
    }
}
