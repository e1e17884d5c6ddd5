//! How states differ: found by walking the tree of states up to where they
//! come together, so that it costs what was changed and not what is there.

use std::collections::BTreeMap;

use super::rows::HistoryEntry;
use super::state::{Change, RoomStates, StateNode};
use crate::query::ids::StateId;
use crate::storage::overlay::StoreError;

/// What several states changed since they were one.
pub struct Divergence {
    /// The newest state that all of them come from.
    pub base: StateNode,
    /// By interned key: the index of each state that set it since, and its
    /// entry. The others have what `base` has.
    pub keys: BTreeMap<u64, BTreeMap<usize, HistoryEntry>>,
}

impl RoomStates<'_> {
    /// Where states come from, and what each changed since. `charge` is called
    /// with the steps taken and may call it off.
    pub fn diverge<E: From<StoreError>>(
        &self,
        states: &[StateNode],
        mut charge: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<Divergence, E> {
        // States still to be walked, newest first, with who comes from them.
        let mut walks: BTreeMap<StateId, Vec<usize>> = BTreeMap::new();
        for (index, state) in states.iter().enumerate() {
            walks.entry(state.id).or_default().push(index);
        }
        let mut keys: BTreeMap<u64, BTreeMap<usize, HistoryEntry>> = BTreeMap::new();
        while walks.len() > 1 {
            let Some((id, from)) = walks.pop_last() else {
                break;
            };
            let (node, changes) = self.node_and_changes(id)?;
            charge(1 + (changes.len() * from.len()) as u64)?;
            for (key, entry) in changes {
                let entries = keys.entry(key).or_default();
                for index in &from {
                    entries.entry(*index).or_insert(entry);
                }
            }
            walks.entry(node.parent).or_default().extend(from);
        }
        let base = walks.pop_first().map_or(StateId::EMPTY, |(id, _)| id);
        Ok(Divergence {
            base: self.node(base)?.unwrap_or(StateNode::EMPTY),
            keys,
        })
    }

    /// The changes that lead from one state to another.
    pub fn difference<E: From<StoreError>>(
        &self,
        from: &StateNode,
        to: &StateNode,
        charge: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<Vec<Change>, E> {
        let divergence = self.diverge(&[*from, *to], charge)?;
        let mut changes = vec![];
        for (key, entries) in &divergence.keys {
            let base = match entries.len() {
                2 => None,
                _ => self.entry_of_key(&divergence.base, *key)?,
            };
            let event = |index: usize| match entries.get(&index) {
                Some(entry) => Some(*entry),
                None => base,
            };
            let (before, after) = (event(0), event(1));
            let before = before.and_then(|entry| entry.event);
            let to = after.and_then(|entry| entry.event);
            if before != to {
                changes.push(Change {
                    key: *key,
                    from: before,
                    to,
                    membership: after.and_then(|entry| entry.membership),
                });
            }
        }
        Ok(changes)
    }

    /// `changes` of `parent`, told as changes of `other`.
    pub fn moved(
        &self,
        other: &StateNode,
        parent: &StateNode,
        changes: &[Change],
    ) -> Result<Vec<Change>, StoreError> {
        let between = self.difference(other, parent, |_| Ok::<(), StoreError>(()))?;
        Ok(chained(between, changes))
    }
}

/// Changes, and then others, as one.
pub fn chained(first: Vec<Change>, then: &[Change]) -> Vec<Change> {
    let mut all: BTreeMap<u64, Change> = first
        .into_iter()
        .map(|change| (change.key, change))
        .collect();
    for change in then {
        let slot = all.entry(change.key).or_insert(*change);
        (slot.to, slot.membership) = (change.to, change.membership);
    }
    all.retain(|_, change| change.from != change.to);
    all.into_values().collect()
}
