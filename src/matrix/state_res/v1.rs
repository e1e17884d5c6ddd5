//! State resolution of room version 1 (room version 1, *State resolution*).
//!
//! Known to reset state; kept for the rooms that still are of that version.
//! Where the text is silent, it does as the first implementation did.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::auth_state::{deciding_keys, is_allowed};
use super::events::Events;
use super::sha1::sha1;
use super::{Key, ResolutionEvent, ResolveError, StateMap};

/// Types whose conflicts are resolved first, in this order.
const AUTH_TYPES: [&str; 3] = ["m.room.power_levels", "m.room.join_rules", "m.room.member"];

pub(super) fn resolve<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    states: &[StateMap<Id>],
) -> Result<StateMap<Id>, ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    // A key that some states lack is no conflict in this version.
    let mut holders: BTreeMap<&Key, BTreeSet<Id>> = BTreeMap::new();
    for (key, id) in states.iter().flatten() {
        holders.entry(key).or_default().insert(*id);
    }
    let mut resolved = StateMap::new();
    let mut conflicts = Vec::new();
    for (key, ids) in holders {
        match ids.first() {
            Some(id) if ids.len() == 1 => {
                resolved.insert(key.clone(), *id);
            }
            _ => conflicts.push((key, ids)),
        }
    }
    for kind in AUTH_TYPES {
        for (key, ids) in conflicts.iter().filter(|(key, _)| &*key.0 == kind) {
            resolve_auth_conflict(events, &mut resolved, key, ids)?;
        }
    }
    for (key, ids) in conflicts
        .iter()
        .filter(|(key, _)| !AUTH_TYPES.contains(&&*key.0))
    {
        resolve_other_conflict(events, &mut resolved, key, ids)?;
    }
    Ok(resolved)
}

/// Conflicting events by ascending depth, then descending SHA-1 of their ids.
fn ordered<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    ids: &BTreeSet<Id>,
) -> Result<Vec<Id>, ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    let mut keyed = Vec::with_capacity(ids.len());
    for &id in ids {
        let event = events.get(id)?;
        keyed.push((event.depth, Reverse(sha1(event.event_id.as_bytes())), id));
    }
    keyed.sort();
    Ok(keyed.into_iter().map(|(_, _, id)| id).collect())
}

/// The first event counts; each next one replaces it as long as it is allowed.
fn resolve_auth_conflict<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    resolved: &mut StateMap<Id>,
    key: &Key,
    ids: &BTreeSet<Id>,
) -> Result<(), ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    for id in ordered(events, ids)? {
        if resolved.contains_key(key) && !is_allowed_in(events, resolved, id)? {
            break;
        }
        resolved.insert(key.clone(), id);
    }
    Ok(())
}

/// The deepest event that is allowed; the least deep one if none is.
fn resolve_other_conflict<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    resolved: &mut StateMap<Id>,
    key: &Key,
    ids: &BTreeSet<Id>,
) -> Result<(), ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    let ordered = ordered(events, ids)?;
    let mut chosen = ordered.first().copied();
    for &id in ordered.iter().rev() {
        if is_allowed_in(events, resolved, id)? {
            chosen = Some(id);
            break;
        }
    }
    resolved.extend(chosen.map(|id| (key.clone(), id)));
    Ok(())
}

/// Whether the state resolved so far allows an event.
fn is_allowed_in<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    resolved: &StateMap<Id>,
    id: Id,
) -> Result<bool, ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    let event = events.get(id)?;
    let Some(keys) = deciding_keys(events.version, &event) else {
        return Ok(false);
    };
    let deciding: Vec<Id> = keys
        .into_iter()
        .filter_map(|key| {
            resolved
                .get(&(key.kind.into(), key.state_key.into()))
                .copied()
        })
        .collect();
    is_allowed(events, &event, &deciding)
}
