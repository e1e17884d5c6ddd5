//! What *output* tells about current state is enough to follow it: folding the
//! changes gives the room's state, memberships and ends, at every record, while
//! events of forks come late and are resolved. Tools and readers rely on it.

use std::collections::BTreeMap;

use log_format::codec;
use log_format::record::output::{
    Membership, OutputRoomEvent, OutputRoomState, StateChange, StateChangeCause,
};
use log_format::record::{Envelope, Kind, Source};
use proptest::prelude::*;
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use super::harness::{ALICE, BOB, CAROL, Draft, House, Outcome};
use crate::query::rooms::Rooms;

/// Current state as *output* tells it: event ids by type and state key.
#[derive(Debug, Default)]
struct Told {
    state: BTreeMap<(String, String), String>,
    members: BTreeMap<String, Membership>,
    ends: Vec<String>,
    parts: Vec<OutputRoomState>,
    by_resolution: usize,
}

impl Told {
    fn fold(&mut self, outcome: &Outcome) {
        for record in &outcome.folded.output {
            let envelope = Envelope::parse(&record.payload).unwrap();
            match envelope.kind {
                Kind::OutputRoomState => self.parts.push(codec::decode(envelope.body).unwrap()),
                Kind::OutputRoomEvent => self.decide(codec::decode(envelope.body).unwrap()),
                _ => {}
            }
        }
        assert!(self.parts.is_empty(), "a change ends with its decision");
    }

    fn decide(&mut self, decision: OutputRoomEvent) {
        let about = |body: &OutputRoomState| (body.origin.src_offset, body.origin.about);
        let mut changes = vec![];
        let mut members = vec![];
        for part in self.parts.drain(..) {
            assert_eq!(
                about(&part),
                (decision.origin.src_offset, decision.origin.about)
            );
            changes.extend(part.state_delta);
            members.extend(part.memberships);
        }
        changes.extend(decision.state_delta);
        members.extend(decision.memberships);
        let removed = changes.iter().filter(|change| change.to.is_none());
        let removed = removed.filter(|change| change.kind == "m.room.member");
        let removed: Vec<String> = removed.map(|change| change.state_key.clone()).collect();
        for change in changes {
            self.change(change);
        }
        for member in members {
            let before = self.members.insert(member.user_id, member.to);
            assert_eq!(before, member.from);
        }
        for user in removed {
            // Who has no entry any more is as good as one who left.
            assert_eq!(self.members.remove(&user), Some(Membership::Leave));
        }
        if !decision.extremities.is_empty() {
            self.ends = decision.extremities;
        }
    }

    fn change(&mut self, change: StateChange) {
        self.by_resolution += usize::from(change.cause == StateChangeCause::Resolution);
        let key = (change.kind, change.state_key);
        let before = match change.to {
            Some(to) => self.state.insert(key, to),
            None => self.state.remove(&key),
        };
        assert_eq!(before, change.from, "a change names what was before");
    }

    /// Compares with the room's head.
    fn is_as_in(&self, house: &House, room: &RoomId) {
        let head = house.head(room);
        let ends: Vec<String> = head
            .extremities
            .iter()
            .map(|end| end.event_id.to_string())
            .collect();
        assert_eq!(self.ends, ends);
        let sns: Vec<_> = head.state.values().copied().collect();
        let events = house.tables.events(room, &sns).unwrap();
        let state: BTreeMap<(String, String), String> = head
            .state
            .keys()
            .zip(events)
            .map(|(key, event)| {
                let key = (key.kind.to_string(), key.state_key.to_string());
                (key, event.event_id.to_string())
            })
            .collect();
        assert_eq!(self.state, state);
        for (user, member) in &head.authority.members {
            assert_eq!(self.members.get(user.as_str()), Some(&member.membership));
        }
    }
}

