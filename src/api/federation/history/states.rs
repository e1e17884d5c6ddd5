//! `GET /state/{roomId}` and `GET /state_ids/{roomId}`: a room's state before an
//! event, with what authorises it.

use axum::extract::State;
use axum::response::Response;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};
use serde::Deserialize;
use serde_json::Map;

use super::{aside, form, open, placed};
use crate::api::ApiState;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query, required};
use crate::api::federation::auth::Signed;
use crate::api::federation::pdus::{self, Section};
use crate::query::ids::EventSn;
use crate::query::served::ServerView;

#[derive(Deserialize)]
pub struct At {
    event_id: Option<OwnedEventId>,
}

/// `GET /_matrix/federation/v1/state/{roomId}`
pub async fn state(
    State(api): State<ApiState>,
    Signed { origin }: Signed,
    Path(room_id): Path<OwnedRoomId>,
    Query(at): Query<At>,
) -> Result<Response, ApiError> {
    let event_id = required(at.event_id, "event_id")?;
    let head = open(&api, &origin, &room_id)?;
    let event = placed(&api, &room_id, &event_id)?;
    // A server that was not in the room then gets what keeps the graph whole.
    let form = match ServerView::of(&*api.rooms, &*api.users, &head, &origin).may_read_at(&event)? {
        true => pdus::whole(),
        false => form(&api, &head, &origin),
    };
    let found = read(&api, origin, room_id.clone(), event_id).await?;
    let section = |name, events| Section {
        name,
        events,
        form: form.clone(),
    };
    let sections = vec![
        section("auth_chain", found.chain),
        section("pdus", found.state),
    ];
    Ok(pdus::answer(
        api.rooms.clone(),
        room_id,
        Map::new(),
        sections,
    ))
}

/// `GET /_matrix/federation/v1/state_ids/{roomId}`
pub async fn state_ids(
    State(api): State<ApiState>,
    Signed { origin }: Signed,
    Path(room_id): Path<OwnedRoomId>,
    Query(at): Query<At>,
) -> Result<Response, ApiError> {
    let event_id = required(at.event_id, "event_id")?;
    let found = read(&api, origin, room_id.clone(), event_id).await?;
    let section = |name, events| Section {
        name,
        events,
        form: pdus::id(),
    };
    let sections = vec![
        section("pdu_ids", found.state),
        section("auth_chain_ids", found.chain),
    ];
    Ok(pdus::answer(
        api.rooms.clone(),
        room_id,
        Map::new(),
        sections,
    ))
}

struct Found {
    state: Vec<EventSn>,
    chain: Vec<EventSn>,
}

/// The state before an event, for a server that is in the room.
async fn read(
    api: &ApiState,
    origin: OwnedServerName,
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
) -> Result<Found, ApiError> {
    let reading = api.clone();
    aside(api, move || {
        let api = reading;
        open(&api, &origin, &room_id)?;
        let event = placed(&api, &room_id, &event_id)?;
        let state = api.rooms.state(&room_id, event.state_before)?;
        let state: Vec<EventSn> = state.values().copied().collect();
        let chain = api.graph.auth_chain(&room_id, &state)?;
        Ok(Found {
            state,
            chain: chain.into_iter().collect(),
        })
    })
    .await
}
