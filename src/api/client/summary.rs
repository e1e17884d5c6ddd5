//! What a room looks like from outside: `GET /room_summary/{roomIdOrAlias}`
//! (*Room Summaries*), and the same description for the directory and for spaces.

use axum::Json;
use axum::extract::State;
use log_format::record::output::{Membership, Visibility};
use ruma::{OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName, RoomId, UserId};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::membership::{self, Parameters, resolve, servers};
use crate::api::auth::MaybeAuth;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query};
use crate::api::rate_limit::Limit;
use crate::api::{Api, ApiState};
use crate::query::joining::{allowed_rooms, may_know_of};
use crate::query::rooms::{RoomHead, StateKey};
use crate::writers::federation::queries::{ListedRoom, SummedUp};

/// `PublishedRoomsChunk`: what the directory says of a room.
#[derive(Clone, Debug, Serialize)]
pub struct PublicRoom {
    pub room_id: OwnedRoomId,
    pub num_joined_members: u64,
    world_readable: bool,
    guest_can_join: bool,
    join_rule: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
}

/// `RoomSummary`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    #[serde(flatten)]
    pub room: PublicRoom,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_room_ids: Vec<OwnedRoomId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption: Option<String>,
    room_version: String,
}

/// A summary as one user is given it.
#[derive(Serialize)]
pub struct Response {
    #[serde(flatten)]
    summary: Sight,
    /// Left out for who gave no token.
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'static str>,
}

/// `GET /_matrix/client/v1/room_summary/{roomIdOrAlias}`, open to everybody for
/// rooms that anybody may know of. 404 for all others.
pub async fn summary(
    State(api): State<ApiState>,
    MaybeAuth(auth): MaybeAuth,
    Path(room): Path<OwnedRoomOrAliasId>,
    Query(named): Query<Parameters>,
) -> Result<Json<Response>, ApiError> {
    let user = auth.as_ref().map(|auth| auth.user_id());
    find(&api, user, &room, servers(named)).await.map(Json)
}

/// `GET /_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}` and
/// `…/rooms/{roomIdOrAlias}/summary`: as clients asked before it was specified
/// (MSC3266), with two names of that time beside today's.
pub async fn unstable_summary(
    State(api): State<ApiState>,
    MaybeAuth(auth): MaybeAuth,
    Path(room): Path<OwnedRoomOrAliasId>,
    Query(named): Query<Parameters>,
) -> Result<Json<Value>, ApiError> {
    let user = auth.as_ref().map(|auth| auth.user_id());
    let found = find(&api, user, &room, servers(named)).await?;
    let (version, encryption) = match &found.summary {
        Sight::Here(summary) => (
            Some(summary.room_version.clone()),
            summary.encryption.clone(),
        ),
        Sight::Elsewhere(told) => (told.room_version.clone(), told.encryption.clone()),
    };
    let mut body = json!(found);
    if let Value::Object(body) = &mut body {
        body.insert("im.nheko.summary.room_version".into(), json!(version));
        body.extend(encryption.map(|name| ("im.nheko.summary.encryption".to_owned(), json!(name))));
    }
    Ok(Json(body))
}

/// A room that we know, or one that another server describes.
#[derive(Serialize)]
#[serde(untagged)]
enum Sight {
    Here(Box<Summary>),
    Elsewhere(Box<Elsewhere>),
}

/// What another server says of a room, without its children.
#[derive(Serialize)]
struct Elsewhere {
    #[serde(flatten)]
    room: ListedRoom,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_room_ids: Vec<OwnedRoomId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_version: Option<String>,
}

const UNKNOWN: ApiError = ApiError::NotFound("Room not found");

async fn find(
    api: &Api,
    user: Option<&UserId>,
    room: &OwnedRoomOrAliasId,
    servers: Vec<OwnedServerName>,
) -> Result<Response, ApiError> {
    let found = match user {
        // Strangers do not have us ask others.
        None => (resolve(api, room).map_err(|_| UNKNOWN)?, Vec::new()),
        Some(_) => membership::find(api, room, servers)
            .await
            .map_err(|_| UNKNOWN)?,
    };
    let (room_id, servers) = found;
    let head = api.rooms.head(&room_id)?;
    let head = head.filter(|head| api.remote.lives_here(head));
    let Some(head) = head else {
        let user = user.ok_or(UNKNOWN)?;
        return find_elsewhere(api, user, &room_id, servers).await;
    };
    if !may_know_of(&*api.rooms, &head, user)? {
        return Err(UNKNOWN);
    }
    let membership = user.map(|user| head.authority.membership(user));
    Ok(Response {
        summary: Sight::Here(Box::new(summarise(api, &head)?)),
        membership: membership.map(|now| now.unwrap_or(Membership::Leave).as_str()),
    })
}

