//! What large and forked rooms cost in the room server's fold: time for each
//! event, bytes on disk, memory, and look-ups of old states; a table of figures
//! beside the goals.
//!
//! `cargo bench --bench rooms [-- PERCENT]`: of the full size, 100 by default.

#[path = "../tests/server/big_room.rs"]
#[allow(dead_code)]
mod big_room;
#[path = "../tests/server/forked_rooms.rs"]
#[allow(dead_code)]
mod forked_rooms;
#[path = "../tests/server/graph.rs"]
#[allow(dead_code)]
mod graph;
#[path = "../tests/server/lane.rs"]
#[allow(dead_code)]
mod lane;
#[path = "../tests/server/memory_log.rs"]
#[allow(dead_code)]
mod memory_log;
#[path = "../tests/server/records.rs"]
#[allow(dead_code)]
mod records;
#[path = "../tests/server/room_records.rs"]
#[allow(dead_code)]
mod room_records;

use std::time::{Duration, Instant};

use engram::logs::log::{Log, NewRecord};
use engram::matrix::RoomVersion;
use engram::matrix::auth_rules::{AuthEvent, EventContent, check};
use engram::projectors::roomserver::RoomServerOptions;
use engram::query::ids::StateId;
use engram::query::rooms::{Rooms, StateKey};
use engram::storage::columns::Family;
use log_format::record::output::Decision;
use ruma::{EventId, RoomId};
use serde_json::json;

use big_room::{BigRoom, Size, member};
use graph::{CREATOR, Graph, Say};
use lane::{OneLane, Taken};
use records::Random;

fn main() {
    let percent = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let percent: u64 = percent.unwrap_or(100);
    println!("{:<62} {:>14}  goal", "what", "figure");
    forked_room(percent);
    concurrent_forks(percent);
    join_by_given_state(percent);
}

fn line(what: &str, figure: f64, unit: &str, goal: Option<f64>) {
    let goal = match goal {
        None => String::new(),
        Some(goal) if figure <= goal => format!("<= {goal} {unit}"),
        Some(goal) => format!("<= {goal} {unit}  MISSED"),
    };
    println!("{what:<62} {:>14}  {goal}", format!("{figure:.2} {unit}"));
}

/// Resident memory of this process in MiB, its log included.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// Times, as percentiles.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e6);
    }

    fn print(&mut self, what: &str, goal: Option<f64>) {
        if self.0.is_empty() {
            return;
        }
        self.0.sort_by(f64::total_cmp);
        let at = |share: f64| self.0[((self.0.len() - 1) as f64 * share) as usize];
        line(&format!("{what}, p50"), at(0.5), "µs", goal);
        line(&format!("{what}, p99"), at(0.99), "µs", None);
        line(&format!("{what}, max"), at(1.0), "µs", None);
    }
}

/// What a run over many records saw.
#[derive(Default)]
struct Run {
    folds: Times,
    messages: Times,
    writes: Times,
    aside: Times,
    accepted: u64,
    state_changes: u64,
    refused: u64,
}

impl Run {
    /// Folds a record, and what it makes wait.
    fn take(&mut self, lane: &mut OneLane, record: NewRecord, is_plain: bool, is_state: bool) {
        let taken = lane.take(record);
        if is_plain {
            self.messages.push(taken.fold);
        }
        self.note(&taken, is_state);
        while let Some((work, taken)) = lane.go_on() {
            self.aside.push(work);
            self.note(&taken, is_state);
        }
    }

    fn note(&mut self, taken: &Taken, is_state: bool) {
        self.folds.push(taken.fold);
        self.writes.push(taken.write);
        let settled = taken.folded.settled.iter().map(|(_, outcome)| outcome);
        let decided: Vec<_> = match settled.len() {
            0 => taken.folded.outcome.iter().collect(),
            _ => settled.collect(),
        };
        for outcome in decided {
            let accepted = outcome.decision == Decision::Accepted;
            self.accepted += u64::from(accepted);
            self.state_changes += u64::from(accepted && is_state);
            self.refused += u64::from(matches!(
                outcome.decision,
                Decision::Rejected | Decision::SoftFailed
            ));
        }
    }

