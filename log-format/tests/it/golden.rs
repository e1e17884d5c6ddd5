//! Golden files: bytes that every later version must read, and write again to
//! the same bytes; and what is in them, as text. `ENGRAM_WRITE_GOLDEN=1` writes
//! files that are new; those that are there are never changed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ed25519_dalek::SigningKey;
use log_format::checkpoint::{FILE_NAME, parse_file};
use log_format::frame::{FrameHeader, HEADER_BYTES, kind, padded, payload_crc};
use log_format::index::SparseIndex;
use log_format::partition::keyed_by;
use log_format::record::{Envelope, Kind, Part};
use log_format::recovery::{Verdict, examine};
use log_format::root::TopicRoot;
use log_format::segment::{HEADER_PAGE_BYTES, SegmentHeader, file_name};
use log_format::verify::{Level, verify};
use log_format::{PartitionReader, PartitionWriter, Topic, WriterConfig};

use crate::fake::FakeFs;
use crate::samples;
use crate::support::{LOG_ID, dir, open, record};

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn config() -> WriterConfig {
    WriterConfig {
        zero_fill: false,
        checkpoint_key: Some(SigningKey::from_bytes(&[5; 32])),
        ..WriterConfig::input(48 << 10)
    }
}

/// One record of each kind in batches of 1 to 5, each synced, then an idle frame.
fn every_kind() -> FakeFs {
    let fs = FakeFs::new();
    let (mut writer, _) = open(&fs.shared(), &config()).expect("opens");
    let mut records = samples::every_kind();
    for count in [1, 2, 3, 4, 5, 24] {
        let batch: Vec<_> = records.drain(..count.min(records.len())).collect();
        writer.append(&batch).expect("appends");
        writer.sync().expect("syncs");
    }
    assert!(records.is_empty());
    writer.idle_commit().expect("idles");
    fs
}

/// A partition of a sealed segment and the one behind it.
fn sealed() -> FakeFs {
    let fs = FakeFs::new();
    let config = WriterConfig {
        segment_bytes: 16 << 10,
        ..config()
    };
    let (mut writer, _) = open(&fs.shared(), &config).expect("opens");
    for number in 0..36 {
        writer
            .append(&[samples::numbered(number)])
            .expect("appends");
        writer.sync().expect("syncs");
    }
    assert_eq!(writer.segments_begun(), 2);
    fs
}

/// The segment with every body part erased, as FORMAT.md, section 12, says.
fn erased(bytes: &[u8]) -> Vec<u8> {
    let mut header = SegmentHeader::decode(bytes).expect("a segment");
    header.generation += 1;
    header.salt ^= 0x5A5A_5A5A;
    let mut out = header.encode();
    let (mut at, mut crc) = (HEADER_PAGE_BYTES, 0);
    while let Some(raw) = bytes[at..].first_chunk::<HEADER_BYTES>() {
        let mut frame = FrameHeader::decode(raw).expect("a frame");
        let payload = &bytes[at + HEADER_BYTES..][..frame.payload_len as usize];
        at += frame.frame_bytes();
        frame.salt = header.salt;
        // The rewritten file is synced as a whole; nothing of it was before.
        frame.synced = 0;
        let mut payload = payload.to_vec();
        if frame.kind == kind::DATA {
            let envelope = Envelope::parse(&payload).expect("an envelope");
            if let (Some(body), Some(salt)) = (envelope.body_part.bytes(), envelope.salt) {
                let mut new = envelope.to_new();
                let digest = blake3::hash(&[&salt[..], body].concat());
                new.body_part = Part::Erased(*digest.as_bytes());
                payload = new.encode(envelope.kind, envelope.source);
                frame.flags |= log_format::frame::flags::ERASED;
            }
            frame.payload_len = payload.len() as u32;
            frame.body_crc = payload_crc(&payload);
            crc = crc32c::crc32c_append(crc, &frame.encode());
        } else {
            frame.body_crc = std::mem::take(&mut crc);
        }
        out.extend_from_slice(&frame.encode());
        payload.resize(padded(payload.len()), 0);
        out.extend_from_slice(&payload);
    }
    out
}

