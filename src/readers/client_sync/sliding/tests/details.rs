//! What is told of rooms, lists and positions where it is easily told wrongly.

use std::sync::Arc;

use log_format::record::output::Visibility;
use serde_json::{Value, json};

use super::client::{Client, everything, ids};
use crate::query::ids::EphemeralOffset;
use crate::query::rooms::StateKey;
use crate::readers::client_sync::SyncError;
use crate::readers::client_sync::sliding::connections::ConnectionKey;
use crate::readers::client_sync::sliding::request::Dialect;
use crate::readers::client_sync::sliding::round::Round;
use crate::readers::client_sync::tests::fake_rooms::{Fate, How};
use crate::readers::client_sync::tests::world::{World, user};

fn asks(limit: u64, state: Value) -> Value {
    json!({"lists": {"a": {
        "ranges": [[0, 9]], "timeline_limit": limit, "required_state": state,
    }}})
}

/// Clients that are not told how long a list is ask again at once, for ever.
#[tokio::test]
async fn lists_of_who_is_in_no_room_are_empty_and_there() {
    let world = World::new(1);
    let mut client = Client::new(&user("new"));
    for _ in 0..2 {
        let answer = client.sync(&world, everything(1)).await;
        assert_eq!(answer["lists"], json!({"all": {"count": 0}}));
    }
}

#[tokio::test]
async fn a_forgotten_room_is_in_no_list_and_no_subscription() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    let left = world.create("left", &ann, Visibility::Shared);
    for room in [&room, &left] {
        world.member(room, &ben, &ben, "join");
    }
    let mut client = Client::new(&ben);
    client.sync(&world, everything(1)).await;
    world.member(&room, &ben, &ben, "leave");
    world.member(&left, &ben, &ben, "leave");
    let answer = client.sync(&world, everything(1)).await;
    assert_eq!(answer["lists"]["all"]["count"], 2);
    let forgotten = (ben.clone(), room.clone());
    world.users.forgotten.write().push(forgotten);
    world.say(&left, &ann, "forgetting is a record, as this is");
    let answer = client.sync(&world, everything(1)).await;
    assert_eq!(answer["lists"]["all"]["count"], 1);
    // Who was in a room may look at it again, unless they forgot it.
    let mut other = Client::new(&ben);
    other.device = "OTHER";
    let both = json!({"room_subscriptions": {
        room.as_str(): {"timeline_limit": 4}, left.as_str(): {"timeline_limit": 4},
    }});
    let answer = other.sync(&world, both).await;
    let told: Vec<_> = answer["rooms"].as_object().into_iter().flatten().collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, left.as_str());
}

/// After a crash the reader may have to catch up with what clients were told.
#[tokio::test]
async fn a_reader_that_is_behind_a_position_passes_over_nothing() {
    let mut world = World::new(1);
    let ann = user("ann");
    let room = world.create("room", &ann, Visibility::Shared);
    world.fold();
    let reached = world.sync.memory.read().cursors[0];
    let mut ahead = {
        let memory = world.sync.memory.read();
        world.sync.token(&memory, None, EphemeralOffset(0))
    };
    let said = world.say(&room, &ann, "not folded yet");
    world.say(&room, &ann, "nor this");
    ahead.vector[0].0 = reached + 2;
    let client = Client::new(&ann);
    let connections = &world.sync.sliding.connections;
    let key = ConnectionKey {
        user: ann.clone(),
        device: client.device.into(),
        conn_id: String::new(),
    };
    let opened = connections.open(world.sync.store.as_ref(), key, None);
    let opened = opened.expect("opens").expect("anew");
    let request = Arc::new(client.request(everything(10)));
    let mut round = Round::new(world.sync.clone(), request, opened, Some(ahead));
    let plan = round.plan().expect("a plan");
    let answer = round.build(plan).expect("an answer");
    let (_, sent) = answer.news.rooms[0];
    assert_eq!(sent.to, reached);
    round.pass(answer);
    world.fold();
    let plan = round.plan().expect("a plan");
    let answer = round.build(plan).expect("an answer");
    let answer = answer.into_json(&round.request, "pos").expect("JSON");
    assert!(answer.contains(said.as_str()), "{answer}");
}

#[tokio::test]
async fn without_a_name_or_an_alias_heroes_name_the_room() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    world.member(&room, &ben, &ben, "join");
    let alias = |alias: Value| (json!({ "alias": alias }), "m.room.canonical_alias");
    let (content, kind) = alias(json!("#tea:here"));
    world.state(&room, &ann, kind, "", content);
    let mut client = Client::new(&ann);
    let body = asks(1, json!([]));
    client.sync(&world, body.clone()).await;
    let (content, kind) = alias(json!(null));
    world.state(&room, &ann, kind, "", content);
    let answer = client.sync(&world, body).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(told["heroes"], json!([{"user_id": "@ben:here"}]));
    assert!(told.get("name").is_none());
}

#[tokio::test]
async fn who_wants_no_events_can_page_for_them() {
    let mut world = World::new(1);
    let ann = user("ann");
    let room = world.create("room", &ann, Visibility::Shared);
    let mut client = Client::new(&ann);
    for limited in [true, true, false] {
        let answer = client.sync(&world, asks(0, json!([["x.a", ""]]))).await;
        let told = &answer["rooms"][room.as_str()];
        assert_eq!(told["limited"] == true, limited, "{told}");
        assert_eq!(told["prev_batch"].is_string(), limited);
        assert!(told.get("timeline").is_none());
        if client.rooms[room.as_str()].state.is_empty() {
            world.state(&room, &ann, "x.a", "", json!({}));
        }
    }
}

