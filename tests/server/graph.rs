//! Rooms as graphs: events that build on any earlier ones, with the state that
//! their sender believes in, as the records that a correct writer makes of them.
//!
//! Nothing here resolves states: where forks meet, a sender believes in some
//! union of them. The fold decides for itself what it makes of that.

use std::sync::Arc;

use engram::logs::log::NewRecord;
use engram::matrix::RoomVersion;
use engram::matrix::canonical_json::CanonicalJsonObject;
use engram::matrix::redaction::{auth_extract, redact};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::input::{
    GivenState, InputRoomEvent, InputStateAbandoned, InputStateBegin, InputStateChunk,
    InputStateCommit, Placement,
};
use log_format::record::{Kind, NewEnvelope, Source};
use serde_json::{Value, json};

use crate::records::{Keyed, Random};

pub const CREATOR: &str = "@creator:example.org";

/// The event that holds a state entry.
#[derive(Clone, PartialEq)]
pub struct Held {
    pub id: Arc<str>,
    /// The membership or the join rule that it sets, else empty.
    pub word: Arc<str>,
}

pub type State = OrdMap<(Arc<str>, Arc<str>), Held>;

/// A place to build on: an event, and the state after it as far as its sender knows.
#[derive(Clone)]
pub struct Tip {
    pub ids: Vec<Arc<str>>,
    pub depth: u64,
    pub state: State,
}

impl Tip {
    /// The event that holds a key.
    pub fn held(&self, kind: &str, state_key: &str) -> Option<&Held> {
        self.state.get(&(kind.into(), state_key.into()))
    }

    /// The membership that a user has here; empty if none.
    pub fn membership(&self, user: &str) -> &str {
        self.word("m.room.member", user)
    }

    /// The membership or join rule that a key has here; empty if none.
    pub fn word(&self, kind: &str, state_key: &str) -> &str {
        self.held(kind, state_key).map_or("", |held| &held.word)
    }

    /// Several places at once: what they disagree on goes to the greater id.
    pub fn of(tips: &[&Tip]) -> Tip {
        let mut merged = tips[0].clone();
        for tip in &tips[1..] {
            let ours = merged.state.clone();
            for difference in ours.diff(&tip.state) {
                match difference {
                    DiffItem::Add(key, held) => {
                        merged.state.insert(key.clone(), held.clone());
                    }
                    DiffItem::Update { old, new } if new.1.id > old.1.id => {
                        merged.state.insert(new.0.clone(), new.1.clone());
                    }
                    _ => {}
                }
            }
            merged.depth = merged.depth.max(tip.depth);
            for id in &tip.ids {
                if !merged.ids.contains(id) {
                    merged.ids.push(id.clone());
                }
            }
        }
        merged
    }
}

/// What somebody says in a room.
pub struct Say<'a> {
    pub sender: &'a str,
    pub kind: &'a str,
    pub state_key: Option<&'a str>,
    pub content: Value,
    pub redacts: Option<String>,
}

impl<'a> Say<'a> {
    pub fn message(sender: &'a str, body: String) -> Say<'a> {
        Say {
            sender,
            kind: "m.room.message",
            state_key: None,
            content: json!({ "msgtype": "m.text", "body": body }),
            redacts: None,
        }
    }

    pub fn state(sender: &'a str, kind: &'a str, state_key: &'a str, content: Value) -> Say<'a> {
        Say {
            sender,
            kind,
            state_key: Some(state_key),
            content,
            redacts: None,
        }
    }

    pub fn member(sender: &'a str, target: &'a str, membership: &str) -> Say<'a> {
        let content = json!({ "membership": membership });
        Say::state(sender, "m.room.member", target, content)
    }
}

/// An event with everything that its record says.
#[derive(Clone)]
pub struct Drafted {
    pub room_id: String,
    pub version: RoomVersion,
    pub id: Arc<str>,
    pub sender: String,
    pub kind: String,
    pub state_key: Option<String>,
    pub content: Value,
    pub redacts: Option<String>,
    pub prev_events: Vec<String>,
    pub auth_events: Vec<String>,
    pub depth: u64,
    pub placement: Placement,
    pub source: Source,
    pub idempotency: [u8; 16],
}

/// The fields of an event's record, each of which may be spoilt.
pub struct Fields {
    pub kind: Kind,
    pub source: Source,
    pub idempotency: [u8; 16],
    pub key: String,
    pub room_id: Option<String>,
    pub event_id: Option<String>,
    pub sender: Option<String>,
    pub event_type: Option<String>,
    pub state_key: Option<String>,
    pub room_version: Option<String>,
    pub event: InputRoomEvent,
    /// In place of the encoded event.
    pub body: Option<Vec<u8>>,
    pub extract: Option<Vec<u8>>,
    pub skeleton: Option<Vec<u8>>,
    pub body_part: Option<Vec<u8>>,
}

impl Fields {
    pub fn record(&self) -> NewRecord {
        let encoded = codec::encode(&self.event);
        let part = |bytes: &'_ Option<Vec<u8>>| bytes.clone();
        let (extract, skeleton) = (part(&self.extract), part(&self.skeleton));
        let body_part = part(&self.body_part);
        fn as_part(bytes: &Option<Vec<u8>>) -> Part<'_> {
            bytes.as_deref().map_or(Part::Absent, Part::Present)
        }
        let envelope = NewEnvelope {
            received_us: 5,
            origin_ts_ms: 1,
            idempotency: self.idempotency,
            key: &self.key,
            room_id: self.room_id.as_deref(),
            event_id: self.event_id.as_deref(),
            sender: self.sender.as_deref(),
            event_type: self.event_type.as_deref(),
            state_key: self.state_key.as_deref(),
            room_version: self.room_version.as_deref(),
            body: self.body.as_deref().unwrap_or(&encoded),
            auth_extract: as_part(&extract),
            skeleton: as_part(&skeleton),
            body_part: as_part(&body_part),
            salt: [3; 32],
            ..NewEnvelope::default()
        };
        NewRecord::new(self.kind, self.source, &envelope)
    }
}