/// Every golden segment: name, verdict, bytes.
fn segments() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let first = dir().join(file_name(0));
    let whole = every_kind().bytes(&first);
    let sealed = sealed();
    let positions: Vec<usize> = frame_positions(&whole);
    let change = |at: usize, change: u8| {
        let mut bytes = whole.clone();
        bytes[at] ^= change;
        bytes
    };
    let last_batch = positions[positions.len() - 5];
    let mut zero_filled = whole.clone();
    zero_filled.resize(whole.len() + 4096, 0);
    let mut zero_sector = whole.clone();
    zero_sector[8192..8704].fill(0);
    let mut missing_commit = whole.clone();
    missing_commit.truncate(whole.len() - 2 * HEADER_BYTES);
    let mut swapped = whole[..positions[2]].to_vec();
    swapped.extend_from_slice(&whole[positions[3]..positions[4]]);
    swapped.extend_from_slice(&whole[positions[2]..positions[3]]);
    swapped.extend_from_slice(&whole[positions[4]..]);
    let mut stale = whole[..positions[positions.len() - 1]].to_vec();
    let mut frame = *whole[positions[2]..]
        .first_chunk::<HEADER_BYTES>()
        .expect("a frame");
    frame[32] ^= 1;
    let crc = crc32c::crc32c(&frame[..76]);
    frame[76..].copy_from_slice(&crc.to_le_bytes());
    stale.extend_from_slice(&frame);
    let mut unknown_kind = stale.clone();
    let at = unknown_kind.len() - HEADER_BYTES;
    unknown_kind[at + 5] = 9;
    unknown_kind[at + 32] ^= 1;
    let crc = crc32c::crc32c(&unknown_kind[at..at + 76]);
    unknown_kind[at + 76..].copy_from_slice(&crc.to_le_bytes());
    let mut version = whole.clone();
    version[8] = 2;
    let crc = crc32c::crc32c(&version[..4092]);
    version[4092..4096].copy_from_slice(&crc.to_le_bytes());
    vec![
        ("every_kind", "clean", whole.clone()),
        ("erased", "clean", erased(&whole)),
        ("zero_filled", "clean", zero_filled),
        ("sealed", "clean", sealed.bytes(&first)),
        ("empty", "clean", whole[..4096].to_vec()),
        (
            "cut_in_a_payload",
            "torn",
            whole[..last_batch + 100].to_vec(),
        ),
        ("missing_commit", "torn", missing_commit),
        ("stale_salt", "torn", stale),
        (
            "flipped_idle_commit",
            "torn",
            change(positions[positions.len() - 1] + 20, 4),
        ),
        ("flipped_magic", "corrupt", change(positions[0], 1)),
        (
            "flipped_payload",
            "corrupt",
            change(positions[2] + 90, 0x80),
        ),
        ("flipped_last_batch", "corrupt", change(last_batch + 81, 2)),
        ("zero_sector", "corrupt", zero_sector),
        ("swapped_frames", "corrupt", swapped),
        ("flipped_header_page", "refused", change(300, 1)),
        ("later_version", "refused", version),
        ("unknown_kind", "refused", unknown_kind),
    ]
}

fn frame_positions(bytes: &[u8]) -> Vec<usize> {
    let mut at = HEADER_PAGE_BYTES;
    let mut positions = Vec::new();
    while let Some(Ok(frame)) = bytes[at..].first_chunk().map(FrameHeader::decode) {
        positions.push(at);
        at += frame.frame_bytes();
    }
    positions
}

