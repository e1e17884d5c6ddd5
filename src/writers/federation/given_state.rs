//! A room's past as another server tells it: events without a place in the
//! graph, and states before events whose history we lack.
//!
//! A state is many records: its events first, each behind what authorises it,
//! then *begin*, chunks of ids, and *commit*, at which it counts. Events are
//! held as the bytes that came and taken up some hundreds at a time, so that a
//! large room is never in memory as a tree of values.

mod order;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use log_format::codec;
use log_format::record::input::{
    GivenState, InputStateAbandoned, InputStateBegin, InputStateChunk, InputStateCommit, Placement,
};
use log_format::record::output::Reason;
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::{EventId, OwnedEventId, RoomId, ServerName};
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::Instant;

use self::order::{Order, Roots};
use super::past::is_known;
use super::pdu_checks::PduChecks;
use crate::clock::now_us;
use crate::crypto::random;
use crate::logs::log::NewRecord;
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::{Numbers, parse_object_with};
use crate::query::begun_states::BegunState;
use crate::query::rooms::{QueryError, Rooms};
use crate::writers::submit::{PendingSubmit, SubmitError, Submitted, Submitter};

/// Events that are checked and appended at a time.
const BATCH_EVENTS: usize = 200;
/// The same in bytes as they came.
const BATCH_BYTES: usize = 1024 * 1024;
/// Ids of one chunk in bytes; a record may have 1 MiB.
const CHUNK_BYTES: usize = 512 * 1024;
/// Of a state so many parts may be missing, and the rest counts all the same:
/// old rooms have events that nobody can verify any more.
const MISSING_PART: usize = 10;
/// And so many of the state of a room that is joined, however small: it is not
/// lost for one event that its server signed badly. The join itself says whether
/// what counts is there.
const MISSING_FEW: usize = 3;
/// How often the progress of a large room is told, in events.
const PROGRESS_EVENTS: usize = 5_000;
/// How long what was appended may take to be folded.
const FOLD_MAX: Duration = Duration::from_secs(60);
/// Look-ups between which others get a turn.
const LOOKUPS_AT_A_TIME: usize = 256;

