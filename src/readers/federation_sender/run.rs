//! Who goes when: a courier for each destination that has something to take,
//! bounded in number, and a list of those to be tried again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use ruma::OwnedServerName;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::FederationSender;
use super::courier::Round;
use super::destination::{Destination, State};
use super::destinations::Call;
use super::rest::{WALK_EVERY, Walk};
use crate::telemetry::names;

/// Transactions under way to servers that took the last one.
const PROVEN_AT_A_TIME: usize = 256;
/// Transactions under way to servers of which nothing is known, and to those that
/// did not take the last one: these may take until a time-out each, and keep
/// nobody waiting who is better off.
const NEW_AT_A_TIME: usize = 256;
const FAILING_AT_A_TIME: usize = 128;
/// Couriers above which no more are called by a walk: after a long stop thousands
/// may be due at once.
const COURIERS_IN_A_WALK: usize = 512;
/// How often destinations are looked through for those that can rest.
const REST_EVERY: Duration = Duration::from_secs(60);
/// The longest sleep: a clock that was set is noticed after it.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// The ways out.
pub struct Ways {
    proven: Semaphore,
    new: Semaphore,
    failing: Semaphore,
    /// Nobody sets out any more.
    stop: CancellationToken,
    /// Couriers that have set out and are not back.
    under_way: watch::Sender<usize>,
}

impl Default for Ways {
    fn default() -> Ways {
        Ways {
            proven: Semaphore::new(PROVEN_AT_A_TIME),
            new: Semaphore::new(NEW_AT_A_TIME),
            failing: Semaphore::new(FAILING_AT_A_TIME),
            stop: CancellationToken::new(),
            under_way: watch::Sender::new(0),
        }
    }
}

impl Ways {
    /// On which a server is gone to.
    fn of(&self, state: &State) -> &Semaphore {
        match (state.failures, state.succeeded_ms) {
            (0, 0) => &self.new,
            (0, _) => &self.proven,
            _ => &self.failing,
        }
    }

    /// Counts one as under way until what is returned is dropped; none when it is
    /// too late to set out.
    fn set_out(&self) -> Option<UnderWay<'_>> {
        let under_way = UnderWay::begin(&self.under_way);
        // After it counts: whoever stops waits for it, or it sees that it is late.
        (!self.stop.is_cancelled()).then_some(under_way)
    }
}

/// A courier on its way. Counts itself out, also when its task is stopped.
struct UnderWay<'a>(&'a watch::Sender<usize>);

impl UnderWay<'_> {
    fn begin(count: &watch::Sender<usize>) -> UnderWay<'_> {
        count.send_modify(|count| *count += 1);
        metrics::gauge!(names::TRANSACTIONS_IN_FLIGHT).increment(1);
        UnderWay(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
        metrics::gauge!(names::TRANSACTIONS_IN_FLIGHT).decrement(1);
    }
}

fn after(ms: u64, time: Duration) -> u64 {
    ms.saturating_add(time.as_millis() as u64)
}

/// What the runner has in mind.
struct Agenda {
    /// Who is to be tried when. Who left memory meanwhile is passed over: the
    /// walks find them in time.
    timed: BinaryHeap<Reverse<(u64, OwnedServerName)>>,
    /// When it was last looked at the clock.
    told_ms: u64,
    /// Under way. The first finds what an earlier process left.
    walk: Option<Walk>,
    next_walk_ms: u64,
    next_rest_ms: u64,
}

impl Agenda {
    fn new(now_ms: u64) -> Agenda {
        Agenda {
            timed: BinaryHeap::new(),
            told_ms: now_ms,
            walk: Some(Walk::default()),
            next_walk_ms: after(now_ms, WALK_EVERY),
            next_rest_ms: after(now_ms, REST_EVERY),
        }
    }

    /// How long there is nothing to do.
    fn pause(&self, now_ms: u64, walks: bool) -> Duration {
        if walks {
            return Duration::ZERO;
        }
        self.timed.peek().map_or(SLEEP_MAX, |Reverse((at_ms, _))| {
            Duration::from_millis(at_ms.saturating_sub(now_ms)).min(SLEEP_MAX)
        })
    }
}

