//! Turns among the gaps of all rooms and servers: one gap of a room at a time,
//! few of one server, and not many in all.
//!
//! Whoever fills a gap mostly waits for another server, and one that is slow on
//! purpose could make that last. So a turn lasts as long as nobody else needs it,
//! and otherwise for [`SLICE`]: then it is over, and what was fetched is lost.
//! Servers whose turns were of no use wait behind all others.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use tokio::sync::{oneshot, watch};

/// Gaps that are filled at a time: each holds its events.
const AT_ONCE: usize = 16;
/// The same of one server.
const OF_ONE_SERVER: usize = 2;
/// How long a turn is not taken away: most gaps are filled within a second.
const SLICE: Duration = Duration::from_secs(10);
/// Servers whose turns were of no use that are remembered.
const REMEMBERED_MAX: usize = 4_096;

/// See the module.
pub struct Turns {
    shared: Arc<Shared>,
    /// How many turns in a row a server wasted.
    wasted: Cache<OwnedServerName, u32>,
}

struct Shared {
    /// [`SLICE`], but for tests.
    slice: Duration,
    state: Mutex<State>,
    /// Told whenever somebody begins or ends to wait.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    next: u64,
    running: Vec<Gap>,
    waiting: Vec<Waiting>,
}

/// Whose turn it is.
struct Gap {
    number: u64,
    room: OwnedRoomId,
    server: OwnedServerName,
}

struct Waiting {
    gap: Gap,
    wasted: u32,
    granted: oneshot::Sender<()>,
    /// Whether another turn is over for its sake.
    is_made_way_for: bool,
}

/// A turn, or a place among those who wait for one: given up when dropped.
pub struct Turn {
    shared: Arc<Shared>,
    number: u64,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns::of(SLICE)
    }
}

impl Turns {
    fn of(slice: Duration) -> Turns {
        Turns {
            shared: Arc::new(Shared {
                slice,
                state: Mutex::default(),
                changed: watch::Sender::new(()),
            }),
            wasted: Cache::new(REMEMBERED_MAX),
        }
    }

    /// Waits for a turn to fill a gap of a room for what a server sent.
    pub async fn take(&self, room: &RoomId, server: &ServerName) -> Turn {
        let (granted, wait) = oneshot::channel();
        let wasted = self.wasted.get(server).unwrap_or(0);
        let turn = {
            let mut state = self.shared.state.lock();
            let number = state.next;
            state.next += 1;
            state.waiting.push(Waiting {
                gap: Gap {
                    number,
                    room: room.to_owned(),
                    server: server.to_owned(),
                },
                wasted,
                granted,
                is_made_way_for: false,
            });
            state.grant();
            let shared = self.shared.clone();
            Turn { shared, number }
        };
        self.shared.changed.send_replace(());
        // Its other end lies with those who wait until it is granted.
        let _ = wait.await;
        turn
    }

    /// Notes whether a server's turn was of use.
    pub fn note(&self, server: &ServerName, was_of_use: bool) {
        if was_of_use {
            self.wasted.remove(server);
            return;
        }
        let wasted = self.wasted.get(server).unwrap_or(0);
        self.wasted
            .insert(server.to_owned(), wasted.saturating_add(1));
    }
}

impl Turn {
    /// Waits until the turn is over, which it is for somebody else's sake alone.
    pub async fn over(&self) {
        tokio::time::sleep(self.shared.slice).await;
        let mut changes = self.shared.changed.subscribe();
        while !self.shared.state.lock().makes_way(self.number) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state
            .waiting
            .retain(|other| other.gap.number != self.number);
        state.running.retain(|other| other.number != self.number);
        // Whoever was made way for has it now, or waits for another one.
        for waiting in &mut state.waiting {
            waiting.is_made_way_for = false;
        }
        state.grant();
        drop(state);
        self.shared.changed.send_replace(());
    }
}

impl State {
    /// Gives the turns that are free to those who may have them: first to servers
    /// that wasted least, then to who waits longest.
    fn grant(&mut self) {
        while self.running.len() < AT_ONCE {
            let may = |waiting: &&Waiting| self.has_room(&waiting.gap, None);
            let first = self.waiting.iter().filter(may);
            let first = first.min_by_key(|waiting| (waiting.wasted, waiting.gap.number));
            let Some(number) = first.map(|waiting| waiting.gap.number) else {
                return;
            };
            let at = self
                .waiting
                .iter()
                .position(|waiting| waiting.gap.number == number);
            let Some(at) = at else { return };
            let waiting = self.waiting.remove(at);
            self.running.push(waiting.gap);
            // If nobody takes it, dropping the turn takes it out again.
            let _ = waiting.granted.send(());
        }
    }

