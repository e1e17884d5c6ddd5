//! Rooms come to be, members move, refused events leave no trace.

use log_format::record::input::Placement;
use log_format::record::output::{Decision, Membership, Reason, Visibility};
use log_format::record::{Envelope, Source};
use ruma::{RoomId, UserId, event_id};
use serde_json::json;

use super::harness::*;
use crate::query::ids::{EventSn, Place, StateId};
use crate::query::rooms::{Direction, Rooms, StateKey};

const VERSIONS: [&str; 3] = ["10", "11", "12"];

fn user(id: &str) -> &UserId {
    <&UserId>::try_from(id).unwrap()
}

fn text(house: &House, room: &RoomId) -> Vec<String> {
    let timeline = house
        .tables
        .timeline(room, Place::START, Direction::Forward, 100);
    let sns: Vec<EventSn> = timeline.unwrap().into_iter().map(|(_, sn)| sn).collect();
    let events = house.tables.events(room, &sns).unwrap();
    events.iter().map(|event| event.kind.to_string()).collect()
}

#[test]
fn a_room_is_created_and_talked_in() {
    for version in VERSIONS {
        let mut house = House::new();
        let room = house.room(version);
        let joined = house.member(&room, BOB, BOB, "join").accepted();
        let change = joined.last().memberships[0].clone();
        assert_eq!(
            (change.user_id.as_str(), change.from, change.to),
            (BOB, None, Membership::Join)
        );
        let sent = house.message(&room, BOB, "hello").accepted();
        let output = sent.last();
        assert_eq!(output.event_sn, sent.offset);
        assert_eq!(output.extremities.len(), 1);
        assert_eq!(output.state_before, output.state_after);
        assert!(output.state_delta.is_empty());
        assert_eq!(output.transaction.as_ref().unwrap().device_id, "DEV");
        let head = house.head(&room);
        assert_eq!(head.joined_members, 2);
        assert_eq!(head.version.as_str(), version);
        assert_eq!(head.state_id, StateId(output.state_after));
        assert_eq!(head.extremities[0].event_id.as_str(), output.extremities[0]);
        assert_eq!(head.last_place, Place::from_bytes(output.place));
        assert!(head.authority.is_joined(user(BOB)));
        let kinds = text(&house, &room);
        assert_eq!(kinds.first().unwrap(), "m.room.create");
        assert_eq!(kinds.last().unwrap(), "m.room.message");
        let rooms = house.tables.rooms_of(user(BOB)).unwrap();
        assert_eq!(rooms.len(), 1);
        assert_eq!(rooms[0].membership, Membership::Join);
    }
}

#[test]
fn what_memory_says_is_what_the_tables_say() {
    for version in VERSIONS {
        let mut house = House::new();
        let room = house.room(version);
        house.member(&room, BOB, BOB, "join").accepted();
        house.member(&room, ALICE, CAROL, "invite").accepted();
        let visibility = json!({ "history_visibility": "joined" });
        house
            .state(&room, ALICE, "m.room.history_visibility", "", visibility)
            .accepted();
        house.message(&room, BOB, "x").accepted();
        let before = house.head(&room);
        house.restart();
        let after = house.head(&room);
        assert_eq!(format!("{before:?}"), format!("{after:?}"));
        assert_eq!(after.visibility, Visibility::Joined);
        assert_eq!((after.joined_members, after.invited_members), (2, 1));
        house.message(&room, BOB, "still here").accepted();
    }
}

