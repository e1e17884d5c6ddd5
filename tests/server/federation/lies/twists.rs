//! Lies about what is meant: about keys, templates and lists. Those about rooms
//! are in `rooms.rs`.

use engram::crypto::signing_key::ServerKey;
use engram::matrix::canonical_json::CanonicalJsonObject;
use engram::matrix::signing::sign_json;
use serde_json::{Value, json};

use super::super::fake::{FAR, object, own_keys};
use super::fetches::Fetch;
use super::peer::{Lie, Told, Twist};
use super::rooms;

/// The lies that fit one kind of request alone.
pub fn about(fetch: Fetch) -> Vec<Lie> {
    let mut lies = match fetch {
        Fetch::Keys => keys(),
        Fetch::Notary => notary(),
        Fetch::MakeJoin | Fetch::MakeKnock | Fetch::MakeLeave => templates(),
        Fetch::Profile => fields(),
        Fetch::Directory => aliases(),
        Fetch::PublicRooms => listings(),
        Fetch::Hierarchy => summaries(),
        Fetch::Send => results(),
        Fetch::PolicySign => recommendations(),
        Fetch::Timestamp => times(),
        _ => rooms::about(fetch),
    };
    if fetch == Fetch::Version {
        lies.push(usable("ForgedLines", |_, _| {
            json!({ "server": { "name": "\u{1b}[2J\nERROR", "version": "x".repeat(1 << 19) } })
        }));
    }
    lies
}

pub fn lie(name: &'static str, twist: Twist) -> Lie {
    Lie::Twist(name, false, twist)
}

/// Of which something may be made use of.
pub fn usable(name: &'static str, twist: Twist) -> Lie {
    Lie::Twist(name, true, twist)
}

/// The truth with another value in one place.
pub fn set(mut truth: Value, pointer: &str, value: Value) -> Value {
    if let Some(place) = truth.pointer_mut(pointer) {
        *place = value;
    }
    truth
}

fn another_key() -> ServerKey {
    ServerKey::from_seed([4; 32], "fake")
}

/// What a server publishes, as somebody changed it and signed again.
fn signed_again(told: &Told, change: impl Fn(&mut CanonicalJsonObject)) -> Value {
    let mut keys = own_keys(told.name.as_str(), &told.key, FAR);
    keys.remove("signatures");
    change(&mut keys);
    sign_json(&mut keys, &told.name, &told.key);
    json!(keys)
}

fn keys() -> Vec<Lie> {
    vec![
        lie("OtherServer", |told, _| {
            json!(own_keys("b.test", &told.key, FAR))
        }),
        lie("Unsigned", |_, truth| set(truth, "/signatures", json!({}))),
        lie("SignedByAnother", |told, truth| {
            let theirs = json!(own_keys(told.name.as_str(), &another_key(), FAR));
            set(truth, "/signatures", theirs["signatures"].clone())
        }),
        lie("AlteredAfterSigning", |told, _| {
            let old = json!(own_keys(told.name.as_str(), &told.key, 1));
            set(old, "/valid_until_ts", json!(FAR))
        }),
        // Good until a moment ago: CVE-2024-6299.
        lie("AnOlderAnswer", |told, _| {
            json!(own_keys(told.name.as_str(), &told.key, 1_000_000_000_000))
        }),
        // Another key under the id that signs.
        lie("OtherKey", |told, _| {
            json!(own_keys(told.name.as_str(), &another_key(), FAR))
        }),
        lie("KeyOfBefore", |told, _| {
            signed_again(told, |keys| {
                let used = json!({ "key": told.key.public_base64(), "expired_ts": 1 });
                let old = object(&json!({ "old": { told.key.key_id(): used } }));
                keys.insert("old_verify_keys".to_owned(), old["old"].clone());
                let none = object(&json!({ "none": {} }));
                keys.insert("verify_keys".to_owned(), none["none"].clone());
            })
        }),
        lie("NoExpiry", |told, _| {
            signed_again(told, |keys| drop(keys.remove("valid_until_ts")))
        }),
        lie("NoKeys", |_, truth| set(truth, "/verify_keys", json!({}))),
        lie("ShortKey", |told, _| {
            signed_again(told, |keys| {
                let short = object(&json!({ "keys": { told.key.key_id(): { "key": "AAAA" } } }));
                keys.insert("verify_keys".to_owned(), short["keys"].clone());
            })
        }),
        usable("TenThousandKeys", |told, _| {
            signed_again(told, |keys| {
                let mut many: Vec<_> = (0..10_000)
                    .map(|n| {
                        (
                            format!("ed25519:{n}"),
                            json!({ "key": told.key.public_base64() }),
                        )
                    })
                    .collect();
                many.push((
                    told.key.key_id().to_owned(),
                    json!({ "key": told.key.public_base64() }),
                ));
                let many: serde_json::Map<_, _> = many.into_iter().collect();
                keys.insert(
                    "verify_keys".to_owned(),
                    object(&json!({ "k": many }))["k"].clone(),
                );
            })
        }),
    ]
}