    /// Whether a gap could be filled beside those that are, but for one of them.
    fn has_room(&self, gap: &Gap, but: Option<u64>) -> bool {
        let others = || {
            self.running
                .iter()
                .filter(|other| Some(other.number) != but)
        };
        others().count() < AT_ONCE
            && others().all(|other| other.room != gap.room)
            && others().filter(|other| other.server == gap.server).count() < OF_ONE_SERVER
    }

    /// Whether the end of a turn would let in somebody who waits: of another
    /// server, whom no other turn ends for.
    fn makes_way(&mut self, number: u64) -> bool {
        let Some(turn) = self.running.iter().find(|turn| turn.number == number) else {
            return true;
        };
        let found = self.waiting.iter().position(|waiting| {
            !waiting.is_made_way_for
                && waiting.gap.server != turn.server
                && self.has_room(&waiting.gap, Some(number))
        });
        let waiting = found.and_then(|at| self.waiting.get_mut(at));
        waiting.is_some_and(|waiting| {
            waiting.is_made_way_for = true;
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::{Instant, timeout};

    use super::*;

    fn room(number: usize) -> OwnedRoomId {
        OwnedRoomId::try_from(format!("!room{number}:hs")).expect("an id")
    }

    fn server(number: usize) -> OwnedServerName {
        OwnedServerName::try_from(format!("server{number}")).expect("a name")
    }

    /// A turn that is there at once.
    fn at_once(turns: &Turns, room: &RoomId, server: &ServerName) -> Option<Turn> {
        turns.take(room, server).now_or_never()
    }

    #[tokio::test]
    async fn rooms_have_one_servers_few_and_all_not_many() {
        let turns = Turns::default();
        let first = at_once(&turns, &room(0), &server(0)).expect("is free");
        assert!(at_once(&turns, &room(0), &server(1)).is_none());
        let more: Vec<Turn> = (1..OF_ONE_SERVER)
            .map(|n| at_once(&turns, &room(n), &server(0)).expect("is free"))
            .collect();
        assert!(at_once(&turns, &room(90), &server(0)).is_none());
        let others: Vec<Turn> = (OF_ONE_SERVER..AT_ONCE)
            .map(|n| at_once(&turns, &room(n), &server(n)).expect("is free"))
            .collect();
        assert!(at_once(&turns, &room(91), &server(91)).is_none());
        drop((first, more));
        assert!(at_once(&turns, &room(0), &server(0)).is_some());
        drop(others);
    }

    #[tokio::test]
    async fn turns_of_slow_servers_are_over_when_somebody_waits() {
        let slice = Duration::from_millis(20);
        let turns = Turns::of(slice);
        let mut slow = tokio::task::JoinSet::new();
        for n in 0..AT_ONCE {
            let turn = turns.take(&room(n), &server(n)).await;
            slow.spawn(async move { turn.over().await });
        }
        // Nobody waits, so they may take as long as they like.
        assert!(timeout(5 * slice, slow.join_next()).await.is_err());
        let turn = turns.take(&room(90), &server(90)).await;
        while slow.try_join_next().is_some() {}
        assert_eq!(slow.len(), AT_ONCE - 1, "one made way");
        // In the same room it is the turn there that is over.
        let (room, other) = (room(90), server(91));
        let waits = turns.take(&room, &other);
        let (over, taken) = tokio::join!(
            async {
                let begun = Instant::now();
                turn.over().await;
                drop(turn);
                begun.elapsed()
            },
            waits
        );
        assert!(over >= slice);
        drop(taken);
    }

    #[tokio::test]
    async fn who_wasted_turns_waits_behind_the_others() {
        let turns = Arc::new(Turns::default());
        let held: Vec<Turn> = (0..AT_ONCE)
            .map(|n| at_once(&turns, &room(n), &server(n)).expect("is free"))
            .collect();
        turns.note(&server(90), false);
        let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
        for n in [90, 91, 92] {
            let (turns, told) = (turns.clone(), told.clone());
            tokio::spawn(async move {
                let _turn = turns.take(&room(n), &server(n)).await;
                told.send(n).expect("is read");
            });
            tokio::task::yield_now().await;
        }
        drop(held);
        let mut had = Vec::new();
        for _ in 0..3 {
            had.push(order.recv().await.expect("has a turn"));
        }
        assert_eq!(had, [91, 92, 90]);
        // Of use again, and it is like any other.
        turns.note(&server(90), true);
        assert_eq!(turns.wasted.get(&server(90)), None);
    }
}
