//! The contract of the `Log` port, held against every implementation, and what
//! the embedded logs promise beyond it.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log_format::file_system::{File, FileSystem, Lock, OpenMode, RealFileSystem};
use log_format::record::{Kind, NewEnvelope, Source};
use log_format::{LogId, Pending, Recovery, Witness};

use super::ephemeral::{KEPT_BYTES_MAX, KEPT_FOR};
use super::log::{Append, AppendError, Log, NewRecord, ReadError, partition_of};
use super::{EphemeralLog, InputLog, LogSettings, OpenLogError, OutputLog};

/// A log under test: how to append to it, and how to open it again.
trait Subject: Sized {
    /// How many partitions it is tried with.
    const PARTITIONS: u32 = 3;
    fn open(settings: &LogSettings) -> Self;
    fn log(&self) -> &dyn Log;
    /// Appends, and waits until the records are readable.
    async fn append(&self, partition: u32, batch: Vec<NewRecord>) -> u64;
    /// Everything appended is durable afterwards, and the files are free.
    fn close(self);
}

impl Subject for InputLog {
    fn open(settings: &LogSettings) -> InputLog {
        InputLog::open(settings, &[]).expect("opens").0
    }

    fn log(&self) -> &dyn Log {
        self
    }

    async fn append(&self, partition: u32, batch: Vec<NewRecord>) -> u64 {
        let ticket = self.enqueue(partition, batch).expect("is taken");
        ticket.await.expect("is durable").first
    }

    fn close(self) {}
}

impl Subject for EphemeralLog {
    const PARTITIONS: u32 = 1;

    fn open(settings: &LogSettings) -> EphemeralLog {
        EphemeralLog::open(settings).expect("opens")
    }

    fn log(&self) -> &dyn Log {
        self
    }

    async fn append(&self, partition: u32, batch: Vec<NewRecord>) -> u64 {
        let ticket = self.enqueue(partition, batch).expect("is taken");
        ticket.await.expect("is written").first
    }

    fn close(self) {}
}

impl Subject for OutputLog {
    fn open(settings: &LogSettings) -> OutputLog {
        OutputLog::open(settings, LogId([9; 16]), 1)
            .expect("opens")
            .0
    }

    fn log(&self) -> &dyn Log {
        self
    }

    async fn append(&self, partition: u32, batch: Vec<NewRecord>) -> u64 {
        let count = batch.len() as u64;
        let batch: Vec<Pending> = batch.into_iter().map(pending).collect();
        OutputLog::append(self, partition, &batch).expect("is appended") - count
    }

    fn close(self) {
        for partition in 0..self.partitions() {
            self.sync(partition).expect("syncs");
        }
    }
}

fn pending(record: NewRecord) -> Pending {
    Pending {
        kind: record.kind,
        time_us: 1,
        payload: record.payload,
        digest: record.digest,
    }
}

fn record(number: usize) -> NewRecord {
    let body = vec![number as u8; 200 + number % 300];
    let envelope = NewEnvelope {
        received_us: number as u64,
        key: "!room:example.org",
        body: &body,
        ..NewEnvelope::default()
    };
    NewRecord::new(Kind::InputRoomEvent, Source::Client, &envelope)
}

fn settings(folder: &tempfile::TempDir, partitions: u32) -> LogSettings {
    LogSettings::new(folder.path(), partitions, 64 << 10, 0)
}

