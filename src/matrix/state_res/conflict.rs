//! What a set of states disagrees on, as it falls out of a tree of states: what
//! most of them hold, and who holds something else.

use smallvec::SmallVec;

/// The keys on which states differ. Keys are told apart by their place here;
/// which they are is read from the events.
#[derive(Clone, Debug, Default)]
pub struct Conflict {
    states: u32,
    entries: Vec<Entry>,
}

/// One key: its event in each state.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    states: u32,
    /// In the states that are not listed below.
    base: Option<u64>,
    /// By ascending state, each once.
    differing: Differing,
}

type Differing = SmallVec<[(u32, Option<u64>); 1]>;

impl Conflict {
    /// A conflict among so many states, with no key yet.
    pub fn new(states: usize) -> Conflict {
        Conflict {
            states: u32::try_from(states).unwrap_or(u32::MAX),
            entries: Vec::new(),
        }
    }

    /// Adds a key: every state has `base` but for those listed with what they
    /// have instead (none: the state lacks the key). States count from zero.
    ///
    /// Each key is added once. All states may have the same; that is no
    /// conflict then. Of a state that is listed twice the last entry counts.
    pub fn push(
        &mut self,
        base: Option<u64>,
        differing: impl IntoIterator<Item = (u32, Option<u64>)>,
    ) {
        let states = self.states;
        let mut listed: Differing = SmallVec::new();
        for (state, event) in differing {
            match listed.binary_search_by_key(&state, |(state, _)| *state) {
                _ if state >= states => {}
                Ok(at) => listed[at].1 = event,
                Err(at) => listed.insert(at, (state, event)),
            }
        }
        self.entries.push(Entry {
            states,
            base,
            differing: listed,
        });
    }

    /// How many states there are.
    pub fn states(&self) -> usize {
        self.states as usize
    }

    /// How many keys were added.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether no key is in conflict.
    pub fn is_agreement(&self) -> bool {
        self.entries.iter().all(Entry::is_agreed)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// How many events are in conflict.
    pub(super) fn events_count(&self) -> usize {
        let entries = self.entries.iter().filter(|entry| !entry.is_agreed());
        entries.map(Entry::events_count).sum()
    }
}

impl Entry {
    /// The event of the first state.
    pub(super) fn first(&self) -> Option<u64> {
        match self.differing.first() {
            Some((0, event)) => *event,
            _ => self.base,
        }
    }

    /// Whether all states have the same, be it nothing.
    pub(super) fn is_agreed(&self) -> bool {
        let first = self.first();
        (self.all_differ() || self.base == first)
            && self.differing.iter().all(|(_, event)| *event == first)
    }

    /// Every event that some state has, ascending, each once.
    pub(super) fn events(&self) -> SmallVec<[u64; 2]> {
        let differing = self.differing.iter().filter_map(|(_, event)| *event);
        let mut events: SmallVec<[u64; 2]> = self.base().into_iter().chain(differing).collect();
        events.sort_unstable();
        events.dedup();
        events
    }

    /// How many events states have that disagree.
    fn events_count(&self) -> usize {
        match self.differing[..] {
            [(_, event)] => usize::from(self.base().is_some()) + usize::from(event.is_some()),
            _ => self.events().len(),
        }
    }

    /// What the states that are not listed have; none if all are listed.
    pub(super) fn base(&self) -> Option<u64> {
        if self.all_differ() { None } else { self.base }
    }

    /// The states that have something else, ascending.
    pub(super) fn differing(&self) -> &[(u32, Option<u64>)] {
        &self.differing
    }

    fn all_differ(&self) -> bool {
        self.differing.len() == self.states as usize
    }
}
