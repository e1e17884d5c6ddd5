//! What another server sends: events and EDUs, good and bad, each for itself
//! (security, 1.2, 1.3 and 1.5).

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::fake::{Fake, object};
use super::guest::{Event, Guest, edu, transaction};
use crate::harness::{Api, Server, escape};

/// The event as a local user gets it.
async fn seen(local: &Api, room: &str, event: &str) -> crate::harness::Answer {
    let path = format!(
        "/_matrix/client/v3/rooms/{}/event/{}",
        escape(room),
        escape(event)
    );
    local.get(&path).await
}

/// The texts of a room, oldest first.
pub async fn texts(local: &Api, room: &str) -> Vec<String> {
    let path = format!(
        "/_matrix/client/v3/rooms/{}/messages?dir=f&limit=100",
        escape(room)
    );
    let page = local.get(&path).await.ok();
    let events = page["chunk"].as_array().expect("a list").iter();
    let bodies = events.filter_map(|event| event["content"]["body"].as_str());
    bodies.map(str::to_owned).collect()
}

/// `a.test` with a user in a public room of that version, and the server `b.test`.
async fn start(version: &str) -> (Neighbourhood, Server, Fake, Api, String) {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let b = Fake::with_keys(&neighbourhood, "b.test").await;
    let alice = a.register("alice").await;
    let room = public_room(&alice, version).await;
    (neighbourhood, a, b, alice, room)
}

pub async fn public_room(local: &Api, version: &str) -> String {
    let body = json!({ "preset": "public_chat", "room_version": version });
    local.create_room(body).await
}

async fn put(fake: &Fake, uri: &str, body: &Value) -> (u16, Value) {
    fake.send("a.test", Method::PUT, uri, &object(body)).await
}

