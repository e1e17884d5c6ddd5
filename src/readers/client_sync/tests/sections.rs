//! The sections of an answer, one rule of the specification at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log_format::record::output::Visibility;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::fake_rooms::How;
use super::world::{World, ids, request, user};
use crate::logs::log::Log;
use crate::query::ids::OutputOffset;
use crate::query::tokens::{Epoch, SyncToken};
use crate::readers::client_sync::{StateSection, SyncError};
use crate::readers::run::Reader;
use crate::storage::open::{Store, StoreOptions};

#[tokio::test]
async fn a_first_sync_tells_the_timeline_and_the_state_before_it() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    let topic = world.state(&room, &ann, "m.room.topic", "", json!({"topic": "a"}));
    world.member(&room, &ben, &ben, "join");
    let one = world.say(&room, &ben, "one");
    let two = world.say(&room, &ben, "two");
    let filter = json!({"room": {"timeline": {"limit": 2}}});
    let answer = world.synced(&ann, None, filter).await;
    let told = &answer["rooms"]["join"][room.as_str()];
    assert_eq!(
        ids(&told["timeline"]["events"]),
        [one.as_str(), two.as_str()]
    );
    assert_eq!(told["timeline"]["limited"], true);
    assert!(told["timeline"]["prev_batch"].is_string());
    let state = ids(&told["state"]["events"]);
    assert_eq!(state.len(), 5);
    assert!(state.contains(&topic.to_string()));
    assert_eq!(told["unread_notifications"]["notification_count"], 2);
    assert_eq!(told["summary"]["m.heroes"], json!(["@ben:here"]));
    let pushed = &answer["account_data"]["events"][0];
    assert_eq!(pushed["type"], "m.push_rules");
    assert!(pushed["content"]["global"]["underride"].is_array());
}

#[tokio::test]
async fn ones_own_new_name_does_not_change_the_summary() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    world.member(&room, &ben, &ben, "join");
    let nothing = json!({"types": []});
    let filter = json!({"room": {"timeline": nothing, "state": nothing}});
    let first = world.synced(&ann, None, filter.clone()).await;
    let named = json!({"membership": "join", "displayname": "Ann"});
    world.state(&room, &ann, "m.room.member", ann.as_str(), named);
    let next = world
        .synced(&ann, first["next_batch"].as_str(), filter.clone())
        .await;
    assert_eq!(next["rooms"]["join"], json!({}));
    world.member(&room, &ben, &ben, "leave");
    let next = world
        .synced(&ann, next["next_batch"].as_str(), filter)
        .await;
    let told = &next["rooms"]["join"][room.as_str()];
    assert_eq!(told["summary"]["m.joined_member_count"], 1);
}

#[tokio::test]
async fn a_stay_between_two_syncs_is_told_as_a_room_left() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let first = world.synced(&ben, None, json!({})).await;
    let room = world.create("room", &ann, Visibility::Shared);
    world.member(&room, &ben, &ben, "join");
    world.member(&room, &ann, &ben, "ban");
    // A room that is open to the world by then is not read on in a left section,
    // although a later ban makes the section reach further.
    let open = json!({"history_visibility": "world_readable"});
    world.state(&room, &ann, "m.room.history_visibility", "", open);
    world.say(&room, &ann, "not for ben");
    world.member(&room, &ann, &ben, "ban");
    let since = first["next_batch"].as_str();
    let answer = world.synced(&ben, since, json!({})).await;
    let told = &answer["rooms"]["leave"][room.as_str()];
    let events = ids(&told["timeline"]["events"]);
    assert_eq!(events, ["$e1", "$e2", "$e3", "$e4", "$e5", "$e8"]);
    assert_eq!(told["state"]["events"], json!([]));
    assert_eq!(told["timeline"]["limited"], false);
    // A client that knew the room before is told no state from behind its stay either.
    let cid = user("cid");
    world.member(&room, &cid, &cid, "join");
    let knew = world.synced(&cid, None, json!({})).await;
    let left = world.member(&room, &cid, &cid, "leave");
    world.state(&room, &ann, "m.room.topic", "", json!({"topic": "secret"}));
    let banned = world.member(&room, &ann, &cid, "ban");
    for after in [false, true] {
        let mut asks = request(&cid, knew["next_batch"].as_str(), json!({}));
        asks.state_section = StateSection::of(after);
        world.fold();
        let answer = world.ask(asks).await.expect("an answer");
        let told = &answer["rooms"]["leave"][room.as_str()];
        assert_eq!(
            ids(&told["timeline"]["events"]),
            [left.as_str(), banned.as_str()]
        );
        assert!(!answer.to_string().contains("secret"));
    }
}

