//! Random rooms, windows, limits and wishes against the model of classic sync:
//! whatever a client asked for before, in the end it holds what the rooms hold,
//! and at no time was it told what its user may not know.

use std::collections::BTreeMap;
use std::sync::Arc;

use log_format::record::output::{Membership, Visibility};
use proptest::prelude::*;
use ruma::{OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};

use super::client::Client;
use crate::readers::client_sync::SyncError;
use crate::readers::client_sync::sliding::request::Dialect;
use crate::readers::client_sync::sliding::round::Round;
use crate::readers::client_sync::tests::model::{
    Fact, ROOMS, Step, USERS, VISIBILITIES, WORDS, expected, facts, fork, may_become,
};
use crate::readers::client_sync::tests::world::{World, user};

const KINDS: [&str; 3] = ["m.room.topic", "m.room.name", "x.any"];
const LIMITS: [u64; 4] = [0, 1, 3, 100];

/// How a client asks.
#[derive(Clone, Copy, Debug)]
struct Manner {
    dialect: Dialect,
    /// Members lazily, or like the rest of the state.
    lazy: bool,
    /// For all state always, or now for more and now for less.
    steady: bool,
}

/// What a client wants of state: a little, or all.
fn wishes(detail: u8, manner: Manner) -> Value {
    let detail = if manner.steady { 3 } else { detail };
    let all = [
        json!([]),
        json!([["m.room.topic", ""], ["m.room.member", "$ME"]]),
        json!([["x.any", "*"], ["m.room.name", ""]]),
        json!([["*", "*"]]),
    ];
    let mut wanted = all[usize::from(detail) % all.len()].clone();
    if let (true, Some(wanted)) = (manner.lazy, wanted.as_array_mut()) {
        wanted.push(json!(["m.room.member", "$LAZY"]));
    }
    wanted
}

/// A request that looks at some rooms, and maybe at one of them more closely.
fn narrow(detail: u8, other: u8, manner: Manner) -> Value {
    let limit = |detail: u8| LIMITS[usize::from(detail) % LIMITS.len()];
    let mut body = json!({"lists": {"a": {
        "ranges": [[0, detail % 3]], "timeline_limit": limit(detail / 3),
        "required_state": wishes(detail / 12, manner),
    }}});
    if other.is_multiple_of(3) {
        let room = ROOMS[usize::from(other) / 3 % ROOMS.len()];
        body["room_subscriptions"] = json!({format!("!{room}:here"): {
            "timeline_limit": limit(other / 9), "required_state": wishes(other / 36, manner),
        }});
    }
    body
}

fn whole(manner: Manner) -> Value {
    json!({"lists": {"a": {
        "ranges": [[0, 99]], "timeline_limit": 100, "required_state": wishes(3, manner),
    }}})
}

/// Asks, and believes the answer or loses it. A client that is to start over does.
async fn ask(world: &World, client: &mut Client, body: Value, is_lost: bool) -> Value {
    let answer = match client.ask(world, body.clone()).await {
        Err(SyncError::UnknownPosition) => {
            client.pos = None;
            client.rooms = BTreeMap::new();
            client.ask(world, body).await
        }
        answer => answer,
    };
    let answer = answer.expect("an answer");
    check_nothing_leaks(world, &client.user, &answer);
    if !is_lost {
        client.believe(&answer);
    }
    answer
}

/// The same, where the world moves on while the answer is made.
fn ask_amid(
    world: &mut World,
    client: &mut Client,
    body: Value,
    is_lost: bool,
    amid: impl FnOnce(&mut World, &UserId),
) {
    world.fold();
    let sync = world.sync.clone();
    let request = client.request(body);
    let (opened, since) = match sync.open_connection(&request) {
        Ok(opened) => opened,
        // The next request starts over.
        Err(SyncError::UnknownPosition) => return,
        Err(error) => panic!("{error}"),
    };
    let mut round = Round::new(sync.clone(), Arc::new(request), opened, since);
    let plan = round.plan().expect("a plan");
    amid(world, &client.user);
    world.fold();
    let answer = round.build(plan).expect("an answer");
    let answer = sync.give(round, answer).expect("an answer");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    check_nothing_leaks(world, &client.user, &answer);
    if !is_lost {
        client.believe(&answer);
    }
}

