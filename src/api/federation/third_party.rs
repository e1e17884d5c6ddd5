//! `PUT /exchange_third_party_invite/{roomId}`: who was invited by an address of
//! theirs has a user id now (server-server API, *Third-party invites*).

use axum::Json;
use axum::extract::State;
use ruma::OwnedRoomId;
use serde_json::{Value, json};

use super::auth::SignedJson;
use super::handshakes::PDU_BODY_BYTES_MAX;
use crate::api::ApiState;
use crate::api::errors::ApiError;
use crate::api::extract::Path;
use crate::api::rate_limit::Limit;

/// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`
pub async fn exchange(
    State(api): State<ApiState>,
    Path(room_id): Path<OwnedRoomId>,
    SignedJson { origin, body, .. }: SignedJson<PDU_BODY_BYTES_MAX>,
) -> Result<Json<Value>, ApiError> {
    api.rate_limits.check(Limit::Handshake, origin.as_str())?;
    api.rate_limits.check(Limit::InviteRoom, room_id.as_str())?;
    let head = api.rooms.head(&room_id)?;
    let head = head.ok_or(ApiError::NotFound("Unknown room"))?;
    if !api.acls.allows(&head, &origin)? {
        return Err(ApiError::Forbidden("The server is excluded from the room"));
    }
    api.room_writer
        .exchange_invite(&origin, &room_id, &body)
        .await?;
    Ok(Json(json!({})))
}
