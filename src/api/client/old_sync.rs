//! `GET /events`, `GET /events/{eventId}`, `GET /initialSync` and `GET
//! /rooms/{roomId}/initialSync`: how clients followed rooms before `/sync`, and
//! how guests still look into rooms that they are not in (*Syncing*, *Room
//! Previews*).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use log_format::record::output::Membership;
use ruma::{OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::pages::{self, token, walk};
use super::presence::Word;
use super::render::show;
use super::sync::timeout;
use super::visible::RoomView;
use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query};
use crate::matrix::filter::{Filter, RoomEventFilter, RoomFilter};
use crate::query::ids::{EventSn, Place};
use crate::query::rooms::{Direction, RoomMembership};
use crate::query::unwanted::Unwanted;
use crate::query::users::AccountDatum;
use crate::readers::client_sync::{StateSection, SyncRequest};

/// How long `/events` waits where the client names no time. Ours: the
/// specification has it wait, and neither says how long nor has it answer at once.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// Query parameters of [`events`].
#[derive(Debug, Deserialize)]
pub struct EventsQuery {
    from: Option<String>,
    /// Milliseconds.
    timeout: Option<u64>,
    /// The only room that is told of, also to who is not in it.
    room_id: Option<OwnedRoomId>,
}

#[derive(Serialize)]
pub struct Events {
    start: String,
    end: String,
    chunk: Vec<Box<RawValue>>,
}

/// `GET /_matrix/client/v3/events`
///
/// Events of rooms alone: what is in the answer has a room and an event id, by its
/// schema, which presence, typing, receipts and account data have not.
pub async fn events(
    State(api): State<ApiState>,
    auth: Auth,
    Query(query): Query<EventsQuery>,
) -> Result<Json<Events>, ApiError> {
    match &query.room_id {
        Some(room_id) => drop(RoomView::open(&api, auth.user_id(), room_id)?),
        // Guests have but the stream of one room (*Guest Access*).
        None if auth.0.guest => return Err(ApiError::GuestForbidden),
        None => {}
    }
    let wanted = query.timeout.map(Duration::from_millis);
    let request = SyncRequest {
        since: query.from.filter(|from| !from.is_empty()),
        timeout: timeout(&auth, wanted.unwrap_or(TIMEOUT_DEFAULT)),
        ..request(&auth, Filter::default())
    };
    let chunk = api.sync.stream(request, query.room_id).await?;
    Ok(Json(Events {
        start: chunk.start,
        end: chunk.end,
        chunk: chunk.events,
    }))
}

/// A sync of everything that the filter lets through, without waiting.
fn request(auth: &Auth, filter: Filter) -> SyncRequest {
    SyncRequest {
        user: auth.user_id().to_owned(),
        device: auth.device_id().to_owned(),
        since: None,
        filter: Arc::new(filter),
        full_state: false,
        timeout: Duration::ZERO,
        state_section: StateSection::default(),
        access: Some(*auth.token_hash()),
    }
}

/// `GET /_matrix/client/v3/events/{eventId}`
///
/// Looks through the rooms that the user is or was in. 404 for whatever they may
/// not read.
pub async fn event(
    State(api): State<ApiState>,
    auth: Auth,
    Path(event_id): Path<OwnedEventId>,
) -> Result<Json<Box<RawValue>>, ApiError> {
    aside(move || {
        for room in api.rooms.rooms_of(auth.user_id())? {
            let Some(found) = api.rooms.event(&room.room_id, &event_id)? else {
                continue;
            };
            let view = match RoomView::of_single_events(&api, auth.user_id(), &room.room_id) {
                Err(ApiError::Forbidden(_)) => continue,
                opened => opened?,
            };
            if view.may_see(&found)? {
                return Ok(Json(show(&view, &auth).event(&found)?));
            }
        }
        Err(ApiError::NotFound("Event not found"))
    })
    .await
}

/// Query parameters of [`initial_sync`] and [`room_initial_sync`].
#[derive(Debug, Deserialize)]
pub struct InitialQuery {
    /// Messages of each room.
    limit: Option<i64>,
    /// Whether rooms that the user left are included.
    #[serde(default)]
    archived: bool,
}

#[derive(Serialize)]
pub struct Initial {
    end: String,
    presence: Vec<Value>,
    rooms: Vec<RoomInfo>,
    account_data: Vec<Box<RawValue>>,
    /// Not in the specification, as what follows in [`RoomInfo`]: what clients of
    /// its time read.
    receipts: Vec<Value>,
}

/// `RoomInfo`.
#[derive(Serialize)]
pub struct RoomInfo {
    room_id: OwnedRoomId,
    /// None for who looks in from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'static str>,
    /// What invites the user, who then is told nothing else of the room.
    #[serde(skip_serializing_if = "Option::is_none")]
    invite: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Messages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Vec<Box<RawValue>>>,
    visibility: &'static str,
    account_data: Vec<Box<RawValue>>,
    /// Of one room asked for by itself: who of its members is there, for whoever is
    /// in it too. matrix-js-sdk reads it where it looks into a room.
    #[serde(skip_serializing_if = "Option::is_none")]
    presence: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipts: Option<Vec<Value>>,
}

