//! The events that one resolution has met, numbered in that order, with what
//! was read and parsed of them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

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
    /// Its key.
    pub slot: Slot,
    pub kind: AuthKind,
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
                    && !self.is_of_sender()
            }
            AuthKind::ThirdPartyInvite | AuthKind::Other => false,
        }
    }

    /// Whether its state key is its sender.
    pub(super) fn is_of_sender(&self) -> bool {
        *self.event.state_key == *self.event.sender.as_str()
    }
}

/// What is known of an event.
#[derive(Debug)]
struct Info {
    id: u64,
    /// Where it is in the graph, or [`NONE`].
    place: u32,
    /// Whether states disagree on it.
    is_conflicting: bool,
    /// What it cites, in `Events::edges`; begins at [`NONE`] until it was asked.
    edges: (u32, u32),
    /// The power levels event that it cites; [`NONE`] if none.
    cited_levels: Lazy,
    /// Its power levels, in `Events::levels`.
    levels: Lazy,
    fetched: Fetched,
}

/// A number that is found out when it is asked for.
#[derive(Clone, Copy, Debug)]
enum Lazy {
    NotYet,
    Is(u32),
}

/// Stands where there is no number.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
enum Fetched {
    NotYet,
    Unknown,
    Known(Known),
}

/// One key of the conflict.
#[derive(Clone, Debug)]
pub(super) struct Contest {
    /// None if no state has an event there.
    pub slot: Option<Slot>,
    /// Whether all states agree after all.
    pub is_agreed: bool,
    /// What the states have that are not listed.
    pub base: Option<Node>,
    /// The others, in `Events::differing`, by ascending state.
    pub differing: Range<usize>,
}

