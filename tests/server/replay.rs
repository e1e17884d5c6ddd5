//! The same *input* gives the same state and the same *output*: with any number
//! of lanes, from zero, from a snapshot, and after a crash at any point.

use std::path::Path;
use std::sync::Arc;

use engram::logs::log::{Append, Appended, Log};
use engram::projectors::aliasserver::AliasProjector;
use engram::projectors::applied::Applied;
use engram::projectors::deliveryserver::DeliveryProjector;
use engram::projectors::digest::{self, Digest};
use engram::projectors::engine::RunError;
use engram::projectors::fold::{FoldError, FoldInput, Folded, Projector};
use engram::projectors::keyserver::KeyProjector;
use engram::projectors::lanes::Lane;
use engram::projectors::output_log::OutputLog;
use engram::projectors::rebuild::{self, FirstDifference, ReplayError};
use engram::projectors::receiptserver::ReceiptProjector;
use engram::projectors::roomserver::{RoomServer, RoomServerOptions, RoomTables};
use engram::projectors::run::{Parts, Projection, SnapshotSchedule};
use engram::projectors::snapshots::Snapshots;
use engram::projectors::start::{self, Folders, Report};
use engram::projectors::userserver::{Sessions, UserProjector};
use engram::query::outcome::{OutcomeError, Outcomes};
use engram::storage::columns::{PARKED, PARKED_RECORDS, PROFILES};
use engram::storage::open::{Store, StoreOptions};
use engram::storage::overlay::{Overlay, Read};
use log_format::codec;
use log_format::record::output::{Decision, OutputRoomEvent, Reason};
use log_format::record::{Kind, NewEnvelope};

use crate::memory_log::MemoryLog;
use crate::records::{self, Keyed, Random, append, random_records};

