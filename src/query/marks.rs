//! Reading your own writes: how far *output* was acknowledged to each user.
//!
//! A write's answer notes the *output* offset at which it is visible; that
//! user's next read waits, bounded, until the reader it asks has passed it.

use std::num::NonZeroUsize;

use parking_lot::Mutex;
use quick_cache::unsync::Cache;
use ruma::{OwnedUserId, UserId};

use super::ids::OutputOffset;

/// Users whose marks are kept; a user beyond them reads without waiting, which
/// can only matter within milliseconds of their write.
const USERS_MAX: usize = 100_000;

/// One mark per user and partition. In memory only: after a restart every
/// reader has passed everything that was acknowledged before.
pub struct ReadMarks {
    partitions: NonZeroUsize,
    marks: Mutex<Cache<OwnedUserId, Box<[OutputOffset]>>>,
}

impl ReadMarks {
    /// Marks for a topic of so many partitions.
    pub fn new(partitions: u32) -> ReadMarks {
        let partitions = NonZeroUsize::new(partitions as usize).unwrap_or(NonZeroUsize::MIN);
        ReadMarks {
            partitions,
            marks: Mutex::new(Cache::new(USERS_MAX)),
        }
    }

    /// The user was told of everything below `visible_at`.
    pub fn note(&self, user: &UserId, partition: u32, visible_at: OutputOffset) {
        let mut marks = self.marks.lock();
        let mut vector = match marks.get(user) {
            Some(known) => known.clone(),
            None => vec![OutputOffset(0); self.partitions.get()].into_boxed_slice(),
        };
        if let Some(mark) = vector.get_mut(partition as usize) {
            *mark = (*mark).max(visible_at);
        }
        marks.insert(user.to_owned(), vector);
    }

    /// What a read of this user must have seen, by partition; none if nothing is noted.
    pub fn mark(&self, user: &UserId) -> Option<Box<[OutputOffset]>> {
        self.marks.lock().get(user).cloned()
    }
}