impl FederationSender {
    /// Sends couriers where they are called for.
    pub(super) async fn carry(self: Arc<Self>) {
        let Some(mut calls) = self.destinations.take_calls() else {
            return;
        };
        let mut agenda = Agenda::new(self.time.now_ms());
        let mut couriers = JoinSet::new();
        loop {
            // Those who were called by the last steps are couriers first.
            let may_walk = calls.is_empty() && couriers.len() < COURIERS_IN_A_WALK;
            let walks = may_walk && agenda.walk.is_some();
            let pause = agenda.pause(self.time.now_ms(), walks);
            tokio::select! {
                call = calls.recv() => match call {
                    Some(Call::Now(destination)) => {
                        couriers.spawn(self.clone().go(destination));
                    }
                    Some(Call::Later(at_ms, server)) => {
                        agenda.timed.push(Reverse((at_ms, server)));
                    }
                    None => return,
                },
                Some(ended) = couriers.join_next() => if let Err(error) = ended {
                    tracing::error!(%error, "a courier panicked");
                },
                () = self.time.sleep(pause) => (),
            }
            self.look_at_the_clock(&mut agenda);
            if walks {
                self.walk_on(&mut agenda);
            }
        }
    }

    /// Calls those whose time has come, and lets others rest.
    fn look_at_the_clock(&self, agenda: &mut Agenda) {
        let now = self.time.now_ms();
        // A clock that was set back is found out by asking all of them.
        let set_back = now < agenda.told_ms;
        agenda.told_ms = now;
        let due = |first: &Reverse<(u64, _)>| first.0.0 <= now || set_back;
        while agenda.timed.peek().is_some_and(due)
            && let Some(Reverse((_, server))) = agenda.timed.pop()
        {
            if let Some(destination) = self.destinations.in_memory(&server) {
                destination.state().timed = false;
                self.destinations.call(&destination);
            }
        }
        if set_back || agenda.next_walk_ms <= now {
            agenda.next_walk_ms = after(now, WALK_EVERY);
            agenda.walk = Some(Walk::default());
        }
        if set_back || agenda.next_rest_ms <= now {
            agenda.next_rest_ms = after(now, REST_EVERY);
            if let Err(error) = self.destinations.let_rest() {
                tracing::warn!(%error, "destinations stay in memory");
            }
        }
    }

    fn walk_on(&self, agenda: &mut Agenda) {
        let Some(walk) = &mut agenda.walk else {
            return;
        };
        let more = self.destinations.walk_on(walk).unwrap_or_else(|error| {
            tracing::warn!(%error, "servers that wait were not looked through");
            false
        });
        if !more {
            agenda.walk = None;
        }
    }

    /// Carries what there is for one destination.
    async fn go(self: Arc<Self>, destination: Arc<Destination>) {
        loop {
            let way = self.ways.of(&destination.state());
            let permit = tokio::select! {
                // Never closed, so there is always a permit to come.
                permit = way.acquire() => permit,
                () = self.ways.stop.cancelled() => return,
            };
            let Some(under_way) = self.ways.set_out() else {
                return;
            };
            let round = self.round(&destination).await;
            drop(under_way);
            drop(permit);
            if round == Round::Again || !self.goes_home(&destination) {
                continue;
            }
            // Later, if there is anything left.
            self.destinations.call(&destination);
            return;
        }
    }

    /// Lets nobody set out any more, and waits so long for those under way and for
    /// the records of what was acknowledged: so that the next start repeats
    /// nothing, unless some server takes longer.
    pub async fn leave(&self, patience: Duration) {
        self.ways.stop.cancel();
        let mut under_way = self.ways.under_way.subscribe();
        let waited = timeout(patience, under_way.wait_for(|count| *count == 0)).await;
        if waited.is_err() {
            let left = *self.ways.under_way.borrow();
            tracing::info!(
                left,
                "transactions under way are repeated at the next start"
            );
        }
    }
}
