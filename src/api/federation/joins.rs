//! `GET /make_join`, `PUT /send_join`: other servers join rooms through us
//! (server-server API, *Joining Rooms*).

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use log_format::record::output::Membership;
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;

use super::auth::{Signed, SignedJson};
use super::handshakes::{self, PDU_BODY_BYTES_MAX, Parameters, as_before};
use super::pdus::{self, Section};
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query};
use crate::api::rate_limit::Limit;
use crate::api::{Api, ApiState};
use crate::matrix::canonical_json::parse_stored_object;
use crate::query::ids::EventSn;
use crate::query::rooms::{RoomHead, StateKey, StateMap};
use crate::writers::federation::resident::Handshake;
use crate::writers::federation::resident::handed::TakenIn;

const MEMBER: &str = "m.room.member";
/// Members who stand for a room that has no name (client-server API, *Room summary*).
const HEROES_MAX: usize = 5;

/// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`
pub async fn make(
    State(api): State<ApiState>,
    Signed { origin }: Signed,
    Path(of): Path<(OwnedRoomId, OwnedUserId)>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, ApiError> {
    let versions = handshakes::versions(parameters);
    handshakes::template(&api, Handshake::Join, &origin, of, versions)
}

/// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`
pub async fn send(
    State(api): State<ApiState>,
    Path(of): Path<(OwnedRoomId, String)>,
    Query(parameters): Query<Parameters>,
    request: SignedJson<PDU_BODY_BYTES_MAX>,
) -> Result<Response, ApiError> {
    let omit = |(name, value): &(String, String)| name == "omit_members" && value == "true";
    let omits_members = parameters.iter().any(omit);
    take_in(&api, of, request, omits_members, ("", "")).await
}

/// `PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}`
pub async fn old_send(
    State(api): State<ApiState>,
    Path(of): Path<(OwnedRoomId, String)>,
    request: SignedJson<PDU_BODY_BYTES_MAX>,
) -> Result<Response, ApiError> {
    let answered = take_in(&api, of, request, false, ("[200,", "]")).await;
    answered.map_err(as_before)
}

/// Takes a join in; the answer stands between two texts.
async fn take_in(
    api: &ApiState,
    of: (OwnedRoomId, String),
    SignedJson { origin, body, .. }: SignedJson<PDU_BODY_BYTES_MAX>,
    omits_members: bool,
    around: (&'static str, &'static str),
) -> Result<Response, ApiError> {
    api.rate_limits.check(Limit::JoinRoom, of.0.as_str())?;
    let taken = handshakes::take_in(api, Handshake::Join, origin, of, body).await?;
    let api = api.clone();
    // Reads the room's whole state.
    let answered = spawn_blocking(move || answer(&api, &taken, omits_members, around));
    answered.await.map_err(|_| ApiError::Panicked)?
}

/// The state before the join, and what authorises that and the join.
fn answer(
    api: &Api,
    taken: &TakenIn,
    omits_members: bool,
    around: (&'static str, &'static str),
) -> Result<Response, ApiError> {
    let room_id = &taken.before.room_id;
    let before = &taken.before;
    let state = match before.state_id == taken.event.state_before {
        true => before.state.clone(),
        false => api.rooms.state(room_id, taken.event.state_before)?,
    };
    let user = &taken.event.sender;
    let shown: Vec<EventSn> = match omits_members {
        false => state.values().copied().collect(),
        true => without_members(&state, before, user),
    };
    let mut authorised = shown.clone();
    authorised.push(taken.event.event);
    let mut chain = api.graph.auth_chain(room_id, &authorised)?;
    if omits_members {
        // What is in `state` need not be repeated.
        let shown: BTreeSet<EventSn> = shown.iter().copied().collect();
        chain.retain(|event| !shown.contains(event));
    }
    let mut fields = Map::new();
    if taken.is_cosigned {
        let signed = parse_stored_object(&taken.event.json);
        let signed = signed.map_err(|error| ApiError::Stored(error.to_string()))?;
        fields.insert("event".to_owned(), json!(signed));
    }
    fields.insert("members_omitted".to_owned(), json!(omits_members));
    let servers: Vec<_> = before.servers.keys().collect();
    fields.insert("servers_in_room".to_owned(), json!(servers));
    let section = |name, events| Section {
        name,
        events,
        form: pdus::whole(),
    };
    // What authorises the state comes first: whoever reads the answer while it
    // comes need not hold the state until then.
    let sections = vec![
        section("auth_chain", chain.into_iter().collect()),
        section("state", shown),
    ];
    let rooms = api.rooms.clone();
    let room_id = room_id.clone();
    Ok(pdus::answer_within(
        around, rooms, room_id, fields, sections,
    ))
}

/// The state without its members, but for those by whom a room is called that has
/// neither name nor alias.
fn without_members(state: &StateMap, head: &RoomHead, joins: &UserId) -> Vec<EventSn> {
    let others = state.iter().filter(|(key, _)| &*key.kind != MEMBER);
    let mut shown: Vec<EventSn> = others.map(|(_, event)| *event).collect();
    let has = |kind: &str| state.contains_key(&StateKey::new(kind, ""));
    if has("m.room.name") || has("m.room.canonical_alias") {
        return shown;
    }
    let members = head.authority.members.iter();
    let members = members.filter(|(user, _)| *user != joins);
    let (mut present, mut gone) = (Vec::new(), Vec::new());
    for (_, member) in members {
        match member.membership {
            Membership::Join | Membership::Invite => present.push(member.event),
            Membership::Leave | Membership::Ban => gone.push(member.event),
            Membership::Knock => {}
        }
    }
    // In the order in which they came.
    let mut heroes = match present.is_empty() {
        true => gone,
        false => present,
    };
    heroes.sort_unstable();
    heroes.truncate(HEROES_MAX);
    shown.extend(heroes);
    shown
}