#[tokio::test]
async fn a_room_without_proper_activity_is_as_new_as_the_join() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = ruma::RoomId::parse("!old:here").expect("a plain name");
    let history = How {
        fate: Fate::History,
        ..How::default()
    };
    world.send(&room, &ann, "m.room.create", Some(""), json!({}), history);
    world.member(&room, &ben, &ben, "join");
    let mut client = Client::new(&ben);
    client.sync(&world, everything(1)).await;
    assert!(client.rooms[room.as_str()].bump_stamp > 0);
}

/// Of more members who changed in a gap than are told there, lazy loading tells
/// anew, also where the answer goes back behind the gap.
#[tokio::test]
async fn lazy_loading_does_not_rely_on_members_who_changed_in_a_gap() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    world.member(&room, &ben, &ben, "join");
    let lazy = || json!([["m.room.member", "$LAZY"]]);
    let mut client = Client::new(&ann);
    client.sync(&world, asks(1, lazy())).await;
    let renamed = json!({"membership": "join", "displayname": "Benedict"});
    let renamed = world.state(&room, &ben, "m.room.member", ben.as_str(), renamed);
    for n in 0..101 {
        let other = user(&format!("u{n}"));
        world.member(&room, &other, &other, "join");
    }
    world.say(&room, &ben, "it is me");
    let answer = client.sync(&world, asks(2, lazy())).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(told["unstable_expanded_timeline"], Value::Null);
    assert!(ids(&told["required_state"]).contains(&renamed.as_str()));
}

/// What clients ask for by its type alone is found, and nothing else.
#[tokio::test]
async fn state_of_a_type_is_told_whole() {
    let mut world = World::new(1);
    let ann = user("ann");
    let room = world.create("room", &ann, Visibility::Shared);
    let mut wanted = Vec::new();
    for key in ["", "a", "b"] {
        wanted.push(world.state(&room, &ann, "m.call.member", key, json!({"k": key})));
        world.state(&room, &ann, "m.call.membership", key, json!({"k": key}));
    }
    wanted.insert(
        0,
        world.state(&room, &ann, "m.room.name", "", json!({"name": "n"})),
    );
    wanted.sort();
    let mut client = Client::new(&ann);
    let state = json!([["m.call.member", "*"], ["m.room.name", ""]]);
    let answer = client.sync(&world, asks(1, state)).await;
    let mut told = ids(&answer["rooms"][room.as_str()]["required_state"]);
    told.sort();
    assert_eq!(told, wanted);
}

/// What is told from outside replaces what the client knew of an earlier stay.
#[tokio::test]
async fn a_knock_that_ends_is_told_with_the_stay_before_it() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    let joined = world.member(&room, &ben, &ben, "join");
    let mut client = Client::new(&ben);
    client.sync(&world, everything(10)).await;
    world.member(&room, &ben, &ben, "leave");
    world.member(&room, &ben, &ben, "knock");
    let answer = client.sync(&world, everything(10)).await;
    assert_eq!(answer["rooms"][room.as_str()]["membership"], "knock");
    // Not by an event of their own: state resolution takes the knock away.
    let own = StateKey::new("m.room.member", ben.as_str());
    let how = How {
        resolves: vec![(own, None)],
        ..How::default()
    };
    let kind = "m.room.topic";
    world.send(&room, &ann, kind, Some(""), json!({"topic": "t"}), how);
    let answer = client.sync(&world, everything(10)).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(told["membership"], "leave");
    assert_eq!(told["initial"], true);
    assert!(ids(&told["timeline"]).contains(&joined.as_str()));
}

/// State that goes while a client wants less is told as gone when it wants it again.
#[tokio::test]
async fn state_that_was_removed_unseen_is_told_when_it_is_wanted_again() {
    let mut world = World::new(1);
    let ann = user("ann");
    let room = world.create("room", &ann, Visibility::Shared);
    world.state(&room, &ann, "x.any", "", json!({}));
    let mut client = Client::new(&ann);
    client.dialect = Dialect::Accepted;
    let key = ("x.any".to_owned(), String::new());
    client.sync(&world, everything(10)).await;
    assert!(client.rooms[room.as_str()].state.contains_key(&key));
    let how = How {
        resolves: vec![(StateKey::new("x.any", ""), None)],
        ..How::default()
    };
    let kind = "m.room.topic";
    world.send(&room, &ann, kind, Some(""), json!({"topic": "t"}), how);
    client
        .sync(&world, asks(10, json!([["m.room.topic", ""]])))
        .await;
    assert!(client.rooms[room.as_str()].state.contains_key(&key));
    client.sync(&world, everything(10)).await;
    assert!(!client.rooms[room.as_str()].state.contains_key(&key));
    let answer = client.sync(&world, everything(10)).await;
    assert_eq!(answer["rooms"], json!({}));
}

/// A client that is told to start over starts over: not where that ends the same.
#[tokio::test]
async fn a_request_that_no_connection_could_keep_is_refused() {
    let mut world = World::new(1);
    let ann = user("ann");
    let long = |name: &str| json!([[name, "x".repeat(100_000)]]);
    let mut body = asks(1, long("list"));
    for name in ["a", "b", "c", "d"] {
        let room = world.create(name, &ann, Visibility::Shared);
        body["room_subscriptions"][room.as_str()] =
            json!({"timeline_limit": 1, "required_state": long(name)});
    }
    let client = Client::new(&ann);
    let refused = client.ask(&world, body).await;
    assert!(matches!(refused, Err(SyncError::TooManyRules)));
}
