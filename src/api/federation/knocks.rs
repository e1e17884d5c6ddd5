//! `GET /make_knock`, `PUT /send_knock`: other servers' users knock on rooms of
//! ours (server-server API, *Knocking upon a room*).

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{Map, Value};

use super::auth::{Signed, SignedJson};
use super::handshakes::{self, PDU_BODY_BYTES_MAX, Parameters};
use super::pdus::{self, Section};
use crate::api::ApiState;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query};
use crate::query::stripped::describing;
use crate::writers::federation::resident::Handshake;

/// `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`
pub async fn make(
    State(api): State<ApiState>,
    Signed { origin }: Signed,
    Path(of): Path<(OwnedRoomId, OwnedUserId)>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, ApiError> {
    let versions = handshakes::versions(parameters);
    handshakes::template(&api, Handshake::Knock, &origin, of, versions)
}

/// `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`: answers with what
/// the room shows of itself, as whole events, which can be verified.
pub async fn send(
    State(api): State<ApiState>,
    Path(of): Path<(OwnedRoomId, String)>,
    SignedJson { origin, body, .. }: SignedJson<PDU_BODY_BYTES_MAX>,
) -> Result<Response, ApiError> {
    let taken = handshakes::take_in(&api, Handshake::Knock, origin, of, body).await?;
    let shown = Section {
        name: "knock_room_state",
        events: describing(&taken.before),
        form: pdus::whole(),
    };
    let (rooms, room_id) = (api.rooms.clone(), taken.before.room_id.clone());
    Ok(pdus::answer(rooms, room_id, Map::new(), vec![shown]))
}
