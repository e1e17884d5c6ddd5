//! Random room events as a correct writer would append them, the same for the
//! same seed: rooms of version 11 with joins, state, messages, redactions,
//! repeated requests, and events that the auth rules refuse.

use std::collections::BTreeMap;

use engram::logs::log::NewRecord;
use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::input::{InputRoomEvent, InputRoomPublished, Placement, Transaction};
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::canonical_json::redact;
use ruma::{CanonicalJsonObject, RoomVersionId};
use serde_json::{Value, json};

use crate::records::{Keyed, Random, hash, keyed};

/// What the events of a room build on.
pub struct Room {
    id: String,
    last: Option<String>,
    depth: u64,
    /// Current state: type and state key to event id.
    state: BTreeMap<(String, String), String>,
    members: Vec<String>,
    messages: Vec<String>,
    /// Of the last message, to be repeated.
    repeat: Option<Keyed>,
}

struct Draft<'a> {
    sender: &'a str,
    kind: &'a str,
    state_key: Option<&'a str>,
    content: Value,
    redacts: Option<String>,
}

impl Room {
    /// A room and the records that make it.
    pub fn create(number: u64, random: &mut Random) -> (Room, Vec<Keyed>) {
        let mut room = Room {
            id: format!("!room{number}:example.org"),
            last: None,
            depth: 0,
            state: BTreeMap::new(),
            members: vec!["@creator:example.org".to_owned()],
            messages: Vec::new(),
            repeat: None,
        };
        let creator = "@creator:example.org";
        let made = [
            ("m.room.create", "", json!({ "room_version": "11" })),
            ("m.room.member", creator, json!({ "membership": "join" })),
            (
                "m.room.power_levels",
                "",
                json!({ "users": { creator: 100 }, "state_default": 50 }),
            ),
            ("m.room.join_rules", "", json!({ "join_rule": "public" })),
        ];
        let records = made.map(|(kind, state_key, content)| {
            let draft = Draft {
                sender: creator,
                kind,
                state_key: Some(state_key),
                content,
                redacts: None,
            };
            room.event(random, draft, true)
        });
        (room, records.into_iter().collect())
    }

    /// The next record.
    pub fn next(&mut self, random: &mut Random) -> Keyed {
        let member = random.below(self.members.len() as u64) as usize;
        let sender = self.members[member].clone();
        let newcomer = format!("@guest{}:example.org", random.below(30));
        let message = |random: &mut Random| json!({ "body": format!("hello {}", random.next()) });
        match random.below(20) {
            0..2 if !self.members.contains(&newcomer) => {
                let content = json!({ "membership": "join" });
                self.members.push(newcomer.clone());
                self.state_event(random, &newcomer, "m.room.member", &newcomer, content)
            }
            2 if self.members.len() > 3 && member > 0 => {
                let content = json!({ "membership": "leave" });
                self.members.remove(member);
                self.state_event(random, &sender, "m.room.member", &sender, content)
            }
            3 => {
                let content = json!({ "topic": format!("topic {}", random.below(9)) });
                self.state_event(random, "@creator:example.org", "m.room.topic", "", content)
            }
            4 => {
                // A stranger may not speak, a guest may not name the room.
                let stranger = random.below(2) == 0;
                let draft = Draft {
                    sender: if stranger {
                        "@stranger:example.org"
                    } else {
                        &newcomer
                    },
                    kind: "m.room.name",
                    state_key: Some(""),
                    content: json!({ "name": "mine" }),
                    redacts: None,
                };
                self.event(random, draft, false)
            }
            5 if !self.messages.is_empty() => {
                let at = random.below(self.messages.len() as u64) as usize;
                let redacts = self.messages.swap_remove(at);
                let draft = Draft {
                    sender: "@creator:example.org",
                    kind: "m.room.redaction",
                    state_key: None,
                    content: json!({ "redacts": redacts }),
                    redacts: Some(redacts),
                };
                self.event(random, draft, true)
            }
            6 if self.repeat.is_some() => self.repeat.take().expect("looked at above"),
            7 => {
                let published = random.below(2) == 0;
                let envelope = NewEnvelope {
                    key: &self.id,
                    room_id: Some(&self.id),
                    ..NewEnvelope::default()
                };
                keyed(
                    Kind::InputRoomPublished,
                    &InputRoomPublished { published },
                    envelope,
                )
            }
            8 => self.plain_message(random),
            _ => {
                let content = message(random);
                self.message(random, &sender, content)
            }
        }
    }

