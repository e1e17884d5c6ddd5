//! A pause for those whose gaps could not be filled, by room and server.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};

/// Pairs of room and server that are remembered: the least used is forgotten.
const REMEMBERED_MAX: usize = 4_096;
/// Failures in a row after which there is no pause yet: what an event lacked may
/// be told with the next one.
const FREE_FAILURES: u32 = 3;
/// After one more nothing is fetched from a server for a room for so long;
/// doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

/// See the module.
pub struct Pauses {
    failures: Cache<(OwnedRoomId, OwnedServerName), Arc<Mutex<Failures>>>,
}

/// What failed last, how often in a row.
#[derive(Debug, Default)]
struct Failures {
    last: Option<Instant>,
    count: u32,
}

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses {
            failures: Cache::new(REMEMBERED_MAX),
        }
    }
}

impl Pauses {
    /// How long nothing is fetched any more from a server for a room; none if it
    /// may be asked now.
    pub fn left(&self, room: &RoomId, server: &ServerName) -> Option<Duration> {
        let failures = self.failures.get(&(room.to_owned(), server.to_owned()))?;
        let failures = failures.lock();
        let beyond = failures.count.checked_sub(FREE_FAILURES + 1)?;
        let doubled = 2_u32.saturating_pow(beyond.min(10));
        let pause = PAUSE_MIN.saturating_mul(doubled).min(PAUSE_MAX);
        let left = pause.checked_sub(failures.last?.elapsed())?;
        (!left.is_zero()).then_some(left)
    }

    /// Notes whether what was fetched from a server for a room was of use.
    pub fn note(&self, room: &RoomId, server: &ServerName, was_of_use: bool) {
        let key = (room.to_owned(), server.to_owned());
        if was_of_use {
            self.failures.remove(&key);
            return;
        }
        let made = self
            .failures
            .get_or_insert_with(&key, || Ok::<_, Infallible>(Arc::default()));
        let failures = match made {
            Ok(failures) => failures,
            Err(never) => match never {},
        };
        let mut failures = failures.lock();
        failures.count = failures.count.saturating_add(1);
        failures.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_pause_one_server_in_one_room() {
        let pauses = Pauses::default();
        let (room, other) = (ruma::room_id!("!a:hs"), ruma::room_id!("!b:hs"));
        let (server, another) = (ruma::server_name!("a"), ruma::server_name!("b"));
        assert_eq!(pauses.left(room, server), None);
        for _ in 0..FREE_FAILURES {
            pauses.note(room, server, false);
            assert_eq!(pauses.left(room, server), None);
        }
        pauses.note(room, server, false);
        let first = pauses.left(room, server).expect("pauses");
        pauses.note(room, server, false);
        let second = pauses.left(room, server).expect("pauses");
        assert!(first <= PAUSE_MIN && second > PAUSE_MIN);
        assert_eq!(pauses.left(other, server), None);
        assert_eq!(pauses.left(room, another), None);
        (0..100).for_each(|_| pauses.note(room, server, false));
        assert!(pauses.left(room, server).expect("pauses") <= PAUSE_MAX);
        pauses.note(room, server, true);
        assert_eq!(pauses.left(room, server), None);
    }
}
