//! `GET /rooms/{roomId}/timestamp_to_event`: the event that was sent next to a
//! time (*Jump to an event by its timestamp*).

use axum::Json;
use axum::extract::State;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::{Deserialize, Serialize};

use super::messages::Dir;
use super::visible::RoomView;
use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query, required};
use crate::query::relations::{InRoom, SentAt};

/// Events that one request walks past because the user may not see them.
const WALKED_MAX: usize = 10_000;
/// Rows that are read at a time, after the first.
const STEP_ROWS: usize = 256;

#[derive(Deserialize)]
pub struct TimestampQuery {
    ts: Option<i64>,
    dir: Option<Dir>,
}

#[derive(Serialize)]
pub struct Found {
    event_id: OwnedEventId,
    origin_server_ts: u64,
}

/// `GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event`
pub async fn timestamp_to_event(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    Query(query): Query<TimestampQuery>,
) -> Result<Json<Found>, ApiError> {
    let direction = required(query.dir, "dir")?.direction();
    // Nothing was sent before the epoch began.
    let ts = u64::try_from(required(query.ts, "ts")?).unwrap_or(0);
    api.relations.passed(Some(&room_id)).await;
    let view = RoomView::open(&api, auth.user_id(), &room_id)?;
    let room = InRoom::of(&view.head);
    let mut after: Option<SentAt> = None;
    let (mut step, mut walked) = (1, 0);
    while walked < WALKED_MAX {
        let sent = view
            .relations
            .sent_about(room, ts, direction, after, step)?;
        let whole = sent.len() < step;
        for sent in sent {
            after = Some(sent);
            walked += 1;
            for event in view.events(&[sent.event])? {
                if view.may_see(&event)? {
                    return Ok(Json(Found {
                        event_id: event.event_id.clone(),
                        origin_server_ts: event.origin_server_ts,
                    }));
                }
            }
        }
        if whole {
            break;
        }
        step = STEP_ROWS;
    }
    Err(ApiError::NotFound(
        "No event was found on that side of the time",
    ))
}
