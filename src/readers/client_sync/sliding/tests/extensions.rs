//! Extensions.

use log_format::record::input::ReceiptType;
use log_format::record::output::Visibility;
use serde_json::json;

use super::client::{Client, everything};
use crate::readers::client_sync::tests::world::{World, user};

#[tokio::test]
async fn account_data_is_told_with_its_room_and_as_it_changes() {
    let mut world = World::new(2);
    let ann = user("ann");
    let one = world.create("one", &ann, Visibility::Shared);
    let two = world.create("two", &ann, Visibility::Shared);
    world.set_data(&ann, None, "x.global", json!({"a": 1}));
    world.set_data(&ann, Some(&one), "m.tag", json!({"tags": {"u.work": {}}}));
    world.set_data(&ann, Some(&two), "x.room", json!({"b": 1}));
    let with = |body: serde_json::Value| {
        let mut body = body;
        body["extensions"] = json!({"account_data": {"enabled": true}});
        body
    };
    let narrow = json!({"lists": {"a": {"ranges": [[0, 0]], "timeline_limit": 1}}});
    let mut client = Client::new(&ann);
    let answer = client.sync(&world, with(narrow.clone())).await;
    let told = &answer["extensions"]["account_data"];
    let kinds: Vec<_> = told["global"].as_array().into_iter().flatten().collect();
    assert_eq!(kinds.len(), 2, "push rules and ours");
    assert_eq!(
        told["rooms"],
        json!({two.as_str(): [{"type": "x.room", "content": {"b": 1}}]})
    );
    let answer = client.sync(&world, with(narrow.clone())).await;
    assert_eq!(answer["extensions"], json!({}));
    let answer = client.sync(&world, with(everything(1))).await;
    let told = &answer["extensions"]["account_data"];
    assert_eq!(told["rooms"][one.as_str()][0]["type"], "m.tag");
    // Also of a room that no list shows at the moment: it was told of.
    world.set_data(&ann, Some(&one), "m.tag", json!({"tags": {}}));
    world.set_data(&ann, None, "x.global", json!({"a": 2}));
    let answer = client.sync(&world, with(narrow)).await;
    let told = &answer["extensions"]["account_data"];
    assert_eq!(
        told["rooms"][one.as_str()][0]["content"],
        json!({"tags": {}})
    );
    assert_eq!(
        told["global"],
        json!([{"type": "x.global", "content": {"a": 2}}])
    );
    // Enabled late, it tells of all that the client knows.
    let mut late = Client::new(&ann);
    late.device = "LATE";
    let answer = late.sync(&world, everything(1)).await;
    assert_eq!(answer["extensions"], json!({}));
    let answer = late.sync(&world, with(everything(1))).await;
    let told = &answer["extensions"]["account_data"];
    assert_eq!(told["rooms"].as_object().map(serde_json::Map::len), Some(2));
    assert_eq!(told["global"].as_array().map(Vec::len), Some(2));
    // And over a restart it tells on from there.
    world.set_data(&ann, None, "x.global", json!({"a": 3}));
    world.restart(false);
    let answer = late.sync(&world, with(everything(1))).await;
    let told = &answer["extensions"]["account_data"];
    assert_eq!(
        told["global"],
        json!([{"type": "x.global", "content": {"a": 3}}])
    );
    assert_eq!(told["rooms"], json!({}));
}

#[tokio::test]
async fn direct_chats_and_tags_sort_rooms_into_lists() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let one = world.create("one", &ann, Visibility::Shared);
    let two = world.create("two", &ann, Visibility::Shared);
    let lists = json!({"lists": {
        "direct": {"timeline_limit": 1, "filters": {"is_dm": true}},
        "work": {"timeline_limit": 1, "filters": {"tags": ["u.work"]}},
        "all": {"timeline_limit": 1},
    }});
    let mut client = Client::new(&ann);
    let answer = client.sync(&world, lists.clone()).await;
    let counts = |answer: &serde_json::Value| {
        ["direct", "work", "all"].map(|list| answer["lists"][list]["count"].as_u64())
    };
    assert_eq!(counts(&answer), [Some(0), Some(0), Some(2)]);
    world.set_data(
        &ann,
        None,
        "m.direct",
        json!({ben.as_str(): [one.as_str(), "nonsense"]}),
    );
    world.set_data(
        &ann,
        Some(&two),
        "m.tag",
        json!({"tags": {"u.work": {"order": 0.5}}}),
    );
    let answer = client.sync(&world, lists.clone()).await;
    assert_eq!(counts(&answer), [Some(1), Some(1), Some(2)]);
    let told = &answer["rooms"][one.as_str()];
    assert_eq!(told["is_dm"], true);
    assert_eq!(told["lists"], json!(["all", "direct"]));
    assert!(
        answer["rooms"].get(two.as_str()).is_none(),
        "nothing of it changed"
    );
    world.set_data(&ann, None, "m.direct", json!({}));
    let answer = client.sync(&world, lists).await;
    assert_eq!(counts(&answer), [Some(0), Some(1), Some(2)]);
    assert_eq!(answer["rooms"][one.as_str()]["is_dm"], false);
}

