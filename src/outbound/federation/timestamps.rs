//! `GET /_matrix/federation/v1/timestamp_to_event/{roomId}`: the event that was
//! sent next to a time, as another server has it (server-server API, *Retrieving
//! events*).

use ruma::{OwnedEventId, RoomId, ServerName};
use serde::Deserialize;

use super::client::{Bounds, FederationClient, Request};
use super::queries::{segment, uri};
use crate::outbound::answer::RequestError;

/// An event, and when its server says that it was sent.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Closest {
    pub event_id: OwnedEventId,
    pub origin_server_ts: u64,
}

/// The event next to a time in milliseconds since the epoch: at it or later if
/// `forward`, else at it or earlier. Unchecked: the server may say anything.
pub async fn timestamp_to_event(
    client: &FederationClient,
    server: &ServerName,
    room: &RoomId,
    (ts, forward): (u64, bool),
) -> Result<Closest, RequestError> {
    let room = segment(room.as_str());
    let path = format!("/_matrix/federation/v1/timestamp_to_event/{room}");
    let direction = if forward { "f" } else { "b" };
    let uri = uri(&path, &[("ts", &ts.to_string()), ("dir", direction)]);
    client.ask(server, &Request::get(&uri, Bounds::SMALL)).await
}
