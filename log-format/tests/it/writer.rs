//! The writer and the reader side by side: rolls, ends, links, locks, cuts.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use log_format::chain;
use log_format::read::EndScan;
use log_format::recovery::{Evidence, Proof};
use log_format::verify::{Fault, Level, verify};
use log_format::{
    AppendError, End, FileSystem, OpenError, PartitionReader, PartitionWriter, Pending, ReadError,
    RealFileSystem, Recovery, Witness, WriterConfig,
};

use crate::fake::FakeFs;
use crate::support::{
    LOG_ID, assert_same, dir, open, open_knowing, read_all, record, small_segments,
};

fn records(count: u64) -> Vec<Pending> {
    (0..count)
        .map(|number| record(number, 100 + 37 * (number as usize % 50)))
        .collect()
}

#[test]
fn what_is_appended_is_read_back_after_rolls_and_reopening() {
    for zero_fill in [true, false] {
        let fs = FakeFs::new();
        let shared = fs.shared();
        let config = small_segments(zero_fill);
        let records = records(200);
        let (mut writer, recovery) = open(&shared, &config).expect("opens");
        assert_eq!(recovery, Recovery::Clean { end: 0 });
        for (number, batch) in records.chunks(7).enumerate() {
            let offsets = writer.append(batch).expect("appends");
            assert_eq!(offsets.start, number as u64 * 7);
            assert_eq!(writer.sync().expect("syncs"), offsets.end);
            if number % 3 == 0 {
                writer.idle_commit().expect("idles");
            }
            if number % 5 == 0 {
                let link = writer.link();
                drop(writer);
                let (reopened, recovery) = open(&shared, &config).expect("reopens");
                assert_eq!(recovery, Recovery::Clean { end: offsets.end });
                assert_eq!(reopened.link(), link);
                writer = reopened;
            }
        }
        let segments = fs
            .paths()
            .iter()
            .filter(|path| path.extension() == Some("seg".as_ref()))
            .count();
        assert!(
            segments > 5,
            "the test is to roll, made {segments} segments"
        );
        assert_same(&read_all(&shared, &dir(), 200), &records);
    }
}

#[test]
fn a_spare_becomes_the_next_segment() {
    let fs = FakeFs::new();
    let config = small_segments(true);
    let (mut writer, _) = open(&fs.shared(), &config).expect("opens");
    let filler = writer.filler().expect("input is filled ahead");
    assert!(writer.filler().is_none(), "there is one");
    let temporary = |fs: &FakeFs| {
        let names = fs.paths().into_iter();
        names
            .filter(|path| path.extension() == Some("tmp".as_ref()))
            .count()
    };
    let records = records(200);
    let (mut rolls, mut whole) = (0, 0);
    for record in &records {
        let begun = writer.segments_begun();
        writer
            .append(std::slice::from_ref(record))
            .expect("appends");
        writer.sync().expect("syncs");
        if writer.segments_begun() > begun {
            rolls += 1;
            let last = fs.paths().into_iter().rev();
            let last = last.filter(|path| path.extension() == Some("seg".as_ref()));
            let last = last.max().expect("has segments");
            whole += u64::from(fs.bytes(&last).len() as u64 == config.segment_bytes);
            assert!(!filler.is_wanted(), "nothing is wanted of a new segment");
        }
        while filler.step().expect("fills") {}
        assert!(temporary(&fs) <= 1);
    }
    assert!(rolls > 3, "the test is to roll, rolled {rolls} times");
    assert_eq!(whole, rolls, "each began full of zeroes");
    assert_same(&read_all(&fs.shared(), &dir(), 200), &records);
    // In the middle of a segment there is a spare, and it goes with its filler.
    let mut number = 200;
    while temporary(&fs) == 0 {
        writer.append(&[record(number, 500)]).expect("appends");
        while filler.step().expect("fills") {}
        number += 1;
    }
    drop(filler);
    assert_eq!(temporary(&fs), 0);
    drop(writer);
    let (_, recovery) = open(&fs.shared(), &config).expect("reopens");
    assert_eq!(recovery, Recovery::Clean { end: number });
}

