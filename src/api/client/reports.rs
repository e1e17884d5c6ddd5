//! `POST /rooms/{roomId}/report`, `/rooms/{roomId}/report/{eventId}` and
//! `/users/{userId}/report` (*Reporting Content*). Who runs the server reads
//! them with `engram reports`.

use axum::Json;
use axum::extract::State;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Json as Body, Path};
use crate::api::rate_limit::Limit;
use crate::api::{Api, ApiState};
use crate::query::visibility::{Viewer, Viewpoint};
use crate::writers::client::reports::Subject;

/// Body of a report that has to give a reason, which may be blank.
#[derive(Deserialize)]
pub struct Reasoned {
    reason: String,
}

/// Body of a report about an event.
#[derive(Deserialize)]
pub struct AboutEvent {
    reason: Option<String>,
}

/// `POST /_matrix/client/v3/rooms/{roomId}/report`
///
/// 200 for every room, also for one that is not known here: nobody learns which are.
pub async fn room(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    Body(body): Body<Reasoned>,
) -> Result<Json<Value>, ApiError> {
    let user = auth.user_id();
    api.rate_limits.check(Limit::Report, user.as_str())?;
    let subject = Subject::Room(&room_id);
    api.user_data
        .report(user, subject, Some(&body.reason))
        .await?;
    Ok(Json(json!({})))
}

/// `POST /_matrix/client/v3/users/{userId}/report`
///
/// 200 for every user, for the same reason.
pub async fn user(
    State(api): State<ApiState>,
    auth: Auth,
    Path(user_id): Path<OwnedUserId>,
    Body(body): Body<Reasoned>,
) -> Result<Json<Value>, ApiError> {
    let user = auth.user_id();
    api.rate_limits.check(Limit::Report, user.as_str())?;
    let subject = Subject::User(&user_id);
    api.user_data
        .report(user, subject, Some(&body.reason))
        .await?;
    Ok(Json(json!({})))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/report/{eventId}`
///
/// One and the same 404 for rooms that the user is not in, and for events that
/// are not there or that they may not see. What they ignore may be reported.
pub async fn event(
    State(api): State<ApiState>,
    auth: Auth,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
    Body(body): Body<AboutEvent>,
) -> Result<Json<Value>, ApiError> {
    let user = auth.user_id();
    api.rate_limits.check(Limit::Report, user.as_str())?;
    if !is_seen(&api, user, &room_id, &event_id)? {
        return Err(ApiError::NotFound(
            "The event was not found or you are not joined to the room",
        ));
    }
    let subject = Subject::Event(&room_id, &event_id);
    api.user_data
        .report(user, subject, body.reason.as_deref())
        .await?;
    Ok(Json(json!({})))
}

/// Whether a joined user may see an event.
fn is_seen(api: &Api, user: &UserId, room: &RoomId, event: &EventId) -> Result<bool, ApiError> {
    let head = api.rooms.head(room)?;
    let Some(head) = head.filter(|head| head.authority.is_joined(user)) else {
        return Ok(false);
    };
    let Some(event) = api.rooms.event(room, event)? else {
        return Ok(false);
    };
    let viewpoint = Viewpoint::at_head(&*api.rooms, &head, Viewer::User(user));
    Ok(viewpoint.may_see(&event)?)
}
