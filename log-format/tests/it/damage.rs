//! Damage to what was acknowledged: every truncation point and every flipped
//! bit of a 64 KiB segment is recovered from or reported, and nothing wrong is
//! served (reliability figures R3 and R4).

use std::path::{Path, PathBuf};

use log_format::recovery::{Proof, Verdict, examine};
use log_format::segment::{HEADER_PAGE_BYTES, file_name};
use log_format::verify::{Fault, Level, verify};
use log_format::{OpenError, PartitionReader, Pending, ReadError, Recovery, Witness, WriterConfig};

use crate::fake::FakeFs;
use crate::support::{assert_same, dir, open, open_knowing, read_all, record, small_segments};

const SEGMENT_BYTES: u64 = 64 << 10;

fn config() -> WriterConfig {
    WriterConfig {
        fill_step_bytes: SEGMENT_BYTES,
        ..WriterConfig::input(SEGMENT_BYTES)
    }
}

fn first_segment() -> PathBuf {
    dir().join(file_name(0))
}

/// A 64 KiB segment of records of mixed sizes, each batch synced, and where
/// its batches end.
struct Image {
    fs: FakeFs,
    records: Vec<Pending>,
    /// Position and offset behind each batch.
    batches: Vec<(u64, u64)>,
    /// Position behind the idle commit frame.
    written: u64,
}

fn image() -> Image {
    let fs = FakeFs::new();
    let (mut writer, _) = open(&fs.shared(), &config()).expect("opens");
    let mut records = Vec::new();
    let mut batches = vec![(HEADER_PAGE_BYTES as u64, 0)];
    for number in 0.. {
        let sizes = [0, 3, 250, 1000, 40, 2700, 7];
        let size = sizes[number % sizes.len()];
        let count = 1 + number % 3;
        let batch: Vec<_> = (0..count)
            .map(|at| record((records.len() + at) as u64, size))
            .collect();
        let bytes: usize = batch.iter().map(|record| record.payload.len() + 88).sum();
        if batches[number].0 + bytes as u64 + 600 > SEGMENT_BYTES {
            break;
        }
        writer.append(&batch).expect("appends");
        writer.sync().expect("syncs");
        records.extend(batch);
        batches.push((writer.written_bytes(), records.len() as u64));
    }
    writer.idle_commit().expect("idles");
    let written = writer.written_bytes();
    assert!(
        records.len() > 30 && written > SEGMENT_BYTES - 4096,
        "the segment is full"
    );
    assert_eq!(writer.segments_begun(), 1);
    Image {
        fs,
        records,
        batches,
        written,
    }
}

impl Image {
    /// Offset and position behind the last batch that ends at or before `position`.
    fn kept(&self, position: u64) -> (u64, u64) {
        let kept = self.batches.iter().rfind(|(end, _)| *end <= position);
        kept.map_or((0, 0), |(position, offset)| (*offset, *position))
    }

    fn end(&self) -> u64 {
        self.records.len() as u64
    }
}

#[test]
fn every_truncation_point_keeps_the_whole_batches_before_it() {
    let image = image();
    let bytes = image.fs.bytes(&first_segment());
    let fs = FakeFs::new();
    let shared = fs.shared();
    for cut in 0..=image.written as usize {
        // Cut off, as a file that had not grown; or zeroes, as one filled ahead.
        let zeroed = cut % 2 == 1;
        let mut left = bytes[..cut].to_vec();
        if zeroed {
            left.resize(bytes.len(), 0);
        }
        fs.clear();
        fs.put(&first_segment(), left);
        if cut < HEADER_PAGE_BYTES {
            // A header is whole before the file has its name, so no crash does this.
            let refused = open(&shared, &config()).map(|_| ());
            assert!(
                matches!(refused, Err(OpenError::Refused { .. })),
                "cut at {cut}"
            );
            continue;
        }
        // Zeroes in the place of zeroes cut nothing.
        let same = bytes[cut..].iter().take_while(|byte| zeroed && **byte == 0);
        let cut = (cut + same.count()).min(image.written as usize);
        let (kept, position) = image.kept(cut as u64);
        let known = Some(Witness {
            end: image.end(),
            link: None,
        });
        if kept < image.end() && cut % 64 < 2 {
            let answer = open_knowing(&shared, &config(), known).map(|_| ());
            assert!(matches!(answer, Err(OpenError::Corrupt(_))), "cut at {cut}");
        }
        let (mut writer, recovery) = open(&shared, &config()).expect("opens");
        assert_eq!(recovery.end(), kept, "cut at {cut}");
        let torn = bytes[position as usize..cut].iter().any(|byte| *byte != 0);
        let idle_whole = cut as u64 == image.written;
        assert_eq!(
            matches!(recovery, Recovery::Torn { .. }),
            torn && !idle_whole,
            "cut at {cut}"
        );
        if cut % 16 < 2 {
            let next = record(kept, 300);
            writer.append(std::slice::from_ref(&next)).expect("appends");
            writer.sync().expect("syncs");
            let mut expected = image.records[..kept as usize].to_vec();
            expected.push(next);
            assert_same(&read_all(&shared, &dir(), kept + 1), &expected);
        }
    }
}

