//! Who goes when: a courier for each destination that has something to take,
//! bounded in number, and a list of those to be tried again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::FederationSender;
use super::courier::Round;
use super::destination::Destination;
use super::destinations::Call;

/// Transactions under way to servers that took the last one.
const PROVEN_AT_A_TIME: usize = 256;
/// Transactions under way to others: these may take until a time-out each, and
/// do not keep the first waiting.
const UNPROVEN_AT_A_TIME: usize = 256;
/// The longest sleep: a clock that was set is noticed after it.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// The two ways out.
pub struct Ways {
    proven: Semaphore,
    unproven: Semaphore,
}

impl Default for Ways {
    fn default() -> Ways {
        Ways {
            proven: Semaphore::new(PROVEN_AT_A_TIME),
            unproven: Semaphore::new(UNPROVEN_AT_A_TIME),
        }
    }
}

/// By when it is to be tried again.
struct Timed {
    at_ms: u64,
    destination: Arc<Destination>,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Timed) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Timed) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Timed) -> std::cmp::Ordering {
        let name = |timed: &Timed| timed.destination.name.clone();
        (self.at_ms, name(self)).cmp(&(other.at_ms, name(other)))
    }
}

impl FederationSender {
    /// Sends couriers where they are called for.
    pub(super) async fn carry(self: Arc<Self>) {
        let Some(mut calls) = self.destinations.take_calls() else {
            return;
        };
        let mut timed: BinaryHeap<Reverse<Timed>> = BinaryHeap::new();
        let mut couriers = JoinSet::new();
        let mut told = self.time.now_ms();
        loop {
            let sleep = timed.peek().map_or(SLEEP_MAX, |Reverse(first)| {
                let left = first.at_ms.saturating_sub(self.time.now_ms());
                Duration::from_millis(left).min(SLEEP_MAX)
            });
            tokio::select! {
                call = calls.recv() => match call {
                    Some(Call::Now(destination)) => {
                        couriers.spawn(self.clone().go(destination));
                    }
                    Some(Call::Later(destination)) => {
                        let at_ms = destination.state().retry_at_ms;
                        timed.push(Reverse(Timed { at_ms, destination }));
                    }
                    None => return,
                },
                Some(ended) = couriers.join_next() => if let Err(error) = ended {
                    tracing::error!(%error, "a courier panicked");
                },
                () = self.time.sleep(sleep) => (),
            }
            let now = self.time.now_ms();
            // A clock that was set back is found out by asking all of them.
            let set_back = now < told;
            told = now;
            while let Some(Reverse(first)) = timed.peek()
                && (first.at_ms <= now || set_back)
                && let Some(Reverse(due)) = timed.pop()
            {
                due.destination.state().timed = false;
                self.destinations.call(&due.destination);
            }
        }
    }

    /// Carries what there is for one destination.
    async fn go(self: Arc<Self>, destination: Arc<Destination>) {
        loop {
            let is_proven = destination.state().is_proven();
            let way = match is_proven {
                true => &self.ways.proven,
                false => &self.ways.unproven,
            };
            // Never closed, so there is always a permit to come.
            let permit = way.acquire().await;
            let round = self.round(&destination).await;
            drop(permit);
            if round == Round::Again || !self.goes_home(&destination) {
                continue;
            }
            // Later, if there is anything left.
            self.destinations.call(&destination);
            return;
        }
    }
}