#[test]
fn members_move_as_the_rules_allow() {
    for version in VERSIONS {
        let mut house = House::new();
        let room = house.room(version);
        house
            .state(
                &room,
                ALICE,
                "m.room.join_rules",
                "",
                json!({ "join_rule": "invite" }),
            )
            .accepted();
        house
            .member(&room, BOB, BOB, "join")
            .rejected(Reason::Forbidden);
        house.member(&room, ALICE, BOB, "invite").accepted();
        let joined = house.member(&room, BOB, BOB, "join").accepted();
        let change = joined.last().memberships[0].clone();
        assert_eq!(change.from, Some(Membership::Invite));
        let delta = &joined.last().state_delta;
        assert_eq!(delta.len(), 1);
        assert!(delta[0].from.is_some() && delta[0].to.is_some());
        house
            .member(&room, BOB, ALICE, "leave")
            .rejected(Reason::Forbidden);
        house.member(&room, ALICE, BOB, "leave").accepted();
        house
            .message(&room, BOB, "gone")
            .rejected(Reason::Forbidden);
        house.member(&room, ALICE, BOB, "ban").accepted();
        house
            .member(&room, ALICE, BOB, "invite")
            .rejected(Reason::Forbidden);
        house.member(&room, ALICE, BOB, "leave").accepted();
        house.member(&room, ALICE, BOB, "invite").accepted();
        house.member(&room, BOB, BOB, "leave").accepted();
        let head = house.head(&room);
        assert_eq!((head.joined_members, head.invited_members), (1, 0));
        let membership = house.tables.membership(&room, user(BOB)).unwrap();
        assert_eq!(membership, Some(Membership::Leave));
    }
}

#[test]
fn a_refused_local_event_never_existed() {
    let mut house = House::new();
    let room = house.room("12");
    let before = house.dump();
    let head = house.head(&room);
    let draft = house.draft(&room, BOB, "m.room.message", None, json!({}));
    let refused = house.fold(&draft).rejected(Reason::Forbidden);
    assert_eq!(house.dump(), before);
    assert_eq!(format!("{:?}", house.head(&room)), format!("{head:?}"));
    assert!(house.tables.event(&room, &draft.id).unwrap().is_none());
    let payload = &refused.folded.output[0].payload;
    let output = Envelope::parse(payload).unwrap();
    assert!(output.body_part.bytes().is_none() && output.skeleton.bytes().is_none());
    // What was built on it has to be built anew.
    let mut next = house.draft(&room, ALICE, "m.room.message", None, json!({}));
    next.prev_events = vec![draft.id.to_string()];
    house.fold(&next).rejected(Reason::Rebase);
    assert_eq!(house.dump(), before);
    // Another server may have seen what this one has not.
    next.source = Source::Federation;
    let waits = house.fold(&next);
    assert_eq!(waits.verdict(), (Decision::Outlier, Reason::MissingEvents));
}

#[test]
fn a_refused_remote_event_is_remembered() {
    let mut house = House::new();
    let room = house.room("12");
    let mut draft = house.draft(&room, CAROL, "m.room.message", None, json!({}));
    draft.source = Source::Federation;
    house.fold(&draft).rejected(Reason::Forbidden);
    assert_eq!(house.event(&room, &draft.id).decision, Decision::Rejected);
    let mut next = house.draft(&room, ALICE, "m.room.message", None, json!({}));
    next.prev_events = vec![draft.id.to_string()];
    next.source = Source::Federation;
    // What builds on it stands on the state before it.
    house.fold(&next).accepted();
    let messages = text(&house, &room);
    let messages = messages.iter().filter(|kind| *kind == "m.room.message");
    assert_eq!(messages.count(), 1);
}

#[test]
fn the_same_request_makes_one_event() {
    let mut house = House::new();
    let room = house.room("12");
    let mut first = house.draft(&room, ALICE, "m.room.message", None, json!({ "body": "1" }));
    first.idempotency = [1; 16];
    house.fold(&first).accepted();
    let mut second = house.draft(&room, ALICE, "m.room.message", None, json!({ "body": "1" }));
    second.idempotency = [1; 16];
    house.restart();
    let before = house.dump();
    let repeated = house.fold(&second);
    assert_eq!(repeated.verdict(), (Decision::Duplicate, Reason::None));
    assert_eq!(
        repeated
            .folded
            .outcome
            .as_ref()
            .unwrap()
            .duplicate_of
            .as_deref(),
        Some(&*first.id)
    );
    assert_eq!(house.dump(), before);
    let found = house.tables.transaction(&room, &[1; 16]).unwrap();
    assert_eq!(found.as_deref(), Some(&*first.id));
    // The same event again, from wherever.
    first.idempotency = [0; 16];
    first.source = Source::Federation;
    let again = house.fold(&first);
    assert_eq!(again.verdict().0, Decision::Duplicate);
    // Within one group, nothing of which is written yet.
    let mut third = house.draft(&room, ALICE, "m.room.message", None, json!({}));
    third.idempotency = [2; 16];
    let outcomes = house.fold_group(vec![third.record(), third.record()]);
    assert_eq!(outcomes[0].verdict().0, Decision::Accepted);
    assert_eq!(outcomes[1].verdict().0, Decision::Duplicate);
}

