//! States: any entry of any old state, equal states with equal ids, bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use log_format::record::output::Membership;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::projectors::roomserver::state::{
    self, Change, DigestKey, RoomStates, StateIds, StateNode,
};
use crate::query::ids::{EventSn, RoomSn, StateId};
use crate::storage::open::{Store, StoreOptions};
use crate::storage::overlay::{Overlay, StoreError};

const ROOM: RoomSn = RoomSn(3);

/// One step: on top of which known state (from the newest back), which key is set.
type Step = (usize, u8, bool);

type Model = HashMap<(String, String), u64>;

/// A model, sorted.
type Content = Vec<((String, String), u64)>;

struct States {
    _dir: tempfile::TempDir,
    store: Store,
    key: DigestKey,
}

impl States {
    fn new() -> States {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &StoreOptions::default()).unwrap();
        States {
            _dir: dir,
            store,
            key: DigestKey::of_log(&[1; 16]),
        }
    }

    fn read(&self) -> RoomStates<'_> {
        self.read_room(ROOM)
    }

    fn read_room(&self, room: RoomSn) -> RoomStates<'_> {
        RoomStates {
            tables: &self.store,
            partition: 0,
            room,
        }
    }

    fn write(&self, overlay: Overlay<'_>) {
        let mut batch = self.store.batch();
        batch.apply(overlay.into_writes()).unwrap();
        self.store.write(batch).unwrap();
    }
}

fn key_of(number: u8) -> (String, String) {
    let kind = ["m.room.topic", "m.room.member", "m.room"][usize::from(number % 3)];
    (kind.to_owned(), format!("k{}", number / 3))
}

/// A tree of states, with forks and keys set and removed, against whole maps.
#[test]
fn any_state_reads_as_a_plain_map() {
    // One store, and a room for each case: opening costs more than a case.
    let states = States::new();
    let rooms = std::cell::Cell::new(100);
    let step = (0usize..6, 0u8..12, prop::bool::weighted(0.85));
    let cases = (prop::collection::vec(step, 1..60), 1usize..8);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&cases, |(steps, group)| {
        rooms.set(rooms.get() + 1);
        compare(&states, RoomSn(rooms.get()), &steps, group)
    });
    outcome.unwrap();
}

/// The difference of any two states is that of their maps.
fn compare_differences(
    states: &RoomStates<'_>,
    known: &[(StateNode, Model)],
) -> Result<(), TestCaseError> {
    let pairs = known.iter().zip(known.iter().rev());
    for ((from, before), (to, after)) in pairs {
        let changes = states.difference(from, to, |_| Ok::<(), StoreError>(()));
        let mut moved = before.clone();
        for change in changes.unwrap() {
            let event = change.to.map(|event| event.0);
            let held = change.from.map(|event| event.0);
            // A key is interned as the event that set it first.
            let key = known.iter().find_map(|(_, model)| {
                let of_key = |(key, _): &(&(String, String), &u64)| {
                    states.find_key(&key.0, &key.1).unwrap() == Some(change.key)
                };
                model.iter().find(of_key).map(|(key, _)| key.clone())
            });
            let key = key.unwrap();
            prop_assert_eq!(held, moved.get(&key).copied());
            match event {
                Some(event) => moved.insert(key, event),
                None => moved.remove(&key),
            };
        }
        prop_assert_eq!(&moved, after);
    }
    Ok(())
}

fn compare(
    states: &States,
    room: RoomSn,
    steps: &[Step],
    group: usize,
) -> Result<(), TestCaseError> {
    let mut known: Vec<(StateNode, Model)> = vec![(StateNode::EMPTY, Model::new())];
    let steps: Vec<(u64, &Step)> = (10u64..).zip(steps).collect();
    for group in steps.chunks(group) {
        let mut overlay = Overlay::new(&states.store);
        for (offset, (back, key, is_set)) in group {
            // Mostly the newest, sometimes an older one: a fork.
            let at = known.len() - 1 - back.saturating_sub(3).min(known.len() - 1);
            let (parent, mut model) = known[at].clone();
            let (kind, state_key) = key_of(*key);
            let event = EventSn(*offset);
            let name = (kind.as_str(), state_key.as_str());
            let change = Change {
                key: state::intern_key(&mut overlay, 0, room, name, event).unwrap(),
                from: model
                    .get(&(kind.clone(), state_key.clone()))
                    .copied()
                    .map(EventSn),
                to: is_set.then_some(event),
                membership: None,
            };
            let mut ids = StateIds::of(*offset);
            let changes = [change];
            let key = &states.key;
            let node = state::apply(&mut overlay, 0, room, key, &parent, &changes, &mut ids);
            let node = node.unwrap();
            match is_set {
                true => model.insert((kind, state_key), *offset),
                false => model.remove(&(kind, state_key)),
            };
            known.push((node, model));
        }
        states.write(overlay);
    }
    compare_differences(&states.read_room(room), &known)?;
    let mut by_content: BTreeMap<Content, StateId> = BTreeMap::new();
    for (node, model) in &known {
        let mut sorted: Vec<_> = model.clone().into_iter().collect();
        sorted.sort();
        // Equal states have equal ids, and only they.
        let same = by_content.insert(sorted.clone(), node.id);
        prop_assert!(same.is_none_or(|id| id == node.id));
        let map = states.read_room(room).map(node.id).unwrap();
        let mut read: Vec<_> = map
            .iter()
            .map(|(key, sn)| ((key.kind.to_string(), key.state_key.to_string()), sn.0))
            .collect();
        read.sort();
        prop_assert_eq!(read, sorted);
        for number in 0..12 {
            let (kind, state_key) = key_of(number);
            let entry = states
                .read_room(room)
                .entry(node.id, &kind, &state_key)
                .unwrap();
            let entry = entry.and_then(|entry| entry.event).map(|sn| sn.0);
            prop_assert_eq!(entry, model.get(&(kind, state_key)).copied());
        }
    }
    let ids: BTreeSet<StateId> = by_content.values().copied().collect();
    prop_assert_eq!(ids.len(), by_content.len());
    Ok(())
}

