//! What other homeservers got wrong about rooms, asked of the fold: each test is
//! named by its row of docs/security-tests.md.

use log_format::record::input::Placement;
use log_format::record::output::{Decision, Membership, Reason, Timeline};
use log_format::record::{Source, output::StateChangeCause};
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use super::forks::give;
use super::harness::{ALICE, BOB, CAROL, Draft, House};
use crate::matrix::RoomVersion;
use crate::query::parked::ParkedWork;
use crate::query::rooms::{Rooms, StateKey};

/// A room with Alice (100, or its creator) and Carol of another server.
fn room(house: &mut House, version: RoomVersion) -> OwnedRoomId {
    let room = house.room(version.as_str());
    house.member(&room, CAROL, CAROL, "join").accepted();
    room
}

fn theirs(
    house: &mut House,
    room: &RoomId,
    sender: &str,
    kind: &str,
    state_key: Option<&str>,
    content: Value,
) -> Draft {
    let draft = house.draft(room, sender, kind, state_key, content);
    Draft {
        source: Source::Federation,
        ..draft
    }
}

fn says(house: &mut House, room: &RoomId, sender: &str) -> Draft {
    let content = json!({ "body": "hello" });
    theirs(house, room, sender, "m.room.message", None, content)
}

fn topic(house: &mut House, room: &RoomId, sender: &str, topic: &str) -> Draft {
    let content = json!({ "topic": topic });
    theirs(house, room, sender, "m.room.topic", Some(""), content)
}

fn on(draft: Draft, parents: &[&Draft]) -> Draft {
    Draft {
        prev_events: parents.iter().map(|parent| parent.id.to_string()).collect(),
        ..draft
    }
}

/// The event that holds a key of current state.
fn holds(house: &House, room: &RoomId, kind: &str, state_key: &str) -> Option<String> {
    let sn = *house
        .head(room)
        .state
        .get(&StateKey::new(kind, state_key))?;
    let events = house.tables.events(room, &[sn]).unwrap();
    Some(events[0].event_id.to_string())
}

/// Ids of what current state has, as another server would give them.
fn state_ids(house: &House, room: &RoomId) -> Vec<String> {
    let sns: Vec<_> = house.head(room).state.values().copied().collect();
    let events = house.tables.events(room, &sns).unwrap();
    events
        .iter()
        .map(|event| event.event_id.to_string())
        .collect()
}

fn extremities(house: &House, room: &RoomId) -> Vec<String> {
    let head = house.head(room);
    let ids = head.extremities.iter();
    ids.map(|end| end.event_id.to_string()).collect()
}

/// Whoever makes a second create event with our room's id does not get the room.
#[test]
fn cve_2025_54315_the_first_create_event_is_the_rooms_for_ever() {
    let mut house = House::new();
    for version in RoomVersion::all() {
        let room = room(&mut house, version);
        let first = holds(&house, &room, "m.room.create", "").unwrap();
        let mut second = house.create_draft(version.as_str(), CAROL);
        second.room = room.clone();
        second.source = Source::Federation;
        for placement in [Placement::New, Placement::Outlier] {
            second.placement = placement;
            let refused = house.fold(&second).verdict().0;
            assert_eq!(refused, Decision::Rejected, "{version}");
        }
        // On top of what is there it is no create event either.
        let ends = extremities(&house, &room);
        let mut later = second.clone();
        later.id = house.id();
        later.placement = Placement::New;
        later.prev_events = ends.clone();
        assert_eq!(house.fold(&later).verdict().0, Decision::Rejected);
        // Nor does a state that names it put it into the room.
        let mut ids = state_ids(&house, &room);
        ids.retain(|id| *id != first);
        ids.push(second.id.to_string());
        let mut next = says(&mut house, &room, CAROL);
        next.prev_events = vec!["$unknown".to_owned()];
        let given = give(&mut house, &room, 1, &next, &ids);
        assert_eq!(given.verdict().0, Decision::Rejected, "{version}");
        // And nothing may be authorised by it.
        let mut claims = says(&mut house, &room, CAROL);
        claims.auth_events.retain(|id| *id != first);
        claims.auth_events.push(second.id.to_string());
        let refused = house.fold(&claims).verdict().0;
        assert_eq!(refused, Decision::Rejected, "{version}");

        for restarted in [false, true] {
            if restarted {
                house.restart();
            }
            let held = holds(&house, &room, "m.room.create", "");
            assert_eq!(held.as_ref(), Some(&first), "{version}");
            let creator = house.head(&room).authority.create_info.sender.clone();
            assert_eq!(creator, ALICE, "{version}");
            assert_eq!(extremities(&house, &room), ends, "{version}");
        }
    }
}