#[tokio::test]
async fn an_invite_shows_stripped_state_and_its_rejection_nothing_else() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    world.state(&room, &ann, "m.room.name", "", json!({"name": "Tea"}));
    world.state(&room, &ann, "m.room.topic", "", json!({"topic": "t"}));
    world.state(&room, &ann, "x.secret", "", json!({"a": 1}));
    world.member(&room, &ann, &ben, "invite");
    let answer = world.synced(&ben, None, json!({})).await;
    let told = &answer["rooms"]["invite"][room.as_str()]["invite_state"]["events"];
    let kinds: Vec<_> = told
        .as_array()
        .into_iter()
        .flatten()
        .map(|e| &e["type"])
        .collect();
    assert_eq!(
        kinds,
        [
            "m.room.create",
            "m.room.name",
            "m.room.topic",
            "m.room.member",
            "m.room.member"
        ]
    );
    assert!(told[0].get("event_id").is_none());
    let reject = world.member(&room, &ben, &ben, "leave");
    let since = answer["next_batch"].as_str();
    let answer = world.synced(&ben, since, json!({})).await;
    let told = &answer["rooms"]["leave"][room.as_str()];
    assert_eq!(ids(&told["timeline"]["events"]), [reject.as_str()]);
    assert_eq!(told["state"]["events"], json!([]));
    // Left rooms come again only for a first sync that asks, and never once forgotten.
    let none = world.synced(&ben, None, json!({})).await;
    assert_eq!(none["rooms"]["leave"], json!({}));
    let filter = json!({"room": {"include_leave": true}});
    let asked = world.synced(&ben, None, filter.clone()).await;
    assert!(asked["rooms"]["leave"].get(room.as_str()).is_some());
    world.users.forgotten.write().push((ben.clone(), room));
    let forgot = world.synced(&ben, None, filter).await;
    assert_eq!(forgot["rooms"]["leave"], json!({}));
}

#[tokio::test]
async fn unsigned_tells_each_device_what_is_its_own() {
    let mut world = World::new(1);
    let ann = user("ann");
    let room = world.create("room", &ann, Visibility::Shared);
    world.state(&room, &ann, "m.room.topic", "", json!({"topic": "old"}));
    let first = world.synced(&ann, None, json!({})).await;
    let how = How {
        transaction: Some(("DEVICE".into(), "t1".to_owned())),
        ..How::default()
    };
    world.send(
        &room,
        &ann,
        "m.room.message",
        None,
        json!({"body": "x"}),
        how,
    );
    world.state(&room, &ann, "m.room.topic", "", json!({"topic": "new"}));
    let since = first["next_batch"].as_str();
    let answer = world.synced(&ann, since, json!({})).await;
    let events = &answer["rooms"]["join"][room.as_str()]["timeline"]["events"];
    assert_eq!(events[0]["unsigned"]["transaction_id"], "t1");
    assert_eq!(events[0]["unsigned"]["membership"], "join");
    assert_eq!(
        events[1]["unsigned"]["prev_content"],
        json!({"topic": "old"})
    );
    assert_eq!(events[1]["unsigned"]["replaces_state"], "$e4");
    assert!(events[0].get("room_id").is_none());
    let mut other = request(&ann, since, json!({}));
    other.device = "OTHER".into();
    let answer = world.ask(other).await.expect("an answer");
    let events = &answer["rooms"]["join"][room.as_str()]["timeline"]["events"];
    assert!(events[0]["unsigned"].get("transaction_id").is_none());
}