#[test]
fn the_order_of_changes_does_not_make_a_state() {
    let states = States::new();
    let mut overlay = Overlay::new(&states.store);
    let mut set = |parent: &StateNode, name: &str, event: u64, id: u64| {
        let key = ("m.room.topic", name);
        let change = Change {
            key: state::intern_key(&mut overlay, 0, ROOM, key, EventSn(event)).unwrap(),
            from: None,
            to: Some(EventSn(event)),
            membership: None,
        };
        state::apply(
            &mut overlay,
            0,
            ROOM,
            &states.key,
            parent,
            &[change],
            &mut StateIds::of(id),
        )
        .unwrap()
    };
    let a = set(&StateNode::EMPTY, "a", 1, 10);
    let ab = set(&a, "b", 2, 20);
    let b = set(&StateNode::EMPTY, "b", 2, 30);
    let ba = set(&b, "a", 1, 40);
    assert_eq!(ab.id, ba.id);
    assert_ne!(a.id, b.id);
    // Another log's digests are others: nobody can prepare a collision.
    let other = DigestKey::of_log(&[2; 16]);
    let change = Change {
        key: 1,
        from: None,
        to: Some(EventSn(1)),
        membership: None,
    };
    let empty = StateNode::EMPTY;
    let mine = state::apply(
        &mut overlay,
        0,
        RoomSn(4),
        &states.key,
        &empty,
        &[change],
        &mut StateIds::of(50),
    );
    let theirs = state::apply(
        &mut overlay,
        0,
        RoomSn(5),
        &other,
        &empty,
        &[change],
        &mut StateIds::of(50),
    );
    assert_ne!(mine.unwrap().digest, theirs.unwrap().digest);
}

/// A room of 50,000 members who join, then change their names: bytes on disk
/// for each change of state, and how dear an old state is.
#[test]
fn a_large_room_stores_its_states_in_few_bytes() {
    const MEMBERS: u64 = 50_000;
    const CHANGES: u64 = 2 * MEMBERS;
    let states = States::new();
    let mut node = StateNode::EMPTY;
    let mut held: HashMap<u64, EventSn> = HashMap::new();
    let mut middle = node;
    for group in 0..CHANGES / 1000 {
        let mut overlay = Overlay::new(&states.store);
        for number in group * 1000..(group + 1) * 1000 {
            let event = EventSn(1_000_000 + 3 * number);
            let member = (number * 7919) % MEMBERS;
            let user = format!(
                "@member{:06x}:server{}.example.org",
                member * 40_503,
                member % 997
            );
            let key = ("m.room.member", user.as_str());
            let change = Change {
                key: state::intern_key(&mut overlay, 0, ROOM, key, event).unwrap(),
                from: held.insert(member, event),
                to: Some(event),
                membership: Some(Membership::Join),
            };
            let mut ids = StateIds::of(event.0);
            let (key, changes) = (&states.key, [change]);
            let made = state::apply(&mut overlay, 0, ROOM, key, &node, &changes, &mut ids);
            node = made.unwrap();
            if number == MEMBERS {
                middle = node;
            }
        }
        states.write(overlay);
    }
    states.store.flush().unwrap();
    states.store.compact().unwrap();
    let bytes = states.store.metrics().table_file_bytes;
    let each = bytes as f64 / CHANGES as f64;
    println!("{bytes} bytes for {CHANGES} changes of state: {each:.1} each");
    assert!(each < 100.0, "{each} bytes for each change of state");
    let mut logical = 0usize;
    for table in crate::storage::columns::ALL {
        states
            .store
            .scan::<StoreError>(*table, b"", |key, value| {
                logical += key.len() + value.len();
                Ok(())
            })
            .unwrap();
    }
    println!(
        "{:.1} bytes each before compression",
        logical as f64 / CHANGES as f64
    );
    // Any old state is there, whole and by key.
    let map = states.read().map(middle.id).unwrap();
    assert_eq!(map.len() as u64, MEMBERS);
    let (key, sn) = map.get_min().unwrap();
    let entry = states
        .read()
        .entry(middle.id, &key.kind, &key.state_key)
        .unwrap();
    assert_eq!(entry.unwrap().event, Some(*sn));
}