/// Synapse once read the version from the redacted event, as version 1; conduits
/// took it from the request. Here it is the room's, for ever.
#[test]
fn synapse_pr_5701_a_redacted_create_event_stays_what_it_was() {
    let mut house = House::new();
    for version in RoomVersion::all() {
        let mut create = house.create_draft(version.as_str(), ALICE);
        create.content["m.federate"] = json!(false);
        let room = create.room.clone();
        house.fold(&create).accepted();
        house.member(&room, ALICE, ALICE, "join").accepted();
        let mut redaction = house.draft(&room, ALICE, "m.room.redaction", None, json!({}));
        redaction.redacts = Some(create.id.to_string());
        house.fold(&redaction).accepted();
        let stored = house.event(&room, &create.id);
        assert!(stored.redacted_by.is_some(), "{version}");
        for restarted in [false, true] {
            if restarted {
                house.restart();
            }
            let head = house.head(&room);
            assert_eq!(head.version, version.id(), "{version}");
            let info = &head.authority.create_info;
            assert_eq!(info.version, version);
            assert!(!info.federate, "{version}");
            // Which the rules still read: others are not let in.
            let join = json!({ "membership": "join" });
            let join = theirs(&mut house, &room, CAROL, "m.room.member", Some(CAROL), join);
            assert_eq!(house.fold(&join).verdict().0, Decision::Rejected);
        }
    }
}

/// What was rejected is in no state, on no way that there is into one.
#[test]
fn cve_2022_39374_what_was_rejected_is_in_no_state() {
    let mut house = House::new();
    for version in RoomVersion::all() {
        let room = room(&mut house, version);
        let good = topic(&mut house, &room, ALICE, "good");
        house.fold(&good).accepted();
        let bad = topic(&mut house, &room, CAROL, "bad");
        let before = extremities(&house, &room);
        assert_eq!(house.fold(&bad).verdict().0, Decision::Rejected);
        let held = Some(good.id.to_string());
        let is_in_no_state = |house: &House| {
            assert_eq!(holds(house, &room, "m.room.topic", ""), held, "{version}");
            let stored = house.event(&room, &bad.id);
            assert_eq!(stored.decision, Decision::Rejected, "{version}");
            assert!(!extremities(house, &room).contains(&bad.id.to_string()));
        };
        is_in_no_state(&house);
        assert_eq!(extremities(&house, &room), before);
        // Sent again, as an outlier, and as history.
        for placement in [
            Placement::New,
            Placement::Outlier,
            Placement::Backfill {
                before: good.id.to_string(),
            },
        ] {
            let again = Draft {
                placement,
                ..bad.clone()
            };
            assert_ne!(house.fold(&again).verdict().0, Decision::Accepted);
            is_in_no_state(&house);
        }
        // Below an event that is accepted.
        let next = on(says(&mut house, &room, CAROL), &[&bad]);
        house.fold(&next).accepted();
        is_in_no_state(&house);
        let at = house.event(&room, &next.id).state_before;
        let key = StateKey::new("m.room.topic", "");
        let topic_at = house.tables.state_entry(&room, at, &key).unwrap();
        let good_sn = house.head(&room).state.get(&key).copied();
        assert_eq!(topic_at, good_sn, "{version}");
        // In a state that another server gives.
        let mut far = says(&mut house, &room, CAROL);
        far.prev_events = vec!["$unknown".to_owned()];
        let mut ids = state_ids(&house, &room);
        ids.retain(|id| *id != good.id.as_str());
        ids.push(bad.id.to_string());
        give(&mut house, &room, 1, &far, &ids);
        house.fold(&far).accepted();
        let at = house.event(&room, &far.id).state_before;
        let topic_at = house.tables.state_entry(&room, at, &key).unwrap();
        assert_eq!(topic_at, None, "{version}: neither the bad one nor a guess");
        is_in_no_state(&house);
        house.restart();
        is_in_no_state(&house);
    }
}

