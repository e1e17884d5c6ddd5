//! What servers ask of the rooms that they share with us (server-server API,
//! *Retrieving event authorisation information*, *Backfilling and retrieving
//! missing events*, *Retrieving events*).
//!
//! In which form they get an event is decided in one place,
//! [`crate::query::served`].

pub mod events;
pub mod states;
pub mod timestamps;
pub mod walks;

use std::sync::Arc;

use ruma::{EventId, RoomId, ServerName};
use tokio::sync::SemaphorePermit;
use tokio::task::spawn_blocking;

use super::pdus::Form;
use crate::api::errors::ApiError;
use crate::api::rate_limit::Limit;
use crate::api::{Api, ApiState};
use crate::query::ids::StateId;
use crate::query::rooms::{RoomHead, StoredEvent};
use crate::query::served::ServerView;

/// What a server is told of a room that it is not in, whether we know it or not.
const NOT_IN_ROOM: ApiError = ApiError::Forbidden("The server is not in the room");
const DENIED: ApiError = ApiError::Forbidden("The server is excluded from the room");
const UNKNOWN_EVENT: ApiError = ApiError::NotFound("Unknown event");

/// A room, for a server that is in it.
fn open(api: &Api, origin: &ServerName, room: &RoomId) -> Result<Arc<RoomHead>, ApiError> {
    api.rate_limits.check(Limit::History, origin.as_str())?;
    let head = api.rooms.head(room)?.ok_or(NOT_IN_ROOM)?;
    if !api.acls.allows(&head, origin)? {
        return Err(DENIED);
    }
    match head.is_resident(origin) {
        true => Ok(head),
        false => Err(NOT_IN_ROOM),
    }
}

/// An event whose place in the graph is known, with the states before and after it.
fn placed(api: &Api, room: &RoomId, event: &EventId) -> Result<Arc<StoredEvent>, ApiError> {
    let found = api.rooms.event(room, event)?;
    let found = found.filter(|found| is_placed(found));
    found.ok_or(UNKNOWN_EVENT)
}

fn is_placed(event: &StoredEvent) -> bool {
    use log_format::record::output::Decision;
    let is_served = match event.decision {
        Decision::Accepted | Decision::SoftFailed => true,
        Decision::Rejected | Decision::Outlier | Decision::Duplicate => false,
    };
    is_served && event.state_after != StateId::EMPTY
}

/// The form in which a server gets events of any age.
fn form(api: &ApiState, head: &Arc<RoomHead>, origin: &ServerName) -> Form {
    let (api, head, origin) = (api.clone(), head.clone(), origin.to_owned());
    Arc::new(move |events| {
        let view = ServerView::of(&*api.rooms, &*api.users, &head, &origin);
        let mut forms = Vec::with_capacity(events.len());
        for event in events {
            forms.extend(view.form(event)?);
        }
        Ok(forms)
    })
}

/// Work that reads much of a room, on a thread of its own. Few such run at a time.
async fn aside<T: Send + 'static>(
    api: &ApiState,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let turn: Result<SemaphorePermit<'_>, _> = api.large_answers.acquire().await;
    let done = spawn_blocking(work).await;
    drop(turn);
    done.map_err(|_| ApiError::Panicked)?
}
