//! Rooms of other servers from outside: `POST /publicRooms` and
//! `GET /hierarchy/{roomId}` (server-server API, *Published Room Directory* and
//! *Spaces*). Of what comes the fields that the specification has are kept.

use std::time::Duration;

use reqwest::Method;
use ruma::{OwnedRoomId, RoomId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::client::{Bounds, FederationClient, Request};
use super::queries::{segment, uri};
use super::raw_events::Listed;
use crate::limits::{PUBLIC_ROOMS_MAX, SPACE_CHILDREN_MAX};
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::outbound::answer::RequestError;

/// A client waits, maybe for several.
const BOUNDS: Bounds = Bounds {
    answer_bytes_max: 4 * 1024 * 1024,
    timeout: Duration::from_secs(10),
};
/// Rooms whose members may join a restricted one, as far as they are looked at.
const ALLOWED_ROOMS_MAX: usize = 256;

/// `PublishedRoomsChunk`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ListedRoom {
    pub room_id: OwnedRoomId,
    pub num_joined_members: u64,
    #[serde(default)]
    pub world_readable: bool,
    #[serde(default)]
    pub guest_can_join: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
}

/// A page of another server's directory.
#[derive(Debug, Deserialize, Serialize)]
pub struct Listing {
    pub chunk: Listed<ListedRoom, { 10 * PUBLIC_ROOMS_MAX }>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_room_count_estimate: Option<u64>,
}

/// `RoomSummary`, with the children of a space.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SummedUp {
    #[serde(flatten)]
    pub room: ListedRoom,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_room_ids: Vec<OwnedRoomId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_version: Option<String>,
    #[serde(default)]
    pub children_state: Vec<ChildState>,
}

/// An `m.space.child` as it is shown of a space.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ChildState {
    #[serde(rename = "type")]
    pub kind: String,
    pub state_key: String,
    pub sender: String,
    pub origin_server_ts: u64,
    pub content: Map<String, Value>,
}

/// A page of the directory of a server.
pub async fn public_rooms(
    client: &FederationClient,
    server: &ServerName,
    search: &CanonicalJsonObject,
) -> Result<Listing, RequestError> {
    let request = Request {
        method: Method::POST,
        uri: "/_matrix/federation/v1/publicRooms",
        body: Some(search),
        bounds: BOUNDS,
    };
    client.ask(server, &request).await
}

/// A room as a server in it describes it, and its children, if it is a space.
pub async fn hierarchy(
    client: &FederationClient,
    server: &ServerName,
    room: &RoomId,
) -> Result<SummedUp, RequestError> {
    #[derive(Deserialize)]
    struct Answer {
        room: SummedUp,
    }
    let path = format!(
        "/_matrix/federation/v1/hierarchy/{}",
        segment(room.as_str())
    );
    let uri = uri(&path, &[("suggested_only", "false")]);
    let request = Request::get(&uri, BOUNDS);
    let answer: Answer = client.ask(server, &request).await?;
    let mut room = answer.room;
    room.allowed_room_ids.truncate(ALLOWED_ROOMS_MAX);
    room.children_state.truncate(SPACE_CHILDREN_MAX);
    Ok(room)
}
