//! Wrong decisions that a hostile reading of the fold found.

use log_format::codec;
use log_format::record::input::{InputStateBegin, InputStateChunk, InputStateCommit, Placement};
use log_format::record::output::{Decision, Reason};
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::{OwnedEventId, OwnedRoomId, RoomId};
use serde_json::json;

use super::harness::{ALICE, BOB, CAROL, Draft, House};
use crate::logs::log::NewRecord;
use crate::query::rooms::{Rooms, StateKey};

fn room(house: &mut House, version: &str) -> OwnedRoomId {
    let room = house.room(version);
    house.member(&room, BOB, BOB, "join").accepted();
    house.member(&room, CAROL, CAROL, "join").accepted();
    room
}

fn says(house: &mut House, room: &RoomId, sender: &str) -> Draft {
    let content = json!({ "body": "secret" });
    let draft = house.draft(room, sender, "m.room.message", None, content);
    Draft {
        source: Source::Federation,
        ..draft
    }
}

fn redacts(house: &mut House, room: &RoomId, sender: &str, target: &str) -> Draft {
    let mut draft = house.draft(room, sender, "m.room.redaction", None, json!({}));
    draft.redacts = Some(target.to_owned());
    draft
}

#[test]
fn an_outlier_that_was_redacted_is_served_redacted() {
    for redacted_first in [false, true] {
        let mut house = House::new();
        let room = room(&mut house, "11");
        let message = says(&mut house, &room, BOB);
        let outlier = Draft {
            placement: Placement::Outlier,
            ..message.clone()
        };
        let redaction = redacts(&mut house, &room, ALICE, message.id.as_str());
        if redacted_first {
            house.fold(&redaction).accepted();
        }
        assert_eq!(house.fold(&outlier).verdict().0, Decision::Outlier);
        if !redacted_first {
            house.fold(&redaction).accepted();
        }
        house.fold(&message).accepted();
        let event = house.event(&room, &message.id);
        assert!(event.redacted_by.is_some(), "first: {redacted_first}");
    }
}

#[test]
fn redactions_without_power_do_not_keep_out_one_that_has_it() {
    let mut house = House::new();
    let room = room(&mut house, "11");
    let message = says(&mut house, &room, BOB);
    let target = OwnedEventId::try_from(message.id.as_str()).unwrap();
    for _ in 0..40 {
        let useless = redacts(&mut house, &room, CAROL, target.as_str());
        house.fold(&useless).accepted();
    }
    let redaction = redacts(&mut house, &room, ALICE, target.as_str());
    house.fold(&redaction).accepted();
    house.fold(&message).accepted();
    assert!(house.event(&room, &target).redacted_by.is_some());
    // What waited is used up, and counted so.
    let other = says(&mut house, &room, BOB);
    house.fold(&other).accepted();
    let before = format!("{:?}", house.head(&room));
    house.restart();
    assert_eq!(format!("{:?}", house.head(&room)), before);
}

#[test]
fn a_previous_event_that_is_named_twice_is_one() {
    let mut house = House::new();
    let room = room(&mut house, "11");
    let topic = house.draft(
        &room,
        ALICE,
        "m.room.topic",
        Some(""),
        json!({ "topic": "x" }),
    );
    let topic = Draft {
        source: Source::Federation,
        ..topic
    };
    let other = says(&mut house, &room, BOB);
    house.fold(&topic).accepted();
    house.fold(&other).accepted();
    let mut on_other = says(&mut house, &room, CAROL);
    on_other.prev_events = vec![other.id.to_string(), other.id.to_string()];
    let told = house.fold(&on_other).accepted();
    let key = StateKey::new("m.room.topic", "");
    let before = house.event(&room, &on_other.id).state_before;
    let held = house.tables.state_entry(&room, before, &key).unwrap();
    assert_eq!(held, None, "it does not build on the topic");
    assert_eq!(told.last().extremities.len(), 2);
}

#[test]
fn what_builds_on_a_refused_event_learns_its_state() {
    let mut house = House::new();
    let room = room(&mut house, "11");
    let first = says(&mut house, &room, BOB);
    // Refused for what it cites, before its past is here.
    let mut bad = says(&mut house, &room, "@stranger:other");
    bad.prev_events = vec![first.id.to_string()];
    let mut next = says(&mut house, &room, CAROL);
    next.prev_events = vec![bad.id.to_string()];
    assert_eq!(
        house.fold(&bad).verdict(),
        (Decision::Rejected, Reason::Forbidden)
    );
    let waits = (Decision::Outlier, Reason::MissingEvents);
    assert_eq!(house.fold(&next).verdict(), waits);
    let came = house.fold(&first).accepted();
    let decisions: Vec<_> = came.output.iter().map(|told| told.decision).collect();
    let (yes, no) = (Decision::Accepted, Decision::Rejected);
    assert_eq!(decisions, [yes, no, yes]);
    assert_eq!(house.head_waiting(&room), 0);
}

