//! `POST /search`: full-text search in the user's rooms (*Server Side Search*).

use std::collections::{BTreeMap, HashMap};

use axum::Json as Answer;
use axum::extract::State;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;

use super::render::show;
use super::search_context::{self, Context, EventContext};
use super::visible::RoomView;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Json, Query};
use crate::api::{Api, ApiState};
use crate::limits::PAGE_EVENTS_DEFAULT;
use crate::matrix::filter::RoomEventFilter;
use crate::query::ids::EventSn;
use crate::readers::client_search::{Found, Group, Hit, Order, Search, SearchKey};

#[derive(Deserialize)]
pub struct SearchQuery {
    next_batch: Option<String>,
}

#[derive(Deserialize)]
pub struct SearchBody {
    search_categories: Categories,
}

#[derive(Deserialize)]
struct Categories {
    room_events: Option<Criteria>,
}

#[derive(Deserialize)]
struct Criteria {
    search_term: String,
    keys: Option<Vec<String>>,
    filter: Option<Box<RawValue>>,
    order_by: Option<OrderBy>,
    event_context: Option<EventContext>,
    #[serde(default)]
    include_state: bool,
    groupings: Option<Groupings>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OrderBy {
    Rank,
    Recent,
}

#[derive(Deserialize)]
struct Groupings {
    #[serde(default)]
    group_by: Vec<Grouping>,
}

#[derive(Deserialize)]
struct Grouping {
    key: GroupKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum GroupKey {
    RoomId,
    Sender,
}

#[derive(Serialize)]
pub struct SearchAnswer {
    search_categories: AnsweredCategories,
}

#[derive(Serialize)]
struct AnsweredCategories {
    #[serde(skip_serializing_if = "Option::is_none")]
    room_events: Option<RoomEvents>,
}

#[derive(Serialize)]
struct RoomEvents {
    count: usize,
    highlights: Vec<String>,
    results: Vec<SearchResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<GroupKey, BTreeMap<String, GroupValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

#[derive(Serialize)]
struct SearchResult {
    rank: f32,
    result: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
}

/// A group of the results of this page.
#[derive(Serialize)]
struct GroupValue {
    results: Vec<OwnedEventId>,
    /// Where its best result stands among those of the page.
    order: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// `POST /_matrix/client/v3/search`
pub async fn search(
    State(api): State<ApiState>,
    auth: Auth,
    Query(query): Query<SearchQuery>,
    Json(body): Json<SearchBody>,
) -> Result<Answer<SearchAnswer>, ApiError> {
    // A server without an index has no such endpoint.
    let client_search = api.search.clone().ok_or(ApiError::UnknownPath)?;
    let Some(criteria) = body.search_categories.room_events else {
        let search_categories = AnsweredCategories { room_events: None };
        return Ok(Answer(SearchAnswer { search_categories }));
    };
    let asked = request(&auth, query, &criteria)?;
    let _turn = api
        .searches
        .acquire()
        .await
        .map_err(|_| ApiError::Overloaded)?;
    let answering = api.clone();
    let answered = spawn_blocking(move || {
        let found = client_search.find(&asked)?;
        answer(&answering, &auth, &criteria, &asked, found)
    });
    let room_events = answered.await.map_err(|_| ApiError::Panicked)??;
    let search_categories = AnsweredCategories {
        room_events: Some(room_events),
    };
    Ok(Answer(SearchAnswer { search_categories }))
}

fn request(auth: &Auth, query: SearchQuery, criteria: &Criteria) -> Result<Search, ApiError> {
    let invalid = |text: &'static str| ApiError::InvalidParam(text.into());
    let keys = match &criteria.keys {
        None => SearchKey::ALL.to_vec(),
        Some(names) => {
            let keys = names.iter().map(|name| SearchKey::parse(name));
            let keys: Option<Vec<SearchKey>> = keys.collect();
            let mut keys = keys.ok_or(invalid("keys has a key that is not searched"))?;
            keys.sort();
            keys.dedup();
            keys
        }
    };
    let filter = criteria.filter.as_ref();
    let filter = filter.map(|filter| RoomEventFilter::parse(filter.get().as_bytes()));
    let filter = filter
        .transpose()
        .map_err(|_| invalid("filter is no RoomEventFilter"))?
        .unwrap_or_default();
    Ok(Search {
        user: auth.user_id().to_owned(),
        term: criteria.search_term.clone(),
        keys,
        limit: filter.limit(PAGE_EVENTS_DEFAULT),
        filter,
        order: match criteria.order_by {
            Some(OrderBy::Recent) => Order::Recent,
            Some(OrderBy::Rank) | None => Order::Rank,
        },
        next_batch: query.next_batch,
    })
}

fn answer(
    api: &Api,
    auth: &Auth,
    criteria: &Criteria,
    asked: &Search,
    found: Found,
) -> Result<RoomEvents, ApiError> {
    let mut views: HashMap<OwnedRoomId, RoomView<'_>> = HashMap::new();
    for hit in &found.hits {
        if !views.contains_key(&hit.room_id) {
            match RoomView::open(api, auth.user_id(), &hit.room_id) {
                Ok(view) => views.insert(hit.room_id.clone(), view),
                // Forgotten since it was found.
                Err(ApiError::Forbidden(_)) => continue,
                Err(error) => return Err(error),
            };
        }
    }
    let contexts = criteria.event_context.as_ref();
    let contexts = contexts.map(|asked| asked.bounded(found.hits.len()));
    let mut results = Vec::with_capacity(found.hits.len());
    for hit in &found.hits {
        let Some(view) = views.get(&hit.room_id) else {
            continue;
        };
        let context = contexts.as_ref();
        let context = context.map(|asked| search_context::of(view, auth, &hit.event, asked));
        results.push(SearchResult {
            rank: hit.rank,
            result: show(view, auth).event(&hit.event)?,
            context: context.transpose()?,
        });
    }
    let state = criteria.include_state;
    let state = state.then(|| states(&views, auth, asked, &found.hits));
    Ok(RoomEvents {
        count: found.count.max(results.len()),
        highlights: found.highlights,
        results,
        state: state.transpose()?,
        groups: groups(criteria, asked, &found.hits, found.next_batch.is_some()),
        next_batch: found.next_batch,
    })
}

/// The state of each room of the results: the current one, or that at which the
/// user left. Of members those who sent a result, if the client loads members lazily.
fn states(
    views: &HashMap<OwnedRoomId, RoomView<'_>>,
    auth: &Auth,
    asked: &Search,
    hits: &[Hit],
) -> Result<BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>, ApiError> {
    let mut states = BTreeMap::new();
    for (room, view) in views {
        let entries: Vec<EventSn> = view.state()?.values().copied().collect();
        let mut events = view.events(&entries)?;
        if asked.filter.lazy_load_members {
            let is_sender = |member: &str| {
                let mut hits = hits.iter().filter(|hit| hit.room_id == *room);
                hits.any(|hit| hit.event.sender == member)
            };
            events.retain(|event| {
                &*event.kind != "m.room.member" || event.state_key.as_deref().is_some_and(is_sender)
            });
        }
        states.insert(room.clone(), show(view, auth).state(&events)?);
    }
    Ok(states)
}

/// The groups that were asked for. Where there are further results, each group
/// may have some of them.
fn groups(
    criteria: &Criteria,
    asked: &Search,
    hits: &[Hit],
    has_more: bool,
) -> BTreeMap<GroupKey, BTreeMap<String, GroupValue>> {
    let keys = criteria.groupings.iter().flat_map(|all| &all.group_by);
    let mut groups = BTreeMap::new();
    for grouping in keys {
        let values: &mut BTreeMap<String, GroupValue> = groups.entry(grouping.key).or_default();
        values.clear();
        for (order, hit) in hits.iter().enumerate() {
            let value = match grouping.key {
                GroupKey::RoomId => hit.room_id.to_string(),
                GroupKey::Sender => hit.event.sender.to_string(),
            };
            let value = values.entry(value).or_insert_with(|| GroupValue {
                results: Vec::new(),
                order,
                next_batch: None,
            });
            value.results.push(hit.event.event_id.clone());
            value.next_batch = has_more.then(|| {
                let group = match grouping.key {
                    GroupKey::RoomId => Group::Room(hit.room_id.clone()),
                    GroupKey::Sender => Group::Sender(sender_of(hit)),
                };
                asked.group_token(group, hit)
            });
        }
    }
    groups
}

fn sender_of(hit: &Hit) -> OwnedUserId {
    hit.event.sender.clone()
}