/// What every implementation of the port does.
async fn keeps_the_contract<S: Subject>() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let settings = settings(&folder, S::PARTITIONS);
    let last = S::PARTITIONS - 1;
    let subject = S::open(&settings);
    assert_eq!(subject.log().partitions(), S::PARTITIONS);
    assert!(matches!(
        subject.log().read(S::PARTITIONS, 0, 1),
        Err(ReadError::NoSuchPartition(asked)) if asked == S::PARTITIONS
    ));
    assert_eq!(subject.log().read(0, 0, 1000).expect("reads").len(), 0);

    // Offsets of a partition increase, and are its own.
    let mut number = 0;
    for size in [1, 2, 30, 1, 150, 64] {
        for partition in BTreeSet::from([0, last]) {
            let batch = (number..number + size).map(record).collect();
            let first = subject.append(partition, batch).await;
            assert_eq!(first, number as u64);
        }
        number += size;
    }
    let end = number as u64;
    for partition in 0..S::PARTITIONS {
        let used = partition == 0 || partition == last;
        assert_eq!(subject.log().end(partition), if used { end } else { 0 });
    }

    check_records(subject.log(), last, number);
    let genesis = subject.log().link_before(last, 0).expect("has it");
    let middle = subject.log().link_before(last, end / 2).expect("has it");
    let link = subject.log().link_before(last, end).expect("has it");
    assert!(genesis != middle && middle != link);

    // Waiting: at once if it is there, else when it comes.
    subject.log().wait_beyond(last, end - 1).await;
    let early = tokio::time::timeout(
        Duration::from_millis(20),
        subject.log().wait_beyond(last, end),
    );
    assert!(early.await.is_err(), "nothing was appended yet");
    let wait = subject.log().wait_beyond(last, end);
    let appended = subject.append(last, vec![record(number)]);
    let (first, ()) = tokio::join!(appended, wait);
    assert_eq!(first, end);

    // It all survives.
    subject.close();
    let subject = S::open(&settings);
    assert_eq!(subject.log().end(last), end + 1);
    check_records(subject.log(), last, number + 1);
    assert_eq!(subject.log().link_before(last, end).expect("has it"), link);

    // Trimming takes whole segments from the front, and nothing else.
    subject.log().trim(last, end / 2).expect("trims");
    let begin = subject.log().begin(last);
    assert!(begin > 0 && begin <= end / 2, "begins at {begin}");
    match subject.log().read(last, 0, 1000) {
        Err(ReadError::Trimmed {
            asked: 0,
            begin: told,
        }) => assert_eq!(told, begin),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        subject.log().read(last, begin, 1).expect("reads")[0].offset,
        begin
    );
    assert_eq!(subject.log().link_before(last, end).expect("has it"), link);
    subject.close();
    let subject = S::open(&settings);
    assert_eq!(
        (subject.log().begin(last), subject.log().end(last)),
        (begin, end + 1)
    );
}

fn check_records(log: &dyn Log, partition: u32, count: usize) {
    let mut next = 0;
    while (next as usize) < count {
        let some = log.read(partition, next, 5000).expect("reads");
        assert!(!some.is_empty(), "at least one if there is one");
        for read in some {
            assert_eq!(read.offset, next);
            assert_eq!(read.payload, record(next as usize).payload);
            next += 1;
        }
    }
    assert_eq!(log.read(partition, next, 5000).expect("reads").len(), 0);
    assert_eq!(log.read(partition, 0, 0).expect("reads").len(), 1);
}

#[tokio::test]
async fn input_keeps_the_contract() {
    keeps_the_contract::<InputLog>().await;
}

#[tokio::test]
async fn output_keeps_the_contract() {
    keeps_the_contract::<OutputLog>().await;
}

#[tokio::test]
async fn ephemeral_keeps_the_contract() {
    keeps_the_contract::<EphemeralLog>().await;
}

#[tokio::test]
async fn ephemeral_is_kept_for_a_time_and_within_a_size() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let log = EphemeralLog::open(&settings(&folder, 3)).expect("opens");
    let mut now = Instant::now();
    let fill = async |count: usize| {
        let batch = (0..count).map(record).collect();
        log.enqueue(0, batch)
            .expect("is taken")
            .await
            .expect("is written");
    };
    assert_eq!(log.due(now), None);
    fill(1_000).await;
    now += KEPT_FOR / 2;
    assert_eq!(log.due(now), None);
    fill(1_000).await;
    now += KEPT_FOR / 2 + Duration::from_secs(1);
    assert_eq!(log.due(now), Some(0), "nothing was there at the first mark");
    now += KEPT_FOR / 2;
    assert_eq!(log.due(now), Some(1_000));
    assert_eq!(log.due(now), None, "once");
    log.trim(0, 1_000).expect("trims");
    let begin = log.begin(0);
    assert!(begin > 500 && begin <= 1_000, "begins at {begin}");
    // By size, however short the time.
    let mut due = 0;
    for _ in 0..KEPT_BYTES_MAX / (1_000 * 300) {
        fill(1_000).await;
        due = log.due(now).unwrap_or(due);
    }
    let kept = log.end(0) - due;
    assert!(kept * 300 < 2 * KEPT_BYTES_MAX, "{kept} records are kept");
    assert!(due > 2_000);
}

