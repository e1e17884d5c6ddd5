//! A room that is made up: its state, and what the next event cites, as a server
//! of a test's own tells it to who joins.

use engram::crypto::ServerKey;
use engram::matrix::RoomVersion;
use engram::matrix::canonical_json::to_bytes;
use engram::matrix::event::Pdu;
use engram::matrix::signing::hash_and_sign_event;
use serde_json::{Value, json};

use super::fake::object;

pub const ROOM: &str = "!large:c.test";
pub const BOB: &str = "@bob:b.test";
const CAROL: &str = "@carol:c.test";

/// A state event with its id.
#[derive(Clone)]
pub struct Made {
    pub id: String,
    pub json: String,
}

/// A public room of version 11, all of whose users are at `c.test`.
pub struct MadeUp {
    /// The create event, its maker, levels and join rules, then members.
    pub state: Vec<Made>,
    /// What authorises a join.
    pub cited: Vec<String>,
    depth: u64,
}

impl MadeUp {
    /// The room and its maker.
    pub fn new() -> MadeUp {
        let mut room = MadeUp {
            state: Vec::new(),
            cited: Vec::new(),
            depth: 0,
        };
        let create = room.made("m.room.create", "", json!({ "room_version": "11" }), &[]);
        let cites = [create.clone()];
        let own = room.made("m.room.member", CAROL, member(), &cites);
        let levels = json!({ "users": { CAROL: 100 } });
        let cites = [create.clone(), own.clone()];
        let levels = room.made("m.room.power_levels", "", levels, &cites);
        let cites = [create.clone(), levels.clone(), own];
        let rule = json!({ "join_rule": "public" });
        let rule = room.made("m.room.join_rules", "", rule, &cites);
        room.cited = vec![create, levels, rule];
        room
    }

    /// The room with so many users more.
    pub fn with_members(count: usize) -> MadeUp {
        let mut room = MadeUp::new();
        for number in 0..count {
            room.join(&format!("@member{number}:c.test"));
        }
        room
    }

    /// A user joins.
    pub fn join(&mut self, user: &str) -> String {
        let cited = self.cited.clone();
        self.made("m.room.member", user, member(), &cited)
    }

    /// An event of `sender`, or of the maker, which is the last of the state then.
    pub fn made(&mut self, kind: &str, key: &str, content: Value, auth: &[String]) -> String {
        let sender = match key.starts_with('@') {
            true => key,
            false => CAROL,
        };
        let last: Vec<_> = self.state.last().map(|last| &last.id).into_iter().collect();
        self.depth += 1;
        let mut event = object(&json!({
            "type": kind, "state_key": key, "sender": sender, "room_id": ROOM,
            "content": content, "prev_events": last, "auth_events": auth,
            "depth": self.depth, "origin_server_ts": 1_700_000_000_000_u64 + self.depth,
        }));
        let version = RoomVersion::V11;
        let key = ServerKey::from_seed([3; 32], "fake");
        hash_and_sign_event(version, &mut event, ruma::server_name!("c.test"), &key);
        let id = Pdu::from_object(version, event.clone()).unwrap().event_id;
        let json = String::from_utf8(to_bytes(&event)).unwrap();
        let id = id.to_string();
        self.state.push(Made {
            id: id.clone(),
            json,
        });
        id
    }

    /// Takes an event out of the state.
    pub fn take(&mut self, id: &str) -> Made {
        let at = self.state.iter().position(|made| made.id == id).unwrap();
        self.state.remove(at)
    }

    /// The answer to `make_join`.
    pub fn template(&self) -> Value {
        json!({ "room_version": "11", "event": {
            "type": "m.room.member", "room_id": ROOM, "sender": BOB, "state_key": BOB,
            "content": { "membership": "join" }, "depth": self.depth + 1,
            "prev_events": [self.state.last().unwrap().id], "auth_events": self.cited,
        }})
    }

    /// The answer to `send_join`.
    pub fn joined(&self) -> String {
        let state: Vec<&str> = self.state.iter().map(|made| &*made.json).collect();
        let chain = state.iter().take(4).copied().collect::<Vec<_>>().join(",");
        let state = state.join(",");
        format!(r#"{{"state":[{state}],"auth_chain":[{chain}]}}"#)
    }
}

fn member() -> Value {
    json!({ "membership": "join" })
}
