//! A server of the test's own that takes part in the rooms of others, by the
//! handshakes that the specification has for it.

use engram::matrix::RoomVersion;
use engram::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue, parse_object};
use engram::matrix::event::Pdu;
use engram::matrix::signing::hash_and_sign_event;
use reqwest::Method;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::fake::{Fake, object};
use crate::harness::{Api, Server, escape};

/// A user of `c.test`.
pub const CAROL: &str = "@carol:c.test";

/// A server of ours with one user, and a visitor.
pub struct Scene {
    pub a: Server,
    pub alice: Api,
    pub c: Visitor,
}

pub async fn scene() -> Scene {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let alice = a.register("alice").await;
    let c = Visitor::start(&neighbourhood).await;
    Scene { a, alice, c }
}

/// The membership of a user, as a local client is told it.
pub async fn membership(alice: &Api, room: &str, user: &str) -> Option<String> {
    let (room, user) = (escape(room), escape(user));
    let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/{user}");
    let answer = alice.get(&path).await;
    (answer.status == 200).then(|| answer.body["membership"].as_str().unwrap().to_owned())
}

/// Sets a field of an event.
pub fn with(event: &CanonicalJsonObject, field: &str, value: Value) -> CanonicalJsonObject {
    let mut event = event.clone();
    let value = object(&json!({ "value": value }))["value"].clone();
    event.insert(field.to_owned(), value);
    event
}

/// The server `c.test`.
pub struct Visitor {
    pub fake: Fake,
}

/// An event that is ready to be handed over.
#[derive(Clone, Debug)]
pub struct Signed {
    pub event_id: String,
    pub event: CanonicalJsonObject,
}

/// All room versions, as in `ver`.
pub fn all_versions() -> String {
    let versions = RoomVersion::all().map(|version| format!("ver={version}"));
    versions.collect::<Vec<_>>().join("&")
}

impl Visitor {
    pub async fn start(neighbourhood: &Neighbourhood) -> Visitor {
        Visitor {
            fake: Fake::with_keys(neighbourhood, "c.test").await,
        }
    }

    /// Asks for a template: `what` is `join`, `leave` or `knock`.
    pub async fn make(&self, what: &str, room: &str, user: &str) -> (u16, Value) {
        let (room, user) = (escape(room), escape(user));
        let versions = all_versions();
        let uri = format!("/_matrix/federation/v1/make_{what}/{room}/{user}?{versions}");
        self.fake.get("a.test", &uri).await
    }

    /// The event of a template, as a good server completes and signs it.
    pub fn complete(&self, template: &Value) -> Signed {
        let version = RoomVersion::parse(template["room_version"].as_str().unwrap()).unwrap();
        self.sign(version, object(&template["event"]))
    }

    /// Signs any event. What was there of a signature is made anew.
    pub fn sign(&self, version: RoomVersion, mut event: CanonicalJsonObject) -> Signed {
        event.remove("origin");
        event.remove("signatures");
        if version.has_event_id_field() && !event.contains_key("event_id") {
            let id = format!("${:x}:c.test", rand_number());
            event.insert("event_id".to_owned(), CanonicalJsonValue::String(id));
        }
        hash_and_sign_event(version, &mut event, &self.fake.name, &self.fake.key);
        let pdu = Pdu::from_object(version, event.clone()).expect("an event");
        Signed {
            event_id: pdu.event_id.to_string(),
            event,
        }
    }

    /// Hands an event over: `what` is for example `v2/send_join`.
    pub async fn hand(&self, what: &str, room: &str, signed: &Signed) -> (u16, Value) {
        let (room, event) = (escape(room), escape(&signed.event_id));
        let uri = format!("/_matrix/federation/{what}/{room}/{event}");
        self.fake
            .send("a.test", Method::PUT, &uri, &signed.event)
            .await
    }

    /// Joins a user of ours; gives the answer.
    pub async fn join(&self, room: &str, user: &str) -> Value {
        let (status, template) = self.make("join", room, user).await;
        assert_eq!(status, 200, "{template}");
        let signed = self.complete(&template);
        let (status, answer) = self.hand("v2/send_join", room, &signed).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Has a user of ours leave.
    pub async fn leave(&self, room: &str, user: &str) {
        let (status, template) = self.make("leave", room, user).await;
        assert_eq!(status, 200, "{template}");
        let signed = self.complete(&template);
        let answer = self.hand("v2/send_leave", room, &signed).await;
        assert_eq!(answer, (200, json!({})));
    }

    /// Asks the server at `a.test`.
    pub async fn get(&self, uri: &str) -> (u16, Value) {
        self.fake.get("a.test", uri).await
    }
}

/// The events of an array, each with its id, sound in form for the room's version.
pub fn events(version: RoomVersion, array: &Value) -> Vec<Pdu> {
    let events = array.as_array().unwrap_or_else(|| panic!("{array}"));
    let events = events.iter().map(|event| {
        let bytes = event.to_string();
        let event = parse_object(bytes.as_bytes()).expect("canonical JSON");
        Pdu::from_object(version, event).expect("an event of the room's version")
    });
    events.collect()
}

/// What an answer is refused with.
pub fn errcode(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["errcode"].as_str().unwrap_or_default())
}

fn rand_number() -> u128 {
    u128::from_le_bytes(engram::crypto::random::bytes())
}