/// The example of the specification (server-server API, *Soft failure*): B bans
/// Carol, C is her topic beside it, D builds on both.
#[test]
fn spec_soft_failure_a_ban_and_what_the_banned_did_beside_it() {
    let mut house = House::new();
    for version in RoomVersion::all() {
        let room = room(&mut house, version);
        // Everybody may set topics, so that C is good where it stands.
        let levels = json!({
            "users": match version.room_id_is_create_hash() {
                true => json!({}),
                false => json!({ ALICE: 100 }),
            },
            "state_default": 0,
        });
        let kind = "m.room.power_levels";
        house.state(&room, ALICE, kind, "", levels).accepted();
        house.member(&room, BOB, BOB, "join").accepted();
        let member = json!({ "membership": "ban" });
        let b = house.draft(&room, ALICE, "m.room.member", Some(CAROL), member);
        let c = topic(&mut house, &room, CAROL, "c");
        // What she could not have sent at all is rejected, not merely hidden.
        let worse = json!({ "membership": "join" });
        let worse = theirs(&mut house, &room, CAROL, "m.room.member", Some(BOB), worse);
        house.fold(&b).accepted();
        assert_eq!(house.fold(&worse).verdict().0, Decision::Rejected);
        let failed = house.fold(&c);
        let told = failed.last();
        assert_eq!(
            failed.verdict(),
            (Decision::SoftFailed, Reason::Forbidden),
            "{version}"
        );
        assert_eq!(told.timeline, Timeline::Outside, "{version}");
        assert!(told.state_delta.is_empty(), "{version}");
        let in_force = |house: &House| holds(house, &room, "m.room.topic", "");
        assert_eq!(in_force(&house), None, "{version}");
        assert_eq!(extremities(&house, &room), [b.id.to_string()]);

        // D, of a server that saw C first, brings both together.
        let d = on(says(&mut house, &room, BOB), &[&b, &c]);
        let joined = house.fold(&d).accepted();
        let told = joined.last();
        assert_eq!(told.timeline, Timeline::Live, "{version}");
        assert_eq!(extremities(&house, &room), [d.id.to_string()]);
        let banned = house
            .head(&room)
            .authority
            .membership(CAROL.try_into().unwrap());
        assert_eq!(banned, Some(Membership::Ban), "{version}");
        match version {
            // The original algorithm takes C in, and says that state changed.
            RoomVersion::V1 => {
                assert_eq!(in_force(&house), Some(c.id.to_string()));
                let change = &told.state_delta[0];
                assert_eq!(change.cause, StateChangeCause::Resolution);
                assert_eq!(change.to, Some(c.id.to_string()));
            }
            _ => assert_eq!(in_force(&house), None, "{version}"),
        }
        house.restart();
        assert_eq!(extremities(&house, &room), [d.id.to_string()]);
    }
}

/// Events that cite what is no state event, one twice, or themselves; and power
/// levels of every shape that a version lets in, resolved over a fork.
#[test]
fn continuwuity_b502f74c3_odd_authorities_and_levels_break_nothing() {
    let shapes = [
        json!({}),
        json!({ "users": { ALICE: "100" } }),
        json!({ "users": { ALICE: 100 }, "state_default": -5 }),
        json!({ "users": { ALICE: "  +100 " }, "events": { "m.room.topic": "0" } }),
        json!({ "users": { ALICE: 9_007_199_254_740_991_i64 }, "users_default": -9_007_199_254_740_991_i64 }),
        json!({ "users": [ALICE], "events": 7 }),
        json!({ "users": { ALICE: null }, "kick": {} }),
        json!({ "users": { "": 100, "@": 1, ALICE: 100 } }),
        json!({ "users": { ALICE: 100 }, "notifications": "room" }),
        json!({ "users": { ALICE: 100 }, "events": { "": "x", "m.room.topic": [] } }),
    ];
    let mut house = House::new();
    for version in RoomVersion::all() {
        let room = room(&mut house, version);
        let message = says(&mut house, &room, CAROL);
        house.fold(&message).accepted();
        let cites = |house: &mut House, more: &str, twice: bool| {
            let mut odd = says(house, &room, CAROL);
            let more = match more {
                "itself" => odd.id.to_string(),
                more => more.to_owned(),
            };
            odd.auth_events.push(more.clone());
            odd.auth_events.extend(twice.then_some(more));
            odd
        };
        let own_member = holds(&house, &room, "m.room.member", CAROL).unwrap();
        for (more, twice) in [
            (message.id.as_str(), false),
            (message.id.as_str(), true),
            ("itself", false),
            (&own_member, true),
        ] {
            let odd = cites(&mut house, more, twice);
            let refused = house.fold(&odd).verdict().0;
            assert_ne!(refused, Decision::Accepted, "{version} {more}");
        }
        for shape in &shapes {
            let kind = "m.room.power_levels";
            let levels = theirs(&mut house, &room, ALICE, kind, Some(""), shape.clone());
            house.fold(&levels);
            let left = topic(&mut house, &room, ALICE, "left");
            let right = topic(&mut house, &room, ALICE, "right");
            let sound = json!({ "users": { BOB: 50 } });
            let third = theirs(&mut house, &room, ALICE, kind, Some(""), sound);
            for fork in [&left, &right, &third] {
                house.fold(fork);
            }
            // Whatever came of it, the fold goes on, and says the same again.
            let before = format!("{:?}", house.head(&room));
            house.restart();
            assert_eq!(format!("{:?}", house.head(&room)), before, "{version}");
            let next = says(&mut house, &room, CAROL);
            house.fold(&next);
        }
    }
}

