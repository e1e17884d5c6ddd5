//! One transaction on its way to one server: put together, carried, and what came
//! of it kept.

use std::sync::Arc;

use log_format::record::input::{Acknowledged, Emitted, InputDelivery};

use super::FederationSender;
use super::back_off::pause;
use super::destination::{Courier, Destination, State, Told};
use super::edus::Edus;
use super::queue;
use super::rows::{self, Queued};
use super::transaction::{Ends, look_up, of_edus, of_events};
use crate::logs::log::PartitionId;
use crate::outbound::answer::RequestError;
use crate::query::rooms::QueryError;
use crate::storage::columns::SENDER_QUEUE;
use crate::storage::overlay::{Overlay, StoreError};
use crate::telemetry::names;

/// How often a transaction is refused for what is in it before it is halved, and
/// one event that is alone in it given up.
const REFUSALS_MAX: u32 = 3;

/// What could not be read or written here; tried again like a failure there.
#[derive(Debug, thiserror::Error)]
pub enum CourierError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Query(#[from] QueryError),
}

/// What one transaction takes out of the queue.
struct Batch {
    partition: PartitionId,
    /// In order, at least one.
    events: Vec<Queued>,
    end: Emitted,
}

/// Whether to go again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// There may be more.
    Again,
    /// Nothing is left.
    Done,
    /// Not before `retry_at_ms`.
    Later,
}

impl FederationSender {
    /// One transaction, if there is anything to send.
    pub(super) async fn round(&self, destination: &Arc<Destination>) -> Round {
        match self.try_round(destination).await {
            Ok(round) => round,
            Err(error) => {
                tracing::error!(server = %destination.name, %error, "transaction not put together");
                self.failed(destination, &error.to_string());
                Round::Later
            }
        }
    }

    async fn try_round(&self, destination: &Arc<Destination>) -> Result<Round, CourierError> {
        let told = {
            let now = self.time.now_ms();
            let mut state = destination.state();
            state.tried_at_ms = now;
            let wait = state.waiting() > 0;
            state.next_told(wait, now)
        };
        if let Some(told) = told {
            return self.try_to_tell(destination, &told).await;
        }
        let Some(batch) = self.next_batch(destination)? else {
            // What was counted to wait was none: what is to be told has its turn.
            let round = match destination.state().is_to_tell() {
                true => Round::Again,
                false => Round::Done,
            };
            return Ok(round);
        };
        self.try_batch(destination, &batch).await
    }

    /// A transaction of events.
    async fn try_batch(
        &self,
        destination: &Arc<Destination>,
        batch: &Batch,
    ) -> Result<Round, CourierError> {
        let pdus = look_up(&*self.ports.rooms, &batch.events)?;
        if pdus.is_empty() {
            // All of it is gone by now; nothing but the queue needs to know.
            self.acknowledged(destination, batch, Taken::Gone).await?;
            return Ok(Round::Again);
        }
        let sent = of_events(self.ends(destination), &batch.events, pdus);
        match self.ports.carrier.carry(&destination.name, &sent).await {
            Ok(refused) => {
                metrics::counter!(names::TRANSACTIONS, "result" => "taken").increment(1);
                for event in refused {
                    tracing::debug!(
                        server = %destination.name, event_id = event.event_id, why = event.why,
                        "event was not wanted"
                    );
                }
                self.acknowledged(destination, batch, Taken::Received)
                    .await?;
                Ok(Round::Again)
            }
            Err(error) if is_about_content(&error) => {
                self.batch_refused(destination, batch, &error).await?;
                Ok(Round::Later)
            }
            Err(error) => Ok(self.not_taken(destination, &error)),
        }
    }

    /// A transaction of what is true for a while.
    async fn try_to_tell(
        &self,
        destination: &Arc<Destination>,
        told: &Told,
    ) -> Result<Round, CourierError> {
        let sent = of_edus(self.ends(destination), &told.edus, told.at_ms);
        match self.ports.carrier.carry(&destination.name, &sent).await {
            Ok(_) => {
                metrics::counter!(names::TRANSACTIONS, "result" => "taken").increment(1);
                self.reached(destination, told);
                Ok(Round::Again)
            }
            Err(error) if is_about_content(&error) => {
                metrics::counter!(names::TRANSACTIONS, "result" => "refused").increment(1);
                // News of the moment, which is not worth a second try.
                tracing::warn!(server = %destination.name, %error, "EDUs refused and dropped");
                destination.state().under_way = None;
                self.failed(destination, &error.to_string());
                Ok(Round::Later)
            }
            Err(error) => Ok(self.not_taken(destination, &error)),
        }
    }