#[test]
fn a_group_builds_on_itself_and_is_shown_as_a_whole() {
    let mut house = House::new();
    let room = house.room("12");
    let mut records = vec![];
    let mut draft = house.draft(&room, ALICE, "m.room.message", None, json!({}));
    for number in 0..50 {
        let previous = draft.id.to_string();
        records.push(draft.record());
        draft.id = house.id();
        draft.prev_events = vec![previous];
        draft.depth += 1;
        draft.idempotency = [number + 1; 16];
    }
    let outcomes = house.fold_group(records);
    assert!(
        outcomes
            .iter()
            .all(|one| one.verdict().0 == Decision::Accepted)
    );
    // Event, event id, timeline and idempotency rows; the room's row once.
    assert_eq!(house.puts, 50 * 3 + 49 + 1);
    let backward = house
        .tables
        .timeline(&room, Place::END, Direction::Backward, 10)
        .unwrap();
    assert_eq!(backward[0].1, EventSn(outcomes[49].offset));
    assert!(backward.windows(2).all(|pair| pair[0].0 > pair[1].0));
}

#[test]
fn malformed_records_are_decided_and_never_an_error() {
    let mut house = House::new();
    let room = house.room("12");
    let good = house.draft(&room, ALICE, "m.room.message", None, json!({}));
    let before = house.dump();
    let mut bad = vec![];
    let mut change = |edit: &dyn Fn(&mut Draft)| {
        let mut draft = good.clone();
        edit(&mut draft);
        bad.push(draft.record());
    };
    change(&|draft| draft.sender = "nobody".to_owned());
    change(&|draft| draft.prev_events = vec![]);
    change(&|draft| draft.prev_events = vec!["$x".to_owned(); 21]);
    change(&|draft| draft.auth_events = vec!["$x".to_owned(); 11]);
    change(&|draft| draft.kind = "x".repeat(256));
    change(&|draft| draft.version = "11".try_into().unwrap());
    change(&|draft| {
        draft.placement = Placement::Backfill {
            before: "$x".to_owned(),
        }
    });
    change(&|draft| draft.batch = (7, 3));
    change(&|draft| {
        draft.kind = "m.room.member".to_owned();
        draft.state_key = Some(ALICE.to_owned());
        draft.content = json!({ "membership": "dancing" });
    });
    for record in bad {
        let outcome = house.fold_group(vec![record]).pop().unwrap();
        assert_eq!(outcome.verdict(), (Decision::Rejected, Reason::Malformed));
        assert_eq!(outcome.output.len(), 1);
    }
    assert_eq!(house.dump(), before);
    let unknown = Draft {
        room: "!nowhere:hs".try_into().unwrap(),
        ..good.clone()
    };
    house.fold(&unknown).rejected(Reason::UnknownRoom);
    house.fold(&good).accepted();
}

#[test]
fn a_room_is_created_once_and_version_12_names_it() {
    let mut house = House::new();
    let mut create = house.create_draft("12", ALICE);
    create.room = "!elsewhere".try_into().unwrap();
    house.fold(&create).rejected(Reason::Forbidden);
    let create = house.create_draft("12", ALICE);
    house.fold(&create).accepted();
    let mut again = house.create_draft("12", BOB);
    again.room = create.room.clone();
    house.fold(&again).rejected(Reason::RoomExists);
    assert_eq!(house.fold(&create).verdict().0, Decision::Duplicate);
}

#[test]
fn an_outlier_may_become_part_of_the_room() {
    let mut house = House::new();
    let room = house.room("12");
    let mut draft = house.draft(&room, ALICE, "m.room.message", None, json!({}));
    draft.source = Source::Federation;
    draft.placement = Placement::Outlier;
    let outlier = house.fold(&draft);
    assert_eq!(outlier.verdict(), (Decision::Outlier, Reason::None));
    assert_eq!(house.event(&room, &draft.id).decision, Decision::Outlier);
    draft.placement = Placement::New;
    let placed = house.fold(&draft).accepted();
    assert_eq!(placed.last().event_sn, outlier.offset, "the id stays");
    assert_eq!(house.event(&room, &draft.id).decision, Decision::Accepted);
}

