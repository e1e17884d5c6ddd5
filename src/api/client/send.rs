//! `PUT /rooms/{roomId}/send/{eventType}/{txnId}` and
//! `PUT /rooms/{roomId}/redact/{eventId}/{txnId}` (*Sending events to a room*).
//! And `POST` without a transaction id: not in the specification, but what the
//! Matrix guide for `curl` shows, so scripts and small bots send that way.

use axum::Json;
use axum::extract::State;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::{Deserialize, Serialize};

use super::content::EventContent;
use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{OptionalJson, Path};
use crate::api::rate_limit::Limit;
use crate::writers::client::messages::FromDevice;

/// Bytes of a transaction id; it is stored with the event to be echoed.
const TXN_ID_BYTES_MAX: usize = 255;

/// Every write of an event is answered with its id.
#[derive(Serialize)]
pub struct Sent {
    pub event_id: OwnedEventId,
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}`
pub async fn send(
    State(api): State<ApiState>,
    auth: Auth,
    Path((room_id, kind, txn_id)): Path<(OwnedRoomId, String, String)>,
    EventContent(content): EventContent,
) -> Result<Json<Sent>, ApiError> {
    api.rate_limits
        .check(Limit::Message, auth.user_id().as_str())?;
    let from = from_device(&auth, &txn_id)?;
    let sent = api.room_writer.send_message(from, &room_id, &kind, content);
    let event_id = sent.await?;
    api.presence_setter.acted(auth.user_id());
    Ok(Json(Sent { event_id }))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/send/{eventType}`
pub async fn send_once(
    State(api): State<ApiState>,
    auth: Auth,
    Path((room_id, kind)): Path<(OwnedRoomId, String)>,
    EventContent(content): EventContent,
) -> Result<Json<Sent>, ApiError> {
    api.rate_limits
        .check(Limit::Message, auth.user_id().as_str())?;
    let from = FromDevice {
        user_id: auth.user_id(),
        device_id: auth.device_id(),
        txn_id: None,
    };
    let sent = api.room_writer.send_message(from, &room_id, &kind, content);
    let event_id = sent.await?;
    api.presence_setter.acted(auth.user_id());
    Ok(Json(Sent { event_id }))
}

#[derive(Deserialize)]
pub struct Redaction {
    reason: Option<String>,
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}`
pub async fn redact(
    State(api): State<ApiState>,
    auth: Auth,
    Path((room_id, target, txn_id)): Path<(OwnedRoomId, OwnedEventId, String)>,
    OptionalJson(body): OptionalJson<Redaction>,
) -> Result<Json<Sent>, ApiError> {
    api.rate_limits
        .check(Limit::Message, auth.user_id().as_str())?;
    let from = from_device(&auth, &txn_id)?;
    let sent = api.room_writer.redact(from, &room_id, &target, body.reason);
    Ok(Json(Sent {
        event_id: sent.await?,
    }))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/redact/{eventId}`
pub async fn redact_once(
    State(api): State<ApiState>,
    auth: Auth,
    Path((room_id, target)): Path<(OwnedRoomId, OwnedEventId)>,
    OptionalJson(body): OptionalJson<Redaction>,
) -> Result<Json<Sent>, ApiError> {
    api.rate_limits
        .check(Limit::Message, auth.user_id().as_str())?;
    let from = FromDevice {
        user_id: auth.user_id(),
        device_id: auth.device_id(),
        txn_id: None,
    };
    let sent = api.room_writer.redact(from, &room_id, &target, body.reason);
    Ok(Json(Sent {
        event_id: sent.await?,
    }))
}

fn from_device<'a>(auth: &'a Auth, txn_id: &'a str) -> Result<FromDevice<'a>, ApiError> {
    if txn_id.len() > TXN_ID_BYTES_MAX {
        return Err(ApiError::InvalidParam("Transaction ID is too long".into()));
    }
    Ok(FromDevice {
        user_id: auth.user_id(),
        device_id: auth.device_id(),
        txn_id: Some(txn_id),
    })
}
