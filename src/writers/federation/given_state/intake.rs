//! Events of one room that another server tells, taken in while they come: each
//! is read, waits for what authorises it, is checked, and becomes an outlier of
//! the log. What is held is what waits, one batch that is checked, and one that is
//! on its way to the log.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use log_format::record::Source;
use log_format::record::input::Placement;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::order::{Number, Order};
use super::{GivenStateError, GivenStates};
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::{Numbers, parse_object_with};
use crate::matrix::event::Pdu;
use crate::outbound::answer::RequestError;
use crate::outbound::federation::state_answer::{Part, StateAnswer};
use crate::query::rooms::QueryError;
use crate::writers::federation::past::is_known;
use crate::writers::federation::pdu_checks::on_threads;
use crate::writers::submit::PendingSubmit;

/// Events that are checked and appended at a time.
pub(super) const BATCH_EVENTS: usize = 200;
/// The same in bytes as they came.
const BATCH_BYTES: usize = 1024 * 1024;
/// How often the progress of a large room is told, in events.
const PROGRESS_EVENTS: usize = 5_000;
/// How long what was appended may take to be folded.
const FOLD_MAX: Duration = Duration::from_secs(60);

/// Bytes of events that wait for others, of all rooms that are taken in at a time:
/// some of the largest answers that there may be. What comes beyond is refused, so
/// that rooms which are made up for it do not take all memory.
const HELD_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Events between which others get a turn: each is looked up with its authorities.
const ARRIVALS_AT_A_TIME: usize = 50;

/// Why an answer is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Given(#[from] GivenStateError),
}

/// What was taken in of a state.
#[derive(Debug)]
pub struct TakenIn {
    /// The ids of the state's events that are here now.
    pub state: Vec<OwnedEventId>,
    /// Events of it that are none, or did not pass their checks.
    pub missing: usize,
    /// Events that it had as it came.
    pub of: usize,
}

/// See the module.
pub struct Intake<'g> {
    given: &'g GivenStates,
    room: OwnedRoomId,
    version: RoomVersion,
    from: OwnedServerName,
    order: Order,
    /// Events of the state, in the order in which they came; none for what is no
    /// event of the room.
    state: Vec<Option<Number>>,
    /// What did not pass its checks, by number.
    refused: HashSet<Number>,
    batch: Vec<(Number, Bytes)>,
    batch_bytes: usize,
    pending: Option<PendingSubmit>,
    held: Held,
    /// Events that came, and events that went on.
    came: usize,
    done: usize,
}

impl GivenStates {
    /// Begins to take in events of a room as `from` tells them. Of a room that is
    /// not known its create event must be among them, and makes it known from
    /// outside.
    pub fn intake(
        &self,
        room: &RoomId,
        version: RoomVersion,
        from: &ServerName,
    ) -> Result<Intake<'_>, QueryError> {
        Ok(Intake {
            given: self,
            room: room.to_owned(),
            version,
            from: from.to_owned(),
            order: Order::new(self.rooms.head(room)?.is_some()),
            state: Vec::new(),
            refused: HashSet::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            pending: None,
            held: Held::new(self.held.clone()),
            came: 0,
            done: 0,
        })
    }
}

