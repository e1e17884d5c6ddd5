//! Rooms that wait for work done aside, over real threads: other rooms do not
//! wait with them, a crash in the middle changes nothing, and what the log says
//! of it replays alike.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engram::logs::log::{Log, NewRecord};
use engram::matrix::RoomVersion;
use engram::projectors::digest::{self, Digest};
use engram::projectors::output_log::OutputLog;
use engram::projectors::rebuild;
use engram::projectors::roomserver::{RoomServerOptions, RoomTables};
use engram::projectors::run::{Parts, Projection, SnapshotSchedule};
use engram::query::outcome::Outcomes;
use engram::query::parked::ParkedWork;
use engram::query::rooms::Rooms;
use engram::storage::columns::{PARKED, PARKED_RECORDS};
use engram::storage::open::Store;
use engram::storage::overlay::Read;
use engram::writers::room_work::RoomWork;
use engram::writers::submit::Submitter;
use log_format::record::Kind;
use log_format::record::output::Decision;
use ruma::RoomId;
use tokio::task::JoinHandle;

use crate::forked_rooms::ForkedRoom;
use crate::graph::{CREATOR, Drafted, Graph, Say, Tip};
use crate::memory_log::MemoryLog;
use crate::records::{Keyed, Random, append};
use crate::replay::{Home, Tables, copy_folder, input_of, new_output};

fn with_inline_work(inline_work: u64) -> RoomServerOptions {
    RoomServerOptions {
        inline_work,
        ..RoomServerOptions::default()
    }
}

/// A server's core, without doors: projection and the executor of work aside.
struct Running {
    home: Home,
    store: Arc<Store>,
    input: Arc<MemoryLog>,
    output: Arc<MemoryLog>,
    tables: Arc<RoomTables>,
    projection: Projection,
    submitter: Submitter,
    work: JoinHandle<()>,
}

impl Running {
    fn start(
        home: Home,
        input: Arc<MemoryLog>,
        output: Arc<MemoryLog>,
        options: &RoomServerOptions,
    ) -> Running {
        let mut idle = Running::idle(home, input, output, options);
        let aside: Arc<dyn ParkedWork> = Arc::new(idle.tables.clone());
        idle.work = tokio::spawn(RoomWork::new(aside, idle.submitter.clone()).run());
        idle
    }

    /// One that does no work aside.
    fn idle(
        home: Home,
        input: Arc<MemoryLog>,
        output: Arc<MemoryLog>,
        options: &RoomServerOptions,
    ) -> Running {
        let (store, _) = home.open(&input, &output);
        let as_input: Arc<dyn Log> = input.clone();
        let tables = Tables::load_with(&store, &as_input, options);
        let partitions = input.partitions();
        let projection = Projection::start(Parts {
            store: store.clone(),
            input: input.clone(),
            output: output.clone(),
            snapshots: home.snapshots(partitions),
            schedule: SnapshotSchedule {
                seconds: 0,
                records: 0,
            },
            lanes: (0..partitions).map(|_| tables.lanes(2)).collect(),
        });
        let projection = projection.unwrap();
        let outcomes: Arc<dyn Outcomes> = projection.outcomes();
        let submitter = Submitter::new(input.clone(), outcomes);
        Running {
            home,
            store,
            input,
            output,
            tables: tables.rooms,
            projection,
            submitter,
            work: tokio::spawn(async {}),
        }
    }

