//! `GET|PUT|DELETE /directory/room/{roomAlias}`, `GET /rooms/{roomId}/aliases`
//! (*Room aliases*) and `GET|PUT /directory/list/room/{roomId}` (*Published
//! room directory*).

use axum::Json;
use axum::extract::State;
use log_format::record::output::Visibility as HistoryVisibility;
use ruma::{OwnedRoomAliasId, OwnedRoomId, RoomAliasId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::visible::{NOT_A_MEMBER, RoomView};
use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Json as Body, OptionalJson, Path};
use crate::query::users::Alias;

#[derive(Deserialize)]
pub struct AliasTarget {
    room_id: OwnedRoomId,
}

/// `GET /_matrix/client/v3/directory/room/{roomAlias}`, open to everybody
pub async fn resolve(
    State(api): State<ApiState>,
    Path(alias): Path<OwnedRoomAliasId>,
) -> Result<Json<Value>, ApiError> {
    let (room_id, servers) = match alias.server_name() == api.settings.server_name {
        true => {
            let known = of_local(&api, &alias)?;
            (known.room_id, known.servers)
        }
        false => {
            let known = api.queries.directory(&alias).await?;
            (known.room_id, known.servers)
        }
    };
    Ok(Json(json!({ "room_id": room_id, "servers": servers })))
}

/// An alias of ours that leads to a room.
pub fn of_local(api: &ApiState, alias: &RoomAliasId) -> Result<Alias, ApiError> {
    // A crash can leave an alias whose room never came to be.
    match api.users.alias(alias) {
        Some(known) if api.rooms.head(&known.room_id)?.is_some() => Ok(known),
        _ => Err(ApiError::NotFound("Room alias not found")),
    }
}

/// `PUT /_matrix/client/v3/directory/room/{roomAlias}`
pub async fn create(
    State(api): State<ApiState>,
    auth: Auth,
    Path(alias): Path<OwnedRoomAliasId>,
    Body(target): Body<AliasTarget>,
) -> Result<Json<Value>, ApiError> {
    api.room_writer
        .create_alias(auth.user_id(), &alias, &target.room_id)
        .await?;
    Ok(Json(json!({})))
}

/// `DELETE /_matrix/client/v3/directory/room/{roomAlias}`
pub async fn remove(
    State(api): State<ApiState>,
    auth: Auth,
    Path(alias): Path<OwnedRoomAliasId>,
) -> Result<Json<Value>, ApiError> {
    api.room_writer.delete_alias(auth.user_id(), &alias).await?;
    Ok(Json(json!({})))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/aliases`: for members, and for
/// everybody where the room is world readable.
pub async fn aliases(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
) -> Result<Json<Value>, ApiError> {
    let view = RoomView::open(&api, auth.user_id(), &room_id)?;
    if !view.is_joined() && view.head.visibility != HistoryVisibility::WorldReadable {
        return Err(NOT_A_MEMBER);
    }
    Ok(Json(json!({ "aliases": api.users.aliases_of(&room_id) })))
}

/// Whether a room stands in the published directory.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Visibility {
    #[default]
    Public,
    Private,
}

#[derive(Deserialize, Serialize)]
pub struct Listing {
    #[serde(default)]
    visibility: Visibility,
}

/// `GET /_matrix/client/v3/directory/list/room/{roomId}`, open to everybody
pub async fn listing(
    State(api): State<ApiState>,
    Path(room_id): Path<OwnedRoomId>,
) -> Result<Json<Listing>, ApiError> {
    if api.rooms.head(&room_id)?.is_none() {
        return Err(ApiError::NotFound("Room not found"));
    }
    let visibility = match api.rooms.published()?.contains(&room_id) {
        true => Visibility::Public,
        false => Visibility::Private,
    };
    Ok(Json(Listing { visibility }))
}

/// `PUT /_matrix/client/v3/directory/list/room/{roomId}`
pub async fn set_listing(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    OptionalJson(listing): OptionalJson<Listing>,
) -> Result<Json<Value>, ApiError> {
    let published = listing.visibility == Visibility::Public;
    api.room_writer
        .publish(auth.user_id(), &room_id, published)
        .await?;
    Ok(Json(json!({})))
}
