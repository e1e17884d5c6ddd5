//! Records of one request stand or fall as one.

use log_format::record::output::{Decision, Reason};
use serde_json::json;

use super::harness::*;
use crate::logs::log::NewRecord;
use crate::query::rooms::Rooms;

/// The records of a createRoom: create, creator's join, power levels, topic.
fn create_room(house: &mut House, topic_sender: &str) -> (ruma::OwnedRoomId, Vec<NewRecord>) {
    let create = house.create_draft("11", ALICE);
    let mut drafts = vec![create.clone()];
    let parts = [
        (
            ALICE,
            "m.room.member",
            ALICE,
            json!({ "membership": "join" }),
        ),
        (
            ALICE,
            "m.room.power_levels",
            "",
            json!({ "users": { ALICE: 100 } }),
        ),
        (topic_sender, "m.room.topic", "", json!({ "topic": "x" })),
    ];
    for (sender, kind, state_key, content) in parts {
        let last = drafts.last().unwrap();
        let auth = drafts
            .iter()
            .take(3)
            .map(|draft| draft.id.to_string())
            .collect();
        let draft = Draft {
            id: house.id(),
            sender: sender.to_owned(),
            kind: kind.to_owned(),
            state_key: Some(state_key.to_owned()),
            content,
            prev_events: vec![last.id.to_string()],
            auth_events: auth,
            depth: last.depth + 1,
            ..create.clone()
        };
        drafts.push(draft);
    }
    let count = drafts.len() as u32;
    for (index, draft) in drafts.iter_mut().enumerate() {
        draft.batch = (index as u32, count);
    }
    let records = drafts.iter().map(Draft::record).collect();
    (create.room, records)
}

#[test]
fn a_room_appears_with_the_last_record_of_its_batch() {
    let mut house = House::new();
    let (room, records) = create_room(&mut house, ALICE);
    let offsets: Vec<u64> = records
        .into_iter()
        .map(|record| house.log.append(record))
        .collect();
    for offset in &offsets[..3] {
        let outcome = house.fold_offsets(&[*offset]).pop().unwrap();
        assert!(outcome.output.is_empty());
        assert!(house.dump().is_empty());
        assert!(house.tables.head(&room).unwrap().is_none());
        // A process that ends here has lost nothing.
        house.restart();
    }
    let whole = house.fold_offsets(&offsets[3..]).pop().unwrap().accepted();
    assert_eq!(whole.output.len(), 4);
    for (sub, (made, offset)) in whole.output.iter().zip(&offsets).enumerate() {
        assert_eq!(made.origin.src_offset, offsets[3]);
        assert_eq!(made.origin.src_sub, sub as u32);
        assert_eq!(made.origin.src_last, sub == 3);
        assert_eq!(made.event_sn, *offset);
        assert_eq!(made.decision, Decision::Accepted);
    }
    assert_eq!(house.head(&room).joined_members, 1);
    house.message(&room, ALICE, "hello").accepted();
}

#[test]
fn one_refused_record_refuses_all() {
    let mut house = House::new();
    let other = house.room("12");
    let before = house.dump();
    let (room, records) = create_room(&mut house, BOB);
    let whole = house.fold_group(records).pop().unwrap();
    assert_eq!(whole.verdict(), (Decision::Rejected, Reason::Forbidden));
    assert_eq!(whole.output.len(), 4);
    assert!(
        whole
            .output
            .iter()
            .all(|made| made.decision == Decision::Rejected)
    );
    assert_eq!(house.dump(), before);
    assert!(house.tables.head(&room).unwrap().is_none());
    house.message(&other, ALICE, "others go on").accepted();
    // The same room may be tried again.
    let (room, records) = create_room(&mut house, ALICE);
    house.fold_group(records).pop().unwrap().accepted();
    assert_eq!(house.head(&room).joined_members, 1);
}

#[test]
fn a_batch_with_a_stranger_in_it_is_malformed() {
    let mut house = House::new();
    let (_, records) = create_room(&mut house, ALICE);
    let (_, mut others) = create_room(&mut house, ALICE);
    let mixed: Vec<NewRecord> = records.into_iter().take(3).chain(others.pop()).collect();
    let whole = house.fold_group(mixed).pop().unwrap();
    assert_eq!(whole.verdict(), (Decision::Rejected, Reason::Malformed));
    assert!(house.dump().is_empty());
}