/// Both at full speed on the machine's own files: whoever wins each race, the
/// log is whole.
#[test]
fn a_filler_may_run_beside_the_writer() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let shared: Arc<dyn FileSystem> = Arc::new(RealFileSystem);
    let config = small_segments(true);
    let records = records(2000);
    let open = || {
        let dir = folder.path().to_owned();
        PartitionWriter::open(shared.clone(), &dir, config.clone(), LOG_ID, 0, None)
    };
    let (mut writer, _) = open().expect("opens");
    let filler = writer.filler().expect("input is filled ahead");
    let done = std::sync::atomic::AtomicBool::new(false);
    let steps = std::thread::scope(|scope| {
        let stepping = scope.spawn(|| {
            let mut steps = 0;
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                steps += u64::from(filler.is_wanted());
                filler.step().expect("fills");
            }
            steps
        });
        for batch in records.chunks(3) {
            writer.append(batch).expect("appends");
            writer.sync().expect("syncs");
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        stepping.join().expect("does not panic")
    });
    assert!(steps > 10, "the filler worked {steps} times");
    drop((writer, filler));
    let (_, recovery) = open().expect("reopens");
    assert_eq!(recovery, Recovery::Clean { end: 2000 });
    assert_same(&read_all(&shared, folder.path(), 2000), &records);
}

#[test]
fn a_full_disk_gives_the_spare_up_and_tries_again_in_the_next_segment() {
    let fs = FakeFs::new();
    let config = small_segments(true);
    let (mut writer, _) = open(&fs.shared(), &config).expect("opens");
    let filler = writer.filler().expect("input is filled ahead");
    let mut number = 0;
    let mut append = |writer: &mut PartitionWriter| {
        writer.append(&[record(number, 1000)]).expect("appends");
        writer.sync().expect("syncs");
        number += 1;
    };
    while !filler.is_wanted() {
        append(&mut writer);
    }
    fs.set_room(Some(100));
    assert!(filler.step().is_err());
    fs.set_room(None);
    let begun = writer.segments_begun();
    while writer.segments_begun() == begun {
        assert!(!filler.step().expect("does nothing"), "it was given up");
        append(&mut writer);
    }
    while !filler.is_wanted() {
        append(&mut writer);
    }
    filler.step().expect("there is room again");
}

#[test]
fn links_do_not_depend_on_batches_and_can_be_asked_for_anywhere() {
    let records = records(120);
    let mut links = vec![chain::genesis(LOG_ID, 0)];
    for (offset, record) in records.iter().enumerate() {
        let last = links[offset];
        let number = record.kind.number();
        links.push(chain::link(
            &last,
            offset as u64,
            record.time_us,
            number,
            &record.digest,
        ));
    }
    for batch_records in [1, 7, 120] {
        let fs = FakeFs::new();
        let (mut writer, _) = open(&fs.shared(), &small_segments(true)).expect("opens");
        for batch in records.chunks(batch_records) {
            writer.append(batch).expect("appends");
        }
        assert_eq!(writer.link(), links[120]);
        let reader = PartitionReader::open_in(fs.shared(), &dir()).expect("opens");
        for offset in [0, 1, 119, 120, 64, 63, 7, 8, 100] {
            assert_eq!(
                reader.link_at(offset).expect("has it"),
                links[offset as usize],
                "at {offset}"
            );
        }
        for (offset, link) in links.iter().enumerate() {
            assert_eq!(
                reader.link_at(offset as u64).expect("has it"),
                *link,
                "at {offset}"
            );
        }
    }
}

