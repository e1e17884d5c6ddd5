//! Lies about rooms: events that nobody made, of other rooms, altered, too many,
//! and states that let in whoever told them. What is invented says `lied`, so that
//! it is seen wherever it comes in.

use std::sync::atomic::{AtomicU64, Ordering};

use engram::crypto::signing_key::ServerKey;
use engram::matrix::RoomVersion;
use engram::matrix::event::Pdu;
use engram::matrix::signing::hash_and_sign_event;
use serde_json::{Value, json};

use super::super::fake::object;
use super::fetches::Fetch;
use super::peer::{Lie, Told};
use super::twists::{lie, set, usable};

/// An id of an event that nobody has.
const NOBODYS: &str = "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// Lists in which events, or their ids, are told.
const LISTS: [&str; 5] = ["events", "pdus", "auth_chain", "pdu_ids", "auth_chain_ids"];

/// The lies that fit requests about rooms.
pub fn about(fetch: Fetch) -> Vec<Lie> {
    match fetch {
        Fetch::SendJoin => states(),
        Fetch::OldSendJoin => vec![
            lie("InTheNewForm", |_, truth| truth[1].clone()),
            lie("AnotherStatus", |_, truth| set(truth, "/0", json!("200"))),
            lie("Longer", |_, truth| json!([200, truth[1], truth[1]])),
        ],
        Fetch::SendKnock => vec![
            usable("TenThousandEvents", |_, _| {
                let event = json!({
                    "type": "m.room.name", "state_key": "", "sender": "@x:c.test",
                    "content": { "name": "lied" },
                });
                json!({ "knock_room_state": vec![event; 5_000] })
            }),
            usable(
                "NoEvents",
                |_, _| json!({ "knock_room_state": [1, null, [], { "type": 5 }] }),
            ),
        ],
        Fetch::Invite => invites(),
        Fetch::OldInvite => vec![
            lie("InTheNewForm", |_, truth| truth[1].clone()),
            lie("Unsigned", |told, truth| {
                let mut truth = truth;
                let signatures = truth[1]["event"]["signatures"].as_object_mut();
                signatures.map(|signatures| signatures.remove(told.name.as_str()));
                truth
            }),
        ],
        Fetch::MissingEvents | Fetch::State | Fetch::Event | Fetch::EventAuth | Fetch::Backfill => {
            events(fetch)
        }
        Fetch::StateIds => ids(),
        _ => Vec::new(),
    }
}

/// Makes and signs an event of the room that the peer tells about.
fn made(told: &Told, more: Value) -> Value {
    let place = told.place();
    let mut event = json!({
        "type": "m.room.member", "room_id": place.room, "sender": place.user,
        "state_key": place.user, "depth": 7, "origin_server_ts": 1,
        "content": { "membership": "join", "displayname": "lied" },
        "prev_events": place.tips,
    });
    let fields = more.as_object().expect("an object");
    for (name, value) in fields {
        event[name] = value.clone();
    }
    let is_join = event["type"] == "m.room.member" && event["content"]["membership"] == "join";
    let [of_join, of_others] = &place.cites;
    if event["auth_events"].is_null() {
        event["auth_events"] = json!(if is_join { of_join } else { of_others });
    }
    if event["state_key"].is_null() {
        event
            .as_object_mut()
            .expect("an object")
            .remove("state_key");
    }
    let mut event = object(&event);
    hash_and_sign_event(place.version, &mut event, &told.name, &told.key);
    json!(event)
}

fn id_of(version: RoomVersion, event: &Value) -> String {
    let pdu = Pdu::from_object(version, object(event)).expect("an event");
    pdu.event_id.to_string()
}

/// Every event that is told, changed.
fn each(mut truth: Value, change: impl Fn(&mut Value)) -> Value {
    for list in LISTS.into_iter().chain(["state"]) {
        let events = truth.get_mut(list).and_then(Value::as_array_mut);
        events.into_iter().flatten().for_each(&change);
    }
    truth
}

/// The truth, with more in some of its lists.
fn with(mut truth: Value, lists: &[&str], more: &[Value]) -> Value {
    for list in lists {
        if let Some(events) = truth.get_mut(list).and_then(Value::as_array_mut) {
            events.extend_from_slice(more);
        }
    }
    truth
}

/// All that is told in lists, twice.
fn twice(mut truth: Value) -> Value {
    for list in LISTS.into_iter().chain(["state"]) {
        if let Some(events) = truth.get_mut(list).and_then(Value::as_array_mut) {
            events.extend(events.clone());
        }
    }
    truth
}

/// Every list of events, in place of which others are told.
fn instead(mut truth: Value, events: Vec<Value>) -> Value {
    for list in LISTS {
        if truth.get(list).is_some_and(Value::is_array) {
            truth[list] = json!(events);
        }
    }
    truth
}

