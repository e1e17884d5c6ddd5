//! What the log costs beyond the disk and the hashes that it cannot do without:
//! a table of ratios, both sides of each measured in turn in this run.
//! `cargo bench -p log-format [-- folder]`.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log_format::file_system::{FileSystem, OpenMode, RealFileSystem};
use log_format::record::{Envelope, Kind, NewEnvelope, Part, Source};
use log_format::verify::{Level, verify};
use log_format::{LogId, PartitionReader, PartitionWriter, Pending, WriterConfig, recovery};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(400);
const SEGMENT_BYTES: u64 = 64 << 20;

fn main() {
    let parent = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let parent = parent.map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = parent.join(format!("engram-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("makes a folder");
    println!(
        "{:<58} {:>12} {:>12} {:>7}  goal",
        "ours / limit", "ours", "limit", "ratio"
    );
    appends(&folder);
    let log = long_log(&folder);
    scans(&log);
    tail_reads(&log);
    envelopes();
    std::fs::remove_dir_all(&folder).expect("removes the folder");
}

/// One line; `at_least` tells on which side of the goal is good.
fn line(what: &str, ours: f64, limit: f64, unit: &str, goal: f64, at_least: bool) {
    let ratio = ours / limit;
    let met = if at_least {
        ratio >= goal
    } else {
        ratio <= goal
    };
    let (sign, mark) = (
        if at_least { ">=" } else { "<=" },
        if met { "" } else { "  MISSED" },
    );
    let number = |value: f64| format!("{value:.3} {unit}");
    println!(
        "{what:<58} {:>12} {:>12} {ratio:>7.2}  {sign} {goal}{mark}",
        number(ours),
        number(limit)
    );
}

fn record(number: u64) -> Pending {
    let body = [b'x'; 860];
    let payload = NewEnvelope {
        received_us: number,
        key: "!room:example.org",
        room_id: Some("!room:example.org"),
        event_id: Some("$event"),
        sender: Some("@user:example.org"),
        event_type: Some("m.room.message"),
        body_part: Part::Present(&body),
        ..NewEnvelope::default()
    }
    .encode(Kind::InputRoomEvent, Source::Client);
    let digest = Envelope::parse(&payload).expect("just encoded").digest();
    Pending {
        kind: Kind::InputRoomEvent,
        time_us: number,
        payload,
        digest,
    }
}

fn open_writer(dir: &Path, config: WriterConfig) -> PartitionWriter {
    let fs: Arc<dyn FileSystem> = Arc::new(RealFileSystem);
    PartitionWriter::open(fs, dir, config, LogId([1; 16]), 0, None)
        .expect("opens")
        .0
}

/// A file of zeroes that were synced, as the limit is measured on.
fn zero_file(path: &Path, bytes: usize) -> File {
    let options = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .clone();
    let file = options.open(path).expect("creates");
    let zeroes = vec![0; 1 << 20];
    for at in (0..bytes).step_by(zeroes.len()) {
        file.write_all_at(&zeroes, at as u64).expect("writes");
    }
    file.sync_all().expect("syncs");
    file
}

/// Durations of one kind of flush; a rate and a slowest per cent.
#[derive(Default)]
struct Flushes(Vec<Duration>);

impl Flushes {
    fn per_second(&self, records: usize) -> f64 {
        let total: Duration = self.0.iter().sum();
        (self.0.len() * records) as f64 / total.as_secs_f64()
    }

    fn p99_ms(&mut self) -> f64 {
        self.0.sort_unstable();
        self.0[self.0.len() * 99 / 100].as_secs_f64() * 1000.0
    }
}

fn timed(flushes: &mut Flushes, mut flush: impl FnMut()) {
    let end = Instant::now() + ROUND;
    while Instant::now() < end {
        let began = Instant::now();
        flush();
        flushes.0.push(began.elapsed());
    }
}

fn appends(folder: &Path) {
    for (records, goal) in [(1, 0.6), (64, 0.45), (256, 0.4)] {
        let batch: Vec<_> = (0..records as u64).map(record).collect();
        let plain: Vec<u8> = batch
            .iter()
            .flat_map(|record| record.payload.clone())
            .collect();
        let mut writer = open_writer(
            &folder.join(format!("append-{records}")),
            WriterConfig::input(SEGMENT_BYTES),
        );
        let file_bytes = 256 << 20;
        let file = zero_file(&folder.join("limit"), file_bytes);
        let (mut ours, mut limit, mut bare) =
            (Flushes::default(), Flushes::default(), Flushes::default());
        let mut at = 0;
        let mut appended = 0;
        let written_before = writer.written_bytes();
        for _ in 0..ROUNDS {
            timed(&mut ours, || {
                // As on the server, where the appending tasks encode and digest.
                let digested: Vec<_> = batch
                    .iter()
                    .map(|one| Envelope::parse(&one.payload).expect("parses").digest())
                    .collect();
                black_box(&digested);
                writer.append(&batch).expect("appends");
                writer.sync().expect("syncs");
                appended += records;
            });
            timed(&mut limit, || {
                at = (at + plain.len()) % (file_bytes - plain.len());
                file.write_all_at(&plain, at as u64).expect("writes");
                file.sync_data().expect("syncs");
            });
            if records == 1 {
                timed(&mut bare, || {
                    file.write_all_at(&plain[..1], 0).expect("writes");
                    file.sync_data().expect("syncs");
                });
            }
        }
        let what = format!("durable append, {records} records of 1 KiB a flush, k/s");
        line(
            &what,
            ours.per_second(records) / 1e3,
            limit.per_second(records) / 1e3,
            "k",
            goal,
            true,
        );
        if records == 1 {
            line(
                "append p99, 1 appender / bare fdatasync p99",
                ours.p99_ms(),
                bare.p99_ms(),
                "ms",
                2.0,
                false,
            );
        }
        let payload: usize = batch.iter().map(|record| record.payload.len()).sum();
        let written =
            (writer.written_bytes() - written_before) as f64 / (appended / records) as f64;
        let what = format!("bytes written / payload bytes, {records} records a flush");
        line(
            &what,
            written / 1024.0,
            payload as f64 / 1024.0,
            "KiB",
            if records == 1 { 1.2 } else { 1.1 },
            false,
        );
        std::fs::remove_file(folder.join("limit")).expect("removes");
    }
}

/// 256 MiB of records of 1 KiB, in batches of 64; the last segment is open.
fn long_log(folder: &Path) -> PathBuf {
    let dir = folder.join("long");
    let mut writer = open_writer(&dir, WriterConfig::output(SEGMENT_BYTES));
    let batch: Vec<_> = (0..64).map(record).collect();
    // Three sealed segments and an open one that is nearly full.
    while writer.written_bytes() < 4 * SEGMENT_BYTES - (2 << 20) {
        writer.append(&batch).expect("appends");
    }
    writer.sync().expect("syncs");
    dir
}

fn best(mut work: impl FnMut()) -> f64 {
    let round = |_| {
        let began = Instant::now();
        work();
        began.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(round).fold(f64::MAX, f64::min)
}

fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let names = RealFileSystem.list(dir).expect("lists");
    let mut paths: Vec<_> = names
        .iter()
        .filter(|name| name.ends_with(".seg"))
        .map(|name| dir.join(name))
        .collect();
    paths.sort();
    paths
}

/// Reads a file in chunks and does something with each; what any scan must do.
fn plain_scan(path: &Path, mut each: impl FnMut(&[u8])) {
    let file = File::open(path).expect("opens");
    let mut buffer = vec![0; 512 << 10];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut buffer, at).expect("reads");
        if read == 0 {
            return;
        }
        each(&buffer[..read]);
        at += read as u64;
    }
}

