//! `GET /timestamp_to_event/{roomId}`: the event that was sent next to a time.

use axum::Json;
use axum::extract::State;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::{Deserialize, Serialize};

use super::{aside, open};
use crate::api::ApiState;
use crate::api::client::messages::Dir;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query, required};
use crate::api::federation::auth::Signed;
use crate::query::relations::{InRoom, SentAt};
use crate::query::served::ServerView;

/// Events that one request looks at, for one that the server may see.
const LOOKED_AT_MAX: usize = 5_000;
/// Rows that are read at a time, after the first.
const STEP_ROWS: usize = 512;

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

/// `GET /_matrix/federation/v1/timestamp_to_event/{roomId}`
pub async fn timestamp_to_event(
    State(api): State<ApiState>,
    Signed { origin }: Signed,
    Path(room_id): Path<OwnedRoomId>,
    Query(query): Query<TimestampQuery>,
) -> Result<Json<Found>, ApiError> {
    let direction = required(query.dir, "dir")?.direction();
    // Nothing was sent before the epoch began.
    let ts = u64::try_from(required(query.ts, "ts")?).unwrap_or(0);
    api.relations.passed(Some(&room_id)).await;
    let looking = api.clone();
    let found = aside(&api, move || {
        let api = looking;
        let head = open(&api, &origin, &room_id)?;
        let view = ServerView::of(&*api.rooms, &*api.users, &head, &origin);
        let room = InRoom::of(&head);
        let mut after: Option<SentAt> = None;
        let (mut step, mut looked_at) = (1, 0);
        while looked_at < LOOKED_AT_MAX {
            let found = api.relations.sent_about(room, ts, direction, after, step)?;
            let is_last = found.len() < step;
            looked_at += found.len();
            for sent in found {
                after = Some(sent);
                for event in api.rooms.events(&room_id, &[sent.event])? {
                    if view.may_see(&event)? {
                        return Ok(Found {
                            event_id: event.event_id.clone(),
                            origin_server_ts: event.origin_server_ts,
                        });
                    }
                }
            }
            if is_last {
                break;
            }
            step = STEP_ROWS;
        }
        Err(ApiError::NotFound(
            "No event was found on that side of the time",
        ))
    });
    found.await.map(Json)
}