    fn print(&mut self, begun: Instant) {
        let took: f64 = self.folds.0.iter().chain(&self.writes.0).sum();
        let rate = self.folds.0.len() as f64 / (took / 1e6);
        line(
            "  records folded and written, one at a time",
            rate,
            "/s",
            None,
        );
        line("  accepted", self.accepted as f64, "events", None);
        line(
            "  rejected or soft-failed",
            self.refused as f64,
            "events",
            None,
        );
        line("  done aside", self.aside.0.len() as f64, "times", None);
        self.folds.print("  fold", None);
        self.messages.print("  fold of a plain message", None);
        self.aside.print("  work aside", None);
        line("  whole run", begun.elapsed().as_secs_f64(), "s", None);
    }
}

fn print_space(lane: &OneLane, run: &Run) {
    lane.store.flush().unwrap();
    lane.store.compact().unwrap();
    let sizes = lane.store.sizes();
    let all: u64 = sizes.iter().map(|size| size.file_bytes).sum();
    let state = sizes.iter().find(|size| size.family == Family::State);
    let state = state.map_or(0, |size| size.file_bytes) as f64;
    let (events, changes) = (run.accepted as f64, run.state_changes as f64);
    line(
        "  disk for an event, all tables",
        all as f64 / events,
        "bytes",
        None,
    );
    line("  disk for an event, state", state / events, "bytes", None);
    line(
        "  disk for a state change, state",
        state / changes,
        "bytes",
        Some(100.0),
    );
    let log: usize = lane
        .log
        .content()
        .iter()
        .flatten()
        .map(|entry| entry.2.len())
        .sum();
    let log = log as f64 / f64::from(1 << 20);
    line(
        "  memory, with the log of this bench",
        resident_mib(),
        "MiB",
        None,
    );
    line("  of which log", log, "MiB", None);
}

fn forked_room(percent: u64) {
    let size = Size {
        members: 500 * percent,
        events: 2_000 * percent,
        forks: 5 * percent,
    };
    let Size {
        members,
        events,
        forks,
    } = size;
    println!("a room with {members} members, {events} events, {forks} forks");
    let begun = Instant::now();
    let mut lane = OneLane::new(&RoomServerOptions::default());
    let mut room = BigRoom::new(size, RoomVersion::V11, 1);
    let mut run = Run::default();
    let mut ids = vec![];
    for event in room.by_ref() {
        let is_plain = event.kind == "m.room.message" && event.prev_events.len() == 1;
        let is_state = event.state_key.is_some();
        ids.push(event.id.clone());
        run.take(&mut lane, event.fields().record(), is_plain, is_state);
    }
    run.print(begun);
    let room_id = <&RoomId>::try_from(room.graph.room_id.as_str()).unwrap();
    look_up(&lane, room_id, &ids, members);
    auth_check(&lane, room_id, &room.graph);
    print_space(&lane, &run);
}

/// Old states: one key, a whole one, and how two differ.
fn look_up(lane: &OneLane, room_id: &RoomId, ids: &[std::sync::Arc<str>], members: u64) {
    let mut random = Random(2);
    let mut states: Vec<StateId> = vec![];
    while states.len() < 2_000 {
        let id = &ids[random.below(ids.len() as u64) as usize];
        let id = <&EventId>::try_from(&**id).unwrap();
        let event = lane.tables.event(room_id, id).unwrap();
        states.extend(event.map(|event| event.state_before));
    }
    let mut times = Times::default();
    for round in 0..2 {
        times = Times::default();
        for state in &states {
            let key = StateKey::new("m.room.member", &member(random.below(members)));
            let begun = Instant::now();
            let entry = lane.tables.state_entry(room_id, *state, &key).unwrap();
            times.push(begun.elapsed());
            std::hint::black_box((entry, round));
        }
    }
    times.print("  look-up of a member at an old event", Some(20.0));
    let mut times = Times::default();
    for state in states.iter().take(10) {
        let begun = Instant::now();
        std::hint::black_box(lane.tables.state(room_id, *state).unwrap().len());
        times.push(begun.elapsed());
    }
    times.print("  a whole old state", None);
}

fn auth_check(lane: &OneLane, room_id: &RoomId, graph: &Graph) {
    let head = lane.tables.head(room_id).unwrap().unwrap();
    let content = serde_json::from_value(json!({ "body": "x" })).unwrap();
    let event = AuthEvent {
        event_id: "$event".try_into().unwrap(),
        room_id,
        sender: CREATOR.try_into().unwrap(),
        kind: "m.room.message",
        state_key: None,
        content: EventContent::Parsed(&content),
        prev_events_count: 1,
        first_prev_event: None,
        redacts: None,
    };
    let rounds = 100_000;
    let begun = Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(check(graph.version, &event, &*head.authority)).unwrap();
    }
    let each = begun.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
    line("  auth check of a plain message", each, "µs", Some(10.0));
}

