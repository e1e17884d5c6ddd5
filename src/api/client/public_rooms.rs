//! `GET|POST /publicRooms` (*Published room directory*): the rooms of this server.

use std::cmp::Reverse;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use log_format::record::output::Visibility;
use ruma::{OwnedRoomId, OwnedServerName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{OptionalJson, Query};
use crate::api::{Api, ApiState};
use crate::limits::PUBLIC_ROOMS_MAX;
use crate::query::rooms::{RoomHead, StateKey};

/// Begins a page token; what follows is how many rooms were given before.
const PAGE_PREFIX: &str = "p1_";

#[derive(Deserialize)]
pub struct ListQuery {
    limit: Option<u64>,
    since: Option<String>,
    server: Option<OwnedServerName>,
}

#[derive(Deserialize)]
pub struct ServerQuery {
    server: Option<OwnedServerName>,
}

#[derive(Deserialize)]
pub struct Search {
    limit: Option<u64>,
    since: Option<String>,
    filter: Option<Filter>,
    third_party_instance_id: Option<String>,
}

#[derive(Default, Deserialize)]
struct Filter {
    generic_search_term: Option<String>,
    room_types: Option<Vec<Option<String>>>,
}

#[derive(Serialize)]
pub struct PublicRooms {
    chunk: Vec<PublicRoom>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    total_room_count_estimate: usize,
}

#[derive(Serialize)]
struct PublicRoom {
    room_id: OwnedRoomId,
    num_joined_members: u64,
    world_readable: bool,
    guest_can_join: bool,
    join_rule: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    canonical_alias: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_type: Option<String>,
}

/// `GET /_matrix/client/v3/publicRooms`, open to everybody
pub async fn list(
    State(api): State<ApiState>,
    Query(query): Query<ListQuery>,
) -> Result<Json<PublicRooms>, ApiError> {
    must_be_ours(&api, query.server)?;
    page(&api, query.limit, query.since, &Filter::default())
}

/// `POST /_matrix/client/v3/publicRooms`
pub async fn search(
    State(api): State<ApiState>,
    _: Auth,
    Query(query): Query<ServerQuery>,
    OptionalJson(search): OptionalJson<Search>,
) -> Result<Json<PublicRooms>, ApiError> {
    must_be_ours(&api, query.server)?;
    if search.third_party_instance_id.is_some() {
        // No network is bridged, so none has rooms.
        return Ok(Json(PublicRooms {
            chunk: Vec::new(),
            next_batch: None,
            prev_batch: None,
            total_room_count_estimate: 0,
        }));
    }
    let filter = search.filter.unwrap_or_default();
    page(&api, search.limit, search.since, &filter)
}

fn must_be_ours(api: &Api, server: Option<OwnedServerName>) -> Result<(), ApiError> {
    match server {
        Some(server) if server != api.settings.server_name => Err(ApiError::NotFound(
            "Room directories of other servers are not asked",
        )),
        _ => Ok(()),
    }
}

fn page(
    api: &Api,
    limit: Option<u64>,
    since: Option<String>,
    filter: &Filter,
) -> Result<Json<PublicRooms>, ApiError> {
    let skip = match since {
        None => 0,
        Some(token) => {
            let number = token.strip_prefix(PAGE_PREFIX);
            number
                .and_then(|number| number.parse::<usize>().ok())
                .ok_or(ApiError::InvalidParam(
                    "since is no token of this server".into(),
                ))?
        }
    };
    let limit = limit.map_or(PUBLIC_ROOMS_MAX, |limit| {
        usize::try_from(limit).unwrap_or(PUBLIC_ROOMS_MAX)
    });
    let limit = limit.min(PUBLIC_ROOMS_MAX);
    let mut rooms = Vec::new();
    for room_id in api.rooms.published()? {
        let Some(head) = api.rooms.head(&room_id)? else {
            continue;
        };
        let room = describe(api, &head)?;
        if filter.matches(&room) {
            rooms.push(room);
        }
    }
    // The sort is stable and `published` is in the order of room ids.
    rooms.sort_by_key(|room| Reverse(room.num_joined_members));
    let total = rooms.len();
    let chunk: Vec<PublicRoom> = rooms.into_iter().skip(skip).take(limit).collect();
    let next = skip.saturating_add(chunk.len());
    let token = |skip: usize| format!("{PAGE_PREFIX}{skip}");
    Ok(Json(PublicRooms {
        next_batch: (next < total && !chunk.is_empty()).then(|| token(next)),
        prev_batch: (skip > 0).then(|| token(skip.saturating_sub(limit))),
        total_room_count_estimate: total,
        chunk,
    }))
}

impl Filter {
    fn matches(&self, room: &PublicRoom) -> bool {
        let of_type = self.room_types.as_deref();
        if of_type.is_some_and(|types| !types.contains(&room.room_type)) {
            return false;
        }
        let Some(term) = &self.generic_search_term else {
            return true;
        };
        let term = term.to_lowercase();
        [&room.name, &room.topic, &room.canonical_alias]
            .into_iter()
            .flatten()
            .any(|text| text.to_lowercase().contains(&term))
    }
}

fn describe(api: &Api, head: &Arc<RoomHead>) -> Result<PublicRoom, ApiError> {
    let text = |kind: &str, field: &str| -> Result<Option<String>, ApiError> {
        let Some(event) = head.state.get(&StateKey::new(kind, "")) else {
            return Ok(None);
        };
        let event = api.rooms.events(&head.room_id, &[*event])?.pop();
        Ok(event.and_then(|event| content_text(&event.json, field)))
    };
    Ok(PublicRoom {
        room_id: head.room_id.clone(),
        num_joined_members: head.joined_members,
        world_readable: head.visibility == Visibility::WorldReadable,
        guest_can_join: text("m.room.guest_access", "guest_access")?.as_deref() == Some("can_join"),
        join_rule: head.authority.join_rule.clone(),
        name: text("m.room.name", "name")?,
        topic: text("m.room.topic", "topic")?,
        avatar_url: text("m.room.avatar", "url")?,
        canonical_alias: text("m.room.canonical_alias", "alias")?,
        room_type: text("m.room.create", "type")?,
    })
}

/// A text field of an event's content, if it is there and not empty.
fn content_text(pdu: &[u8], field: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Event {
        content: Map<String, Value>,
    }
    let mut event: Event = serde_json::from_slice(pdu).ok()?;
    match event.content.remove(field) {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}
