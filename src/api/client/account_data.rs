//! `GET|PUT /user/{userId}/account_data/{type}` and `GET|PUT
//! /user/{userId}/rooms/{roomId}/account_data/{type}` (*Client Config*).

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Map, Value, json};

use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Json as Body, Path};
use crate::api::rate_limit::Limit;
use crate::limits::EVENT_TYPE_BYTES_MAX;
use crate::query::notified::{PUSH_RULES, ruleset_of};

/// Types that have endpoints of their own; setting them here is refused, for
/// all rooms and globally.
const SERVER_CONTROLLED: [&str; 2] = ["m.fully_read", PUSH_RULES];

/// `GET /_matrix/client/v3/user/{userId}/account_data/{type}`
pub async fn global(
    State(api): State<ApiState>,
    auth: Auth,
    Path((user, event_type)): Path<(OwnedUserId, String)>,
) -> Result<Response, ApiError> {
    auth.must_be(&user)?;
    if event_type == PUSH_RULES {
        // Who changed none has the predefined ones.
        let content = ruleset_of(&*api.users, &user).content();
        return Ok(([(CONTENT_TYPE, "application/json")], content).into_response());
    }
    get(&api, &user, None, &event_type)
}

/// `PUT /_matrix/client/v3/user/{userId}/account_data/{type}`
pub async fn set_global(
    State(api): State<ApiState>,
    auth: Auth,
    Path((user, event_type)): Path<(OwnedUserId, String)>,
    Body(content): Body<Map<String, Value>>,
) -> Result<axum::Json<Value>, ApiError> {
    auth.must_be(&user)?;
    set(&api, &user, None, &event_type, &content).await
}

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
pub async fn of_room(
    State(api): State<ApiState>,
    auth: Auth,
    Path((user, room, event_type)): Path<(OwnedUserId, OwnedRoomId, String)>,
) -> Result<Response, ApiError> {
    auth.must_be(&user)?;
    get(&api, &user, Some(&room), &event_type)
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
pub async fn set_of_room(
    State(api): State<ApiState>,
    auth: Auth,
    Path((user, room, event_type)): Path<(OwnedUserId, OwnedRoomId, String)>,
    Body(content): Body<Map<String, Value>>,
) -> Result<axum::Json<Value>, ApiError> {
    auth.must_be(&user)?;
    set(&api, &user, Some(&room), &event_type, &content).await
}

fn get(
    api: &ApiState,
    user: &UserId,
    room: Option<&RoomId>,
    event_type: &str,
) -> Result<Response, ApiError> {
    let datum = api.users.account_data(user, room, event_type);
    let datum = datum.ok_or(ApiError::NotFound("Account data not found"))?;
    // Stored as JSON, served as it is.
    let body = HttpBody::from(String::from(&*datum.content));
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

async fn set(
    api: &ApiState,
    user: &UserId,
    room: Option<&RoomId>,
    event_type: &str,
    content: &Map<String, Value>,
) -> Result<axum::Json<Value>, ApiError> {
    if SERVER_CONTROLLED.contains(&event_type) {
        return Err(ApiError::ServerControlled);
    }
    if event_type.len() > EVENT_TYPE_BYTES_MAX {
        return Err(ApiError::InvalidParam("Type is too long".into()));
    }
    api.rate_limits.check(Limit::UserData, user.as_str())?;
    api.user_data
        .set_account_data(user, room, event_type, content)
        .await?;
    Ok(axum::Json(json!({})))
}
