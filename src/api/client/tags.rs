//! `GET /user/{userId}/rooms/{roomId}/tags` and `PUT|DELETE …/tags/{tag}`
//! (*Room Tagging*). Tags are account data; `/sync` gives them as such.

use axum::Json;
use axum::extract::State;
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{Map, Value, json};

use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Json as Body, Path};
use crate::api::rate_limit::Limit;

/// Longest name of a tag in bytes (client-server API, *Room Tagging*).
const TAG_BYTES_MAX: usize = 255;

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags`
pub async fn all(
    State(api): State<ApiState>,
    auth: Auth,
    Path((user, room)): Path<(OwnedUserId, OwnedRoomId)>,
) -> Result<Json<Value>, ApiError> {
    auth.must_be(&user)?;
    Ok(Json(json!({ "tags": api.user_data.tags(&user, &room) })))
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
pub async fn set(
    State(api): State<ApiState>,
    auth: Auth,
    Path((user, room, tag)): Path<(OwnedUserId, OwnedRoomId, String)>,
    Body(content): Body<Map<String, Value>>,
) -> Result<Json<Value>, ApiError> {
    auth.must_be(&user)?;
    if tag.len() > TAG_BYTES_MAX {
        let text = format!("A tag has at most {TAG_BYTES_MAX} bytes");
        return Err(ApiError::InvalidParam(text.into()));
    }
    if content.get("order").is_some_and(|order| !is_order(order)) {
        let text = "order must be a number from 0 to 1";
        return Err(ApiError::InvalidParam(text.into()));
    }
    api.rate_limits.check(Limit::UserData, user.as_str())?;
    api.user_data.set_tag(&user, &room, tag, content).await?;
    Ok(Json(json!({})))
}

fn is_order(order: &Value) -> bool {
    order
        .as_f64()
        .is_some_and(|order| (0.0..=1.0).contains(&order))
}

/// `DELETE /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
pub async fn remove(
    State(api): State<ApiState>,
    auth: Auth,
    Path((user, room, tag)): Path<(OwnedUserId, OwnedRoomId, String)>,
) -> Result<Json<Value>, ApiError> {
    auth.must_be(&user)?;
    api.rate_limits.check(Limit::UserData, user.as_str())?;
    api.user_data.remove_tag(&user, &room, &tag).await?;
    Ok(Json(json!({})))
}
