//! What happens here reaches the servers that are in the room: in order, once,
//! and also after they or we were away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::Request;
use engram::matrix::RoomVersion;
use engram::matrix::canonical_json::to_bytes;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::Neighbourhood;
use super::fake::{FAR, Fake, answer, own_keys};
use super::visitor::{CAROL, Visitor, events};
use crate::commands::run;
use crate::harness::{Api, Server, escape};

/// How long anything may take to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

/// A transaction that arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrived {
    pub id: String,
    pub body: Value,
}

/// What arrived at a server of the test's own, over its restarts.
#[derive(Clone, Default)]
pub struct Inbox {
    arrived: Arc<Mutex<Vec<Arrived>>>,
    status: Arc<AtomicU16>,
    /// Milliseconds from when something arrived to its answer.
    takes_ms: Arc<AtomicU64>,
    news: Arc<Notify>,
}

impl Inbox {
    /// Opens the server.
    pub async fn open(&self, neighbourhood: &Neighbourhood) -> Visitor {
        let inbox = self.clone();
        let keys = own_keys(
            "c.test",
            &engram::crypto::ServerKey::from_seed([3; 32], "fake"),
            FAR,
        );
        let answers = move |request: Request| {
            let (inbox, keys) = (inbox.clone(), keys.clone());
            async move {
                let path = request.uri().path().to_owned();
                if path == "/_matrix/key/v2/server" {
                    return answer(StatusCode::OK, to_bytes(&keys));
                }
                let Some(id) = path.strip_prefix("/_matrix/federation/v1/send/") else {
                    return answer(StatusCode::NOT_FOUND, b"{}".to_vec());
                };
                let signed = request.headers()["authorization"].to_str().unwrap();
                assert!(signed.contains(r#"destination="c.test""#), "{signed}");
                let body = axum::body::to_bytes(request.into_body(), 1 << 24).await;
                let body = serde_json::from_slice(&body.unwrap()).unwrap();
                let status = match inbox.status.load(Ordering::Relaxed) {
                    0 => StatusCode::OK,
                    status => StatusCode::from_u16(status).unwrap(),
                };
                let id = id.to_owned();
                inbox.arrived.lock().push(Arrived { id, body });
                inbox.news.notify_waiters();
                let takes_ms = inbox.takes_ms.load(Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(takes_ms)).await;
                answer(status, br#"{"pdus":{}}"#.to_vec())
            }
        };
        Visitor {
            fake: Fake::start(neighbourhood, "c.test", answers).await,
        }
    }

    /// Answers from now on with this status; 0 is 200.
    pub fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Answers from now on so long after something arrived.
    pub fn answer_after(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.takes_ms.store(ms, Ordering::Relaxed);
    }

    pub fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().clone()
    }

    /// Waits until what arrived is enough.
    pub async fn wait(&self, what: &str, enough: impl Fn(&[Arrived]) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let mut news = std::pin::pin!(self.news.notified());
                news.as_mut().enable();
                if enough(&self.arrived()) {
                    return;
                }
                news.await;
            }
        });
        if waited.await.is_err() {
            panic!("{what} did not come: {:#?}", self.arrived());
        }
    }

    /// Waits for a message with this text.
    pub async fn wait_for(&self, text: &str) {
        self.wait(text, |arrived| texts(arrived).contains(&text.to_owned()))
            .await;
    }
}

/// The events of transactions, in order.
pub fn pdus(arrived: &[Arrived]) -> Vec<Value> {
    let bodies = arrived.iter();
    let pdus = bodies.flat_map(|one| one.body["pdus"].as_array().unwrap().clone());
    pdus.collect()
}

/// The texts of messages, in order.
pub fn texts(arrived: &[Arrived]) -> Vec<String> {
    let bodies = pdus(arrived).into_iter();
    let texts = bodies.filter_map(|pdu| Some(pdu["content"]["body"].as_str()?.to_owned()));
    texts.collect()
}

pub async fn room(alice: &Api, version: &str) -> String {
    let body = json!({ "room_version": version, "preset": "public_chat" });
    alice.create_room(body).await
}

pub async fn kick(alice: &Api, room: &str, user: &str) {
    let path = format!("/_matrix/client/v3/rooms/{}/kick", escape(room));
    alice.post(&path, json!({ "user_id": user })).await.ok();
}

/// Speaks to the server, as one that is back does sooner or later.
pub async fn speak(c: &Visitor) {
    let profile = "/_matrix/federation/v1/query/profile?user_id=%40alice%3Aa.test";
    assert_eq!(c.get(profile).await.0, 200);
}

pub async fn start(neighbourhood: &Neighbourhood) -> (Server, Api) {
    let builder = neighbourhood.builder("a.test");
    let a = builder.set("PRESENCE__ENABLED", "true").start().await;
    let alice = a.register("alice").await;
    (a, alice)
}

