//! Walks of the auth graph: what the states disagree on in their auth chains,
//! and paths between conflicting events.
//!
//! Everything that conflicting events reach is walked once, without recursion;
//! the rest is passes over that order. Events that came through the auth rules
//! cite only older ones, so there is no cycle. Should there be one all the
//! same, passes are repeated until nothing changes.

use std::collections::BTreeSet;
use std::ops::Range;

use super::conflict::Conflict;
use super::events::{Events, Node};
use super::work::EDGE;
use super::{ResolveError, Room};

/// What conflicting events reach along auth edges, themselves included.
pub(super) struct Reach {
    /// Cited events before those that cite them.
    order: Vec<Node>,
    /// Events that were met; those that are met later have greater numbers.
    nodes_count: usize,
    edges_count: usize,
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
    ) -> Result<Reach, ResolveError<R::Error>> {
        let mut reach = Reach {
            order: Vec::new(),
            nodes_count: 0,
            edges_count: 0,
            is_cyclic: false,
        };
        let mut visits: Vec<Visit> = vec![Visit::New; events.nodes_count()];
        // Events on the path walked, and the edges still to follow from each.
        let mut path: Vec<(Node, Range<u32>)> = Vec::new();
        for at in 0..events.conflicting.len() {
            let start = events.conflicting[at];
            if visits[start.at()] == Visit::New {
                path.push((start, reach.open(events, &mut visits, start)?));
            }
            while let Some((node, edges)) = path.last_mut() {
                let Some(edge) = edges.next() else {
                    visits[node.at()] = Visit::Done;
                    reach.order.push(*node);
                    path.pop();
                    continue;
                };
                let cited = events.edge(edge);
                match visits[cited.at()] {
                    Visit::New => path.push((cited, reach.open(events, &mut visits, cited)?)),
                    Visit::Open => reach.is_cyclic = true,
                    Visit::Done => {}
                }
            }
        }
        reach.nodes_count = events.nodes_count();
        Ok(reach)
    }

    /// Finds out what an event cites.
    fn open<R: Room>(
        &mut self,
        events: &mut Events<'_, R>,
        visits: &mut Vec<Visit>,
        node: Node,
    ) -> Result<Range<u32>, ResolveError<R::Error>> {
        visits[node.at()] = Visit::Open;
        let edges = events.cited(node)?;
        visits.resize(events.nodes_count(), Visit::New);
        self.edges_count += edges.len();
        events.work.spend(EDGE * (1 + edges.len() as u64))?;
        Ok(edges)
    }

    /// How many events there are to index.
    pub(super) fn nodes_count(&self) -> usize {
        self.nodes_count
    }

    fn steps_count(&self) -> u64 {
        (self.order.len() + self.edges_count) as u64
    }

    /// The auth difference: events in the full auth chain of some state but
    /// not of all.
    pub(super) fn auth_difference<R: Room>(
        &self,
        events: &mut Events<'_, R>,
        conflict: &Conflict,
    ) -> Result<Vec<Node>, ResolveError<R::Error>> {
        let mut candidates = self.chains_difference(events, conflict.states())?;
        if candidates.is_empty() {
            return Ok(candidates);
        }
        let agreed = AgreedChain::walk(events)?;
        candidates.retain(|&node| match events.place(node) {
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
        states: usize,
    ) -> Result<Vec<Node>, ResolveError<R::Error>> {
        let count = self.nodes_count();
        let mut in_some = BitSet::new(count);
        let mut not_in_some = BitSet::new(count);
        // Where in a key's list of differing states the next 64 begin.
        let mut cursors: Vec<usize> = events
            .contests
            .iter()
            .map(|contest| contest.differing.start)
            .collect();
        for first in (0..states).step_by(64) {
            let in_block = (states - first).min(64);
            let all = u64::MAX >> (64 - in_block);
            let held = held_in_block(events, &mut cursors, first, in_block)?;
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
                for cited in events.edges(node) {
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
    ) -> Result<Vec<Node>, ResolveError<R::Error>> {
        // All of this is reached by a conflicting event: what reaches one too
        // lies between.
        let mut between = BitSet::new(self.nodes_count());
        for node in &events.conflicting {
            between.set(node.at());
        }
        loop {
            events.work.spend(self.steps_count())?;
            let mut has_changed = false;
            for &node in &self.order {
                let reaches = |cited: &Node| between.has(cited.at());
                if !between.has(node.at()) && events.edges(node).iter().any(reaches) {
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

/// For each event which of up to 64 states have it as a conflicting entry.
fn held_in_block<R: Room>(
    events: &mut Events<'_, R>,
    cursors: &mut [usize],
    first: usize,
    in_block: usize,
) -> Result<Vec<u64>, ResolveError<R::Error>> {
    let all = u64::MAX >> (64 - in_block);
    let mut held = vec![0_u64; events.nodes_count()];
    for (contest, cursor) in events.contests.iter().zip(cursors) {
        if contest.is_agreed {
            continue;
        }
        let begin = *cursor;
        let mut have_base = all;
        for &(state, node) in &events.differing[begin..contest.differing.end] {
            if state as usize >= first + in_block {
                break;
            }
            let bit = 1 << (state as usize - first);
            have_base &= !bit;
            if let Some(node) = node {
                held[node.at()] |= bit;
            }
            *cursor += 1;
        }
        if let Some(base) = contest.base {
            held[base.at()] |= have_base;
        }
        events.work.spend(EDGE * (1 + (*cursor - begin) as u64))?;
    }
    Ok(held)
}

/// The full auth chain of what all states agree on.
struct AgreedChain {
    /// By place in the graph.
    in_graph: BitSet,
    /// Events that the graph does not have.
    beside: BTreeSet<Node>,
}

impl AgreedChain {
    fn walk<R: Room>(events: &mut Events<'_, R>) -> Result<AgreedChain, ResolveError<R::Error>> {
        let graph = events.graph;
        let mut chain = AgreedChain {
            in_graph: BitSet::new(graph.places_count()),
            beside: BTreeSet::new(),
        };
        let mut entries: Vec<u64> = Vec::new();
        for contest in events.contests.iter().filter(|contest| contest.is_agreed) {
            let agreed = contest.slot.and_then(|slot| events.keys.at(slot).agreed);
            entries.extend(agreed.flatten().map(|node| events.id(node)));
        }
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
        let mut unknown = vec![events.node(id)];
        while let Some(node) = unknown.pop() {
            for at in events.cited(node)? {
                events.work.spend(EDGE)?;
                let cited = events.edge(at);
                match events.place(cited) {
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
