//! The events that one resolution has met, numbered in that order, with what
//! was read and parsed of them.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::super::Membership;
use super::super::auth_rules::{CreateInfo, Level, PowerLevels, PowerLevelsView};
use super::keys::{Keys, Slot};
use super::work::{EDGE, EVENT};
use super::{AuthGraph, AuthKind, Conflict, ResolutionEvent, ResolveError, Room, Work};

/// An event's number in a resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Node(pub u32);

impl Node {
    pub(super) fn at(self) -> usize {
        self.0 as usize
    }
}

/// An event that is known, with what is read of it more than once.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub event: Arc<ResolutionEvent>,
    pub kind: AuthKind,
    /// Its key.
    pub slot: Slot,
    /// The membership that it sets, if it is a member event.
    pub membership: Option<Membership>,
}

impl Known {
    /// *Power events*. The create event counts too, as in other implementations:
    /// it is among conflicting events only if somebody cheated, and stands first.
    pub(super) fn is_power_event(&self) -> bool {
        match self.kind {
            AuthKind::PowerLevels | AuthKind::JoinRules | AuthKind::Create => true,
            AuthKind::Member => {
                matches!(self.membership, Some(Membership::Leave | Membership::Ban))
                    && *self.event.state_key != *self.event.sender.as_str()
            }
            AuthKind::ThirdPartyInvite | AuthKind::Other => false,
        }
    }
}

#[derive(Clone, Debug)]
enum Fetched {
    NotYet,
    Unknown,
    Known(Known),
}

/// What an event cites as its power levels.
#[derive(Clone, Copy, Debug)]
enum CitedLevels {
    NotYet,
    Is(Option<Node>),
}

/// See the module. Reads each event once and counts the work.
pub(super) struct Events<'a, R> {
    pub create: &'a CreateInfo,
    pub graph: &'a AuthGraph,
    pub room: &'a mut R,
    pub work: &'a mut Work,
    pub keys: Keys,
    /// The key of each entry of the conflict; none if no state has an event there.
    pub conflict_slots: Vec<Option<Slot>>,
    numbers: HashMap<u64, Node>,
    ids: Vec<u64>,
    fetched: Vec<Fetched>,
    cited_levels: Vec<CitedLevels>,
    levels: HashMap<Node, Option<Arc<PowerLevels>>>,
}

impl<'a, R: Room> Events<'a, R> {
    pub(super) fn new(
        create: &'a CreateInfo,
        graph: &'a AuthGraph,
        room: &'a mut R,
        work: &'a mut Work,
    ) -> Self {
        Events {
            create,
            graph,
            room,
            work,
            keys: Keys::new(),
            conflict_slots: Vec::new(),
            numbers: HashMap::new(),
            ids: Vec::new(),
            fetched: Vec::new(),
            cited_levels: Vec::new(),
            levels: HashMap::new(),
        }
    }

    /// Reads the events of a conflict and notes which keys they hold.
    pub(super) fn add_conflict(
        &mut self,
        conflict: &Conflict,
    ) -> Result<(), ResolveError<R::Error>> {
        for entry in conflict.iter() {
            let mut slot = None;
            for id in entry.events() {
                let node = self.node(id);
                slot = Some(self.get(node)?.slot);
            }
            if let Some(slot) = slot {
                let agreed = entry.first().map(|id| self.node(id));
                let held = self.keys.at_mut(slot);
                held.is_conflicted = !entry.is_agreed();
                held.agreed = entry.is_agreed().then_some(agreed);
            }
            self.conflict_slots.push(slot);
        }
        Ok(())
    }

    /// What all states agree on for a key; none where they disagree.
    pub(super) fn agreed(&mut self, slot: Slot) -> Result<Option<Node>, ResolveError<R::Error>> {
        let held = self.keys.at(slot);
        if held.is_conflicted {
            return Ok(None);
        }
        if let Some(agreed) = held.agreed {
            return Ok(agreed);
        }
        self.work.spend(EDGE)?;
        let id = self.room.agreed(&held.kind, &held.state_key);
        let agreed = id.map_err(ResolveError::Read)?.map(|id| self.node(id));
        self.keys.at_mut(slot).agreed = Some(agreed);
        Ok(agreed)
    }

    /// The number of an event.
    pub(super) fn node(&mut self, id: u64) -> Node {
        let next = Node(self.ids.len() as u32);
        let node = *self.numbers.entry(id).or_insert(next);
        if node == next {
            self.ids.push(id);
            self.fetched.push(Fetched::NotYet);
            self.cited_levels.push(CitedLevels::NotYet);
        }
        node
    }