impl Drafted {
    /// The event as JSON, in the shape of its room version.
    pub fn json(&self) -> CanonicalJsonObject {
        let rules = self.version.rules();
        let mut event = json!({
            "type": self.kind, "sender": self.sender, "content": self.content,
            "prev_events": self.prev_events, "auth_events": self.auth_events,
            "depth": self.depth, "origin_server_ts": 1, "hashes": {}, "signatures": {},
        });
        let makes_id = self.version.room_id_is_create_hash();
        if !(makes_id && self.kind == "m.room.create") {
            event["room_id"] = json!(self.room_id);
        }
        if let Some(state_key) = &self.state_key {
            event["state_key"] = json!(state_key);
        }
        if let Some(target) = &self.redacts {
            match rules.redaction.content_field_redacts {
                true => event["content"]["redacts"] = json!(target),
                false => event["redacts"] = json!(target),
            }
        }
        serde_json::from_value(event).expect("the values are canonical")
    }

    pub fn fields(&self) -> Fields {
        let json = self.json();
        let skeleton = redact(&self.version.rules().redaction, &json);
        let content = json.get("content").and_then(|value| value.as_object());
        let extract = content
            .filter(|_| self.state_key.is_some())
            .and_then(|content| auth_extract(self.version, &self.kind, content));
        let membership = self.content["membership"].as_str().map(str::to_owned);
        let bytes = |object: &CanonicalJsonObject| serde_json::to_vec(object).unwrap();
        Fields {
            kind: Kind::InputRoomEvent,
            source: self.source,
            idempotency: self.idempotency,
            key: self.room_id.clone(),
            room_id: Some(self.room_id.clone()),
            event_id: Some(self.id.to_string()),
            sender: Some(self.sender.clone()),
            event_type: Some(self.kind.clone()),
            state_key: self.state_key.clone(),
            room_version: Some(self.version.as_str().to_owned()),
            event: InputRoomEvent {
                placement: self.placement.clone(),
                depth: self.depth,
                prev_events: self.prev_events.clone(),
                auth_events: self.auth_events.clone(),
                redacts: self.redacts.clone(),
                relation: None,
                membership: membership.filter(|_| self.kind == "m.room.member"),
                transaction: None,
                verified_with: vec![],
                batch_index: 0,
                batch_count: 1,
            },
            body: None,
            extract: extract.as_ref().map(bytes),
            skeleton: Some(bytes(&skeleton)),
            body_part: Some(bytes(&json)),
        }
    }

    pub fn keyed(&self) -> Keyed {
        Keyed {
            key: self.room_id.clone(),
            record: self.fields().record(),
        }
    }

    /// The same event, known without a place in the graph.
    pub fn as_outlier(&self) -> Drafted {
        Drafted {
            placement: Placement::Outlier,
            ..self.clone()
        }
    }
}

/// A room.
pub struct Graph {
    pub room_id: String,
    pub version: RoomVersion,
    create: Arc<str>,
}

impl Graph {
    /// A room with its creator joined, power levels, public join rules; the
    /// events that make it, and its end.
    pub fn create(
        name: &str,
        version: RoomVersion,
        random: &mut Random,
    ) -> (Graph, Vec<Drafted>, Tip) {
        let create = new_id(version, random);
        let room_id = match version.room_id_is_create_hash() {
            true => format!("!{}", &create[1..]),
            false => format!("!{name}:example.org"),
        };
        let graph = Graph {
            room_id,
            version,
            create: create.clone(),
        };
        let rules = &version.rules().authorization;
        let mut content = json!({ "room_version": version.as_str() });
        if !rules.use_room_create_sender {
            content["creator"] = json!(CREATOR);
        }
        let nothing = Tip {
            ids: vec![],
            depth: 0,
            state: State::new(),
        };
        let say = Say::state(CREATOR, "m.room.create", "", content);
        let (first, mut tip) = graph.event_with_id(create, say, &nothing);
        let mut made = vec![first];
        let says = [
            Say::member(CREATOR, CREATOR, "join"),
            Say::state(CREATOR, "m.room.power_levels", "", graph.levels(&[])),
            Say::state(
                CREATOR,
                "m.room.join_rules",
                "",
                json!({ "join_rule": "public" }),
            ),
        ];
        for say in says {
            let (event, after) = graph.event(random, say, &tip);
            made.push(event);
            tip = after;
        }
        (graph, made, tip)
    }