impl Intake<'_> {
    /// Events are wanted beside those of the state: what something else cites.
    pub fn want(&mut self, ids: &[OwnedEventId]) -> Result<(), GivenStateError> {
        for id in ids {
            let number = self.number(id)?;
            self.order.want(number);
        }
        Ok(())
    }

    /// Takes a whole answer in. The next events come while some are checked.
    pub async fn take(&mut self, answer: &mut StateAnswer<'_>) -> Result<(), IntakeError> {
        let mut events = answer.some(BATCH_EVENTS, BATCH_BYTES).await?;
        while !events.is_empty() {
            let told = self.came / PROGRESS_EVENTS;
            let next = answer.some(BATCH_EVENTS, BATCH_BYTES);
            let (next, added) = tokio::join!(next, self.add(events));
            added?;
            events = next?;
            if self.came / PROGRESS_EVENTS > told {
                tracing::info!(
                    room = %self.room, server = %self.from, events = self.came,
                    appended = self.done, held_bytes = self.order.held_bytes(),
                    bytes = answer.bytes(), percent = answer.percent(),
                    "the state of a large room comes"
                );
            }
        }
        Ok(())
    }

    /// Takes some events in.
    pub async fn add(&mut self, events: Vec<(Part, Bytes)>) -> Result<(), GivenStateError> {
        let (room, version) = (self.room.clone(), self.version);
        self.came += events.len();
        let read = on_threads(events, move |(part, json)| {
            (part, read(version, &room, json))
        });
        let read = read.await.map_err(|_| GivenStateError::Panicked)?;
        for (index, (part, arrived)) in read.into_iter().enumerate() {
            if index % ARRIVALS_AT_A_TIME == 0 {
                yield_now().await;
            }
            let number = match arrived {
                Some(arrived) => Some(self.arrive(arrived)?),
                None => None,
            };
            if part == Part::State {
                self.state.push(number);
                if let Some(number) = number {
                    self.order.want(number);
                }
            }
        }
        self.go_on().await?;
        self.held.set(self.order.held_bytes())
    }

    fn arrive(&mut self, arrived: Arrived) -> Result<Number, GivenStateError> {
        let number = self.number(&arrived.id)?;
        let authorities = arrived.authorities.iter().map(|id| self.number(id));
        let authorities = authorities.collect::<Result<Vec<_>, _>>()?;
        // What it is must be known before any of it is read: it is another room.
        if let Some(named) = arrived.creates.as_ref()
            && *named != self.version.as_str()
        {
            return Err(GivenStateError::OtherVersion(named.clone()));
        }
        let is_create = arrived.creates.is_some();
        self.order
            .add(number, &authorities, is_create, arrived.json);
        Ok(number)
    }

    fn number(&mut self, id: &OwnedEventId) -> Result<Number, GivenStateError> {
        let (number, is_new) = self.order.number(id)?;
        if is_new && is_known(&*self.given.rooms, &self.room, id)? {
            self.order.is_here(number);
        }
        Ok(number)
    }

    /// Events that came so far.
    pub fn came(&self) -> usize {
        self.came
    }

    pub fn room(&self) -> &RoomId {
        &self.room
    }

    pub fn version(&self) -> RoomVersion {
        self.version
    }

    /// What something wanted leads to and did not come.
    pub fn absent(&self) -> Vec<OwnedEventId> {
        self.order.absent()
    }

    /// Some of those that wait for one of the events.
    pub fn that_wait_for(&self, ids: &[OwnedEventId], count: usize) -> Vec<OwnedEventId> {
        self.order.that_wait_for(ids, count)
    }

    /// Nothing more comes. All events are folded afterwards.
    pub async fn finish(mut self) -> Result<TakenIn, GivenStateError> {
        self.order.close();
        self.go_on().await?;
        while self.order.cut() {
            self.go_on().await?;
        }
        self.append().await?;
        if let Some(last) = self.pending.take() {
            let durable = last.durable().await?;
            let folded = durable.outcome_by(Instant::now() + FOLD_MAX).await?;
            folded.ok_or(GivenStateError::Parked)?;
        }
        let mut ids = self.order.into_ids();
        let of = self.state.len();
        let is_good = |number: &Number| !self.refused.contains(number);
        let numbers: Vec<_> = self.state.iter().flatten().filter(|n| is_good(n)).collect();
        let missing = of - numbers.len();
        // Each once, should it have come twice.
        let state = numbers.into_iter();
        let state = state.filter_map(|number| ids.get_mut(*number as usize)?.take());
        Ok(TakenIn {
            state: state.collect(),
            missing,
            of,
        })
    }

    /// Checks and appends whole batches of what waits for nothing.
    async fn go_on(&mut self) -> Result<(), GivenStateError> {
        while let Some((number, json)) = self.order.pop() {
            self.batch_bytes += json.len();
            self.batch.push((number, json));
            if self.batch.len() >= BATCH_EVENTS || self.batch_bytes >= BATCH_BYTES {
                self.append().await?;
                yield_now().await;
            }
        }
        Ok(())
    }

    /// Checks the events of the batch and queues their records behind those that
    /// are on their way.
    async fn append(&mut self) -> Result<(), GivenStateError> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.done += batch.len();
        let (numbers, events): (Vec<Number>, Vec<Bytes>) = batch.into_iter().unzip();
        let checked = self.given.checks.check_raw(self.version, events).await;
        let mut records = Vec::with_capacity(numbers.len());
        for (number, checked) in numbers.into_iter().zip(checked) {
            match checked {
                Ok(event) => {
                    let (source, from) = (Source::Federation, &*self.from);
                    records.push(event.record(Placement::Outlier, source, from));
                }
                Err(refusal) => {
                    tracing::debug!(room = %self.room, %refusal, "event of a given past is dropped");
                    self.refused.insert(number);
                }
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        // One batch is on its way while the next is verified, and no more: what
        // is queued is in memory.
        if let Some(before) = self.pending.take() {
            before.durable().await?;
        }
        let submitter = &self.given.submitter;
        self.pending = Some(submitter.enqueue(self.room.as_str(), records)?);
        Ok(())
    }
}

/// What an intake holds, counted among all of them.
struct Held {
    all: Arc<AtomicUsize>,
    own: usize,
}

impl Held {
    fn new(all: Arc<AtomicUsize>) -> Held {
        Held { all, own: 0 }
    }

    fn set(&mut self, bytes: usize) -> Result<(), GivenStateError> {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
        let others = self.all.fetch_add(bytes, Ordering::Relaxed);
        self.own = bytes;
        match others.saturating_add(bytes) > HELD_BYTES_MAX {
            true => Err(GivenStateError::Full),
            false => Ok(()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// An event that came.
struct Arrived {
    id: OwnedEventId,
    authorities: Vec<OwnedEventId>,
    /// Of a create event: the version that it names.
    creates: Option<String>,
    /// As it came.
    json: Bytes,
}

/// An event of the room; none if it is none.
fn read(version: RoomVersion, room: &RoomId, json: Bytes) -> Option<Arrived> {
    let object = parse_object_with(&json, Numbers::Kept).ok()?;
    let pdu = Pdu::from_object(version, object).ok()?;
    (pdu.room_id == room).then(|| Arrived {
        creates: (&*pdu.kind == "m.room.create").then(|| version_named(&pdu)),
        id: pdu.event_id,
        authorities: pdu.auth_events,
        json,
    })
}

/// Source: client-server API, `m.room.create`: without a version it is 1.
fn version_named(create: &Pdu) -> String {
    create.content_str("room_version").unwrap_or("1").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_intakes_share_what_may_be_held() {
        let all = Arc::new(AtomicUsize::new(0));
        let (mut one, mut other) = (Held::new(all.clone()), Held::new(all.clone()));
        assert!(one.set(HELD_BYTES_MAX).is_ok());
        assert!(matches!(other.set(1), Err(GivenStateError::Full)));
        assert!(one.set(HELD_BYTES_MAX - 1).is_ok() && other.set(1).is_ok());
        drop(one);
        assert!(other.set(HELD_BYTES_MAX).is_ok());
        drop(other);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
