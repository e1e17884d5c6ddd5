//! Rooms that are purged: nothing of them stays, in tables or in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use log_format::codec;
use log_format::record::input::{
    InputReceipt, InputRoomPublished, InputRoomPurged, InputStateBegin, PurgeStep, ReceiptType,
};
use log_format::record::output::{Decision, OutputRoomPurged, Reason};
use log_format::record::{Envelope, Kind, NewEnvelope, Source};
use ruma::{OwnedRoomId, RoomId, UserId, user_id};
use serde_json::json;

use super::harness::{ALICE, BOB, CAROL, House, MemoryLog, Outcome};
use super::outside::invited_from_outside;
use super::parked::resumed;
use crate::logs::log::NewRecord;
use crate::projectors::fold::{FoldInput, Projector as _};
use crate::projectors::receiptserver::ReceiptProjector;
use crate::projectors::roomserver::RoomServerOptions;
use crate::projectors::roomserver::purge::BY_PAGES;
use crate::query::ids::Place;
use crate::query::parked::ParkedWork as _;
use crate::query::purges::{PurgeStage, RoomPurges as _};
use crate::query::rooms::{Direction, Rooms as _};
use crate::storage::columns::{
    self, EVENTS, OUTSIDE, PARKED, PUBLISHED, PURGES, ROOM_IDS, ROOMS, USER_ROOMS,
};
use crate::storage::overlay::Overlay;

/// A house that drops few rows with each record.
fn house(inline_work: u64) -> House {
    House::with_options(Arc::new(MemoryLog::default()), options(inline_work))
}

fn options(inline_work: u64) -> RoomServerOptions {
    RoomServerOptions {
        inline_work,
        purged_rows: 7,
        ..RoomServerOptions::default()
    }
}

fn of_room<T: bincode::Encode>(kind: Kind, room: &RoomId, body: &T) -> NewRecord {
    let body = codec::encode(body);
    let envelope = NewEnvelope {
        key: room.as_str(),
        room_id: Some(room.as_str()),
        body: &body,
        ..NewEnvelope::default()
    };
    NewRecord::new(kind, Source::Internal, &envelope)
}

fn step(room: &RoomId, step: PurgeStep) -> NewRecord {
    of_room(Kind::InputRoomPurged, room, &InputRoomPurged { step })
}

fn fold(house: &mut House, record: NewRecord) -> Outcome {
    house.fold_group(vec![record]).pop().unwrap()
}

fn told(outcome: &Outcome) -> OutputRoomPurged {
    let envelope = Envelope::parse(&outcome.folded.output[0].payload).unwrap();
    codec::decode(envelope.body).unwrap()
}

/// Drops rows until none are left; what was told with each record.
fn drop_all(house: &mut House, room: &RoomId) -> Vec<OutputRoomPurged> {
    let mut all = vec![];
    loop {
        let outcome = fold(house, step(room, PurgeStep::Drop)).accepted();
        all.push(told(&outcome));
        if told(&outcome).finished {
            return all;
        }
    }
}

/// A room with something in nearly every table.
fn full_room(house: &mut House) -> OwnedRoomId {
    let room = house.room("11");
    house.member(&room, BOB, BOB, "join").accepted();
    house.member(&room, ALICE, CAROL, "invite").accepted();
    for number in 0..10 {
        let mut draft = house.draft(
            &room,
            BOB,
            "m.room.message",
            None,
            json!({ "body": format!("message {number}") }),
        );
        draft.idempotency = [number + 1; 16];
        house.fold(&draft).accepted();
    }
    fold(
        house,
        of_room(
            Kind::InputRoomPublished,
            &room,
            &InputRoomPublished { published: true },
        ),
    );
    fold(
        house,
        of_room(
            Kind::InputStateBegin,
            &room,
            &InputStateBegin {
                given: [3; 16],
                event_id: "$later".to_owned(),
            },
        ),
    );
    // One that waits for what is missing, and a redaction of what is not there.
    let mut late = house.draft(
        &room,
        BOB,
        "m.room.message",
        None,
        json!({ "body": "late" }),
    );
    late.prev_events = vec!["$missing".to_owned()];
    late.source = Source::Federation;
    house.fold(&late);
    let mut redaction = house.draft(&room, BOB, "m.room.redaction", None, json!({}));
    redaction.redacts = Some("$unknown".to_owned());
    house.fold(&redaction).accepted();
    room
}

#[test]
fn every_table_of_a_room_is_purged() {
    let at_once = [ROOMS, ROOM_IDS, PUBLISHED, PARKED];
    let beside = [EVENTS, USER_ROOMS, OUTSIDE];
    for table in columns::ALL {
        let is_of_rooms = table.owner == ROOMS.owner || table.owner == columns::RECEIPTS.owner;
        let is_known = BY_PAGES.contains(table)
            || at_once.contains(table)
            || beside.contains(table)
            || *table == PURGES;
        assert_eq!(is_of_rooms, is_known, "{} is not purged", table.name);
    }
}