    /// Content of power levels with these moderators.
    pub fn levels(&self, moderators: &[(&str, i64)]) -> Value {
        let mut users = serde_json::Map::new();
        let rules = &self.version.rules().authorization;
        if !rules.explicitly_privilege_room_creators {
            users.insert(CREATOR.to_owned(), json!(100));
        }
        for (user, level) in moderators {
            users.insert((*user).to_owned(), json!(level));
        }
        json!({ "users": users, "state_default": 50, "invite": 0 })
    }

    /// An event that builds on a place, from another server, and the place after it.
    pub fn event(&self, random: &mut Random, say: Say<'_>, on: &Tip) -> (Drafted, Tip) {
        self.event_with_id(new_id(self.version, random), say, on)
    }

    pub fn event_with_id(&self, id: Arc<str>, say: Say<'_>, on: &Tip) -> (Drafted, Tip) {
        let auth_events = self.auth_events(&say, on);
        let mut state = on.state.clone();
        if let Some(state_key) = say.state_key {
            let content = &say.content;
            let word = content["membership"]
                .as_str()
                .or(content["join_rule"].as_str());
            let held = Held {
                id: id.clone(),
                word: word.unwrap_or_default().into(),
            };
            state.insert((say.kind.into(), state_key.into()), held);
        }
        let tip = Tip {
            ids: vec![id.clone()],
            depth: behind(on.depth),
            state,
        };
        let event = Drafted {
            room_id: self.room_id.clone(),
            version: self.version,
            id,
            sender: say.sender.to_owned(),
            kind: say.kind.to_owned(),
            state_key: say.state_key.map(str::to_owned),
            content: say.content,
            redacts: say.redacts,
            prev_events: on.ids.iter().take(20).map(|id| id.to_string()).collect(),
            auth_events,
            depth: behind(on.depth),
            placement: Placement::New,
            source: Source::Federation,
            idempotency: [0; 16],
        };
        (event, tip)
    }

    /// Source: server-server API, *Auth events selection*; version 12, where no
    /// event cites the create event.
    fn auth_events(&self, say: &Say<'_>, on: &Tip) -> Vec<String> {
        let mut ids = vec![];
        if say.kind == "m.room.create" {
            return ids;
        }
        if !self.version.room_id_is_create_hash() {
            ids.push(self.create.to_string());
        }
        let mut wanted = vec![("m.room.power_levels", ""), ("m.room.member", say.sender)];
        if let Some(target) = say.state_key.filter(|_| say.kind == "m.room.member") {
            if target != say.sender {
                wanted.push(("m.room.member", target));
            }
            let word = say.content["membership"].as_str();
            if matches!(word, Some("join" | "invite" | "knock")) {
                wanted.push(("m.room.join_rules", ""));
            }
        }
        let held = wanted.iter().filter_map(|(kind, key)| on.held(kind, key));
        ids.extend(held.map(|held| held.id.to_string()));
        ids
    }

    fn given<T: bincode::Encode>(&self, kind: Kind, body: &T) -> Keyed {
        let body = codec::encode(body);
        let envelope = NewEnvelope {
            received_us: 5,
            key: &self.room_id,
            room_id: Some(&self.room_id),
            body: &body,
            ..NewEnvelope::default()
        };
        Keyed {
            key: self.room_id.clone(),
            record: NewRecord::new(kind, Source::Federation, &envelope),
        }
    }

    /// Records that begin to give the state before an event, and name its events
    /// in chunks of so many.
    pub fn give(
        &self,
        given: GivenState,
        before: &str,
        ids: &[Arc<str>],
        chunk: usize,
    ) -> Vec<Keyed> {
        let begin = InputStateBegin {
            given,
            event_id: before.to_owned(),
        };
        let mut records = vec![self.given(Kind::InputStateBegin, &begin)];
        for ids in ids.chunks(chunk) {
            let event_ids = ids.iter().map(|id| id.to_string()).collect();
            let body = InputStateChunk { given, event_ids };
            records.push(self.given(Kind::InputStateChunk, &body));
        }
        records
    }

    pub fn commit(&self, given: GivenState) -> Keyed {
        self.given(Kind::InputStateCommit, &InputStateCommit { given })
    }

    pub fn abandon(&self, given: GivenState) -> Keyed {
        self.given(Kind::InputStateAbandoned, &InputStateAbandoned { given })
    }
}

/// The depth behind another: not beyond what JSON of events may say.
fn behind(depth: u64) -> u64 {
    (depth + 1).min((1 << 53) - 1)
}

/// A random event id in the form of a room version.
pub fn new_id(version: RoomVersion, random: &mut Random) -> Arc<str> {
    let (high, low) = (random.next(), random.next());
    match version.has_event_id_field() {
        true => format!("${high:016x}{low:016x}:example.org").into(),
        false => format!("${high:016x}{low:016x}").into(),
    }
}