#[tokio::test]
async fn a_damaged_ephemeral_log_begins_anew() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let settings = settings(&folder, 1);
    let log = <EphemeralLog as Subject>::open(&settings);
    for number in 0..1_000 {
        Subject::append(&log, 0, vec![record(number)]).await;
    }
    drop(log);
    let first = folder
        .path()
        .join("ephemeral/p0000")
        .join(format!("{:020}.seg", 0));
    let mut permissions = std::fs::metadata(&first).expect("is there").permissions();
    #[allow(clippy::permissions_set_readonly_false, reason = "a test's file")]
    permissions.set_readonly(false);
    std::fs::set_permissions(&first, permissions).expect("may be written");
    std::fs::write(&first, b"nothing of a segment").expect("is written");
    let log = <EphemeralLog as Subject>::open(&settings);
    let end = log.end(0);
    assert_eq!(Subject::append(&log, 0, vec![record(7)]).await, end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_calls_is_the_order_of_offsets() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let log = Arc::new(InputLog::open(&settings(&folder, 1), &[]).expect("opens").0);
    let tickets: Vec<_> = (0..500)
        .map(|number| {
            log.enqueue(0, vec![record(number), record(number)])
                .expect("is taken")
        })
        .collect();
    for (number, ticket) in tickets.into_iter().enumerate() {
        let appended = ticket.await.expect("is durable");
        assert_eq!((appended.first, appended.count), (2 * number as u64, 2));
        assert!(
            log.end(0) > appended.last(),
            "readable before it is answered"
        );
    }
    // Senders in parallel each see their own order.
    let senders = (0..8).map(|_| {
        let log = log.clone();
        tokio::spawn(async move {
            let mut last = 0;
            for number in 0..50 {
                let ticket = log.enqueue(0, vec![record(number)]).expect("is taken");
                let first = ticket.await.expect("is durable").first;
                assert!(first > last);
                last = first;
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.expect("finishes");
    }
    assert_eq!(log.end(0), 1000 + 400);
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let full = LogSettings {
        reserve_bytes: u64::MAX,
        ..settings(&folder, 1)
    };
    let log = InputLog::open(&full, &[]).expect("opens").0;
    let answer = log.enqueue(0, vec![record(1)]).expect("is taken").await;
    assert_eq!(answer, Err(AppendError::DiskFull));
    assert_eq!(log.read(0, 0, 1000).expect("still reads").len(), 0);
    drop(log);
    let log = InputLog::open(&settings(&folder, 1), &[]).expect("opens").0;
    assert_eq!(Subject::append(&log, 0, vec![record(1)]).await, 0);
}

#[tokio::test]
async fn too_much_is_refused_before_it_is_queued() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let log = InputLog::open(&settings(&folder, 1), &[]).expect("opens").0;
    let large = NewRecord {
        payload: vec![0; (1 << 20) + 1],
        ..record(0)
    };
    let answer = log.enqueue(0, vec![large]).map(|_| ());
    assert_eq!(
        answer,
        Err(AppendError::TooLarge {
            bytes: (1 << 20) + 1,
            max: 1 << 20
        })
    );
    assert_eq!(log.queued_bytes(), 0);
    InputLog::close(&log);
    assert_eq!(
        log.enqueue(0, vec![record(0)]).map(|_| ()),
        Err(AppendError::Closed)
    );
}

#[tokio::test]
async fn a_log_is_not_opened_as_something_that_it_is_not() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let (log, recovery) = InputLog::open(&settings(&folder, 2), &[]).expect("opens");
    assert_eq!(
        recovery,
        [Recovery::Clean { end: 0 }, Recovery::Clean { end: 0 }]
    );
    assert_eq!(Subject::append(&log, 1, vec![record(1)]).await, 0);
    assert!(matches!(
        InputLog::open(&settings(&folder, 2), &[]),
        Err(OpenLogError::Partition { partition: 0, .. })
    ));
    drop(log);
    assert!(matches!(
        InputLog::open(&settings(&folder, 1), &[]),
        Err(OpenLogError::Partitions {
            found: 2,
            wanted: 1,
            ..
        })
    ));
    let ahead = [None, Some(Witness { end: 2, link: None })];
    assert!(matches!(
        InputLog::open(&settings(&folder, 2), &ahead),
        Err(OpenLogError::Partition { partition: 1, .. })
    ));
    let right = [None, Some(Witness { end: 1, link: None })];
    InputLog::open(&settings(&folder, 2), &right).expect("opens");
}

#[test]
fn output_is_cut_or_set_aside_and_named_by_its_source() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let settings = settings(&folder, 1);
    let batch: Vec<Pending> = (0..300).map(|number| pending(record(number))).collect();
    let (log, found) = OutputLog::open(&settings, LogId([9; 16]), 1).expect("opens");
    assert_eq!((found[0].end, found[0].set_aside.is_some()), (0, false));
    for some in batch.chunks(20) {
        log.append(0, some).expect("appends");
    }
    assert_eq!(
        (log.end(0), log.sync(0).expect("syncs"), log.durable_end(0)),
        (300, 300, 300)
    );
    let at_130 = log.link_before(0, 130).expect("has it");
    assert_eq!(log.read(0, 250, 100).expect("reads")[0].offset, 250);
    log.cut(0, 130).expect("cuts");
    assert_eq!((log.end(0), log.link(0)), (130, Some(at_130)));
    log.append(0, &batch[130..]).expect("appends");
    assert_eq!(
        log.read(0, 250, 100).expect("reads")[0].payload,
        batch[250].payload
    );
    let whole = log.link(0);
    drop(log);

    // Another epoch begins anew; the same content has other links.
    let (log, found) = OutputLog::open(&settings, LogId([9; 16]), 2).expect("opens");
    assert_eq!(found[0].end, 0);
    log.append(0, &batch).expect("appends");
    assert_ne!(log.link(0), whole);
    drop(log);

    // Damage is never served: the files are kept, the partition begins anew.
    let segment = folder.path().join("output/p0000/00000000000000000000.seg");
    let mut bytes = std::fs::read(&segment).expect("reads");
    bytes[100] ^= 1;
    std::fs::remove_file(&segment).expect("removes");
    std::fs::write(&segment, bytes).expect("writes");
    let (_, found) = OutputLog::open(&settings, LogId([9; 16]), 2).expect("opens");
    let aside = found[0].set_aside.clone().expect("is set aside");
    assert!(aside.join("00000000000000000000.seg").exists());
    assert_eq!(found[0].end, 0);
}

#[test]
fn a_key_has_one_partition_for_ever() {
    // Frozen: a change would move rooms between partitions.
    assert_eq!(partition_of("!room:example.org", 1), 0);
    for key in [
        "!room:example.org",
        "@user:example.org",
        "#alias:example.org",
        "",
    ] {
        let expected = log_format::partition::partition_of(key, 4);
        assert_eq!(partition_of(key, 4), expected);
    }
}

/// The machine's own files, whose flushes can be made to fail.
#[derive(Clone, Default)]
struct Failing(Arc<AtomicBool>);

struct FailingFile(Arc<dyn File>, Failing);

impl File for FailingFile {
    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.read_at(out, at)
    }
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_at(bytes, at)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.1.0.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.0.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
    fn drop_cache(&self) -> io::Result<()> {
        self.0.drop_cache()
    }
}

