//! `POST /rooms/{roomId}/receipt/{receiptType}/{eventId}` (*Receipts*) and
//! `POST /rooms/{roomId}/read_markers` (*Fully read markers*).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use log_format::record::Source;
use log_format::record::input::ReceiptType;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::visible::{NOT_A_MEMBER, RoomView};
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Json as Body, OptionalJson, Path};
use crate::api::rate_limit::Limit;
use crate::api::{Api, ApiState};
use crate::query::receipts::ReceiptThread;
use crate::query::rooms::StoredEvent;

/// `POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}`
pub async fn receipt(
    State(api): State<ApiState>,
    auth: Auth,
    Path((room_id, receipt_type, event_id)): Path<(OwnedRoomId, String, OwnedEventId)>,
    OptionalJson(body): OptionalJson<Map<String, Value>>,
) -> Result<Json<Value>, ApiError> {
    let user = auth.user_id();
    api.rate_limits.check(Limit::Ephemeral, user.as_str())?;
    let receipt_type = match receipt_type.as_str() {
        "m.read" => ReceiptType::Read,
        "m.read.private" => ReceiptType::ReadPrivate,
        "m.fully_read" if body.contains_key("thread_id") => {
            let text = "thread_id is not for receipts of type m.fully_read";
            return Err(ApiError::InvalidParam(text.into()));
        }
        "m.fully_read" => {
            let event = event_to_read(&api, user, &room_id, &event_id)?;
            api.receipt_setter
                .set_fully_read(&room_id, user, &event)
                .await?;
            return Ok(Json(json!({})));
        }
        _ => return Err(ApiError::InvalidParam("Receipt type is not known".into())),
    };
    let thread = thread(body.get("thread_id"))?;
    let event = event_to_read(&api, user, &room_id, &event_id)?;
    let receipt = api
        .receipt_setter
        .check(&room_id, user, &event, receipt_type, thread)?;
    let receipts = vec![receipt];
    api.receipt_setter
        .set(&room_id, Source::Client, receipts)
        .await?;
    api.presence_setter.acted(user);
    Ok(Json(json!({})))
}

/// Body of [`read_markers`].
#[derive(Deserialize)]
pub struct Markers {
    #[serde(rename = "m.fully_read")]
    fully_read: Option<OwnedEventId>,
    #[serde(rename = "m.read")]
    read: Option<OwnedEventId>,
    #[serde(rename = "m.read.private")]
    read_private: Option<OwnedEventId>,
}

/// `POST /_matrix/client/v3/rooms/{roomId}/read_markers`
pub async fn read_markers(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    Body(markers): Body<Markers>,
) -> Result<Json<Value>, ApiError> {
    let user = auth.user_id();
    api.rate_limits.check(Limit::Ephemeral, user.as_str())?;
    let event = |event_id: Option<OwnedEventId>| {
        event_id
            .map(|event_id| event_to_read(&api, user, &room_id, &event_id))
            .transpose()
    };
    // All are looked at before any is written.
    let fully_read = event(markers.fully_read)?;
    let mut receipts = Vec::new();
    for (receipt_type, event_id) in [
        (ReceiptType::Read, markers.read),
        (ReceiptType::ReadPrivate, markers.read_private),
    ] {
        if let Some(event) = event(event_id)? {
            let unthreaded = ReceiptThread::Unthreaded;
            let setter = &api.receipt_setter;
            receipts.push(setter.check(&room_id, user, &event, receipt_type, unthreaded)?);
        }
    }
    api.receipt_setter
        .set(&room_id, Source::Client, receipts)
        .await?;
    if let Some(event) = fully_read {
        api.receipt_setter
            .set_fully_read(&room_id, user, &event)
            .await?;
    }
    api.presence_setter.acted(user);
    Ok(Json(json!({})))
}

/// An event of a room that the user is in and may see it in.
fn event_to_read(
    api: &Api,
    user: &UserId,
    room: &RoomId,
    event: &EventId,
) -> Result<Arc<StoredEvent>, ApiError> {
    let view = RoomView::open(api, user, room)?;
    if !view.is_joined() {
        return Err(NOT_A_MEMBER);
    }
    view.event(event)?
        .ok_or(ApiError::NotFound("Event not found"))
}

fn thread(thread_id: Option<&Value>) -> Result<ReceiptThread, ApiError> {
    let thread_id = match thread_id {
        None => None,
        Some(Value::String(thread_id)) => Some(thread_id.as_str()),
        Some(_) => return Err(ApiError::InvalidParam("thread_id is not a string".into())),
    };
    ReceiptThread::parse(thread_id).ok_or(ApiError::InvalidParam(
        "thread_id is neither main nor an event ID".into(),
    ))
}
