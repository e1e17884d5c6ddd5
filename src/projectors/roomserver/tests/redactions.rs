//! Redactions apply to what is served, in either order, and only with power.

use log_format::record::output::{Decision, Reason};
use ruma::{OwnedEventId, RoomId};
use serde_json::json;

use super::harness::*;
use crate::query::ids::EventSn;

const VERSIONS: [&str; 3] = ["10", "11", "12"];

fn redaction(house: &mut House, room: &RoomId, sender: &str, target: &str) -> Draft {
    let mut draft = house.draft(room, sender, "m.room.redaction", None, json!({}));
    draft.redacts = Some(target.to_owned());
    draft
}

fn shows(house: &House, room: &RoomId, id: &OwnedEventId, text: &str) -> bool {
    let json = house.event(room, id).json.clone();
    String::from_utf8(json.to_vec()).unwrap().contains(text)
}

/// A room with Bob and Carol, who is of another server, and a message of Bob's.
fn room_with_message(house: &mut House, version: &str) -> (ruma::OwnedRoomId, Draft) {
    let room = house.room(version);
    house.member(&room, BOB, BOB, "join").accepted();
    house.member(&room, CAROL, CAROL, "join").accepted();
    let message = house.draft(
        &room,
        BOB,
        "m.room.message",
        None,
        json!({ "body": "secret" }),
    );
    (room, message)
}

#[test]
fn who_has_the_level_or_the_server_redacts() {
    for version in VERSIONS {
        let mut house = House::new();
        let (room, message) = room_with_message(&mut house, version);
        house.fold(&message).accepted();
        assert!(shows(&house, &room, &message.id, "secret"));
        // Carol has neither; her redaction is an event without effect.
        let powerless = redaction(&mut house, &room, CAROL, message.id.as_str());
        house.fold(&powerless).accepted();
        assert!(shows(&house, &room, &message.id, "secret"));
        // Bob is of the same server.
        let own = redaction(&mut house, &room, BOB, message.id.as_str());
        let applied = house.fold(&own).accepted();
        assert_eq!(applied.last().redacts.as_deref(), Some(message.id.as_str()));
        let event = house.event(&room, &message.id);
        assert_eq!(event.redacted_by, Some(EventSn(applied.offset)));
        assert!(!shows(&house, &room, &message.id, "secret"));
        // The first one counts.
        let later = redaction(&mut house, &room, ALICE, message.id.as_str());
        house.fold(&later).accepted();
        assert_eq!(
            house.event(&room, &message.id).redacted_by,
            event.redacted_by
        );
        house.restart();
        assert!(!shows(&house, &room, &message.id, "secret"));
    }
}

#[test]
fn a_redaction_may_come_before_its_event() {
    for version in VERSIONS {
        let mut house = House::new();
        let (room, mut message) = room_with_message(&mut house, version);
        let powerless = redaction(&mut house, &room, CAROL, message.id.as_str());
        house.fold(&powerless).accepted();
        let early = redaction(&mut house, &room, ALICE, message.id.as_str());
        let early = house.fold(&early).accepted();
        house.restart();
        message.prev_events = vec![early.last().extremities[0].clone()];
        house.fold(&message).accepted();
        let event = house.event(&room, &message.id);
        assert_eq!(event.redacted_by, Some(EventSn(early.offset)));
        assert!(!shows(&house, &room, &message.id, "secret"));
        // Nothing waits any longer.
        let rows = house.dump();
        assert!(rows.keys().all(|(table, _)| *table != "early_redactions"));
    }
}

#[test]
fn an_event_stays_whole_when_only_powerless_redactions_waited() {
    let mut house = House::new();
    let (room, mut message) = room_with_message(&mut house, "12");
    let powerless = redaction(&mut house, &room, CAROL, message.id.as_str());
    let powerless = house.fold(&powerless).accepted();
    message.prev_events = vec![powerless.last().extremities[0].clone()];
    house.fold(&message).accepted();
    assert!(shows(&house, &room, &message.id, "secret"));
}

#[test]
fn both_within_one_group_are_shown_redacted() {
    let mut house = House::new();
    let (room, message) = room_with_message(&mut house, "12");
    let mut redaction = redaction(&mut house, &room, BOB, message.id.as_str());
    redaction.prev_events = vec![message.id.to_string()];
    let outcomes = house.fold_group(vec![message.record(), redaction.record()]);
    assert!(
        outcomes
            .iter()
            .all(|one| one.verdict().0 == Decision::Accepted)
    );
    assert!(!shows(&house, &room, &message.id, "secret"));
}

#[test]
fn a_redacted_state_event_still_rules() {
    for version in VERSIONS {
        let mut house = House::new();
        let room = house.room(version);
        let mut users = json!({ BOB: 60 });
        if version != "12" {
            users[ALICE] = json!(100);
        }
        let content = json!({ "users": users, "invite": 70, "name": "secret" });
        let levels = house.draft(&room, ALICE, "m.room.power_levels", Some(""), content);
        house.fold(&levels).accepted();
        house.member(&room, BOB, BOB, "join").accepted();
        let redaction = redaction(&mut house, &room, ALICE, levels.id.as_str());
        house.fold(&redaction).accepted();
        assert!(!shows(&house, &room, &levels.id, "secret"));
        for _ in 0..2 {
            // Bob has the power for state, and not for invites: in version 10
            // redaction removes `invite`, and the auth extract keeps it.
            house
                .member(&room, BOB, CAROL, "invite")
                .rejected(Reason::Forbidden);
            house
                .state(&room, BOB, "m.room.topic", "", json!({ "topic": "x" }))
                .accepted();
            house.restart();
        }
    }
}

#[test]
fn an_erased_body_folds_to_the_same_tables() {
    let mut house = House::new();
    let (room, message) = room_with_message(&mut house, "12");
    let sent = house.fold(&message).accepted();
    house
        .state(&room, ALICE, "m.room.topic", "", json!({ "topic": "x" }))
        .accepted();
    let redaction = redaction(&mut house, &room, ALICE, message.id.as_str());
    house.fold(&redaction).accepted();
    let end = crate::logs::log::Log::end(&*house.log, 0);
    for offset in 0..end {
        house.log.erase_body(offset);
    }
    let mut again = House::over(house.log.clone());
    let offsets: Vec<u64> = (0..end).collect();
    again.fold_offsets(&offsets);
    assert_eq!(again.dump(), house.dump());
    let event = again.event(&room, &message.id);
    assert_eq!(event.event, EventSn(sent.offset));
    assert!(!shows(&again, &room, &message.id, "secret"));
}
