//! A small room that is built event by event on several forks at once, and
//! resolved in every way that must make no difference.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use super::super::auth_checks::{Sources, is_allowed};
use super::super::events::Events;
use super::super::*;
use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::{self, MemberContent, auth_types_for_event};
use crate::matrix::canonical_json::parse_object;
use crate::matrix::ids::OwnedRoomId;

pub type Key = (Box<str>, Box<str>);
/// A room state: which event holds each key.
pub type StateMap = BTreeMap<Key, u64>;

pub fn key(kind: &str, state_key: &str) -> Key {
    (kind.into(), state_key.into())
}

/// Random numbers that are the same each time (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at + 1));
        }
    }
}

/// An event yet to be added.
pub struct Draft<'a> {
    pub sender: &'a str,
    pub kind: &'a str,
    pub state_key: &'a str,
    pub content: &'a str,
    pub ts: u64,
}

/// Where a fork of the room stands.
#[derive(Clone, Default)]
pub struct Fork {
    pub state: StateMap,
    /// Depth of its next event.
    pub depth: u64,
    /// How many events it merges next, and whether the first is the create event.
    pub prev_events_count: usize,
    pub after_create: bool,
}

#[derive(Clone)]
pub struct TestRoom {
    pub create: CreateInfo,
    pub events: BTreeMap<u64, Arc<ResolutionEvent>>,
    pub graph: AuthGraph,
}

/// A room as one resolution sees it.
struct Seen<'a> {
    events: &'a BTreeMap<u64, Arc<ResolutionEvent>>,
    agreed: &'a StateMap,
}

impl super::super::Room for Seen<'_> {
    type Error = Infallible;

    fn event(&mut self, id: u64) -> Result<Option<Arc<ResolutionEvent>>, Infallible> {
        Ok(self.events.get(&id).cloned())
    }
    fn agreed(&mut self, kind: &str, state_key: &str) -> Result<Option<u64>, Infallible> {
        Ok(self.agreed.get(&key(kind, state_key)).copied())
    }
    fn each_agreed(&mut self, each: &mut dyn FnMut(u64)) -> Result<(), Infallible> {
        self.agreed.values().copied().for_each(each);
        Ok(())
    }
}

impl TestRoom {
    /// A room with nothing but its create event, and a fork after it.
    pub fn new(version: RoomVersion, content: &str) -> (TestRoom, Fork) {
        let room_id = match version.room_id_is_create_hash() {
            true => "!create",
            false => "!r:hs",
        };
        let create = CreateInfo::parse(
            version,
            OwnedEventId::try_from("$create").expect("valid"),
            OwnedRoomId::try_from(room_id).expect("valid"),
            OwnedUserId::try_from("@a:hs").expect("valid"),
            &parse_object(content.as_bytes()).expect("parses"),
        );
        let mut room = TestRoom {
            create: create.expect("parses"),
            events: BTreeMap::new(),
            graph: AuthGraph::new(),
        };
        let mut fork = Fork::default();
        let create = Draft {
            sender: "@a:hs",
            kind: "m.room.create",
            state_key: "",
            content,
            ts: 0,
        };
        assert!(room.add(&mut fork, &create).is_some());
        fork.after_create = true;
        (room, fork)
    }

    pub fn version(&self) -> RoomVersion {
        self.create.version
    }

    /// Adds an event to a fork, with what its state says it cites, if that
    /// state allows it.
    pub fn add(&mut self, fork: &mut Fork, draft: &Draft<'_>) -> Option<u64> {
        let event = self.event(fork, draft);
        let id = self.events.len() as u64;
        self.events.insert(id, Arc::new(event));
        if !self.allows(&fork.state, id) {
            self.events.remove(&id);
            return None;
        }
        self.enter(fork, id);
        Some(id)
    }

    /// Makes an event the last of a fork.
    pub fn enter(&mut self, fork: &mut Fork, id: u64) {
        let event = self.events[&id].clone();
        let kind = AuthKind::of(&event.kind, &event.state_key);
        self.graph.insert(id, kind, &event.auth_events);
        fork.state.insert(key(&event.kind, &event.state_key), id);
        fork.depth = event.depth + 1;
        fork.prev_events_count = 1;
        fork.after_create = false;
    }