/// Folders of one server; removed at the end.
pub struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Home {
        Home {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn folders(&self) -> Folders {
        Folders {
            store: self.folder.path().join("store"),
            snapshots: self.folder.path().join("snapshots"),
        }
    }

    pub fn snapshots(&self, partitions: u32) -> Snapshots {
        Snapshots::new(
            &self.folders().snapshots,
            2,
            &StoreOptions::default(),
            partitions,
        )
    }

    /// Opens what is there as a start does.
    pub fn open(&self, input: &MemoryLog, output: &MemoryLog) -> (Arc<Store>, Report) {
        let (folders, options) = (self.folders(), StoreOptions::default());
        let mut report = Report::default();
        let store = start::open_store(&folders, &options, &mut report).unwrap();
        let snapshots = self.snapshots(input.partitions());
        let store = start::fit(
            store,
            &folders,
            &options,
            Some(&snapshots),
            input,
            output,
            &mut report,
        );
        (store.unwrap(), report)
    }
}

/// What the lanes over one store share.
pub struct Tables {
    pub rooms: Arc<RoomTables>,
    sessions: Arc<Sessions>,
}

impl Tables {
    fn load(store: &Arc<Store>, input: &Arc<dyn Log>) -> Tables {
        let options = RoomServerOptions {
            // So that it takes several records to purge a room.
            purged_rows: 30,
            ..RoomServerOptions::default()
        };
        Tables::load_with(store, input, &options)
    }

    pub fn load_with(
        store: &Arc<Store>,
        input: &Arc<dyn Log>,
        options: &RoomServerOptions,
    ) -> Tables {
        Tables {
            rooms: RoomTables::new(store.clone(), input.clone(), &[9; 16], options),
            sessions: Arc::new(Sessions::load(store, input.partitions()).unwrap()),
        }
    }

    pub fn lanes(&self, count: usize) -> Vec<Lane> {
        let lane = |_| Lane {
            rooms: Box::new(RoomServer::new(self.rooms.clone())),
            users: Box::new(UserProjector::new(self.sessions.clone())),
            aliases: Box::new(AliasProjector),
            receipts: Box::new(ReceiptProjector::default()),
            keys: Box::new(KeyProjector),
            deliveries: Box::new(DeliveryProjector),
        };
        (0..count).map(lane).collect()
    }
}

pub fn input_of(partitions: u32, records: impl IntoIterator<Item = Keyed>) -> Arc<MemoryLog> {
    let input = MemoryLog::new("input", partitions);
    append(&input, records);
    Arc::new(input)
}

fn replay_all(
    home: &Home,
    input: &Arc<MemoryLog>,
    output: &Arc<MemoryLog>,
    lane_count: usize,
) -> (Digest, Report) {
    let (store, report) = home.open(input, output);
    let digest = replay(&store, input, output, lane_count).unwrap();
    (digest, report)
}

fn replay(
    store: &Arc<Store>,
    input: &Arc<MemoryLog>,
    output: &Arc<MemoryLog>,
    lane_count: usize,
) -> Result<Digest, ReplayError> {
    let as_input: Arc<dyn Log> = input.clone();
    let as_output: Arc<dyn OutputLog> = output.clone();
    let tables = Tables::load(store, &as_input);
    let make_lanes = |_| tables.lanes(lane_count);
    rebuild::replay(store, &as_input, &as_output, &make_lanes, &|_| {})
}

pub fn new_output(partitions: u32) -> Arc<MemoryLog> {
    Arc::new(MemoryLog::new("output", partitions))
}

fn project(
    home: &Home,
    store: &Arc<Store>,
    input: &Arc<MemoryLog>,
    output: &Arc<MemoryLog>,
) -> Projection {
    let partitions = input.partitions();
    let as_input: Arc<dyn Log> = input.clone();
    let tables = Tables::load(store, &as_input);
    let lanes = (0..partitions).map(|_| tables.lanes(2)).collect();
    Projection::start(Parts {
        store: store.clone(),
        input: input.clone(),
        output: output.clone(),
        snapshots: home.snapshots(partitions),
        schedule: SnapshotSchedule {
            seconds: 0,
            records: 0,
        },
        lanes,
    })
    .unwrap()
}

/// A fold with a bug.
struct Panics;

impl Projector for Panics {
    fn fold(&mut self, _: &FoldInput<'_>, _: &mut Overlay<'_>) -> Result<Folded, FoldError> {
        panic!("a bug in a fold");
    }

    fn publish(&mut self) {}
}

#[tokio::test]
async fn a_panic_in_a_fold_is_a_failure_that_writers_hear_of() {
    let input = input_of(1, random_records(5, 3));
    let (home, output) = (Home::new(), new_output(1));
    let (store, _) = home.open(&input, &output);
    let lane = || Lane {
        rooms: Box::new(Panics),
        users: Box::new(Panics),
        aliases: Box::new(Panics),
        receipts: Box::new(Panics),
        keys: Box::new(Panics),
        deliveries: Box::new(Panics),
    };
    let projection = Projection::start(Parts {
        store,
        input: input.clone(),
        output,
        snapshots: home.snapshots(1),
        schedule: SnapshotSchedule {
            seconds: 0,
            records: 0,
        },
        lanes: vec![vec![lane()]],
    });
    let projection = projection.unwrap();
    let patience = std::time::Duration::from_secs(20);
    let failed = tokio::time::timeout(patience, projection.failed()).await;
    assert!(failed.is_ok(), "nobody heard of the panic");
    let batch = Appended {
        partition: 0,
        first: 0,
        count: 1,
    };
    let outcome = projection.outcomes().outcome(batch).await;
    assert_eq!(outcome, Err(OutcomeError::Stopped));
}

#[test]
fn any_number_of_lanes_gives_the_same_state_and_output() {
    let mut logical = Vec::new();
    for partitions in [1, 4] {
        let input = input_of(partitions, random_records(1, 3000));
        let mut first = None;
        for lane_count in [1, 2, 4] {
            let output = new_output(partitions);
            let (digest, report) = replay_all(&Home::new(), &input, &output, lane_count);
            assert_eq!(report, Report::default());
            let result = (digest, output.content());
            assert!(result.1.iter().map(Vec::len).sum::<usize>() >= 3000);
            match &first {
                None => {
                    logical.push(digest::logical_digests(output.as_ref()).unwrap());
                    first = Some(result);
                }
                Some(first) => {
                    assert_eq!(
                        first.0, result.0,
                        "{partitions} partitions, {lane_count} lanes"
                    );
                    assert!(
                        first.1 == result.1,
                        "{partitions} partitions, {lane_count} lanes"
                    );
                }
            }
        }
    }
    assert!(logical[0].len() > 50);
    for (one, four) in logical[0].iter().zip(&logical[1]) {
        assert_eq!(one, four, "1 and 4 partitions");
    }
}

/// The folds must have done something, or the tests above would compare nothing.
#[test]
fn random_records_lead_to_every_kind_of_row_and_decision() {
    let home = Home::new();
    let (input, output) = (input_of(1, random_records(1, 3000)), new_output(1));
    replay_all(&home, &input, &output, 1);
    let (store, _) = home.open(&input, &output);
    for table in digest::digested_tables() {
        // Nothing in these records takes long; see `room_work.rs`.
        let never = [PARKED, PARKED_RECORDS].contains(&table);
        let rows = store.range(table, &[], None, false, 1).unwrap();
        assert!(never || !rows.is_empty(), "table {} is empty", table.name);
    }
    let mut seen = std::collections::BTreeMap::new();
    for record in output.read(0, 0, usize::MAX).unwrap() {
        let envelope = record.envelope().unwrap();
        if envelope.kind == Kind::OutputRoomEvent {
            let body: OutputRoomEvent = codec::decode(envelope.body).unwrap();
            *seen.entry(body.decision.name()).or_insert(0) += 1;
        }
    }
    for decision in [
        "accepted",
        "duplicate",
        "outlier",
        "rejected",
        "soft-failed",
    ] {
        let count = seen.get(decision).copied().unwrap_or(0);
        assert!(count >= 10, "{decision}: {count} of {seen:?}");
    }
}

#[test]
fn a_snapshot_and_the_rest_give_what_zero_gives() {
    for partitions in [1, 4] {
        let reference = new_output(partitions);
        let input = input_of(partitions, random_records(2, 1000));
        let home = Home::new();
        let output = new_output(partitions);
        let (store, _) = home.open(&input, &output);
        let projection = project(&home, &store, &input, &output);
        block_on(projection.caught_up()).unwrap();
        projection.stop(true).unwrap();
        drop((projection, store));
        append(input.as_ref(), random_records(3, 1000));
        let (expected, _) = replay_all(&Home::new(), &input, &reference, 1);

        // The store is lost, its snapshot is not.
        std::fs::remove_dir_all(home.folders().store).unwrap();
        std::fs::write(home.folders().store, "no store").unwrap();
        std::fs::remove_file(home.folders().store).unwrap();
        let damaged = home.folders().store;
        std::fs::create_dir(&damaged).unwrap();
        std::fs::write(damaged.join("CURRENT"), "MANIFEST-999999\n").unwrap();
        let (digest, report) = replay_all(&home, &input, &output, 2);
        assert_eq!(report.restored, Some(1000), "{report:?}");
        assert_eq!(digest, expected);
        assert!(output.content() == reference.content());
    }
}

#[test]
fn a_crash_at_any_point_changes_nothing() {
    let mut completed = 0;
    for seed in 0..6 {
        let partitions = if seed % 2 == 0 { 1 } else { 4 };
        let mut random = Random(seed);
        let reference = new_output(partitions);
        let whole = input_of(partitions, random_records(seed, 1200));
        let (expected, _) = replay_all(&Home::new(), &whole, &reference, 1);

        let input = Arc::new(MemoryLog::new("input", partitions));
        let mut output = new_output(partitions);
        let mut home = Home::new();
        let mut todo = random_records(seed, 1200).into_iter();
        while todo.len() > 0 {
            let (store, report) = home.open(&input, &output);
            completed += report.completed;
            let projection = project(&home, &store, &input, &output);
            for _ in 0..random.below(4) {
                let some = 1 + random.below(300) as usize;
                append(input.as_ref(), todo.by_ref().take(some));
                block_on(projection.caught_up()).unwrap();
                match random.below(5) {
                    0 => store.flush().unwrap(),
                    1 => drop(projection.tick(random.next()).unwrap()),
                    2 => drop(projection.snapshot().unwrap()),
                    _ => {}
                }
            }
            append(
                input.as_ref(),
                todo.by_ref().take(random.below(60) as usize),
            );
            projection.halt();
            // What the process had in memory is gone with it: the store stands
            // at its last flush, *output* anywhere behind its last sync.
            let crashed = Home::new();
            copy_folder(&home.folders().store, &crashed.folders().store);
            if home.folders().snapshots.exists() {
                copy_folder(&home.folders().snapshots, &crashed.folders().snapshots);
            }
            output = Arc::new(output.after_power_cut(|_, unsynced| match random.below(3) {
                0 => 0,
                1 => unsynced,
                _ => random.below(unsynced + 1),
            }));
            drop(projection);
            home = crashed;
        }
        let (digest, report) = replay_all(&home, &input, &output, 1);
        completed += report.completed;
        assert_eq!(digest, expected, "seed {seed}");
        assert!(output.content() == reference.content(), "seed {seed}");
    }
    assert!(
        completed > 0,
        "no crash lost a piece of output that the store had"
    );
}

#[test]
fn another_output_than_before_stops_the_projection() {
    let (input, output) = (input_of(1, random_records(4, 200)), new_output(1));
    replay_all(&Home::new(), &input, &output, 1);
    let other = records::keyed(
        Kind::OutputUser,
        &7u64,
        NewEnvelope {
            key: "@user1:example.org",
            ..NewEnvelope::default()
        },
    );
    output.tamper(0, 123, &other.record);
    let home = Home::new();
    let (store, _) = home.open(&input, &output);
    match replay(&store, &input, &output, 1) {
        Err(ReplayError::Run(RunError::NotDeterministic(difference))) => {
            assert_eq!(difference.output_offset, 123);
        }
        other => panic!("the difference was not noticed: {other:?}"),
    }
}

#[test]
fn verification_names_the_first_difference() {
    let home = Home::new();
    let (input, output) = (input_of(4, random_records(5, 600)), new_output(4));
    replay_all(&home, &input, &output, 1);
    let verify = || {
        let (scratch_home, options) = (Home::new(), StoreOptions::default());
        let stored = Store::open_read_only(&home.folders().store, &options).unwrap();
        let scratch = Store::open(&scratch_home.folders().store, &options).unwrap();
        let scratch = Arc::new(scratch);
        let as_input: Arc<dyn Log> = input.clone();
        let as_output: Arc<dyn Log> = output.clone();
        let tables = Tables::load(&scratch, &as_input);
        let make_lanes = |_| tables.lanes(2);
        rebuild::verify(
            &stored,
            &scratch,
            &as_input,
            &as_output,
            &make_lanes,
            &|_| {},
        )
        .unwrap()
    };
    let good = verify();
    assert_eq!(good.difference, None);
    assert_eq!(good.stored, good.replayed);
    assert_eq!(good.records, 600);
    {
        let (store, _) = home.open(&input, &output);
        let mut batch = store.batch();
        batch.put(PROFILES, b"\0\0nobody", b"{}").unwrap();
        store.write(batch).unwrap();
        store.flush().unwrap();
    }
    let bad = verify();
    assert_ne!(bad.stored, bad.replayed);
    match bad.difference {
        Some(FirstDifference::Row(row)) => {
            assert_eq!(
                (row.table, row.key.as_slice()),
                (PROFILES.name, &b"\0\0nobody"[..])
            );
            assert_eq!(row.what, "only in the store");
        }
        other => panic!("wrong difference: {other:?}"),
    }
}

#[test]
fn an_input_that_is_not_the_stores_sets_the_store_aside() {
    let home = Home::new();
    let output = new_output(1);
    let input = input_of(1, random_records(6, 500));
    replay_all(&home, &input, &output, 1);
    // Restored from an older backup, and then continued another way.
    let mut keep: Vec<Keyed> = random_records(6, 500);
    keep.truncate(300);
    let other = input_of(1, keep.into_iter().chain(random_records(7, 300)));
    let reference = new_output(1);
    let (expected, _) = replay_all(&Home::new(), &other, &reference, 1);
    let (digest, report) = replay_all(&home, &other, &output, 1);
    assert!(report.notes.iter().any(|note| note.contains("set aside")));
    assert_eq!(digest, expected);
    assert!(output.content() == reference.content());
    let (store, report) = home.open(&other, &output);
    assert_eq!(
        report,
        Report::default(),
        "the second start finds all in order"
    );
    let applied = Applied::read(store.as_ref(), 0).unwrap().unwrap();
    assert_eq!(applied.input_end, 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_come_to_who_waits() {
    let home = Home::new();
    let (input, output) = (input_of(1, []), new_output(1));
    let (store, _) = home.open(&input, &output);
    let projection = project(&home, &store, &input, &output);
    let outcomes = projection.outcomes();
    let register = |name: &str, token| {
        let created = log_format::record::input::InputAccountCreated {
            password_hash: None,
            guest: false,
            admin: false,
        };
        let logged_in = log_format::record::input::InputDeviceLoggedIn {
            device_id: "A".to_owned(),
            display_name: None,
            tokens: log_format::record::input::Tokens {
                access: records::hash(token),
                access_expires_ms: None,
                refresh: None,
            },
        };
        let envelope = || NewEnvelope {
            key: name,
            idempotency: [token as u8; 16],
            ..NewEnvelope::default()
        };
        vec![
            records::keyed(Kind::InputAccountCreated, &created, envelope()).record,
            records::keyed(Kind::InputDeviceLoggedIn, &logged_in, envelope()).record,
        ]
    };
    let submit = async |batch| {
        let appended = input.enqueue(0, batch).unwrap().await.unwrap();
        outcomes.outcome(appended).await.unwrap()
    };
    let first = submit(register("@a:example.org", 1)).await;
    assert_eq!(
        (first.decision, first.visible_at.0),
        (Decision::Accepted, 2)
    );
    // Somebody else was first: neither the account nor their login is theirs.
    let second = submit(register("@a:example.org", 2)).await;
    assert_eq!(
        (second.decision, second.reason),
        (Decision::Rejected, Reason::Taken)
    );
    assert_eq!(second.visible_at.0, 4);
    assert_eq!(output.end(0), 4);
    tokio::task::spawn_blocking(move || projection.stop(false))
        .await
        .unwrap()
        .unwrap();
    let sessions = Sessions::load(&store, 1).unwrap();
    assert!(sessions.session(&records::hash(1)).is_some());
    assert!(sessions.session(&records::hash(2)).is_none());
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

/// Copies a folder as a crash leaves it: while it is in use. RocksDB may take a
/// file away meanwhile; then the copy is begun anew.
pub fn copy_folder(from: &Path, to: &Path) {
    while let Err(error) = try_copy_folder(from, to) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        std::fs::remove_dir_all(to).unwrap();
    }
}

fn try_copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            try_copy_folder(&entry.path(), &to)?;
        } else if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
