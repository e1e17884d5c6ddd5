//! The contract of the `Log` port, held against every implementation, and what
//! the embedded logs promise beyond it.

use std::sync::Arc;
use std::time::Duration;

use log_format::record::{Kind, NewEnvelope, Source};
use log_format::{LogId, Pending, Recovery, Witness};

use super::log::{Append, AppendError, Log, NewRecord, ReadError, partition_of};
use super::{InputLog, LogSettings, OpenLogError, OutputLog};

/// A log under test: how to append to it, and how to open it again.
trait Subject: Sized {
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
    let settings = settings(&folder, 3);
    let subject = S::open(&settings);
    assert_eq!(subject.log().partitions(), 3);
    assert!(matches!(
        subject.log().read(3, 0, 1),
        Err(ReadError::NoSuchPartition(3))
    ));
    assert_eq!(subject.log().read(0, 0, 1000).expect("reads").len(), 0);

    // Offsets of a partition increase, and are its own.
    let mut number = 0;
    for size in [1, 2, 30, 1, 150, 64] {
        for partition in [0, 2] {
            let batch = (number..number + size).map(record).collect();
            let first = subject.append(partition, batch).await;
            assert_eq!(first, number as u64);
        }
        number += size;
    }
    let end = number as u64;
    assert_eq!(
        [0, 1, 2].map(|partition| subject.log().end(partition)),
        [end, 0, end]
    );

    check_records(subject.log(), 2, number);
    let genesis = subject.log().link_before(2, 0).expect("has it");
    let middle = subject.log().link_before(2, end / 2).expect("has it");
    let last = subject.log().link_before(2, end).expect("has it");
    assert!(genesis != middle && middle != last);

    // Waiting: at once if it is there, else when it comes.
    subject.log().wait_beyond(2, end - 1).await;
    let early = tokio::time::timeout(Duration::from_millis(20), subject.log().wait_beyond(2, end));
    assert!(early.await.is_err(), "nothing was appended yet");
    let wait = subject.log().wait_beyond(2, end);
    let appended = subject.append(2, vec![record(number)]);
    let (first, ()) = tokio::join!(appended, wait);
    assert_eq!(first, end);

    // It all survives.
    subject.close();
    let subject = S::open(&settings);
    assert_eq!(subject.log().end(2), end + 1);
    check_records(subject.log(), 2, number + 1);
    assert_eq!(subject.log().link_before(2, end).expect("has it"), last);

    // Trimming takes whole segments from the front, and nothing else.
    subject.log().trim(2, end / 2).expect("trims");
    let begin = subject.log().begin(2);
    assert!(begin > 0 && begin <= end / 2, "begins at {begin}");
    match subject.log().read(2, 0, 1000) {
        Err(ReadError::Trimmed {
            asked: 0,
            begin: told,
        }) => assert_eq!(told, begin),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        subject.log().read(2, begin, 1).expect("reads")[0].offset,
        begin
    );
    assert_eq!(subject.log().link_before(2, end).expect("has it"), last);
    subject.close();
    let subject = S::open(&settings);
    assert_eq!(
        (subject.log().begin(2), subject.log().end(2)),
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