#[test]
fn a_reader_follows_a_live_writer_over_rolls() {
    let fs = FakeFs::new();
    let (mut writer, _) = open(&fs.shared(), &small_segments(true)).expect("opens");
    let reader = PartitionReader::open_in(fs.shared(), &dir()).expect("opens");
    let mut scan = EndScan::default();
    let records = records(150);
    for (number, record) in records.iter().enumerate() {
        let offset = number as u64;
        let durable = writer.durable_end();
        writer
            .append(std::slice::from_ref(record))
            .expect("appends");
        let end = reader.find_end(&mut scan).expect("finds the end");
        assert_eq!(end.written, offset + 1);
        assert!(
            end.synced <= durable.max(writer.durable_end()),
            "only what is synced is said to be"
        );
        writer.sync().expect("syncs");
        let read = reader.read(offset, offset + 1, 1 << 20).expect("reads");
        assert_eq!(read[0].payload, record.payload);
        assert_eq!(
            reader.read_one(offset / 2).expect("reads").offset,
            offset / 2
        );
    }
    writer.idle_commit().expect("idles");
    let end = reader.find_end(&mut scan).expect("finds the end");
    assert_eq!(
        end,
        End {
            written: 150,
            synced: 150
        }
    );
    let from = records[77].time_us;
    assert_eq!(reader.offset_at_time(from, 150).expect("finds"), 77);
    assert_eq!(reader.offset_at_time(0, 150).expect("finds"), 0);
    assert_eq!(reader.offset_at_time(u64::MAX, 150).expect("finds"), 150);
    let missing = reader.read(150, 151, 1);
    assert!(
        matches!(missing, Err(ReadError::BeyondEnd { .. })),
        "{missing:?}"
    );

    // A batch that is just being written is nobody's business.
    let last = fs
        .paths()
        .into_iter()
        .rfind(|path| path.extension() == Some("seg".as_ref()));
    let last = last.expect("has segments");
    let written = fs
        .bytes(&last)
        .iter()
        .rposition(|byte| *byte != 0)
        .expect("is written");
    fs.set_byte(&last, (written as u64 + 1).next_multiple_of(8), 0x45);
    assert_eq!(reader.offset_at_time(u64::MAX, 150).expect("finds"), 150);
    assert_eq!(reader.read(140, 150, 1 << 20).expect("reads").len(), 10);
    let missing = reader.read(150, 151, 1);
    assert!(
        matches!(missing, Err(ReadError::Damaged { .. })),
        "{missing:?}"
    );
}

#[test]
fn reads_keep_to_their_budget() {
    let fs = FakeFs::new();
    let (mut writer, _) = open(&fs.shared(), &small_segments(true)).expect("opens");
    let records = records(60);
    writer.append(&records).expect("appends");
    let reader = PartitionReader::open_in(fs.shared(), &dir()).expect("opens");
    let mut all = Vec::new();
    while all.len() < 60 {
        let some = reader.read(all.len() as u64, 60, 3000).expect("reads");
        assert!(!some.is_empty());
        let bytes: usize = some.iter().map(|record| record.payload.len()).sum();
        assert!(some.len() == 1 || bytes <= 3000);
        all.extend(some);
    }
    assert_same(&all, &records);
    assert_eq!(reader.read(0, 60, 0).expect("reads").len(), 0);
}

#[test]
fn limits_are_refused_before_anything_is_written() {
    let fs = FakeFs::new();
    let (mut writer, _) = open(&fs.shared(), &small_segments(true)).expect("opens");
    let large = record(0, 1 << 20);
    let answer = writer.append(&[record(0, 10), large]);
    assert!(
        matches!(answer, Err(AppendError::TooLarge { index: 1, .. })),
        "{answer:?}"
    );
    let undigested = Pending {
        digest: [0; 32],
        ..record(0, 10)
    };
    let answer = writer.append(&[undigested]);
    assert!(
        matches!(answer, Err(AppendError::Malformed { index: 0 })),
        "{answer:?}"
    );
    assert_eq!(writer.append(&[record(0, 10)]).expect("appends"), 0..1);
}

