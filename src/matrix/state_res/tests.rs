//! Resolution of random forks, compared with ruma's independent
//! implementation, and the cases that tell the versions apart.

use std::collections::BTreeSet;
use std::convert::Infallible;

use proptest::prelude::*;
use ruma::MilliSecondsSinceUnixEpoch;
use ruma::UInt;
use ruma::events::{StateEventType, TimelineEventType};
use ruma::state_res::utils::event_id_set::EventIdSet;
use serde_json::value::RawValue;

use super::super::auth_rules;
use super::super::canonical_json::{parse_object, to_bytes};
use super::super::ids::EventId;
use super::auth_state::{deciding_keys, is_allowed};
use super::*;

const USERS: [&str; 4] = ["@a:hs", "@b:hs", "@c:hs", "@d:hs"];
const EVENTS_MAX: usize = 10_000;

/// A room that is built event by event on several forks at once.
struct Room {
    version: RoomVersion,
    create: CreateInfo,
    events: Vec<Arc<ResolutionEvent<usize>>>,
    forks: Vec<StateMap<usize>>,
    /// The last event of each fork.
    tips: Vec<usize>,
}

fn key(kind: &str, state_key: &str) -> Key {
    (kind.into(), state_key.into())
}

impl Room {
    fn new(version: RoomVersion, forks: usize) -> Room {
        let room_id = if version.room_id_is_create_hash() {
            "!create"
        } else {
            "!r:hs"
        };
        let content = r#"{"creator":"@a:hs"}"#;
        let create = CreateInfo::parse(
            version,
            OwnedEventId::try_from("$create").expect("valid"),
            OwnedRoomId::try_from(room_id).expect("valid"),
            OwnedUserId::try_from("@a:hs").expect("valid"),
            &parse_object(content.as_bytes()).expect("parses"),
        )
        .expect("parses");
        let mut room = Room {
            version,
            create,
            events: Vec::new(),
            forks: vec![StateMap::new()],
            tips: vec![0],
        };
        assert!(room.add(0, "@a:hs", "m.room.create", "", content, 0));
        assert!(room.add(
            0,
            "@a:hs",
            "m.room.member",
            "@a:hs",
            r#"{"membership":"join"}"#,
            1
        ));
        assert!(room.add(
            0,
            "@a:hs",
            "m.room.power_levels",
            "",
            &room.levels_content(&[("@b:hs", 50)], 0),
            2
        ));
        assert!(room.add(
            0,
            "@a:hs",
            "m.room.join_rules",
            "",
            r#"{"join_rule":"public"}"#,
            3
        ));
        assert!(room.add(
            0,
            "@b:hs",
            "m.room.member",
            "@b:hs",
            r#"{"membership":"join"}"#,
            4
        ));
        room.forks = vec![room.forks[0].clone(); forks];
        room.tips = vec![room.tips[0]; forks];
        room
    }

    /// Every member is named: ruma compares added ones with defaults, we do not.
    fn levels_content(&self, users: &[(&str, i64)], invite: i64) -> String {
        let own = if self.version.room_id_is_create_hash() {
            None
        } else {
            Some(("@a:hs", 100))
        };
        let users: Vec<String> = own
            .iter()
            .chain(users)
            .map(|(user, level)| format!("\"{user}\":{level}"))
            .collect();
        format!(
            r#"{{"users":{{{}}},"users_default":0,"events_default":0,"state_default":50,"ban":50,"kick":50,"redact":50,"invite":{invite},"events":{{}},"notifications":{{"room":50}}}}"#,
            users.join(",")
        )
    }

    fn fetch(&self, id: usize) -> Result<Option<Arc<ResolutionEvent<usize>>>, Infallible> {
        Ok(self.events.get(id).cloned())
    }