#[tokio::test]
async fn a_space_is_a_list_of_its_children() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let one = world.create("one", &ann, Visibility::Shared);
    world.create("two", &ann, Visibility::Shared);
    let space = world.create("space", &ann, Visibility::Shared);
    let hidden = world.create("hidden", &ben, Visibility::Shared);
    let via = json!({"via": ["here"]});
    world.state(&space, &ann, "m.space.child", one.as_str(), via.clone());
    world.state(&space, &ann, "m.space.child", "!two:here", json!({}));
    world.state(&hidden, &ben, "m.space.child", "!two:here", via.clone());
    let list = json!({"lists": {"s": {
        "timeline_limit": 1, "filters": {"spaces": [space.as_str(), hidden.as_str()]},
    }}});
    let mut client = Client::new(&ann);
    let answer = client.sync(&world, list.clone()).await;
    let rooms: Vec<_> = answer["rooms"].as_object().into_iter().flatten().collect();
    assert_eq!((rooms.len(), rooms[0].0.as_str()), (1, one.as_str()));
    world.state(&space, &ann, "m.space.child", "!two:here", via);
    let answer = client.sync(&world, list).await;
    assert_eq!(answer["lists"]["s"]["count"], 2);
    assert!(answer["rooms"].get("!two:here").is_some());
}

#[tokio::test]
async fn receipts_are_told_of_the_rooms_that_they_are_asked_for() {
    let mut world = World::new(2);
    let (ann, ben, cid) = (user("ann"), user("ben"), user("cid"));
    let one = world.create("one", &ann, Visibility::Shared);
    let two = world.create("two", &ann, Visibility::Shared);
    for room in [&one, &two] {
        world.member(room, &ben, &ben, "join");
        world.member(room, &cid, &cid, "join");
    }
    let first = world.say(&one, &ann, "1");
    world.read(&one, &ben, &first, ReceiptType::Read, None);
    world.read(&one, &cid, &first, ReceiptType::ReadPrivate, None);
    world.read(&one, &ann, &first, ReceiptType::ReadPrivate, Some("main"));
    let with = |mut body: serde_json::Value, scope: serde_json::Value| {
        body["extensions"] = json!({"receipts": scope});
        body
    };
    let all = json!({"enabled": true});
    let mut client = Client::new(&ann);
    let answer = client.sync(&world, with(everything(1), all.clone())).await;
    let told = |answer: &serde_json::Value| answer["extensions"]["receipts"]["rooms"].clone();
    // The room's, and the own private one; nobody else's.
    let expected = json!({one.as_str(): {"type": "m.receipt", "content": {first.as_str(): {
        "m.read": {ben.as_str(): {"ts": 0}},
        "m.read.private": {ann.as_str(): {"ts": 0, "thread_id": "main"}},
    }}}});
    assert_eq!(told(&answer), expected);
    // Once, and what changes as it does, whether or not the room has other news.
    let answer = client.sync(&world, with(everything(1), all.clone())).await;
    assert_eq!(answer["extensions"], json!({}));
    world.read(&two, &ben, &first, ReceiptType::Read, None);
    let answer = client.sync(&world, with(everything(1), all.clone())).await;
    assert_eq!(answer["rooms"], json!({}));
    assert_eq!(told(&answer).as_object().map(serde_json::Map::len), Some(1));
    // Of a private one nobody else hears.
    world.read(&two, &cid, &first, ReceiptType::ReadPrivate, None);
    let answer = client.sync(&world, with(everything(1), all.clone())).await;
    assert_eq!(answer["extensions"], json!({}));
    // Out of scope nothing is told, and nothing is missed for it.
    let second = world.say(&one, &ann, "2");
    world.read(&one, &ben, &second, ReceiptType::Read, None);
    let none = json!({"enabled": true, "lists": [], "rooms": []});
    let answer = client.sync(&world, with(everything(1), none)).await;
    assert_eq!(answer["extensions"], json!({}));
    let mut subscribed = everything(1);
    subscribed["room_subscriptions"] = json!({one.as_str(): {"timeline_limit": 1}});
    let by_room = json!({"enabled": true, "lists": [], "rooms": ["*"]});
    let lost = client.ask(&world, with(subscribed.clone(), by_room.clone()));
    let lost = lost.await.expect("an answer");
    assert_eq!(
        told(&lost)[one.as_str()]["content"][second.as_str()]["m.read"][ben.as_str()],
        json!({"ts": 0})
    );
    // What a lost answer told is told again, and over a restart.
    world.restart(false);
    let answer = client.sync(&world, with(subscribed, by_room)).await;
    assert_eq!(told(&answer), told(&lost));
    // Who is gone is told no more.
    world.member(&one, &ben, &ann, "leave");
    let third = world.say(&one, &ben, "3");
    world.read(&one, &ben, &third, ReceiptType::Read, None);
    let answer = client.sync(&world, with(everything(1), all)).await;
    assert_eq!(answer["rooms"][one.as_str()]["membership"], "leave");
    assert_eq!(answer["extensions"], json!({}));
}

#[tokio::test]
async fn what_encryption_needs_is_answered_with_nothing() {
    let world = World::new(1);
    let client = Client::new(&user("ann"));
    let asks = json!({"extensions": {
        "to_device": {"enabled": true, "since": "7"}, "e2ee": {"enabled": true},
        "x.unknown": {"enabled": true},
    }});
    let answer = client.ask(&world, asks).await.expect("an answer");
    let expected = json!({
        "to_device": {"next_batch": "7", "events": []},
        "e2ee": {
            "device_lists": {"changed": [], "left": []}, "device_one_time_keys_count": {},
        },
    });
    assert_eq!(answer["extensions"], expected);
}
