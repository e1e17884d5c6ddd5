//! Random events of one room, as another server would send them: some of them
//! on old branches, some that nobody may send.

use std::collections::{BTreeMap, BTreeSet};

use engram::logs::log::NewRecord;
use engram::matrix::history_visibility::membership_of;
use engram::query::ids::StateId;
use engram::query::rooms::{Rooms, StateKey, StateMap};
use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::input::{InputRoomEvent, Placement};
use log_format::record::output::{Decision, Membership};
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::canonical_json::redact;
use ruma::{CanonicalJsonObject, EventId, RoomVersionId};
use serde_json::{Value, json};

use super::house::House;
use super::{LOCAL, ROOM, room_id};
use crate::records::{Random, hash};

const FAR: &str = "@far:there";
const VISIBILITIES: [&str; 4] = ["shared", "joined", "invited", "world_readable"];

struct Draft<'a> {
    sender: &'a str,
    kind: &'a str,
    state_key: Option<&'a str>,
    content: Value,
}

/// An event that was accepted or soft-failed.
#[derive(Clone)]
pub struct Known {
    id: String,
    depth: u64,
    state_after: StateId,
}

/// Makes events of one room, on its end or on old ones.
pub struct Maker<'a> {
    pub house: &'a House,
    pub random: Random,
    pub known: Vec<Known>,
    pub messages: Vec<String>,
    /// How often each decision was taken.
    pub decided: BTreeMap<&'static str, usize>,
}