#[test]
fn the_largest_record_fits_a_small_segment() {
    let fs = FakeFs::new();
    let (mut writer, _) = open(&fs.shared(), &small_segments(true)).expect("opens");
    let room = (1 << 20) - record(0, 0).payload.len();
    let records = [record(0, 10), record(1, room), record(2, 10)];
    for record in &records {
        writer
            .append(std::slice::from_ref(record))
            .expect("appends");
        writer.sync().expect("syncs");
    }
    drop(writer);
    let (writer, _) = open(&fs.shared(), &small_segments(true)).expect("reopens");
    assert_eq!(writer.end(), 3);
    assert_same(&read_all(&fs.shared(), &dir(), 3), &records);
}

#[test]
fn times_never_run_backwards() {
    let fs = FakeFs::new();
    let (mut writer, _) = open(&fs.shared(), &small_segments(true)).expect("opens");
    let early = Pending {
        time_us: 5,
        ..record(1, 10)
    };
    writer.append(&[record(0, 10), early]).expect("appends");
    let read = read_all(&fs.shared(), &dir(), 2);
    assert_eq!(read[0].time_us, read[1].time_us);
}

#[test]
fn a_second_writer_and_another_log_are_refused() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let fs: Arc<dyn FileSystem> = Arc::new(RealFileSystem);
    let config = small_segments(true);
    let dir = folder.path().join("p0000");
    let open = |id| PartitionWriter::open(fs.clone(), &dir, config.clone(), id, 0, None);
    let (writer, _) = open(LOG_ID).expect("opens");
    assert!(fs.is_locked(&dir.join("LOCK")).expect("asks"));
    assert!(matches!(open(LOG_ID), Err(OpenError::Locked(_))));
    drop(writer);
    assert!(!fs.is_locked(&dir.join("LOCK")).expect("asks"));
    let other = log_format::LogId([7; 16]);
    assert!(matches!(open(other), Err(OpenError::Refused { .. })));
    open(LOG_ID).expect("opens again");
}

#[test]
fn the_machines_own_files_work_the_same() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let fs: Arc<dyn FileSystem> = Arc::new(RealFileSystem);
    let config = small_segments(true);
    let dir = folder.path().join("p0000");
    let records = records(100);
    for chunk in records.chunks(25) {
        let (mut writer, recovery) =
            PartitionWriter::open(fs.clone(), &dir, config.clone(), LOG_ID, 0, None)
                .expect("opens");
        assert!(matches!(recovery, Recovery::Clean { .. }));
        for batch in chunk.chunks(3) {
            writer.append(batch).expect("appends");
            writer.sync().expect("syncs");
        }
    }
    assert_same(&read_all(&fs, &dir, 100), &records);
    assert!(fs.free_bytes(&dir).expect("asks") > 0);
}

