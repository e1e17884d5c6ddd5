//! What a room looks like from outside: `GET /room_summary/{roomIdOrAlias}`
//! (*Room Summaries*), and the same description for the directory and for spaces.

use axum::Json;
use axum::extract::State;
use log_format::record::output::{Membership, Visibility};
use ruma::{OwnedRoomId, OwnedRoomOrAliasId, UserId};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::membership::resolve;
use crate::api::auth::MaybeAuth;
use crate::api::errors::ApiError;
use crate::api::extract::Path;
use crate::api::{Api, ApiState};
use crate::query::joining::{allowed_rooms, may_know_of};
use crate::query::rooms::{RoomHead, StateKey};

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
    summary: Summary,
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
) -> Result<Json<Response>, ApiError> {
    let user = auth.as_ref().map(|auth| auth.user_id());
    find(&api, user, &room).map(Json)
}

/// `GET /_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}` and
/// `…/rooms/{roomIdOrAlias}/summary`: as clients asked before it was specified
/// (MSC3266), with two names of that time beside today's.
pub async fn unstable_summary(
    State(api): State<ApiState>,
    MaybeAuth(auth): MaybeAuth,
    Path(room): Path<OwnedRoomOrAliasId>,
) -> Result<Json<Value>, ApiError> {
    let user = auth.as_ref().map(|auth| auth.user_id());
    let found = find(&api, user, &room)?;
    let version = found.summary.room_version.clone();
    let encryption = found.summary.encryption.clone();
    let mut body = json!(found);
    if let Value::Object(body) = &mut body {
        body.insert("im.nheko.summary.room_version".into(), json!(version));
        body.extend(encryption.map(|name| ("im.nheko.summary.encryption".to_owned(), json!(name))));
    }
    Ok(Json(body))
}

fn find(api: &Api, user: Option<&UserId>, room: &OwnedRoomOrAliasId) -> Result<Response, ApiError> {
    const UNKNOWN: ApiError = ApiError::NotFound("Room not found");
    let room_id = resolve(api, room).map_err(|_| UNKNOWN)?;
    let head = api.rooms.head(&room_id)?.ok_or(UNKNOWN)?;
    if !may_know_of(&*api.rooms, &head, user)? {
        return Err(UNKNOWN);
    }
    let membership = user.map(|user| head.authority.membership(user));
    Ok(Response {
        summary: summarise(api, &head)?,
        membership: membership.map(|now| now.unwrap_or(Membership::Leave).as_str()),
    })
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
