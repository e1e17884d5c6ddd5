//! `GET` and `PUT /presence/{userId}/status` (*Presence*), and what `set_presence`
//! of a sync says.

use axum::Json;
use axum::extract::State;
use log_format::record::ephemeral::PresenceState;
use log_format::record::output::Membership;
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Json as Body, Path, required};
use crate::api::rate_limit::Limit;
use crate::api::{Api, ApiState};
use crate::clock::now_ms;
use crate::limits::STATUS_MSG_BYTES_MAX;
use crate::query::ephemeral::Presence;

/// Body of [`set_status`].
#[derive(Deserialize)]
pub struct NewStatus {
    presence: Option<Word>,
    status_msg: Option<String>,
}

/// A presence, as requests spell it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    Offline,
    Online,
    Unavailable,
}

impl Word {
    pub fn state(self) -> PresenceState {
        match self {
            Word::Offline => PresenceState::Offline,
            Word::Online => PresenceState::Online,
            Word::Unavailable => PresenceState::Unavailable,
        }
    }
}

/// `PUT /_matrix/client/v3/presence/{userId}/status`
pub async fn set_status(
    State(api): State<ApiState>,
    auth: Auth,
    Path(user): Path<OwnedUserId>,
    Body(status): Body<NewStatus>,
) -> Result<Json<Value>, ApiError> {
    auth.must_be(&user)?;
    api.rate_limits.check(Limit::Presence, user.as_str())?;
    let state = required(status.presence, "presence")?.state();
    let status_msg = status.status_msg.filter(|text| !text.is_empty());
    let is_long = |text: &String| text.len() > STATUS_MSG_BYTES_MAX;
    if status_msg.as_ref().is_some_and(is_long) {
        let text = format!("status_msg has at most {STATUS_MSG_BYTES_MAX} bytes");
        return Err(ApiError::InvalidParam(text.into()));
    }
    if !api.presence_setter.is_enabled() {
        return Err(ApiError::Forbidden("This server keeps no presence"));
    }
    let status_msg = status_msg.map(String::into_boxed_str);
    let set = api
        .presence_setter
        .set(&user, auth.device_id(), state, status_msg);
    set.await?;
    Ok(Json(json!({})))
}

/// A user's presence, as it is answered.
#[derive(Serialize)]
pub struct Status {
    presence: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_active_ago: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_msg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currently_active: Option<bool>,
}

/// `GET /_matrix/client/v3/presence/{userId}/status`
///
/// To who shares no room with the user it does not matter whether there is one.
pub async fn status(
    State(api): State<ApiState>,
    auth: Auth,
    Path(user): Path<OwnedUserId>,
) -> Result<Json<Status>, ApiError> {
    if !api.presence_setter.is_enabled() {
        return Err(ApiError::NotFound("This server keeps no presence"));
    }
    if user != auth.user_id() && !share_a_room(&api, auth.user_id(), &user)? {
        let text = "You are not allowed to see their presence";
        return Err(ApiError::Forbidden(text));
    }
    let known = api.ephemeral.presence_of(&user);
    let last_active_ms = api.presence_setter.last_active_ms(&user);
    Ok(Json(shown(known.as_deref(), last_active_ms)))
}

/// What is answered; of whom nothing is known, that they are offline.
fn shown(known: Option<&Presence>, last_active_ms: Option<u64>) -> Status {
    let state = known.map_or(PresenceState::Offline, |known| known.state);
    let told = known.and_then(|known| known.last_active_ms);
    let is_online = state == PresenceState::Online;
    let active = known.is_some_and(|known| known.currently_active);
    Status {
        presence: state.as_str(),
        last_active_ago: last_active_ms
            .max(told)
            .map(|ms| now_ms().saturating_sub(ms)),
        status_msg: known.and_then(|known| known.status_msg.as_deref().map(str::to_owned)),
        currently_active: is_online.then_some(active),
    }
}

fn share_a_room(api: &Api, one: &UserId, other: &UserId) -> Result<bool, ApiError> {
    let is_joined = |membership| membership == Membership::Join;
    for room in api.rooms.rooms_of(other)? {
        if is_joined(room.membership)
            && let Some(membership) = api.rooms.membership(&room.room_id, one)?
            && is_joined(membership)
        {
            return Ok(true);
        }
    }
    Ok(false)
}
