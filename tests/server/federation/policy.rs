//! Rooms that let a policy server recommend their events (security, 1.1, *Policy
//! servers*): asked for local and remote events, believed by the room's key alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::response::Response;
use engram::crypto::signing_key::ServerKey;
use engram::matrix::RoomVersion;
use engram::matrix::canonical_json::{CanonicalJsonObject, to_bytes};
use engram::matrix::redaction::redact;
use engram::matrix::signing::sign_json;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::fake::{FAR, Fake, answer, object, own_keys};
use super::guest::Guest;
use super::receiving::{public_room, texts};
use crate::harness::{Answer, Api, Server, escape};

/// How the policy server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Signs,
    Refuses,
    /// With a key that is not the room's.
    SignsWrongly,
    Silent,
}

struct Scene {
    _a: Server,
    alice: Api,
    b: Fake,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<AtomicUsize>,
}

fn policy_key() -> ServerKey {
    ServerKey::from_seed([9; 32], "policy_server")
}

/// What a policy server with that key answers about an event.
fn signature(event: &CanonicalJsonObject, key: &ServerKey) -> Value {
    let mut redacted = redact(&RoomVersion::V11.rules().redaction, event);
    redacted.remove("signatures");
    redacted.remove("unsigned");
    sign_json(&mut redacted, ruma::server_name!("b.test"), key);
    let signed: Value = serde_json::from_slice(&to_bytes(&redacted)).unwrap();
    signed["signatures"].clone()
}

async fn judge(mood: Mood, request: Request) -> Response {
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await;
    let event: Value = serde_json::from_slice(&body.unwrap()).unwrap();
    let event = object(&event);
    let signed = |key: &ServerKey| {
        let signature = signature(&event, key).to_string();
        answer(StatusCode::OK, signature.into_bytes())
    };
    match mood {
        Mood::Signs => signed(&policy_key()),
        Mood::SignsWrongly => signed(&ServerKey::from_seed([8; 32], "policy_server")),
        Mood::Refuses => answer(
            StatusCode::BAD_REQUEST,
            br#"{"errcode":"M_FORBIDDEN","error":"This looks like spam"}"#.to_vec(),
        ),
        Mood::Silent => std::future::pending().await,
    }
}

async fn scene() -> Scene {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let alice = a.register("alice").await;
    let (mood, asked) = (
        Arc::new(Mutex::new(Mood::Signs)),
        Arc::new(AtomicUsize::new(0)),
    );
    let keys = own_keys("b.test", &ServerKey::from_seed([3; 32], "fake"), FAR);
    let keys = Arc::new(to_bytes(&keys));
    let (moods, count) = (mood.clone(), asked.clone());
    let b = Fake::start(&neighbourhood, "b.test", move |request: Request| {
        let (keys, mood, count) = (keys.clone(), *moods.lock(), count.clone());
        async move {
            match request.uri().path() {
                "/_matrix/key/v2/server" => answer(StatusCode::OK, keys.to_vec()),
                "/_matrix/policy/v1/sign" => {
                    count.fetch_add(1, Ordering::SeqCst);
                    judge(mood, request).await
                }
                _ => answer(StatusCode::NOT_FOUND, b"{}".to_vec()),
            }
        }
    })
    .await;
    Scene {
        _a: a,
        alice,
        b,
        mood,
        asked,
    }
}

