//! `GET /make_leave`, `PUT /send_leave`: other servers leave rooms through us,
//! reject invites and take back knocks (server-server API, *Leaving Rooms*).

use axum::Json;
use axum::extract::State;
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};

use super::auth::{Signed, SignedJson};
use super::handshakes::{self, PDU_BODY_BYTES_MAX, as_before};
use crate::api::ApiState;
use crate::api::errors::ApiError;
use crate::api::extract::Path;
use crate::writers::federation::resident::Handshake;

/// `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`
pub async fn make(
    State(api): State<ApiState>,
    Signed { origin }: Signed,
    Path(of): Path<(OwnedRoomId, OwnedUserId)>,
) -> Result<Json<Value>, ApiError> {
    handshakes::template(&api, Handshake::Leave, &origin, of, Vec::new())
}

/// `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}`
pub async fn send(
    State(api): State<ApiState>,
    Path(of): Path<(OwnedRoomId, String)>,
    SignedJson { origin, body, .. }: SignedJson<PDU_BODY_BYTES_MAX>,
) -> Result<Json<Value>, ApiError> {
    handshakes::take_in(&api, Handshake::Leave, origin, of, body).await?;
    Ok(Json(json!({})))
}

/// `PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}`
pub async fn old_send(
    State(api): State<ApiState>,
    Path(of): Path<(OwnedRoomId, String)>,
    SignedJson { origin, body, .. }: SignedJson<PDU_BODY_BYTES_MAX>,
) -> Result<Json<Value>, ApiError> {
    let taken = handshakes::take_in(&api, Handshake::Leave, origin, of, body).await;
    taken.map_err(as_before)?;
    Ok(Json(json!([200, {}])))
}