/// What may happen at any time.
fn happen(world: &mut World, room: &RoomId, far: &UserId, user: &UserId, detail: u8) {
    let word = WORDS[usize::from(detail) % WORDS.len()];
    match detail % 3 {
        0 => drop(world.say(room, far, "meanwhile")),
        1 => {
            let content = json!({"name": format!("meanwhile {detail}")});
            world.state(room, far, KINDS[usize::from(detail) / 3 % 3], "", content);
        }
        _ => {
            let facts = facts(world, room, user);
            if may_become(facts.last().and_then(|fact| fact.membership), word) {
                world.member(room, user, user, word);
            }
        }
    }
}

fn joined(fact: &Fact) -> bool {
    fact.membership == Some(Membership::Join)
}

/// Events of an answer are of a time when the user was there, or ends it.
fn check_nothing_leaks(world: &World, user: &UserId, answer: &Value) {
    for (room, told) in answer["rooms"].as_object().into_iter().flatten() {
        let room = RoomId::parse(room).expect("a room id");
        let facts = facts(world, &room, user);
        for section in ["timeline", "required_state"] {
            let events = told[section].as_array().into_iter().flatten();
            let ids = events.filter_map(|event| event["event_id"].as_str());
            for id in ids {
                let index = facts.iter().position(|fact| fact.id == id);
                let index = index.expect("an event of the room");
                let fact = &facts[index];
                let was_there = facts[index..].iter().any(joined)
                    || index
                        .checked_sub(1)
                        .is_some_and(|before| joined(&facts[before]));
                let may_see = section == "required_state" || fact.visible || fact.shared;
                assert!(
                    fact.own_member_event || (was_there && may_see),
                    "{user} in {room}: {id} in {section}"
                );
            }
        }
    }
}

fn check(world: &World, client: &Client, manner: Manner) {
    for name in ROOMS {
        let room = RoomId::parse(format!("!{name}:here")).expect("a plain name");
        let who = format!("{} in {room}", client.user);
        let facts = facts(world, &room, &client.user);
        let membership = facts.last().and_then(|fact| fact.membership);
        let view = client.rooms.get(room.as_str());
        let word = membership.map(Membership::as_str);
        match membership {
            None => assert!(view.is_none(), "{who}"),
            // Of a room that they left, clients know if they were told of it.
            Some(Membership::Leave | Membership::Ban) => {
                let told = view.map(|view| view.membership.as_str());
                assert!(told.is_none() || told == word, "{who}: {told:?}");
            }
            Some(_) => {
                assert_eq!(view.map(|view| view.membership.as_str()), word, "{who}");
            }
        }
        let Some(view) = view.filter(|_| membership == Some(Membership::Join)) else {
            continue;
        };
        let rooms = world.rooms.rooms.read();
        let held = &rooms[&room];
        let mut truth = BTreeMap::new();
        let (mut name, mut members) = (Value::Null, 0);
        for (key, sn) in &held.current {
            let event = held.event(*sn);
            let pdu: Value = serde_json::from_slice(&event.json).expect("JSON");
            match &*key.kind {
                "m.room.name" => name = pdu["content"]["name"].clone(),
                "m.room.member" => members += u64::from(pdu["content"]["membership"] == "join"),
                _ => {}
            }
            let key = (key.kind.to_string(), key.state_key.to_string());
            truth.insert(key, event.event_id.to_string());
        }
        let mut state = view.state.clone();
        if manner.lazy {
            // Members may be missing, but none may be wrong.
            truth.retain(|key, _| key.0 != "m.room.member" || state.contains_key(key));
        }
        if manner.dialect == Dialect::Unstable {
            // Its clients cannot be told what was removed.
            state.retain(|key, _| truth.contains_key(key));
        }
        assert_eq!(state, truth, "{who}");
        assert_eq!(view.name, name, "{who}");
        assert_eq!(view.joined_count, json!(members), "{who}");

        let (told, unsure) = expected(&facts);
        let seen: Vec<&String> = view
            .timeline
            .iter()
            .filter(|id| !unsure.contains(*id))
            .collect();
        if view.gap {
            // All events fit the last request, so it is not for their number.
            let live = (0..held.events.len()).filter(|index| facts[*index].live);
            let places: Vec<_> = live.map(|index| held.events[index].place).collect();
            let mut pairs = places.windows(2);
            let has_gaps = pairs.any(|pair| pair[1].is_behind_gap(pair[0]));
            assert!(has_gaps, "{who} has a gap: {seen:?} of {told:?}");
            let mut rest = told.iter();
            let in_order = seen.iter().all(|id| rest.any(|told| told == *id));
            assert!(in_order, "{who}: {seen:?} is not in the order of {told:?}");
        } else {
            assert_eq!(seen, told.iter().collect::<Vec<_>>(), "{who}");
        }
    }
}

