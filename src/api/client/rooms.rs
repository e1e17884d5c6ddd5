//! `GET /joined_rooms`, `/rooms/{roomId}/event/{eventId}`,
//! `/rooms/{roomId}/members` and `/rooms/{roomId}/joined_members`
//! (*Getting events for a room*, *Listing rooms*).

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use log_format::record::output::Membership;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::pages::read_token;
use super::render::show;
use super::visible::{NOT_A_MEMBER, RoomView};
use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query};
use crate::matrix::history_visibility::membership_of;
use crate::query::ids::{EventSn, StateId};
use crate::query::rooms::{Direction, StateKey, StateMap};
use crate::query::tokens::{PositionError, SyncToken};

const MEMBER: &str = "m.room.member";

/// `GET /_matrix/client/v3/joined_rooms`
pub async fn joined_rooms(
    State(api): State<ApiState>,
    auth: Auth,
) -> Result<Json<Value>, ApiError> {
    let rooms = api.rooms.rooms_of(auth.user_id())?.into_iter();
    let joined: Vec<OwnedRoomId> = rooms
        .filter(|room| room.membership == Membership::Join)
        .map(|room| room.room_id)
        .collect();
    Ok(Json(json!({ "joined_rooms": joined })))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/event/{eventId}`
///
/// 404 for whatever the user may not read, as the specification has it.
pub async fn event(
    State(api): State<ApiState>,
    auth: Auth,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
) -> Result<Json<Box<RawValue>>, ApiError> {
    let not_found = || ApiError::NotFound("Event not found");
    api.relations.passed(Some(&room_id)).await;
    let view = match RoomView::of_single_events(&api, auth.user_id(), &room_id) {
        Err(ApiError::Forbidden(_)) => return Err(not_found()),
        opened => opened?,
    };
    let event = view.event(&event_id)?.ok_or_else(not_found)?;
    Ok(Json(show(&view, &auth).event(&event)?))
}

/// Which members are asked for.
#[derive(Deserialize)]
pub struct MembersQuery {
    at: Option<String>,
    membership: Option<MembershipName>,
    not_membership: Option<MembershipName>,
}

#[derive(Clone, Copy)]
struct MembershipName(Membership);

impl<'de> Deserialize<'de> for MembershipName {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<MembershipName, D::Error> {
        let word = std::borrow::Cow::<'de, str>::deserialize(from)?;
        let membership = Membership::parse(&word);
        membership
            .map(MembershipName)
            .ok_or_else(|| serde::de::Error::custom("unknown membership"))
    }
}

impl MembersQuery {
    /// Either parameter lets a member through; both together are an *or*.
    fn wants(&self, membership: Option<Membership>) -> bool {
        let is = self.membership.map(|name| membership == Some(name.0));
        let is_not = self.not_membership.map(|name| membership != Some(name.0));
        match (is, is_not) {
            (None, None) => true,
            (is, is_not) => is.unwrap_or(false) || is_not.unwrap_or(false),
        }
    }
}

#[derive(Serialize)]
pub struct Members {
    chunk: Vec<Box<RawValue>>,
}

/// `GET /_matrix/client/v3/rooms/{roomId}/members`
pub async fn members(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    Query(query): Query<MembersQuery>,
) -> Result<Json<Members>, ApiError> {
    let view = RoomView::open(&api, auth.user_id(), &room_id)?;
    let state = match &query.at {
        None => view.state()?,
        Some(token) => state_at(&api, &view, token)?,
    };
    let events = view.events(&member_entries(&state))?;
    let wanted: Vec<_> = events
        .into_iter()
        .filter(|event| query.wants(membership_of(&event.json)))
        .collect();
    let chunk = show(&view, &auth).state(&wanted)?;
    Ok(Json(Members { chunk }))
}

/// The room's state where a token stands, as far as the user may read: that
/// behind the newest event before it, or what was current when sync gave it.
/// Empty where they may not see that event.
fn state_at(api: &ApiState, view: &RoomView<'_>, token: &str) -> Result<StateMap, ApiError> {
    let position = read_token(api, view, token, "at")?;
    let from = position.start(Direction::Backward);
    let from = match view.end() {
        Some(end) if end < from => return view.state(),
        _ => from,
    };
    let newest = view
        .rooms()
        .timeline(view.room_id(), from, Direction::Backward, 1)?;
    let newest: Vec<EventSn> = newest.into_iter().map(|(_, event)| event).collect();
    let newest = view.events(&newest)?.pop();
    let Some(newest) = newest.filter(|newest| newest.state_after != StateId::EMPTY) else {
        return Ok(StateMap::new());
    };
    if !view.viewpoint.may_read_at(&newest)? {
        return Ok(StateMap::new());
    }
    match sync_state(api, view.room_id(), token)? {
        Some(state) => view.state_at(state),
        None => view.state_at(newest.state_after),
    }
}

/// What was current when sync gave the token: of a forked room, that is no one
/// event's state. None for a token of another kind.
fn sync_state(api: &ApiState, room: &RoomId, token: &str) -> Result<Option<StateId>, ApiError> {
    let Ok(token) = SyncToken::decode(token) else {
        return Ok(None);
    };
    match api.sync_positions.state_of(room, &token) {
        Ok(state) => Ok(state),
        Err(PositionError::Query(error)) => Err(error.into()),
        // Its place was found, so it is one of ours.
        Err(PositionError::Token(_)) => Ok(None),
    }
}

fn member_entries(state: &StateMap) -> Vec<EventSn> {
    let first = StateKey::new(MEMBER, "");
    state
        .range(first..)
        .take_while(|(key, _)| &*key.kind == MEMBER)
        .map(|(_, event)| *event)
        .collect()
}

#[derive(Serialize)]
pub struct JoinedMembers {
    joined: BTreeMap<OwnedUserId, Shown>,
}

/// What a member shows of themselves; absent as null, as clients expect.
#[derive(Serialize)]
pub struct Shown {
    display_name: Option<String>,
    avatar_url: Option<String>,
}

/// `GET /_matrix/client/v3/rooms/{roomId}/joined_members`
pub async fn joined_members(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
) -> Result<Json<JoinedMembers>, ApiError> {
    #[derive(Deserialize)]
    struct Event {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        membership: String,
        displayname: Option<Value>,
        avatar_url: Option<Value>,
    }
    let view = RoomView::open(&api, auth.user_id(), &room_id)?;
    if !view.is_joined() {
        return Err(NOT_A_MEMBER);
    }
    let text = |value: Option<Value>| match value {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let mut joined = BTreeMap::new();
    for event in view.events(&member_entries(&view.head.state))? {
        let user = event.state_key.as_deref().map(OwnedUserId::try_from);
        let parsed: Result<Event, _> = serde_json::from_slice(&event.json);
        if let (Some(Ok(user)), Ok(parsed)) = (user, parsed)
            && parsed.content.membership == Membership::Join.as_str()
        {
            let shown = Shown {
                display_name: text(parsed.content.displayname),
                avatar_url: text(parsed.content.avatar_url),
            };
            joined.insert(user, shown);
        }
    }
    Ok(Json(JoinedMembers { joined }))
}
