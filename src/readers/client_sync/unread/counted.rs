//! What one user has not read of one room, as far as a count went.
//!
//! Each notification is kept by the offset of its event, so that a receipt takes
//! away what it reads, and a redaction what it redacts, whatever else was said.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use ruma::EventId;

use super::{Counts, RoomCounts};
use crate::query::receipts::ReadUpTo;
use crate::readers::client_sync::SyncError;
use crate::readers::client_sync::history::RoomHistory;

/// Notifications of a thread that are kept one by one. Of the others, which are
/// older, the number alone is kept: they are read together, and a redaction of
/// one of them is not noticed.
const KEPT_MAX: usize = 1_000;
/// Threads of a room with something unread. Of more, those count in which
/// something was said last.
const THREADS_MAX: usize = 200;

/// The notifications of one thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
struct Line {
    /// The oldest first: the offset, and in the lowest bit whether it highlights.
    kept: Vec<u64>,
    /// How many there are beside them,
    older: u64,
    /// the newest of which is at this offset.
    older_to: u64,
}

fn pack(offset: u64, highlight: bool) -> u64 {
    offset << 1 | u64::from(highlight)
}

fn offset_of(kept: u64) -> u64 {
    kept >> 1
}

fn highlights(kept: u64) -> bool {
    kept & 1 == 1
}

impl Line {
    /// Adds one that is newer than all.
    fn add(&mut self, offset: u64, highlight: bool) {
        self.kept.push(pack(offset, highlight));
        if self.kept.len() <= KEPT_MAX {
            return;
        }
        // Highlights stay as long as there is anything else.
        let plain = self.kept.iter().position(|kept| !highlights(*kept));
        let given_up = self.kept.remove(plain.unwrap_or(0));
        self.older += 1;
        self.older_to = self.older_to.max(offset_of(given_up));
    }

    /// Takes away what is before an offset.
    fn read(&mut self, behind: u64) {
        let read = self.kept.partition_point(|kept| offset_of(*kept) < behind);
        self.kept.drain(..read);
        if self.older_to < behind {
            self.older = 0;
        }
    }

    fn forget(&mut self, offset: u64) {
        let found = self
            .kept
            .binary_search_by_key(&offset, |kept| offset_of(*kept));
        if let Ok(at) = found {
            self.kept.remove(at);
        }
    }

    fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.older == 0
    }

    fn newest(&self) -> Option<u64> {
        self.kept.last().map(|kept| offset_of(*kept))
    }

    fn counts(&self) -> Counts {
        let highlighting = self.kept.iter().filter(|kept| highlights(**kept));
        Counts {
            highlight_count: highlighting.count() as u64,
            notification_count: self.older + self.kept.len() as u64,
        }
    }
}

/// A count: what is unread, and up to where it knows.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Counted {
    /// Offset behind the last event looked at.
    pub to: u64,
    /// Of the stay in the room that was counted in.
    pub joined_at: u64,
    /// At or behind the newest receipt that is taken into account.
    pub receipts_at: Option<u64>,
    /// Where the list of those whom the user ignored had last changed.
    pub ignored_at: Option<u64>,
    main: Line,
    threads: BTreeMap<String, Line>,
}

impl Counted {
    /// Nothing is counted yet of a stay in the room.
    pub fn new(joined_at: u64, ignored_at: Option<u64>) -> Counted {
        Counted {
            to: joined_at + 1,
            joined_at,
            receipts_at: None,
            ignored_at,
            main: Line::default(),
            threads: BTreeMap::new(),
        }
    }

    /// Adds a notification that is newer than all.
    pub fn add(&mut self, thread: Option<&EventId>, offset: u64, highlight: bool) {
        let Some(root) = thread else {
            return self.main.add(offset, highlight);
        };
        if let Some(line) = self.threads.get_mut(root.as_str()) {
            return line.add(offset, highlight);
        }
        let line = self.threads.entry(root.to_string()).or_default();
        line.add(offset, highlight);
        if self.threads.len() > THREADS_MAX {
            let quiet = self.threads.iter().min_by_key(|(_, line)| line.newest());
            let quiet = quiet.map(|(root, _)| root.clone());
            quiet.and_then(|root| self.threads.remove(&root));
        }
    }

    /// Takes away what receipts say is read.
    pub fn read(&mut self, history: &RoomHistory<'_>, read: &ReadUpTo) -> Result<(), SyncError> {
        let first = self.joined_at;
        let behind = |root: Option<&EventId>| -> Result<u64, SyncError> {
            let Some(place) = read.in_thread(root) else {
                return Ok(0);
            };
            let newest = history.newest_up_to(place, first, self.to)?;
            Ok(newest.map_or(0, |row| row.offset + 1))
        };
        if !self.main.is_empty() {
            self.main.read(behind(None)?);
        }
        for (root, line) in &mut self.threads {
            let root = <&EventId>::try_from(root.as_str()).ok();
            line.read(behind(root)?);
        }
        self.threads.retain(|_, line| !line.is_empty());
        Ok(())
    }

    /// Takes away all that was counted of a thread: the user said something in it
    /// later.
    pub fn read_thread(&mut self, thread: Option<&EventId>) {
        match thread {
            None => self.main = Line::default(),
            Some(root) => {
                self.threads.remove(root.as_str());
            }
        }
    }

    /// Takes away the notification of an event, in whichever thread.
    pub fn forget(&mut self, offset: u64) {
        self.main.forget(offset);
        self.threads
            .values_mut()
            .for_each(|line| line.forget(offset));
        self.threads.retain(|_, line| !line.is_empty());
    }

    /// Notifications that are kept.
    pub fn len(&self) -> usize {
        let threads = self.threads.values().map(|line| line.kept.len());
        self.main.kept.len() + threads.sum::<usize>()
    }

    pub fn counts(&self) -> RoomCounts {
        let threads = self.threads.iter();
        RoomCounts {
            main: self.main.counts(),
            threads: threads
                .map(|(root, line)| (root.clone(), line.counts()))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highlights_are_kept_longest_and_the_rest_is_a_number() {
        let mut line = Line::default();
        line.add(1, true);
        for offset in 2..=1_500 {
            line.add(offset, false);
        }
        let expected = |highlight_count, notification_count| Counts {
            highlight_count,
            notification_count,
        };
        assert_eq!(line.counts(), expected(1, 1_500));
        // Read amid those that are kept, all that is older is read.
        line.read(1_400);
        assert_eq!(line.counts(), expected(0, 101));
        line.forget(1_450);
        line.forget(1_450);
        line.forget(3);
        assert_eq!(line.counts(), expected(0, 100));
    }

    #[test]
    fn of_too_many_threads_the_quiet_ones_go() {
        let mut counted = Counted::new(0, None);
        for number in 0..THREADS_MAX + 5 {
            let root = EventId::parse(format!("${number}")).expect("a plain id");
            counted.add(Some(&root), number as u64, false);
        }
        let counts = counted.counts();
        assert_eq!(counts.threads.len(), THREADS_MAX);
        assert!(!counts.threads.contains_key("$4"));
        assert_eq!(counts.total().notification_count, THREADS_MAX as u64);
    }
}