fn drop_caches(paths: &[PathBuf]) {
    for path in paths {
        let file = RealFileSystem.open(path, OpenMode::Read).expect("opens");
        file.sync_data().expect("syncs");
        file.drop_cache().expect("drops");
    }
}

fn scans(dir: &Path) {
    let paths = segment_files(dir);
    let bytes = |paths: &[PathBuf]| {
        paths
            .iter()
            .map(|path| path.metadata().expect("is there").len())
            .sum::<u64>() as f64
            / 1e9
    };
    let last = paths.last().expect("has segments").clone();
    let crc = |path: &PathBuf| {
        plain_scan(path, |chunk| {
            black_box(crc32c::crc32c(chunk));
        })
    };

    let one = bytes(std::slice::from_ref(&last));
    let ours = best(|| {
        black_box(recovery::examine(&RealFileSystem, dir, None).expect("examines"));
    });
    let limit = best(|| crc(&last));
    line(
        "recovery scan / warm scan with CRC-32C",
        one / ours,
        one / limit,
        "GB/s",
        0.6,
        true,
    );

    let all = bytes(&paths);
    let ours = best(|| {
        let report = verify(&RealFileSystem, dir, Level::Chain, &[], |_| {}).expect("verifies");
        assert!(report.faults.is_empty());
    });
    let limit = best(|| serial_chain(&paths));
    line(
        "deep verify / serial CRC-32C + BLAKE3 chain of records",
        all / ours,
        all / limit,
        "GB/s",
        1.5,
        true,
    );

    let end = recovery::examine(&RealFileSystem, dir, None)
        .expect("examines")
        .end;
    let (mut ours, mut limit) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        drop_caches(&paths);
        let began = Instant::now();
        let reader = PartitionReader::open(dir).expect("opens");
        let mut next = 0;
        while next < end {
            let records = reader.read(next, end, 1 << 20).expect("reads");
            next += records.len() as u64;
            black_box(records);
        }
        ours = ours.min(began.elapsed().as_secs_f64());
        drop_caches(&paths);
        let began = Instant::now();
        paths.iter().for_each(crc);
        limit = limit.min(began.elapsed().as_secs_f64());
    }
    line(
        "cold replay scan / cold scan with CRC-32C",
        all / ours,
        all / limit,
        "GB/s",
        0.8,
        true,
    );
}