    /// Adds an event to a fork if the fork's state allows it.
    fn add(
        &mut self,
        fork: usize,
        sender: &str,
        kind: &str,
        state_key: &str,
        content: &str,
        ts: u64,
    ) -> bool {
        let index = self.events.len();
        let is_create = kind == "m.room.create";
        // Scattered, so that ids are in no order that means anything.
        let event_id = if is_create {
            "$create".to_owned()
        } else {
            format!("$e{:04}", index * 7919 % 9973)
        };
        let mut event = ResolutionEvent {
            event_id: OwnedEventId::try_from(event_id).expect("valid"),
            room_id: self.create.room_id.clone(),
            sender: OwnedUserId::try_from(sender).expect("valid"),
            kind: kind.into(),
            state_key: state_key.into(),
            content: parse_object(content.as_bytes()).expect("parses"),
            origin_server_ts: ts,
            depth: self
                .events
                .get(self.tips[fork])
                .map_or(0, |tip| tip.depth + 1),
            auth_events: Vec::new(),
            prev_events_count: usize::from(!is_create),
            first_prev_event: self
                .events
                .get(self.tips[fork])
                .map(|tip| tip.event_id.clone()),
            rejected: false,
        };
        let keys = deciding_keys(self.version, &event).expect("well formed");
        let held = |key: auth_rules::AuthKey<'_>| {
            self.forks[fork]
                .get(&(key.kind.into(), key.state_key.into()))
                .copied()
        };
        event.auth_events = keys.into_iter().filter_map(held).collect();
        let mut events = Events::new(self.version, &self.create, EVENTS_MAX, |id| self.fetch(id));
        if !is_allowed(&mut events, &event, &event.auth_events).expect("reads") {
            return false;
        }
        self.events.push(Arc::new(event));
        self.forks[fork].insert(key(kind, state_key), index);
        self.tips[fork] = index;
        true
    }

    fn resolve(&self, states: &[StateMap<usize>]) -> StateMap<usize> {
        super::resolve(self.version, &self.create, states, EVENTS_MAX, |id| {
            self.fetch(id)
        })
        .expect("resolves")
    }

    fn act(&mut self, (fork, user, target, action, ts): (usize, usize, usize, u8, u64)) {
        let fork = fork % self.forks.len();
        let (user, target) = (USERS[user % USERS.len()], USERS[target % USERS.len()]);
        let member = |word: &str| format!(r#"{{"membership":"{word}"}}"#);
        match action % 12 {
            0 | 1 => {
                self.add(
                    fork,
                    user,
                    "m.room.topic",
                    "",
                    &format!(r#"{{"topic":"{ts}"}}"#),
                    ts,
                );
            }
            2..=4 => {
                let level = [0, 25, 50, 75][usize::from(action) / 12 % 4];
                let invite = [0, 50][usize::from(action) / 48 % 2];
                let mut users = vec![("@b:hs", 50)];
                users.retain(|(named, _)| *named != target);
                if target != "@a:hs" {
                    users.push((target, level));
                }
                let content = self.levels_content(&users, invite);
                self.add(fork, user, "m.room.power_levels", "", &content, ts);
            }
            5 => {
                let rule = ["public", "invite"][usize::from(action) / 12 % 2];
                self.add(
                    fork,
                    user,
                    "m.room.join_rules",
                    "",
                    &format!(r#"{{"join_rule":"{rule}"}}"#),
                    ts,
                );
            }
            6 => {
                self.add(fork, user, "m.room.member", target, &member("ban"), ts);
            }
            7 => {
                self.add(fork, user, "m.room.member", target, &member("leave"), ts);
            }
            8 | 9 => {
                self.add(fork, user, "m.room.member", user, &member("join"), ts);
            }
            10 => {
                self.add(fork, user, "m.room.member", target, &member("invite"), ts);
            }
            _ => {
                // The forks meet: later events build on a resolved state.
                let other = (fork + 1) % self.forks.len();
                self.forks[fork] =
                    self.resolve(&[self.forks[fork].clone(), self.forks[other].clone()]);
            }
        }
    }

    /// Whether somebody joined under a state without `m.room.join_rules`.
    ///
    /// Such a join is the one thing on which we and ruma differ on purpose:
    /// `auth_rules` takes the join rule of a room that sets none for `invite`,
    /// as Synapse and gomatrixserverlib do (a member may join again, as a new
    /// profile does), while ruma has no join rule then and refuses. The
    /// specification names no default: *Authorisation rules* speak of "the
    /// `join_rule`", and *Auth events selection* cites the event "if any".
    /// Forks come to lack the event when its sender loses the right to it in a
    /// resolution. Joins that cite join rules fall back on them, so that these
    /// are all the joins that either side ever judges without; the creator's
    /// first is allowed before the join rule is read.
    fn has_join_without_join_rules(&self) -> bool {
        const CREATORS_JOIN: usize = 1;
        let cites_rules = |event: &ResolutionEvent<usize>| {
            let mut cited = event.auth_events.iter();
            cited.any(|&id| &*self.events[id].kind == "m.room.join_rules")
        };
        let mut events = self.events.iter().enumerate();
        events.any(|(index, event)| {
            let membership = event.content.get("membership");
            index != CREATORS_JOIN
                && membership.and_then(|word| word.as_str()) == Some("join")
                && !cites_rules(event)
        })
    }

    fn named(&self, state: &StateMap<usize>) -> BTreeMap<Key, OwnedEventId> {
        state
            .iter()
            .map(|(key, &id)| (key.clone(), self.events[id].event_id.clone()))
            .collect()
    }
}

/// An event as ruma wants to see it.
struct Theirs {
    event: Arc<ResolutionEvent<usize>>,
    kind: TimelineEventType,
    content: Box<RawValue>,
    auth_events: Vec<OwnedEventId>,
    prev_events: Vec<OwnedEventId>,
}

impl ruma::state_res::Event for Theirs {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event.event_id
    }
    fn room_id(&self) -> Option<&ruma::RoomId> {
        Some(&self.event.room_id)
    }
    fn sender(&self) -> &ruma::UserId {
        &self.event.sender
    }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::try_from(self.event.origin_server_ts).expect("small"))
    }
    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }
    fn content(&self) -> &RawValue {
        &self.content
    }
    fn state_key(&self) -> Option<&str> {
        Some(&self.event.state_key)
    }
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }
    fn redacts(&self) -> Option<&OwnedEventId> {
        None
    }
    fn rejected(&self) -> bool {
        self.event.rejected
    }
}

