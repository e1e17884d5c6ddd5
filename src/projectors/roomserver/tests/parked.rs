//! Rooms that wait for work that is done aside.

use log_format::codec;
use log_format::record::input::InputRoomResumed;
use log_format::record::output::{Decision, Reason};
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::RoomId;
use serde_json::json;

use super::harness::{ALICE, BOB, House};
use crate::logs::log::NewRecord;
use crate::projectors::fold::{FoldError, PROJECTOR_VERSION};
use crate::query::parked::ParkedWork;
use crate::query::rooms::Rooms;

/// The record that ends a room's wait.
pub fn resumed(room: &RoomId, cause: u64, digest: [u8; 32]) -> NewRecord {
    let body = codec::encode(&InputRoomResumed {
        cause,
        digest,
        projector_version: PROJECTOR_VERSION,
    });
    let envelope = NewEnvelope {
        key: room.as_str(),
        room_id: Some(room.as_str()),
        body: &body,
        ..NewEnvelope::default()
    };
    NewRecord::new(Kind::InputRoomResumed, Source::Internal, &envelope)
}

/// A room in which the next event needs a resolution, in a house where none is
/// done while others wait; and the two forks.
fn forked(house: &mut House) -> ruma::OwnedRoomId {
    let room = house.room("12");
    house.member(&room, BOB, BOB, "join").accepted();
    let topic = |text: &str| json!({ "topic": text });
    let left = house.draft(&room, ALICE, "m.room.topic", Some(""), topic("l"));
    let mut right = house.draft(&room, ALICE, "m.room.topic", Some(""), topic("r"));
    house.fold(&left).accepted();
    right.source = Source::Federation;
    let parked = house.fold_group(vec![right.record()]).pop().unwrap();
    assert!(parked.folded.outcome.is_none() && parked.output.is_empty());
    room
}

#[test]
fn a_room_waits_alone_and_goes_on() {
    let mut house = House::with_inline_work(0);
    let room = forked(&mut house);
    let other = house.room("12");
    let before = house.head(&room);
    let says = house.draft(&room, BOB, "m.room.message", None, json!({ "body": "x" }));
    let says = house.fold_group(vec![says.record()]).pop().unwrap();
    assert!(says.folded.outcome.is_none());
    // Others go on.
    house.message(&other, ALICE, "hello").accepted();
    assert_eq!(house.head(&room).state_id, before.state_id);
    for restart in [false, true] {
        if restart {
            house.restart();
        }
        let parked = house.tables.parked().unwrap();
        assert_eq!(parked.len(), 1);
        assert_eq!(parked[0].room_id, room);
    }
    let parked = house.tables.parked().unwrap();
    let cause = parked[0].cause;
    let waits = house.tables.waits(&room).unwrap();
    assert_eq!(waits.parked_at.map(|offset| offset.0), Some(cause));
    let done = house.tables.prepare(&room, cause).unwrap().unwrap();
    // Preparing twice, as after a restart, comes to the same.
    assert_eq!(house.tables.prepare(&room, cause).unwrap(), Some(done));
    let record = resumed(&room, cause, done.digest);
    let told = house.fold_group(vec![record]).pop().unwrap();
    assert_eq!(told.verdict(), (Decision::Accepted, Reason::None));
    let settled: Vec<_> = told
        .folded
        .settled
        .iter()
        .map(|(offset, _)| *offset)
        .collect();
    assert_eq!(settled, [cause, says.offset]);
    assert!(house.tables.parked().unwrap().is_empty());
    let about: Vec<_> = told.output.iter().map(|told| told.origin.about).collect();
    assert_eq!(about, [cause, says.offset]);
    assert!(
        told.output
            .iter()
            .all(|event| event.origin.src_offset == told.offset)
    );
    assert_eq!(house.head(&room).extremities.len(), 2);
    // Said twice, it changes nothing.
    let again = house.fold_group(vec![resumed(&room, cause, done.digest)]);
    assert_eq!(again[0].verdict(), (Decision::Duplicate, Reason::None));
    assert_eq!(house.tables.prepare(&room, cause).unwrap(), None);
}

#[test]
fn a_replay_works_it_out_again_and_compares() {
    let mut house = House::with_inline_work(0);
    let room = forked(&mut house);
    let cause = house.tables.parked().unwrap()[0].cause;
    let done = house.tables.prepare(&room, cause).unwrap().unwrap();
    house.fold_group(vec![resumed(&room, cause, done.digest)]);
    let dump = house.dump();
    for group in [1, 3, 1000] {
        let mut again = House::over_with(house.log.clone(), 0);
        let offsets: Vec<u64> = (0..house.log.len() as u64).collect();
        for offsets in offsets.chunks(group) {
            again.fold_offsets(offsets);
        }
        assert_eq!(again.dump(), dump);
    }
    // Another result than this fold comes to stops it.
    let mut lying = House::with_inline_work(0);
    let room = forked(&mut lying);
    let cause = lying.tables.parked().unwrap()[0].cause;
    let failed = lying.try_fold(resumed(&room, cause, [1; 32]));
    assert!(matches!(failed, Err(FoldError::ResumedOtherwise { .. })));
}

#[test]
fn many_waiting_events_are_released_in_turns() {
    let mut house = House::new();
    let room = house.room("12");
    house.member(&room, BOB, BOB, "join").accepted();
    let mut chain = vec![];
    for number in 0..200 {
        let content = json!({ "body": number.to_string() });
        let mut draft = house.draft(&room, BOB, "m.room.message", None, content);
        draft.source = Source::Federation;
        if let Some(last) = chain.last() {
            let last: &super::harness::Draft = last;
            draft.prev_events = vec![last.id.to_string()];
        }
        chain.push(draft);
    }
    for draft in chain[1..].iter().rev() {
        assert_eq!(house.fold(draft).verdict().0, Decision::Outlier);
    }
    house.fold(&chain[0]).accepted();
    let mut turns = 0;
    while let Some(parked) = house.tables.parked().unwrap().pop() {
        let done = house.tables.prepare(&room, parked.cause).unwrap().unwrap();
        house.fold_group(vec![resumed(&room, parked.cause, done.digest)]);
        turns += 1;
    }
    assert!(turns > 1, "{turns}");
    let head = house.tables.head(&room).unwrap().unwrap();
    let ends: Vec<_> = head.extremities.iter().map(|tip| &tip.event_id).collect();
    assert_eq!(ends, [&chain[199].id]);
}