/// Runs a check for every byte of a range on all processors.
fn for_each_byte(image: &FakeFs, bytes: std::ops::Range<u64>, check: impl Fn(&FakeFs, u64) + Sync) {
    let threads = 2;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (bytes, check, fs) = (bytes.clone(), &check, image.copy());
            scope.spawn(move || {
                for at in bytes.filter(|at| at % threads == thread) {
                    check(&fs, at);
                }
            });
        }
    });
}

fn damages(old: u8) -> impl Iterator<Item = u8> {
    let flips = (0..8).map(move |bit| old ^ (1 << bit));
    flips.chain([0x00, 0xFF]).filter(move |new| *new != old)
}

#[test]
fn every_flipped_bit_of_the_open_segment_is_reported() {
    let image = image();
    let path = first_segment();
    let last_batch = image.batches.last().expect("has batches").0;
    for_each_byte(&image.fs, 0..image.written + 64, |fs, at| {
        let old = fs.byte(&path, at);
        for new in damages(old) {
            fs.set_byte(&path, at, new);
            let found = examine(fs, &dir(), None).expect("reads");
            match found.verdict {
                Verdict::Refused { path: named, .. } => {
                    assert!(at < HEADER_PAGE_BYTES as u64, "byte {at}");
                    assert_eq!(named, path);
                }
                Verdict::Corrupt(evidence) => {
                    let (good_end, position) = image.kept(at);
                    assert!(
                        (HEADER_PAGE_BYTES as u64..last_batch).contains(&at),
                        "byte {at}"
                    );
                    assert_eq!(
                        (evidence.good_end, evidence.position),
                        (good_end, position),
                        "byte {at}"
                    );
                    assert_eq!(evidence.segment, path);
                    assert!(matches!(evidence.proof, Proof::SyncedPosition { .. }));
                }
                Verdict::Torn { .. } => {
                    // The idle commit frame, or what was never written.
                    assert!(at >= last_batch, "byte {at} -> {new:#x} passed as torn");
                    assert_eq!(found.end, image.end());
                }
                Verdict::Clean => panic!("byte {at} -> {new:#x} passed as clean"),
            }
        }
        fs.set_byte(&path, at, old);
    });
}

#[test]
fn a_witness_from_elsewhere_covers_the_last_batch_before_it_is_idle() {
    let image = image();
    let path = first_segment();
    // Take the idle commit frame away.
    let mut bytes = image.fs.bytes(&path);
    let last = image.batches.last().expect("has batches").0;
    bytes[last as usize..].fill(0);
    image.fs.put(&path, bytes);
    let (begin, _) = image.batches[image.batches.len() - 2];
    let known = Some(Witness {
        end: image.end(),
        link: None,
    });
    for at in begin..last {
        let old = image.fs.byte(&path, at);
        image.fs.set_byte(&path, at, old ^ 0x10);
        let found = examine(&image.fs, &dir(), known).expect("reads");
        assert!(matches!(found.verdict, Verdict::Corrupt(_)), "byte {at}");
        image.fs.set_byte(&path, at, old);
    }
    let found = examine(&image.fs, &dir(), known).expect("reads");
    assert!(matches!(found.verdict, Verdict::Clean));
}

/// Several sealed segments and one that is written to.
fn segments() -> (FakeFs, Vec<Pending>) {
    let fs = FakeFs::new();
    let (mut writer, _) = open(&fs.shared(), &small_segments(true)).expect("opens");
    let records: Vec<_> = (0..120).map(|number| record(number, 900)).collect();
    for batch in records.chunks(4) {
        writer.append(batch).expect("appends");
        writer.sync().expect("syncs");
    }
    assert!(writer.segments_begun() >= 4);
    (fs, records)
}

fn segment_paths(fs: &FakeFs) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| path.extension() == Some("seg".as_ref());
    fs.paths().into_iter().filter(is_segment).collect()
}

