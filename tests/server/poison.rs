//! Spoilt events into one room: whatever a writer hands over, the fold decides,
//! keeps little of what it refuses, works little for it, and the room goes on.

use std::collections::BTreeMap;

use engram::limits::ROOM_WORK_INLINE_MAX;
use engram::matrix::RoomVersion;
use engram::projectors::roomserver::RoomServerOptions;
use engram::query::rooms::Rooms;
use log_format::record::input::{Placement, Relation};
use log_format::record::output::Decision;
use log_format::record::{Kind, Source};
use ruma::RoomId;
use serde_json::{Value, json};

use crate::graph::{CREATOR, Drafted, Fields, Graph, Say, Tip};
use crate::lane::OneLane;
use crate::records::Random;

const GUEST: &str = "@guest:other.org";
/// Rows that a refused event leaves: its own, one for each of the 30 events that
/// it may wait for, and those of the state that resolution makes before it.
const ROWS_MAX: usize = 100;
/// Look-ups for a refused event on average: some for each event that it names.
/// One that names old events looks at what changed since, as any fork does.
const READS_MEAN_MAX: u64 = 60;

fn pick<'a, T>(random: &mut Random, of: &'a [T]) -> &'a T {
    &of[random.below(of.len() as u64) as usize]
}

/// A string that is no good, or good elsewhere.
fn text(random: &mut Random, event: &Drafted) -> String {
    let long = [254, 255, 256, 300, 70_000][random.below(5) as usize];
    match random.below(16) {
        0 => String::new(),
        1 => "x".repeat(long),
        2 => format!("@{}:hs", "y".repeat(long)),
        3 => "\u{0}".to_owned(),
        4 => "\u{202e}\u{fffd}é".to_owned(),
        5 => event.room_id.clone(),
        6 => event.id.to_string(),
        7 => "!other:example.org".to_owned(),
        8 => "$unknown".to_owned(),
        9 => "@stranger:example.org".to_owned(),
        10 => "@:".to_owned(),
        11 => "m.room.power_levels".to_owned(),
        12 => "m.room.create".to_owned(),
        13 => "m.room.member".to_owned(),
        14 => event.sender.clone(),
        _ => format!("${:x}", random.next()),
    }
}

fn value(random: &mut Random, event: &Drafted) -> Value {
    match random.below(12) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!((1u64 << 53) - 1),
        4 => json!(-(1i64 << 53) + 1),
        5 => json!("100"),
        6 => json!([]),
        7 => json!({}),
        8 => json!({ GUEST: "100", "nobody": {} }),
        9 => (0..90).fold(json!(1), |inner, _| json!([inner])),
        10 => json!((0..200).map(|at| at.to_string()).collect::<Vec<_>>()),
        _ => json!(text(random, event)),
    }
}