/// Events about which it lies that is asked for them.
fn events(fetch: Fetch) -> Vec<Lie> {
    let mut lies = vec![
        lie("BadHash", |_, truth| {
            each(truth, |event| {
                event["content"]["displayname"] = json!("lied")
            })
        }),
        lie("BadSignature", |_, truth| {
            each(truth, |event| {
                event["content"] = json!({ "membership": "join", "displayname": "lied" });
                for (_, keys) in event["signatures"].as_object_mut().into_iter().flatten() {
                    *keys = json!({ "ed25519:fake": "A".repeat(86) });
                }
            })
        }),
        lie("Unsigned", |_, truth| {
            each(truth, |event| event["signatures"] = json!({}))
        }),
        lie("WrongKeyId", |_, truth| {
            each(truth, |event| {
                for (_, keys) in event["signatures"].as_object_mut().into_iter().flatten() {
                    let signature = keys["ed25519:fake"].clone();
                    *keys = json!({ "ed25519:nobodys": signature });
                }
            })
        }),
        lie("OtherRoom", |told, truth| {
            let other = made(told, json!({ "room_id": "!other:c.test" }));
            instead(truth, vec![other; 3])
        }),
        lie("SignedForAnother", |told, truth| {
            let ours = made(
                told,
                json!({
                    "sender": "@carl:a.test", "state_key": "@carl:a.test",
                }),
            );
            instead(truth, vec![ours])
        }),
        lie("SignedByAnotherKey", |told, truth| {
            let mut event = object(&made(told, json!({})));
            event.remove("signatures");
            let key = ServerKey::from_seed([4; 32], "fake");
            hash_and_sign_event(told.place().version, &mut event, &told.name, &key);
            instead(truth, vec![json!(event)])
        }),
        lie("Usurped", |told, truth| {
            let levels = json!({
                "type": "m.room.power_levels", "state_key": "",
                "content": { "users": { told.place().user: 100 }, "lied": 1 },
            });
            instead(truth, vec![made(told, levels)])
        }),
        lie("SecondCreate", |told, truth| {
            let create = json!({
                "type": "m.room.create", "state_key": "", "prev_events": [], "auth_events": [],
                "content": { "room_version": "11", "lied": 1 },
            });
            instead(truth, vec![made(told, create)])
        }),
        lie("DepthBeyondRange", |_, truth| {
            each(truth, |event| event["depth"] = json!(1_u64 << 60))
        }),
        lie("TooManyParents", |told, truth| {
            let event = made(told, json!({ "prev_events": vec![NOBODYS; 1_000] }));
            instead(truth, vec![event])
        }),
        lie("Large", |told, truth| {
            let content = json!({ "membership": "join", "displayname": "lied".repeat(20_000) });
            instead(truth, vec![made(told, json!({ "content": content }))])
        }),
        lie("NoEvents", |_, truth| {
            let odd = [
                json!(1),
                json!(null),
                json!([[]]),
                json!({ "type": 5 }),
                json!("$id"),
            ];
            instead(truth, odd.to_vec())
        }),
        lie("TenThousand", |told, truth| {
            let event = made(told, json!({ "room_id": "!other:c.test" }));
            instead(truth, vec![event; 10_000])
        }),
        lie("FarTooMany", |_, truth| {
            instead(truth, vec![json!({}); 300_000])
        }),
        usable("Twice", |_, truth| twice(truth)),
    ];
    if fetch == Fetch::MissingEvents {
        lies.push(lie("EndlessChain", |told, truth| {
            instead(truth, chain(told, 20))
        }));
        lies.push(lie("FromTheFuture", |told, truth| {
            let event = made(
                told,
                json!({ "origin_server_ts": 9_007_199_254_740_991_u64 }),
            );
            instead(truth, vec![event])
        }));
    }
    lies
}

/// Texts, each of which builds on the one before and the first on nothing that
/// anybody has; others each time.
fn chain(told: &Told, length: usize) -> Vec<Value> {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    let mut before = NOBODYS.to_owned();
    let mut events = Vec::new();
    for _ in 0..length {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let event = made(
            told,
            json!({
                "type": "m.room.message", "state_key": null, "prev_events": [before],
                "content": { "msgtype": "m.text", "body": format!("endless {number}") },
            }),
        );
        before = id_of(told.place().version, &event);
        events.push(event);
    }
    events
}

/// Ids of a state.
fn ids() -> Vec<Lie> {
    vec![
        lie("OfNobody", |_, truth| instead(truth, vec![json!(NOBODYS)])),
        lie("TenThousandOfNobody", |_, truth| {
            let ids = (0..10_000).map(|n| json!(format!("${n:043}")));
            instead(truth, ids.collect())
        }),
        lie("FarTooMany", |_, truth| {
            instead(truth, vec![json!(NOBODYS); 300_000])
        }),
        lie("NoIds", |_, truth| {
            instead(truth, vec![json!("x"), json!(1), json!(null)])
        }),
        lie("LongIds", |_, truth| {
            instead(truth, vec![json!(format!("${}", "x".repeat(5_000)))])
        }),
        usable("Twice", |_, truth| twice(truth)),
        lie(
            "NoState",
            |_, _| json!({ "pdu_ids": [], "auth_chain_ids": [] }),
        ),
        lie("NoCreate", |_, mut truth| {
            truth["auth_chain_ids"] = json!([]);
            let ids = truth["pdu_ids"].as_array_mut();
            ids.expect("a list").truncate(1);
            truth
        }),
    ]
}

