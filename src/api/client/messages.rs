//! `GET /rooms/{roomId}/messages` (*Getting events for a room*) and
//! `GET /rooms/{roomId}/context/{eventId}` (*Event context*).

use axum::Json;
use axum::extract::State;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::pages::{self, Rest, passes, read_token, senders, token, walk};
use super::render::show;
use super::visible::RoomView;
use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query, required};
use crate::query::ids::{EventSn, Place};
use crate::query::rooms::Direction;

const MEMBER: &str = "m.room.member";

#[derive(Deserialize)]
pub struct MessagesQuery {
    from: Option<String>,
    to: Option<String>,
    dir: Option<Dir>,
    limit: Option<i64>,
    filter: Option<String>,
}

/// Which way a client asks to go, `dir`.
#[derive(Clone, Copy, Deserialize)]
pub enum Dir {
    #[serde(rename = "b")]
    Backward,
    #[serde(rename = "f")]
    Forward,
}

impl Dir {
    pub fn direction(self) -> Direction {
        match self {
            Dir::Backward => Direction::Backward,
            Dir::Forward => Direction::Forward,
        }
    }
}

#[derive(Serialize)]
pub struct Messages {
    start: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    chunk: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    state: Vec<Box<RawValue>>,
}

/// `GET /_matrix/client/v3/rooms/{roomId}/messages`
pub async fn messages(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    Query(query): Query<MessagesQuery>,
) -> Result<Json<Messages>, ApiError> {
    let direction = required(query.dir, "dir")?.direction();
    let filter = pages::filter(query.filter.as_deref())?;
    let limit = pages::limit(query.limit, &filter)?;
    api.relations.passed(Some(&room_id)).await;
    let view = RoomView::open(&api, auth.user_id(), &room_id)?;
    let (from, start) = match query.from {
        Some(given) => {
            let position = read_token(&api, &view, &given, "from")?;
            (position.start(direction), given)
        }
        None => match direction {
            Direction::Backward => (Place::END, token(view.head.last_place, true)),
            Direction::Forward => (Place::START, token(Place::START, false)),
        },
    };
    let to = match &query.to {
        Some(given) => Some(read_token(&api, &view, given, "to")?),
        None => None,
    };
    // What is missing of the past is with other servers.
    let mut is_missing = false;
    let view = match direction {
        Direction::Backward if view.is_joined() => {
            is_missing = api.remote.fill_past(&view.head, from, limit).await;
            api.relations.passed(Some(&room_id)).await;
            RoomView::open(&api, auth.user_id(), &room_id)?
        }
        Direction::Backward | Direction::Forward => view,
    };
    let page = walk(&view, from, to.as_ref(), direction, limit, &filter)?;
    let behind = direction == Direction::Forward;
    let end = match (page.rest, page.last) {
        // The client may ask again: what is missing may be there then.
        (Rest::Nothing, last) if is_missing && to.is_none() => {
            Some(last.map_or_else(|| start.clone(), |last| token(last, behind)))
        }
        (Rest::Nothing, _) => None,
        (Rest::More, None) => Some(start.clone()),
        (Rest::More, Some(last)) => Some(token(last, behind)),
        // From here a client goes on once there is more. It learns that there is
        // nothing now by a page that is empty.
        (Rest::ToCome, last) if !page.events.is_empty() => last.map(|last| token(last, behind)),
        (Rest::ToCome, _) => None,
    };
    let show = show(&view, &auth);
    let state = match page.events.first() {
        Some(event) if filter.lazy_load_members => {
            senders(&view, &show, event.state_after, &page.events)?
        }
        _ => Vec::new(),
    };
    Ok(Json(Messages {
        start,
        end,
        chunk: show.timeline(&page.events)?,
        state,
    }))
}

#[derive(Deserialize)]
pub struct ContextQuery {
    limit: Option<i64>,
    filter: Option<String>,
}

#[derive(Serialize)]
pub struct Context {
    start: String,
    end: String,
    event: Box<RawValue>,
    events_before: Vec<Box<RawValue>>,
    events_after: Vec<Box<RawValue>>,
    state: Vec<Box<RawValue>>,
}

/// `GET /_matrix/client/v3/rooms/{roomId}/context/{eventId}`
pub async fn context(
    State(api): State<ApiState>,
    auth: Auth,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
    Query(query): Query<ContextQuery>,
) -> Result<Json<Context>, ApiError> {
    let filter = pages::filter(query.filter.as_deref())?;
    let limit = pages::limit(query.limit, &filter)?;
    api.relations.passed(Some(&room_id)).await;
    let view = RoomView::open(&api, auth.user_id(), &room_id)?;
    let event = view
        .event(&event_id)?
        .ok_or(ApiError::NotFound("Event not found"))?;
    let (place, half) = (event.place, limit / 2);
    let view = match view.is_joined() {
        true => {
            api.remote.fill_past(&view.head, place, half).await;
            RoomView::open(&api, auth.user_id(), &room_id)?
        }
        false => view,
    };
    let before = walk(&view, place, None, Direction::Backward, half, &filter)?;
    let after = limit - half;
    let after = walk(&view, place, None, Direction::Forward, after, &filter)?;
    let first = before.last.unwrap_or(place);
    let last = after.last.unwrap_or(place);

    let show = show(&view, &auth);
    let state_id = after.events.last().unwrap_or(&event).state_after;
    let lazily = filter.lazy_load_members;
    let entries = view.state_at(state_id)?;
    let entries = entries
        .iter()
        .filter(|(key, _)| !lazily || &*key.kind != MEMBER);
    let entries: Vec<EventSn> = entries.map(|(_, event)| *event).collect();
    let mut events = view.events(&entries)?;
    events.retain(|event| passes(&filter, event));
    let mut state = show.state(&events)?;
    if lazily {
        let mut shown = vec![event.clone()];
        shown.extend(before.events.iter().chain(&after.events).cloned());
        state.extend(senders(&view, &show, state_id, &shown)?);
    }
    Ok(Json(Context {
        start: token(first, false),
        end: token(last, true),
        event: show.event(&event)?,
        events_before: show.timeline(&before.events)?,
        events_after: show.timeline(&after.events)?,
        state,
    }))
}