#[tokio::test]
async fn filters_choose_rooms_types_and_fields() {
    let mut world = World::new(2);
    let ann = user("ann");
    let one = world.create("one", &ann, Visibility::Shared);
    let two = world.create("two", &ann, Visibility::Shared);
    world.say(&one, &ann, "hello");
    let filter = json!({
        "event_fields": ["type", "content.body"],
        "room": {"not_rooms": [two], "timeline": {"types": ["m.room.mess*"]}, "state": {"types": []}},
        "account_data": {"types": []},
    });
    let answer = world.synced(&ann, None, filter).await;
    let rooms = answer["rooms"]["join"].as_object().expect("rooms");
    assert_eq!(rooms.len(), 1);
    let told = &rooms[one.as_str()];
    let hello = json!([{"type": "m.room.message", "content": {"body": "hello"}}]);
    assert_eq!(told["timeline"]["events"], hello);
    assert_eq!(told["state"]["events"], json!([]));
    assert!(answer.get("account_data").is_none());
}

#[tokio::test]
async fn lazy_loading_sends_members_once_and_again_after_a_lost_answer() {
    let mut world = World::new(1);
    let (ann, ben, cid) = (user("ann"), user("ben"), user("cid"));
    let room = world.create("room", &ann, Visibility::Shared);
    world.state(&room, &ann, "m.room.name", "", json!({"name": "n"}));
    world.member(&room, &ben, &ben, "join");
    world.member(&room, &cid, &cid, "join");
    world.say(&room, &ben, "one");
    let filter = json!({"room": {
        "timeline": {"limit": 1},
        "state": {"lazy_load_members": true, "types": ["m.room.member"]},
    }});
    let members = |answer: &serde_json::Value| {
        let told = &answer["rooms"]["join"][room.as_str()]["state"]["events"];
        let keys = told.as_array().into_iter().flatten();
        keys.map(|e| e["state_key"].as_str().unwrap_or("").to_owned())
            .collect::<Vec<_>>()
    };
    let first = world.synced(&ann, None, filter.clone()).await;
    assert_eq!(members(&first), [ann.as_str(), ben.as_str()]);
    world.say(&room, &ben, "two");
    let since = first["next_batch"].as_str();
    let second = world.synced(&ann, since, filter.clone()).await;
    assert_eq!(members(&second), Vec::<String>::new());
    // The second answer was lost: the same token is told of the sender anew.
    let again = world.synced(&ann, since, filter.clone()).await;
    assert_eq!(members(&again), [ben.as_str()]);
    // A change in the gap is told although it says nothing about a sender.
    world.state(
        &room,
        &cid,
        "m.room.member",
        cid.as_str(),
        json!({"membership": "join", "displayname": "C"}),
    );
    world.say(&room, &ben, "three");
    let third = world
        .synced(&ann, again["next_batch"].as_str(), filter)
        .await;
    assert_eq!(members(&third), [cid.as_str()]);
}

