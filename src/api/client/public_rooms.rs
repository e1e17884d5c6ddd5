//! `GET|POST /publicRooms` (*Published room directory*): the rooms of this server,
//! and those that another one lists.

use std::cmp::Reverse;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use ruma::{OwnedServerName, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::summary::{PublicRoom, describe};
use crate::api::auth::{Auth, MaybeAuth};
use crate::api::errors::ApiError;
use crate::api::extract::{OptionalJson, Query};
use crate::api::rate_limit::Limit;
use crate::api::{Api, ApiState};
use crate::limits::PUBLIC_ROOMS_MAX;
use crate::matrix::canonical_json::parse_object;
use crate::query::rooms::RoomHead;
use crate::writers::federation::queries::Listing;

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

/// What is asked for.
#[derive(Default, Deserialize)]
pub struct Search {
    limit: Option<u64>,
    since: Option<String>,
    filter: Option<Filter>,
    include_all_networks: Option<bool>,
    third_party_instance_id: Option<String>,
}

impl Search {
    /// For a page of all rooms.
    pub fn for_all(limit: Option<u64>, since: Option<String>, network: Option<String>) -> Search {
        Search {
            limit,
            since,
            third_party_instance_id: network,
            ..Search::default()
        }
    }
}

#[derive(Default, Deserialize)]
struct Filter {
    generic_search_term: Option<String>,
    room_types: Option<Vec<Option<String>>>,
    /// Nobody asks for it; it depends on who asks.
    #[serde(skip)]
    federated_only: bool,
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

impl PublicRooms {
    fn none() -> PublicRooms {
        PublicRooms {
            chunk: Vec::new(),
            next_batch: None,
            prev_batch: None,
            total_room_count_estimate: 0,
        }
    }
}

/// `GET /_matrix/client/v3/publicRooms`, open to everybody
pub async fn list(
    State(api): State<ApiState>,
    MaybeAuth(auth): MaybeAuth,
    Query(query): Query<ListQuery>,
) -> Result<Json<Answer>, ApiError> {
    if let Some(server) = elsewhere(&api, query.server) {
        // Strangers do not have us ask others.
        let user = auth.ok_or(ApiError::MissingToken)?;
        let search = Search::for_all(query.limit, query.since, None);
        return theirs(&api, user.user_id(), &server, &search).await;
    }
    ours(page(&api, query.limit, query.since, &Filter::default())?)
}

/// `POST /_matrix/client/v3/publicRooms`
pub async fn search(
    State(api): State<ApiState>,
    auth: Auth,
    Query(query): Query<ServerQuery>,
    OptionalJson(search): OptionalJson<Search>,
) -> Result<Json<Answer>, ApiError> {
    if let Some(server) = elsewhere(&api, query.server) {
        return theirs(&api, auth.user_id(), &server, &search).await;
    }
    if search.third_party_instance_id.is_some() {
        if search.include_all_networks.unwrap_or(false) {
            return Err(ApiError::InvalidParam(
                "third_party_instance_id excludes include_all_networks".into(),
            ));
        }
        // No network is bridged, so none has rooms.
        return ours(Json(PublicRooms::none()));
    }
    let filter = search.filter.unwrap_or_default();
    ours(page(&api, search.limit, search.since, &filter)?)
}

/// A page of our directory, or of another server's.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Answer {
    Ours(PublicRooms),
    Theirs(Listing),
}

fn ours(Json(page): Json<PublicRooms>) -> Result<Json<Answer>, ApiError> {
    Ok(Json(Answer::Ours(page)))
}

/// Asks another server with what the specification has for that, whatever else
/// the client said.
async fn theirs(
    api: &Api,
    user: &UserId,
    server: &ServerName,
    search: &Search,
) -> Result<Json<Answer>, ApiError> {
    api.rate_limits.check(Limit::RemoteLookup, user.as_str())?;
    let limit = search.limit.unwrap_or(PUBLIC_ROOMS_MAX as u64);
    let mut asked = json!({ "limit": limit.min(PUBLIC_ROOMS_MAX as u64) });
    let mut put = |key: &str, value: Option<Value>| {
        if let (Some(value), Value::Object(asked)) = (value, &mut asked) {
            asked.insert(key.to_owned(), value);
        }
    };
    put("since", search.since.clone().map(Value::from));
    put(
        "include_all_networks",
        search.include_all_networks.map(Value::from),
    );
    let network = search.third_party_instance_id.clone();
    put("third_party_instance_id", network.map(Value::from));
    let filter = search.filter.as_ref().map(|filter| {
        let mut asked = Map::new();
        if let Some(term) = &filter.generic_search_term {
            asked.insert("generic_search_term".to_owned(), json!(term));
        }
        if let Some(types) = &filter.room_types {
            asked.insert("room_types".to_owned(), json!(types));
        }
        Value::Object(asked)
    });
    put("filter", filter);
    let asked = parse_object(asked.to_string().as_bytes());
    let asked = asked.map_err(|_| ApiError::BadJson("what is asked for is no JSON".into()))?;
    let listing = api.queries.public_rooms(server, &asked).await?;
    Ok(Json(Answer::Theirs(listing)))
}

/// What another server is given of the directory: the same, but for rooms that
/// no other server can be in. A `limit` of zero is none (server-server API, *GET
/// publicRooms*).
pub fn for_servers(api: &Api, search: Search) -> Result<Json<PublicRooms>, ApiError> {
    if search.third_party_instance_id.is_some() {
        return Ok(Json(PublicRooms::none()));
    }
    let filter = Filter {
        federated_only: true,
        ..search.filter.unwrap_or_default()
    };
    let limit = search.limit.filter(|limit| *limit > 0);
    page(api, limit, search.since, &filter)
}

/// The server whose directory is asked for, if it is another one's.
fn elsewhere(api: &Api, server: Option<OwnedServerName>) -> Option<OwnedServerName> {
    server.filter(|server| *server != api.settings.server_name)
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
    let (chunk, total) = match filter.asks_for_all() {
        true => listed(api, filter, skip, limit)?,
        false => found(api, filter, skip, limit)?,
    };
    let next = skip.saturating_add(chunk.len());
    let token = |skip: usize| format!("{PAGE_PREFIX}{skip}");
    Ok(Json(PublicRooms {
        next_batch: (next < total && !chunk.is_empty()).then(|| token(next)),
        prev_batch: (skip > 0).then(|| token(skip.saturating_sub(limit))),
        total_room_count_estimate: total,
        chunk,
    }))
}

/// Published rooms that somebody is in, the largest first.
fn largest_first(api: &Api, filter: &Filter) -> Result<Vec<Arc<RoomHead>>, ApiError> {
    let mut heads = Vec::new();
    for room_id in api.rooms.published()? {
        let head = api.rooms.head(&room_id)?;
        let is_shown = |head: &Arc<RoomHead>| {
            head.joined_members > 0 && (head.authority.federates || !filter.federated_only)
        };
        heads.extend(head.filter(is_shown));
    }
    // The sort is stable and `published` is in the order of room ids.
    heads.sort_by_key(|head| Reverse(head.joined_members));
    Ok(heads)
}

/// One page of all rooms, and how many there are: only what is shown is read.
fn listed(
    api: &Api,
    filter: &Filter,
    skip: usize,
    limit: usize,
) -> Result<(Vec<PublicRoom>, usize), ApiError> {
    let heads = largest_first(api, filter)?;
    let page = heads.iter().skip(skip).take(limit);
    let chunk = page.map(|head| describe(api, head));
    Ok((chunk.collect::<Result<_, _>>()?, heads.len()))
}

/// One page of the rooms that a filter lets through, and how many these are.
fn found(
    api: &Api,
    filter: &Filter,
    skip: usize,
    limit: usize,
) -> Result<(Vec<PublicRoom>, usize), ApiError> {
    let mut total = 0;
    let mut chunk = Vec::new();
    for head in largest_first(api, filter)? {
        let room = describe(api, &head)?;
        if filter.matches(&room) {
            total += 1;
            if total > skip && chunk.len() < limit {
                chunk.push(room);
            }
        }
    }
    Ok((chunk, total))
}

impl Filter {
    fn asks_for_all(&self) -> bool {
        self.room_types.is_none() && self.generic_search_term.as_deref().unwrap_or("").is_empty()
    }

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
