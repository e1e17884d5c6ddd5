//! The auth graph against a plain map, and what a resolution may find in it.

use std::collections::BTreeMap;

use super::super::{AuthGraph, AuthKind};
use super::room::Dice;

const KINDS: [AuthKind; 3] = [AuthKind::Member, AuthKind::PowerLevels, AuthKind::Other];

#[test]
fn it_holds_what_was_added_in_any_order() {
    for seed in 0..300 {
        let mut dice = Dice(seed);
        let count = 1 + dice.below(60);
        let mut model: BTreeMap<u64, (AuthKind, Vec<u64>)> = BTreeMap::new();
        let mut graph = AuthGraph::new();
        let mut ids: Vec<u64> = (0..count as u64).map(|id| id * 5).collect();
        // Mostly ascending in some rooms, wild in others.
        for _ in 0..[0, 3, count][dice.below(3)] {
            let (a, b) = (dice.below(count), dice.below(count));
            ids.swap(a, b);
        }
        for id in ids {
            // Cites what may come later, or never, or itself, or one twice.
            let cited: Vec<u64> = (0..dice.below(6))
                .map(|_| dice.below(count * 6) as u64)
                .collect();
            let kind = KINDS[dice.below(3)];
            assert!(graph.insert(id, kind, &cited), "seed {seed}");
            model.insert(id, (kind, cited));
            if dice.one_in(4) {
                assert!(!graph.insert(id, AuthKind::Create, &[1, 2]), "seed {seed}");
            }
        }
        assert_eq!(graph.len(), model.len());
        assert!(!graph.is_empty());
        let copy = graph.clone();
        for id in 0..count as u64 * 6 {
            let known = model.get(&id);
            assert_eq!(copy.contains(id), known.is_some(), "seed {seed}, {id}");
            assert_eq!(copy.kind(id), known.map(|(kind, _)| *kind));
            let cited = copy.auth_events(id).map(|cited| cited.collect::<Vec<_>>());
            assert_eq!(cited, known.map(|(_, cited)| cited.clone()), "seed {seed}");
        }
    }
}

/// A room's events, as they come: a few edges each, rarely out of order.
#[test]
fn an_event_takes_some_30_bytes() {
    let mut graph = AuthGraph::new();
    let mut dice = Dice(1);
    let mut inserted = 0_u64;
    for id in 4..200_000_u64 {
        let at = if dice.one_in(1000) { id - 2 } else { id };
        let cited = [0, 1, 2, dice.next() % at];
        inserted += u64::from(graph.insert(at * 10, AuthKind::Member, &cited.map(|id| id * 10)));
    }
    let events = graph.len();
    assert_eq!(inserted, events as u64);
    // A vector that grows by doubling may be half empty.
    let bytes = graph.size_bytes() / events;
    assert!(bytes <= 2 * 32 + 4, "{bytes} bytes for each of {events}");
    graph.shrink();
    let bytes = graph.size_bytes() / events;
    assert!(bytes <= 34, "{bytes} bytes for each of {events}");
}