#[tokio::test]
async fn account_data_comes_as_it_changes() {
    let mut world = World::new(3);
    let ann = user("ann");
    let room = world.create("room", &ann, Visibility::Shared);
    world.set_data(&ann, None, "x.a", json!({"n": 1}));
    world.set_data(&ann, Some(&room), "m.tag", json!({"tags": {}}));
    let first = world.synced(&ann, None, json!({})).await;
    let kinds = |events: &serde_json::Value| {
        let events = events.as_array().into_iter().flatten();
        events
            .map(|e| e["type"].as_str().unwrap_or("").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        kinds(&first["account_data"]["events"]),
        ["m.push_rules", "x.a"]
    );
    let of_room = |answer: &serde_json::Value| {
        kinds(&answer["rooms"]["join"][room.as_str()]["account_data"]["events"])
    };
    assert_eq!(of_room(&first), ["m.tag"]);
    world.set_data(&ann, Some(&room), "m.tag", json!({"tags": {"u": {}}}));
    world.fold();
    world.restart(true);
    let second = world
        .synced(&ann, first["next_batch"].as_str(), json!({}))
        .await;
    assert!(second.get("account_data").is_none());
    assert_eq!(of_room(&second), ["m.tag"]);
    let third = world
        .synced(&ann, second["next_batch"].as_str(), json!({}))
        .await;
    assert_eq!(third["rooms"]["join"], json!({}));
}

#[tokio::test]
async fn tokens_are_judged_before_they_are_used() {
    let mut world = World::new(2);
    let ann = user("ann");
    let room = world.create("room", &ann, Visibility::Shared);
    world.fold();
    let refused = world
        .ask(request(&ann, Some("s72594_4483_1934"), json!({})))
        .await;
    assert!(matches!(refused, Err(SyncError::Token(_))));
    let token = |epoch, vector: [u64; 2]| {
        let vector = vector.map(OutputOffset).into();
        let (epoch, boot) = (Epoch(epoch), 9);
        SyncToken {
            epoch,
            vector,
            to_device: 0,
            ephemeral: 5,
            boot,
        }
        .encode()
    };
    // Of another epoch, or of offsets that never were: everything anew.
    for stale in [token(2, [0, 0]), token(1, [1_000, 0])] {
        let answer = world.synced(&ann, Some(&stale), json!({})).await;
        assert!(answer["rooms"]["join"].get(room.as_str()).is_some());
        assert_eq!(answer["account_data"]["events"][0]["type"], "m.push_rules");
    }
}

#[tokio::test]
async fn unread_counts_end_at_the_users_own_event() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    world.member(&room, &ben, &ben, "join");
    let mut since: Option<String> = None;
    for (sender, text, expected) in [
        (&ben, "one", (1, 0)),
        (&ben, "hey ann", (2, 1)),
        (&ann, "yes", (0, 0)),
        (&ben, "two", (1, 0)),
    ] {
        let content = json!({"msgtype": "m.text", "body": text, "m.mentions": {"user_ids": if text.contains("ann") { vec![&ann] } else { vec![] }}});
        world.send(
            &room,
            sender,
            "m.room.message",
            None,
            content,
            How::default(),
        );
        let answer = world.synced(&ann, since.as_deref(), json!({})).await;
        let counts = &answer["rooms"]["join"][room.as_str()]["unread_notifications"];
        assert_eq!(counts["notification_count"], expected.0, "{text}");
        assert_eq!(counts["highlight_count"], expected.1, "{text}");
        since = answer["next_batch"].as_str().map(str::to_owned);
    }
}

#[tokio::test]
async fn the_whole_room_is_called_by_who_has_the_power() {
    let mut world = World::new(1);
    let (ann, ben, cid) = (user("ann"), user("ben"), user("cid"));
    let room = world.create("room", &ann, Visibility::Shared);
    world.member(&room, &ben, &ben, "join");
    world.member(&room, &cid, &cid, "join");
    let levels = json!({"users": {&ann: 100, &ben: 10}, "notifications": {"room": 10}});
    world.state(&room, &ann, "m.room.power_levels", "", levels);
    let call = |world: &mut World, sender| {
        let content = json!({"msgtype": "m.text", "body": "x", "m.mentions": {"room": true}});
        let kind = "m.room.message";
        world.send(&room, sender, kind, None, content, How::default());
    };
    let highlights = async |world: &World| {
        let answer = world.synced(&ann, None, json!({})).await;
        let counts = &answer["rooms"]["join"][room.as_str()]["unread_notifications"];
        counts["highlight_count"].as_u64().expect("a number")
    };
    call(&mut world, &cid);
    assert_eq!(highlights(&world).await, 0);
    call(&mut world, &ben);
    assert_eq!(highlights(&world).await, 1);
}