impl Scene {
    /// A room with a guest of `b.test`, which is its policy server.
    async fn guarded(&self) -> Guest<'_> {
        let room = public_room(&self.alice, "11").await;
        let guest = Guest::enter(&self.b, &self.alice, &room, "bob").await;
        let content = json!({
            "via": "b.test",
            "public_keys": { "ed25519": policy_key().public_base64() }
        });
        // What names the policy server is not asked about.
        let before = self.asked();
        self.state(&room, "m.room.policy", content).await.ok();
        assert_eq!(self.asked(), before);
        guest
    }

    async fn state(&self, room: &str, kind: &str, content: Value) -> Answer {
        let path = format!("/_matrix/client/v3/rooms/{}/state/{kind}/", escape(room));
        self.alice.put(&path, content).await
    }

    async fn say(&self, room: &str, text: &str) -> Answer {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/send/m.room.message/{text}",
            escape(room)
        );
        let content = json!({ "msgtype": "m.text", "body": text });
        self.alice.put(&path, content).await
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn is_now(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    /// Where the next event of a guest goes.
    async fn renew(&self, guest: &mut Guest<'_>) {
        let now = Guest::look(&self.b, &self.alice, &guest.room, "bob").await;
        guest.tips = now.tips;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spec_policy_server_is_asked_before_a_local_event_is_sent() {
    let scene = scene().await;
    let bob = scene.guarded().await;
    let room = &bob.room;
    let sent = scene.say(room, "fine").await.ok();
    let id = sent["event_id"].as_str().expect("an id");
    let uri = format!("/_matrix/federation/v1/event/{}", escape(id));
    let (status, told) = scene.b.get("a.test", &uri).await;
    assert_eq!(status, 200, "{told}");
    let signatures = &told["pdus"][0]["signatures"];
    assert!(signatures["b.test"]["ed25519:policy_server"].is_string());
    assert!(signatures["a.test"].is_object());
    scene
        .state(room, "m.room.topic", json!({ "topic": "fine" }))
        .await
        .ok();
    assert_eq!(scene.asked(), 2, "state events too");

    for mood in [Mood::Refuses, Mood::SignsWrongly] {
        scene.is_now(mood);
        let refused = scene.say(room, "spam").await.refused(403, "M_FORBIDDEN");
        if mood == Mood::Refuses {
            assert_eq!(refused["error"], "This looks like spam");
        }
        let topic = json!({ "topic": "spam" });
        let refused = scene.state(room, "m.room.topic", topic).await;
        refused.refused(403, "M_FORBIDDEN");
    }
    scene.is_now(Mood::Signs);
    scene.say(room, "again").await.ok();
    assert_eq!(texts(&scene.alice, room).await, ["fine", "again"]);
    // Other rooms do not ask.
    let before = scene.asked();
    let other = public_room(&scene.alice, "11").await;
    scene.say(&other, "elsewhere").await.ok();
    assert_eq!(scene.asked(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn spec_policy_server_that_is_silent_costs_five_seconds_once() {
    let scene = scene().await;
    let bob = scene.guarded().await;
    scene.is_now(Mood::Silent);
    let begun = Instant::now();
    scene.say(&bob.room, "one").await.refused(502, "M_UNKNOWN");
    let waited = begun.elapsed();
    assert!(
        waited >= Duration::from_secs(4) && waited < Duration::from_secs(20),
        "{waited:?}"
    );
    let begun = Instant::now();
    scene.say(&bob.room, "two").await.refused(502, "M_UNKNOWN");
    assert!(begun.elapsed() < Duration::from_secs(4));
    assert_eq!(scene.asked(), 1);
    // The room can do without it.
    scene
        .state(&bob.room, "m.room.policy", json!({}))
        .await
        .ok();
    scene.say(&bob.room, "three").await.ok();
    assert_eq!(texts(&scene.alice, &bob.room).await, ["three"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn spec_policy_server_is_asked_about_events_of_other_servers() {
    let scene = scene().await;
    let mut bob = scene.guarded().await;
    scene.renew(&mut bob).await;
    let fine = bob.text("fine");
    bob.sent(&[&fine]).await;
    assert_eq!(scene.asked(), 1);

    // What it does not recommend is soft-failed: no error, and not shown.
    scene.is_now(Mood::Refuses);
    let tips = bob.tips.clone();
    let spam = bob.text("spam");
    let member = bob.user.clone();
    bob.tips = tips.clone();
    let renamed = json!({ "membership": "join", "displayname": "Spammer" });
    let rename = bob.aside("m.room.member", Some(&member), renamed);
    bob.sent(&[&spam, &rename]).await;
    assert_eq!(scene.asked(), 3);
    assert_eq!(texts(&scene.alice, &bob.room).await, ["fine"]);
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.member/%40bob%3Ab.test",
        escape(&bob.room)
    );
    assert!(scene.alice.get(&path).await.ok()["displayname"].is_null());
    scene.renew(&mut bob).await;
    assert_eq!(bob.tips, tips, "nothing is built on it");

    // A signature that comes with the event is enough.
    let mut signed = bob.text("signed");
    let recommendation = signature(&object(&signed.json), &policy_key());
    let key = &recommendation["b.test"]["ed25519:policy_server"];
    signed.json["signatures"]["b.test"]["ed25519:policy_server"] = key.clone();
    bob.sent(&[&signed]).await;
    assert_eq!(scene.asked(), 3);
    assert_eq!(texts(&scene.alice, &bob.room).await, ["fine", "signed"]);

    // Without a user in the room it has no say.
    scene.is_now(Mood::Signs);
    let leave = bob.member("leave");
    bob.sent(&[&leave]).await;
    let asked = scene.asked();
    scene.say(&bob.room, "alone").await.ok();
    assert_eq!(scene.asked(), asked);
}
