//! `GET /rooms/{roomId}/state` and `GET|PUT
//! /rooms/{roomId}/state/{eventType}/{stateKey}` (*Getting events for a room*).

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use log_format::record::output::Membership;
use ruma::{OwnedRoomId, RoomId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::content::EventContent;
use super::membership::{limit_invites, limit_joins};
use super::render::show;
use super::send::Sent;
use super::visible::RoomView;
use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query};
use crate::api::rate_limit::Limit;
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::matrix::client_event::content_of;
use crate::query::ids::EventSn;
use crate::query::shown::ShowError;

/// `?format=` of a state look-up.
#[derive(Default, Deserialize)]
pub struct Format {
    format: Option<FormatName>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum FormatName {
    Content,
    Event,
}

/// `GET /_matrix/client/v3/rooms/{roomId}/state`
pub async fn all(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
) -> Result<Json<Vec<Box<RawValue>>>, ApiError> {
    let view = RoomView::open(&api, auth.user_id(), &room_id)?;
    let entries: Vec<EventSn> = view.state()?.values().copied().collect();
    let events = view.events(&entries)?;
    Ok(Json(show(&view, &auth).state(&events)?))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}`, with the slash or without
pub async fn get_empty_key(
    State(api): State<ApiState>,
    auth: Auth,
    Path((room_id, kind)): Path<(OwnedRoomId, String)>,
    Query(format): Query<Format>,
) -> Result<Response, ApiError> {
    get(&api, &auth, &room_id, &kind, "", format)
}

/// `GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
pub async fn get_with_key(
    State(api): State<ApiState>,
    auth: Auth,
    Path((room_id, kind, state_key)): Path<(OwnedRoomId, String, String)>,
    Query(format): Query<Format>,
) -> Result<Response, ApiError> {
    get(&api, &auth, &room_id, &kind, &state_key, format)
}

fn get(
    api: &ApiState,
    auth: &Auth,
    room_id: &RoomId,
    kind: &str,
    state_key: &str,
    format: Format,
) -> Result<Response, ApiError> {
    let view = RoomView::open(api, auth.user_id(), room_id)?;
    let event = view.state_event(kind, state_key)?;
    let event = event.ok_or(ApiError::NotFound("Event not found"))?;
    if format.format == Some(FormatName::Event) {
        let shown = show(&view, auth).event(&event)?;
        return Ok(Json(shown).into_response());
    }
    let content = content_of(&event.json).map_err(ShowError::Format)?;
    Ok(([(CONTENT_TYPE, "application/json")], content.to_owned()).into_response())
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}`, with the slash or without
pub async fn put_empty_key(
    State(api): State<ApiState>,
    auth: Auth,
    Path((room_id, kind)): Path<(OwnedRoomId, String)>,
    content: EventContent,
) -> Result<Json<Sent>, ApiError> {
    put(&api, &auth, &room_id, &kind, "", content).await
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
pub async fn put_with_key(
    State(api): State<ApiState>,
    auth: Auth,
    Path((room_id, kind, state_key)): Path<(OwnedRoomId, String, String)>,
    content: EventContent,
) -> Result<Json<Sent>, ApiError> {
    put(&api, &auth, &room_id, &kind, &state_key, content).await
}

async fn put(
    api: &ApiState,
    auth: &Auth,
    room_id: &RoomId,
    kind: &str,
    state_key: &str,
    EventContent(content): EventContent,
) -> Result<Json<Sent>, ApiError> {
    let user = auth.user_id();
    api.rate_limits.check(Limit::Message, user.as_str())?;
    if let ("m.room.member", Ok(member)) = (kind, <&UserId>::try_from(state_key)) {
        limit_membership(api, user, room_id, member, &content)?;
    }
    let written = api
        .room_writer
        .put_state(user, room_id, kind, state_key, content);
    Ok(Json(Sent {
        event_id: written.await?,
    }))
}

/// Counts what a member event does as its own endpoint would. A changed name in
/// a room is a join again, and counts as none.
fn limit_membership(
    api: &ApiState,
    user: &UserId,
    room_id: &RoomId,
    member: &UserId,
    content: &CanonicalJsonObject,
) -> Result<(), ApiError> {
    match content.get("membership").and_then(|value| value.as_str()) {
        Some("join") if member == user => match api.rooms.membership(room_id, user)? {
            Some(Membership::Join) => Ok(()),
            _ => limit_joins(api, user, room_id),
        },
        Some("knock") if member == user => api.rate_limits.check(Limit::JoinLocal, user.as_str()),
        Some("invite") => limit_invites(api, user, room_id, member),
        _ => Ok(()),
    }
}