/// What a segment holds, as this crate reads it.
fn describe(bytes: &[u8]) -> String {
    let fs = FakeFs::new();
    fs.put(&dir().join(file_name(0)), bytes.to_vec());
    let found = examine(&fs, &dir(), None).expect("the fake does not fail");
    let (verdict, end, position) = match &found.verdict {
        Verdict::Refused { .. } => return "{\"verdict\": \"refused\"}\n".to_owned(),
        Verdict::Corrupt(evidence) => ("corrupt", evidence.good_end, evidence.position),
        Verdict::Torn { position, .. } => ("torn", found.end, *position),
        Verdict::Clean => ("clean", found.end, 0),
    };
    let seal = found.segments[0].seal.as_ref();
    let position = match (seal, position) {
        (Some((_, at)), _) => at + 168,
        (None, 0) => {
            *frame_positions(bytes)
                .last()
                .unwrap_or(&(HEADER_PAGE_BYTES - HEADER_BYTES)) as u64
                + 80
        }
        (None, position) => position,
    };
    let mut out = format!(
        "{{\"verdict\": \"{verdict}\", \"position\": {position}, \"end\": {end}, \"link\": \"{}\", \"sealed\": {},\n \"records\": [",
        hex(&found.link),
        seal.is_some(),
    );
    let reader = PartitionReader::open_in(fs.shared(), &dir()).expect("opens");
    for record in reader.read(0, end, usize::MAX).expect("reads") {
        let envelope = record.envelope().expect("parses");
        assert_eq!(envelope.digest(), record.digest);
        let state = |part: &Part<'_>| match part {
            Part::Absent => '-',
            Part::Present(_) => 'p',
            Part::Erased(_) => 'e',
        };
        let parts: String = [
            &envelope.auth_extract,
            &envelope.skeleton,
            &envelope.body_part,
        ]
        .map(state)
        .iter()
        .collect();
        let separator = if record.offset == 0 { "" } else { "," };
        let _ = write!(
            out,
            "{separator}\n  {{\"offset\": {}, \"time_us\": {}, \"kind\": {}, \"key\": \"{}\", \"parts\": \"{parts}\", \"digest\": \"{}\"}}",
            record.offset,
            record.time_us,
            record.kind_number,
            envelope.key,
            hex(&record.digest)
        );
    }
    out.push_str("]}\n");
    out
}