    fn event(&self, fork: &Fork, draft: &Draft<'_>) -> ResolutionEvent {
        let index = self.events.len();
        // Scattered, so that ids are in no order that means anything.
        let name = match draft.kind {
            "m.room.create" => "$create".to_owned(),
            _ => {
                let (_, server) = draft.sender.split_once(':').expect("has a server");
                format!("$e{:04}:{server}", index * 7919 % 9973)
            }
        };
        let mut event = ResolutionEvent {
            event_id: OwnedEventId::try_from(name).expect("valid"),
            sender: OwnedUserId::try_from(draft.sender).expect("valid"),
            kind: draft.kind.into(),
            state_key: draft.state_key.into(),
            content: parse_object(draft.content.as_bytes()).expect("parses"),
            origin_server_ts: draft.ts,
            depth: fork.depth,
            auth_events: Vec::new(),
            prev_events_count: fork.prev_events_count,
            first_prev_is_create: fork.after_create,
            redacts: None,
            rejected: false,
        };
        let member = match draft.kind {
            "m.room.member" => Some(MemberContent::parse(&event.content).expect("is one")),
            _ => None,
        };
        let keys = auth_types_for_event(
            self.version(),
            draft.kind,
            &event.sender,
            Some(draft.state_key),
            member,
        );
        let held = |entry: &auth_rules::AuthKey<'_>| {
            let entry = key(entry.kind, &entry.state_key);
            fork.state.get(&entry).copied()
        };
        let cited: Vec<u64> = keys.iter().filter_map(held).collect();
        let redacts = event.content.get("redacts").and_then(|id| id.as_str());
        let redacts = redacts.map(Box::from);
        drop(keys);
        (event.auth_events, event.redacts) = (cited, redacts);
        event
    }

    /// Whether a state allows an event.
    pub fn allows(&self, state: &StateMap, id: u64) -> bool {
        let mut seen = Seen {
            events: &self.events,
            agreed: state,
        };
        let mut work = Work::new(u64::MAX);
        let mut events = Events::new(&self.create, &self.graph, &mut seen, &mut work);
        let node = events.node(id);
        let sources = Sources {
            agreed: true,
            cited: false,
        };
        is_allowed(&mut events, node, sources).expect("is read")
    }

    pub fn resolve(&self, states: &[&StateMap]) -> StateMap {
        self.resolve_as(states, &mut Dice(0), Work::new(u64::MAX))
            .expect("resolves")
            .0
    }

    /// Resolves states that are put to the resolution in one of many ways: in
    /// which order keys come, which entry is the base, and whether keys that
    /// agree are named. Answers the work spent, too.
    pub fn resolve_as(
        &self,
        states: &[&StateMap],
        dice: &mut Dice,
        mut work: Work,
    ) -> Result<(StateMap, u64), ResolveError<Infallible>> {
        let mut agreed = StateMap::new();
        let mut keys: Vec<&Key> = states.iter().flat_map(|state| state.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        dice.shuffle(&mut keys);
        let mut named = Vec::new();
        let mut conflict = Conflict::new(states.len());
        for key in keys {
            let held: Vec<Option<u64>> =
                states.iter().map(|state| state.get(key).copied()).collect();
            if held.iter().all(|event| *event == held[0]) && !dice.one_in(4) {
                agreed.extend(held[0].map(|id| (key.clone(), id)));
                continue;
            }
            // One that nobody has is as good as any, if all differ from it.
            let base = match dice.below(held.len() + 1) {
                at if at == held.len() => Some(u64::MAX),
                at => held[at],
            };
            let differing = held.iter().enumerate().filter(|(_, event)| **event != base);
            conflict.push(base, differing.map(|(state, event)| (state as u32, *event)));
            named.push(key.clone());
        }
        let mut seen = Seen {
            events: &self.events,
            agreed: &agreed,
        };
        let resolved =
            super::super::resolve(&self.create, &conflict, &self.graph, &mut seen, &mut work)?;
        let mut state = agreed;
        let entries = named.into_iter().zip(resolved.entries);
        state.extend(entries.filter_map(|(key, id)| Some((key, id?))));
        for id in resolved.added {
            let event = &self.events[&id];
            let held = state.insert(key(&event.kind, &event.state_key), id);
            assert_eq!(held, None, "added beside an entry");
        }
        Ok((state, work.spent()))
    }

    /// The same room with its events numbered otherwise, and the graph filled
    /// in another order; answers the new numbers, too.
    pub fn renumbered(&self, dice: &mut Dice) -> (TestRoom, BTreeMap<u64, u64>) {
        // Sometimes the graph lacks what it may lack.
        let leaves_out = [2, 6, usize::MAX][dice.below(3)];
        self.renumbered_without(dice, leaves_out)
    }

    /// The same, with every event in the graph.
    pub fn renumbered_with_full_graph(&self, dice: &mut Dice) -> (TestRoom, BTreeMap<u64, u64>) {
        self.renumbered_without(dice, usize::MAX)
    }

    fn renumbered_without(
        &self,
        dice: &mut Dice,
        leaves_out: usize,
    ) -> (TestRoom, BTreeMap<u64, u64>) {
        let mut numbers: Vec<u64> = (0..self.events.len() as u64).map(|at| at * 3 + 7).collect();
        dice.shuffle(&mut numbers);
        let numbers: BTreeMap<u64, u64> = self.events.keys().copied().zip(numbers).collect();
        let mut events = BTreeMap::new();
        for (id, event) in &self.events {
            let mut event = ResolutionEvent::clone(event);
            for cited in &mut event.auth_events {
                *cited = numbers[cited];
            }
            events.insert(numbers[id], Arc::new(event));
        }
        let mut order: Vec<u64> = events.keys().copied().collect();
        dice.shuffle(&mut order);
        let mut graph = AuthGraph::new();
        for id in order {
            let event = &events[&id];
            let kind = AuthKind::of(&event.kind, &event.state_key);
            if !dice.one_in(leaves_out) {
                graph.insert(id, kind, &event.auth_events);
            }
        }
        let room = TestRoom {
            create: self.create.clone(),
            events,
            graph,
        };
        (room, numbers)
    }

    /// A state by the ids of its events.
    pub fn named(&self, state: &StateMap) -> BTreeMap<Key, OwnedEventId> {
        let name = |(key, id): (&Key, &u64)| (key.clone(), self.events[id].event_id.clone());
        state.iter().map(name).collect()
    }
}
