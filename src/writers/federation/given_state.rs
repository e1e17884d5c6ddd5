//! A room's past as another server tells it: events without a place in the
//! graph, and states before events whose history we lack.
//!
//! A state is many records: its events first, each behind what authorises it,
//! then *begin*, chunks of ids, and *commit*, at which it counts. Events are
//! taken in while they come ([`intake`]), in an order of ours ([`order`]), so that
//! a large room is never in memory as a whole.

pub mod intake;
mod order;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use log_format::codec;
use log_format::record::input::{
    GivenState, InputStateAbandoned, InputStateBegin, InputStateChunk, InputStateCommit,
};
use log_format::record::output::Reason;
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::{EventId, OwnedEventId, RoomId, ServerName};
use tokio::task::yield_now;

use self::intake::TakenIn;
use self::order::TooMany;
use super::past::is_known;
use super::pdu_checks::PduChecks;
use crate::clock::now_us;
use crate::crypto::random;
use crate::logs::log::NewRecord;
use crate::matrix::RoomVersion;
use crate::outbound::federation::state_answer::Part;
use crate::query::begun_states::BegunState;
use crate::query::rooms::{QueryError, Rooms};
use crate::writers::submit::{PendingSubmit, SubmitError, Submitted, Submitter};

/// Ids of one chunk in bytes; a record may have 1 MiB.
const CHUNK_BYTES: usize = 512 * 1024;
/// Of a state so many parts may be missing, and the rest counts all the same:
/// old rooms have events that nobody can verify any more.
const MISSING_PART: usize = 10;
/// And so many of the state of a room that is joined, however small: it is not
/// lost for one event that its server signed badly. The join itself says whether
/// what counts is there.
const MISSING_FEW: usize = 3;
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
    /// Its create event names another one than we were told before.
    #[error("the room's version is {0:?}")]
    OtherVersion(String),
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// Too many events that wait are in memory, of all rooms.
    #[error("too much is taken in at a time")]
    Full,
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
    /// Bytes of events that all intakes hold.
    held: Arc<AtomicUsize>,
}

impl GivenStates {
    pub fn new(checks: PduChecks, rooms: Arc<dyn Rooms>, submitter: Submitter) -> GivenStates {
        GivenStates {
            checks,
            rooms,
            submitter,
            held: Arc::default(),
        }
    }

    /// Checks events of one room and appends them as outliers, each behind what
    /// authorises it, in whatever order they came; what does not pass the checks
    /// is left out. They are folded by then.
    pub async fn append_outliers(
        &self,
        room: &RoomId,
        version: RoomVersion,
        from: &ServerName,
        events: Vec<Bytes>,
    ) -> Result<(), GivenStateError> {
        let mut intake = self.intake(room, version, from)?;
        let mut events = events.into_iter().map(|event| (Part::State, event));
        loop {
            let some: Vec<_> = events.by_ref().take(intake::BATCH_EVENTS).collect();
            if some.is_empty() {
                break;
            }
            intake.add(some).await?;
        }
        intake.finish().await.map(drop)
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

/// The ids of a room's state that is to be joined, if enough of it is here.
pub fn enough_to_join(taken: TakenIn) -> Result<Vec<OwnedEventId>, GivenStateError> {
    let TakenIn { state, missing, of } = taken;
    match missing > (of / MISSING_PART).max(MISSING_FEW) {
        true => Err(GivenStateError::Incomplete { missing, of }),
        false => Ok(state),
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
