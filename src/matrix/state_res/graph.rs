//! Walks of the auth graph: what a set of states disagrees on, and paths
//! between conflicting events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::events::Events;
use super::{Key, ResolutionEvent, ResolveError, StateMap};

/// States, split into what all agree on and the rest.
pub(super) struct Split<Id> {
    pub unconflicted: StateMap<Id>,
    /// The conflicted state set, by key.
    pub conflicted: BTreeMap<Key, BTreeSet<Id>>,
}

/// Splits states as version 2 does: a key that one of them lacks is conflicted.
pub(super) fn split<Id: Copy + Ord>(states: &[StateMap<Id>]) -> Split<Id> {
    let mut holders: BTreeMap<&Key, Vec<Id>> = BTreeMap::new();
    for (key, id) in states.iter().flatten() {
        holders.entry(key).or_default().push(*id);
    }
    let mut split = Split {
        unconflicted: StateMap::new(),
        conflicted: BTreeMap::new(),
    };
    for (key, ids) in holders {
        let set: BTreeSet<Id> = ids.iter().copied().collect();
        if let (true, Some(id)) = (ids.len() == states.len() && set.len() == 1, ids.first()) {
            split.unconflicted.insert(key.clone(), *id);
        } else {
            split.conflicted.insert(key.clone(), set);
        }
    }
    split
}

/// The auth difference: events in the full auth chain of some state but not of all.
///
/// Each event gets a bit per state whose chain it is in. What all states hold
/// goes first with all bits, so that most of the graph is walked once.
pub(super) fn auth_difference<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    states: &[StateMap<Id>],
    unconflicted: &StateMap<Id>,
) -> Result<BTreeSet<Id>, ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    let all_states = u64::MAX >> (u64::BITS as usize - states.len());
    let mut chains: BTreeMap<Id, u64> = BTreeMap::new();
    let mut todo: Vec<(Id, u64)> = Vec::new();
    for &id in unconflicted.values() {
        walk_chain(events, &mut chains, &mut todo, id, all_states)?;
    }
    for (index, state) in states.iter().enumerate() {
        for (key, &id) in state {
            if !unconflicted.contains_key(key) {
                walk_chain(events, &mut chains, &mut todo, id, 1 << index)?;
            }
        }
    }
    Ok(chains
        .into_iter()
        .filter(|(_, states)| *states != all_states)
        .map(|(id, _)| id)
        .collect())
}

/// Adds `states` to every event of an event's auth chain.
fn walk_chain<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    chains: &mut BTreeMap<Id, u64>,
    todo: &mut Vec<(Id, u64)>,
    from: Id,
    states: u64,
) -> Result<(), ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    let event = events.get(from)?;
    todo.extend(event.auth_events.iter().map(|&id| (id, states)));
    while let Some((id, states)) = todo.pop() {
        let seen = chains.entry(id).or_default();
        if *seen | states == *seen {
            continue;
        }
        *seen |= states;
        if let Some(event) = events.find(id)? {
            todo.extend(event.auth_events.iter().map(|&id| (id, states)));
        }
    }
    Ok(())
}

/// The conflicted state subgraph (room version 12): every event on a path of
/// auth edges between two events of the conflicted state set, ends included.
pub(super) fn conflicted_subgraph<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    conflicted: &BTreeSet<Id>,
) -> Result<BTreeSet<Id>, ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    // Down from the conflicted events, noting who cites whom ...
    let mut cited_by: BTreeMap<Id, Vec<Id>> = BTreeMap::new();
    let mut todo: Vec<Id> = conflicted.iter().copied().collect();
    let mut reached: BTreeSet<Id> = conflicted.clone();
    while let Some(id) = todo.pop() {
        let Some(event) = events.find(id)? else {
            continue;
        };
        for &cited in &event.auth_events {
            cited_by.entry(cited).or_default().push(id);
            if reached.insert(cited) {
                todo.push(cited);
            }
        }
    }
    // ... and up again along what was noted: what both ways meet lies between.
    let mut between: BTreeSet<Id> = conflicted.clone();
    let mut todo: Vec<Id> = conflicted.iter().copied().collect();
    while let Some(id) = todo.pop() {
        for &citing in cited_by.get(&id).into_iter().flatten() {
            if between.insert(citing) {
                todo.push(citing);
            }
        }
    }
    Ok(between)
}
