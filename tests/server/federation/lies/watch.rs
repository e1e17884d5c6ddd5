//! What our key signed, as far as the hostile servers see it: nothing beside
//! what a server signs for its own users and itself may be there.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde_json::{Map, Value};

/// The server whose signatures are looked at.
const OURS: &str = "a.test";
/// Fields of a member event that we sign for a room that lives elsewhere.
const MEMBER_FIELDS: [&str; 12] = [
    "auth_events",
    "content",
    "depth",
    "event_id",
    "hashes",
    "origin_server_ts",
    "prev_events",
    "room_id",
    "sender",
    "signatures",
    "state_key",
    "type",
];

/// See the module.
#[derive(Default)]
pub struct Watch {
    /// Signatures by what they are for.
    allowed: Mutex<BTreeMap<&'static str, usize>>,
    forbidden: Mutex<Vec<String>>,
}

impl Watch {
    /// Looks at a body that we sent to that path, or answered.
    pub fn look(&self, path: &str, body: &Value) {
        match body {
            Value::Object(object) => {
                if body["signatures"][OURS].is_object() {
                    self.note(path, object);
                }
                object.values().for_each(|value| self.look(path, value));
            }
            Value::Array(values) => values.iter().for_each(|value| self.look(path, value)),
            _ => {}
        }
    }

    fn note(&self, path: &str, object: &Map<String, Value>) {
        match kind(path, object) {
            Some(kind) => *self.allowed.lock().entry(kind).or_default() += 1,
            None => {
                let seen = format!("{path}: {}", Value::Object(object.clone()));
                self.forbidden.lock().push(seen);
            }
        }
    }

    /// How many signatures were seen, by what they are for; panics if one is for
    /// what is never signed.
    pub fn report(&self) -> BTreeMap<&'static str, usize> {
        let forbidden = self.forbidden.lock();
        assert!(forbidden.is_empty(), "signed: {forbidden:#?}");
        self.allowed.lock().clone()
    }
}

/// What a signature of ours is for; none if for nothing that we sign.
fn kind(path: &str, object: &Map<String, Value>) -> Option<&'static str> {
    let text = |field: &str| object.get(field).and_then(Value::as_str);
    if object.contains_key("verify_keys") {
        let server = text("server_name")?;
        let is_theirs = object.get("signatures")?.get(server).is_some();
        return match server == OURS {
            true => Some("our keys"),
            // A notary passes on what a server signed itself.
            false if path.contains("/key/v2/query") && is_theirs => Some("keys of others"),
            false => None,
        };
    }
    let membership = object.get("content")?.get("membership");
    let membership = membership.and_then(Value::as_str);
    let is_ours = |user: &str| user.ends_with(":a.test");
    let is_member = text("type")? == "m.room.member";
    let handshakes = [("join", "join"), ("leave", "leave"), ("knock", "knock")];
    for (what, wanted) in handshakes {
        if path.contains(&format!("/send_{what}/")) {
            let fits = is_member
                && membership == Some(wanted)
                && is_ours(text("sender")?)
                && text("sender") == text("state_key")
                && object.keys().all(|field| MEMBER_FIELDS.contains(&&**field));
            return fits.then_some("members of rooms elsewhere");
        }
    }
    if path.contains("/invite/") && !is_ours(text("sender")?) {
        let fits = is_member && membership == Some("invite") && is_ours(text("state_key")?);
        return fits.then_some("invites of our users by others");
    }
    is_ours(text("sender")?).then_some("events of our users")
}

#[test]
fn signatures_are_told_apart() {
    use serde_json::json;
    let event = |kind: &str, sender: &str, membership: &str| {
        json!({
            "type": kind, "sender": sender, "state_key": "@x:a.test",
            "content": { "membership": membership }, "signatures": { "a.test": {} },
        })
    };
    let (join, invite) = ("/v2/send_join/!r/$e", "/v2/invite/!r/$e");
    let (member, us, them) = ("m.room.member", "@x:a.test", "@x:c.test");
    let good = Watch::default();
    good.look(join, &event(member, us, "join"));
    good.look(
        invite,
        &json!([200, { "event": event(member, them, "invite") }]),
    );
    good.look(
        "/v1/send/1",
        &json!({ "pdus": [event("m.room.message", us, "")] }),
    );
    assert_eq!(good.report().values().sum::<usize>(), 3);
    for (path, event) in [
        (join, event("m.room.power_levels", us, "join")),
        (join, event(member, us, "ban")),
        (join, event(member, them, "join")),
        (invite, event(member, them, "join")),
        (invite, event("m.room.message", them, "invite")),
        (
            "/key/v2/query",
            json!({ "server_name": "c.test", "verify_keys": {}, "signatures": { "a.test": {} } }),
        ),
        ("/v1/send/1", event("m.room.message", them, "")),
    ] {
        let bad = Watch::default();
        bad.look(path, &event);
        assert_eq!(bad.forbidden.lock().len(), 1, "{path} {event}");
    }
}