#[test]
fn a_purged_room_leaves_a_tombstone_alone() {
    let mut house = house(1_000);
    let other = full_room(&mut house);
    let before = house.dump();
    let room = full_room(&mut house);
    let tables: BTreeSet<&str> = house.dump().into_keys().map(|(table, _)| table).collect();
    assert!(tables.len() >= 17, "{tables:?}");
    fold(&mut house, step(&room, PurgeStep::Begin)).accepted();
    let purges = house.tables.purges().unwrap();
    assert_eq!(purges[0].stage, PurgeStage::Leaving);
    house.message(&room, BOB, "while others leave").accepted();
    let told = drop_all(&mut house, &room);
    assert!(told.len() > 10, "{} records", told.len());
    let users: Vec<&String> = told.iter().flat_map(|told| &told.users).collect();
    assert_eq!(users, [ALICE, BOB, CAROL]);
    let mut after = house.dump();
    after.retain(|(table, _), _| *table != PURGES.name);
    assert_eq!(before, after);
    assert_eq!(house.tables.purges().unwrap(), []);
    let stage = house.tables.purge_of(&room).unwrap();
    assert!(matches!(stage, Some(PurgeStage::Complete(_))));
    assert_eq!(house.tables.purge_of(&other).unwrap(), None);
    house.message(&other, BOB, "the other one stays").accepted();
    let again = fold(&mut house, step(&room, PurgeStep::Drop));
    assert_eq!(again.verdict(), (Decision::Duplicate, Reason::None));
    fold(&mut house, step(&room, PurgeStep::Begin)).rejected(Reason::UnknownRoom);
    fold(&mut house, step(&other, PurgeStep::Drop)).rejected(Reason::NotFound);
}

/// Who was invited from outside, or knocked, and never was a member.
#[test]
fn what_was_seen_from_outside_goes_with_the_room() {
    let mut house = house(1_000);
    let (room, other) = (full_room(&mut house), full_room(&mut house));
    let users: Vec<_> = (0..20).map(|number| format!("@user{number}:hs")).collect();
    for user in &users {
        let user = <&UserId>::try_from(user.as_str()).unwrap();
        for room in [&room, &other] {
            fold(&mut house, invited_from_outside(room, user)).accepted();
        }
    }
    // Seen from outside once, and a member by now.
    house.member(&room, &users[3], &users[3], "join").accepted();
    fold(&mut house, step(&room, PurgeStep::Begin)).accepted();
    let told = drop_all(&mut house, &room);
    let mut named: Vec<&String> = told.iter().flat_map(|told| &told.users).collect();
    named.sort();
    let mut all: Vec<String> = users.clone();
    all.extend([ALICE, BOB, CAROL].map(str::to_owned));
    all.sort();
    assert_eq!(named, all.iter().collect::<Vec<_>>(), "each once");
    for user in &users {
        let user = <&UserId>::try_from(user.as_str()).unwrap();
        assert!(house.tables.outside(&room, user).unwrap().is_none());
        let left = house.tables.outside_of(user).unwrap();
        assert_eq!(left.len(), 1, "{user}");
        assert_eq!(left[0].room_id, other);
    }
}

/// The head was shown, the events are in the caches, and the record that purges
/// is one of a group with what comes before and behind it.
#[test]
fn nothing_in_memory_answers_for_a_room_that_is_gone() {
    for restart in [false, true] {
        let mut house = house(1_000);
        let room = full_room(&mut house);
        let said = house.message(&room, BOB, "the last word").accepted();
        let event = house.drafts.last().unwrap().id.clone();
        assert_eq!(house.event(&room, &event).event.0, said.offset);
        let draft = |house: &mut House| {
            let content = json!({ "body": "too late" });
            house.draft(&room, BOB, "m.room.message", None, content)
        };
        let (first, late) = (draft(&mut house), draft(&mut house));
        let create = house.drafts[0].clone();
        let group = vec![
            first.record(),
            step(&room, PurgeStep::Begin),
            step(&room, PurgeStep::Drop),
            late.record(),
            create.record(),
        ];
        let outcomes = house.fold_group(group);
        let verdicts: Vec<_> = outcomes.iter().map(Outcome::verdict).collect();
        assert_eq!(verdicts[3], (Decision::Rejected, Reason::UnknownRoom));
        // What is left of it would be taken for the new room's.
        assert_eq!(verdicts[4], (Decision::Rejected, Reason::RoomExists));
        if restart {
            house.restart();
        }
        let tables = &house.tables;
        let bob = user_id!("@bob:hs");
        assert!(tables.head(&room).unwrap().is_none());
        assert!(tables.event(&room, &event).unwrap().is_none());
        assert!(tables.rooms_of(bob).unwrap().is_empty());
        assert_eq!(tables.membership(&room, bob).unwrap(), None);
        assert!(tables.published().unwrap().is_empty());
        let timeline = tables.timeline(&room, Place::START, Direction::Forward, 10);
        assert!(timeline.unwrap().is_empty());
        assert_eq!(tables.purges().unwrap()[0].stage, PurgeStage::Dropping);
    }
}

