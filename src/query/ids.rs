//! Interned ids. Each is the *input* offset of the record that introduced its
//! subject, so ids are the same after every replay, with any number of lanes,
//! and need no allocator. They are unique within a partition.

/// Interned room id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomSn(pub u64);

/// Interned event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventSn(pub u64);

/// A room state. Equal states of a room have equal ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateId(pub u64);

impl StateId {
    /// The state before a room's create event: nothing.
    pub const EMPTY: StateId = StateId(0);
}

/// Offset in a partition of *input*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InputOffset(pub u64);

/// Offset in a partition of *output*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutputOffset(pub u64);

/// Offset in *ephemeral*, which has one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EphemeralOffset(pub u64);

/// An event's place in its room, given at its fold and never changed.
///
/// Live events are [`Place::STEP`] apart; history that is found later gets
/// places in between, so nothing is ever renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(pub u128);

impl Place {
    /// Where a room's first live event stands; half of the space lies before it.
    pub const FIRST: Place = Place(1 << 127);
    /// Distance of two live events.
    pub const STEP: u128 = 1 << 64;
    /// Before every event.
    pub const START: Place = Place(0);
    /// Behind every event.
    pub const END: Place = Place(u128::MAX);

    /// Distance across a gap in what is known: room for 2^26 chunks of history.
    const GAP: u128 = 1 << 96;
    /// The stretch that a chunk of history has, and the distance within it.
    const CHUNK: u128 = 1 << 70;
    const CHUNK_STEP: u128 = 1 << 40;
    /// Least distance from an event that comes alone: room for 2^12 chunks.
    const APART_MIN: u128 = 1 << 82;

    /// The place of the next live event.
    pub fn next(self) -> Place {
        Place(self.0.saturating_add(Place::STEP))
    }

    /// The place of the next live event, where history before it is missing.
    pub fn behind_gap(self) -> Place {
        Place(self.0.saturating_add(Place::GAP))
    }

    /// Whether history may be missing between the live event at `earlier` and
    /// the next one, here.
    pub fn is_behind_gap(self, earlier: Place) -> bool {
        self.0.saturating_sub(earlier.0) >= Place::GAP
    }

    /// Whether nothing can have its place between the event at `earlier` and the
    /// one here: both are live, or of one chunk of history.
    pub fn is_next_to(self, earlier: Place) -> bool {
        self.0.saturating_sub(earlier.0) <= Place::STEP
    }

    /// A place for history between two neighbours: close behind the earlier one
    /// if that belongs to the same chunk, else where a new chunk begins. None if
    /// there is no room left between them.
    pub fn between(earlier: Place, later: Place) -> Option<Place> {
        let chunk = later.0.saturating_sub(Place::CHUNK);
        let place = earlier.0.max(chunk).saturating_add(Place::CHUNK_STEP);
        if place < later.0 {
            return Some(Place(place));
        }
        let middle = earlier.0 + (later.0.checked_sub(earlier.0)?) / 2;
        (middle > earlier.0).then_some(Place(middle))
    }

    /// A place for an event of the history that comes alone, with an unknown part
    /// of it missing on both sides: far from both neighbours. None where chunks
    /// would be crowded.
    pub fn apart(earlier: Place, later: Place) -> Option<Place> {
        let earlier = earlier.0.max(later.0.saturating_sub(Place::GAP));
        let half = later.0.checked_sub(earlier)? / 2;
        (half >= Place::APART_MIN).then_some(Place(earlier + half))
    }

    /// Big-endian, so that byte order is room order.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Reads [`Place::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Place {
        Place(u128::from_be_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever comes alone leaves room for the chunks that lead to it.
    #[test]
    fn what_comes_alone_stands_apart() {
        let (first, gap) = (Place::FIRST, Place::FIRST.behind_gap());
        let alone = Place::apart(Place::START, first).expect("half of the space");
        let chunks = |from: Place, to: Place| (to.0 - from.0) / Place::CHUNK;
        assert!(chunks(alone, first) > 1 << 20 && chunks(Place::START, alone) > 1 << 20);
        let alone = Place::apart(first, gap).expect("a gap between two stays");
        assert!(chunks(first, alone) >= 1 << 12 && chunks(alone, gap) >= 1 << 12);
        // Neither between neighbours, nor in what is left of a gap in the end.
        assert_eq!(Place::apart(first, first.next()), None);
        let mut later = gap;
        while let Some(place) = Place::apart(first, later) {
            assert!(place > first && place < later && chunks(first, place) >= 1 << 12);
            later = place;
        }
    }
}