    /// The interned id of an event.
    pub(super) fn id(&self, node: Node) -> u64 {
        self.ids[node.at()]
    }

    /// How many events were met.
    pub(super) fn nodes_count(&self) -> usize {
        self.ids.len()
    }

    /// Whether an event was read already.
    pub(super) fn is_read(&self, node: Node) -> bool {
        !matches!(self.fetched[node.at()], Fetched::NotYet)
    }

    /// An event that may be unknown.
    pub(super) fn find(&mut self, node: Node) -> Result<Option<&Known>, ResolveError<R::Error>> {
        if let Fetched::NotYet = self.fetched[node.at()] {
            self.work.spend(EVENT)?;
            let event = self.room.event(self.id(node)).map_err(ResolveError::Read)?;
            self.fetched[node.at()] = match event {
                Some(event) => Fetched::Known(self.read(event)),
                None => Fetched::Unknown,
            };
        }
        Ok(match &self.fetched[node.at()] {
            Fetched::Known(known) => Some(known),
            _ => None,
        })
    }

    /// An event that must be known.
    pub(super) fn get(&mut self, node: Node) -> Result<&Known, ResolveError<R::Error>> {
        let id = self.id(node);
        self.find(node)?.ok_or(ResolveError::UnknownEvent(id))
    }

    fn read(&mut self, event: Arc<ResolutionEvent>) -> Known {
        let kind = AuthKind::of(&event.kind, &event.state_key);
        let membership = match kind {
            AuthKind::Member => event.content.get("membership"),
            _ => None,
        };
        Known {
            kind,
            slot: self.keys.slot(&event.kind, &event.state_key),
            membership: membership.and_then(|word| Membership::parse(word.as_str()?)),
            event,
        }
    }

    /// What an event cites, in its order, from the graph or from itself.
    pub(super) fn cited(
        &mut self,
        node: Node,
    ) -> Result<SmallVec<[Node; 8]>, ResolveError<R::Error>> {
        let graph = self.graph;
        let cited: SmallVec<[u64; 8]> = match graph.auth_events(self.id(node)) {
            Some(cited) => cited.collect(),
            None => match self.find(node)? {
                Some(known) => known.event.auth_events.as_slice().into(),
                None => SmallVec::new(),
            },
        };
        Ok(cited.into_iter().map(|id| self.node(id)).collect())
    }

    /// The kind of an event, read only if the graph does not tell; none if it
    /// is not known.
    pub(super) fn kind(&mut self, node: Node) -> Result<Option<AuthKind>, ResolveError<R::Error>> {
        if let Some(kind) = self.graph.kind(self.id(node)) {
            return Ok(Some(kind));
        }
        Ok(self.find(node)?.map(|known| known.kind))
    }

    /// The parsed power levels of an event; none if it holds none.
    pub(super) fn levels(
        &mut self,
        node: Node,
    ) -> Result<Option<Arc<PowerLevels>>, ResolveError<R::Error>> {
        if let Some(known) = self.levels.get(&node) {
            return Ok(known.clone());
        }
        let version = self.create.version;
        let parsed = match self.find(node)? {
            Some(known) => PowerLevels::parse(version, &known.event.content).ok(),
            None => None,
        };
        let parsed = parsed.map(Arc::new);
        self.work
            .spend(parsed.as_deref().map_or(0, entries_count))?;
        self.levels.insert(node, parsed.clone());
        Ok(parsed)
    }

    /// The power levels event that an event cites: the first that is known.
    pub(super) fn cited_levels(
        &mut self,
        node: Node,
    ) -> Result<Option<Node>, ResolveError<R::Error>> {
        if let CitedLevels::Is(cited) = self.cited_levels[node.at()] {
            return Ok(cited);
        }
        let mut found = None;
        for cited in self.cited(node)? {
            self.work.spend(EDGE)?;
            if self.kind(cited)? == Some(AuthKind::PowerLevels) {
                found = Some(cited);
                break;
            }
        }
        self.cited_levels[node.at()] = CitedLevels::Is(found);
        Ok(found)
    }

    /// The level of an event's sender, by the event's own auth events.
    pub(super) fn sender_level(&mut self, node: Node) -> Result<Level, ResolveError<R::Error>> {
        let levels = match self.cited_levels(node)? {
            Some(cited) => self.levels(cited)?,
            None => None,
        };
        let create = self.create;
        let sender = &self.get(node)?.event.sender;
        Ok(PowerLevelsView::new(create, levels.as_deref()).user_level(sender))
    }
}

/// How many levels an event of power levels sets: what comparing it costs.
pub(super) fn entries_count(levels: &PowerLevels) -> u64 {
    (levels.users.len() + levels.events.len() + levels.notifications.len()) as u64
}