/// The same user of a server that was started again, at another port.
pub fn again(a: &Server, alice: &Api) -> Api {
    let mut api = a.api();
    api.token = alice.token.clone();
    api.user_id = alice.user_id.clone();
    api
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_in_order_as_long_as_somebody_is_in_the_room() {
    let neighbourhood = Neighbourhood::new();
    let (_a, alice) = start(&neighbourhood).await;
    let inbox = Inbox::default();
    let c = inbox.open(&neighbourhood).await;
    for version in RoomVersion::all() {
        let before = inbox.arrived().len();
        let room = room(&alice, version.as_str()).await;
        alice.send_text(&room, "before").await;
        c.join(&room, CAROL).await;
        let sent: Vec<String> = (0..20)
            .map(|number| format!("{version} {number}"))
            .collect();
        for text in &sent {
            alice.send_text(&room, text).await;
        }
        kick(&alice, &room, CAROL).await;
        alice.send_text(&room, "after").await;
        let is_kick = |pdu: &Value| pdu["state_key"] == CAROL && pdu["sender"] != CAROL;
        inbox
            .wait("the kick", |arrived| {
                pdus(&arrived[before..]).iter().any(is_kick)
            })
            .await;
        let arrived = &inbox.arrived()[before..];
        assert_eq!(texts(arrived), sent, "{version}");
        let all = json!(pdus(arrived));
        // Whole events of the room's version; carol's own join is known to her server.
        assert_eq!(events(version, &all).len(), sent.len() + 1);
        for one in arrived {
            assert_eq!(one.body["origin"], "a.test");
            assert!(one.body["origin_server_ts"].as_u64().unwrap() > 1_600_000_000_000);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_not_sent_again_over_restarts() {
    let neighbourhood = Neighbourhood::new();
    let (mut a, alice) = start(&neighbourhood).await;
    let inbox = Inbox::default();
    let c = inbox.open(&neighbourhood).await;
    let room = room(&alice, "11").await;
    c.join(&room, CAROL).await;
    alice.send_text(&room, "0").await;
    inbox.wait_for("0").await;
    // It is away, and we are killed in the meantime.
    drop(c);
    for number in 1..=10 {
        alice.send_text(&room, &number.to_string()).await;
    }
    a.kill();
    a.start().await;
    let alice = again(&a, &alice);
    alice.send_text(&room, "11").await;
    let c = inbox.open(&neighbourhood).await;
    speak(&c).await;
    inbox.wait_for("11").await;
    let all: Vec<String> = (0..=11).map(|number| number.to_string()).collect();
    // What was under way may come again; then it is the same transaction.
    let once = || {
        let mut arrived = inbox.arrived();
        arrived.dedup();
        texts(&arrived)
    };
    assert_eq!(once(), all);
    for graceful in [true, false] {
        match graceful {
            true => drop(a.terminate().await),
            false => a.kill(),
        }
        a.start().await;
        let alice = again(&a, &alice);
        alice.send_text(&room, &format!("{graceful}")).await;
        inbox.wait_for(&format!("{graceful}")).await;
    }
    let mut all = all;
    all.extend(["true".to_owned(), "false".to_owned()]);
    assert_eq!(once(), all);
}

/// The EDUs of a type, in order.
pub fn edus(arrived: &[Arrived], kind: &str) -> Vec<Value> {
    let bodies = arrived.iter();
    let edus = bodies.flat_map(|one| one.body["edus"].as_array().cloned().unwrap_or_default());
    let of_kind = edus.filter(|edu| edu["edu_type"] == kind);
    of_kind.map(|edu| edu["content"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_receipts_and_presence_are_told_to_the_servers_of_the_room() {
    let neighbourhood = Neighbourhood::new();
    let (_a, alice) = start(&neighbourhood).await;
    let inbox = Inbox::default();
    let c = inbox.open(&neighbourhood).await;
    let room = room(&alice, "11").await;
    let alone = self::room(&alice, "11").await;
    c.join(&room, CAROL).await;
    let event = alice.send_text(&room, "read me").await;
    for place in [&alone, &room] {
        typing(&alice, place, true).await;
        typing(&alice, place, false).await;
    }
    let receipt = |kind: &str| {
        let (room, event) = (escape(&room), escape(&event));
        format!("/_matrix/client/v3/rooms/{room}/receipt/{kind}/{event}")
    };
    // One thread after another, and one that nobody else is told of.
    for (kind, body) in [
        ("m.read.private", json!({})),
        ("m.read", json!({ "thread_id": "main" })),
        ("m.read", json!({})),
    ] {
        alice.post(&receipt(kind), body).await.ok();
    }
    let presence = format!(
        "/_matrix/client/v3/presence/{}/status",
        escape(&alice.user_id)
    );
    let status = json!({ "presence": "unavailable", "status_msg": "at lunch" });
    alice.put(&presence, status).await.ok();
    let lunch = |arrived: &[Arrived]| {
        let told = edus(arrived, "m.presence");
        told.iter().any(|content| {
            let updates = content["push"].as_array().unwrap();
            updates
                .iter()
                .any(|update| update["status_msg"] == "at lunch")
        })
    };
    inbox.wait("presence", lunch).await;
    let ceased = |arrived: &[Arrived]| {
        let told = edus(arrived, "m.typing");
        told.last()
            .is_some_and(|content| content["typing"] == false)
    };
    inbox.wait("the end of typing", ceased).await;
    let both = |arrived: &[Arrived]| edus(arrived, "m.receipt").len() >= 2;
    inbox.wait("receipts", both).await;

    let arrived = inbox.arrived();
    for content in edus(&arrived, "m.typing") {
        assert_eq!(content["room_id"], room);
        assert_eq!(content["user_id"], alice.user_id);
    }
    let mut threads: Vec<Value> = Vec::new();
    for content in edus(&arrived, "m.receipt") {
        let of_room = content.as_object().unwrap();
        assert_eq!(of_room.keys().collect::<Vec<_>>(), [&room]);
        let types = of_room[&room].as_object().unwrap();
        assert_eq!(types.keys().collect::<Vec<_>>(), ["m.read"]);
        let receipt = &types["m.read"][&alice.user_id];
        assert_eq!(receipt["event_ids"], json!([event]));
        assert!(receipt["data"]["ts"].is_u64());
        threads.push(receipt["data"]["thread_id"].clone());
    }
    threads.sort_by_key(|thread| thread.to_string());
    assert_eq!(threads, [json!("main"), Value::Null]);
    for content in edus(&arrived, "m.presence") {
        for update in content["push"].as_array().unwrap() {
            assert_eq!(update["user_id"], alice.user_id);
            assert!(update["last_active_ago"].is_u64(), "{update}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_repeated_to_the_last_byte() {
    let neighbourhood = Neighbourhood::new();
    let (_a, alice) = start(&neighbourhood).await;
    let inbox = Inbox::default();
    let c = inbox.open(&neighbourhood).await;
    let room = room(&alice, "11").await;
    c.join(&room, CAROL).await;
    alice.send_text(&room, "zero").await;
    inbox.wait_for("zero").await;
    for told in [false, true] {
        let before = inbox.arrived().len();
        inbox.answer_with(500);
        match told {
            true => {
                typing(&alice, &room, true).await;
            }
            false => drop(alice.send_text(&room, "first").await),
        }
        inbox
            .wait("the first attempt", |arrived| arrived.len() > before)
            .await;
        // More comes in, and is no part of what is repeated.
        alice.send_text(&room, &format!("second {told}")).await;
        inbox.answer_with(0);
        speak(&c).await;
        inbox.wait_for(&format!("second {told}")).await;
        let arrived = &inbox.arrived()[before..];
        assert_eq!(arrived[0], arrived[1]);
        assert_ne!(arrived[1].id, arrived[2].id);
    }
    // Whoever typed by then is not left typing.
    let ceased = |arrived: &[Arrived]| {
        let told = edus(arrived, "m.typing");
        told.last()
            .is_some_and(|content| content["typing"] == false)
    };
    inbox.wait("the end of typing", ceased).await;
    // Events and what is told beside them never go together.
    for one in inbox.arrived() {
        let of_events = !one.body["pdus"].as_array().unwrap().is_empty();
        assert_ne!(of_events, one.body["edus"].is_array(), "{one:?}");
    }
}

/// Says that a user types, or not.
async fn typing(api: &Api, room: &str, typing: bool) {
    let (room, user) = (escape(room), escape(&api.user_id));
    let path = format!("/_matrix/client/v3/rooms/{room}/typing/{user}");
    let body = json!({ "typing": typing, "timeout": 30_000 });
    api.put(&path, body).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_what_waits_for_whom() {
    let neighbourhood = Neighbourhood::new();
    let (mut a, alice) = start(&neighbourhood).await;
    let inbox = Inbox::default();
    let c = inbox.open(&neighbourhood).await;
    let room = room(&alice, "11").await;
    c.join(&room, CAROL).await;
    alice.send_text(&room, "hello").await;
    inbox.wait_for("hello").await;
    inbox.answer_with(503);
    for text in ["one", "two"] {
        alice.send_text(&room, text).await;
    }
    inbox.wait_for("one").await;
    let queues = |a: &Server| {
        let listed = run(a, &["federation", "queues", "--json"], "");
        assert_eq!(listed.status.code(), Some(0));
        let queues: Value = serde_json::from_slice(&listed.stdout).unwrap();
        queues[0].clone()
    };
    let mut queue = queues(&a);
    // The answer may still be on its way.
    for _ in 0..50 {
        if queue["failures"] == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        queue = queues(&a);
    }
    assert_eq!(queue["destination"], "c.test");
    assert_eq!(
        (&queue["waiting"], &queue["failures"]),
        (&json!(2), &json!(1))
    );
    assert!(queue["last_success_ms"].is_u64());
    assert!(queue["next_try_ms"].as_u64() > queue["last_success_ms"].as_u64());
    assert!(
        queue["last_error"].as_str().unwrap().contains("503"),
        "{queue}"
    );
    let table = run(&a, &["federation", "queues", "--troubled"], "");
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("c.test"), "{table}");
    assert!(table.contains("1 of 1 servers"), "{table}");
    // Also beside a stopped server.
    a.terminate().await;
    let queue = queues(&a);
    assert_eq!(
        (&queue["waiting"], &queue["failures"]),
        (&json!(2), &json!(1))
    );
}
