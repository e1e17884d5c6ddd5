//! State resolution of room versions 2 to 11, and 2.1 of version 12
//! (room versions 2 and 12, *State resolution*).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ruma::room_version_rules::StateResolutionV2Rules;

use super::super::auth_rules::Level;
use super::super::ids::OwnedEventId;
use super::auth_state::{deciding_keys, is_allowed};
use super::events::Events;
use super::graph::{auth_difference, conflicted_subgraph, split};
use super::{Key, ResolutionEvent, ResolveError, StateMap};

/// *Algorithm*, steps 1 to 5.
pub(super) fn resolve<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    rules: &StateResolutionV2Rules,
    states: &[StateMap<Id>],
) -> Result<StateMap<Id>, ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    let split = split(states);
    let conflicted: BTreeSet<Id> = split.conflicted.values().flatten().copied().collect();
    let mut full = auth_difference(events, states, &split.unconflicted)?;
    if rules.consider_conflicted_state_subgraph {
        full.extend(conflicted_subgraph(events, &conflicted)?);
    }
    full.extend(conflicted);
    // An event that nobody knows can neither be ordered nor judged.
    let mut known = BTreeSet::new();
    for id in full {
        if events.find(id)?.is_some() {
            known.insert(id);
        }
    }
    let full = known;

    // Step 1.
    let power_events = sort_power_events(events, &full)?;
    // Step 2.
    let start = if rules.begin_iterative_auth_checks_with_empty_state_map {
        StateMap::new()
    } else {
        split.unconflicted.clone()
    };
    let partial = iterative_auth_checks(events, &power_events, start)?;
    // Step 3.
    let picked: BTreeSet<Id> = power_events.into_iter().collect();
    let remaining: Vec<Id> = full.difference(&picked).copied().collect();
    let power_levels = partial.get(&power_levels_key()).copied();
    let remaining = mainline_sort(events, remaining, power_levels)?;
    // Step 4.
    let mut resolved = iterative_auth_checks(events, &remaining, partial)?;
    // Step 5.
    resolved.extend(split.unconflicted);
    Ok(resolved)
}

fn power_levels_key() -> Key {
    ("m.room.power_levels".into(), "".into())
}

/// *Power events*. The create event counts too, as in other implementations:
/// it is among conflicting events only if somebody cheated, and stands first.
fn is_power_event<Id>(event: &ResolutionEvent<Id>) -> bool {
    match &*event.kind {
        "m.room.power_levels" | "m.room.join_rules" | "m.room.create" => event.state_key.is_empty(),
        "m.room.member" => {
            let membership = event
                .content
                .get("membership")
                .and_then(|word| word.as_str());
            matches!(membership, Some("leave" | "ban"))
                && *event.state_key != *event.sender.as_str()
        }
        _ => false,
    }
}

/// Step 1: the power events of the full conflicted set and what of their auth
/// chains is in it, in reverse topological power ordering.
fn sort_power_events<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    full: &BTreeSet<Id>,
) -> Result<Vec<Id>, ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    let mut todo = Vec::new();
    for &id in full {
        if is_power_event(&*events.get(id)?) {
            todo.push(id);
        }
    }
    // Event to those of its auth events that are sorted too.
    let mut graph: BTreeMap<Id, BTreeSet<Id>> = BTreeMap::new();
    while let Some(id) = todo.pop() {
        if graph.contains_key(&id) {
            continue;
        }
        let cited = chain_within(events, id, full)?;
        todo.extend(cited.iter().copied());
        graph.insert(id, cited);
    }
    topological_power_sort(events, graph)
}

/// The auth events of an event that are in the full conflicted set.
///
/// The chain is followed edge by edge within the set, as every implementation
/// does: what is reachable only through an event that all agree on stays out.
fn chain_within<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    id: Id,
    full: &BTreeSet<Id>,
) -> Result<BTreeSet<Id>, ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    let event = events.get(id)?;
    Ok(event
        .auth_events
        .iter()
        .copied()
        .filter(|cited| full.contains(cited))
        .collect())
}