#[test]
fn visibility_in_force_is_the_wider_at_its_change() {
    let mut house = House::new();
    let room = house.room("11");
    let mut set = |word: &str| {
        let content = json!({ "history_visibility": word });
        house
            .state(&room, ALICE, "m.room.history_visibility", "", content)
            .accepted()
            .last()
            .visibility
    };
    assert_eq!(set("joined"), Visibility::Shared);
    assert_eq!(set("world_readable"), Visibility::WorldReadable);
    assert_eq!(set("invited"), Visibility::WorldReadable);
    let sent = house.message(&room, ALICE, "x").accepted();
    assert_eq!(sent.last().visibility, Visibility::Invited);
}

#[test]
fn every_answer_reads_back_after_a_restart() {
    let mut house = House::new();
    let room = house.room("12");
    let sent = house.message(&room, ALICE, "hello").accepted();
    let id = ruma::OwnedEventId::try_from(sent.last().extremities[0].as_str()).unwrap();
    let before = house.event(&room, &id);
    house.restart();
    let after = house.event(&room, &id);
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    assert!(after.json.windows(5).any(|part| part == b"hello"));
    assert!(
        house
            .tables
            .event(&room, event_id!("$nothing"))
            .unwrap()
            .is_none()
    );
    let by_sn = house.tables.head_by_sn(0, house.head(&room).room).unwrap();
    assert_eq!(by_sn.unwrap().room_id, room);
    let entry = house.tables.state_entry(
        &room,
        after.state_before,
        &StateKey::new("m.room.create", ""),
    );
    assert_eq!(entry.unwrap(), Some(house.head(&room).authority.create));
}

#[test]
fn rooms_enter_and_leave_the_directory() {
    use log_format::codec;
    use log_format::record::input::InputRoomPublished;
    use log_format::record::{Kind, NewEnvelope};
    let mut house = House::new();
    let room = house.room("12");
    let record = |room: &str, published| {
        let body = codec::encode(&InputRoomPublished { published });
        let envelope = NewEnvelope {
            key: room,
            room_id: Some(room),
            body: &body,
            ..NewEnvelope::default()
        };
        crate::logs::log::NewRecord::new(Kind::InputRoomPublished, Source::Client, &envelope)
    };
    let outcome = house
        .fold_group(vec![record(room.as_str(), true)])
        .pop()
        .unwrap();
    assert_eq!(outcome.verdict().0, Decision::Accepted);
    assert_eq!(
        house.tables.published().unwrap(),
        std::slice::from_ref(&room)
    );
    house.fold_group(vec![record(room.as_str(), false)]);
    assert!(house.tables.published().unwrap().is_empty());
    let outcome = house
        .fold_group(vec![record("!no:hs", true)])
        .pop()
        .unwrap();
    assert_eq!(outcome.verdict(), (Decision::Rejected, Reason::UnknownRoom));
}

#[test]
fn replay_gives_the_same_tables_and_output_whatever_the_groups() {
    let mut house = House::new();
    let room = house.room("12");
    house.member(&room, BOB, BOB, "join").accepted();
    for number in 0..20 {
        house.message(&room, BOB, &number.to_string()).accepted();
        house
            .state(&room, ALICE, "m.room.topic", "", json!({ "topic": number }))
            .accepted();
    }
    let end = crate::logs::log::Log::end(&*house.log, 0);
    let offsets: Vec<u64> = (0..end).collect();
    let outputs = |house: &mut House, group: usize| -> Vec<Vec<u8>> {
        let mut outputs = vec![];
        for group in offsets.chunks(group) {
            for outcome in house.fold_offsets(group) {
                outputs.extend(outcome.folded.output.into_iter().map(|made| made.payload));
            }
        }
        outputs
    };
    let mut whole = House::over(house.log.clone());
    let mut single = House::over(house.log.clone());
    let whole_output = outputs(&mut whole, 1000);
    assert_eq!(whole_output, outputs(&mut single, 1));
    assert_eq!(whole.dump(), single.dump());
    assert_eq!(whole.dump(), house.dump());
}