    /// Waits until everything is folded and no room waits.
    async fn settled(&self) {
        loop {
            self.projection.caught_up().await.unwrap();
            if self.tables.parked().unwrap().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn stop(self) -> (Home, Arc<MemoryLog>, Arc<MemoryLog>, Digest) {
        self.work.abort();
        let _ = self.work.await;
        let projection = self.projection;
        tokio::task::spawn_blocking(move || projection.stop(false))
            .await
            .unwrap()
            .unwrap();
        let digest = digest::state_digest(&self.store).unwrap();
        (self.home, self.input, self.output, digest)
    }

    /// Milliseconds that a record took to be answered.
    async fn answer_ms(&self, event: &Drafted) -> f64 {
        let begun = Instant::now();
        let record = event.keyed().record;
        self.submitter
            .submit(&event.room_id, vec![record])
            .await
            .unwrap();
        begun.elapsed().as_secs_f64() * 1e3
    }
}

/// Everything from zero, by so many lanes; compares with `output`.
fn replayed(
    input: &Arc<MemoryLog>,
    output: &Arc<MemoryLog>,
    options: &RoomServerOptions,
    lanes: usize,
) -> (Home, Arc<Store>, Digest) {
    let home = Home::new();
    let (store, _) = home.open(input, output);
    let (as_input, as_output): (Arc<dyn Log>, Arc<dyn OutputLog>) = (input.clone(), output.clone());
    let tables = Tables::load_with(&store, &as_input, options);
    let make_lanes = |_| tables.lanes(lanes);
    let digest = rebuild::replay(&store, &as_input, &as_output, &make_lanes, &|_| {}).unwrap();
    (home, store, digest)
}

fn forked_records(seed: u64, count: usize) -> Vec<Keyed> {
    let mut random = Random(seed);
    let (mut rooms, mut records) = (vec![], vec![]);
    for number in 0..6 {
        let (room, made) = ForkedRoom::create(number, &mut random);
        rooms.push(room);
        records.extend(made);
    }
    while records.len() < count {
        let room = random.below(6) as usize;
        records.push(rooms[room].next(&mut random));
    }
    records
}

fn resumptions(input: &MemoryLog) -> usize {
    let records = (0..input.partitions()).flat_map(|at| input.read(at, 0, usize::MAX).unwrap());
    records
        .filter(|record| record.envelope().unwrap().kind == Kind::InputRoomResumed)
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_replays_alike() {
    // So little that most resolutions are done aside.
    let options = with_inline_work(12);
    let input = input_of(1, []);
    let live = Running::start(Home::new(), input, new_output(1), &options);
    // All at once: rooms wait while their next records come.
    append(live.input.as_ref(), forked_records(11, 700));
    live.settled().await;
    let (_home, input, output, digest) = live.stop().await;
    let resumed = resumptions(&input);
    assert!(resumed >= 20, "{resumed} rooms went on");
    for lanes in [1, 2, 4] {
        let again = new_output(1);
        let (_home, _, replayed) = replayed(&input, &again, &options, lanes);
        assert_eq!(replayed, digest, "{lanes} lanes");
        assert!(again.content() == output.content(), "{lanes} lanes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_is_the_same_in_any_number_of_partitions() {
    let options = with_inline_work(12);
    let mut logical = vec![];
    for partitions in [1, 4] {
        let input = input_of(partitions, []);
        let live = Running::start(Home::new(), input, new_output(partitions), &options);
        for record in forked_records(12, 400) {
            append(live.input.as_ref(), [record]);
            live.settled().await;
        }
        let (_home, input, output, _) = live.stop().await;
        assert!(resumptions(&input) >= 10);
        logical.push(digest::logical_digests(output.as_ref()).unwrap());
    }
    assert_eq!(logical[0], logical[1]);
}

#[test]
fn rooms_that_still_wait_replay_alike() {
    let options = with_inline_work(12);
    for partitions in [1, 4] {
        let input = input_of(partitions, forked_records(13, 500));
        let output = new_output(partitions);
        let mut first = None;
        for lanes in [1, 2, 4] {
            let (_home, store, digest) = replayed(&input, &output, &options, lanes);
            for table in [PARKED, PARKED_RECORDS] {
                let rows = store.range(table, &[], None, false, 1).unwrap();
                assert!(!rows.is_empty(), "{}", table.name);
            }
            assert_eq!(*first.get_or_insert(digest), digest);
        }
    }
}

/// Members who join one fork of a room and, otherwise, another.
const MEMBERS: usize = 5_000;

/// A room with one end of which `MEMBERS` events are to be resolved against
/// another's as soon as the last event comes: the records before it, it, and
/// where the room's own server is.
fn heavy_room(random: &mut Random) -> (Vec<Keyed>, Drafted, Graph, Tip) {
    let (graph, made, base) = Graph::create("heavy", RoomVersion::V10, random);
    let mut records: Vec<Keyed> = made.iter().map(Drafted::keyed).collect();
    let (mut near, mut far) = (base.clone(), base);
    for number in 0..MEMBERS {
        let user = format!("@member{number}:other.org");
        let (event, tip) = graph.event(random, Say::member(&user, &user, "join"), &near);
        records.push(event.keyed());
        near = tip;
        let (event, tip) = graph.event(random, Say::member(&user, &user, "join"), &far);
        records.push(event.as_outlier().keyed());
        far = tip;
    }
    let (last, _) = graph.event(random, Say::message(CREATOR, "far".to_owned()), &far);
    let ids: Vec<_> = far.state.values().map(|held| held.id.clone()).collect();
    records.extend(graph.give([1; 16], &last.id, &ids, 500));
    records.push(graph.commit([1; 16]));
    (records, last, graph, near)
}

struct Talk {
    graph: Graph,
    end: Tip,
}

impl Talk {
    fn next(&mut self, random: &mut Random) -> Drafted {
        let say = Say::message(CREATOR, "hello".to_owned());
        let (event, end) = self.graph.event(random, say, &self.end);
        self.end = end;
        event
    }
}

fn p99(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[(times.len() * 99 / 100).min(times.len() - 1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room_holds_up_another() {
    let mut random = Random(21);
    let (records, last, heavy, mut near) = heavy_room(&mut random);
    let input = input_of(1, records);
    let mut rooms = vec![];
    for number in 0..8 {
        let (graph, made, end) =
            Graph::create(&format!("room{number}"), RoomVersion::V12, &mut random);
        append(input.as_ref(), made.iter().map(Drafted::keyed));
        rooms.push(Talk { graph, end });
    }
    let options = RoomServerOptions::default();
    let live = Running::start(Home::new(), input, new_output(1), &options);
    let begun = Instant::now();
    live.settled().await;
    println!("set up in {:?}", begun.elapsed());
    let mut quiet = vec![];
    for number in 0..300 {
        let event = rooms[number % 8].next(&mut random);
        quiet.push(live.answer_ms(&event).await);
    }

    // The heavy room begins to wait.
    let heavy_id = <&RoomId>::try_from(heavy.room_id.as_str()).unwrap();
    let begun = Instant::now();
    let end = live.input.end(0);
    let caused = submit(&live, last.keyed().record, &heavy.room_id);
    while live.tables.parked().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (said, tip) = heavy.event(&mut random, Say::message(CREATOR, "late".to_owned()), &near);
    near = tip;
    let late = submit(&live, said.keyed().record, &heavy.room_id);
    while live.input.end(0) < end + 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!caused.is_finished() && !late.is_finished());
    // For the crash below: what was written so far.
    let written = Arc::new(live.input.after_power_cut(|_, _| 0));
    written.cut(0, end + 2).unwrap();

    // Others do not wait.
    let mut busy = vec![];
    while !live.tables.parked().unwrap().is_empty() {
        let event = rooms[busy.len() % 8].next(&mut random);
        busy.push(live.answer_ms(&event).await);
        assert!(begun.elapsed() < Duration::from_secs(120));
    }
    let waited = begun.elapsed().as_secs_f64() * 1e3;
    let (quiet_p99, busy_p99) = (p99(&mut quiet), p99(&mut busy));
    println!(
        "the room waited {waited:.0} ms; others: {} messages, p99 {busy_p99:.1} ms, \
         alone {quiet_p99:.1} ms",
        busy.len()
    );
    assert!(busy.len() >= 20, "only {} messages meanwhile", busy.len());
    // Two cores, one of them at work: some slower, but none waits for the room.
    assert!(busy_p99 < (quiet_p99 * 20.0).max(waited / 4.0));

    // Its own writes are answered when it went on.
    assert_eq!(caused.await.unwrap(), Decision::Accepted);
    assert_eq!(late.await.unwrap(), Decision::Accepted);
    live.settled().await;
    let head = live.tables.head(heavy_id).unwrap().unwrap();
    assert_eq!(head.extremities.len(), 2);
    assert!(
        head.extremities
            .iter()
            .any(|end| *near.ids[0] == *end.event_id.as_str())
    );
    let (_home, _, output, _) = live.stop().await;
    let expected = digest::logical_digests(output.as_ref()).unwrap();

    // A crash while the room waits: what it leaves goes on to the same.
    let stopped = Running::idle(Home::new(), written, new_output(1), &options);
    stopped.projection.caught_up().await.unwrap();
    assert_eq!(stopped.tables.parked().unwrap().len(), 1);
    let crashed = Home::new();
    copy_folder(&stopped.home.folders().store, &crashed.folders().store);
    let input = Arc::new(stopped.input.after_power_cut(|_, _| 0));
    let output = Arc::new(stopped.output.after_power_cut(|_, unsynced| unsynced / 2));
    drop(stopped);
    let before = resumptions(&input);
    let again = Running::start(crashed, input, output, &options);
    again.settled().await;
    let (_home, input, output, digest) = again.stop().await;
    assert_eq!(resumptions(&input), before + 1);
    let logical = digest::logical_digests(output.as_ref()).unwrap();
    assert_eq!(logical[&heavy.room_id], expected[&heavy.room_id]);
    let (_home, _, replayed) = replayed(&input, &output, &options, 1);
    assert_eq!(replayed, digest);
}

/// Submits a record and tells what was decided.
fn submit(live: &Running, record: NewRecord, room_id: &str) -> JoinHandle<Decision> {
    let (submitter, room_id) = (live.submitter.clone(), room_id.to_owned());
    tokio::spawn(async move {
        let submitted = submitter.submit(&room_id, vec![record]).await.unwrap();
        submitted.outcome.decision
    })
}
