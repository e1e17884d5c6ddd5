//! One transaction on its way to one server: put together, carried, and what came
//! of it kept.

use std::sync::Arc;

use log_format::record::input::{Acknowledged, Emitted, InputDelivery};

use super::FederationSender;
use super::back_off::pause;
use super::destination::{Courier, Destination, State};
use super::edus::Edus;
use super::queue;
use super::rows::{self, Queued};
use super::transaction::{look_up, transaction};
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
        let batch = self.next_batch(destination)?;
        let (edus, repeats) = {
            let mut state = destination.state();
            // What was told with the first attempt may have arrived: a repeat has
            // the events alone.
            let repeats = batch.is_some() && state.failures > 0;
            let edus = match repeats {
                true => Edus::default(),
                false => state.edus.take(),
            };
            state.tried_at_ms = self.time.now_ms();
            (edus, repeats)
        };
        let events = batch.as_ref().map_or(&[][..], |batch| &batch.events);
        let pdus = look_up(&*self.ports.rooms, events)?;
        if pdus.is_empty() && edus.is_empty() {
            let Some(batch) = batch else {
                return Ok(Round::Done);
            };
            // All of it is gone by now; nothing but the queue needs to know.
            self.acknowledged(destination, &batch, Taken::Gone).await?;
            return Ok(Round::Again);
        }
        let (ours, now) = (&self.ports.server_name, self.time.now_ms());
        let sent = transaction(ours, &destination.name, pdus, &edus, now);
        metrics::gauge!(names::TRANSACTIONS_IN_FLIGHT).increment(1);
        let under_way = InFlight;
        let carried = self.ports.carrier.carry(&destination.name, &sent).await;
        drop(under_way);
        match carried {
            Ok(refused) => {
                metrics::counter!(names::TRANSACTIONS, "result" => "taken").increment(1);
                for event in refused {
                    tracing::debug!(
                        server = %destination.name, event_id = event.event_id, why = event.why,
                        "event was not wanted"
                    );
                }
                match &batch {
                    Some(batch) => {
                        self.acknowledged(destination, batch, Taken::Received)
                            .await?;
                    }
                    None => self.reached(destination),
                }
                Ok(Round::Again)
            }
            Err(error) => {
                tracing::debug!(server = %destination.name, %error, repeats, "transaction not taken");
                self.not_taken(destination, batch.as_ref(), edus, &error)
                    .await
            }
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
            let behind = waiting.iter().filter(|partition| **partition > state.turn);
            let before = waiting.iter().filter(|partition| **partition <= state.turn);
            behind.chain(before).copied().collect()
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

    /// Something was taken that is not in the queue.
    fn reached(&self, destination: &Arc<Destination>) {
        let failed_before = {
            let mut state = destination.state();
            let failed_before = state.failures > 0;
            succeeded(&mut state, self.time.now_ms());
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

    async fn not_taken(
        &self,
        destination: &Arc<Destination>,
        batch: Option<&Batch>,
        edus: Edus,
        error: &RequestError,
    ) -> Result<Round, CourierError> {
        let text = error.to_string();
        if !is_about_content(error) {
            metrics::counter!(names::TRANSACTIONS, "result" => "failed").increment(1);
            destination.state().edus.put_back(edus);
            self.failed(destination, &text);
            return Ok(Round::Later);
        }
        metrics::counter!(names::TRANSACTIONS, "result" => "refused").increment(1);
        let Some(batch) = batch else {
            // Nothing but news of the moment, which is not worth a second try.
            tracing::warn!(server = %destination.name, error = text, "EDUs refused and dropped");
            self.failed(destination, &text);
            return Ok(Round::Later);
        };
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
        Ok(Round::Later)
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
            state.edus.drop_typing();
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

/// Counts itself out, also when its task is stopped.
struct InFlight;

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::gauge!(names::TRANSACTIONS_IN_FLIGHT).decrement(1);
    }
}