/// See the module. Reads each event once and counts the work.
pub(super) struct Events<'a, R> {
    pub create: &'a CreateInfo,
    pub graph: &'a AuthGraph,
    pub room: &'a mut R,
    pub work: &'a mut Work,
    pub keys: Keys,
    pub contests: Vec<Contest>,
    pub differing: Vec<(u32, Option<Node>)>,
    /// The conflicting events, each once.
    pub conflicting: Vec<Node>,
    infos: Vec<Info>,
    /// By place in the graph: the number after the event's, or 0.
    by_place: Vec<u32>,
    /// Events that the graph does not have.
    beside: HashMap<u64, Node>,
    edges: Vec<Node>,
    levels: Vec<Option<Arc<PowerLevels>>>,
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
            contests: Vec::new(),
            differing: Vec::new(),
            conflicting: Vec::new(),
            infos: Vec::new(),
            by_place: vec![0; graph.places_count()],
            beside: HashMap::new(),
            edges: Vec::new(),
            levels: Vec::new(),
        }
    }

    /// Reads the events of a conflict and notes which keys they hold.
    pub(super) fn add_conflict(
        &mut self,
        conflict: &Conflict,
    ) -> Result<(), ResolveError<R::Error>> {
        self.contests.reserve(conflict.len());
        for entry in conflict.iter() {
            let begin = self.differing.len();
            let base = entry.base().map(|id| self.node(id));
            let mut slot = self.enter(base)?;
            for (state, id) in entry.differing() {
                let node = id.map(|id| self.node(id));
                slot = self.enter(node)?.or(slot);
                self.differing.push((*state, node));
            }
            let is_agreed = entry.is_agreed();
            if !is_agreed {
                let listed = self.differing[begin..].iter().map(|(_, node)| *node);
                for node in listed.chain([base]).flatten() {
                    let info = &mut self.infos[node.at()];
                    if !info.is_conflicting {
                        info.is_conflicting = true;
                        self.conflicting.push(node);
                    }
                }
            }
            if let Some(slot) = slot {
                let agreed = entry.first().map(|id| self.node(id));
                let held = self.keys.at_mut(slot);
                held.is_conflicted = !is_agreed;
                held.agreed = is_agreed.then_some(agreed);
            }
            self.contests.push(Contest {
                slot,
                is_agreed,
                base,
                differing: begin..self.differing.len(),
            });
        }
        Ok(())
    }

    /// The key of an entry of a state, if it is one.
    fn enter(&mut self, node: Option<Node>) -> Result<Option<Slot>, ResolveError<R::Error>> {
        let Some(node) = node else {
            return Ok(None);
        };
        Ok(Some(self.get(node)?.slot))
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
        match self.graph.place(id) {
            Some(place) => self.node_at(place),
            None => {
                let next = Node(self.infos.len() as u32);
                let node = *self.beside.entry(id).or_insert(next);
                if node == next {
                    self.add(id, NONE);
                }
                node
            }
        }
    }

    /// The number of the event at a place in the graph.
    fn node_at(&mut self, place: u32) -> Node {
        let known = self.by_place[place as usize];
        if known > 0 {
            return Node(known - 1);
        }
        let node = self.add(self.graph.id(place), place);
        self.by_place[place as usize] = node.0 + 1;
        node
    }

    fn add(&mut self, id: u64, place: u32) -> Node {
        let node = Node(self.infos.len() as u32);
        self.infos.push(Info {
            id,
            place,
            is_conflicting: false,
            edges: (NONE, NONE),
            cited_levels: Lazy::NotYet,
            levels: Lazy::NotYet,
            fetched: Fetched::NotYet,
        });
        node
    }

    /// The interned id of an event.
    pub(super) fn id(&self, node: Node) -> u64 {
        self.infos[node.at()].id
    }

    /// Where an event is in the graph.
    pub(super) fn place(&self, node: Node) -> Option<u32> {
        let place = self.infos[node.at()].place;
        (place != NONE).then_some(place)
    }

    /// How many events were met.
    pub(super) fn nodes_count(&self) -> usize {
        self.infos.len()
    }

    /// Whether an event was read already.
    pub(super) fn is_read(&self, node: Node) -> bool {
        !matches!(self.infos[node.at()].fetched, Fetched::NotYet)
    }

    /// An event that may be unknown.
    pub(super) fn find(&mut self, node: Node) -> Result<Option<&Known>, ResolveError<R::Error>> {
        if !self.is_read(node) {
            self.work.spend(EVENT)?;
            let event = self.room.event(self.id(node)).map_err(ResolveError::Read)?;
            self.infos[node.at()].fetched = match event {
                Some(event) => Fetched::Known(self.read(event)),
                None => Fetched::Unknown,
            };
        }
        Ok(self.known(node))
    }

    /// An event that was read, if it is known.
    pub(super) fn known(&self, node: Node) -> Option<&Known> {
        match &self.infos[node.at()].fetched {
            Fetched::Known(known) => Some(known),
            _ => None,
        }
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
            slot: self.keys.slot(&event.kind, &event.state_key),
            kind,
            membership: membership.and_then(|word| Membership::parse(word.as_str()?)),
            event,
        }
    }

    /// Finds out what an event cites, from the graph or from itself; answers
    /// where that is, for [`Events::edge`].
    pub(super) fn cited(&mut self, node: Node) -> Result<Range<u32>, ResolveError<R::Error>> {
        let (begin, end) = self.infos[node.at()].edges;
        if begin != NONE {
            return Ok(begin..end);
        }
        let begin = self.edges.len() as u32;
        let graph = self.graph;
        match self.place(node).filter(|place| graph.is_known(*place)) {
            Some(place) => {
                for &cited in graph.cited(place) {
                    let cited = self.node_at(cited);
                    self.edges.push(cited);
                }
            }
            None => {
                let event = self.find(node)?.map(|known| known.event.clone());
                for &cited in event.iter().flat_map(|event| &event.auth_events) {
                    let cited = self.node(cited);
                    self.edges.push(cited);
                }
            }
        }
        let end = self.edges.len() as u32;
        self.infos[node.at()].edges = (begin, end);
        Ok(begin..end)
    }

    /// An event that another cites.
    pub(super) fn edge(&self, at: u32) -> Node {
        self.edges[at as usize]
    }

    /// What an event cites, if that was found out.
    pub(super) fn edges(&self, node: Node) -> &[Node] {
        let (begin, end) = self.infos[node.at()].edges;
        if begin == NONE {
            return &[];
        }
        &self.edges[begin as usize..end as usize]
    }

    /// The kind of an event, read only if the graph does not tell; none if it
    /// is not known.
    pub(super) fn kind(&mut self, node: Node) -> Result<Option<AuthKind>, ResolveError<R::Error>> {
        let in_graph = self.place(node);
        if let Some(kind) = in_graph.and_then(|place| self.graph.kind_at(place)) {
            return Ok(Some(kind));
        }
        Ok(self.find(node)?.map(|known| known.kind))
    }

    /// The parsed power levels of an event; none if it holds none.
    pub(super) fn levels(
        &mut self,
        node: Node,
    ) -> Result<Option<Arc<PowerLevels>>, ResolveError<R::Error>> {
        if let Lazy::Is(at) = self.infos[node.at()].levels {
            return Ok(self.levels[at as usize].clone());
        }
        let version = self.create.version;
        let parsed = match self.find(node)? {
            Some(known) => PowerLevels::parse(version, &known.event.content).ok(),
            None => None,
        };
        let parsed = parsed.map(Arc::new);
        self.work
            .spend(parsed.as_deref().map_or(0, entries_count))?;
        self.infos[node.at()].levels = Lazy::Is(self.levels.len() as u32);
        self.levels.push(parsed.clone());
        Ok(parsed)
    }

    /// The power levels event that an event cites: the first that is known.
    pub(super) fn cited_levels(
        &mut self,
        node: Node,
    ) -> Result<Option<Node>, ResolveError<R::Error>> {
        if let Lazy::Is(cited) = self.infos[node.at()].cited_levels {
            return Ok((cited != NONE).then_some(Node(cited)));
        }
        let mut found = None;
        for at in self.cited(node)? {
            self.work.spend(EDGE)?;
            let cited = self.edge(at);
            if self.kind(cited)? == Some(AuthKind::PowerLevels) {
                found = Some(cited);
                break;
            }
        }
        let number = found.map_or(NONE, |cited| cited.0);
        self.infos[node.at()].cited_levels = Lazy::Is(number);
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