impl FileSystem for Failing {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = RealFileSystem.open(path, mode)?;
        Ok(Arc::new(FailingFile(file, self.clone())))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealFileSystem.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealFileSystem.create_dir_all(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFileSystem.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFileSystem.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealFileSystem.sync_dir(dir)
    }
    fn set_read_only(&self, path: &Path, read_only: bool) -> io::Result<()> {
        RealFileSystem.set_read_only(path, read_only)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        RealFileSystem.lock(path)
    }
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        RealFileSystem.is_locked(path)
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        RealFileSystem.free_bytes(dir)
    }
    fn now_us(&self) -> u64 {
        RealFileSystem.now_us()
    }
    fn nonce(&self) -> u64 {
        RealFileSystem.nonce()
    }
}

#[tokio::test]
async fn a_failed_flush_stops_the_log_for_good() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let disk = Failing::default();
    let failing = LogSettings {
        fs: Arc::new(disk.clone()),
        ..settings(&folder, 1)
    };
    let log = InputLog::open(&failing, &[]).expect("opens").0;
    assert_eq!(Subject::append(&log, 0, vec![record(0)]).await, 0);
    disk.0.store(true, Ordering::SeqCst);
    let answer = log.enqueue(0, vec![record(1)]).expect("is taken").await;
    assert_eq!(answer, Err(AppendError::OutcomeUnknown));
    // The disk works again, which proves nothing about what it dropped.
    disk.0.store(false, Ordering::SeqCst);
    let after = log.enqueue(0, vec![record(2)]).map(|_| ());
    assert_eq!(after, Err(AppendError::Closed));
    let why = tokio::time::timeout(Duration::from_secs(1), log.failed()).await;
    assert!(why.expect("is told at once").contains("os error 5"));
    // Reads of what was acknowledged go on; the rest is not shown.
    assert_eq!(
        (log.end(0), log.read(0, 0, 9999).expect("reads").len()),
        (1, 1)
    );
    drop(log);
    let (log, _) = InputLog::open(&settings(&folder, 1), &[]).expect("opens");
    assert!(log.end(0) >= 1);
    assert_eq!(
        log.read(0, 0, 1).expect("reads")[0].payload,
        record(0).payload
    );
}