/// `PaginationChunk`: the newest events, in the order of the room.
#[derive(Serialize)]
struct Messages {
    /// None where there is nothing at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    end: String,
    chunk: Vec<Box<RawValue>>,
}

/// `GET /_matrix/client/v3/initialSync`
pub async fn initial_sync(
    State(api): State<ApiState>,
    auth: Auth,
    Query(query): Query<InitialQuery>,
) -> Result<Json<Initial>, ApiError> {
    let limit = pages::limit(query.limit, &RoomEventFilter::default())?;
    // Whoever asks is there, as with the first sync of a newer client.
    let online = Word::Online.state();
    let present = api
        .presence_setter
        .sync(auth.user_id(), auth.device_id(), online)
        .await;
    let beside = momentary(&api, &auth, None).await?;
    drop(present);
    let end = beside.next_batch;
    let desk = Desk::open(api, auth, limit, end.clone())?;
    aside(move || {
        let mut rooms = Vec::new();
        for room in desk.api.rooms.rooms_of(desk.auth.user_id())? {
            rooms.extend(match room.membership {
                Membership::Join => desk.own_room(&room.room_id)?,
                Membership::Invite => desk.invite(&room)?,
                Membership::Leave | Membership::Ban if query.archived => {
                    desk.own_room(&room.room_id)?
                }
                // The format has no word for a knock.
                Membership::Leave | Membership::Ban | Membership::Knock => None,
            });
        }
        Ok(Json(Initial {
            end,
            receipts: receipts(&beside.rooms),
            presence: beside
                .presence
                .events
                .into_iter()
                .map(old_presence)
                .collect(),
            rooms,
            account_data: beside.account_data.events,
        }))
    })
    .await
}

/// What of a sync is no event of a room.
#[derive(Deserialize)]
struct Momentary {
    next_batch: String,
    #[serde(default)]
    account_data: Section<Box<RawValue>>,
    #[serde(default)]
    presence: Section<Value>,
    #[serde(default)]
    rooms: JoinedRooms,
}

#[derive(Default, Deserialize)]
struct JoinedRooms {
    #[serde(default)]
    join: BTreeMap<OwnedRoomId, JoinedRoom>,
}

#[derive(Deserialize)]
struct JoinedRoom {
    #[serde(default)]
    ephemeral: Section<Value>,
}

#[derive(Deserialize)]
struct Section<T> {
    events: Vec<T>,
}

impl<T> Default for Section<T> {
    fn default() -> Section<T> {
        Section { events: Vec::new() }
    }
}

/// Asks sync for it, in one room or in all; it also says where the answer stands.
async fn momentary(
    api: &ApiState,
    auth: &Auth,
    room: Option<&RoomId>,
) -> Result<Momentary, ApiError> {
    let none = RoomEventFilter {
        types: Some(Vec::new()),
        ..RoomEventFilter::default()
    };
    let filter = Filter {
        room: RoomFilter {
            rooms: room.map(|room| BTreeSet::from([room.to_owned()])),
            timeline: none.clone(),
            state: none.clone(),
            account_data: none,
            ..RoomFilter::default()
        },
        ..Filter::default()
    };
    let answer = api.sync.sync(request(auth, filter)).await?;
    serde_json::from_str(&answer).map_err(|error| ApiError::Stored(error.to_string()))
}

/// Presence as it was told then: its content names the user, too.
fn old_presence(mut event: Value) -> Value {
    let sender = event["sender"].clone();
    if let Some(content) = event["content"].as_object_mut() {
        content.insert("user_id".to_owned(), sender);
    }
    event
}

/// The receipts of rooms, which each names.
fn receipts(rooms: &JoinedRooms) -> Vec<Value> {
    let of_room = |(room_id, room): (&OwnedRoomId, &JoinedRoom)| {
        let receipts = room.ephemeral.events.iter();
        let receipts = receipts.filter(|event| event["type"] == "m.receipt");
        let named = receipts.map(|receipt| {
            let mut receipt = receipt.clone();
            receipt["room_id"] = json!(room_id);
            receipt
        });
        named.collect::<Vec<_>>()
    };
    rooms.join.iter().flat_map(of_room).collect()
}