#[test]
fn a_state_for_an_event_that_is_decided_is_not_kept() {
    let mut house = House::new();
    let room = room(&mut house, "11");
    let message = says(&mut house, &room, BOB);
    house.fold(&message).accepted();
    let given = [1; 16];
    let record = |kind, body: Vec<u8>| {
        let envelope = NewEnvelope {
            key: room.as_str(),
            room_id: Some(room.as_str()),
            body: &body,
            ..NewEnvelope::default()
        };
        NewRecord::new(kind, Source::Federation, &envelope)
    };
    let event_id = message.id.to_string();
    let event_ids = vec![house.drafts[0].id.to_string()];
    let records = vec![
        record(
            Kind::InputStateBegin,
            codec::encode(&InputStateBegin { given, event_id }),
        ),
        record(
            Kind::InputStateChunk,
            codec::encode(&InputStateChunk { given, event_ids }),
        ),
        record(
            Kind::InputStateCommit,
            codec::encode(&InputStateCommit { given }),
        ),
    ];
    let told = house.fold_group(records).pop().unwrap();
    assert_eq!(told.verdict(), (Decision::Rejected, Reason::Taken));
    let rows = house.dump();
    let mut tables = rows.keys().map(|(table, _)| *table);
    assert!(tables.all(|table| table != "states_before" && table != "given_states"));
}

#[test]
fn what_is_judged_again_stands_on_what_was_mended() {
    let mut house = House::new();
    let room = room(&mut house, "11");
    let dave = "@dave:other";
    let member = |house: &mut House, sender: &str, membership: &str| Draft {
        source: Source::Federation,
        ..house.draft(
            &room,
            sender,
            "m.room.member",
            Some(dave),
            json!({ "membership": membership }),
        )
    };
    // Dave's join cites an invite that lies on another fork.
    let invite = member(&mut house, ALICE, "invite");
    let mut join = member(&mut house, dave, "join");
    join.auth_events.push(invite.id.to_string());
    let mut hello = says(&mut house, &room, dave);
    hello.auth_events.push(join.id.to_string());
    hello.prev_events = vec![join.id.to_string()];
    let refused = |reason| (Decision::Rejected, reason);
    let told = house.fold(&join).verdict();
    assert_eq!(told, refused(Reason::MissingAuthEvents));
    let told = house.fold(&hello).verdict();
    assert_eq!(told, refused(Reason::RejectedAuthEvent));
    let told = house.fold(&invite).accepted();
    let decisions: Vec<_> = told.output.iter().map(|told| told.decision).collect();
    assert_eq!(decisions, [Decision::Accepted; 3]);
}

/// Both forks lost Bob's membership, which the state that they come from has.
/// What the resolution of version 2.1 finds in their auth chains brings it back.
#[test]
fn what_all_forks_lost_is_not_read_from_where_they_come_from() {
    let mut house = House::new();
    let room = house.room("12");
    let levels = json!({ "users": { BOB: 50 } });
    let kind = "m.room.power_levels";
    house.state(&room, ALICE, kind, "", levels).accepted();
    let base = house.head(&room).extremities[0].event_id.to_string();
    let joined = house.member(&room, BOB, BOB, "join").accepted();
    let closed = house.state(
        &room,
        ALICE,
        "m.room.join_rules",
        "",
        json!({ "join_rule": "private" }),
    );
    let closed = closed.accepted().last().extremities[0].clone();
    let topic = json!({ "topic": "x" });
    let topic = house
        .state(&room, BOB, "m.room.topic", "", topic)
        .accepted();
    let topic = topic.last().extremities[0].clone();
    let on = |draft: Draft, parents: [&String; 2]| Draft {
        prev_events: parents.map(String::clone).to_vec(),
        source: Source::Federation,
        ..draft
    };
    // On top of the time before the join: it cites public join rules.
    let left = on(says(&mut house, &room, ALICE), [&base, &topic]);
    let visibility = house.draft(
        &room,
        ALICE,
        "m.room.history_visibility",
        Some(""),
        json!({ "history_visibility": "joined" }),
    );
    let right = on(visibility, [&base, &closed]);
    let last = says(&mut house, &room, ALICE);
    let (left_id, right_id) = (left.id.to_string(), right.id.to_string());
    let last = on(last, [&left_id, &right_id]);
    for draft in [&left, &right, &last] {
        house.fold(draft).accepted();
    }
    let bob = StateKey::new("m.room.member", BOB);
    let bobs = |house: &House, id: &OwnedEventId| {
        let before = house.event(&room, id).state_before;
        let held = house.tables.state_entry(&room, before, &bob).unwrap();
        held.map(|sn| sn.0)
    };
    assert_eq!(bobs(&house, &left.id), None);
    assert_eq!(bobs(&house, &right.id), None);
    assert_eq!(bobs(&house, &last.id), Some(joined.offset));
}
