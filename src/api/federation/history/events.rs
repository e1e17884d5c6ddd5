//! `GET /event/{eventId}` and `GET /event_auth/{roomId}/{eventId}`: one event, and
//! what authorises one.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use log_format::record::output::Decision;
use ruma::{OwnedEventId, OwnedRoomId};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{DENIED, NOT_IN_ROOM, UNKNOWN_EVENT, aside, form, open};
use crate::api::ApiState;
use crate::api::errors::ApiError;
use crate::api::extract::Path;
use crate::api::federation::auth::Signed;
use crate::api::federation::pdus::{self, Section};
use crate::api::rate_limit::Limit;
use crate::clock::now_ms;
use crate::matrix::citing::Cited;
use crate::query::ids::EventSn;
use crate::query::served::ServerView;

/// `GET /_matrix/federation/v1/event/{eventId}`
pub async fn event(
    State(api): State<ApiState>,
    Signed { origin }: Signed,
    Path(event_id): Path<OwnedEventId>,
) -> Result<Json<Value>, ApiError> {
    api.rate_limits.check(Limit::History, origin.as_str())?;
    // The request names no room, and each is asked for the event.
    let (looking, server) = (api.clone(), origin.clone());
    let found = aside(&api, move || {
        let api = looking;
        let mut refusal = UNKNOWN_EVENT;
        for room_id in api.graph.rooms_with(&event_id)? {
            let (Some(head), Some(event)) = (
                api.rooms.head(&room_id)?,
                api.rooms.event(&room_id, &event_id)?,
            ) else {
                continue;
            };
            if !api.acls.allows(&head, &server)? {
                refusal = DENIED;
                continue;
            }
            if event.decision == Decision::Rejected {
                continue;
            }
            match ServerView::of(&*api.rooms, &*api.users, &head, &server).form(&event)? {
                Some(pdu) => return Ok(pdu),
                None => refusal = NOT_IN_ROOM,
            }
        }
        Err(refusal)
    });
    transaction(&api, vec![found.await?]).map(Json)
}

/// Events in the form of a transaction.
pub(super) fn transaction(api: &ApiState, pdus: Vec<Bytes>) -> Result<Value, ApiError> {
    let pdus = pdus
        .iter()
        .map(|pdu| serde_json::from_slice::<Box<RawValue>>(pdu));
    let pdus: Result<Vec<_>, _> = pdus.collect();
    let pdus = pdus.map_err(|error| ApiError::Stored(error.to_string()))?;
    Ok(json!({
        "origin": api.settings.server_name,
        "origin_server_ts": now_ms(),
        "pdus": pdus,
    }))
}

/// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`
pub async fn event_auth(
    State(api): State<ApiState>,
    Signed { origin }: Signed,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
) -> Result<Response, ApiError> {
    let head = open(&api, &origin, &room_id)?;
    let event = api.rooms.event(&room_id, &event_id)?;
    let event = event.filter(|event| event.decision != Decision::Rejected);
    let event = event.ok_or(UNKNOWN_EVENT)?;
    // Whoever may know the room as it was at the event may know what let it in.
    let may_read = ServerView::of(&*api.rooms, &*api.users, &head, &origin).may_read_at(&event)?;
    let form = match may_read {
        true => pdus::whole(),
        false => form(&api, &head, &origin),
    };
    let (reading, room) = (api.clone(), room_id.clone());
    let chain = aside(&api, move || {
        let mut cited: Vec<EventSn> = Vec::new();
        for id in Cited::by(&event.json).auth_events {
            let found = reading.rooms.event(&room, &id)?;
            cited.extend(found.map(|found| found.event));
        }
        let mut chain = reading.graph.auth_chain(&room, &cited)?;
        chain.extend(cited);
        Ok(chain)
    });
    let chain = Section {
        name: "auth_chain",
        events: chain.await?.into_iter().collect(),
        form,
    };
    Ok(pdus::answer(
        api.rooms.clone(),
        room_id,
        Map::new(),
        vec![chain],
    ))
}
