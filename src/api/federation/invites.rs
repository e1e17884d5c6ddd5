//! `PUT /invite`: other servers' users invite ours (server-server API, *Inviting
//! to a room*).

use axum::Json;
use axum::extract::State;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, UserId};
use serde_json::{Value, json};

use super::auth::SignedJson;
use super::handshakes::as_before;
use crate::api::client::membership::limit_invites;
use crate::api::errors::ApiError;
use crate::api::extract::Path;
use crate::api::rate_limit::Limit;
use crate::api::{Api, ApiState};
use crate::limits::JSON_BODY_BYTES_MAX;
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::writers::federation::resident::invites::Invite;

type Body = SignedJson<JSON_BODY_BYTES_MAX>;

/// `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`
pub async fn invite(
    State(api): State<ApiState>,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
    SignedJson {
        origin, mut body, ..
    }: Body,
) -> Result<Json<Value>, ApiError> {
    let version = match body.remove("room_version") {
        None => return Err(ApiError::MissingParam("room_version".into())),
        Some(CanonicalJsonValue::String(version)) => version,
        Some(_) => return Err(ApiError::BadJson("room_version is no text".into())),
    };
    let version = RoomVersion::parse(&version).ok_or(ApiError::UnknownRoomVersion(version))?;
    let event = match body.remove("event") {
        None => return Err(ApiError::MissingParam("event".into())),
        Some(CanonicalJsonValue::Object(event)) => event,
        Some(_) => return Err(ApiError::BadJson("event is no object".into())),
    };
    let invite = Invite {
        version: Some(version),
        state: entries(body.remove("invite_room_state")),
        ..invite_of(origin, room_id, event_id, event)
    };
    let event = take_in(&api, invite).await?;
    Ok(Json(json!({ "event": event })))
}

/// `PUT /_matrix/federation/v1/invite/{roomId}/{eventId}`, for rooms of versions
/// 1 and 2
pub async fn old_invite(
    State(api): State<ApiState>,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
    SignedJson { origin, body, .. }: Body,
) -> Result<Json<Value>, ApiError> {
    let unsigned = body
        .get("unsigned")
        .and_then(|unsigned| unsigned.as_object());
    let state = unsigned.and_then(|unsigned| unsigned.get("invite_room_state"));
    let invite = Invite {
        state: entries(state.cloned()),
        ..invite_of(origin, room_id, event_id, body)
    };
    let event = take_in(&api, invite).await.map_err(as_before)?;
    Ok(Json(json!([200, { "event": event }])))
}

fn invite_of(
    origin: OwnedServerName,
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    event: CanonicalJsonObject,
) -> Invite {
    Invite {
        origin,
        room_id,
        event_id,
        version: None,
        event,
        state: Vec::new(),
    }
}

async fn take_in(api: &Api, invite: Invite) -> Result<CanonicalJsonObject, ApiError> {
    api.rate_limits
        .check(Limit::Handshake, invite.origin.as_str())?;
    let user = |field: &str| <&UserId>::try_from(invite.event.get(field)?.as_str()?).ok();
    // Of others' users it is refused below, and must not use up what they may do.
    let own = user("sender").filter(|sender| sender.server_name() == invite.origin);
    if let (Some(sender), Some(target)) = (own, user("state_key")) {
        limit_invites(api, sender, &invite.room_id, target)?;
    }
    Ok(api.resident.invited(invite).await?)
}

/// The entries of an array; what is none has none, as it is not needed.
fn entries(array: Option<CanonicalJsonValue>) -> Vec<CanonicalJsonValue> {
    match array {
        Some(CanonicalJsonValue::Array(entries)) => entries,
        _ => Vec::new(),
    }
}
