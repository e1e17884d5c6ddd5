//! `GET /backfill/{roomId}` and `POST /get_missing_events/{roomId}`: a room's
//! graph, walked towards what was before.

use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use ruma::{OwnedEventId, OwnedRoomId};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::events::transaction;
use super::{aside, is_placed, open};
use crate::api::ApiState;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query, required};
use crate::api::federation::auth::{Signed, SignedJson};
use crate::api::federation::handshakes::Parameters;
use crate::limits::{BACKFILL_EVENTS_MAX, LOGIN_BODY_BYTES_MAX, MISSING_EVENTS_MAX};
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::matrix::citing::Cited;
use crate::query::ids::Place;
use crate::query::rooms::StoredEvent;
use crate::query::served::ServerView;

/// Events that a request may name.
const NAMED_MAX: usize = 100;
/// Events that one request comes by, also those that it is not given: rejected
/// ones, and those that the other server has.
const WALKED_MAX: usize = 1_000;
/// Events that are given where the other server names no number (server-server
/// API, *POST get_missing_events*).
const MISSING_EVENTS_DEFAULT: usize = 10;

/// An event that is due, the newest first.
struct Due(Arc<StoredEvent>);

impl Due {
    fn rank(&self) -> (Place, u64) {
        (self.0.place, self.0.event.0)
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Due {}

/// `GET /_matrix/federation/v1/backfill/{roomId}`: events and what precedes them,
/// the newest first.
pub async fn backfill(
    State(api): State<ApiState>,
    Signed { origin }: Signed,
    Path(room_id): Path<OwnedRoomId>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, ApiError> {
    let named = parameters.iter().filter(|(name, _)| name == "v");
    let named = named.map(|(_, id)| OwnedEventId::try_from(id.as_str()));
    let named: Result<Vec<_>, _> = named.take(NAMED_MAX).collect();
    let named = named.map_err(|_| ApiError::InvalidParam("v is no event id".into()))?;
    if named.is_empty() {
        return Err(ApiError::MissingParam("v".into()));
    }
    let limit = parameters.iter().find(|(name, _)| name == "limit");
    let limit = required(limit, "limit")?.1.parse::<usize>();
    let limit = limit.map_err(|_| ApiError::InvalidParam("limit is no number".into()))?;
    let limit = limit.min(BACKFILL_EVENTS_MAX);
    let walking = api.clone();
    let pdus = aside(&api, move || {
        let api = walking;
        let head = open(&api, &origin, &room_id)?;
        let view = ServerView::of(&*api.rooms, &*api.users, &head, &origin);
        let mut seen = HashSet::new();
        let mut due = BinaryHeap::new();
        let mut find = |ids: Vec<OwnedEventId>, due: &mut BinaryHeap<Due>| {
            for id in ids {
                if let Some(event) = api.rooms.event(&room_id, &id)?
                    && seen.insert(event.event)
                {
                    due.push(Due(event));
                }
            }
            Ok::<(), ApiError>(())
        };
        find(named, &mut due)?;
        let mut given = Vec::new();
        for _ in 0..WALKED_MAX {
            let Some(Due(event)) = due.pop().filter(|_| given.len() < limit) else {
                break;
            };
            if is_placed(&event) {
                given.extend(view.form(&event)?);
            }
            find(Cited::by(&event.json).prev_events, &mut due)?;
        }
        Ok(given)
    });
    transaction(&api, pdus.await?).map(Json)
}

/// `POST /_matrix/federation/v1/get_missing_events/{roomId}`: what comes before
/// some events and behind others, the oldest first.
pub async fn missing_events(
    State(api): State<ApiState>,
    Path(room_id): Path<OwnedRoomId>,
    SignedJson { origin, body, .. }: SignedJson<LOGIN_BODY_BYTES_MAX>,
) -> Result<Json<Value>, ApiError> {
    // Whoever is excluded is told that, whatever they ask.
    open(&api, &origin, &room_id)?;
    // A server that names none has none, or asks for none.
    let named = |field| match body.contains_key(field) {
        true => ids(&body, field),
        false => Ok(Vec::new()),
    };
    let (known, latest) = (named("earliest_events")?, named("latest_events")?);
    let limit = number(&body, "limit")?.map_or(MISSING_EVENTS_DEFAULT as u64, |limit| limit);
    let limit =
        usize::try_from(limit).map_or(MISSING_EVENTS_MAX, |limit| limit.min(MISSING_EVENTS_MAX));
    let min_depth = number(&body, "min_depth")?.unwrap_or(0);
    let walking = api.clone();
    let given = aside(&api, move || {
        let api = walking;
        let head = open(&api, &origin, &room_id)?;
        let view = ServerView::of(&*api.rooms, &*api.users, &head, &origin);
        // What the other server has, it is not given.
        let mut seen: HashSet<OwnedEventId> = known.into_iter().chain(latest.clone()).collect();
        let mut due = VecDeque::new();
        for id in latest {
            if let Some(event) = api.rooms.event(&room_id, &id)? {
                due.extend(Cited::by(&event.json).prev_events);
            }
        }
        let mut given: Vec<Bytes> = Vec::new();
        let mut walked = 0;
        while let Some(id) = due.pop_front().filter(|_| given.len() < limit) {
            if !seen.insert(id.clone()) {
                continue;
            }
            walked += 1;
            if walked > WALKED_MAX {
                break;
            }
            let Some(event) = api.rooms.event(&room_id, &id)? else {
                continue;
            };
            let cited = Cited::by(&event.json);
            if cited.depth < min_depth {
                continue;
            }
            if is_placed(&event) {
                given.extend(view.form(&event)?);
            }
            due.extend(cited.prev_events);
        }
        given.reverse();
        Ok(given)
    });
    let given = given.await?;
    let events = given
        .iter()
        .map(|pdu| serde_json::from_slice::<Box<RawValue>>(pdu));
    let events: Result<Vec<_>, _> = events.collect();
    let events = events.map_err(|error| ApiError::Stored(error.to_string()))?;
    Ok(Json(json!({ "events": events })))
}

/// Event ids of the body.
fn ids(body: &CanonicalJsonObject, field: &'static str) -> Result<Vec<OwnedEventId>, ApiError> {
    let wrong = || ApiError::BadJson(format!("{field} is no list of event ids").into());
    let entries = required(body.get(field), field)?;
    let entries = entries.as_array().ok_or_else(wrong)?;
    if entries.len() > NAMED_MAX {
        return Err(ApiError::InvalidParam(
            format!("{field} names too many events").into(),
        ));
    }
    let ids = entries
        .iter()
        .map(|id| OwnedEventId::try_from(id.as_str()?).ok());
    ids.collect::<Option<_>>().ok_or_else(wrong)
}

/// A number of the body; what is below zero is zero.
fn number(body: &CanonicalJsonObject, field: &str) -> Result<Option<u64>, ApiError> {
    match body.get(field) {
        None => Ok(None),
        Some(CanonicalJsonValue::Integer(number)) => {
            Ok(Some(u64::try_from(i64::from(*number)).unwrap_or(0)))
        }
        Some(_) => Err(ApiError::BadJson(format!("{field} is no integer").into())),
    }
}