/// Every event that can be reached from one along auth edges, itself left out.
fn chain(room: &Room, from: usize) -> BTreeSet<usize> {
    let mut chain = BTreeSet::new();
    let mut todo = room.events[from].auth_events.clone();
    while let Some(id) = todo.pop() {
        if chain.insert(id) {
            todo.extend(&room.events[id].auth_events);
        }
    }
    chain
}

/// ruma's answer for the same forks.
fn resolve_as_ruma(room: &Room, states: &[StateMap<usize>]) -> BTreeMap<Key, OwnedEventId> {
    let id_of = |index: usize| room.events[index].event_id.clone();
    let theirs: BTreeMap<OwnedEventId, Theirs> = room
        .events
        .iter()
        .map(|event| {
            let content = String::from_utf8(to_bytes(&event.content)).expect("is UTF-8");
            let theirs = Theirs {
                kind: TimelineEventType::from(&*event.kind),
                content: RawValue::from_string(content).expect("is JSON"),
                auth_events: event.auth_events.iter().map(|&id| id_of(id)).collect(),
                prev_events: event.first_prev_event.iter().cloned().collect(),
                event: event.clone(),
            };
            (event.event_id.clone(), theirs)
        })
        .collect();
    let maps: Vec<ruma::state_res::StateMap<OwnedEventId>> = states
        .iter()
        .map(|state| {
            let entry = |(key, &id): (&Key, &usize)| {
                (
                    (StateEventType::from(&*key.0), key.1.to_string()),
                    id_of(id),
                )
            };
            state.iter().map(entry).collect()
        })
        .collect();
    let chains: Vec<EventIdSet<OwnedEventId>> = states
        .iter()
        .map(|state| {
            state
                .values()
                .flat_map(|&id| chain(room, id))
                .map(id_of)
                .collect()
        })
        .collect();
    // By the definition: between two conflicting events lies what one reaches
    // and what reaches the other.
    let subgraph = |conflicted: &ruma::state_res::StateMap<Vec<OwnedEventId>>| {
        let named: BTreeSet<&OwnedEventId> = conflicted.values().flatten().collect();
        let is_conflicted = |index: usize| named.contains(&room.events[index].event_id);
        let indices = 0..room.events.len();
        let reached: BTreeSet<usize> = indices
            .clone()
            .filter(|&index| is_conflicted(index))
            .flat_map(|index| chain(room, index))
            .collect();
        let between = indices.filter(|index| {
            let below = || chain(room, *index).into_iter().any(is_conflicted);
            is_conflicted(*index) || (reached.contains(index) && below())
        });
        Some(between.map(id_of).collect())
    };
    let rules = room.version.rules();
    let resolved = ruma::state_res::resolve(
        &rules.authorization,
        rules.state_res.v2_rules().expect("not version 1"),
        &maps,
        chains,
        |id: &EventId| theirs.get(id),
        subgraph,
    )
    .expect("resolves");
    resolved
        .into_iter()
        .map(|((kind, state_key), id)| (key(&kind.to_string(), &state_key), id))
        .collect()
}