    fn ends<'a>(&'a self, destination: &'a Destination) -> Ends<'a> {
        Ends {
            origin: &self.ports.server_name,
            destination: &destination.name,
        }
    }

    /// The events of the next transaction. What it is made of does not change
    /// once it was tried, nor over a restart: see [`super::destination::Line`].
    fn next_batch(&self, destination: &Arc<Destination>) -> Result<Option<Batch>, CourierError> {
        let turns: Vec<PartitionId> = {
            let state = destination.state();
            let waits = |(_, line): &(&PartitionId, &super::destination::Line)| line.waiting > 0;
            let waiting: Vec<PartitionId> = state
                .lines
                .iter()
                .filter(waits)
                .map(|(partition, _)| *partition)
                .collect();
            // What was not taken is repeated before anything else is tried.
            let is_next = |partition: &&PartitionId| match state.failures {
                0 => **partition > state.turn,
                _ => **partition >= state.turn,
            };
            let next = waiting.iter().filter(is_next);
            let others = waiting.iter().filter(|partition| !is_next(partition));
            next.chain(others).copied().collect()
        };
        for partition in turns {
            let line = *destination.state().line(partition);
            let store = &*self.ports.store;
            let read = |upto| queue::read(store, partition, &destination.name, line.upto, upto);
            let mut events = match line.next {
                Some(next) => read(Some(next))?,
                None => vec![],
            };
            if events.is_empty() {
                events = read(None)?;
                events.truncate(1);
            }
            let mut state = destination.state();
            let Some(end) = events.last().map(|last| last.at) else {
                // Counted twice, or dropped by a purge.
                state.line(partition).waiting = 0;
                continue;
            };
            state.turn = partition;
            state.line(partition).next = Some(end);
            return Ok(Some(Batch {
                partition,
                events,
                end,
            }));
        }
        Ok(None)
    }

    /// Takes a batch out of the queue and settles the next one.
    async fn acknowledged(
        &self,
        destination: &Arc<Destination>,
        batch: &Batch,
        taken: Taken,
    ) -> Result<(), CourierError> {
        let store = &*self.ports.store;
        let mut rows = Overlay::new(store);
        for event in &batch.events {
            let key = rows::queued_key(batch.partition, &destination.name, event.at);
            rows.delete(SENDER_QUEUE, key.as_bytes());
        }
        let (partition, end) = (batch.partition, batch.end);
        let following = queue::read(store, partition, &destination.name, Some(end), None)?;
        let next = following.last().map(|last| last.at);
        let body = {
            let mut state = destination.state();
            let line = state.line(partition);
            line.upto = line.upto.max(Some(end));
            line.next = next;
            line.waiting = line.waiting.saturating_sub(batch.events.len() as u64);
            if next.is_none() {
                line.newest_only = false;
            } else {
                line.waiting = line.waiting.max(following.len() as u64);
            }
            state.told_events = true;
            if taken == Taken::Received {
                succeeded(&mut state, self.time.now_ms());
            }
            InputDelivery {
                acknowledged: vec![Acknowledged {
                    partition,
                    upto: end,
                    next,
                }],
                failures: state.failures,
                retry_at_ms: state.retry_at_ms,
            }
        };
        store.write(rows.into_writes())?;
        // The next transaction goes out once it is durable that it is the next:
        // so a crash repeats one at most. Nobody else waits for this.
        if let Some(durable) = self.record(destination, &body)
            && let Err(error) = durable.await
        {
            tracing::warn!(server = %destination.name, %error, "acknowledgement not recorded");
        }
        Ok(())
    }

    /// What is true for a while was taken.
    fn reached(&self, destination: &Arc<Destination>, told: &Told) {
        let failed_before = {
            let mut state = destination.state();
            let failed_before = state.failures > 0;
            succeeded(&mut state, self.time.now_ms());
            state.under_way = None;
            state.told_events = false;
            if failed_before {
                state.edus.end_typing(&told.edus);
            }
            failed_before
        };
        if failed_before {
            // Dropped: nobody waits until it is durable.
            drop(self.record(
                destination,
                &InputDelivery {
                    acknowledged: vec![],
                    failures: 0,
                    retry_at_ms: 0,
                },
            ));
        }
    }