fn notary() -> Vec<Lie> {
    vec![
        lie("KnowsNothing", |_, _| json!({ "server_keys": [] })),
        lie("OtherServer", |told, _| {
            let mut keys = own_keys("b.test", &told.key, FAR);
            sign_json(&mut keys, &told.name, &told.key);
            json!({ "server_keys": [keys] })
        }),
        lie("NotSignedByTheNotary", |told, truth| {
            let name = told.name.as_str();
            let mut truth = truth;
            let signatures = truth["server_keys"][0]["signatures"].as_object_mut();
            signatures.map(|signatures| signatures.remove(name));
            truth
        }),
        lie("SignedByTheNotaryAlone", |told, truth| {
            let name = told.name.as_str().to_owned();
            let mut truth = truth;
            let signatures = truth["server_keys"][0]["signatures"].as_object_mut();
            if let Some(signatures) = signatures {
                signatures.retain(|server, _| *server == name);
            }
            truth
        }),
        lie("MadeUpKey", |told, truth| {
            let name = truth["server_keys"][0]["server_name"]
                .as_str()
                .unwrap_or_default();
            let mut keys = own_keys(name, &another_key(), FAR);
            sign_json(&mut keys, &told.name, &told.key);
            json!({ "server_keys": [keys] })
        }),
        lie("AlteredAfterSigning", |_, truth| {
            set(truth, "/server_keys/0/valid_until_ts", json!(FAR + 1))
        }),
        lie("Expired", |told, truth| {
            let name = truth["server_keys"][0]["server_name"]
                .as_str()
                .unwrap_or_default();
            let mut keys = own_keys(name, &told.key, 1_000_000_000_000);
            sign_json(&mut keys, &told.name, &told.key);
            json!({ "server_keys": [keys] })
        }),
        lie(
            "NoObjects",
            |_, _| json!({ "server_keys": [1, null, "keys", [[]]] }),
        ),
        lie("TenThousandLies", |told, _| {
            let keys = own_keys("b.test", &told.key, FAR);
            json!({ "server_keys": vec![keys; 2_000] })
        }),
        usable("TheTruthManyTimes", |_, truth| {
            let keys = truth["server_keys"][0].clone();
            json!({ "server_keys": vec![keys; 1_000] })
        }),
    ]
}

/// CVE-2026-24471: servers signed whatever event a template held.
fn templates() -> Vec<Lie> {
    vec![
        lie("OtherType", |_, t| {
            set(t, "/event/type", json!("m.room.power_levels"))
        }),
        lie("OtherRoom", |_, t| {
            set(t, "/event/room_id", json!("!other:c.test"))
        }),
        lie("OtherSender", |_, t| {
            set(t, "/event/sender", json!("@other:a.test"))
        }),
        lie("OtherUser", |_, t| {
            set(t, "/event/state_key", json!("@other:a.test"))
        }),
        lie("OtherMembership", |_, t| {
            set(t, "/event/content/membership", json!("ban"))
        }),
        lie("NoContent", |_, t| set(t, "/event/content", json!("join"))),
        lie("NegativeDepth", |_, t| set(t, "/event/depth", json!(-5))),
        lie("DepthBeyondRange", |_, t| {
            set(t, "/event/depth", json!(1_u64 << 60))
        }),
        lie("NoPast", |_, t| set(t, "/event/prev_events", json!([]))),
        lie("NoAuthority", |_, t| {
            set(t, "/event/auth_events", json!([]))
        }),
        lie("ReferencesOfOtherForm", |_, t| {
            set(t, "/event/auth_events", json!([["$create", {}]]))
        }),
        lie("TenThousandParents", |_, t| {
            set(
                t,
                "/event/prev_events",
                json!(vec!["$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"; 10_000]),
            )
        }),
        lie("LongParent", |_, t| {
            set(
                t,
                "/event/prev_events",
                json!([format!("${}", "x".repeat(10_000))]),
            )
        }),
        lie("EventOfOtherShape", |_, t| set(t, "/event", json!([]))),
        lie("UnknownVersion", |_, t| {
            set(t, "/room_version", json!("no version"))
        }),
        lie("VersionOfOtherShape", |_, t| {
            set(t, "/room_version", json!(11))
        }),
        lie("OtherVersion", |_, t| set(t, "/room_version", json!("1"))),
        // Versions before 8 know nothing of it, and it is not taken over.
        usable("VouchedForByAnother", |_, t| {
            let content = json!({
                "membership": t["event"]["content"]["membership"],
                "join_authorised_via_users_server": "@x:b.test",
            });
            set(t, "/event/content", content)
        }),
        // What is added is not signed, which the watch looks at.
        usable("MoreThanAskedFor", |_, mut t| {
            t["event"]["redacts"] = json!("$victim");
            t["event"]["evil"] = json!(true);
            t["event"]["unsigned"] = json!({ "age": 1 });
            t["event"]["content"]["third_party_invite"] = json!({ "signed": {} });
            t
        }),
    ]
}