/// Compares with the committed file; writes it if it is new and that was asked for.
fn hold(name: &str, bytes: &[u8]) {
    let path = golden_dir().join(name);
    if !path.exists() && std::env::var_os("ENGRAM_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, bytes).expect("writes");
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(
        golden == bytes,
        "{name} differs from what this version makes"
    );
}

#[test]
fn segments_are_written_and_read_as_ever() {
    for (name, verdict, bytes) in segments() {
        let text = describe(&bytes);
        assert!(
            text.contains(&format!("\"verdict\": \"{verdict}\"")),
            "{name}: {text}"
        );
        hold(&format!("{name}.bin"), &bytes);
        hold(&format!("{name}.json"), text.as_bytes());
    }
}

#[test]
fn an_erased_segment_has_the_same_links() {
    let segments = segments();
    let link = |name: &str| {
        let (_, _, bytes) = segments
            .iter()
            .find(|(found, ..)| *found == name)
            .expect("is there");
        let fs = FakeFs::new();
        fs.put(&dir().join(file_name(0)), bytes.clone());
        let report = verify(&fs, &dir(), Level::Chain, &[], |_| {}).expect("verifies");
        assert!(
            report.faults.is_empty() && report.records == Kind::ALL.len() as u64,
            "{report:?}"
        );
        (examine(&fs, &dir(), None).expect("reads").link, bytes.len())
    };
    let (whole, bytes) = link("every_kind");
    let (erased, fewer_bytes) = link("erased");
    assert_eq!(whole, erased);
    assert!(fewer_bytes < bytes);
}

#[test]
fn small_files_are_written_and_read_as_ever() {
    let fs = sealed();
    let checkpoints = fs.bytes(&dir().join(FILE_NAME));
    hold("checkpoints.bin", &checkpoints);
    let (parsed, used) = parse_file(&checkpoints);
    assert!(used == checkpoints.len() && parsed.len() == 2);
    let key = SigningKey::from_bytes(&[5; 32]).verifying_key();
    assert!(parsed.iter().all(|checkpoint| checkpoint.verify(&key)));
    let lines = parsed.iter().map(|one| {
        format!(
            "  {{\"end\": {}, \"position\": {}, \"link\": \"{}\", \"key_id\": \"{}\"}}",
            one.offset,
            one.position,
            hex(&one.link),
            hex(&one.key_id)
        )
    });
    let text = format!(
        "{{\"checkpoints\": [\n{}]}}\n",
        lines.collect::<Vec<_>>().join(",\n")
    );
    hold("checkpoints.json", text.as_bytes());

    let salt = SegmentHeader::decode(&fs.bytes(&dir().join(file_name(0))))
        .expect("a segment")
        .salt;
    let index = fs.bytes(&dir().join("00000000000000000000.idx"));
    hold("index.bin", &index);
    let parsed = SparseIndex::decode(&index, 0, salt).expect("decodes");
    let entries = parsed.entries().iter().map(|entry| {
        format!(
            "[{}, {}, {}]",
            entry.relative, entry.position, entry.relative_ms
        )
    });
    let entries = entries.collect::<Vec<_>>().join(", ");
    let first_us = samples::numbered(0).time_us;
    let text = format!("{{\"base\": 0, \"first_us\": {first_us}, \"entries\": [{entries}]}}\n");
    hold("index.json", text.as_bytes());

    let fs = FakeFs::new();
    let topic_dir = Path::new("/log/output");
    let mut root = TopicRoot::new_output(LOG_ID, 3, 4);
    root.write(&fs, topic_dir).expect("writes");
    root.write(&fs, topic_dir).expect("writes");
    hold("root.bin", &fs.bytes(&topic_dir.join("ROOT")));
    let text = format!(
        "{{\"sequence\": 2, \"topic\": {}, \"partitions\": 4, \"log_id\": \"{}\", \"source_log_id\": \"{}\", \"epoch\": 3}}\n",
        Topic::Output as u8,
        root.log_id,
        LOG_ID
    );
    hold("root.json", text.as_bytes());
}

#[test]
fn what_was_written_then_is_appended_to_now() {
    for name in [
        "every_kind",
        "zero_filled",
        "erased",
        "missing_commit",
        "stale_salt",
    ] {
        let fs = FakeFs::new();
        let golden = std::fs::read(golden_dir().join(format!("{name}.bin"))).expect("is committed");
        fs.put(&dir().join(file_name(0)), golden);
        let (mut writer, recovery): (PartitionWriter, _) =
            open(&fs.shared(), &config()).expect("opens");
        assert!(recovery.end() >= 15);
        let end = writer.append(&[record(1 << 60, 10)]).expect("appends").end;
        writer.sync().expect("syncs");
        let reader = PartitionReader::open_in(fs.shared(), &dir()).expect("opens");
        assert_eq!(
            reader.read(0, end, usize::MAX).expect("reads").len() as u64,
            end
        );
    }
}

#[test]
fn the_specification_is_complete_without_rust() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python3")
        .arg(crate_dir.join("tests/decode.py"))
        .arg(crate_dir.join("FORMAT.md"))
        .arg(golden_dir())
        .output()
        .expect("python3 is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    let erred = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{erred}");
    assert!(said.contains("20 files, 0 differ"), "{said}");
}

#[test]
fn the_table_of_kinds_is_the_code() {
    let format = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("FORMAT.md"))
        .expect("is there");
    for kind in Kind::ALL {
        let row = format!(
            "| {:#06x} | {} | {} |",
            kind.number(),
            kind.name(),
            keyed_by(kind).name()
        );
        assert!(format.contains(&row), "FORMAT.md lacks the row {row}");
    }
    let rows = format
        .lines()
        .filter(|line| line.starts_with("| 0x"))
        .count();
    assert_eq!(rows, Kind::ALL.len());
    assert_eq!(samples::every_kind().len(), Kind::ALL.len());
}
