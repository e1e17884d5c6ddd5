//! Jumps to a time of which the history is with other servers: the event comes,
//! stands where it belongs, and what lies between is found when it is read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engram::clock::now_ms;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::elsewhere::{Pair, join, pair};
use super::guest::{Event, Guest};
use super::library::Library;
use super::past::{back, ids};
use super::receiving::public_room;
use crate::harness::{Answer, Api, escape};

async fn jump(api: &Api, room: &str, direction: &str, ts: u64) -> Answer {
    let path = format!(
        "/_matrix/client/v1/rooms/{}/timestamp_to_event?dir={direction}&ts={ts}",
        escape(room)
    );
    api.get(&path).await
}

async fn context(api: &Api, room: &str, event: &str) -> Value {
    let path = format!(
        "/_matrix/client/v3/rooms/{}/context/{}?limit=4",
        escape(room),
        escape(event)
    );
    api.get(&path).await.ok()
}

/// Waits until the clock shows another millisecond.
async fn tick() {
    let begun = now_ms();
    while now_ms() <= begun {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

fn sent_at(event: &Value) -> u64 {
    event["origin_server_ts"].as_u64().expect("a time")
}

/// Jumps to events far back, in both directions and in any order, and then reads
/// all: each event is there once, in its order.
#[tokio::test(flavor = "multi_thread")]
async fn what_lies_far_back_is_jumped_to_and_all_of_it_read() {
    let Pair { alice, bob, a, b } = &pair().await;
    let _running = (a, b);
    for version in ["1", "6", "12"] {
        let body = json!({ "room_version": version, "preset": "public_chat" });
        let room = alice.create_room(body).await;
        for number in 0..450 {
            alice.send_text(&room, &format!("{number}")).await;
            if number % 50 == 0 {
                tick().await;
            }
        }
        join(bob, &room).await;
        let theirs = back(alice, &room, 500).await;
        let said = |number: usize| {
            let body = number.to_string();
            let said = theirs.iter().find(|event| event["content"]["body"] == body);
            said.expect("it was said").clone()
        };
        for (direction, number) in [("f", 201), ("b", 100), ("f", 51), ("b", 300), ("f", 201)] {
            let wanted = said(number);
            // The first, or the last, of those that were sent in that millisecond.
            let mut found = jump(bob, &room, direction, sent_at(&wanted)).await.ok();
            assert_eq!(sent_at(&found), sent_at(&wanted), "{version} {number}");
            let same = jump(alice, &room, direction, sent_at(&wanted)).await.ok();
            assert_eq!(found, same, "{version} {direction} {number}");
            // What is around it is read from there.
            let id = found["event_id"].take();
            let around = context(bob, &room, id.as_str().expect("an id")).await;
            assert_eq!(around["event"]["event_id"], id, "{around}");
            let before = around["events_before"].as_array().expect("a list").len();
            assert_eq!(before, 2, "{around}");
        }
        // Before all and behind all.
        let first = jump(bob, &room, "f", 0).await.ok();
        assert_eq!(first["event_id"], theirs.last().expect("some")["event_id"]);
        let last = jump(bob, &room, "b", now_ms()).await.ok();
        assert_eq!(last["event_id"], theirs[0]["event_id"]);
        jump(bob, &room, "b", 1).await.refused(404, "M_NOT_FOUND");
        let ours = back(bob, &room, 40).await;
        assert_eq!(ids(&ours), ids(&theirs), "{version}");
    }
}

/// What was said before they came is not for them, so nobody finds it for them.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_jumps_to_what_is_hidden() {
    let Pair { alice, bob, a, b } = &pair().await;
    let _running = (a, b);
    let hidden = json!({
        "type": "m.room.history_visibility", "content": { "history_visibility": "joined" },
    });
    let body = json!({ "preset": "public_chat", "initial_state": [hidden] });
    let room = alice.create_room(body).await;
    alice.send_text(&room, "secret").await;
    let said = back(alice, &room, 1).await.remove(0);
    tick().await;
    join(bob, &room).await;
    let found = jump(bob, &room, "f", sent_at(&said)).await.ok();
    assert_ne!(found["event_id"], said["event_id"]);
    assert!(sent_at(&found) > sent_at(&said), "{found}");
}

type Lie = Box<dyn Fn(&str, Value) -> Value + Send + Sync>;

/// What a server may answer to who looks for the event `wanted`.
fn lies(wanted: &Event, older: &Event, foreign: &Event) -> Vec<(&'static str, Lie)> {
    fn of(what: &'static str, told: Value) -> Lie {
        Box::new(move |path, truth| match path.contains(what) {
            true => told.clone(),
            false => truth,
        })
    }
    let claim =
        |id: &str| json!({ "event_id": id, "origin_server_ts": wanted.json["origin_server_ts"] });
    let mut forged = wanted.json.clone();
    forged["content"]["body"] = json!("forged");
    forged["depth"] = json!(7);
    let event = |json: &Value| of("/event/", json!({ "origin": "x", "pdus": [json] }));
    vec![
        ("nothing", of("timestamp_to_event", Value::Null)),
        ("no object", of("timestamp_to_event", json!([1]))),
        (
            "no id",
            of(
                "timestamp_to_event",
                json!({ "event_id": 7, "origin_server_ts": -1 }),
            ),
        ),
        (
            "a time that is not the event's",
            of("timestamp_to_event", claim(&older.id)),
        ),
        (
            "an event that nobody has",
            of("timestamp_to_event", claim("$nobody:b.test")),
        ),
        (
            "an event of another room",
            of("timestamp_to_event", claim(&foreign.id)),
        ),
        ("another event", event(&older.json)),
        ("a forged event", event(&forged)),
        ("no event", of("/event/", json!({ "pdus": [] }))),
        ("no state", of("/state_ids/", Value::Null)),
        (
            "a state of nothing known",
            of(
                "/state_ids/",
                json!({ "pdu_ids": ["$a:b.test", "$b:b.test"], "auth_chain_ids": [] }),
            ),
        ),
    ]
}

/// A lie leads to what is here, in bounded time, and to nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn who_lies_about_the_past_is_not_believed() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let alice = a.register("alice").await;
    let library = Library::default();
    let b = library.serve(&neighbourhood, "b.test").await;
    let mut rooms = Vec::new();
    for version in ["6", "6"] {
        let room = public_room(&alice, version).await;
        let mut guest = Guest::look(&b, &alice, &room, "bob").await;
        guest.library = library.clone();
        let join = guest.member("join");
        guest.sent(&[&join]).await;
        rooms.push(guest);
    }
    let (mut bob, mut other) = (rooms.remove(0), rooms.remove(0));
    let foreign = other.text("elsewhere");
    tick().await;
    let older = bob.text("older");
    tick().await;
    let wanted = bob.text("wanted");
    let ts = sent_at(&wanted.json);
    tick().await;
    let last = bob.text("behind a gap");
    // Nobody tells what is in between.
    library.lie(|path, told| match path.contains("get_missing_events") {
        true => json!({ "events": [] }),
        false => told,
    });
    bob.sent(&[&last]).await;
    for (what, lie) in lies(&wanted, &older, &foreign) {
        let truth = json!({ "event_id": wanted.id, "origin_server_ts": ts });
        let lie = Arc::new(Mutex::new(lie));
        library.lie(move |path, told| {
            let told = match path {
                _ if path.contains("timestamp_to_event") => truth.clone(),
                // Else who reads on would be told what is true.
                _ if path.contains("backfill") => json!({ "pdus": [] }),
                _ => told,
            };
            (lie.lock())(path, told)
        });
        let begun = Instant::now();
        let asked = library.asked("timestamp_to_event");
        let found = jump(&alice, &bob.room, "f", ts).await.ok();
        assert_eq!(found["event_id"], json!(last.id), "{what}");
        assert_eq!(library.asked("timestamp_to_event"), asked + 1, "{what}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{what}");
        let page = back(&alice, &bob.room, 50).await;
        let is_believed = |event: &&Value| {
            let body = &event["content"]["body"];
            ["forged", "older", "wanted", "elsewhere"]
                .iter()
                .any(|lied| body == lied)
        };
        assert_eq!(page.iter().find(is_believed), None, "{what}");
    }
    // The same server, when it does not lie.
    let truth = json!({ "event_id": wanted.id, "origin_server_ts": ts });
    library.lie(
        move |path, told| match path.contains("timestamp_to_event") {
            true => truth.clone(),
            false => told,
        },
    );
    let found = jump(&alice, &bob.room, "f", ts).await.ok();
    assert_eq!(found["event_id"], json!(wanted.id));
    assert_eq!(
        context(&alice, &bob.room, &wanted.id).await["event"]["content"]["body"],
        "wanted"
    );
    // What is exact needs nobody's help.
    let asked = library.asked("timestamp_to_event");
    jump(&alice, &bob.room, "f", ts).await.ok();
    assert_eq!(library.asked("timestamp_to_event"), asked);
}
