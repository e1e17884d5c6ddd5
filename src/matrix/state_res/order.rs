//! The two orders of version 2: reverse topological power ordering and
//! mainline ordering.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::events::{Events, Node};
use super::reach::{BitSet, Reach};
use super::work::EDGE;
use super::{ResolveError, Room};

/// *Reverse topological power ordering* of the events in `set`, by Kahn's
/// algorithm with the smallest candidate at each step. Events on a cycle are
/// left out.
pub(super) fn power_sort<R: Room>(
    events: &mut Events<'_, R>,
    reach: &Reach,
    set: &[Node],
) -> Result<Vec<Node>, ResolveError<R::Error>> {
    let ranked = power_ranked(events, set)?;
    let mut rank_of = vec![None; reach.nodes_count()];
    for (rank, node) in ranked.iter().enumerate() {
        rank_of[node.at()] = Some(rank);
    }
    // For each event how many it cites, and who cites it: by ranks.
    let mut open = vec![0_usize; ranked.len()];
    let mut citations: Vec<(usize, usize)> = Vec::new();
    for (rank, node) in ranked.iter().enumerate() {
        events.work.spend(EDGE)?;
        for cited in events.edges(*node) {
            citations.extend(rank_of[cited.at()].map(|cited| (cited, rank)));
        }
    }
    citations.sort_unstable();
    citations.dedup();
    for (_, citing) in &citations {
        open[*citing] += 1;
    }
    let free = (0..ranked.len()).filter(|&rank| open[rank] == 0);
    let mut ready: BinaryHeap<Reverse<usize>> = free.map(Reverse).collect();
    let mut sorted = Vec::with_capacity(ranked.len());
    while let Some(Reverse(rank)) = ready.pop() {
        sorted.push(ranked[rank]);
        let begin = citations.partition_point(|(cited, _)| *cited < rank);
        let citing = citations[begin..].iter();
        for &(_, citing) in citing.take_while(|(cited, _)| *cited == rank) {
            open[citing] -= 1;
            if open[citing] == 0 {
                ready.push(Reverse(citing));
            }
        }
    }
    Ok(sorted)
}

/// Events by the comparison of that ordering: higher sender level, then older,
/// then smaller event id.
fn power_ranked<R: Room>(
    events: &mut Events<'_, R>,
    set: &[Node],
) -> Result<Vec<Node>, ResolveError<R::Error>> {
    let mut ranked = Vec::with_capacity(set.len());
    for &node in set {
        let level = Reverse(events.sender_level(node)?);
        ranked.push((level, events.get(node)?.event.origin_server_ts, node));
    }
    Ok(sorted_by_key(events, ranked))
}

/// Events by a key and their age, then by their ids.
fn sorted_by_key<R: Room, K: Ord + Copy>(
    events: &Events<'_, R>,
    mut keyed: Vec<(K, u64, Node)>,
) -> Vec<Node> {
    keyed.sort_unstable_by_key(|(key, ts, _)| (*key, *ts));
    // Few are of the same age; only these need their ids compared.
    let name = |node: Node| {
        events
            .known(node)
            .map(|known| known.event.event_id.as_str())
    };
    for same in keyed.chunk_by_mut(|(key, ts, _), (key2, ts2, _)| (key, ts) == (key2, ts2)) {
        if same.len() > 1 {
            same.sort_unstable_by(|(_, _, a), (_, _, b)| name(*a).cmp(&name(*b)));
        }
    }
    keyed.into_iter().map(|(_, _, node)| node).collect()
}

/// *Mainline ordering* of events, based on a power levels event.
pub(super) fn mainline_sort<R: Room>(
    events: &mut Events<'_, R>,
    set: Vec<Node>,
    power_levels: Option<Node>,
) -> Result<Vec<Node>, ResolveError<R::Error>> {
    let mut mainline = Mainline::of(events, power_levels)?;
    let mut keyed = Vec::with_capacity(set.len());
    for node in set {
        let position = Reverse(mainline.position(events, node)?);
        keyed.push((position, events.get(node)?.event.origin_server_ts, node));
    }
    Ok(sorted_by_key(events, keyed))
}

/// The mainline of a power levels event, and what else was found of positions.
struct Mainline {
    /// By power levels event: its place in the mainline, or that of the first
    /// one before it that is in it.
    positions: HashMap<Node, u32>,
    /// What was found last: most events are based on the same power levels.
    last: Option<(Node, u32)>,
}

/// Of what is based on no event of the mainline.
const INFINITE: u32 = u32::MAX;

impl Mainline {
    fn of<R: Room>(
        events: &mut Events<'_, R>,
        power_levels: Option<Node>,
    ) -> Result<Mainline, ResolveError<R::Error>> {
        let mut positions = HashMap::new();
        let mut next = power_levels;
        while let Some(node) = next
            && !positions.contains_key(&node)
        {
            positions.insert(node, positions.len() as u32);
            next = events.cited_levels(node)?;
        }
        Ok(Mainline {
            positions,
            last: None,
        })
    }

    /// The mainline position of an event.
    fn position<R: Room>(
        &mut self,
        events: &mut Events<'_, R>,
        node: Node,
    ) -> Result<u32, ResolveError<R::Error>> {
        let Some(levels) = events.cited_levels(node)? else {
            return Ok(INFINITE);
        };
        if let Some((last, position)) = self.last
            && last == levels
        {
            return Ok(position);
        }
        let position = self.position_of_levels(events, levels)?;
        self.last = Some((levels, position));
        Ok(position)
    }

    /// The place of a power levels event in the mainline, or of the first one
    /// before it. What is passed on the way is noted, so that a chain is
    /// followed once.
    fn position_of_levels<R: Room>(
        &mut self,
        events: &mut Events<'_, R>,
        levels: Node,
    ) -> Result<u32, ResolveError<R::Error>> {
        let mut passed = Vec::new();
        let mut next = Some(levels);
        let position = loop {
            let Some(levels) = next else {
                break INFINITE;
            };
            if let Some(&position) = self.positions.get(&levels) {
                break position;
            }
            // A circle ends where it meets itself.
            self.positions.insert(levels, INFINITE);
            passed.push(levels);
            next = events.cited_levels(levels)?;
        };
        for levels in passed {
            self.positions.insert(levels, position);
        }
        Ok(position)
    }
}

/// The power events of a set, and what of their auth chains is in it.
///
/// The chain is followed edge by edge within the set, as every implementation
/// does: what is reachable only through an event that all agree on stays out.
pub(super) fn power_events<R: Room>(
    events: &mut Events<'_, R>,
    reach: &Reach,
    set: &[Node],
) -> Result<Vec<Node>, ResolveError<R::Error>> {
    let mut in_set = BitSet::new(reach.nodes_count());
    let mut todo = Vec::new();
    for &node in set {
        in_set.set(node.at());
        if events.get(node)?.is_power_event() {
            todo.push(node);
        }
    }
    let mut picked = BitSet::new(reach.nodes_count());
    let mut list = Vec::new();
    while let Some(node) = todo.pop() {
        if picked.has(node.at()) {
            continue;
        }
        picked.set(node.at());
        list.push(node);
        let cited = events.edges(node).iter();
        todo.extend(cited.filter(|cited| in_set.has(cited.at())));
        events.work.spend(events.edges(node).len() as u64 * EDGE)?;
    }
    Ok(list)
}