/// States of a room, as they are told to who joins.
fn states() -> Vec<Lie> {
    vec![
        lie("Nothing", |_, _| json!({ "state": [], "auth_chain": [] })),
        lie("NoCreate", |_, truth| without(truth, "m.room.create")),
        // What is cited and not told is fetched, and then it is a room as well.
        usable("NoLevels", |_, truth| without(truth, "m.room.power_levels")),
        lie("MembersOmitted", |_, mut truth| {
            truth["members_omitted"] = json!(true);
            truth
        }),
        lie("Unsigned", |_, truth| {
            each(truth, |event| event["signatures"] = json!({}))
        }),
        lie("BadSignatures", |_, truth| {
            each(truth, |event| {
                for (_, keys) in event["signatures"].as_object_mut().into_iter().flatten() {
                    *keys = json!({ "ed25519:fake": "A".repeat(86) });
                }
            })
        }),
        lie("OtherRoom", |_, truth| {
            each(truth, |event| event["room_id"] = json!("!other:c.test"))
        }),
        lie("OtherVersion", |told, truth| {
            let create = made(
                told,
                json!({
                    "type": "m.room.create", "state_key": "", "prev_events": [], "auth_events": [],
                    "content": { "room_version": "9" },
                }),
            );
            let truth = without(truth, "m.room.create");
            with(truth, &["state", "auth_chain"], &[create])
        }),
        lie("WeAreBanned", |told, truth| {
            let ban = made(
                told,
                json!({
                    "state_key": "@carl:a.test", "content": { "membership": "ban" },
                }),
            );
            with(truth, &["state"], &[ban])
        }),
        lie("ClosedRoom", |told, truth| {
            let rules = made(
                told,
                json!({
                    "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "invite" },
                }),
            );
            let truth = without(truth, "m.room.join_rules");
            with(truth, &["state"], &[rules])
        }),
        lie(
            "NoEvents",
            |_, _| json!({ "state": [1, "x", null, []], "auth_chain": [{}] }),
        ),
        lie("NoLists", |_, _| json!({ "state": {}, "auth_chain": null })),
        lie(
            "FarTooMany",
            |_, _| json!({ "state": vec![json!({}); 300_000], "auth_chain": [] }),
        ),
        usable("Twice", |_, truth| twice(truth)),
        usable("ManyOfOneKey", |told, truth| {
            let topics = (0..500).map(|n| {
                made(told, json!({
                    "type": "m.room.topic", "state_key": "", "content": { "topic": n.to_string() },
                }))
            });
            let topics: Vec<Value> = topics.collect();
            with(truth, &["state"], &topics)
        }),
        usable("AnEventOfItsOwn", |told, mut truth| {
            truth["event"] = made(
                told,
                json!({ "type": "m.room.power_levels", "state_key": "" }),
            );
            truth
        }),
    ]
}

/// A state without the events of a type, and what authorises it without them.
fn without(mut truth: Value, kind: &str) -> Value {
    for list in ["state", "auth_chain"] {
        if let Some(events) = truth[list].as_array_mut() {
            events.retain(|event| event["type"] != kind);
        }
    }
    truth
}

/// What comes back for an invite of ours.
fn invites() -> Vec<Lie> {
    vec![
        lie("Unsigned", |told, truth| {
            let mut truth = truth;
            let signatures = truth["event"]["signatures"].as_object_mut();
            signatures.map(|signatures| signatures.remove(told.name.as_str()));
            truth
        }),
        lie("BadSignature", |told, mut truth| {
            let name = told.name.as_str();
            truth["event"]["signatures"][name] = json!({ "ed25519:fake": "A".repeat(86) });
            truth
        }),
        lie("WrongKeyId", |told, mut truth| {
            let name = told.name.as_str();
            let signature = truth["event"]["signatures"][name]["ed25519:fake"].clone();
            truth["event"]["signatures"][name] = json!({ "ed25519:nobodys": signature });
            truth
        }),
        lie("ManyKeyIds", |told, mut truth| {
            let ids = (0..500).map(|n| (format!("ed25519:{n}"), json!("A".repeat(86))));
            let ids = Value::Object(ids.collect());
            truth["event"]["signatures"][told.name.as_str()] = ids;
            truth
        }),
        lie("SignedOtherwise", |told, truth| {
            // A signature, but of what it would have liked the invite to be.
            let mut event = object(&truth["event"]);
            event.remove("signatures");
            let content = object(&json!({ "c": { "membership": "join" } }));
            event.insert("content".to_owned(), content["c"].clone());
            hash_and_sign_event(RoomVersion::V11, &mut event, &told.name, &told.key);
            json!({ "event": event })
        }),
        lie(
            "OtherEvent",
            |told, _| json!({ "event": made(told, json!({})) }),
        ),
        usable("MoreThanAskedFor", |_, mut truth| {
            truth["event"]["content"]["displayname"] = json!("lied");
            truth["event"]["unsigned"] = json!({ "invite_room_state": [] });
            truth["event"]["redacts"] = json!("$victim");
            truth
        }),
    ]
}