    /// Whatever is in it, the server did not take it.
    fn not_taken(&self, destination: &Arc<Destination>, error: &RequestError) -> Round {
        tracing::debug!(server = %destination.name, %error, "transaction not taken");
        metrics::counter!(names::TRANSACTIONS, "result" => "failed").increment(1);
        self.failed(destination, &error.to_string());
        Round::Later
    }

    /// The server does not want the events of a transaction: after some times it
    /// is halved, and an event that is alone in it given up.
    async fn batch_refused(
        &self,
        destination: &Arc<Destination>,
        batch: &Batch,
        error: &RequestError,
    ) -> Result<(), CourierError> {
        metrics::counter!(names::TRANSACTIONS, "result" => "refused").increment(1);
        let text = error.to_string();
        let refusals = {
            let mut state = destination.state();
            state.refusals += 1;
            state.refusals
        };
        if refusals >= REFUSALS_MAX {
            match batch.events.get(..batch.events.len() / 2) {
                Some([.., middle]) => {
                    let mut state = destination.state();
                    state.line(batch.partition).next = Some(middle.at);
                }
                _ => {
                    let event = batch.events.first();
                    tracing::error!(
                        server = %destination.name,
                        room_id = event.map(|event| event.room_id.as_str()),
                        event_id = event.map(|event| event.event_id.as_str()),
                        error = text,
                        "event given up: the server refuses every transaction with it"
                    );
                    metrics::counter!(names::EVENTS_GIVEN_UP).increment(1);
                    self.acknowledged(destination, batch, Taken::GivenUp)
                        .await?;
                }
            }
        }
        self.failed(destination, &text);
        Ok(())
    }

    /// Counts a failure, and settles when to try again.
    fn failed(&self, destination: &Arc<Destination>, error: &str) {
        let body = {
            let mut state = destination.state();
            // Refusals are looked into at once: only the first of them count.
            if state.refusals <= REFUSALS_MAX {
                state.failures = state.failures.saturating_add(1);
            }
            let pause = match state.refusals {
                0 => pause(&destination.name, state.failures),
                refusals => pause(&destination.name, refusals.min(REFUSALS_MAX)),
            };
            let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            state.retry_at_ms = self.time.now_ms().saturating_add(pause);
            state.error = Some(error.into());
            state.edus.cut_down();
            if !state.is_told(self.time.now_ms()) {
                // As a crash would have it: whoever is away for hours misses it.
                state.edus = Edus::default();
                state.under_way = None;
            }
            InputDelivery {
                acknowledged: vec![],
                failures: state.failures,
                retry_at_ms: state.retry_at_ms,
            }
        };
        // Dropped: nobody waits until it is durable.
        drop(self.record(destination, &body));
    }

    /// Goes home, unless there was a call in between.
    pub(super) fn goes_home(&self, destination: &Arc<Destination>) -> bool {
        let mut state = destination.state();
        let due = state.is_due(&destination.name, self.time.now_ms());
        let called = state.courier == Courier::OutAndCalled && due;
        state.courier = match called {
            true => Courier::Out,
            false => Courier::Home,
        };
        !called
    }
}

/// Why a batch leaves the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Received,
    /// Nothing of it exists any more.
    Gone,
    /// It is refused again and again.
    GivenUp,
}

fn succeeded(state: &mut State, now_ms: u64) {
    state.failures = 0;
    state.retry_at_ms = 0;
    state.refusals = 0;
    state.succeeded_ms = now_ms;
    state.error = None;
}

/// Whether the server read the transaction and does not want what is in it, as
/// far as a status can tell: the others are about who we are, where we went, or
/// how it fares.
fn is_about_content(error: &RequestError) -> bool {
    let RequestError::Refused(refusal) = error else {
        return false;
    };
    (400..500).contains(&refusal.status)
        && !matches!(
            refusal.status,
            401 | 403 | 404 | 405 | 407 | 408 | 421 | 425 | 429
        )
}