async fn find_elsewhere(
    api: &Api,
    user: &UserId,
    room_id: &RoomId,
    servers: Vec<OwnedServerName>,
) -> Result<Response, ApiError> {
    api.rate_limits.check(Limit::RemoteLookup, user.as_str())?;
    let maker = room_id.server_name().map(ToOwned::to_owned);
    let servers = servers.into_iter().chain(maker);
    let told = api.queries.room(room_id, servers).await.ok_or(UNKNOWN)?;
    if !may_know_of_elsewhere(api, user, &told)? {
        return Err(UNKNOWN);
    }
    let membership = api.rooms.membership(room_id, user)?;
    Ok(Response {
        summary: Sight::Elsewhere(Box::new(Elsewhere {
            room: told.room.clone(),
            allowed_room_ids: told.allowed_room_ids.clone(),
            encryption: told.encryption.clone(),
            room_version: told.room_version.clone(),
        })),
        membership: Some(membership.unwrap_or(Membership::Leave).as_str()),
    })
}

/// Whether a user of ours may know of a room that another server described to us:
/// it said what some user of ours may know. The same as [`may_know_of`].
pub fn may_know_of_elsewhere(api: &Api, user: &UserId, told: &SummedUp) -> Result<bool, ApiError> {
    let membership = api.rooms.membership(&told.room.room_id, user)?;
    match membership {
        Some(Membership::Invite) => return Ok(true),
        Some(Membership::Ban) => return Ok(false),
        _ => {}
    }
    let rule = told.room.join_rule.as_deref().unwrap_or("public");
    if told.room.world_readable || ["public", "knock", "knock_restricted"].contains(&rule) {
        return Ok(true);
    }
    if rule != "restricted" {
        return Ok(false);
    }
    for allowed in &told.allowed_room_ids {
        if api.rooms.membership(allowed, user)? == Some(Membership::Join) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The description of a room as it is now.
pub fn summarise(api: &Api, head: &RoomHead) -> Result<Summary, ApiError> {
    let encryption = content(api, head, "m.room.encryption")?;
    Ok(Summary {
        room: describe(api, head)?,
        allowed_room_ids: allowed_rooms(&*api.rooms, head)?,
        encryption: encryption.and_then(|content| text(&content, "algorithm")),
        room_version: head.version.to_string(),
    })
}

/// The part of it that the directory shows.
pub fn describe(api: &Api, head: &RoomHead) -> Result<PublicRoom, ApiError> {
    let field = |kind: &str, field: &str| -> Result<Option<String>, ApiError> {
        let content = content(api, head, kind)?;
        Ok(content.and_then(|content| text(&content, field)))
    };
    let topic = content(api, head, "m.room.topic")?;
    Ok(PublicRoom {
        room_id: head.room_id.clone(),
        num_joined_members: head.joined_members,
        world_readable: head.visibility == Visibility::WorldReadable,
        guest_can_join: field("m.room.guest_access", "guest_access")?.as_deref()
            == Some("can_join"),
        join_rule: head.authority.join_rule.clone(),
        name: field("m.room.name", "name")?,
        topic: topic.and_then(|content| plain_topic(&content)),
        avatar_url: field("m.room.avatar", "url")?,
        canonical_alias: field("m.room.canonical_alias", "alias")?,
        room_type: field("m.room.create", "type")?,
    })
}

/// The plain text of a topic: that of `m.topic` if it has one, else `topic`
/// (*m.room.topic*).
fn plain_topic(content: &Map<String, Value>) -> Option<String> {
    let texts = content.get("m.topic").and_then(|topic| topic.get("m.text"));
    let texts = texts.and_then(Value::as_array).into_iter().flatten();
    let plain = texts.filter_map(Value::as_object).find(|text| {
        let kind = text.get("mimetype");
        kind.is_none_or(|kind| kind == "text/plain")
    });
    plain
        .and_then(|plain| text(plain, "body"))
        .or_else(|| text(content, "topic"))
}

/// The content of a state event with an empty key.
pub fn content(
    api: &Api,
    head: &RoomHead,
    kind: &str,
) -> Result<Option<Map<String, Value>>, ApiError> {
    #[derive(serde::Deserialize)]
    struct Event {
        content: Map<String, Value>,
    }
    let Some(event) = head.state.get(&StateKey::new(kind, "")) else {
        return Ok(None);
    };
    let event = api.rooms.events(&head.room_id, &[*event])?.pop();
    let event = event.and_then(|event| serde_json::from_slice::<Event>(&event.json).ok());
    Ok(event.map(|event| event.content))
}

/// A text that is there and not empty.
fn text(content: &Map<String, Value>, field: &str) -> Option<String> {
    let text = content.get(field)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}