#[test]
fn a_room_that_comes_to_be_again_is_a_new_one() {
    let mut house = house(1_000);
    let room = house.room("11");
    let first = house.head(&room).room;
    let drafts = house.drafts.clone();
    fold(&mut house, step(&room, PurgeStep::Begin)).accepted();
    drop_all(&mut house, &room);
    for draft in &drafts {
        house.fold(draft).accepted();
    }
    let again = house.head(&room);
    assert!(again.room.0 > first.0);
    assert_eq!(again.joined_members, 1);
    let old = house
        .tables
        .events(&room, &[crate::query::ids::EventSn(first.0)]);
    assert!(old.unwrap().is_empty(), "an event of the room that was");
    // And can be purged again.
    fold(&mut house, step(&room, PurgeStep::Begin)).accepted();
    drop_all(&mut house, &room);
    assert!(house.tables.head(&room).unwrap().is_none());
}

#[test]
fn who_waits_for_a_parked_room_hears_that_it_is_gone() {
    let mut house = house(0);
    let room = house.room("12");
    house.member(&room, BOB, BOB, "join").accepted();
    let topic = |text: &str| json!({ "topic": text });
    let left = house.draft(&room, ALICE, "m.room.topic", Some(""), topic("l"));
    let mut right = house.draft(&room, ALICE, "m.room.topic", Some(""), topic("r"));
    house.fold(&left).accepted();
    right.source = Source::Federation;
    let parked = fold(&mut house, right.record());
    assert!(parked.folded.outcome.is_none());
    let cause = house.tables.parked().unwrap()[0].cause;
    let done = house.tables.prepare(&room, cause).unwrap().unwrap();
    fold(&mut house, step(&room, PurgeStep::Begin)).accepted();
    let gone = fold(&mut house, step(&room, PurgeStep::Drop)).accepted();
    let settled = &gone.folded.settled;
    assert_eq!(settled[0].0, parked.offset);
    assert_eq!(settled[0].1.reason, Reason::UnknownRoom);
    assert!(house.tables.parked().unwrap().is_empty());
    assert_eq!(house.tables.prepare(&room, cause).unwrap(), None);
    let late = fold(&mut house, resumed(&room, cause, done.digest));
    assert_eq!(late.verdict(), (Decision::Duplicate, Reason::None));
    drop_all(&mut house, &room);
}

#[test]
fn a_receipt_that_comes_late_leaves_no_row() {
    let mut house = house(1_000);
    let room = house.room("11");
    let receipt = |house: &mut House| {
        let body = codec::encode(&InputReceipt {
            receipt_type: ReceiptType::Read,
            thread: None,
            place: Some([1; 16]),
        });
        let envelope = NewEnvelope {
            key: room.as_str(),
            room_id: Some(room.as_str()),
            sender: Some(BOB),
            event_id: Some("$event"),
            body: &body,
            ..NewEnvelope::default()
        };
        let record = NewRecord::new(Kind::InputReceipt, Source::Client, &envelope);
        let offset = house.log.append(record);
        let record = house.log.get(offset);
        let input = FoldInput {
            partition: 0,
            offset,
            time_us: record.time_us,
            envelope: &record.envelope().unwrap(),
        };
        let mut tables = Overlay::new(&*house.store);
        let folded = ReceiptProjector::default()
            .fold(&input, &mut tables)
            .unwrap();
        let mut batch = house.store.batch();
        batch.apply(tables.into_writes()).unwrap();
        house.store.write(batch).unwrap();
        folded.outcome.unwrap().decision
    };
    assert_eq!(receipt(&mut house), Decision::Accepted);
    fold(&mut house, step(&room, PurgeStep::Begin)).accepted();
    let told = drop_all(&mut house, &room);
    assert!(told.len() > 1);
    assert_eq!(receipt(&mut house), Decision::Rejected);
    let left = house.dump().into_keys().map(|(table, _)| table);
    assert_eq!(left.collect::<Vec<_>>(), [PURGES.name]);
}

#[test]
fn a_purge_replays_alike_whatever_the_groups() {
    let mut house = house(1_000);
    let room = full_room(&mut house);
    let other = full_room(&mut house);
    fold(&mut house, step(&room, PurgeStep::Begin)).accepted();
    let drops = drop_all(&mut house, &room).len();
    assert!(drops > 3);
    house.message(&other, BOB, "behind it").accepted();
    let offsets: Vec<u64> = (0..house.log.len() as u64).collect();
    for group in [1, 3, 1000] {
        let mut again = House::with_options(house.log.clone(), options(1_000));
        for (at, offsets) in offsets.chunks(group).enumerate() {
            again.fold_offsets(offsets);
            if at % 5 == 0 {
                again.restart();
            }
        }
        assert_eq!(again.dump(), house.dump(), "groups of {group}");
    }
}
