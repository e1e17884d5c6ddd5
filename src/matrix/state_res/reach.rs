//! Walks of the auth graph: what the states disagree on in their auth chains,
//! and paths between conflicting events.
//!
//! Everything that conflicting events reach is walked once, without recursion;
//! the rest is passes over that order. Events that came through the auth rules
//! cite only older ones, so there is no cycle. Should there be one all the
//! same, passes are repeated until nothing changes.

use std::collections::BTreeSet;

use super::conflict::Conflict;
use super::events::{Events, Node};
use super::work::EDGE;
use super::{ResolveError, Room};

/// What conflicting events reach along auth edges, themselves included.
///
/// Indexed by [`Node`]; events that are met later lie behind its end.
pub(super) struct Reach {
    /// The edges of each event.
    spans: Vec<(u32, u32)>,
    edges: Vec<Node>,
    /// Cited events before those that cite them.
    order: Vec<Node>,
    is_cyclic: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Visit {
    New,
    Open,
    Done,
}

impl Reach {
    pub(super) fn walk<R: Room>(
        events: &mut Events<'_, R>,
        from: &[Node],
    ) -> Result<Reach, ResolveError<R::Error>> {
        let mut reach = Reach {
            spans: Vec::new(),
            edges: Vec::new(),
            order: Vec::new(),
            is_cyclic: false,
        };
        let mut visits: Vec<Visit> = vec![Visit::New; events.nodes_count()];
        // Events on the path walked, and the next edge to follow from each.
        let mut path: Vec<(Node, u32)> = Vec::new();
        for &start in from {
            if visits[start.at()] == Visit::New {
                visits[start.at()] = Visit::Open;
                path.push((start, reach.add_edges(events, start)?));
            }
            while let Some((node, next)) = path.last_mut() {
                let (node, at) = (*node, *next);
                let (_, end) = reach.spans[node.at()];
                if at == end {
                    visits[node.at()] = Visit::Done;
                    reach.order.push(node);
                    path.pop();
                    continue;
                }
                *next += 1;
                let cited = reach.edges[at as usize];
                visits.resize(events.nodes_count(), Visit::New);
                match visits[cited.at()] {
                    Visit::New => {
                        visits[cited.at()] = Visit::Open;
                        path.push((cited, reach.add_edges(events, cited)?));
                    }
                    Visit::Open => reach.is_cyclic = true,
                    Visit::Done => {}
                }
            }
        }
        reach.spans.resize(events.nodes_count(), (0, 0));
        Ok(reach)
    }

    /// Notes what an event cites, and answers where that begins.
    fn add_edges<R: Room>(
        &mut self,
        events: &mut Events<'_, R>,
        node: Node,
    ) -> Result<u32, ResolveError<R::Error>> {
        let begin = self.edges.len() as u32;
        self.edges.extend(events.cited(node)?);
        let end = self.edges.len() as u32;
        events.work.spend(EDGE + u64::from(end - begin))?;
        if self.spans.len() <= node.at() {
            self.spans.resize(events.nodes_count(), (0, 0));
        }
        self.spans[node.at()] = (begin, end);
        Ok(begin)
    }

    /// What an event that was reached cites.
    pub(super) fn cited(&self, node: Node) -> &[Node] {
        let (begin, end) = self.spans[node.at()];
        &self.edges[begin as usize..end as usize]
    }

    /// How many events there are to index.
    pub(super) fn nodes_count(&self) -> usize {
        self.spans.len()
    }

    fn steps_count(&self) -> u64 {
        (self.order.len() + self.edges.len()) as u64
    }

    /// The auth difference: events in the full auth chain of some state but
    /// not of all.
    pub(super) fn auth_difference<R: Room>(
        &self,
        events: &mut Events<'_, R>,
        conflict: &Conflict,
    ) -> Result<Vec<Node>, ResolveError<R::Error>> {
        let mut candidates = self.chains_difference(events, conflict)?;
        if candidates.is_empty() {
            return Ok(candidates);
        }
        let graph = events.graph;
        let agreed = AgreedChain::walk(events, conflict)?;
        candidates.retain(|&node| match graph.place(events.id(node)) {
            Some(place) => !agreed.in_graph.has(place as usize),
            None => !agreed.beside.contains(&node),
        });
        Ok(candidates)
    }

    /// The auth difference if states had nothing but their conflicting entries.
    ///
    /// A bit for each of 64 states at a time, handed down from those who cite.
    fn chains_difference<R: Room>(
        &self,
        events: &mut Events<'_, R>,
        conflict: &Conflict,
    ) -> Result<Vec<Node>, ResolveError<R::Error>> {
        let count = self.nodes_count();
        let mut in_some = BitSet::new(count);
        let mut not_in_some = BitSet::new(count);
        // Where in an entry's list of differing states the next 64 begin.
        let mut cursors = vec![0; conflict.len()];
        for first in (0..conflict.states()).step_by(64) {
            let in_block = (conflict.states() - first).min(64);
            let all = u64::MAX >> (64 - in_block);
            let mut held = vec![0_u64; count];
            for (entry, cursor) in conflict.iter().zip(&mut cursors) {
                if entry.is_agreed() {
                    continue;
                }
                let mut have_base = all;
                while let Some(&(state, event)) = entry.differing().get(*cursor)
                    && (state as usize) < first + in_block
                {
                    let bit = 1 << (state as usize - first);
                    have_base &= !bit;
                    if let Some(id) = event {
                        held[events.node(id).at()] |= bit;
                    }
                    *cursor += 1;
                    events.work.spend(EDGE)?;
                }
                if let Some(id) = entry.base()
                    && have_base != 0
                {
                    held[events.node(id).at()] |= have_base;
                }
                events.work.spend(EDGE)?;
            }
            let chains = self.hand_down(events, &held)?;
            for &node in &self.order {
                let states = chains[node.at()];
                if states != 0 {
                    in_some.set(node.at());
                }
                if states != all {
                    not_in_some.set(node.at());
                }
            }
        }
        let differs = |node: &Node| in_some.has(node.at()) && not_in_some.has(node.at());
        Ok(self.order.iter().copied().filter(differs).collect())
    }