async fn run(steps: &[Step], partitions: u32, manner: Manner) {
    let mut world = World::new(partitions);
    let users: Vec<OwnedUserId> = USERS.iter().map(|name| user(name)).collect();
    let far = UserId::parse("@far:there").expect("a plain name");
    let mut clients: Vec<Client> = users.iter().map(|user| Client::new(user)).collect();
    for client in &mut clients {
        client.dialect = manner.dialect;
    }
    for room in ROOMS {
        world.create(room, &far, Visibility::Shared);
    }
    for (index, (what, who, room, detail)) in steps.iter().enumerate() {
        let index_of_user = usize::from(*who) % USERS.len();
        let client = &mut clients[index_of_user];
        let name = ROOMS[usize::from(*room) % ROOMS.len()];
        let room = RoomId::parse(format!("!{name}:here")).expect("a plain name");
        match what % 12 {
            0 => drop(world.say(&room, &far, "hello")),
            1 | 2 => {
                let content = json!({"name": index.to_string()});
                let kind = KINDS[usize::from(*detail) % KINDS.len()];
                world.state(&room, &far, kind, "", content);
            }
            3 => {
                let word = VISIBILITIES[usize::from(*detail) % VISIBILITIES.len()];
                let word = json!({"history_visibility": word});
                world.state(&room, &far, "m.room.history_visibility", "", word);
            }
            4 | 5 => {
                let word = WORDS[usize::from(*detail) % WORDS.len()];
                let facts = facts(&world, &room, &client.user);
                if may_become(facts.last().and_then(|fact| fact.membership), word) {
                    let sender = if detail % 2 == 0 { &far } else { &client.user };
                    world.member(&room, sender, &client.user, word);
                }
            }
            6..=8 => {
                let is_lost = what.is_multiple_of(5);
                let body = narrow(*detail, *who / 4, manner);
                match who.is_multiple_of(3) {
                    false => drop(ask(&world, client, body, is_lost).await),
                    true => ask_amid(&mut world, client, body, is_lost, |world, user| {
                        happen(world, &room, &far, user, *detail);
                    }),
                }
            }
            9 => {
                world.fold_some(usize::from(*detail) % 8);
                world.restart(detail % 8 == 0);
            }
            _ => {
                let user = client.user.clone();
                fork(&mut world, &room, (&far, &user), (index, *what, *detail));
            }
        }
    }
    for client in &mut clients {
        ask(&world, client, whole(manner), false).await;
        // Nothing new: nothing is told, and the client stays where it is.
        let before = client.pos.clone();
        let answer = ask(&world, client, whole(manner), false).await;
        assert_eq!((&answer["rooms"], &client.pos), (&json!({}), &before));
        check(&world, client, manner);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_was_asked_before_the_client_ends_with_what_the_rooms_hold(
        steps in proptest::collection::vec(any::<Step>(), 1..80),
        partitions in 1u32..4,
        accepted in any::<bool>(),
        lazy in any::<bool>(),
        steady in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let dialect = if accepted { Dialect::Accepted } else { Dialect::Unstable };
        let manner = Manner { dialect, lazy, steady };
        let run = run(&steps, partitions, manner);
        runtime.expect("a runtime").block_on(run);
    }
}