/// As many random cases as `PROPTEST_CASES` says, 400 otherwise, and room to
/// leave as many out.
fn cases() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 400;
    }
    config.max_global_rejects = config.cases;
    config
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn agrees_with_ruma_on_random_forks(
        version in 2_u8..=12,
        forks in 2_usize..=3,
        actions in proptest::collection::vec((0_usize..3, 0_usize..4, 0_usize..4, any::<u8>(), 5_u64..12), 5..40),
    ) {
        let version = RoomVersion::parse(&version.to_string()).expect("known");
        let mut room = Room::new(version, forks);
        for action in actions {
            room.act(action);
        }
        // The case itself is
        // `only_the_default_join_rule_sets_us_apart_from_ruma`.
        prop_assume!(!room.has_join_without_join_rules());
        let ours = room.named(&room.resolve(&room.forks));
        prop_assert_eq!(ours, resolve_as_ruma(&room, &room.forks));
    }

    /// The order of the states, and one given twice, make no difference.
    #[test]
    fn order_and_repetition_do_not_matter(
        version in 1_u8..=12,
        actions in proptest::collection::vec((0_usize..3, 0_usize..4, 0_usize..4, any::<u8>(), 5_u64..12), 5..30),
    ) {
        let version = RoomVersion::parse(&version.to_string()).expect("known");
        let mut room = Room::new(version, 3);
        for action in actions {
            room.act(action);
        }
        let forward = room.resolve(&room.forks);
        let mut backward: Vec<StateMap<usize>> = room.forks.iter().rev().cloned().collect();
        backward.push(room.forks[0].clone());
        prop_assert_eq!(forward, room.resolve(&backward));
    }
}

