//! Does aside the work for which rooms wait, and appends that it is done.
//!
//! A room whose next decision takes long is parked by the room server, which
//! makes no record itself. This executor asks for the work through the query
//! window, on a thread that may block, and appends the record at whose fold the
//! room goes on. After a restart it finds what waits and does it again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use log_format::codec;
use log_format::record::input::InputRoomResumed;
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::OwnedRoomId;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use super::submit::{SubmitError, Submitter};
use crate::clock;
use crate::logs::log::{AppendError, NewRecord};
use crate::query::parked::{ParkedRoom, ParkedWork};
use crate::query::rooms::QueryError;
use crate::telemetry::names;

/// Rooms that are worked on at a time: each takes a thread and memory, and what
/// serves the other rooms needs its share of the cores.
const ROOMS_AT_ONCE: usize = 2;
/// How long it waits after a failure that may pass, a full disk for instance.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a room could not go on yet.
#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error("the work panicked")]
    Panicked,
}

/// See the module.
pub struct RoomWork {
    work: Arc<dyn ParkedWork>,
    submitter: Submitter,
}

impl RoomWork {
    pub fn new(work: Arc<dyn ParkedWork>, submitter: Submitter) -> RoomWork {
        RoomWork { work, submitter }
    }

    /// Runs until it is dropped, or until nothing more is accepted.
    pub async fn run(self) {
        let this = Arc::new(self);
        let permits = Arc::new(Semaphore::new(ROOMS_AT_ONCE));
        let mut changed = this.work.parked_changed();
        let mut running: BTreeSet<OwnedRoomId> = BTreeSet::new();
        let mut tasks: JoinSet<(OwnedRoomId, bool)> = JoinSet::new();
        loop {
            changed.borrow_and_update();
            let parked = match this.work.parked() {
                Ok(parked) => parked,
                Err(error) => {
                    tracing::error!(%error, "rooms that wait could not be listed");
                    tokio::time::sleep(RETRY_AFTER).await;
                    continue;
                }
            };
            metrics::gauge!(names::ROOMS_PARKED).set(parked.len() as f64);
            for room in parked {
                if running.insert(room.room_id.clone()) {
                    let (this, permits) = (this.clone(), permits.clone());
                    tasks.spawn(async move {
                        // The semaphore is never closed.
                        let _permit = permits.acquire().await;
                        let goes_on = this.work_on(&room).await;
                        (room.room_id, goes_on)
                    });
                }
            }
            tokio::select! {
                more = changed.changed() => {
                    if more.is_err() {
                        return;
                    }
                }
                Some(done) = tasks.join_next() => {
                    match done {
                        // Its next work, if it waits again, is found in the list.
                        Ok((room_id, true)) => drop(running.remove(&room_id)),
                        Ok((_, false)) => return,
                        Err(error) => tracing::error!(%error, "work for a room panicked"),
                    }
                }
            }
        }
    }

    /// Works for one room until that is done; false if nothing more is accepted.
    async fn work_on(&self, room: &ParkedRoom) -> bool {
        loop {
            match self.try_work(room).await {
                Ok(()) => return true,
                Err(WorkError::Submit(
                    SubmitError::Append(AppendError::Closed) | SubmitError::Outcome(_),
                )) => return false,
                Err(error) => {
                    tracing::error!(room_id = %room.room_id, %error, "room waits for its work");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    async fn try_work(&self, room: &ParkedRoom) -> Result<(), WorkError> {
        let (work, parked) = (self.work.clone(), room.clone());
        let prepared = spawn_blocking(move || work.prepare(&parked.room_id, parked.cause)).await;
        let Some(done) = prepared.map_err(|_| WorkError::Panicked)?? else {
            return Ok(());
        };
        let body = codec::encode(&InputRoomResumed {
            cause: room.cause,
            digest: done.digest,
            projector_version: done.projector_version,
        });
        let envelope = NewEnvelope {
            received_us: clock::now_us(),
            key: room.room_id.as_str(),
            room_id: Some(room.room_id.as_str()),
            body: &body,
            ..NewEnvelope::default()
        };
        let record = NewRecord::new(Kind::InputRoomResumed, Source::Internal, &envelope);
        let submitted = self.submitter.submit(room.room_id.as_str(), vec![record]);
        submitted.await?;
        metrics::counter!(names::ROOM_WORK).increment(1);
        Ok(())
    }
}