/// `GET /_matrix/client/v3/rooms/{roomId}/initialSync`
pub async fn room_initial_sync(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    Query(query): Query<InitialQuery>,
) -> Result<Json<RoomInfo>, ApiError> {
    let limit = pages::limit(query.limit, &RoomEventFilter::default())?;
    let end = api.sync.position().await;
    let beside = momentary(&api, &auth, Some(&room_id)).await?;
    let desk = Desk::open(api, auth, limit, end)?;
    aside(move || {
        let head = desk.api.rooms.head(&room_id)?;
        // Who is not in the room is told of nobody who is.
        let is_member = |user: &str| match (<&UserId>::try_from(user), &head) {
            (Ok(user), Some(head)) => {
                head.authority.is_joined(desk.auth.user_id()) && head.authority.is_joined(user)
            }
            _ => false,
        };
        let presence = beside.presence.events.into_iter();
        let presence = presence.filter(|event| event["sender"].as_str().is_some_and(is_member));
        let room = desk.room(&room_id)?;
        Ok(Json(RoomInfo {
            presence: Some(presence.map(old_presence).collect()),
            receipts: Some(receipts(&beside.rooms)),
            ..room
        }))
    })
    .await
}

/// Runs what reads much where it holds nobody up.
async fn aside<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    spawn_blocking(read).await.map_err(|_| ApiError::Panicked)?
}

/// What descriptions of rooms are made with.
struct Desk {
    api: ApiState,
    auth: Auth,
    limit: usize,
    /// Where `/events` goes on. Taken before anything is read: what comes
    /// meanwhile is told twice rather than never.
    end: String,
    /// Rooms in the published directory.
    published: BTreeSet<OwnedRoomId>,
}

impl Desk {
    fn open(api: ApiState, auth: Auth, limit: usize, end: String) -> Result<Desk, ApiError> {
        let published = api.rooms.published()?.into_iter().collect();
        Ok(Desk {
            api,
            auth,
            limit,
            end,
            published,
        })
    }

    /// A room that the user is or was in; none for one that they forgot.
    fn own_room(&self, room_id: &RoomId) -> Result<Option<RoomInfo>, ApiError> {
        if self.api.users.forgot(self.auth.user_id(), room_id) {
            return Ok(None);
        }
        match self.room(room_id) {
            // Who was banned without having been in it, for instance.
            Err(ApiError::Forbidden(_)) => Ok(None),
            room => room.map(Some),
        }
    }

    fn room(&self, room_id: &RoomId) -> Result<RoomInfo, ApiError> {
        let user = self.auth.user_id();
        let view = RoomView::open(&self.api, user, room_id)?;
        let show = show(&view, &self.auth);
        let everything = RoomEventFilter::default();
        let (from, back) = (Place::END, Direction::Backward);
        let mut page = walk(&view, from, None, back, self.limit, &everything)?;
        page.events.reverse();
        let entries: Vec<EventSn> = view.state()?.values().copied().collect();
        let membership = view.head.authority.membership(user);
        Ok(RoomInfo {
            room_id: room_id.to_owned(),
            membership: membership.map(Membership::as_str),
            invite: None,
            messages: Some(Messages {
                start: page.last.map(|last| token(last, false)),
                end: self.end.clone(),
                chunk: show.timeline(&page.events)?,
            }),
            state: Some(show.state(&view.events(&entries)?)?),
            visibility: self.visibility(room_id),
            account_data: self.account_data(room_id)?,
            presence: None,
            receipts: None,
        })
    }

    /// A room that the user is invited to, unless they want no such invite.
    fn invite(&self, room: &RoomMembership) -> Result<Option<RoomInfo>, ApiError> {
        let user = self.auth.user_id();
        let room_id = &room.room_id;
        let invite = self.api.rooms.events(room_id, &[room.event])?.pop();
        let unwanted = Unwanted::of(&*self.api.users, user);
        let Some(invite) = invite.filter(|invite| !unwanted.invite_from(&invite.sender)) else {
            return Ok(None);
        };
        let view = RoomView::of_single_events(&self.api, user, room_id)?;
        Ok(Some(RoomInfo {
            room_id: room_id.to_owned(),
            membership: Some(Membership::Invite.as_str()),
            invite: Some(show(&view, &self.auth).event(&invite)?),
            messages: None,
            state: None,
            visibility: self.visibility(room_id),
            account_data: self.account_data(room_id)?,
            presence: None,
            receipts: None,
        }))
    }

    fn visibility(&self, room_id: &RoomId) -> &'static str {
        match self.published.contains(room_id) {
            true => "public",
            false => "private",
        }
    }

    fn account_data(&self, room_id: &RoomId) -> Result<Vec<Box<RawValue>>, ApiError> {
        let user = self.auth.user_id();
        let data = self.api.users.all_account_data(user, Some(room_id));
        data.iter().map(account_data_event).collect()
    }
}

/// Account data as an event.
fn account_data_event(datum: &AccountDatum) -> Result<Box<RawValue>, ApiError> {
    #[derive(Serialize)]
    struct Event<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        content: &'a RawValue,
    }
    let stored = |error: serde_json::Error| ApiError::Stored(error.to_string());
    let content = serde_json::from_str(&datum.content).map_err(stored)?;
    let kind = &datum.event_type;
    to_raw_value(&Event { kind, content }).map_err(stored)
}