/// The creator left on one fork and closed the room on the other. Once these
/// meet twice, neither join rules event has a sender in the room and both are
/// gone, and a member joins again under the default join rule.
#[test]
fn only_the_default_join_rule_sets_us_apart_from_ruma() {
    for version in RoomVersion::all() {
        if version == RoomVersion::V1 {
            continue; // Which ruma does not know.
        }
        let mut room = Room::new(version, 2);
        let member = key("m.room.member", "@b:hs");
        let first = room.forks[0][&member];
        room.act((0, 0, 0, 161, 5)); // @a closes the room,
        room.act((1, 0, 0, 247, 5)); // and leaves it on the other fork.
        room.act((2, 0, 0, 11, 5));
        room.act((2, 0, 0, 191, 5));
        let rules = key("m.room.join_rules", "");
        if version.room_id_is_create_hash() {
            // Version 2.1 starts from an empty state, where @a is in the room.
            assert!(room.forks[0].contains_key(&rules), "{version}");
            continue;
        }
        assert!(!room.forks[0].contains_key(&rules), "{version}");
        assert!(!room.has_join_without_join_rules(), "{version}");
        room.act((0, 1, 0, 152, 5)); // @b joins again.
        assert!(room.has_join_without_join_rules(), "{version}");
        let again = room.forks[0][&member];
        assert_ne!(first, again, "{version}");

        let mut ours = room.named(&room.resolve(&room.forks));
        let mut theirs = resolve_as_ruma(&room, &room.forks);
        let id_of = |index: usize| Some(room.events[index].event_id.clone());
        assert_eq!(ours.remove(&member), id_of(again), "{version}");
        // Should this fail one day, ruma has a default too: compare all again.
        assert_eq!(theirs.remove(&member), id_of(first), "{version}");
        assert_eq!(ours, theirs, "{version}");
    }
}

#[test]
fn a_ban_wins_over_what_the_banned_did_beside_it() {
    for version in RoomVersion::all() {
        let mut room = Room::new(version, 2);
        assert!(room.add(
            0,
            "@a:hs",
            "m.room.member",
            "@b:hs",
            r#"{"membership":"ban"}"#,
            10
        ));
        assert!(room.add(1, "@b:hs", "m.room.topic", "", r#"{"topic":"x"}"#, 11));
        let resolved = room.resolve(&room.forks);
        let member = resolved[&key("m.room.member", "@b:hs")];
        assert_eq!(
            room.events[member].content["membership"].as_str(),
            Some("ban"),
            "{version}"
        );
        // In version 1 a key that one side lacks is no conflict, and stays.
        assert_eq!(
            resolved.contains_key(&key("m.room.topic", "")),
            version == RoomVersion::V1,
            "{version}"
        );
    }
}

#[test]
fn version_1_takes_the_deepest_allowed_event() {
    let mut room = Room::new(RoomVersion::V1, 2);
    assert!(room.add(0, "@a:hs", "m.room.topic", "", r#"{"topic":"shallow"}"#, 99));
    assert!(room.add(1, "@b:hs", "m.room.name", "", r#"{"name":"x"}"#, 5));
    assert!(room.add(1, "@b:hs", "m.room.topic", "", r#"{"topic":"deep"}"#, 5));
    let topic = |room: &Room| {
        let resolved = room.resolve(&room.forks);
        room.events[resolved[&key("m.room.topic", "")]].content["topic"]
            .as_str()
            .map(str::to_owned)
    };
    assert_eq!(topic(&room).as_deref(), Some("deep"));
    // Who lost the level for it no longer counts.
    let levels = room.levels_content(&[("@b:hs", 0)], 0);
    assert!(room.add(0, "@a:hs", "m.room.power_levels", "", &levels, 6));
    assert_eq!(topic(&room).as_deref(), Some("shallow"));
}

#[test]
fn states_that_agree_need_no_events() {
    let room = Room::new(RoomVersion::V11, 2);
    let unread = |_| -> Result<Option<Arc<ResolutionEvent<usize>>>, Infallible> {
        unreachable!("nothing to look at")
    };
    let resolved =
        super::resolve(room.version, &room.create, &room.forks, 0, unread).expect("resolves");
    assert_eq!(resolved, room.forks[0]);
}

#[test]
fn the_bound_is_on_events_looked_at() {
    let mut room = Room::new(RoomVersion::V11, 2);
    assert!(room.add(0, "@a:hs", "m.room.topic", "", r#"{"topic":"x"}"#, 10));
    let with = |events_max| {
        super::resolve(room.version, &room.create, &room.forks, events_max, |id| {
            room.fetch(id)
        })
    };
    assert_eq!(with(3), Err(ResolveError::TooManyEvents(3)));
    assert!(with(EVENTS_MAX).is_ok());
}