#[test]
fn what_is_known_from_elsewhere_turns_a_short_log_into_a_corrupt_one() {
    let fs = FakeFs::new();
    let (mut writer, _) = open(&fs.shared(), &small_segments(true)).expect("opens");
    writer.append(&records(5)).expect("appends");
    writer.sync().expect("syncs");
    drop(writer);
    let knows = |end| Some(Witness { end, link: None });
    open_knowing(&fs.shared(), &small_segments(true), knows(5)).expect("opens");
    match open_knowing(&fs.shared(), &small_segments(true), knows(6)).map(|_| ()) {
        Err(OpenError::Corrupt(evidence)) => {
            let Evidence {
                good_end,
                known_end,
                proof,
                ..
            } = *evidence;
            assert_eq!((good_end, known_end), (5, 6));
            assert_eq!(proof, Proof::LeastEnd { end: 6 });
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_derived_log_is_cut_at_any_record() {
    let records = records(80);
    for cut in [0, 1, 13, 14, 15, 40, 79, 80, 81] {
        let fs = FakeFs::new();
        let config = WriterConfig {
            zero_fill: false,
            ..small_segments(false)
        };
        let (mut writer, _) = open(&fs.shared(), &config).expect("opens");
        for batch in records.chunks(7) {
            writer.append(batch).expect("appends");
        }
        let reader = PartitionReader::open_in(fs.shared(), &dir()).expect("opens");
        let link = reader.link_at(cut.min(80)).expect("has it");
        drop(writer);
        let (mut writer, _) =
            PartitionWriter::open_cut(fs.shared(), &dir(), config, LOG_ID, 0, cut).expect("cuts");
        assert_eq!(writer.end(), cut.min(80));
        assert_eq!(writer.link(), link, "cut at {cut}");
        writer
            .append(&records[cut.min(80) as usize..])
            .expect("appends");
        assert_same(&read_all(&fs.shared(), &dir(), 80), &records);
    }
}

#[test]
fn verification_finds_what_checksums_cannot() {
    let fs = FakeFs::new();
    let key = SigningKey::from_bytes(&[3; 32]);
    let config = WriterConfig {
        checkpoint_key: Some(key.clone()),
        ..small_segments(true)
    };
    let (mut writer, _) = open(&fs.shared(), &config).expect("opens");
    for batch in records(100).chunks(5) {
        writer.append(batch).expect("appends");
        writer.sync().expect("syncs");
    }
    drop(writer);
    let keys = [key.verifying_key()];
    let report = verify(&fs, &dir(), Level::Signatures, &keys, |_| {}).expect("verifies");
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    assert_eq!(report.records, 100);
    assert!(report.checkpoints > 2);

    let stranger = [SigningKey::from_bytes(&[4; 32]).verifying_key()];
    let report = verify(&fs, &dir(), Level::Signatures, &stranger, |_| {}).expect("verifies");
    assert_eq!(report.faults.len(), report.checkpoints);

    // Someone edits a payload and mends both checksums: only the digest tells.
    let path = dir().join("00000000000000000000.seg");
    let mut bytes = fs.bytes(&path);
    let at = 4096;
    let len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().expect("four")) as usize;
    bytes[at + 80 + len - 1] ^= 1;
    let crc = log_format::frame::payload_crc(&bytes[at + 80..at + 80 + len]);
    bytes[at + 12..at + 16].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[at..at + 76]);
    bytes[at + 76..at + 80].copy_from_slice(&crc.to_le_bytes());
    fs.put(&path, bytes);
    let report = verify(&fs, &dir(), Level::Chain, &[], |_| {}).expect("verifies");
    assert!(
        matches!(report.faults.first(), Some(Fault::Digest { offset: 0, .. })),
        "{:?}",
        report.faults
    );
}

#[test]
fn a_link_tells_of_an_edit_that_mends_every_checksum() {
    let fs = FakeFs::new();
    let (mut writer, _) = open(&fs.shared(), &small_segments(false)).expect("opens");
    writer.append(&[record(0, 50)]).expect("appends");
    drop(writer);
    // Another time, and the checksums of header and batch made to fit.
    let path = dir().join("00000000000000000000.seg");
    let mut bytes = fs.bytes(&path);
    let commit = bytes.len() - 80;
    bytes[4096 + 24] ^= 1;
    let mut mend = |at: usize| {
        let crc = crc32c::crc32c(&bytes[at..at + 76]);
        bytes[at + 76..at + 80].copy_from_slice(&crc.to_le_bytes());
        crc32c::crc32c(&bytes[at..at + 80])
    };
    let batch = mend(4096);
    bytes[commit + 12..commit + 16].copy_from_slice(&batch.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[commit..commit + 76]);
    bytes[commit + 76..].copy_from_slice(&crc.to_le_bytes());
    fs.put(&path, bytes);
    let faults = |level| {
        verify(&fs, &dir(), level, &[], |_| {})
            .expect("verifies")
            .faults
    };
    assert_eq!(faults(Level::Crc).len(), 0);
    let fault = faults(Level::Chain).pop();
    let link = log_format::frame::FrameFault::Link;
    assert!(
        matches!(&fault, Some(Fault::Frame { fault, .. }) if *fault == link),
        "{fault:?}"
    );
}