    /// A plain message of the room's creator.
    pub fn plain_message(&mut self, random: &mut Random) -> Keyed {
        let text = format!("plain {}", random.next());
        self.say(random, &text)
    }

    /// A text of the room's creator.
    pub fn say(&mut self, random: &mut Random, text: &str) -> Keyed {
        let content = json!({ "body": text, "msgtype": "m.text" });
        self.message(random, "@creator:example.org", content)
    }

    fn message(&mut self, random: &mut Random, sender: &str, content: Value) -> Keyed {
        let draft = Draft {
            sender,
            kind: "m.room.message",
            state_key: None,
            content,
            redacts: None,
        };
        let made = self.event(random, draft, true);
        self.messages.extend(self.last.clone());
        self.repeat = Some(Keyed {
            key: made.key.clone(),
            record: NewRecord {
                kind: made.record.kind,
                payload: made.record.payload.clone(),
                digest: made.record.digest,
            },
        });
        made
    }

    fn state_event(
        &mut self,
        random: &mut Random,
        sender: &str,
        kind: &str,
        state_key: &str,
        content: Value,
    ) -> Keyed {
        let draft = Draft {
            sender,
            kind,
            state_key: Some(state_key),
            content,
            redacts: None,
        };
        self.event(random, draft, true)
    }

    /// Makes the record. What will be refused nothing builds on.
    fn event(&mut self, random: &mut Random, draft: Draft<'_>, allowed: bool) -> Keyed {
        let id = format!("${:016x}{:016x}", random.next(), random.next());
        let prev_events: Vec<String> = self.last.iter().cloned().collect();
        let auth_events = self.auth_events(&draft);
        let depth = self.depth + 1;
        let mut event = json!({
            "type": draft.kind, "sender": draft.sender, "content": draft.content,
            "room_id": self.id, "prev_events": prev_events, "auth_events": auth_events,
            "depth": depth, "origin_server_ts": 1, "hashes": {}, "signatures": {},
        });
        if let Some(state_key) = draft.state_key {
            event["state_key"] = json!(state_key);
        }
        let body_part = serde_json::to_vec(&event).unwrap();
        let canonical: CanonicalJsonObject = serde_json::from_slice(&body_part).unwrap();
        let rules = RoomVersionId::V11.rules().unwrap();
        let skeleton = redact(canonical, &rules.redaction, None).unwrap();
        let skeleton = serde_json::to_vec(&skeleton).unwrap();
        let membership = draft.content["membership"].as_str().map(str::to_owned);
        let body = codec::encode(&InputRoomEvent {
            placement: Placement::New,
            depth,
            prev_events,
            auth_events,
            redacts: draft.redacts,
            relation: None,
            membership,
            transaction: Some(Transaction {
                device_id: "DEVICE".to_owned(),
                txn_id: format!("txn{}", random.next()),
            }),
            verified_with: Vec::new(),
            batch_index: 0,
            batch_count: 1,
        });
        let mut idempotency = [0; 16];
        idempotency.copy_from_slice(&hash(random.next())[..16]);
        let envelope = NewEnvelope {
            received_us: 5,
            origin_ts_ms: 1,
            idempotency,
            key: &self.id,
            room_id: Some(&self.id),
            event_id: Some(&id),
            sender: Some(draft.sender),
            event_type: Some(draft.kind),
            state_key: draft.state_key,
            room_version: Some("11"),
            body: &body,
            skeleton: Part::Present(&skeleton),
            body_part: Part::Present(&body_part),
            salt: hash(random.next()),
            ..NewEnvelope::default()
        };
        let made = Keyed {
            key: self.id.clone(),
            record: NewRecord::new(Kind::InputRoomEvent, Source::Client, &envelope),
        };
        if allowed {
            if let Some(state_key) = draft.state_key {
                let key = (draft.kind.to_owned(), state_key.to_owned());
                self.state.insert(key, id.clone());
            }
            self.last = Some(id);
            self.depth = depth;
        }
        made
    }

    /// Source: server-server API, *Auth events selection*.
    fn auth_events(&self, draft: &Draft<'_>) -> Vec<String> {
        let mut wanted = vec![
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.member", draft.sender),
        ];
        if draft.kind == "m.room.member" {
            wanted.push(("m.room.join_rules", ""));
        }
        let found = wanted.into_iter();
        found
            .filter_map(|(kind, key)| self.state.get(&(kind.to_owned(), key.to_owned())).cloned())
            .collect()
    }
}