/// One hasher over all records, 1 KiB after 1 KiB: a chain over payloads.
fn serial_chain(paths: &[PathBuf]) {
    for path in paths {
        let mut link = [0; 32];
        plain_scan(path, |chunk| {
            for record in chunk.chunks(1104) {
                black_box(crc32c::crc32c(record));
                let mut hasher = blake3::Hasher::new();
                hasher.update(&link);
                hasher.update(record);
                link = *hasher.finalize().as_bytes();
            }
        });
        black_box(link);
    }
}

fn tail_reads(dir: &Path) {
    let end = recovery::examine(&RealFileSystem, dir, None)
        .expect("examines")
        .end;
    let reader = PartitionReader::open(dir).expect("opens");
    let count = 20_000;
    let from = end - count;
    reader.read(from, from + 1, 1).expect("reads");
    let ours = best(|| {
        for offset in from..end {
            black_box(reader.read(offset, offset + 1, 1 << 20).expect("reads"));
        }
    });
    let file = File::open(segment_files(dir).last().expect("has segments")).expect("opens");
    let limit = best(|| {
        let mut buffer = [0; 1104];
        for at in 0..count {
            file.read_exact_at(&mut buffer, 4096 + at * 1104)
                .expect("reads");
            black_box(&buffer);
        }
    });
    let each = |seconds: f64| seconds / count as f64 * 1e6;
    line(
        "tail read of one new record / warm pread of a frame",
        each(ours),
        each(limit),
        "us",
        5.0,
        false,
    );
}

/// The envelope is a hand-written codec itself; its limit is one copy and one
/// digest of the same bytes, which nothing that is chained can do without.
fn envelopes() {
    let payload = record(1).payload;
    let count = 100_000;
    let ours = best(|| {
        for _ in 0..count {
            let envelope = Envelope::parse(black_box(&payload)).expect("parses");
            let again = envelope.to_new().encode(envelope.kind, envelope.source);
            black_box(Envelope::parse(&again).expect("parses").digest());
        }
    });
    let limit = best(|| {
        for _ in 0..count {
            let again = black_box(&payload).to_vec();
            black_box(blake3::hash(&again));
        }
    });
    let each = |seconds: f64| seconds / f64::from(count) * 1e6;
    line(
        "envelope parse + encode + digest / one copy + one BLAKE3",
        each(ours),
        each(limit),
        "us",
        2.0,
        false,
    );
}