fn fields() -> Vec<Lie> {
    vec![
        usable(
            "Large",
            |_, _| json!({ "displayname": "x".repeat(900 << 10) }),
        ),
        usable(
            "OtherTypes",
            |_, _| json!({ "displayname": 1, "avatar_url": [{}], "x": null }),
        ),
        usable("TenThousandFields", |_, _| {
            let fields = (0..10_000).map(|n| (n.to_string(), json!(n)));
            Value::Object(fields.collect())
        }),
        usable(
            "ForgedLines",
            |_, _| json!({ "displayname": "\u{1b}[2J\nERROR \u{202e}" }),
        ),
    ]
}

fn aliases() -> Vec<Lie> {
    vec![
        lie("NoRoom", |_, t| set(t, "/room_id", json!("theirs"))),
        lie("LongRoom", |_, t| {
            set(t, "/room_id", json!(format!("!{}", "x".repeat(10_000))))
        }),
        lie("NoServers", |_, t| set(t, "/servers", json!(["a/b", ""]))),
        usable("ManyServers", |_, t| {
            set(t, "/servers", json!(vec!["b.test"; 50_000]))
        }),
        usable("OurRoom", |_, t| set(t, "/room_id", json!("!ours:a.test"))),
    ]
}

fn listings() -> Vec<Lie> {
    vec![
        lie("TenThousandRooms", |_, t| {
            let room = t["chunk"][0].clone();
            json!({ "chunk": vec![room; 10_000] })
        }),
        lie("NegativeMembers", |_, t| {
            set(t, "/chunk/0/num_joined_members", json!(-1))
        }),
        lie("NoRoom", |_, t| {
            set(t, "/chunk/0/room_id", json!("@user:b.test"))
        }),
        usable("LongName", |_, t| {
            set(t, "/chunk/0/name", json!("x".repeat(1 << 20)))
        }),
    ]
}

fn summaries() -> Vec<Lie> {
    vec![
        lie("OtherRoom", |_, t| {
            set(t, "/room/room_id", json!("!other:c.test"))
        }),
        lie("NoRoom", |_, t| set(t, "/room", json!([]))),
        lie("NegativeMembers", |_, t| {
            set(t, "/room/num_joined_members", json!(-1))
        }),
        usable("TenThousandChildren", |_, t| {
            let child = json!({
                "type": "m.space.child", "state_key": "!x:b.test", "sender": "@x:b.test",
                "origin_server_ts": 1, "content": { "via": ["b.test"] },
            });
            set(t, "/room/children_state", json!(vec![child; 10_000]))
        }),
        usable("ManyAllowedRooms", |_, mut t| {
            t["room"]["allowed_room_ids"] = json!(vec!["!x:b.test"; 10_000]);
            t
        }),
    ]
}

fn results() -> Vec<Lie> {
    vec![
        usable(
            "AllRefused",
            |_, _| json!({ "pdus": { "$any": { "error": "no" } } }),
        ),
        usable("TenThousandResults", |_, _| {
            let results = (0..10_000).map(|n| (format!("${n}"), json!({ "error": "no" })));
            json!({ "pdus": Value::Object(results.collect()) })
        }),
        usable(
            "ForgedLines",
            |_, _| json!({ "pdus": { "$\n": { "error": "\u{1b}[2J\n" } } }),
        ),
    ]
}

fn times() -> Vec<Lie> {
    vec![
        lie("NobodysEvent", |_, t| {
            set(
                t,
                "/event_id",
                json!("$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            )
        }),
        lie("NoEvent", |_, t| set(t, "/event_id", json!("theirs"))),
        lie("LongEvent", |_, t| {
            set(t, "/event_id", json!(format!("${}", "x".repeat(100_000))))
        }),
        lie("NegativeTime", |_, t| {
            set(t, "/origin_server_ts", json!(-1))
        }),
        lie("OtherTime", |_, t| set(t, "/origin_server_ts", json!(5))),
        lie("TimeBeyondRange", |_, t| {
            set(t, "/origin_server_ts", json!(u64::MAX))
        }),
    ]
}

fn recommendations() -> Vec<Lie> {
    vec![
        lie("OtherKey", |told, _| {
            let event = json!({ "type": "m.room.message", "content": {} });
            told.signed_as(&another_key(), &told.name, &event)
        }),
        lie("OfAnotherEvent", |told, _| {
            told.recommended(&json!({ "type": "m.room.message", "content": {} }))
        }),
        lie(
            "UnderAnotherName",
            |told, truth| json!({ "b.test": truth[told.name.as_str()] }),
        ),
        lie("UnderAnotherId", |told, truth| {
            let signature = &truth[told.name.as_str()]["ed25519:policy_server"];
            json!({ told.name.as_str(): { "ed25519:other": signature } })
        }),
        lie(
            "NoSignature",
            |told, _| json!({ told.name.as_str(): { "ed25519:policy_server": "" } }),
        ),
        lie(
            "LongSignature",
            |told, _| json!({ told.name.as_str(): { "ed25519:policy_server": "A".repeat(60_000) } }),
        ),
        usable("WithOthers", |_, mut truth| {
            truth["a.test"] = json!({ "ed25519:forged": "AAAA" });
            truth
        }),
    ]
}