/// Many servers that each miss all others' events: every end has its own state.
fn concurrent_forks(percent: u64) {
    let forks = 10 * percent;
    println!("{forks} concurrent forks of differing states");
    let begun = Instant::now();
    let mut lane = OneLane::new(&RoomServerOptions::default());
    let mut random = Random(3);
    let (graph, made, mut base) = Graph::create("forks", RoomVersion::V11, &mut random);
    let mut run = Run::default();
    for event in made {
        run.take(&mut lane, event.fields().record(), false, true);
    }
    for number in 0..forks {
        let user = member(number);
        let (event, tip) = graph.event(&mut random, Say::member(&user, &user, "join"), &base);
        run.take(&mut lane, event.fields().record(), false, true);
        base = tip;
    }
    let mut run = Run::default();
    let mut ends = vec![];
    for number in 0..forks {
        let user = member(number);
        let topic = json!({ "topic": number.to_string() });
        let say = match number % 4 {
            0 => Say::state(CREATOR, "m.room.topic", "", topic),
            1 => Say::member(CREATOR, &user, "ban"),
            2 => Say::member(&user, &user, "leave"),
            _ => Say::state(
                CREATOR,
                "m.room.name",
                "",
                json!({ "name": number.to_string() }),
            ),
        };
        let (event, tip) = graph.event(&mut random, say, &base);
        run.take(&mut lane, event.fields().record(), false, true);
        ends.push(tip);
    }
    let mut merges = Run::default();
    while ends.len() > 1 {
        let some: Vec<_> = ends.drain(..ends.len().min(20)).collect();
        let merged = graph::Tip::of(&some.iter().collect::<Vec<_>>());
        let say = Say::message(CREATOR, "merged".to_owned());
        let (event, tip) = graph.event(&mut random, say, &merged);
        merges.take(&mut lane, event.fields().record(), false, false);
        ends.push(tip);
    }
    run.print(begun);
    merges
        .folds
        .print("  fold of an event that merges 20", None);
    merges.aside.print("  work aside for such", None);
    let room_id = <&RoomId>::try_from(graph.room_id.as_str()).unwrap();
    let head = lane.tables.head(room_id).unwrap().unwrap();
    line(
        "  ends that are left",
        head.extremities.len() as f64,
        "",
        None,
    );
    print_space(&lane, &run);
}

fn join_by_given_state(percent: u64) {
    let members = 500 * percent;
    println!("joining a room of {members} members by a given state");
    let begun = Instant::now();
    let mut lane = OneLane::new(&RoomServerOptions::default());
    let mut random = Random(4);
    let (graph, made, mut end) = Graph::create("joined", RoomVersion::V11, &mut random);
    let mut run = Run::default();
    for event in made {
        run.take(&mut lane, event.as_outlier().fields().record(), false, true);
    }
    for number in 0..members {
        let user = member(number);
        let (event, tip) = graph.event(&mut random, Say::member(&user, &user, "join"), &end);
        run.take(&mut lane, event.as_outlier().fields().record(), false, true);
        end = tip;
    }
    let outliers: f64 = run.folds.0.iter().chain(&run.writes.0).sum();
    line("  outliers, folds and writes", outliers / 1e6, "s", None);
    let user = "@joiner:here.org";
    let (join, _) = graph.event(&mut random, Say::member(user, user, "join"), &end);
    let ids: Vec<_> = end.state.values().map(|held| held.id.clone()).collect();
    let state = Instant::now();
    for record in graph.give([1; 16], &join.id, &ids, 1_000) {
        run.take(&mut lane, record.record, false, false);
    }
    line("  chunks", state.elapsed().as_secs_f64(), "s", None);
    let commit = Instant::now();
    run.take(&mut lane, graph.commit([1; 16]).record, false, false);
    line("  commit", commit.elapsed().as_secs_f64(), "s", None);
    let joined = Instant::now();
    run.take(&mut lane, join.fields().record(), false, true);
    line(
        "  the join itself",
        joined.elapsed().as_secs_f64(),
        "s",
        None,
    );
    let room_id = <&RoomId>::try_from(graph.room_id.as_str()).unwrap();
    let head = lane.tables.head(room_id).unwrap().unwrap();
    line("  members", head.joined_members as f64, "", None);
    line("  records in the log", lane.log.end(0) as f64, "", None);
    run.aside.print("  work aside", None);
    line("  whole run", begun.elapsed().as_secs_f64(), "s", None);
}
