//! A room's auth graph in memory: which event cites which as its authority.
//!
//! Interned event ids outside, dense `u32` inside, all edges in one vector:
//! some 30 bytes per event, and a copy of the graph is a few copies of memory.
//! It holds no event; it is rebuilt from the events' rows.

use std::collections::BTreeMap;
use std::mem::size_of;

/// What a state event can authorise others by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthKind {
    Create,
    PowerLevels,
    JoinRules,
    Member,
    ThirdPartyInvite,
    /// Any other state: it authorises nothing.
    Other,
}

impl AuthKind {
    /// The kind of a state event, by its type and state key.
    pub fn of(kind: &str, state_key: &str) -> AuthKind {
        match (kind, state_key) {
            ("m.room.create", "") => AuthKind::Create,
            ("m.room.power_levels", "") => AuthKind::PowerLevels,
            ("m.room.join_rules", "") => AuthKind::JoinRules,
            ("m.room.member", _) => AuthKind::Member,
            ("m.room.third_party_invite", _) => AuthKind::ThirdPartyInvite,
            _ => AuthKind::Other,
        }
    }
}

/// Events that can authorise others, and what they cite. Others
/// ([`AuthKind::Other`]) may be left out: a resolution that meets one reads it.
///
/// Events may come in any order; what is cited before it came is a place that
/// is filled later.
#[derive(Clone, Debug, Default)]
pub struct AuthGraph {
    /// By place: the id, or for a late one the id of the last that was not
    /// late, so that it never falls and can be searched.
    ids: Vec<u64>,
    nodes: Vec<Node>,
    edges: Vec<u32>,
    /// Ids that came after a greater one, and their places; both ways.
    late: BTreeMap<u64, u32>,
    late_ids: BTreeMap<u32, u64>,
    events_count: usize,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    edges_at: u32,
    edges_count: u16,
    /// None: it is cited, but did not come yet.
    kind: Option<AuthKind>,
}

impl AuthGraph {
    pub fn new() -> AuthGraph {
        AuthGraph::default()
    }

    /// Adds an event with what it cites, in its order. Answers false, and
    /// changes nothing, if it is there already.
    pub fn insert(&mut self, id: u64, kind: AuthKind, auth_events: &[u64]) -> bool {
        if self.contains(id) {
            return false;
        }
        // The cited get their places first: they are older, and places in
        // rising order of ids cost least.
        let edges_at = self.edges.len() as u32;
        for &cited in auth_events.iter().take(usize::from(u16::MAX)) {
            let place = self.place_or_new(cited);
            self.edges.push(place);
        }
        let place = self.place_or_new(id);
        self.nodes[place as usize] = Node {
            edges_at,
            edges_count: (self.edges.len() - edges_at as usize) as u16,
            kind: Some(kind),
        };
        self.events_count += 1;
        true
    }

    /// Whether the event was added.
    pub fn contains(&self, id: u64) -> bool {
        self.kind(id).is_some()
    }

    /// What an event was added as.
    pub fn kind(&self, id: u64) -> Option<AuthKind> {
        self.nodes[self.place(id)? as usize].kind
    }

    /// What an event cites, in its order; none if it was not added.
    pub fn auth_events(&self, id: u64) -> Option<impl ExactSizeIterator<Item = u64> + '_> {
        let place = self.place(id)?;
        self.nodes[place as usize].kind?;
        Some(self.cited(place).iter().map(|&cited| self.id(cited)))
    }

    /// How many events were added.
    pub fn len(&self) -> usize {
        self.events_count
    }

    pub fn is_empty(&self) -> bool {
        self.events_count == 0
    }

    /// Memory that it takes, about.
    pub fn size_bytes(&self) -> usize {
        /// A tree's entry, with its share of the nodes that hold it.
        const LATE_BYTES: usize = 2 * 20;
        self.ids.capacity() * size_of::<u64>()
            + self.nodes.capacity() * size_of::<Node>()
            + self.edges.capacity() * size_of::<u32>()
            + self.late.len() * LATE_BYTES
    }

    /// Gives back memory that was taken for events to come.
    pub fn shrink(&mut self) {
        self.ids.shrink_to_fit();
        self.nodes.shrink_to_fit();
        self.edges.shrink_to_fit();
    }

    /// Places there are: one for each event that was added or cited.
    pub(super) fn places_count(&self) -> usize {
        self.nodes.len()
    }

    /// The place of an event that was added or cited.
    pub(super) fn place(&self, id: u64) -> Option<u32> {
        let at = self.ids.partition_point(|other| *other < id);
        // A late one's stand-in repeats the id before it, and the first counts.
        if self.ids.get(at) == Some(&id) {
            return Some(at as u32);
        }
        self.late.get(&id).copied()
    }

    /// The id of the event at a place.
    pub(super) fn id(&self, place: u32) -> u64 {
        let at = place as usize;
        let is_late = at > 0 && self.ids[at] == self.ids[at - 1];
        match self.late_ids.get(&place) {
            Some(id) if is_late => *id,
            _ => self.ids[at],
        }
    }

    /// What the event at a place was added as.
    pub(super) fn kind_at(&self, place: u32) -> Option<AuthKind> {
        self.nodes[place as usize].kind
    }

    /// Whether the event at a place was added.
    pub(super) fn is_known(&self, place: u32) -> bool {
        self.kind_at(place).is_some()
    }

    /// The places of what the event at a place cites: nothing, if it was only
    /// cited itself.
    pub(super) fn cited(&self, place: u32) -> &[u32] {
        let node = &self.nodes[place as usize];
        let at = node.edges_at as usize;
        &self.edges[at..at + usize::from(node.edges_count)]
    }

    fn place_or_new(&mut self, id: u64) -> u32 {
        if let Some(place) = self.place(id) {
            return place;
        }
        let place = self.nodes.len() as u32;
        match self.ids.last() {
            Some(&last) if last > id => {
                self.ids.push(last);
                self.late.insert(id, place);
                self.late_ids.insert(place, id);
            }
            _ => self.ids.push(id),
        }
        self.nodes.push(Node {
            edges_at: 0,
            edges_count: 0,
            kind: None,
        });
        place
    }
}