    /// For each event the bits of all who reach it, from the bits that events
    /// hold themselves.
    fn hand_down<R: Room>(
        &self,
        events: &mut Events<'_, R>,
        held: &[u64],
    ) -> Result<Vec<u64>, ResolveError<R::Error>> {
        let mut chains = vec![0_u64; held.len()];
        loop {
            events.work.spend(self.steps_count())?;
            let mut has_changed = false;
            for &node in self.order.iter().rev() {
                let bits = chains[node.at()] | held[node.at()];
                if bits == 0 {
                    continue;
                }
                for &cited in self.cited(node) {
                    has_changed |= chains[cited.at()] | bits != chains[cited.at()];
                    chains[cited.at()] |= bits;
                }
            }
            if !(self.is_cyclic && has_changed) {
                return Ok(chains);
            }
        }
    }

    /// The conflicted state subgraph (room version 12): every event on a path
    /// of auth edges between two conflicting events, ends included.
    pub(super) fn conflicted_subgraph<R: Room>(
        &self,
        events: &mut Events<'_, R>,
        conflicted: &[Node],
    ) -> Result<Vec<Node>, ResolveError<R::Error>> {
        // All of this is reached by a conflicting event: what reaches one too
        // lies between.
        let mut between = BitSet::new(self.nodes_count());
        for node in conflicted {
            between.set(node.at());
        }
        loop {
            events.work.spend(self.steps_count())?;
            let mut has_changed = false;
            for &node in &self.order {
                let reaches = |cited: &Node| between.has(cited.at());
                if !between.has(node.at()) && self.cited(node).iter().any(reaches) {
                    between.set(node.at());
                    has_changed = true;
                }
            }
            if !(self.is_cyclic && has_changed) {
                break;
            }
        }
        let between = |node: &Node| between.has(node.at());
        Ok(self.order.iter().copied().filter(between).collect())
    }
}

/// The full auth chain of what all states agree on.
struct AgreedChain {
    /// By place in the graph.
    in_graph: BitSet,
    /// Events that the graph does not have.
    beside: BTreeSet<Node>,
}

impl AgreedChain {
    fn walk<R: Room>(
        events: &mut Events<'_, R>,
        conflict: &Conflict,
    ) -> Result<AgreedChain, ResolveError<R::Error>> {
        let graph = events.graph;
        let mut chain = AgreedChain {
            in_graph: BitSet::new(graph.places_count()),
            beside: BTreeSet::new(),
        };
        let agreed = conflict.iter().filter(|entry| entry.is_agreed());
        let mut entries: Vec<u64> = agreed.filter_map(|entry| entry.first()).collect();
        let each = events.room.each_agreed(&mut |id| entries.push(id));
        each.map_err(ResolveError::Read)?;

        events.work.spend(entries.len() as u64 * EDGE)?;
        let mut todo: Vec<u32> = Vec::new();
        // An entry is not in its own chain, so what it cites is where it begins.
        for id in entries {
            match graph.place(id) {
                Some(place) if graph.is_known(place) => {
                    chain.enter(events, graph.cited(place), &mut todo)?;
                }
                _ => chain.enter_beside(events, id, &mut todo)?,
            }
            while let Some(place) = todo.pop() {
                if graph.is_known(place) {
                    chain.enter(events, graph.cited(place), &mut todo)?;
                } else {
                    chain.enter_beside(events, graph.id(place), &mut todo)?;
                }
            }
        }
        Ok(chain)
    }

    /// Marks what an event cites, and notes what is new.
    fn enter<R: Room>(
        &mut self,
        events: &mut Events<'_, R>,
        cited: &[u32],
        todo: &mut Vec<u32>,
    ) -> Result<(), ResolveError<R::Error>> {
        events.work.spend(cited.len() as u64 * EDGE)?;
        for &place in cited {
            if !self.in_graph.has(place as usize) {
                self.in_graph.set(place as usize);
                todo.push(place);
            }
        }
        Ok(())
    }

    /// The same for an event that the graph does not have, and what it cites
    /// of its like.
    fn enter_beside<R: Room>(
        &mut self,
        events: &mut Events<'_, R>,
        id: u64,
        todo: &mut Vec<u32>,
    ) -> Result<(), ResolveError<R::Error>> {
        let graph = events.graph;
        let mut unknown = vec![events.node(id)];
        while let Some(node) = unknown.pop() {
            for cited in events.cited(node)? {
                events.work.spend(EDGE)?;
                match graph.place(events.id(cited)) {
                    Some(place) if !self.in_graph.has(place as usize) => {
                        self.in_graph.set(place as usize);
                        todo.push(place);
                    }
                    None if self.beside.insert(cited) => unknown.push(cited),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// A set of small numbers.
#[derive(Clone, Debug)]
pub(super) struct BitSet(Vec<u64>);

impl BitSet {
    /// An empty set of numbers below `count`.
    pub(super) fn new(count: usize) -> BitSet {
        BitSet(vec![0; count.div_ceil(64)])
    }

    /// Whether it has a number; not, if that is too great for it.
    pub(super) fn has(&self, number: usize) -> bool {
        let word = self.0.get(number / 64);
        word.is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Adds a number below its count.
    pub(super) fn set(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }
}
