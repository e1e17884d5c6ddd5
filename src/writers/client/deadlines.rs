//! When what was told is over: one time for each of many keys, the next first.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The times, by key.
pub struct Deadlines<K> {
    of: HashMap<K, Instant>,
    in_order: BTreeSet<(Instant, K)>,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Deadlines<K> {
        Deadlines {
            of: HashMap::new(),
            in_order: BTreeSet::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Deadlines<K> {
    /// Sets a key's time in place of the one before. Says whether the next one
    /// of all is earlier for it.
    pub fn set(&mut self, key: K, at: Instant) -> bool {
        let next = self.next();
        self.clear(&key);
        self.of.insert(key.clone(), at);
        self.in_order.insert((at, key));
        next.is_none_or(|next| at < next)
    }

    /// Takes a key's time away. Says whether it had one.
    pub fn clear(&mut self, key: &K) -> bool {
        match self.of.remove(key) {
            Some(at) => self.in_order.remove(&(at, key.clone())),
            None => false,
        }
    }

    /// The next time.
    pub fn next(&self) -> Option<Instant> {
        self.in_order.first().map(|(at, _)| *at)
    }

    /// Takes the keys whose time has come.
    pub fn take_due(&mut self, now: Instant) -> Vec<K> {
        let mut due = Vec::new();
        while let Some((at, _)) = self.in_order.first()
            && *at <= now
            && let Some((_, key)) = self.in_order.pop_first()
        {
            self.of.remove(&key);
            due.push(key);
        }
        due
    }

    pub fn contains(&self, key: &K) -> bool {
        self.of.contains_key(key)
    }

    pub fn len(&self) -> usize {
        self.of.len()
    }
}

/// Calls `end_due` whenever the time that `next` tells has come. `earlier` is
/// notified when that time moves forward.
pub async fn keep(
    earlier: &Notify,
    next: impl Fn() -> Option<Instant>,
    end_due: impl Fn(Instant),
) -> ! {
    loop {
        let mut moved = std::pin::pin!(earlier.notified());
        // From here on a notification is not missed.
        moved.as_mut().enable();
        match next() {
            Some(at) => tokio::select! {
                () = sleep_until(at) => end_due(Instant::now()),
                () = moved => {}
            },
            None => moved.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_key_has_one_time() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::default();
        assert!(deadlines.set("a", after(5)));
        assert!(!deadlines.set("b", after(7)));
        assert!(deadlines.set("c", after(1)));
        assert!(!deadlines.set("c", after(9)), "moved back");
        assert_eq!((deadlines.next(), deadlines.len()), (Some(after(5)), 3));
        assert!(deadlines.take_due(after(4)).is_empty());
        assert_eq!(deadlines.take_due(after(7)), ["a", "b"]);
        assert!(!deadlines.contains(&"a") && !deadlines.clear(&"a"));
        assert!(deadlines.clear(&"c"));
        assert_eq!((deadlines.next(), deadlines.len()), (None, 0));
    }
}
