//! What may be spent on the past of one event.

use std::time::Duration;

/// Requests: a walk over some thousand events and the events of a small state.
const REQUESTS_MAX: u32 = 250;
/// Events of the timeline that are fetched: what a room of many people says in a
/// day. What lies further back is left to whoever scrolls there.
const EVENTS_MAX: usize = 2_000;
/// The same in bytes as they came; some five times as much in memory.
const EVENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long all of it may take.
pub const TIME_MAX: Duration = Duration::from_secs(120);

/// What is left of it.
#[derive(Debug)]
pub struct Budget {
    requests: u32,
    events: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget {
            requests: REQUESTS_MAX,
            events: EVENTS_MAX,
            bytes: EVENT_BYTES_MAX,
        }
    }
}

impl Budget {
    /// Whether one more request may be made; it counts as made.
    pub fn request(&mut self) -> bool {
        let left = self.requests.checked_sub(1);
        self.requests = left.unwrap_or(0);
        left.is_some()
    }

    /// How many of so many requests may be made; they count as made.
    pub fn requests(&mut self, wanted: usize) -> usize {
        let granted = wanted.min(self.requests as usize);
        self.requests = self
            .requests
            .saturating_sub(u32::try_from(granted).unwrap_or(u32::MAX));
        granted
    }

    /// Whether an event of so many bytes may be held; it counts as held.
    pub fn event(&mut self, bytes: usize) -> bool {
        match (self.events.checked_sub(1), self.bytes.checked_sub(bytes)) {
            (Some(events), Some(left)) => {
                (self.events, self.bytes) = (events, left);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_gone() {
        let mut budget = Budget::default();
        assert_eq!(budget.requests(7), 7);
        let more = (0..).take_while(|_| budget.request()).count();
        assert_eq!(more as u32, REQUESTS_MAX - 7);
        assert_eq!((budget.requests(7), budget.request()), (0, false));
        let mut budget = Budget::default();
        assert!(!budget.event(EVENT_BYTES_MAX + 1));
        let events = (0..).take_while(|_| budget.event(1)).count();
        assert_eq!(events, EVENTS_MAX);
        let mut budget = Budget::default();
        assert!(budget.event(EVENT_BYTES_MAX) && !budget.event(1));
    }
}