#[test]
fn damage_to_any_byte_of_a_sealed_segment_is_found_and_never_served() {
    let (fs, records) = segments();
    let path = segment_paths(&fs)[1].clone();
    let bytes = fs.bytes(&path);
    // The index is a cache; without it every byte of the segment is looked at.
    fs.take_away(&path.with_extension("idx"));
    for_each_byte(&fs, 0..bytes.len() as u64, |fs, at| {
        let old = fs.byte(&path, at);
        for new in damages(old) {
            fs.set_byte(&path, at, new);
            let found = examine(fs, &dir(), None).expect("reads");
            if matches!(found.verdict, Verdict::Clean) {
                check_found(fs, &path, at, &records);
            } else {
                assert!(
                    matches!(found.verdict, Verdict::Refused { .. }),
                    "byte {at}"
                );
            }
            // Every value for each eighth byte, one for the others: the checks are dear.
            if new == old ^ 1 {
                check_served(fs, &records);
            }
            if at % 8 != 0 && new != old ^ 1 {
                break;
            }
        }
        fs.set_byte(&path, at, old);
    });
}

fn check_found(fs: &FakeFs, path: &Path, at: u64, records: &[Pending]) {
    let report = verify(fs, &dir(), Level::Crc, &[], |_| {}).expect("reads");
    let Some(Fault::Frame {
        segment,
        position,
        offset,
        ..
    }) = report.faults.first()
    else {
        panic!("byte {at}: {:?}", report.faults);
    };
    assert_eq!(segment, path);
    assert!(
        *position <= at && *offset <= records.len() as u64,
        "byte {at}, said {position}"
    );
}

/// A reader gives what was appended or an error, and never anything else.
fn check_served(fs: &FakeFs, records: &[Pending]) {
    let Ok(reader) = PartitionReader::open_in(fs.shared(), &dir()) else {
        return;
    };
    match reader.read(0, records.len() as u64, usize::MAX) {
        Ok(read) => assert_same(&read, records),
        Err(
            ReadError::Damaged { .. } | ReadError::Refused { .. } | ReadError::BeyondEnd { .. },
        ) => {}
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn missing_swapped_repeated_and_zeroed_segments_are_refused() {
    let (fs, _) = segments();
    let paths = segment_paths(&fs);
    let bytes: Vec<_> = paths.iter().map(|path| fs.bytes(path)).collect();
    let refused = |what: &str, fs: &FakeFs| {
        let opened = open(&fs.shared(), &small_segments(true)).map(|_| ());
        assert!(
            matches!(opened, Err(OpenError::Refused { .. })),
            "{what}: {opened:?}"
        );
    };
    let missing = fs.copy();
    missing.take_away(&paths[1]);
    refused("missing", &missing);

    let swapped = fs.copy();
    swapped.put(&paths[1], bytes[2].clone());
    swapped.put(&paths[2], bytes[1].clone());
    refused("swapped", &swapped);

    let repeated = fs.copy();
    repeated.put(&paths[2], bytes[1].clone());
    refused("repeated", &repeated);

    let zeroed = fs.copy();
    zeroed.put(&paths[1], vec![0; bytes[1].len()]);
    refused("zeroed", &zeroed);

    let emptied = fs.copy();
    emptied.put(&paths[3], Vec::new());
    refused("emptied", &emptied);

    // A hole in the middle is none of these, and is found by looking.
    let hole = fs.copy();
    let mut bytes_with_hole = bytes[1].clone();
    bytes_with_hole[8192..16384].fill(0);
    hole.put(&paths[1], bytes_with_hole);
    let report = verify(&hole, &dir(), Level::Crc, &[], |_| {}).expect("reads");
    assert_eq!(report.faults.len(), 1, "{:?}", report.faults);

    // The same offsets from another log.
    let (other, _) = segments();
    let stranger = fs.copy();
    let mut bytes = other.bytes(&paths[1]);
    bytes[16] ^= 1;
    let crc = crc32c::crc32c(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
    stranger.put(&paths[1], bytes);
    refused("of another log", &stranger);
}

#[test]
fn a_manifest_survives_the_loss_of_either_slot() {
    use log_format::Topic;
    use log_format::root::{SLOT_BYTES, TopicRoot};
    let fs = FakeFs::new();
    let topic_dir = Path::new("/log/input");
    let mut root = TopicRoot::new(Topic::Input, crate::support::LOG_ID, 4);
    root.write(&fs, topic_dir).expect("writes");
    root.write(&fs, topic_dir).expect("writes");
    root.write(&fs, topic_dir).expect("writes");
    assert_eq!(
        TopicRoot::read(&fs, topic_dir).expect("reads"),
        Some(root.clone())
    );
    let path = topic_dir.join("ROOT");
    let bytes = fs.bytes(&path);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        fs.put(&path, damaged);
        let read = TopicRoot::read(&fs, topic_dir)
            .expect("reads")
            .expect("is there");
        // Damage to the newer slot gives the older one, which says the same.
        assert_eq!((read.log_id, read.partitions), (root.log_id, 4));
        assert_eq!(read.sequence, if at >= SLOT_BYTES { 2 } else { 3 });
    }
    fs.put(&path, vec![0; bytes.len()]);
    assert!(matches!(
        TopicRoot::read(&fs, topic_dir),
        Err(OpenError::Refused { .. })
    ));
}
