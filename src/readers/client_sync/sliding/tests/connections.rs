//! Positions: what counts as told, and for how long it is remembered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log_format::record::output::Visibility;
use serde_json::json;

use super::client::{Client, everything, ids};
use crate::readers::client_sync::SyncError;
use crate::readers::client_sync::tests::world::{World, user};

#[tokio::test]
async fn a_lost_answer_is_given_again_whole() {
    let mut world = World::new(1);
    let ann = user("ann");
    let room = world.create("room", &ann, Visibility::Shared);
    let mut client = Client::new(&ann);
    let first = client.sync(&world, everything(10)).await;
    let one = world.say(&room, &ann, "one");
    let lost = client.ask(&world, everything(10)).await.expect("an answer");
    let two = world.say(&room, &ann, "two");
    let answer = client.sync(&world, everything(10)).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(ids(&told["timeline"]), [one.as_str(), two.as_str()]);
    // The position of the lost answer is good for nothing, as is an old one.
    client.sync(&world, everything(10)).await;
    world.say(&room, &ann, "three");
    client.sync(&world, everything(10)).await;
    let current = client.pos.clone();
    for old in [
        &lost["pos"],
        &first["pos"],
        &json!("x1_1_s1_AAAA"),
        &json!("nonsense"),
    ] {
        client.pos = old.as_str().map(str::to_owned);
        let refused = client.ask(&world, everything(10)).await;
        assert!(matches!(refused, Err(SyncError::UnknownPosition)), "{old}");
    }
    // Nor is it good for another device, another connection, another user.
    client.pos = current;
    client.device = "OTHER";
    let refused = client.ask(&world, everything(10)).await;
    assert!(matches!(refused, Err(SyncError::UnknownPosition)));
    client.device = "DEVICE";
    let mut other = everything(10);
    other["conn_id"] = json!("other");
    let refused = client.ask(&world, other).await;
    assert!(matches!(refused, Err(SyncError::UnknownPosition)));
    assert!(client.ask(&world, everything(10)).await.is_ok());
    client.user = user("ben");
    let refused = client.ask(&world, everything(10)).await;
    assert!(matches!(refused, Err(SyncError::UnknownPosition)));
}

#[tokio::test]
async fn a_restart_changes_nothing_and_a_rebuild_starts_over() {
    let mut world = World::new(3);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    world.create("quiet", &ann, Visibility::Shared);
    world.member(&room, &ben, &ben, "join");
    let mut client = Client::new(&ann);
    let asks = json!({"lists": {"a": {
        "ranges": [[0, 9]], "timeline_limit": 5,
        "required_state": [["m.room.topic", ""], ["m.room.member", "$LAZY"]],
    }}});
    client.sync(&world, asks.clone()).await;
    for round in 0..4 {
        let topic = world.state(&room, &ben, "m.room.topic", "", json!({"topic": round}));
        if round % 2 == 0 {
            // Also an answer that was given and not confirmed.
            client.ask(&world, asks.clone()).await.expect("an answer");
        }
        world.restart(false);
        let answer = client.sync(&world, asks.clone()).await;
        let rooms = answer["rooms"].as_object().expect("rooms");
        assert_eq!(rooms.len(), 1);
        let told = &answer["rooms"][room.as_str()];
        assert_eq!(ids(&told["timeline"]), [topic.as_str()]);
        assert!(ids(&told["required_state"]).contains(&topic.as_str()));
        world.restart(false);
        let answer = client.sync(&world, asks.clone()).await;
        assert_eq!(answer["rooms"], json!({}));
    }
    world.restart(true);
    let refused = client.ask(&world, asks.clone()).await;
    assert!(matches!(refused, Err(SyncError::UnknownPosition)));
}

#[tokio::test]
async fn the_oldest_connection_of_a_device_goes_first() {
    let mut world = World::new(1);
    let ann = user("ann");
    world.create("room", &ann, Visibility::Shared);
    let asks = |name: usize| {
        let mut asks = everything(1);
        asks["conn_id"] = json!(name.to_string());
        asks
    };
    let mut clients: Vec<Client> = (0..17).map(|_| Client::new(&ann)).collect();
    for (name, client) in clients.iter_mut().enumerate() {
        client.sync(&world, asks(name)).await;
    }
    assert_eq!(world.sync.sliding_connections(), 16);
    assert!(clients[0].ask(&world, asks(0)).await.is_err());
    for restarted in [false, true] {
        if restarted {
            world.restart(false);
        }
        assert_eq!(world.sync.sliding_connections(), 16);
        assert!(clients[1].ask(&world, asks(1)).await.is_ok());
    }
}

#[tokio::test]
async fn a_request_waits_for_what_concerns_its_lists() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    let chat = world.create("chat", &ann, Visibility::Shared);
    let space = json!({"type": "m.space"});
    let space_room = ruma::RoomId::parse("!space:here").expect("a plain name");
    world.state(&space_room, &ann, "m.room.create", "", space);
    world.member(&space_room, &ann, &ann, "join");
    let body = json!({"timeout": 10_000, "lists": {"a": {
        "timeline_limit": 1, "filters": {"room_types": ["m.space"]},
    }}});
    let mut client = Client::new(&ann);
    let answer = client.sync(&world, body.clone()).await;
    assert_eq!(answer["lists"]["a"]["count"], 1);
    let waiting = {
        let (sync, request) = (world.sync.clone(), client.request(body));
        tokio::spawn(async move { sync.sliding_sync(request).await })
    };
    let sync = world.sync.clone();
    let until = |count: usize| {
        let sync = sync.clone();
        async move {
            while sync.waiting() != count {
                tokio::task::yield_now().await;
            }
        }
    };
    until(1).await;
    world.say(&room, &ben, "no space");
    world.say(&chat, &ben, "no space");
    world.fold();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.sync.waiting(), 1);
    let said = world.say(&space_room, &ben, "this is one");
    world.fold();
    let begun = Instant::now();
    let answer = waiting.await.expect("no panic").expect("an answer");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(
        ids(&answer["rooms"]["!space:here"]["timeline"]),
        [said.as_str()]
    );
    client.believe(&answer);
    // One that a later request of the connection replaces ends, and tells nothing.
    let body = json!({"timeout": 10_000, "lists": {"a": {"timeline_limit": 1}}});
    client.sync(&world, body.clone()).await;
    let (first, second) = (client.request(body.clone()), client.request(body));
    let first = tokio::spawn({
        let sync: Arc<_> = sync.clone();
        async move { sync.sliding_sync(first).await }
    });
    until(1).await;
    let second = tokio::spawn({
        let sync = sync.clone();
        async move { sync.sliding_sync(second).await }
    });
    until(2).await;
    world.say(&room, &ben, "hello");
    world.fold();
    let first: serde_json::Value =
        serde_json::from_str(&first.await.expect("no panic").expect("an answer")).expect("JSON");
    assert_eq!(first["rooms"], json!({}));
    assert_eq!(first["pos"], json!(client.pos));
    let second: serde_json::Value =
        serde_json::from_str(&second.await.expect("no panic").expect("an answer")).expect("JSON");
    assert!(second["rooms"].get(room.as_str()).is_some());
    client.believe(&second);
    assert!(client.ask(&world, everything(1)).await.is_ok());
}
