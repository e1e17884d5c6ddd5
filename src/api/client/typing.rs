//! `PUT /rooms/{roomId}/typing/{userId}`: that one types, or no more (*Typing
//! Notifications*).

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Json as Body, Path};
use crate::api::rate_limit::Limit;
use crate::writers::client::typing_setter::TIMEOUT_DEFAULT;

/// Body of [`typing`].
#[derive(Deserialize)]
pub struct Typing {
    typing: bool,
    /// Milliseconds.
    timeout: Option<u64>,
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}`
pub async fn typing(
    State(api): State<ApiState>,
    auth: Auth,
    Path((room_id, user_id)): Path<(OwnedRoomId, OwnedUserId)>,
    Body(body): Body<Typing>,
) -> Result<Json<Value>, ApiError> {
    auth.must_be(&user_id)?;
    api.rate_limits.check(Limit::Ephemeral, user_id.as_str())?;
    let timeout = body.timeout.map_or(TIMEOUT_DEFAULT, Duration::from_millis);
    let typing = body.typing.then_some(timeout);
    api.typing_setter.set(&room_id, &user_id, typing).await?;
    if body.typing {
        api.presence_setter.acted(&user_id);
    }
    Ok(Json(json!({})))
}
