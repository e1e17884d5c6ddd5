//! `trace`: what became of an event that came out of order.

use log_format::codec;
use log_format::partition::Topic;
use log_format::record::input::{InputRoomEvent, InputStateChunk, Placement};
use log_format::record::output::{Decision, OutputRoomGap};
use log_format::record::{Kind, NewEnvelope};
use log_format::{Pending, WriterConfig};
use serde_json::Value;

use crate::story::{Decided, SOURCES, Story, message};
use crate::support::{FIRST_TIME_US, SEGMENT_BYTES, lines, pending, run, writer};

const ROOM: &str = "!room:hs.test";
const ALICE: &str = "@alice:hs.test";

fn given(id: &str, placement: Placement) -> Pending {
    let body = codec::encode(&InputRoomEvent {
        placement,
        depth: 1,
        prev_events: vec![],
        auth_events: vec![],
        redacts: None,
        relation: None,
        membership: None,
        transaction: None,
        verified_with: vec![],
        batch_index: 0,
        batch_count: 1,
    });
    let envelope = NewEnvelope {
        key: ROOM,
        room_id: Some(ROOM),
        event_id: Some(id),
        sender: Some(ALICE),
        event_type: Some("m.room.message"),
        body: &body,
        ..NewEnvelope::default()
    };
    pending(Kind::InputRoomEvent, FIRST_TIME_US, &envelope)
}

fn chunk(ids: &[&str]) -> Pending {
    let body = codec::encode(&InputStateChunk {
        given: [3; 16],
        event_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
    });
    let envelope = NewEnvelope {
        key: ROOM,
        room_id: Some(ROOM),
        body: &body,
        ..NewEnvelope::default()
    };
    pending(Kind::InputStateChunk, FIRST_TIME_US, &envelope)
}

fn gap(story: &Story, id: &str, missing: &str) -> Pending {
    let body = codec::encode(&OutputRoomGap {
        origin: story.origin(None),
        room_sn: 0,
        prev_events: vec![missing.to_owned()],
        auth_events: vec![],
    });
    let envelope = NewEnvelope {
        key: ROOM,
        room_id: Some(ROOM),
        event_id: Some(id),
        body: &body,
        ..NewEnvelope::default()
    };
    pending(Kind::OutputRoomGap, story.time_us(), &envelope)
}

/// An outlier that is part of a given state, missed by another event, and
/// accepted later, at the fold of another record.
#[test]
fn every_record_about_an_event_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let config = WriterConfig::input(SEGMENT_BYTES);
    let mut input = writer(folder.path(), Topic::Input, config);
    let records = [
        given("$early", Placement::Outlier),
        chunk(&["$other", "$early"]),
        given("$parked", Placement::New),
    ];
    input.append(&records).unwrap();
    input.sync().unwrap();
    drop(input);
    let mut story = Story::begin(folder.path());
    let outlier = Decided {
        decision: Decision::Outlier,
        extremities: vec![],
        ..message("$early", ALICE)
    };
    story.decide(ROOM, &outlier);
    let missed = gap(&story, "$later", "$early");
    story.append(missed);
    let accepted = Decided {
        about: Some(0),
        ..message("$early", ALICE)
    };
    story.decide(ROOM, &accepted);
    story.end();

    let found = lines(folder.path(), &["trace", ".", "$early", "--json"]);
    let kinds: Vec<&Value> = found.iter().map(|record| &record["kind"]).collect();
    assert_eq!(
        kinds,
        [
            "room_event",
            "state_chunk",
            "output_room_event",
            "output_room_gap",
            "output_room_event",
        ]
    );
    assert_eq!(found[2]["body"]["decision"], "outlier");
    assert_eq!(found[4]["body"]["decision"], "accepted");
    assert_eq!(found[4]["body"]["about"], 0);
    assert_eq!(found[4]["body"]["src_offset"], 2 * SOURCES);

    let text = |id: &str| {
        let output = run(folder.path(), &["trace", ".", id]);
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    let early = text("$early");
    assert!(early.contains("about 0"), "{early}");
    assert!(early.contains("event_id $later"), "who misses it: {early}");
    assert!(!early.contains("not decided"), "{early}");
    let parked = text("$parked");
    assert!(
        parked.contains("input offset 2: not decided: it waits"),
        "{parked}"
    );
}