impl Maker<'_> {
    pub async fn create(&mut self) {
        let levels = json!({"users": {FAR: 100, LOCAL[0]: 50}, "state_default": 50});
        for (kind, key, content) in [
            ("m.room.create", "", json!({"room_version": "11"})),
            ("m.room.member", FAR, json!({"membership": "join"})),
            ("m.room.power_levels", "", levels),
            ("m.room.join_rules", "", json!({"join_rule": "public"})),
        ] {
            let draft = Draft {
                sender: FAR,
                kind,
                state_key: Some(key),
                content,
            };
            let (parents, state) = self.parents();
            self.send(draft, parents, &state).await;
        }
    }

    pub async fn next(&mut self) {
        let (parents, state) = self.parents();
        let user = LOCAL[self.random.below(4) as usize];
        let joined = LOCAL.into_iter().chain([FAR]);
        let joined: Vec<&str> = joined.filter(|user| self.is_joined(&state, user)).collect();
        let anybody = joined.get(self.random.below(joined.len() as u64) as usize);
        let anybody = anybody.copied().unwrap_or(FAR);
        let number = self.random.below(1_000);
        let (sender, kind, state_key, content) = match self.random.below(14) {
            0..3 => (
                user,
                "m.room.member",
                Some(user),
                json!({"membership": "join"}),
            ),
            3 => (
                user,
                "m.room.member",
                Some(user),
                json!({"membership": "leave"}),
            ),
            4 => (
                FAR,
                "m.room.member",
                Some(user),
                json!({"membership": "ban"}),
            ),
            5 => (
                FAR,
                "m.room.member",
                Some(user),
                json!({"membership": "leave"}),
            ),
            6 => (
                anybody,
                "m.room.member",
                Some(user),
                json!({"membership": "invite"}),
            ),
            7 => (anybody, "m.room.topic", Some(""), json!({"topic": number})),
            8 => {
                let level = [0, 50][number as usize % 2];
                let levels = json!({"users": {FAR: 100, LOCAL[0]: level}, "state_default": 50});
                (FAR, "m.room.power_levels", Some(""), levels)
            }
            9 => {
                let word = VISIBILITIES[number as usize % 4];
                let content = json!({ "history_visibility": word });
                (FAR, "m.room.history_visibility", Some(""), content)
            }
            10 => {
                let rule = ["public", "invite"][number as usize % 2];
                (
                    FAR,
                    "m.room.join_rules",
                    Some(""),
                    json!({ "join_rule": rule }),
                )
            }
            11 if !self.messages.is_empty() => {
                let target = &self.messages[number as usize % self.messages.len()];
                (
                    anybody,
                    "m.room.redaction",
                    None,
                    json!({ "redacts": target }),
                )
            }
            _ => (anybody, "m.room.message", None, json!({ "body": number })),
        };
        let draft = Draft {
            sender,
            kind,
            state_key,
            content,
        };
        self.send(draft, parents, &state).await;
    }

    fn is_joined(&self, state: &StateMap, user: &str) -> bool {
        let entry = state.get(&StateKey::new("m.room.member", user));
        let event = entry.map(|sn| self.house.rooms.events(room_id(), &[*sn]).unwrap());
        let event = event.and_then(|mut found| found.pop());
        event.is_some_and(|event| membership_of(&event.json) == Some(Membership::Join))
    }

    /// Parents of the next event, and the state that its author saw.
    fn parents(&mut self) -> (Vec<Known>, StateMap) {
        let Ok(Some(head)) = self.house.rooms.head(room_id()) else {
            return (Vec::new(), StateMap::new());
        };
        // A branch goes on, a new one begins, or all are merged.
        let (merges, back) = match self.random.below(8) {
            0..2 => (true, 0),
            2..5 => (false, self.random.below(10) as usize),
            _ => (false, 0),
        };
        match !merges && back < self.known.len() {
            true => {
                let parent = self.known[self.known.len() - 1 - back].clone();
                let state = self.house.rooms.state(room_id(), parent.state_after);
                (vec![parent], state.unwrap())
            }
            false => {
                let extremities = head.extremities.iter().map(|tip| Known {
                    id: tip.event_id.to_string(),
                    depth: tip.depth,
                    state_after: tip.state_after,
                });
                (extremities.collect(), head.state.clone())
            }
        }
    }

    /// Source: server-server API, *Auth events selection*.
    fn auth_events(&self, draft: &Draft<'_>, state: &StateMap) -> Vec<String> {
        let mut wanted = vec![
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.member", draft.sender),
        ];
        if draft.kind == "m.room.member" {
            wanted.extend(draft.state_key.map(|target| ("m.room.member", target)));
            wanted.push(("m.room.join_rules", ""));
        }
        let found = wanted.into_iter();
        let found = found.filter_map(|(kind, key)| state.get(&StateKey::new(kind, key)));
        let found: BTreeSet<_> = found.copied().collect();
        let found: Vec<_> = found.into_iter().collect();
        let events = self.house.rooms.events(room_id(), &found).unwrap();
        events
            .iter()
            .map(|event| event.event_id.to_string())
            .collect()
    }

    async fn send(&mut self, draft: Draft<'_>, parents: Vec<Known>, state: &StateMap) {
        let id = format!("${:016x}{:016x}", self.random.next(), self.random.next());
        let depth = parents.iter().map(|parent| parent.depth).max().unwrap_or(0) + 1;
        let prev_events: Vec<String> = parents.into_iter().map(|parent| parent.id).collect();
        let auth_events = self.auth_events(&draft, state);
        let mut event = json!({
            "type": draft.kind, "sender": draft.sender, "content": draft.content, "room_id": ROOM,
            "prev_events": prev_events, "auth_events": auth_events, "depth": depth,
            "origin_server_ts": depth, "hashes": {}, "signatures": {},
        });
        if let Some(state_key) = draft.state_key {
            event["state_key"] = json!(state_key);
        }
        let body_part = serde_json::to_vec(&event).unwrap();
        let canonical: CanonicalJsonObject = serde_json::from_slice(&body_part).unwrap();
        let rules = RoomVersionId::V11.rules().unwrap();
        let skeleton = redact(canonical, &rules.redaction, None).unwrap();
        let skeleton = serde_json::to_vec(&skeleton).unwrap();
        let text = |key: &str| draft.content[key].as_str().map(str::to_owned);
        let body = codec::encode(&InputRoomEvent {
            placement: Placement::New,
            depth,
            prev_events,
            auth_events,
            redacts: text("redacts"),
            relation: None,
            membership: text("membership"),
            transaction: None,
            verified_with: Vec::new(),
            batch_index: 0,
            batch_count: 1,
        });
        let envelope = NewEnvelope {
            received_us: 5,
            origin_ts_ms: depth,
            key: ROOM,
            room_id: Some(ROOM),
            event_id: Some(&id),
            sender: Some(draft.sender),
            event_type: Some(draft.kind),
            state_key: draft.state_key,
            room_version: Some("11"),
            body: &body,
            skeleton: Part::Present(&skeleton),
            body_part: Part::Present(&body_part),
            salt: hash(self.random.next()),
            ..NewEnvelope::default()
        };
        let record = NewRecord::new(Kind::InputRoomEvent, Source::Federation, &envelope);
        self.house.fold(record).await;
        let event_id = <&EventId>::try_from(id.as_str()).unwrap();
        let stored = self.house.rooms.event(room_id(), event_id).unwrap();
        let decision = stored
            .as_ref()
            .map_or(Decision::Rejected, |event| event.decision);
        *self.decided.entry(decision.name()).or_default() += 1;
        if let Some(stored) = stored
            && matches!(decision, Decision::Accepted | Decision::SoftFailed)
        {
            if draft.kind == "m.room.message" {
                self.messages.push(id.clone());
            }
            let state_after = stored.state_after;
            self.known.push(Known {
                id,
                depth,
                state_after,
            });
        }
    }
}
