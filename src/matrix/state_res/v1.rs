//! State resolution of room version 1 (room version 1, *State resolution*).
//!
//! Known to reset state; kept for the rooms that still are of that version.
//! Where the text is silent, it does as the first implementation did.

use std::cmp::Reverse;

use super::auth_checks::{Sources, is_allowed};
use super::events::{Events, Node};
use super::keys::Slot;
use super::{Conflict, ResolveError, Resolved, Room};
use crate::crypto::sha1::sha1;

/// Types whose conflicts are resolved first, in this order.
const AUTH_TYPES: [&str; 3] = ["m.room.power_levels", "m.room.join_rules", "m.room.member"];

/// An event is judged by the state alone.
const SOURCES: Sources = Sources {
    agreed: true,
    cited: false,
};

pub(super) fn resolve<R: Room>(
    events: &mut Events<'_, R>,
    conflict: &Conflict,
) -> Result<Resolved, ResolveError<R::Error>> {
    // Keys in the order of their text, since one may decide about the next.
    let mut conflicts: Vec<(Slot, Vec<Node>)> = Vec::new();
    for (at, entry) in conflict.iter().enumerate() {
        let Some(slot) = events.contests[at].slot else {
            continue;
        };
        let ids = entry.events();
        // A key that some states lack is no conflict in this version.
        if let [id] = ids[..] {
            let node = events.node(id);
            events.keys.at_mut(slot).resolved = Some(node);
            continue;
        }
        let nodes = ids.into_iter().map(|id| events.node(id)).collect();
        conflicts.push((slot, ordered(events, nodes)?));
    }
    let name = |slot: Slot| {
        (
            &*events.keys.at(slot).kind,
            &*events.keys.at(slot).state_key,
        )
    };
    conflicts.sort_by(|(a, _), (b, _)| name(*a).cmp(&name(*b)));

    for kind in AUTH_TYPES {
        for (slot, nodes) in &conflicts {
            if &*events.keys.at(*slot).kind == kind {
                resolve_auth_conflict(events, *slot, nodes)?;
            }
        }
    }
    for (slot, nodes) in &conflicts {
        if !AUTH_TYPES.contains(&&*events.keys.at(*slot).kind) {
            resolve_other_conflict(events, *slot, nodes)?;
        }
    }
    let entries = conflict.iter().zip(&events.contests);
    let resolved = entries.map(|(entry, contest)| {
        let slot = contest.slot;
        let node = slot.and_then(|slot| events.keys.at(slot).resolved);
        node.map_or(entry.first(), |node| Some(events.id(node)))
    });
    Ok(Resolved {
        entries: resolved.collect(),
        added: Vec::new(),
    })
}

/// Conflicting events by ascending depth, then descending SHA-1 of their ids.
fn ordered<R: Room>(
    events: &mut Events<'_, R>,
    nodes: Vec<Node>,
) -> Result<Vec<Node>, ResolveError<R::Error>> {
    let mut keyed = Vec::with_capacity(nodes.len());
    for node in nodes {
        let event = &events.get(node)?.event;
        keyed.push((event.depth, Reverse(sha1(event.event_id.as_bytes())), node));
    }
    keyed.sort_unstable();
    Ok(keyed.into_iter().map(|(_, _, node)| node).collect())
}

/// The first event counts; each next one replaces it as long as it is allowed.
fn resolve_auth_conflict<R: Room>(
    events: &mut Events<'_, R>,
    slot: Slot,
    ordered: &[Node],
) -> Result<(), ResolveError<R::Error>> {
    for (at, &node) in ordered.iter().enumerate() {
        if at > 0 && !is_allowed(events, node, SOURCES)? {
            break;
        }
        events.keys.at_mut(slot).resolved = Some(node);
    }
    Ok(())
}

/// The deepest event that is allowed; the least deep one if none is.
fn resolve_other_conflict<R: Room>(
    events: &mut Events<'_, R>,
    slot: Slot,
    ordered: &[Node],
) -> Result<(), ResolveError<R::Error>> {
    let mut chosen = ordered.first().copied();
    for &node in ordered.iter().rev() {
        if is_allowed(events, node, SOURCES)? {
            chosen = Some(node);
            break;
        }
    }
    events.keys.at_mut(slot).resolved = chosen;
    Ok(())
}