/// Why a past is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum GivenStateError {
    #[error("{missing} of the {of} events of the state cannot be had")]
    Incomplete { missing: usize, of: usize },
    /// The fold does not take the state.
    #[error("the state is refused: {0:?}")]
    Refused(Reason),
    /// The room waits for work that is done aside.
    #[error("the room is busy")]
    Parked,
    #[error("reading the events panicked")]
    Panicked,
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Query(#[from] QueryError),
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct GivenStates {
    checks: PduChecks,
    rooms: Arc<dyn Rooms>,
    submitter: Submitter,
}

impl GivenStates {
    pub fn new(checks: PduChecks, rooms: Arc<dyn Rooms>, submitter: Submitter) -> GivenStates {
        GivenStates {
            checks,
            rooms,
            submitter,
        }
    }

    /// Checks events of one room and appends them as outliers, each behind what
    /// authorises it, in whatever order they came. Of a room that is not known
    /// its create event must be among them, and makes it known from outside.
    ///
    /// Answers the id of each event, in the order given; none for what is no
    /// event of the room or does not pass the checks. They are folded by then.
    pub async fn append_outliers(
        &self,
        room: &RoomId,
        version: RoomVersion,
        from: &ServerName,
        events: Vec<Bytes>,
    ) -> Result<Vec<Option<OwnedEventId>>, GivenStateError> {
        self.append_ordered(room, version, from, events, None).await
    }

    /// [`GivenStates::append_outliers`] of a state and what authorises it and an
    /// event that cites `cited`; other events among them are left out. The ids
    /// of the state's events that are here now.
    pub async fn append_state(
        &self,
        room: &RoomId,
        version: RoomVersion,
        from: &ServerName,
        (mut state, auth_chain): (Vec<Bytes>, Vec<Bytes>),
        cited: &[OwnedEventId],
    ) -> Result<Vec<OwnedEventId>, GivenStateError> {
        let count = state.len();
        state.extend(auth_chain);
        let roots = (count, cited.to_vec());
        let ids = self.append_ordered(room, version, from, state, Some(roots));
        let mut ids = ids.await?;
        ids.truncate(count);
        let missing = ids.iter().filter(|id| id.is_none()).count();
        if missing > (count / MISSING_PART).max(MISSING_FEW) {
            return Err(GivenStateError::Incomplete { missing, of: count });
        }
        Ok(ids.into_iter().flatten().collect())
    }

    async fn append_ordered(
        &self,
        room: &RoomId,
        version: RoomVersion,
        from: &ServerName,
        events: Vec<Bytes>,
        roots: Option<(usize, Vec<OwnedEventId>)>,
    ) -> Result<Vec<Option<OwnedEventId>>, GivenStateError> {
        let order = {
            let room = room.to_owned();
            let read = spawn_blocking(move || {
                let roots = roots.as_ref().map(|(first, cited)| Roots {
                    first: *first,
                    cited,
                });
                let order = Order::of(version, &room, &events, roots);
                (order, events)
            });
            read.await.map_err(|_| GivenStateError::Panicked)?
        };
        let (order, events) = order;
        let mut ids = order.ids;
        let mut pending: Option<PendingSubmit> = None;
        let mut batch: Vec<usize> = Vec::new();
        let mut bytes = 0;
        let of = order.authorities_first.len();
        for (done, index) in order.authorities_first.into_iter().enumerate() {
            if done > 0 && done % PROGRESS_EVENTS == 0 {
                tracing::info!(%room, done, of, "events of a large room are checked and appended");
            }
            if done % LOOKUPS_AT_A_TIME == 0 {
                yield_now().await;
            }
            if let (Some(Some(id)), Some(event)) = (ids.get(index), events.get(index))
                && !is_known(&*self.rooms, room, id)?
            {
                batch.push(index);
                bytes += event.len();
            }
            if batch.len() >= BATCH_EVENTS || bytes >= BATCH_BYTES {
                let batch = std::mem::take(&mut batch);
                bytes = 0;
                self.append(
                    room,
                    version,
                    from,
                    (&events, &mut ids),
                    batch,
                    &mut pending,
                )
                .await?;
            }
        }
        self.append(
            room,
            version,
            from,
            (&events, &mut ids),
            batch,
            &mut pending,
        )
        .await?;
        if let Some(last) = pending {
            let durable = last.durable().await?;
            let folded = durable.outcome_by(Instant::now() + FOLD_MAX).await?;
            folded.ok_or(GivenStateError::Parked)?;
        }
        Ok(ids)
    }

    /// Checks some of the events and queues their records, behind those that are
    /// `pending`. Ids of what does not pass the checks are taken away.
    async fn append(
        &self,
        room: &RoomId,
        version: RoomVersion,
        from: &ServerName,
        (events, ids): (&[Bytes], &mut [Option<OwnedEventId>]),
        batch: Vec<usize>,
        pending: &mut Option<PendingSubmit>,
    ) -> Result<(), GivenStateError> {
        let parsed = batch.iter().map(|index| {
            let event = events.get(*index).map_or(&[][..], |event| event);
            // It was parsed before, for its place in the order.
            parse_object_with(event, Numbers::Kept).unwrap_or_default()
        });
        let checked = self.checks.check_all(version, parsed.collect()).await;
        let mut records = Vec::with_capacity(batch.len());
        for (index, checked) in batch.into_iter().zip(checked) {
            match checked {
                Ok(event) => {
                    records.push(event.record(Placement::Outlier, Source::Federation, from));
                }
                Err(refusal) => {
                    if let Some(id) = ids.get_mut(index).and_then(Option::take) {
                        tracing::debug!(%id, %refusal, "event of a given past is dropped");
                    }
                }
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        // One batch is on its way while the next is verified, and no more: what
        // is queued is in memory.
        if let Some(before) = pending.take() {
            before.durable().await?;
        }
        *pending = Some(self.submitter.enqueue(room.as_str(), records)?);
        Ok(())
    }

    /// Gives the state before an event, whose events were appended before. It
    /// counts once this returns. Nothing is given to an event that is accepted
    /// already.
    pub async fn give(
        &self,
        room: &RoomId,
        event: &EventId,
        state: &[OwnedEventId],
    ) -> Result<(), GivenStateError> {
        let known = self.known(room, event, state).await?;
        let given: GivenState = random::bytes();
        let committed = self.commit(room, event, given, known).await;
        match committed {
            // The event was accepted while its state was fetched.
            Ok(()) | Err(SubmitError::Refused(Reason::Taken)) => Ok(()),
            Err(SubmitError::Refused(reason)) => Err(GivenStateError::Refused(reason)),
            Err(error) => {
                // If this fails as well, the next start does it.
                let _ = self.abandon(room, given);
                Err(error.into())
            }
        }
    }

    /// Gives the state before an event and appends the event, as one batch of the
    /// log: a crash leaves both or nothing. Answers what became of the event.
    pub async fn give_and_append(
        &self,
        room: &RoomId,
        event: &EventId,
        state: &[OwnedEventId],
        appended: NewRecord,
    ) -> Result<Submitted, GivenStateError> {
        let known = self.known(room, event, state).await?;
        let given: GivenState = random::bytes();
        let mut batch = vec![begin(room, event, given)];
        for event_ids in chunks(known) {
            let body = codec::encode(&InputStateChunk { given, event_ids });
            batch.push(record(room, Kind::InputStateChunk, &body));
        }
        let commit = codec::encode(&InputStateCommit { given });
        batch.push(record(room, Kind::InputStateCommit, &commit));
        batch.push(appended);
        let submitted = self.submitter.submit(room.as_str(), batch).await;
        submitted.map_err(|error| match error {
            SubmitError::Refused(reason) => GivenStateError::Refused(reason),
            error => error.into(),
        })
    }

    /// Those of a state's events that are here; few may be missing.
    async fn known(
        &self,
        room: &RoomId,
        event: &EventId,
        state: &[OwnedEventId],
    ) -> Result<Vec<String>, GivenStateError> {
        let mut known: Vec<String> = Vec::with_capacity(state.len());
        for (done, id) in state.iter().enumerate() {
            if done % LOOKUPS_AT_A_TIME == 0 {
                yield_now().await;
            }
            if is_known(&*self.rooms, room, id)? {
                known.push(id.to_string());
            }
        }
        let missing = state.len() - known.len();
        if missing > state.len() / MISSING_PART {
            let of = state.len();
            return Err(GivenStateError::Incomplete { missing, of });
        }
        if missing > 0 {
            tracing::warn!(%room, %event, missing, of = state.len(), "a state is given in part");
        }
        Ok(known)
    }

    async fn commit(
        &self,
        room: &RoomId,
        event: &EventId,
        given: GivenState,
        ids: Vec<String>,
    ) -> Result<(), SubmitError> {
        let begin = begin(room, event, given);
        self.submitter.submit(room.as_str(), vec![begin]).await?;
        for event_ids in chunks(ids) {
            self.chunk(room, given, event_ids).await?;
        }
        let commit = codec::encode(&InputStateCommit { given });
        let commit = record(room, Kind::InputStateCommit, &commit);
        self.submitter.submit(room.as_str(), vec![commit]).await?;
        Ok(())
    }

    async fn chunk(
        &self,
        room: &RoomId,
        given: GivenState,
        event_ids: Vec<String>,
    ) -> Result<(), SubmitError> {
        let body = codec::encode(&InputStateChunk { given, event_ids });
        let chunk = record(room, Kind::InputStateChunk, &body);
        self.submitter.submit(room.as_str(), vec![chunk]).await?;
        Ok(())
    }

    /// Drops a given state that will never be complete.
    fn abandon(&self, room: &RoomId, given: GivenState) -> Result<PendingSubmit, SubmitError> {
        let body = codec::encode(&InputStateAbandoned { given });
        let abandoned = record(room, Kind::InputStateAbandoned, &body);
        self.submitter.enqueue(room.as_str(), vec![abandoned])
    }

    /// Drops what the process before began and did not complete: `begun` is what
    /// there was before this one wrote anything.
    pub async fn close(&self, begun: Vec<BegunState>) -> Result<(), SubmitError> {
        for BegunState { room_id, given } in begun {
            tracing::info!(%room_id, "a state that was not given whole is dropped");
            self.abandon(&room_id, given)?.durable().await?;
        }
        Ok(())
    }
}

fn begin(room: &RoomId, event: &EventId, given: GivenState) -> NewRecord {
    let body = codec::encode(&InputStateBegin {
        given,
        event_id: event.to_string(),
    });
    record(room, Kind::InputStateBegin, &body)
}

/// Ids in lists that fit into a record each; at least one, if an empty one.
fn chunks(ids: Vec<String>) -> Vec<Vec<String>> {
    let mut chunks = vec![Vec::new()];
    let mut bytes = 0;
    for id in ids {
        bytes += id.len();
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(id);
        }
        if bytes >= CHUNK_BYTES {
            chunks.push(Vec::new());
            bytes = 0;
        }
    }
    chunks
}

fn record(room: &RoomId, kind: Kind, body: &[u8]) -> NewRecord {
    let envelope = NewEnvelope {
        received_us: now_us(),
        key: room.as_str(),
        room_id: Some(room.as_str()),
        body,
        ..NewEnvelope::default()
    };
    NewRecord::new(kind, Source::Federation, &envelope)
}
