//! The past of a room that others have: fetched when a client reads on beyond
//! what is here.

use engram::matrix::RoomVersion;
use serde_json::{Value, json};

use super::elsewhere::{ALICE, Pair, act, join, pair};
use crate::harness::{Api, escape};

/// All events that a client finds on the way back, the newest first.
pub async fn back(api: &Api, room: &str, limit: usize) -> Vec<Value> {
    let mut from = String::new();
    let mut events = Vec::new();
    for _ in 0..200 {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/messages?dir=b&limit={limit}{from}",
            escape(room)
        );
        let page = api.get(&path).await.ok();
        events.extend(page["chunk"].as_array().unwrap().iter().cloned());
        match page["end"].as_str() {
            Some(end) => from = format!("&from={}", escape(end)),
            None => return events,
        }
    }
    panic!("the past has no end: {} events", events.len());
}

pub fn ids(events: &[Value]) -> Vec<&str> {
    let ids = events
        .iter()
        .map(|event| event["event_id"].as_str().unwrap());
    ids.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_events_come_in_order_and_once() {
    let Pair {
        alice,
        bob,
        a,
        mut b,
    } = pair().await;
    let _running = a;
    let room = alice
        .create_room(json!({ "preset": "public_chat", "name": "Old" }))
        .await;
    for number in 0..500 {
        alice.send_text(&room, &format!("{number}")).await;
    }
    join(&bob, &room).await;
    let theirs = back(&alice, &room, 500).await;
    assert!(theirs.len() > 500);
    let ours = back(&bob, &room, 40).await;
    assert_eq!(ids(&ours), ids(&theirs));
    let told: Vec<_> = ours
        .iter()
        .filter_map(|event| event["content"]["body"].as_str())
        .collect();
    let sent: Vec<_> = (0..500).rev().map(|number| number.to_string()).collect();
    assert_eq!(told, sent);
    assert_eq!(ours.last().unwrap()["type"], "m.room.create");
    // The past is no news.
    let synced = bob.sync("").await;
    let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
    assert_eq!(timeline.as_array().unwrap().len(), 1, "{timeline}");
    b.kill();
    b.start().await;
    let mut again = b.api();
    again.token = bob.token.clone();
    assert_eq!(ids(&back(&again, &room, 500).await), ids(&theirs));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_of_rooms_of_every_version_is_read() {
    let Pair { alice, bob, a, b } = &pair().await;
    let _running = (a, b);
    for version in RoomVersion::all() {
        let body = json!({ "room_version": version.as_str(), "preset": "public_chat" });
        let room = alice.create_room(body).await;
        let path = format!(
            "/_matrix/client/v3/rooms/{}/state/m.room.topic",
            escape(&room)
        );
        for number in 0..5 {
            alice.send_text(&room, &format!("{number}")).await;
            alice
                .put(&path, json!({ "topic": format!("{number}") }))
                .await
                .ok();
        }
        join(bob, &room).await;
        let theirs = back(alice, &room, 100).await;
        assert_eq!(ids(&back(bob, &room, 4).await), ids(&theirs), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_between_two_stays_is_read() {
    let Pair { alice, bob, a, b } = &pair().await;
    let _running = (a, b);
    for version in ["6", "11", "12"] {
        let body = json!({ "room_version": version, "preset": "public_chat" });
        let room = alice.create_room(body).await;
        alice.send_text(&room, "before").await;
        join(bob, &room).await;
        act(bob, &room, "leave", json!({})).await.ok();
        super::elsewhere::becomes(alice, &room, super::elsewhere::BOB, "leave").await;
        for number in 0..150 {
            alice.send_text(&room, &format!("missed {number}")).await;
        }
        join(bob, &room).await;
        let theirs = back(alice, &room, 500).await;
        assert_eq!(ids(&back(bob, &room, 30).await), ids(&theirs), "{version}");
    }
}

/// History is not for who joined later, where the room says so, however it came.
#[tokio::test(flavor = "multi_thread")]
async fn the_past_is_shown_to_whom_it_is_for() {
    let Pair { alice, bob, a, b } = &pair().await;
    let _running = (a, b);
    let hidden = json!({
        "type": "m.room.history_visibility", "content": { "history_visibility": "joined" },
    });
    let body = json!({ "preset": "public_chat", "initial_state": [hidden] });
    let room = alice.create_room(body).await;
    alice.send_text(&room, "secret").await;
    join(bob, &room).await;
    let seen = back(bob, &room, 20).await;
    assert!(
        seen.iter()
            .all(|event| event["content"]["body"] != "secret"),
        "{seen:?}"
    );
    assert!(seen.iter().any(|event| event["sender"] != ALICE));
}

/// Nobody is there to ask: what is here is answered, and soon.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_does_not_wait_for_a_server_that_is_away() {
    let Pair {
        alice,
        bob,
        mut a,
        b,
    } = pair().await;
    let _running = b;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.send_text(&room, "before").await;
    join(&bob, &room).await;
    a.kill();
    let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b", escape(&room));
    let began = std::time::Instant::now();
    for _ in 0..3 {
        let page = bob.get(&path).await.ok();
        assert_eq!(page["chunk"].as_array().unwrap().len(), 1);
        assert!(page["end"].is_string());
    }
    assert!(began.elapsed().as_secs() < 20);
}
