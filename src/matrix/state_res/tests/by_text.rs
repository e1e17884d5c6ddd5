//! Version 1 once more, slowly and line by line from the text of room version
//! 1, *State resolution*: ruma has none to compare with.

use std::collections::BTreeMap;

use super::room::{Key, StateMap, TestRoom};
use crate::crypto::sha1::sha1;

/// The resolution of a set of states. Comments quote the specification.
pub fn resolve(room: &TestRoom, states: &[&StateMap]) -> StateMap {
    // "A conflict occurs between states where those states have different
    // event_ids for the same (event_type, state_key)."
    let mut all: BTreeMap<Key, Vec<u64>> = BTreeMap::new();
    for state in states {
        for (key, id) in *state {
            let ids = all.entry(key.clone()).or_default();
            if !ids.contains(id) {
                ids.push(*id);
            }
        }
    }
    // "Start by setting R to the union of the states to be resolved, excluding
    // any conflicting events."
    let mut r = StateMap::new();
    let mut conflicts: Vec<(Key, Vec<u64>)> = Vec::new();
    for (key, ids) in all {
        if ids.len() == 1 {
            r.insert(key, ids[0]);
        } else {
            conflicts.push((key, sorted(room, ids)));
        }
    }
    for kind in ["m.room.power_levels", "m.room.join_rules", "m.room.member"] {
        for (key, list) in &conflicts {
            if &*key.0 != kind {
                continue;
            }
            // "Add the first event in the list to R."
            r.insert(key.clone(), list[0]);
            for id in &list[1..] {
                // "If it would not be allowed, stop and continue below."
                if !room.allows(&r, *id) {
                    break;
                }
                // "If the event would be allowed, then update R with the event
                // and continue with the next event in the list."
                r.insert(key.clone(), *id);
            }
        }
    }
    for (key, list) in &conflicts {
        if ["m.room.power_levels", "m.room.join_rules", "m.room.member"].contains(&&*key.0) {
            continue;
        }
        // "Just pick the event with the highest depth and lowest
        // sha1(event_id) that passes authentication in R and add it to R."
        let picked = list.iter().rev().find(|id| room.allows(&r, **id));
        // Where none passes, the text is silent and the oldest stays.
        r.insert(key.clone(), *picked.unwrap_or(&list[0]));
    }
    r
}

/// "Sort the list by ascending depth then descending sha1(event_id)."
fn sorted(room: &TestRoom, mut ids: Vec<u64>) -> Vec<u64> {
    let sha = |id: &u64| sha1(room.events[id].event_id.as_bytes());
    ids.sort_by(|a, b| {
        let depths = room.events[a].depth.cmp(&room.events[b].depth);
        depths.then_with(|| sha(b).cmp(&sha(a)))
    });
    ids
}
