//! What joins, leaves and knocks have in common: a template is asked for, and the
//! event that was made from it handed in.

use axum::Json;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId};
use serde_json::{Value, json};

use crate::api::Api;
use crate::api::errors::ApiError;
use crate::api::rate_limit::Limit;
use crate::limits::PDU_BYTES_MAX;
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::writers::federation::pdu_checks::PduRefusal;
use crate::writers::federation::resident::handed::{Handed, TakenIn};
use crate::writers::federation::resident::template::Asked;
use crate::writers::federation::resident::{Handshake, ResidentError};

/// Largest body with one event: beside it may stand what is not signed.
pub const PDU_BODY_BYTES_MAX: usize = 2 * PDU_BYTES_MAX;

/// Query parameters, any of which may be given several times.
pub type Parameters = Vec<(String, String)>;

/// The room versions in `ver`. A server that names none supports version 1.
pub fn versions(parameters: Parameters) -> Vec<String> {
    let named = parameters.into_iter().filter(|(name, _)| name == "ver");
    let versions: Vec<String> = named.map(|(_, version)| version).collect();
    match versions.is_empty() {
        true => vec!["1".to_owned()],
        false => versions,
    }
}

/// Answers with a template.
pub fn template(
    api: &Api,
    handshake: Handshake,
    origin: &OwnedServerName,
    (room_id, user): (OwnedRoomId, OwnedUserId),
    versions: Vec<String>,
) -> Result<Json<Value>, ApiError> {
    api.rate_limits.check(Limit::Handshake, origin.as_str())?;
    let template = api.resident.template(&Asked {
        handshake,
        origin,
        room_id,
        user,
        versions,
    })?;
    Ok(Json(json!({
        "room_version": template.version.as_str(),
        "event": template.event,
    })))
}

/// The error of an endpoint that is older than the codes of today: what is signed
/// by the wrong server or not at all is forbidden, which servers that use it expect.
pub fn as_before(error: ApiError) -> ApiError {
    match error {
        ApiError::Resident(
            ResidentError::SenderElsewhere
            | ResidentError::Pdu(PduRefusal::Signature(_) | PduRefusal::Keys(_)),
        ) => ApiError::Forbidden("The event is not signed by the server that sends it"),
        error => error,
    }
}

/// Takes an event in.
pub async fn take_in(
    api: &Api,
    handshake: Handshake,
    origin: OwnedServerName,
    (room_id, event_id): (OwnedRoomId, String),
    event: CanonicalJsonObject,
) -> Result<TakenIn, ApiError> {
    api.rate_limits.check(Limit::Handshake, origin.as_str())?;
    let handed = Handed {
        handshake,
        origin,
        room_id,
        event_id,
        event,
    };
    Ok(api.resident.take_in(handed).await?)
}
