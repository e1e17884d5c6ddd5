//! Rooms whose states disagree, event by event.

use std::collections::BTreeMap;
use std::sync::Arc;

use engram::matrix::RoomVersion;
use engram::matrix::auth_rules::{self, CreateInfo, auth_types_for_event};
use engram::matrix::canonical_json::parse_object;
use engram::matrix::ids::{OwnedEventId, OwnedRoomId, OwnedUserId};
use engram::matrix::state_res::{AuthGraph, AuthKind, ResolutionEvent};

const JOIN: &str = r#"{"membership":"join"}"#;

/// Key of a state entry.
pub type Key = (&'static str, Box<str>);

/// A room, what all its states share, and what each has instead.
pub struct Story {
    pub create: CreateInfo,
    pub events: Vec<Arc<ResolutionEvent>>,
    pub graph: AuthGraph,
    pub base: BTreeMap<Key, u64>,
    pub forks: Vec<BTreeMap<Key, u64>>,
}

/// The parts of an event that differ.
struct Draft<'a> {
    sender: &'a str,
    kind: &'static str,
    state_key: &'a str,
    content: &'a str,
}

impl Story {
    /// A public room whose creator is there; power levels name so many others.
    pub fn new(version: RoomVersion, named: usize) -> Story {
        let is_v12 = version.room_id_is_create_hash();
        let room_id = if is_v12 { "!create" } else { "!r:hs" };
        let content = r#"{"creator":"@creator:hs"}"#;
        let create = CreateInfo::parse(
            version,
            OwnedEventId::try_from("$create").expect("valid"),
            OwnedRoomId::try_from(room_id).expect("valid"),
            OwnedUserId::try_from("@creator:hs").expect("valid"),
            &parse_object(content.as_bytes()).expect("parses"),
        );
        let mut story = Story {
            create: create.expect("parses"),
            events: Vec::new(),
            graph: AuthGraph::new(),
            base: BTreeMap::new(),
            forks: Vec::new(),
        };
        story.agree("@creator:hs", "m.room.create", "", content);
        story.agree("@creator:hs", "m.room.member", "@creator:hs", JOIN);
        let creator = (!is_v12).then(|| r#""@creator:hs":100"#.to_owned());
        let named = (0..named).map(|at| format!(r#""@named-{at}:hs":10"#));
        let users: Vec<String> = creator.into_iter().chain(named).collect();
        let levels = format!(r#"{{"users":{{{}}}}}"#, users.join(","));
        story.agree("@creator:hs", "m.room.power_levels", "", &levels);
        let public = r#"{"join_rule":"public"}"#;
        story.agree("@creator:hs", "m.room.join_rules", "", public);
        story
    }

    fn agree(&mut self, sender: &str, kind: &'static str, state_key: &str, content: &str) {
        let draft = Draft {
            sender,
            kind,
            state_key,
            content,
        };
        let (key, id) = self.add(None, &draft);
        self.base.insert(key, id);
    }

    fn differ(&mut self, fork: usize, sender: &str, kind: &'static str, key: &str, content: &str) {
        let draft = Draft {
            sender,
            kind,
            state_key: key,
            content,
        };
        let (key, id) = self.add(Some(fork), &draft);
        self.forks[fork].insert(key, id);
    }

    fn add(&mut self, fork: Option<usize>, draft: &Draft<'_>) -> (Key, u64) {
        let id = self.events.len() as u64;
        let content = parse_object(draft.content.as_bytes()).expect("parses");
        let sender = OwnedUserId::try_from(draft.sender).expect("valid");
        let member = match draft.kind {
            "m.room.member" => Some(auth_rules::MemberContent::parse(&content).expect("is one")),
            _ => None,
        };
        let version = self.create.version;
        let keys =
            auth_types_for_event(version, draft.kind, &sender, Some(draft.state_key), member);
        let held = |key: &auth_rules::AuthKey<'_>| {
            let key: Key = (key.kind, key.state_key.as_ref().into());
            let of_fork = fork.and_then(|fork| self.forks[fork].get(&key));
            of_fork.or_else(|| self.base.get(&key)).copied()
        };
        let auth_events: Vec<u64> = keys.iter().filter_map(held).collect();
        drop(keys);
        let kind = AuthKind::of(draft.kind, draft.state_key);
        self.graph.insert(id, kind, &auth_events);
        let name = match draft.kind {
            "m.room.create" => "$create".to_owned(),
            _ => format!(
                "${:040x}",
                u128::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834)
            ),
        };
        self.events.push(Arc::new(ResolutionEvent {
            event_id: OwnedEventId::try_from(name).expect("valid"),
            sender,
            kind: draft.kind.into(),
            state_key: draft.state_key.into(),
            content,
            origin_server_ts: id,
            depth: id,
            auth_events,
            prev_events_count: usize::from(id > 0),
            first_prev_is_create: id == 1,
            redacts: None,
            rejected: false,
        }));
        ((draft.kind, draft.state_key.into()), id)
    }

    fn fork(&mut self, forks: usize) {
        self.forks = vec![BTreeMap::new(); forks];
    }

    /// The entry of a key in a fork.
    pub fn entry(&self, fork: usize, key: &Key) -> Option<u64> {
        self.forks[fork]
            .get(key)
            .or_else(|| self.base.get(key))
            .copied()
    }
}

/// Members who joined before, and have two new names.
pub fn renamed(version: RoomVersion, members: usize, others: usize) -> Story {
    let mut story = Story::new(version, 0);
    let users: Vec<String> = (0..members).map(|at| format!("@member-{at}:hs")).collect();
    for at in 0..others {
        let user = format!("@other-{at}:hs");
        story.agree(&user, "m.room.member", &user, JOIN);
    }
    for user in &users {
        story.agree(user, "m.room.member", user, JOIN);
    }
    story.fork(2);
    for fork in 0..2 {
        let content = format!(r#"{{"displayname":"{fork}","membership":"join"}}"#);
        for user in &users {
            story.differ(fork, user, "m.room.member", user, &content);
        }
    }
    story
}

/// Members of whom each side knows half.
pub fn joined(version: RoomVersion, members: usize) -> Story {
    let mut story = Story::new(version, 0);
    story.fork(2);
    for at in 0..members {
        let user = format!("@member-{at}:hs");
        story.differ(at % 2, &user, "m.room.member", &user, JOIN);
    }
    story
}

/// Members who were kicked on one side while they took a new name on the other.
pub fn kicked(version: RoomVersion, members: usize, named: usize) -> Story {
    let mut story = Story::new(version, named);
    let users: Vec<String> = (0..members).map(|at| format!("@member-{at}:hs")).collect();
    for user in &users {
        story.agree(user, "m.room.member", user, JOIN);
    }
    story.fork(2);
    for user in &users {
        let leave = r#"{"membership":"leave"}"#;
        story.differ(0, "@creator:hs", "m.room.member", user, leave);
        let renamed = r#"{"displayname":"x","membership":"join"}"#;
        story.differ(1, user, "m.room.member", user, renamed);
    }
    story
}

/// A thousand forks, each with one entry.
pub fn forks(version: RoomVersion, members: usize, key: impl Fn(usize) -> usize) -> Story {
    let mut story = Story::new(version, 0);
    for at in 0..members {
        let user = format!("@member-{at}:hs");
        story.agree(&user, "m.room.member", &user, JOIN);
    }
    story.fork(1_000);
    for fork in 0..1_000 {
        let key = format!("key-{}", key(fork));
        story.differ(fork, "@creator:hs", "x.setting", &key, "{}");
    }
    story
}

/// Members of whom half took two new names on each side. The first of the two
/// is in the auth chain of one side alone, unless something else in the state
/// cites it: which takes a walk of all that is there.
pub fn renamed_twice(version: RoomVersion, members: usize, others: usize) -> Story {
    let mut story = Story::new(version, 0);
    let users: Vec<String> = (0..members + others)
        .map(|at| format!("@member-{at}:hs"))
        .collect();
    for user in &users {
        story.agree(user, "m.room.member", user, JOIN);
    }
    story.fork(2);
    for (at, user) in users[..members].iter().enumerate() {
        for name in 0..2 {
            let content = format!(r#"{{"displayname":"{name}","membership":"join"}}"#);
            story.differ(at % 2, user, "m.room.member", user, &content);
        }
    }
    story
}
