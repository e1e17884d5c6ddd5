//! A user of a server of the test's own, in a room of a real server: makes
//! events that build on one another, and sends them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use engram::clock::now_ms;
use engram::matrix::RoomVersion;
use engram::matrix::build::{EventRef, ProtoEvent, build_and_sign};
use reqwest::Method;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};

use super::fake::{Fake, object};
use super::library::Library;
use crate::harness::{Api, escape};

/// An event as it is sent.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: String,
    pub json: Value,
    reference: EventRef,
}

/// See the module.
pub struct Guest<'a> {
    pub fake: &'a Fake,
    pub version: RoomVersion,
    pub room: String,
    pub user: String,
    /// What the next event builds on, and how deep that lies.
    pub tips: Vec<EventRef>,
    pub depth: u64,
    /// Current state as far as the guest knows it.
    state: HashMap<(String, String), EventRef>,
    /// Where its server looks up what it is asked for.
    pub library: Library,
}

impl<'a> Guest<'a> {
    /// Looks at a room through the eyes of a local user who is in it.
    pub async fn look(fake: &'a Fake, local: &Api, room: &str, user: &str) -> Guest<'a> {
        let path = format!("/_matrix/client/v3/rooms/{}", escape(room));
        let events = local.get(&format!("{path}/state")).await.ok();
        let events = events.as_array().expect("a list").clone();
        let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let state = events.iter().map(|event| {
            let key = (text(event, "type"), text(event, "state_key"));
            (key, reference(&text(event, "event_id")))
        });
        let create = events
            .iter()
            .find(|event| event["type"] == "m.room.create")
            .expect("a create event");
        let version = create["content"]["room_version"].as_str().unwrap_or("1");
        let last = local
            .get(&format!("{path}/messages?dir=b&limit=1"))
            .await
            .ok();
        Guest {
            fake,
            version: RoomVersion::parse(version).expect("a version"),
            room: room.to_owned(),
            user: format!("@{user}:{}", fake.name),
            tips: vec![reference(&text(&last["chunk"][0], "event_id"))],
            depth: 1_000,
            state: state.collect(),
            library: Library::default(),
        }
    }

    /// Makes a public room of its own, with the guest in it.
    pub fn found(fake: &'a Fake, library: Library, version: RoomVersion, user: &str) -> Guest<'a> {
        let user = format!("@{user}:{}", fake.name);
        let mut guest = Guest {
            fake,
            version,
            room: format!("!theirs:{}", fake.name),
            user: user.clone(),
            tips: Vec::new(),
            depth: 1,
            state: HashMap::new(),
            library,
        };
        let create = json!({ "creator": user, "room_version": version.as_str() });
        guest.event("m.room.create", Some(""), create);
        guest.member("join");
        let levels = json!({ "users": { user: 100 } });
        guest.event("m.room.power_levels", Some(""), levels);
        guest.event(
            "m.room.join_rules",
            Some(""),
            json!({ "join_rule": "public" }),
        );
        guest
    }

    /// The same, and joins the room, which must be public.
    pub async fn enter(fake: &'a Fake, local: &Api, room: &str, user: &str) -> Guest<'a> {
        let mut guest = Guest::look(fake, local, room, user).await;
        let join = guest.member("join");
        guest.sent(&[&join]).await;
        guest
    }

    /// The next event, which those after it build on.
    pub fn event(&mut self, kind: &str, state_key: Option<&str>, content: Value) -> Event {
        let event = self.aside(kind, state_key, content);
        self.tips = vec![event.reference.clone()];
        self.depth += 1;
        if let Some(state_key) = state_key {
            let key = (kind.to_owned(), state_key.to_owned());
            self.state.insert(key, event.reference.clone());
        }
        event
    }

    /// An event on which no other builds yet.
    pub fn aside(&self, kind: &str, state_key: Option<&str>, content: Value) -> Event {
        static LOCALPARTS: AtomicU64 = AtomicU64::new(0);
        let number = LOCALPARTS.fetch_add(1, Ordering::Relaxed);
        let proto = ProtoEvent {
            room_id: Some(OwnedRoomId::try_from(self.room.as_str()).unwrap()),
            sender: OwnedUserId::try_from(self.user.as_str()).unwrap(),
            kind: kind.into(),
            state_key: state_key.map(Into::into),
            content: object(&content),
            redacts: None,
            prev_events: self.tips.clone(),
            auth_events: self.auth_events(kind, state_key, &content["membership"]),
            depth: self.depth,
            origin_server_ts: now_ms(),
            event_localpart: Some(format!("g{number}").into()),
        };
        let built = build_and_sign(self.version, proto, &self.fake.name, &self.fake.key).unwrap();
        let id = built.event_id.to_string();
        let json = serde_json::from_slice(&built.json).unwrap();
        let state = self.state.values().map(|event| event.event_id.to_string());
        self.library.add(&id, &json, state.collect());
        Event {
            id,
            json,
            reference: built.reference(),
        }
    }

    /// What events of a type cite that the guest sends; member events are joins.
    pub fn cites(&self, kind: &str) -> Vec<String> {
        let cited = self.auth_events(kind, Some(&self.user), &json!("join"));
        cited
            .iter()
            .map(|cited| cited.event_id.to_string())
            .collect()
    }

    /// What a member event of a user would cite who is not in the room.
    pub fn cited_by_newcomer(&self) -> Vec<String> {
        let own = self
            .state
            .get(&("m.room.member".to_owned(), self.user.clone()));
        let own = own.map(|own| own.event_id.to_string());
        let cited = self.cites("m.room.member").into_iter();
        cited.filter(|cited| Some(cited) != own.as_ref()).collect()
    }

    /// The next event builds on this one.
    pub fn go_on_from(&mut self, event: &Event) {
        self.tips = vec![event.reference.clone()];
    }

    /// The next event, a text.
    pub fn text(&mut self, body: &str) -> Event {
        self.event(
            "m.room.message",
            None,
            json!({ "msgtype": "m.text", "body": body }),
        )
    }

    /// The next event, of the guest's own membership.
    pub fn member(&mut self, membership: &str) -> Event {
        let user = self.user.clone();
        self.event(
            "m.room.member",
            Some(&user),
            json!({ "membership": membership }),
        )
    }

    /// Sends events in one transaction; the results by event id.
    pub async fn send(&self, events: &[&Event]) -> Value {
        let pdus: Vec<&Value> = events.iter().map(|event| &event.json).collect();
        let (status, answer) = transaction(self.fake, json!(pdus), json!([])).await;
        assert_eq!(status, 200, "{answer}");
        answer["pdus"].clone()
    }

    /// The same, and asserts that none was refused.
    pub async fn sent(&self, events: &[&Event]) {
        let results = self.send(events).await;
        for event in events {
            assert_eq!(results[&event.id], json!({}), "{}", event.json);
        }
    }

    /// Server-server API, *Auth events selection*.
    fn auth_events(
        &self,
        kind: &str,
        state_key: Option<&str>,
        membership: &Value,
    ) -> Vec<EventRef> {
        let mut keys = vec![("m.room.power_levels", ""), ("m.room.member", &*self.user)];
        if !self.version.room_id_is_create_hash() {
            keys.push(("m.room.create", ""));
        }
        if kind == "m.room.member" {
            if ["join", "invite", "knock"].contains(&membership.as_str().unwrap_or_default()) {
                keys.push(("m.room.join_rules", ""));
            }
            let target = state_key.filter(|target| *target != self.user);
            keys.extend(target.map(|target| ("m.room.member", target)));
        }
        let found = keys.iter().filter_map(|(kind, state_key)| {
            let key = ((*kind).to_owned(), (*state_key).to_owned());
            self.state.get(&key).cloned()
        });
        found.collect()
    }
}

fn reference(event_id: &str) -> EventRef {
    OwnedEventId::try_from(event_id).unwrap().into()
}

/// Sends a transaction of that server to `a.test`, under an id of its own.
pub async fn transaction(fake: &Fake, pdus: Value, edus: Value) -> (u16, Value) {
    static TRANSACTIONS: AtomicU64 = AtomicU64::new(0);
    let id = TRANSACTIONS.fetch_add(1, Ordering::Relaxed);
    let body = json!({
        "origin": fake.name,
        "origin_server_ts": 1,
        "pdus": pdus,
        "edus": edus,
    });
    let uri = format!("/_matrix/federation/v1/send/t{id}");
    fake.send("a.test", Method::PUT, &uri, &object(&body)).await
}

/// An EDU.
pub fn edu(kind: &str, content: Value) -> Value {
    json!({ "edu_type": kind, "content": content })
}