/// Redactions that take each other away, themselves, and a long chain of them.
#[test]
fn synapse_0f2ecb961_redactions_in_a_circle_end() {
    let mut house = House::new();
    for version in [RoomVersion::V1, RoomVersion::V10, RoomVersion::V12] {
        let room = room(&mut house, version);
        let redacts = |house: &mut House, target: &str| {
            let mut draft = theirs(house, &room, ALICE, "m.room.redaction", None, json!({}));
            draft.redacts = Some(target.to_owned());
            draft
        };
        // Only in versions 1 and 2 could a real event know another's id before
        // that is made; the fold does not rely on it.
        let mut one = redacts(&mut house, "$later");
        let two = redacts(&mut house, one.id.as_str());
        one.redacts = Some(two.id.to_string());
        let mut of_itself = redacts(&mut house, "$later");
        of_itself.redacts = Some(of_itself.id.to_string());
        let mut chain = vec![one, two, of_itself];
        for _ in 0..100 {
            let last = chain.last().unwrap().id.to_string();
            let next = redacts(&mut house, &last);
            chain.push(on(next, &[chain.last().unwrap()]));
        }
        for redaction in &chain {
            house.fold(redaction);
        }
        for restarted in [false, true] {
            if restarted {
                house.restart();
            }
            for redaction in &chain {
                let json = house.event(&room, &redaction.id).json.clone();
                assert!(!json.is_empty(), "{version}");
            }
        }
        house.message(&room, CAROL, "and on").accepted();
    }
}

/// Many users of one server leave, each beside the others: where that becomes too
/// much work, the room waits for it alone, and goes on from there.
#[test]
fn synapse_1760_leaves_beside_each_other_hold_up_no_other_room() {
    const USERS: usize = 200;
    let mut house = House::with_inline_work(1_000);
    let room = house.room("11");
    let other = house.room("11");
    let users: Vec<String> = (0..USERS).map(|n| format!("@user{n}:other")).collect();
    for user in &users {
        house.member(&room, user, user, "join").accepted();
    }
    let mut leaves = Vec::new();
    for user in &users {
        let leave = json!({ "membership": "leave" });
        leaves.push(theirs(
            &mut house,
            &room,
            user,
            "m.room.member",
            Some(user),
            leave,
        ));
    }
    let mut waiting = 0;
    for leave in &leaves {
        let told = house.fold_group(vec![leave.record()]).pop().unwrap();
        waiting += usize::from(told.folded.outcome.is_none());
    }
    let ends = extremities(&house, &room).len();
    assert!(waiting > 0, "{ends} ends were no work");
    assert_eq!(waiting + ends, USERS);
    house.message(&other, ALICE, "others go on").accepted();
    // The first that waits is worked out aside, and the room is one further.
    let cause = house.tables.parked().unwrap()[0].cause;
    let done = house.tables.prepare(&room, cause).unwrap().unwrap();
    let resumed = super::parked::resumed(&room, cause, done.digest);
    let told = house.fold_group(vec![resumed]).pop().unwrap();
    assert_eq!(told.verdict(), (Decision::Accepted, Reason::None));
    assert!(extremities(&house, &room).len() > ends);
}

/// Power levels on top of one another, each citing the one before: the last costs
/// no more of the disk than the first, and a fork from far back no more steps than
/// an event may have while others wait.
#[test]
fn cve_2024_31208_a_deep_graph_costs_each_event_the_same() {
    const DEPTH: usize = 300;
    let mut house = House::new();
    let room = room(&mut house, RoomVersion::V11);
    let old = topic(&mut house, &room, ALICE, "from far back");
    let mut bytes = vec![size(&house)];
    for part in 0..3 {
        for number in 0..DEPTH {
            let levels = json!({ "users": { ALICE: 100 }, "ban": number % 50, "kick": part });
            let kind = "m.room.power_levels";
            house.state(&room, ALICE, kind, "", levels).accepted();
        }
        bytes.push(size(&house));
    }
    let grown: Vec<usize> = bytes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    println!("{} bytes for each event", grown[2] / DEPTH);
    assert!(grown[2] < grown[1] + grown[1] / 10, "{grown:?}");
    assert!(grown[2] / DEPTH < 2_048, "{grown:?}");
    let told = house.fold_group(vec![old.record()]).pop().unwrap();
    assert!(told.folded.outcome.is_some(), "decided at once");
    assert_eq!(told.verdict().0, Decision::Accepted);
    assert_eq!(extremities(&house, &room).len(), 2);
}

/// Bytes of all tables.
fn size(house: &House) -> usize {
    let rows = house.dump();
    rows.iter()
        .map(|((_, key), row)| key.len() + row.len())
        .sum()
}
