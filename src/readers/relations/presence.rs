//! Which events have something to be bundled, told without a look at the disk
//! for nearly all that have not: a Bloom filter in memory.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::logs::log::PartitionId;
use crate::query::ids::RoomSn;

/// Words of 64 bits: one mebibyte. With 800,000 parents one in a hundred events
/// without children is looked up for nothing, which costs some microseconds.
const WORDS: usize = 1 << 17;
/// Bits that stand for one parent.
const PROBES: u32 = 5;

/// Parents that were ever added; says yes to some that were not.
pub struct Presence {
    words: Box<[AtomicU64]>,
}

impl Default for Presence {
    fn default() -> Presence {
        Presence {
            words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Presence {
    /// Adds a parent. Visible to other threads once what the caller writes
    /// afterwards is.
    pub fn add(&self, partition: PartitionId, room: RoomSn, parent: &str) {
        for (word, bit) in probes(partition, room, parent) {
            if let Some(word) = self.words.get(word) {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// Whether the parent may have been added.
    pub fn may_have(&self, partition: PartitionId, room: RoomSn, parent: &str) -> bool {
        probes(partition, room, parent).all(|(word, bit)| {
            let word = self.words.get(word);
            word.is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
        })
    }
}

/// The bits of a parent: index of the word, and the bit in it.
fn probes(
    partition: PartitionId,
    room: RoomSn,
    parent: &str,
) -> impl Iterator<Item = (usize, u64)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&partition.to_le_bytes());
    hasher.update(&room.0.to_le_bytes());
    hasher.update(parent.as_bytes());
    let mut first = [0; 16];
    hasher.finalize_xof().fill(&mut first);
    let seed = u128::from_le_bytes(first);
    let (start, step) = (seed as u64, (seed >> 64) as u64 | 1);
    (0..PROBES).map(move |probe| {
        let hash = start.wrapping_add(step.wrapping_mul(u64::from(probe)));
        let word = (hash >> 6) as usize % WORDS;
        (word, 1 << (hash & 63))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_found_and_little_else() {
        let presence = Presence::default();
        let name = |number: u32| format!("$event{number}");
        for number in 0..100_000 {
            presence.add(0, RoomSn(7), &name(number));
        }
        assert!((0..100_000).all(|number| presence.may_have(0, RoomSn(7), &name(number))));
        let wrong = (100_000..200_000)
            .filter(|number| presence.may_have(0, RoomSn(7), &name(*number)))
            .count();
        assert!(wrong < 100, "{wrong} of 100,000");
        assert!(!presence.may_have(1, RoomSn(7), &name(1)));
        assert!(!presence.may_have(0, RoomSn(8), &name(1)));
    }
}