/// Runs the reader as the server does.
fn follow(world: &World) -> CancellationToken {
    let stop = CancellationToken::new();
    let reader: Arc<dyn Reader> = world.sync.clone();
    let log: Arc<dyn Log> = world.log.clone();
    crate::readers::run::spawn(&reader, &log, &stop);
    stop
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_wakes_for_what_concerns_it_alone() {
    let mut world = World::new(2);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    let other = world.create("other", &ben, Visibility::Shared);
    let first = world.synced(&ann, None, json!({})).await;
    let stop = follow(&world);
    let mut waits = request(&ann, first["next_batch"].as_str(), json!({}));
    waits.timeout = Duration::from_secs(30);
    let sync = world.sync.clone();
    let poll = tokio::spawn(async move { sync.sync(waits).await });
    while world.sync.waiting() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.say(&other, &ben, "elsewhere");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!poll.is_finished());
    let sent = Instant::now();
    let hello = world.say(&room, &ben, "here");
    let answer = poll.await.expect("no panic").expect("an answer");
    let woken = sent.elapsed();
    assert!(woken < Duration::from_millis(500), "{woken:?}");
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    let events = &answer["rooms"]["join"][room.as_str()]["timeline"]["events"];
    assert_eq!(ids(events), [hello.as_str()]);
    assert_eq!(world.sync.waiting(), 0);
    // Nothing comes: the timeout ends the wait, with a token to go on from.
    let mut waits = request(&ann, answer["next_batch"].as_str(), json!({}));
    waits.timeout = Duration::from_millis(20);
    let empty = world.ask(waits).await.expect("an answer");
    assert_eq!(empty["rooms"]["join"], json!({}));
    // The server stops: whoever waits is let go at once.
    let mut waits = request(&ann, empty["next_batch"].as_str(), json!({}));
    waits.timeout = Duration::from_secs(30);
    let sync = world.sync.clone();
    let poll = tokio::spawn(async move { sync.sync(waits).await });
    while world.sync.waiting() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.sync.release();
    let released = tokio::time::timeout(Duration::from_secs(5), poll).await;
    assert!(released.expect("let go").expect("no panic").is_ok());
    stop.cancel();
}

#[tokio::test]
async fn a_write_is_seen_by_the_next_read() {
    let mut world = World::new(1);
    let ann = user("ann");
    let room = world.create("room", &ann, Visibility::Shared);
    let first = world.synced(&ann, None, json!({})).await;
    let stop = follow(&world);
    for _ in 0..20 {
        let said = world.say(&room, &ann, "mine");
        let answer = world
            .ask(request(&ann, first["next_batch"].as_str(), json!({})))
            .await;
        let answer = answer.expect("an answer");
        let events = &answer["rooms"]["join"][room.as_str()]["timeline"]["events"];
        assert_eq!(ids(events).last(), Some(&said.to_string()));
    }
    stop.cancel();
}

#[tokio::test]
async fn nothing_new_in_a_thousand_rooms_costs_next_to_nothing() {
    let mut world = World::new(1);
    let ann = user("ann");
    for index in 0..1_000 {
        world.create(&format!("r{index}"), &ann, Visibility::Shared);
    }
    let first = world.synced(&ann, None, json!({})).await;
    assert_eq!(
        first["rooms"]["join"].as_object().map(serde_json::Map::len),
        Some(1_000)
    );
    let since = first["next_batch"].as_str();
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let begun = Instant::now();
        world
            .sync
            .sync(request(&ann, since, json!({})))
            .await
            .expect("an answer");
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest < Duration::from_millis(1), "{fastest:?}");
}

#[tokio::test]
async fn rows_in_rocksdb_outlive_the_reader() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || {
        let store = Store::open(&folder.path().join("store"), &StoreOptions::default());
        Arc::new(store.expect("a store"))
    };
    let mut world = World::over(3, open());
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    world.member(&room, &ben, &ben, "join");
    let first = world.synced(&ben, None, json!({})).await;
    let since = first["next_batch"].as_str();
    for restart in [true, false] {
        let said = world.say(&room, &ann, "again");
        world.fold();
        if restart {
            world.restart(false);
        }
        let answer = world.synced(&ben, since, json!({})).await;
        let events = &answer["rooms"]["join"][room.as_str()]["timeline"]["events"];
        assert_eq!(ids(events).last(), Some(&said.to_string()));
    }
}
