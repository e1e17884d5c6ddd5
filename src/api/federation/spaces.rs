//! `GET /hierarchy/{roomId}`: a space and its children, as far as we know them and
//! the other server may (server-server API, *Spaces*).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use ruma::{OwnedRoomId, RoomId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;

use super::auth::Signed;
use crate::api::client::spaces::children;
use crate::api::client::summary::{Summary, summarise};
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query};
use crate::api::rate_limit::Limit;
use crate::api::{Api, ApiState};
use crate::query::joining::may_server_know_of;
use crate::query::rooms::RoomHead;

/// The same for rooms that are hidden as for those that are not there.
const UNKNOWN: ApiError = ApiError::NotFound("Room not found");

#[derive(Deserialize)]
pub struct HierarchyQuery {
    #[serde(default)]
    suggested_only: bool,
}

#[derive(Serialize)]
pub struct Hierarchy {
    room: Space,
    children: Vec<Summary>,
    inaccessible_children: Vec<OwnedRoomId>,
}

#[derive(Serialize)]
struct Space {
    #[serde(flatten)]
    summary: Summary,
    children_state: Vec<Box<RawValue>>,
}

/// `GET /_matrix/federation/v1/hierarchy/{roomId}`
pub async fn hierarchy(
    State(api): State<ApiState>,
    Signed { origin }: Signed,
    Path(room_id): Path<OwnedRoomId>,
    Query(query): Query<HierarchyQuery>,
) -> Result<Json<Hierarchy>, ApiError> {
    api.rate_limits.check(Limit::History, origin.as_str())?;
    let _turn = api.large_answers.acquire().await;
    let reading = api.clone();
    // Reads some events of each child.
    let read = spawn_blocking(move || read(&reading, &origin, &room_id, query.suggested_only));
    read.await.map_err(|_| ApiError::Panicked)?.map(Json)
}

fn read(
    api: &Api,
    origin: &ServerName,
    room_id: &RoomId,
    suggested_only: bool,
) -> Result<Hierarchy, ApiError> {
    let head = known(api, room_id)?.ok_or(UNKNOWN)?;
    if !is_open(api, &head, origin)? {
        return Err(UNKNOWN);
    }
    let mut hierarchy = Hierarchy {
        room: Space {
            summary: summarise(api, &head)?,
            children_state: Vec::new(),
        },
        children: Vec::new(),
        inaccessible_children: Vec::new(),
    };
    for child in children(api, &head, suggested_only)? {
        hierarchy.room.children_state.push(child.shown);
        // Those that we are not in are for others to describe.
        let Some(head) = known(api, &child.room_id)? else {
            continue;
        };
        match is_open(api, &head, origin)? {
            true => hierarchy.children.push(summarise(api, &head)?),
            false => hierarchy.inaccessible_children.push(child.room_id),
        }
    }
    Ok(hierarchy)
}

/// A room that we are in.
fn known(api: &Api, room_id: &RoomId) -> Result<Option<Arc<RoomHead>>, ApiError> {
    let head = api.rooms.head(room_id)?;
    Ok(head.filter(|head| head.is_resident(&api.settings.server_name)))
}

fn is_open(api: &Api, head: &RoomHead, origin: &ServerName) -> Result<bool, ApiError> {
    Ok(api.acls.allows(head, origin)? && may_server_know_of(&*api.rooms, head, origin)?)
}