/// Kahn's algorithm, taking the smallest candidate at each step: higher sender
/// level, then older, then smaller event id.
fn topological_power_sort<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    mut graph: BTreeMap<Id, BTreeSet<Id>>,
) -> Result<Vec<Id>, ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    let mut cited_by: BTreeMap<Id, Vec<Id>> = BTreeMap::new();
    for (&id, cited) in &graph {
        for &cited in cited {
            cited_by.entry(cited).or_default().push(id);
        }
    }
    let mut ready: BTreeSet<(Reverse<Level>, u64, OwnedEventId, Id)> = BTreeSet::new();
    let free: Vec<Id> = graph
        .iter()
        .filter(|(_, cited)| cited.is_empty())
        .map(|(&id, _)| id)
        .collect();
    for id in free {
        ready.insert(power_order(events, id)?);
    }
    let mut sorted = Vec::with_capacity(graph.len());
    while let Some((_, _, _, id)) = ready.pop_first() {
        sorted.push(id);
        for &citing in cited_by.get(&id).into_iter().flatten() {
            let Some(open) = graph.get_mut(&citing) else {
                continue;
            };
            open.remove(&id);
            if open.is_empty() {
                ready.insert(power_order(events, citing)?);
            }
        }
    }
    Ok(sorted)
}

fn power_order<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    id: Id,
) -> Result<(Reverse<Level>, u64, OwnedEventId, Id), ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    let event = events.get(id)?;
    let level = events.sender_level(&event)?;
    Ok((
        Reverse(level),
        event.origin_server_ts,
        event.event_id.clone(),
        id,
    ))
}

/// *Mainline ordering* of events, based on a power levels event.
fn mainline_sort<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    ids: Vec<Id>,
    power_levels: Option<Id>,
) -> Result<Vec<Id>, ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    let mut mainline: BTreeMap<Id, usize> = BTreeMap::new();
    let mut next = power_levels;
    while let Some(id) = next {
        if mainline.contains_key(&id) {
            break;
        }
        mainline.insert(id, mainline.len());
        let event = events.get(id)?;
        next = events.power_levels_cited_by(&event)?;
    }
    let mut ordered = Vec::with_capacity(ids.len());
    for id in ids {
        let event = events.get(id)?;
        let position = mainline_position(events, &event, &mainline)?;
        ordered.push((
            Reverse(position),
            event.origin_server_ts,
            event.event_id.clone(),
            id,
        ));
    }
    ordered.sort();
    Ok(ordered.into_iter().map(|(_, _, _, id)| id).collect())
}

/// The mainline position of an event; `usize::MAX` stands for infinity.
fn mainline_position<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    event: &ResolutionEvent<Id>,
    mainline: &BTreeMap<Id, usize>,
) -> Result<usize, ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    let mut seen = BTreeSet::new();
    let mut next = events.power_levels_cited_by(event)?;
    while let Some(id) = next {
        if let Some(&position) = mainline.get(&id) {
            return Ok(position);
        }
        if !seen.insert(id) {
            break;
        }
        let event = events.get(id)?;
        next = events.power_levels_cited_by(&event)?;
    }
    Ok(usize::MAX)
}

/// *Iterative auth checks*.
fn iterative_auth_checks<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    sorted: &[Id],
    mut state: StateMap<Id>,
) -> Result<StateMap<Id>, ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    for &id in sorted {
        let event = events.get(id)?;
        let Some(keys) = deciding_keys(events.version, &event) else {
            continue;
        };
        let mut deciding = Vec::with_capacity(event.auth_events.len() + keys.len());
        for &cited in &event.auth_events {
            if events.find(cited)?.is_some_and(|cited| !cited.rejected) {
                deciding.push(cited);
            }
        }
        // The state so far wins over what the event cites.
        for key in keys {
            let key: Key = (key.kind.into(), key.state_key.into());
            let Some(&holder) = state.get(&key) else {
                continue;
            };
            if events.find(holder)?.is_some_and(|holder| !holder.rejected) {
                deciding.push(holder);
            }
        }
        if is_allowed(events, &event, &deciding)? {
            state.insert((event.kind.clone(), event.state_key.clone()), id);
        }
    }
    Ok(state)
}
