//! Walks the documents that match, and keeps the first of those that the
//! searcher may come to see: cheap looks at numbers, no look at the room server.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use tantivy::collector::{Collector, SegmentCollector};
use tantivy::columnar::Column;
use tantivy::{DocId, Score, SegmentOrdinal, SegmentReader};

use super::index::traits;

/// How results are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The most relevant first.
    #[default]
    Rank,
    /// The newest first.
    Recent,
}

/// Where a document stands in the order; the greatest comes first. No two have
/// the same place, and it stays the same for as long as the document is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Standing {
    /// The score's bits, or the time.
    pub by: u64,
    /// Key of the event.
    pub event: u64,
}

/// What the searcher may come to see of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Interned id of the event since which the user is out of the room; none
    /// of who is joined.
    pub until: Option<u64>,
}

/// Keys are hashes already: they are looked up by their own bits, which for a
/// common word is done for every third message of the server.
#[derive(Clone, Copy, Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// What a room or sender key leads to.
pub type ByKey<V> = HashMap<u64, V, BuildHasherDefault<KeyHasher>>;
/// Some room or sender keys.
pub type Keys = HashSet<u64, BuildHasherDefault<KeyHasher>>;

/// What is looked for beside the words.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// By room key.
    pub rooms: ByKey<Reach>,
    /// By sender key; none: of everybody.
    pub senders: Option<Keys>,
    pub not_senders: Keys,
    /// Those of whom messages are left out, but not state.
    pub ignored: Keys,
    /// Bits of the keys that are searched.
    pub keys: Vec<u64>,
    pub has_url: Option<bool>,
}

/// A document that may be a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    pub standing: Standing,
    pub room: u64,
    pub sn: u64,
    pub score_bits: u32,
    pub replaces: bool,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The first ones in order, at most as many as were asked for.
    pub candidates: Vec<Candidate>,
    /// How many there are behind [`Gather::after`].
    pub behind: usize,
    /// All that match, wherever they stand.
    pub matching: usize,
    /// Those among them that the user is known to see, as far as nothing but
    /// the room decides.
    pub open: usize,
}

/// Collects candidates in order.
pub struct Gather {
    pub scope: Arc<Scope>,
    pub order: Order,
    /// Only what stands behind this.
    pub after: Option<Standing>,
    pub limit: usize,
}

impl Collector for Gather {
    type Fruit = Gathered;
    type Child = GatherSegment;

    fn for_segment(
        &self,
        _: SegmentOrdinal,
        segment: &SegmentReader,
    ) -> tantivy::Result<GatherSegment> {
        let column = |name| segment.fast_fields().u64(name);
        Ok(GatherSegment {
            scope: self.scope.clone(),
            order: self.order,
            after: self.after,
            limit: self.limit,
            room: column("room")?,
            event: column("event")?,
            sn: column("sn")?,
            at: column("at")?,
            sender: column("sender")?,
            traits: column("traits")?,
            first: BinaryHeap::new(),
            gathered: Gathered::default(),
        })
    }

    fn requires_scoring(&self) -> bool {
        true
    }

    fn merge_fruits(&self, segments: Vec<Gathered>) -> tantivy::Result<Gathered> {
        let mut all = Gathered::default();
        for segment in segments {
            all.candidates.extend(segment.candidates);
            all.behind += segment.behind;
            all.matching += segment.matching;
            all.open += segment.open;
        }
        all.candidates.sort_by_key(|candidate| Reverse(*candidate));
        all.candidates.truncate(self.limit);
        Ok(all)
    }
}

/// The part of a [`Gather`] that walks one segment.
pub struct GatherSegment {
    scope: Arc<Scope>,
    order: Order,
    after: Option<Standing>,
    limit: usize,
    room: Column,
    event: Column,
    sn: Column,
    at: Column,
    sender: Column,
    traits: Column,
    /// The least of them on top.
    first: BinaryHeap<Reverse<Candidate>>,
    gathered: Gathered,
}

fn number(column: &Column, doc: DocId) -> u64 {
    // Every document has a value in every column.
    column.first(doc).unwrap_or_default()
}

impl GatherSegment {
    /// Whether a document is within the scope, and if so whether the user is
    /// known to see it.
    fn is_open(&self, doc: DocId, room: u64, bits: u64) -> Option<bool> {
        let scope = &*self.scope;
        let reach = scope.rooms.get(&room)?;
        let has_url = bits & traits::URL != 0;
        let is_wanted = scope.keys.contains(&(bits & traits::KEY))
            && scope.has_url.is_none_or(|wanted| wanted == has_url);
        if !is_wanted {
            return None;
        }
        if let Some(until) = reach.until
            && bits & traits::HISTORY == 0
            && number(&self.sn, doc) >= until
        {
            return None;
        }
        let asks_sender =
            scope.senders.is_some() || !scope.not_senders.is_empty() || !scope.ignored.is_empty();
        if asks_sender {
            let sender = number(&self.sender, doc);
            let is_message = bits & traits::KEY == 0;
            let is_out = scope
                .senders
                .as_ref()
                .is_some_and(|all| !all.contains(&sender))
                || scope.not_senders.contains(&sender)
                || (is_message && scope.ignored.contains(&sender));
            if is_out {
                return None;
            }
        }
        Some(reach.until.is_none() && bits & traits::OPEN != 0)
    }
}

impl SegmentCollector for GatherSegment {
    type Fruit = Gathered;

    fn collect(&mut self, doc: DocId, score: Score) {
        let (room, bits) = (number(&self.room, doc), number(&self.traits, doc));
        let Some(is_open) = self.is_open(doc, room, bits) else {
            return;
        };
        self.gathered.matching += 1;
        self.gathered.open += usize::from(is_open);
        // Scores are positive: their bits are in their order.
        let score_bits = score.max(0.0).to_bits();
        let standing = Standing {
            by: match self.order {
                Order::Rank => u64::from(score_bits),
                Order::Recent => number(&self.at, doc),
            },
            event: number(&self.event, doc),
        };
        if self.after.is_some_and(|after| standing >= after) {
            return;
        }
        self.gathered.behind += 1;
        let is_full = self.first.len() >= self.limit;
        if is_full
            && self
                .first
                .peek()
                .is_none_or(|least| standing <= least.0.standing)
        {
            return;
        }
        if is_full {
            self.first.pop();
        }
        self.first.push(Reverse(Candidate {
            standing,
            room,
            sn: number(&self.sn, doc),
            score_bits,
            replaces: bits & traits::REPLACES != 0,
        }));
    }

    fn harvest(mut self) -> Gathered {
        let first = std::mem::take(&mut self.first);
        self.gathered.candidates = first.into_iter().map(|candidate| candidate.0).collect();
        self.gathered
    }
}
