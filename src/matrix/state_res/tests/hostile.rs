//! Rooms that mean harm, and stores that lack what they should have: no panic,
//! no recursion, and an end.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::*;
use super::room::{Dice, Fork, StateMap, TestRoom, key};
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::parse_object;

/// An event that was made up: its kind, whom it is about, and what it cites.
fn event(id: u64, kind: &str, state_key: &str, content: &str, cited: &[u64]) -> ResolutionEvent {
    ResolutionEvent {
        event_id: OwnedEventId::try_from(format!("$made-up-{id}")).expect("valid"),
        sender: OwnedUserId::try_from("@a:hs").expect("valid"),
        kind: kind.into(),
        state_key: state_key.into(),
        content: parse_object(content.as_bytes()).expect("parses"),
        origin_server_ts: id % 7,
        depth: id % 5,
        auth_events: cited.to_vec(),
        prev_events_count: 1,
        first_prev_is_create: false,
        redacts: None,
        rejected: false,
    }
}

const KINDS: [(&str, &str, &str); 10] = [
    ("m.room.power_levels", "", r#"{"users":{"@a:hs":100}}"#),
    ("m.room.power_levels", "", r#"{"users":7}"#),
    ("m.room.power_levels", "x", "{}"),
    ("m.room.join_rules", "", r#"{"join_rule":["public"]}"#),
    ("m.room.member", "@a:hs", r#"{"membership":"join"}"#),
    ("m.room.member", "@b:hs", r#"{"membership":"ban"}"#),
    ("m.room.member", "no user", r#"{"membership":3}"#),
    ("m.room.third_party_invite", "t", r#"{"public_key":"?"}"#),
    ("m.room.create", "", r#"{"creator":7}"#),
    ("m.room.topic", "", "{}"),
];

/// Events that cite anything: each other in circles, themselves, one twice,
/// what does not exist. Whatever comes out, it is the same each time, however
/// events are numbered.
#[test]
fn continuwuity_b502f74c3_made_up_graphs_end_and_end_alike() {
    for seed in 0..600 {
        let mut dice = Dice(seed);
        let versions: Vec<RoomVersion> = RoomVersion::all().collect();
        let version = versions[seed as usize % versions.len()];
        let (mut room, fork) = TestRoom::new(version, r#"{"creator":"@a:hs"}"#);
        let count = 2 + dice.below(30) as u64;
        let has_unknown = dice.one_in(2);
        for id in 1..count {
            let (kind, state_key, content) = KINDS[dice.below(KINDS.len())];
            let reach = if has_unknown { count + 3 } else { count };
            let cited: Vec<u64> = (0..dice.below(6)).map(|_| dice.next() % reach).collect();
            let event = event(id, kind, state_key, content, &cited);
            let auth_kind = AuthKind::of(kind, state_key);
            if !dice.one_in(4) {
                room.graph.insert(id, auth_kind, &cited);
            }
            room.events.insert(id, Arc::new(event));
        }
        let states: Vec<StateMap> = (0..2 + dice.below(4))
            .map(|_| some_state(&room, &fork, &mut dice))
            .collect();
        let states: Vec<&StateMap> = states.iter().collect();
        let (first, spent) = room
            .resolve_as(&states, &mut Dice(1), Work::new(u64::MAX))
            .expect("ends");
        let (again, _) = room
            .resolve_as(&states, &mut Dice(2), Work::new(u64::MAX))
            .expect("ends");
        assert_eq!(room.named(&first), room.named(&again), "seed {seed}");
        let short = room.resolve_as(&states, &mut Dice(1), Work::new(spent / 2));
        if spent > 0 {
            assert_eq!(short, Err(ResolveError::TooMuchWork), "seed {seed}");
        }
        if !has_unknown {
            let (other, numbers) = room.renumbered(&mut dice);
            let renumber = |state: &&StateMap| -> StateMap {
                let entries = state.iter();
                entries
                    .map(|(key, id)| (key.clone(), numbers[id]))
                    .collect()
            };
            let states: Vec<StateMap> = states.iter().map(renumber).collect();
            let states: Vec<&StateMap> = states.iter().collect();
            let again = other.resolve(&states);
            assert_eq!(room.named(&first), other.named(&again), "seed {seed}");
        }
    }
}

/// For some keys one of the events that hold them.
fn some_state(room: &TestRoom, fork: &Fork, dice: &mut Dice) -> StateMap {
    let mut state = fork.state.clone();
    for (id, event) in &room.events {
        if &*event.kind != "m.room.create" && dice.one_in(3) {
            state.insert(key(&event.kind, &event.state_key), *id);
        }
    }
    state
}

/// Power levels that were changed 10,000 times, one on top of the other, and
/// as many joins on each side.
#[test]
fn cve_2024_31208_a_chain_of_ten_thousand_is_walked_without_recursion() {
    const DEPTH: u64 = 10_000;
    for version in [RoomVersion::V1, RoomVersion::V11, RoomVersion::V12] {
        let (mut room, fork) = TestRoom::new(version, r#"{"creator":"@a:hs"}"#);
        let mut add = |id: u64, kind: &str, content: &str, cited: &[u64]| {
            let state_key = match kind {
                "m.room.member" => "@a:hs",
                _ => "",
            };
            let event = event(id, kind, state_key, content, cited);
            room.graph.insert(id, AuthKind::of(kind, state_key), cited);
            room.events.insert(id, Arc::new(event));
        };
        let join = r#"{"membership":"join"}"#;
        add(1, "m.room.member", join, &[0]);
        let levels = match version {
            RoomVersion::V12 => "{}",
            _ => r#"{"users":{"@a:hs":100}}"#,
        };
        add(2, "m.room.power_levels", levels, &[0, 1]);
        let mut tips = [2, 2];
        for at in 0..2 * DEPTH {
            let tip = &mut tips[at as usize % 2];
            let id = 3 + at;
            add(id, "m.room.power_levels", levels, &[0, *tip, 1]);
            *tip = id;
        }
        let state = |levels: u64| {
            let mut state = fork.state.clone();
            state.insert(key("m.room.member", "@a:hs"), 1);
            state.insert(key("m.room.power_levels", ""), levels);
            state
        };
        let states = tips.map(state);
        let (resolved, spent) = room
            .resolve_as(&[&states[0], &states[1]], &mut Dice(0), Work::new(u64::MAX))
            .expect("resolves");
        assert!(tips.contains(&resolved[&key("m.room.power_levels", "")]));
        // Linear: some units for each event and each edge.
        assert!(spent < 2 * DEPTH * 100, "{spent} units");
        let short = room.resolve_as(
            &[&states[0], &states[1]],
            &mut Dice(0),
            Work::new(spent - 1),
        );
        assert_eq!(short, Err(ResolveError::TooMuchWork), "{version}");
    }
}

/// An invite with many signatures and an invitation with many keys: each would
/// be tried with each.
#[test]
fn signatures_to_try_are_work() {
    let keys = format!(r#"{{"public_key":"{}"}}"#, "A".repeat(43));
    let keys = vec![keys; 400].join(",");
    let invitation = format!(r#"{{"public_keys":[{keys}]}}"#);
    let signatures: Vec<String> = (0..300)
        .map(|at| format!(r#""ed25519:{at}":"x""#))
        .collect();
    let invite = format!(
        r#"{{"membership":"invite","third_party_invite":{{"signed":{{"mxid":"@b:hs","token":"t","signatures":{{"id":{{{}}}}}}}}}}}"#,
        signatures.join(",")
    );
    for version in RoomVersion::all() {
        let (mut room, mut fork) = TestRoom::new(version, r#"{"creator":"@a:hs"}"#);
        let join = r#"{"membership":"join"}"#;
        let mut add = |id: u64, kind: &str, state_key: &str, content: &str, cited: &[u64]| {
            let event = event(id, kind, state_key, content, cited);
            room.events.insert(id, Arc::new(event));
            (key(kind, state_key), id)
        };
        fork.state.extend([
            add(1, "m.room.member", "@a:hs", join, &[0]),
            add(2, "m.room.third_party_invite", "t", &invitation, &[0, 1]),
        ]);
        let mut states = [fork.state.clone(), fork.state.clone()];
        for (at, state) in states.iter_mut().enumerate() {
            let id = 3 + at as u64;
            state.extend([add(id, "m.room.member", "@b:hs", &invite, &[0, 1, 2])]);
        }
        let short = room.resolve_as(&[&states[0], &states[1]], &mut Dice(0), Work::new(1 << 24));
        assert_eq!(short, Err(ResolveError::TooMuchWork), "{version}");
    }
}

/// A store that fails, or does not have an event of a state.
struct Failing {
    events: BTreeMap<u64, Arc<ResolutionEvent>>,
    reads_left: usize,
}

impl super::super::Room for Failing {
    type Error = &'static str;

    fn event(&mut self, id: u64) -> Result<Option<Arc<ResolutionEvent>>, &'static str> {
        self.read()?;
        Ok(self.events.get(&id).cloned())
    }
    fn agreed(&mut self, _: &str, _: &str) -> Result<Option<u64>, &'static str> {
        self.read()?;
        Ok(None)
    }
    fn each_agreed(&mut self, _: &mut dyn FnMut(u64)) -> Result<(), &'static str> {
        self.read()
    }
}

impl Failing {
    fn read(&mut self) -> Result<(), &'static str> {
        self.reads_left = self.reads_left.checked_sub(1).ok_or("disk is gone")?;
        Ok(())
    }
}

#[test]
fn a_failing_store_and_an_unknown_entry_are_told() {
    for version in RoomVersion::all() {
        let (room, _) = TestRoom::new(version, r#"{"creator":"@a:hs"}"#);
        let mut conflict = Conflict::new(2);
        conflict.push(Some(1), [(1, Some(2))]);
        conflict.push(Some(3), [(1, None)]);
        let join = r#"{"membership":"join"}"#;
        let mut events = room.events.clone();
        for (id, state_key) in [(1, "@a:hs"), (2, "@a:hs"), (3, "@b:hs")] {
            let event = event(id, "m.room.member", state_key, join, &[0]);
            events.insert(id, Arc::new(event));
        }
        let with = |events: &BTreeMap<u64, Arc<ResolutionEvent>>, reads_left| {
            let mut failing = Failing {
                events: events.clone(),
                reads_left,
            };
            let graph = AuthGraph::new();
            let mut work = Work::new(u64::MAX);
            super::super::resolve(&room.create, &conflict, &graph, &mut failing, &mut work)
        };
        let reads = (0..).find(|&reads| with(&events, reads).is_ok());
        let reads = reads.expect("some are enough");
        assert!(reads >= 3, "{version}");
        for reads in 0..reads {
            let failed = with(&events, reads);
            assert_eq!(failed, Err(ResolveError::Read("disk is gone")), "{version}");
        }
        events.remove(&2);
        let unknown = with(&events, usize::MAX);
        assert_eq!(unknown, Err(ResolveError::UnknownEvent(2)), "{version}");
    }
}
