//! One line for each room in which something is missing: whoever needs the same
//! gap filled waits for the one who does it. And a pause for those whose gaps
//! could not be filled.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};

/// Rooms with a line, and pairs of room and server with a pause, that are
/// remembered: the least used is forgotten.
const REMEMBERED_MAX: usize = 4_096;
/// Failures in a row after which there is no pause yet: what an event lacked may
/// be told with the next one.
const FREE_FAILURES: u32 = 3;
/// After one more nothing is fetched from a server for a room for so long;
/// doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

/// A room's line.
pub type Line = Arc<tokio::sync::Mutex<()>>;

type Pauses = Arc<Mutex<Failures>>;

/// See the module.
pub struct Lines {
    rooms: Cache<OwnedRoomId, Line>,
    pauses: Cache<(OwnedRoomId, OwnedServerName), Pauses>,
}

/// What failed last, how often in a row.
#[derive(Debug, Default)]
struct Failures {
    last: Option<Instant>,
    count: u32,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines {
            rooms: Cache::new(REMEMBERED_MAX),
            pauses: Cache::new(REMEMBERED_MAX),
        }
    }
}

impl Lines {
    /// The line of a room.
    pub fn of(&self, room: &RoomId) -> Line {
        let made = self
            .rooms
            .get_or_insert_with(room, || Ok::<_, Infallible>(Line::default()));
        match made {
            Ok(line) => line,
            Err(never) => match never {},
        }
    }

    /// How long nothing is fetched any more from a server for a room; none if it
    /// may be asked now.
    pub fn pause(&self, room: &RoomId, server: &ServerName) -> Option<Duration> {
        let pauses = self.pauses.get(&(room.to_owned(), server.to_owned()))?;
        let failures = pauses.lock();
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
            self.pauses.remove(&key);
            return;
        }
        let made = self
            .pauses
            .get_or_insert_with(&key, || Ok::<_, Infallible>(Pauses::default()));
        let pauses = match made {
            Ok(pauses) => pauses,
            Err(never) => match never {},
        };
        let mut failures = pauses.lock();
        failures.count = failures.count.saturating_add(1);
        failures.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_pause_one_server_in_one_room() {
        let lines = Lines::default();
        let (room, other) = (ruma::room_id!("!a:hs"), ruma::room_id!("!b:hs"));
        let (server, another) = (ruma::server_name!("a"), ruma::server_name!("b"));
        assert_eq!(lines.pause(room, server), None);
        for _ in 0..FREE_FAILURES {
            lines.note(room, server, false);
            assert_eq!(lines.pause(room, server), None);
        }
        lines.note(room, server, false);
        let first = lines.pause(room, server).expect("pauses");
        lines.note(room, server, false);
        let second = lines.pause(room, server).expect("pauses");
        assert!(first <= PAUSE_MIN && second > PAUSE_MIN);
        assert_eq!(lines.pause(other, server), None);
        assert_eq!(lines.pause(room, another), None);
        (0..100).for_each(|_| lines.note(room, server, false));
        assert!(lines.pause(room, server).expect("pauses") <= PAUSE_MAX);
        lines.note(room, server, true);
        assert_eq!(lines.pause(room, server), None);
    }

    #[tokio::test]
    async fn a_room_has_one_line() {
        let lines = Lines::default();
        let room = ruma::room_id!("!a:hs");
        let line = lines.of(room);
        let _turn = line.lock().await;
        assert!(lines.of(room).try_lock().is_err());
        assert!(lines.of(ruma::room_id!("!b:hs")).try_lock().is_ok());
    }
}
