//! The room as our resolution reads it, in memory.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;

use engram::matrix::state_res::{Conflict, ResolutionEvent, Resolved, Room, Work, resolve};

use super::story::{Key, Story};

/// A room, and what is in conflict in it.
pub struct Ours<'a> {
    story: &'a Story,
    agreed: HashMap<&'static str, HashMap<&'a str, u64>>,
    pub conflicts: Vec<Conflicted<'a>>,
}

/// A key in conflict: what the base has, and who differs.
pub struct Conflicted<'a> {
    pub key: &'a Key,
    base: Option<u64>,
    differing: Vec<(u32, Option<u64>)>,
}

impl Room for Ours<'_> {
    type Error = Infallible;

    fn event(&mut self, id: u64) -> Result<Option<Arc<ResolutionEvent>>, Infallible> {
        Ok(self.story.events.get(id as usize).cloned())
    }
    fn agreed(&mut self, kind: &str, state_key: &str) -> Result<Option<u64>, Infallible> {
        let of_kind = self.agreed.get(kind);
        Ok(of_kind.and_then(|keys| keys.get(state_key)).copied())
    }
    fn each_agreed(&mut self, each: &mut dyn FnMut(u64)) -> Result<(), Infallible> {
        let entries = self.agreed.values().flat_map(|keys| keys.values());
        entries.copied().for_each(each);
        Ok(())
    }
}

impl<'a> Ours<'a> {
    pub fn new(story: &'a Story) -> Ours<'a> {
        let changed: BTreeSet<&Key> = story.forks.iter().flat_map(|fork| fork.keys()).collect();
        let mut agreed: HashMap<&'static str, HashMap<&str, u64>> = HashMap::new();
        for (key, id) in &story.base {
            if !changed.contains(key) {
                agreed.entry(key.0).or_default().insert(&key.1, *id);
            }
        }
        let conflicted = |key: &'a Key| {
            let forks = (0..).zip(&story.forks);
            let differing = forks.filter_map(|(at, fork)| Some((at, Some(*fork.get(key)?))));
            Conflicted {
                key,
                base: story.base.get(key).copied(),
                differing: differing.collect(),
            }
        };
        Ours {
            story,
            agreed,
            conflicts: changed.into_iter().map(conflicted).collect(),
        }
    }

    pub fn resolve(&mut self) -> (Resolved, u64) {
        let mut conflict = Conflict::new(self.story.forks.len());
        for key in &self.conflicts {
            conflict.push(key.base, key.differing.iter().copied());
        }
        let story = self.story;
        let mut work = Work::new(u64::MAX);
        let resolved = resolve(&story.create, &conflict, &story.graph, self, &mut work);
        (resolved.expect("resolves"), work.spent())
    }
}
