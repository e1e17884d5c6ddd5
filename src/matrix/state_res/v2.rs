//! State resolution of room versions 2 to 11, and 2.1 of version 12
//! (room versions 2 and 12, *State resolution*).

use ruma::room_version_rules::StateResolutionV2Rules;

use super::auth_checks::{Sources, iterate};
use super::events::{Events, Node};
use super::keys::POWER_LEVELS;
use super::order::{mainline_sort, power_events, power_sort};
use super::reach::{BitSet, Reach};
use super::work::{CHECK, EVENT};
use super::{Conflict, ResolveError, Resolved, Room};

/// *Algorithm*, steps 1 to 5.
pub(super) fn resolve<R: Room>(
    events: &mut Events<'_, R>,
    rules: &StateResolutionV2Rules,
    conflict: &Conflict,
) -> Result<Resolved, ResolveError<R::Error>> {
    let (full, reach) = full_conflicted_set(events, rules, conflict)?;
    let sources = Sources {
        agreed: !rules.begin_iterative_auth_checks_with_empty_state_map,
        cited: true,
    };
    // Step 1.
    let picked = power_events(events, &reach, &full)?;
    let picked = power_sort(events, &reach, &picked)?;
    // Step 2.
    iterate(events, &picked, sources)?;
    // Step 3.
    let mut is_picked = BitSet::new(reach.nodes_count());
    for node in picked {
        is_picked.set(node.at());
    }
    let mut remaining = full;
    remaining.retain(|node| !is_picked.has(node.at()));
    let mut power_levels = events.keys.at(POWER_LEVELS).resolved;
    if power_levels.is_none() && sources.agreed {
        power_levels = events.agreed(POWER_LEVELS)?;
    }
    let remaining = mainline_sort(events, remaining, power_levels)?;
    // Step 4.
    iterate(events, &remaining, sources)?;
    // Step 5.
    answer(events, conflict)
}

/// *Full conflicted set*, and what its events reach.
fn full_conflicted_set<R: Room>(
    events: &mut Events<'_, R>,
    rules: &StateResolutionV2Rules,
    conflict: &Conflict,
) -> Result<(Vec<Node>, Reach), ResolveError<R::Error>> {
    let reach = Reach::walk(events)?;
    let mut more = reach.auth_difference(events, conflict)?;
    if rules.consider_conflicted_state_subgraph {
        more.extend(reach.conflicted_subgraph(events)?);
    }
    let mut full = Vec::with_capacity(events.conflicting.len() + more.len());
    let mut is_in = BitSet::new(reach.nodes_count());
    for node in events.conflicting.iter().copied().chain(more) {
        if !is_in.has(node.at()) {
            is_in.set(node.at());
            full.push(node);
        }
    }
    // Give up before reading rather than in the middle of it.
    let unread = full.iter().filter(|node| !events.is_read(**node)).count();
    events.work.check(unread as u64 * EVENT)?;
    // An event that nobody knows can neither be ordered nor judged.
    let mut known = Vec::with_capacity(full.len());
    for node in full {
        if events.find(node)?.is_some() {
            known.push(node);
        }
    }
    events.work.check(known.len() as u64 * CHECK)?;
    Ok((known, reach))
}

/// Step 5: what all agree on stays whatever was found.
fn answer<R: Room>(
    events: &mut Events<'_, R>,
    conflict: &Conflict,
) -> Result<Resolved, ResolveError<R::Error>> {
    let mut resolved = Resolved::default();
    for (entry, contest) in conflict.iter().zip(&events.contests) {
        resolved.entries.push(match contest.slot {
            Some(slot) if !contest.is_agreed => {
                let node = events.keys.at(slot).resolved;
                node.map(|node| events.id(node))
            }
            _ => entry.first(),
        });
    }
    let put = events.keys.iter();
    let put: Vec<_> = put
        .filter(|(_, held)| !held.is_conflicted)
        .filter_map(|(slot, held)| Some((slot, held.resolved?)))
        .collect();
    for (slot, node) in put {
        if events.agreed(slot)?.is_none() {
            resolved.added.push(events.id(node));
        }
    }
    resolved.added.sort_unstable();
    Ok(resolved)
}