/// JSON that is none, or of another shape.
fn bytes(random: &mut Random, sound: Option<&Vec<u8>>) -> Option<Vec<u8>> {
    let sound = sound.cloned().unwrap_or_else(|| b"{}".to_vec());
    match random.below(9) {
        0 => None,
        1 => Some(vec![]),
        2 => Some(b"null".to_vec()),
        3 => Some(b"[]".to_vec()),
        4 => Some(vec![0xff; 100]),
        5 => Some(b"[".repeat(20_000)),
        6 => Some(sound[..sound.len() / 2].to_vec()),
        7 => Some(br#"{"content":{"membership":1.5e400,"users":{"":9}}}"#.to_vec()),
        _ => {
            let mut spoilt = sound;
            if !spoilt.is_empty() {
                let at = random.below(spoilt.len() as u64) as usize;
                spoilt[at] = random.next() as u8;
            }
            Some(spoilt)
        }
    }
}

fn ids(random: &mut Random, sound: &[String], event: &Drafted, known: &[String]) -> Vec<String> {
    let unknown = |count: u64, random: &mut Random| -> Vec<String> {
        (0..count)
            .map(|_| format!("${:016x}", random.next()))
            .collect()
    };
    match random.below(11) {
        0 => vec![],
        1 => unknown(1, random),
        2 => unknown(10, random),
        3 => unknown(20, random),
        4 => unknown(21, random),
        5 => unknown(1_000, random),
        6 => vec![event.id.to_string()],
        7 => vec![text(random, event)],
        8 => sound.iter().chain(sound).cloned().collect(),
        9 => (0..8).map(|_| pick(random, known).clone()).collect(),
        _ => sound.iter().cloned().chain(unknown(1, random)).collect(),
    }
}

/// Spoils what the event says, as its JSON and its record then both have it.
fn spoil_content(event: &mut Drafted, random: &mut Random) {
    let spoilt = value(random, event);
    let keys: Vec<String> = match event.content.as_object() {
        Some(content) => content.keys().cloned().collect(),
        None => vec![],
    };
    match random.below(4) {
        0 => {
            let key = text(random, event);
            event.content[key] = spoilt;
        }
        1 => event.content = json!({}),
        _ if !keys.is_empty() => event.content[pick(random, &keys).as_str()] = spoilt,
        _ => {}
    }
}

/// Spoils a field of the record.
fn spoil(fields: &mut Fields, event: &Drafted, known: &[String], random: &mut Random) {
    let word = |random: &mut Random| match random.below(5) {
        0 => None,
        _ => Some(text(random, event)),
    };
    match random.below(27) {
        0 => fields.key = text(random, event),
        1 => fields.room_id = word(random),
        2 => {
            let room = text(random, event);
            (fields.key, fields.room_id) = (room.clone(), Some(room));
        }
        3 => fields.event_id = word(random),
        4 => fields.sender = word(random),
        5 => fields.event_type = word(random),
        6 => fields.state_key = word(random),
        7 => {
            let versions = ["1", "2", "6", "11", "12", "99", "", "org.example"];
            fields.room_version = Some((*pick(random, &versions)).to_owned());
        }
        8 => fields.room_version = None,
        9 => fields.skeleton = bytes(random, fields.skeleton.as_ref()),
        10 => fields.extract = bytes(random, fields.extract.as_ref()),
        11 => fields.body_part = bytes(random, fields.body_part.as_ref()),
        12 => fields.body = bytes(random, None),
        13 | 14 => fields.event.prev_events = ids(random, &event.prev_events, event, known),
        15 | 16 => fields.event.auth_events = ids(random, &event.auth_events, event, known),
        17 => {
            let depths = [0, 1, u64::MAX, 1 << 53, (1 << 53) - 1, 1 << 40];
            fields.event.depth = *pick(random, &depths);
        }
        18 => fields.event.placement = Placement::Outlier,
        19 => {
            let before = match random.below(2) {
                0 => text(random, event),
                _ => pick(random, known).clone(),
            };
            fields.event.placement = Placement::Backfill { before };
        }
        20 => fields.event.redacts = word(random),
        21 => {
            let words = ["join", "leave", "ban", "invite", "knock", "owner", ""];
            fields.event.membership = match random.below(8) {
                0 => None,
                _ => Some((*pick(random, &words)).to_owned()),
            };
        }
        22 => {
            let counts = [(0, 0), (5, 2), (0, 2), (1, 1), (0, u32::MAX), (u32::MAX, 3)];
            (fields.event.batch_index, fields.event.batch_count) = *pick(random, &counts);
        }
        23 => {
            let kinds = [
                Kind::InputStateBegin,
                Kind::InputStateChunk,
                Kind::InputStateCommit,
                Kind::InputStateAbandoned,
                Kind::InputRoomResumed,
                Kind::InputRoomPublished,
            ];
            fields.kind = *pick(random, &kinds);
        }
        24 => {
            let sources = [
                Source::Client,
                Source::Appservice,
                Source::Internal,
                Source::Backfill,
            ];
            fields.source = *pick(random, &sources);
        }
        25 => fields.idempotency = [random.below(3) as u8; 16],
        _ => {
            fields.event.relation = Some(Relation {
                rel_type: text(random, event),
                event_id: text(random, event),
            });
        }
    }
}

/// A sound event of any type that the rules look at.
fn sound(graph: &Graph, end: &Tip, known: &[String], random: &mut Random) -> Drafted {
    let levels = graph.levels(&[(GUEST, 50)]);
    // Who may do all makes no event here that could end the room.
    let say = match random.below(8) {
        0 => Say::state(GUEST, "m.room.power_levels", "", levels),
        1 => Say::member(GUEST, GUEST, "join"),
        2 => Say::member(GUEST, "@friend:other.org", "invite"),
        3 => Say::state(CREATOR, "m.room.topic", "", json!({ "topic": "spoilt" })),
        4 => Say::state(
            GUEST,
            "m.room.join_rules",
            "",
            json!({ "join_rule": "invite" }),
        ),
        5 => Say {
            redacts: Some(pick(random, known).clone()),
            ..Say::state(GUEST, "m.room.redaction", "", json!({}))
        },
        6 => Say::state(
            GUEST,
            "m.room.third_party_invite",
            "token",
            json!({ "public_key": "x" }),
        ),
        _ => Say::message(GUEST, "spoilt".to_owned()),
    };
    graph.event(random, say, end).0
}

/// The room's ends as they are, with the state that a correct writer knows.
fn end_of(lane: &OneLane, graph: &Graph, state: &Tip) -> Tip {
    let room_id = <&RoomId>::try_from(graph.room_id.as_str()).unwrap();
    let head = lane.tables.head(room_id).unwrap().unwrap();
    let ends = head.extremities.iter().take(20);
    Tip {
        ids: ends.map(|end| end.event_id.as_str().into()).collect(),
        depth: head
            .extremities
            .iter()
            .map(|end| end.depth)
            .max()
            .unwrap_or(1),
        state: state.state.clone(),
    }
}

/// Folds so many spoilt events; how many there were of each decision.
fn poison(version: RoomVersion, count: usize) -> BTreeMap<&'static str, usize> {
    let mut random = Random(31);
    let mut lane = OneLane::new(&RoomServerOptions::default());
    let (graph, made, mut end) = Graph::create("poisoned", version, &mut random);
    let mut known: Vec<String> = made.iter().map(|event| event.id.to_string()).collect();
    for event in &made {
        lane.take(event.keyed().record);
    }
    let (join, tip) = graph.event(&mut random, Say::member(GUEST, GUEST, "join"), &end);
    lane.take(join.keyed().record);
    end = tip;
    let mut decisions = BTreeMap::new();
    let (mut rows, mut reads, mut refused) = (0, 0, 0);
    for number in 0..count {
        // The room goes on beside.
        if number % 20 == 19 {
            let now = end_of(&lane, &graph, &end);
            let (event, tip) =
                graph.event(&mut random, Say::message(CREATOR, "sound".to_owned()), &now);
            let taken = lane.take(event.keyed().record);
            let decision = taken.folded.outcome.unwrap().decision;
            assert_eq!(decision, Decision::Accepted, "after {number} spoilt events");
            known.push(event.id.to_string());
            (end.ids, end.depth) = (tip.ids, tip.depth);
        }
        let mut event = sound(&graph, &end, &known, &mut random);
        if random.below(3) == 0 {
            spoil_content(&mut event, &mut random);
        }
        let mut fields = event.fields();
        for _ in 0..1 + random.below(3) {
            spoil(&mut fields, &event, &known, &mut random);
        }
        let taken = lane.take(fields.record());
        let Some(outcome) = taken.folded.outcome else {
            panic!("spoilt event {number} takes more than {ROOM_WORK_INLINE_MAX} steps");
        };
        *decisions.entry(outcome.decision.name()).or_default() += 1;
        if outcome.decision != Decision::Accepted {
            assert!(
                taken.rows <= ROWS_MAX,
                "event {number}: {} rows",
                taken.rows
            );
            assert!(taken.reads <= ROOM_WORK_INLINE_MAX);
            reads += taken.reads;
            rows += taken.rows;
            refused += 1;
        }
    }
    assert!(
        rows <= 10 * refused,
        "{rows} rows of {refused} refused events"
    );

    let mean = reads / refused as u64;
    assert!(mean <= READS_MEAN_MAX, "{mean} reads for a refused event");

    // The room can be used as before.
    let now = end_of(&lane, &graph, &end);
    let say = Say::member("@late:other.org", "@late:other.org", "join");
    let (join, after) = graph.event(&mut random, say, &now);
    let (said, _) = graph.event(
        &mut random,
        Say::message("@late:other.org", "hello".to_owned()),
        &after,
    );
    for event in [join, said] {
        let taken = lane.take(event.keyed().record);
        let outcome = taken.folded.outcome.unwrap();
        assert_eq!(outcome.decision, Decision::Accepted, "{:?}", outcome.reason);
    }
    decisions
}

#[test]
fn a_room_survives_ten_thousand_spoilt_events() {
    let decisions = poison(RoomVersion::V12, 10_000);
    for decision in ["accepted", "rejected", "outlier", "duplicate"] {
        let count = decisions.get(decision).copied().unwrap_or(0);
        assert!(count >= 20, "{decision}: {decisions:?}");
    }
}

#[test]
fn rooms_of_older_versions_survive_spoilt_events() {
    for version in [RoomVersion::V1, RoomVersion::V6, RoomVersion::V10] {
        let decisions = poison(version, 1_000);
        assert!(decisions["rejected"] >= 100, "{decisions:?}");
    }
}