/// An event that somebody may try, by number.
fn attempt(house: &mut House, room: &RoomId, which: u8) -> Draft {
    let member = |to: &str| json!({ "membership": to });
    let topic = |text: u8| json!({ "topic": format!("topic {text}") });
    let levels = |bob: i64| {
        let users = match room.as_str().contains(':') {
            true => json!({ ALICE: 100, BOB: bob }),
            false => json!({ BOB: bob }),
        };
        json!({ "users": users, "state_default": 50 })
    };
    let text = which / 12;
    let (sender, kind, state_key, content): (&str, &str, Option<&str>, Value) = match which % 12 {
        0 => (ALICE, "m.room.topic", Some(""), topic(text)),
        1 => (BOB, "m.room.topic", Some(""), topic(text)),
        2 => (BOB, "m.room.name", Some(""), json!({ "name": text })),
        3 => (ALICE, "m.room.member", Some(BOB), member("ban")),
        4 => (ALICE, "m.room.member", Some(BOB), member("leave")),
        5 => (BOB, "m.room.member", Some(BOB), member("join")),
        6 => (CAROL, "m.room.member", Some(CAROL), member("leave")),
        7 => (CAROL, "m.room.member", Some(CAROL), member("join")),
        8 => (ALICE, "m.room.power_levels", Some(""), levels(50)),
        9 => (ALICE, "m.room.power_levels", Some(""), levels(0)),
        10 => (BOB, "m.room.member", Some(CAROL), member("ban")),
        _ => (CAROL, "m.room.message", None, json!({ "body": text })),
    };
    let mut draft = house.draft(room, sender, kind, state_key, content);
    draft.source = Source::Federation;
    draft
}

/// Events are made on what is known, and some of them come late.
fn live(version: &str, steps: &[(u8, u8)]) -> usize {
    let mut house = House::new();
    let mut told = Told::default();
    let create = house.create_draft(version, ALICE);
    let room: OwnedRoomId = create.room.clone();
    told.fold(&house.fold(&create).accepted());
    for which in [
        (
            ALICE,
            "m.room.member",
            ALICE,
            json!({ "membership": "join" }),
        ),
        (
            ALICE,
            "m.room.join_rules",
            "",
            json!({ "join_rule": "public" }),
        ),
        (BOB, "m.room.member", BOB, json!({ "membership": "join" })),
        (
            CAROL,
            "m.room.member",
            CAROL,
            json!({ "membership": "join" }),
        ),
    ] {
        let (sender, kind, state_key, content) = which;
        let outcome = house.state(&room, sender, kind, state_key, content);
        told.fold(&outcome.accepted());
    }
    let levels = attempt(&mut house, &room, 8);
    told.fold(&house.fold(&levels).accepted());
    let mut on_the_way: Vec<Draft> = vec![];
    for (which, arrives) in steps {
        on_the_way.push(attempt(&mut house, &room, *which));
        // Now and then the newest, else one that was made longer ago.
        if *arrives > 60 {
            let draft = on_the_way.remove(usize::from(*arrives) % on_the_way.len());
            told.fold(&house.fold(&draft));
            told.is_as_in(&house, &room);
        }
    }
    for draft in on_the_way {
        told.fold(&house.fold(&draft));
        told.is_as_in(&house, &room);
    }
    told.by_resolution
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn output_tells_every_change_of_current_state(
        version in prop::sample::select(vec!["1", "6", "11", "12"]),
        steps in prop::collection::vec((any::<u8>(), any::<u8>()), 1..24),
    ) {
        live(version, &steps);
    }
}

/// The property above is about something: forks do move the state.
#[test]
fn late_events_change_state_by_resolution() {
    // A ban of Bob, and meanwhile, unknown to him, a topic of his.
    let steps = [(3, 0), (1, 0), (2, 0), (0, 61), (11, 90), (5, 77), (3, 200)];
    let changed: usize = ["1", "6", "11", "12"]
        .iter()
        .map(|version| live(version, &steps))
        .sum();
    assert!(changed > 0, "nothing was resolved");
}

#[test]
fn a_member_whom_resolution_removed_may_come_back() {
    let steps = [
        (10, 0),
        (47, 167),
        (96, 36),
        (118, 202),
        (229, 114),
        (48, 93),
        (165, 211),
        (254, 64),
        (91, 73),
    ];
    assert!(live("6", &steps) > 0);
}