pub fn error<'a>(results: &'a Value, event: &Event) -> &'a str {
    let error = results[&event.id]["error"].as_str();
    error.unwrap_or_else(|| panic!("{} was taken: {results}", event.json))
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_another_server_are_seen_in_every_room_version() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let b = Fake::with_keys(&neighbourhood, "b.test").await;
    let alice = a.register("alice").await;
    for version in 1..=12 {
        let room = public_room(&alice, &version.to_string()).await;
        let since = alice.sync("").await["next_batch"].clone();
        let mut bob = Guest::enter(&b, &alice, &room, "bob").await;
        let (one, two) = (bob.text("one"), bob.text("two"));
        bob.sent(&[&one, &two]).await;
        // A repeat under another transaction adds nothing and is told the same.
        bob.sent(&[&two, &one]).await;
        alice.send_text(&room, "three").await;
        assert_eq!(texts(&alice, &room).await, ["one", "two", "three"]);
        let since = since.as_str().expect("a token");
        let sync = alice.sync(&format!("since={since}&timeout=0")).await;
        let timeline = &sync["rooms"]["join"][&room]["timeline"]["events"];
        let ids = timeline.as_array().expect("a list").iter();
        let ids: Vec<&str> = ids.filter_map(|event| event["event_id"].as_str()).collect();
        assert!(
            ids.contains(&&*one.id) && ids.contains(&&*two.id),
            "{version}"
        );
        let leave = bob.member("leave");
        bob.sent(&[&leave]).await;
        // Rejected, and dealt with: there is nothing that its server could do.
        let after = bob.text("no more");
        bob.sent(&[&after]).await;
        assert_eq!(texts(&alice, &room).await, ["one", "two", "three"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spec_checks_on_receipt_one_bad_event_stops_no_other() {
    let (_neighbourhood, a, b, alice, room) = start("11").await;
    let mut bob = Guest::enter(&b, &alice, &room, "bob").await;
    let one = bob.text("one");
    let mut forged = bob.aside("m.room.message", None, json!({ "body": "forged" }));
    forged.json["sender"] = json!("@alice:a.test");
    let mut unsigned = bob.aside("m.room.message", None, json!({ "body": "unsigned" }));
    unsigned.json["signatures"] = json!({});
    // Not what was signed: the redacted form is taken (server-server API, step 3).
    let mut altered = bob.text("as it was signed");
    altered.json["content"]["body"] = json!("altered");
    let topic = bob.aside("m.room.topic", Some(""), json!({ "topic": "no power" }));
    let mut elsewhere = bob.aside("m.room.message", None, json!({ "body": "elsewhere" }));
    elsewhere.json["room_id"] = json!("!nowhere:a.test");
    let two = bob.text("two");
    let pdus = json!([
        one.json,
        forged.json,
        7,
        {},
        unsigned.json,
        altered.json,
        topic.json,
        elsewhere.json,
        two.json
    ]);
    let (status, answer) = transaction(&b, pdus, json!([3, { "edu_type": 1 }])).await;
    assert_eq!(status, 200, "{answer}");
    let results = &answer["pdus"];
    for good in [&one, &altered, &two] {
        assert_eq!(results[&good.id], json!({}));
    }
    assert!(error(results, &unsigned).contains("sign"), "{results}");
    // Rejected, but dealt with, and known when it comes again.
    assert_eq!(results[&topic.id], json!({}));
    bob.sent(&[&topic]).await;
    assert_eq!(texts(&alice, &room).await, ["one", "two"]);
    let shown = seen(&alice, &room, &altered.id).await.ok();
    assert_eq!(shown["content"], json!({}));
    seen(&alice, &room, &topic.id)
        .await
        .refused(404, "M_NOT_FOUND");
    drop(a);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_taken_in_once_and_across_a_restart() {
    let (_neighbourhood, mut a, b, alice, room) = start("12").await;
    let mut bob = Guest::enter(&b, &alice, &room, "bob").await;
    let one = bob.text("one");
    let bad = bob.aside("m.room.name", Some(""), json!({ "name": "no power" }));
    let two = bob.text("two");
    let body = json!({ "origin": "b.test", "origin_server_ts": 1, "pdus": [one.json, bad.json] });
    let uri = "/_matrix/federation/v1/send/once";
    let first = put(&b, uri, &body).await;
    assert_eq!(first.0, 200);
    assert_eq!(put(&b, uri, &body).await, first);
    // Another body under the same id is a repeat all the same.
    let other = json!({ "origin": "b.test", "origin_server_ts": 1, "pdus": [two.json] });
    assert_eq!(put(&b, uri, &other).await, first);
    a.terminate().await;
    a.start().await;
    let (status, answer) = put(&b, uri, &body).await;
    assert_eq!(status, 200);
    assert_eq!(answer["pdus"][&one.id], json!({}));
    assert_eq!(answer["pdus"][&bad.id], json!({}));
    let mut again = a.api();
    again.token = alice.token.clone();
    assert_eq!(texts(&again, &room).await, ["one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2020_26257_a_transaction_is_its_signers_and_bounded() {
    let (_neighbourhood, _a, b, alice, room) = start("11").await;
    let mut bob = Guest::enter(&b, &alice, &room, "bob").await;
    let one = bob.text("one");
    let other = json!({ "origin": "c.test", "origin_server_ts": 1, "pdus": [one.json] });
    let uri = "/_matrix/federation/v1/send/other";
    let (status, answer) = put(&b, uri, &other).await;
    assert_eq!(
        (status, &answer["errcode"]),
        (400, &json!("M_INVALID_PARAM"))
    );
    let (status, answer) = transaction(&b, json!(vec![&one.json; 51]), json!([])).await;
    assert_eq!((status, &answer["errcode"]), (400, &json!("M_BAD_JSON")));
    let (status, _) = transaction(&b, json!([]), json!(vec![json!({}); 101])).await;
    assert_eq!(status, 400);
    let (status, _) = transaction(&b, json!({}), json!([])).await;
    assert_eq!(status, 400);
    let large = json!({ "pdus": [], "x": "y".repeat(13_000_000) });
    let (status, _) = put(&b, uri, &large).await;
    assert_eq!(status, 413);
    assert_eq!(texts(&alice, &room).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn pr_406_the_acl_is_for_the_origin_and_for_the_sender() {
    let (neighbourhood, a, b, alice, room) = start("11").await;
    let c = Fake::with_keys(&neighbourhood, "c.test").await;
    let mut bob = Guest::enter(&b, &alice, &room, "bob").await;
    let mut carol = Guest::enter(&c, &alice, &room, "carol").await;
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.server_acl/",
        escape(&room)
    );
    let acl = json!({ "allow": ["*"], "deny": ["B.test"] });
    let acl = alice.put(&path, acl).await.ok();
    let denied = bob.text("from a denied server");
    let results = bob.send(&[&denied]).await;
    assert!(error(&results, &denied).contains("b.test"), "{results}");
    // Another server cannot bring it in either.
    let (status, answer) = transaction(&c, json!([denied.json]), json!([])).await;
    assert_eq!(status, 200);
    assert!(
        error(&answer["pdus"], &denied).contains("b.test"),
        "{answer}"
    );
    let typing = json!({ "room_id": room, "user_id": "@bob:b.test", "typing": true });
    transaction(&b, json!([]), json!([edu("m.typing", typing)])).await;
    carol.tips = Guest::look(&c, &alice, &room, "carol").await.tips;
    let allowed = carol.text("from another");
    carol.sent(&[&allowed]).await;
    assert_eq!(texts(&alice, &room).await, ["from another"]);
    let sync = alice.sync("").await;
    let shown = sync["rooms"]["join"][&room]["ephemeral"]["events"].clone();
    assert!(!shown.to_string().contains("bob"), "{shown}");
    drop((a, acl));
}

/// What is true for a minute in a room, by type.
async fn ephemeral(local: &Api, room: &str, kind: &str) -> Value {
    let sync = local.sync("").await;
    let events = sync["rooms"]["join"][room]["ephemeral"]["events"].clone();
    let events = events.as_array().cloned().unwrap_or_default();
    let found = events.into_iter().find(|event| event["type"] == kind);
    found.map_or(Value::Null, |event| event["content"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_6301_a_server_tells_of_its_own_users_only() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood
        .builder("a.test")
        .set("PRESENCE__ENABLED", true)
        .start()
        .await;
    let b = Fake::with_keys(&neighbourhood, "b.test").await;
    let alice = a.register("alice").await;
    let room = public_room(&alice, "11").await;
    let mut bob = Guest::enter(&b, &alice, &room, "bob").await;
    let dora = a.register("dora").await;
    dora.join(&room).await.ok();
    bob.tips = Guest::look(&b, &alice, &room, "bob").await.tips;
    let text = bob.text("read me");
    bob.sent(&[&text]).await;
    let typing = |user: &str| {
        edu(
            "m.typing",
            json!({ "room_id": room, "user_id": user, "typing": true }),
        )
    };
    let receipt = |user: &str, event: &str, thread: Option<&str>| {
        let mut data = json!({ "ts": 1_700_000_000_000_u64 });
        if let Some(thread) = thread {
            data["thread_id"] = json!(thread);
        }
        let receipt = json!({ "event_ids": [event], "data": data });
        edu(
            "m.receipt",
            json!({ &room: { "m.read": { user: receipt } } }),
        )
    };
    let presence = |user: &str, says: &str| {
        let update = json!({ "user_id": user, "presence": says, "last_active_ago": 10,
            "status_msg": "here", "currently_active": true });
        edu("m.presence", json!({ "push": [update] }))
    };
    let huge = edu(
        "m.typing",
        json!({ "room_id": room, "user_id": "@bob:b.test",
        "typing": true, "pad": "x".repeat(70_000) }),
    );
    // Each of them is about somebody else, or about nobody here.
    let bad = json!([
        huge,
        typing("@alice:a.test"),
        typing("@dora:a.test"),
        typing("@stranger:b.test"),
        edu(
            "m.typing",
            json!({ "room_id": "!none:a.test", "user_id": "@bob:b.test", "typing": true })
        ),
        receipt("@alice:a.test", &text.id, None),
        receipt("@stranger:b.test", &text.id, None),
        presence("@dora:a.test", "unavailable"),
        presence("@stranger:b.test", "online"),
        presence("@bob:b.test", "asleep"),
        edu("m.direct_to_device", json!({ "sender": "@bob:b.test" })),
        edu("m.device_list_update", json!({})),
        edu("m.signing_key_update", json!({})),
        edu("org.unknown", json!({})),
        edu("m.typing", json!([])),
        7,
        Value::Null,
    ]);
    let (status, _) = transaction(&b, json!([]), bad).await;
    assert_eq!(status, 200);
    assert_eq!(ephemeral(&alice, &room, "m.typing").await, Value::Null);
    assert_eq!(ephemeral(&alice, &room, "m.receipt").await, Value::Null);
    let there = "/_matrix/client/v3/presence/%40bob%3Ab.test/status";
    assert_ne!(alice.get(there).await.body["presence"], "online");

    let good = json!([
        presence("@bob:b.test", "online"),
        typing("@bob:b.test"),
        receipt("@bob:b.test", &text.id, None),
        receipt("@bob:b.test", &text.id, Some("main")),
    ]);
    let (status, _) = transaction(&b, json!([]), good).await;
    assert_eq!(status, 200);
    let shown = ephemeral(&alice, &room, "m.typing").await;
    assert_eq!(shown["user_ids"], json!(["@bob:b.test"]));
    let shown = ephemeral(&alice, &room, "m.receipt").await;
    let read = &shown[&text.id]["m.read"]["@bob:b.test"];
    assert_eq!(read["ts"], 1_700_000_000_000_u64, "{shown}");
    let status = alice.get(there).await.ok();
    assert_eq!(
        (&status["presence"], &status["status_msg"]),
        (&json!("online"), &json!("here"))
    );

    // It ends when its server says so.
    let stop = json!({ "room_id": room, "user_id": "@bob:b.test", "typing": false });
    transaction(&b, json!([]), json!([edu("m.typing", stop)])).await;
    let shown = ephemeral(&alice, &room, "m.typing").await;
    assert!(shown.is_null() || shown["user_ids"] == json!([]), "{shown}");
    let metrics = a.metrics().get("/metrics").await.text;
    let dropped = metrics
        .lines()
        .filter(|line| line.starts_with("engram_federation_edus_dropped_total"));
    let reasons: Vec<&str> = dropped.collect();
    for reason in [
        "not_yet",
        "unknown_type",
        "other_server",
        "not_there",
        "malformed",
        "too_large",
    ] {
        assert!(
            reasons.iter().any(|line| line.contains(reason)),
            "{reason}: {reasons:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2018_10657_a_great_depth_breaks_no_room() {
    for version in ["5", "6"] {
        let (_neighbourhood, _a, b, alice, room) = start(version).await;
        let mut bob = Guest::enter(&b, &alice, &room, "bob").await;
        bob.depth = (1 << 53) - 1;
        let deep = bob.text("deep");
        bob.depth = (1 << 53) - 1;
        bob.sent(&[&deep]).await;
        alice.send_text(&room, "goes on").await;
        let mut after = Guest::look(&b, &alice, &room, "bob").await;
        after.depth = (1 << 53) - 1;
        let more = after.text("and on");
        after.sent(&[&more]).await;
        assert_eq!(texts(&alice, &room).await, ["deep", "goes on", "and on"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_server_are_answered_side_by_side() {
    let (_neighbourhood, _a, b, alice, room) = start("11").await;
    let mut bob = Guest::enter(&b, &alice, &room, "bob").await;
    let (one, two) = (bob.text("one"), bob.text("two"));
    let (first, second) = ([&one], [&one, &two]);
    let second = tokio::time::timeout(Duration::from_secs(30), bob.send(&second));
    let (first, second) = tokio::join!(bob.send(&first), second);
    assert_eq!(first[&one.id], json!({}));
    assert_eq!(second.expect("is answered")[&two.id], json!({}));
    assert_eq!(texts(&alice, &room).await, ["one", "two"]);
}
