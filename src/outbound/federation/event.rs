//! `GET /_matrix/federation/v1/event/{eventId}` and `/event_auth/{roomId}/{eventId}`:
//! one event, and what authorises it (server-server API, *Retrieving events* and
//! *Retrieving event authorization information*).

use std::time::Duration;

use bytes::Bytes;
use ruma::{EventId, RoomId, ServerName};
use serde::Deserialize;

use super::client::{Bounds, FederationClient, Request};
use super::queries::segment;
use super::raw_events::{self, Events};
use crate::limits::PDU_BYTES_MAX;
use crate::outbound::answer::RequestError;

/// Events of one auth chain. It is made of memberships, power levels and join
/// rules: some hundred in most rooms.
pub const AUTH_CHAIN_MAX: usize = 20_000;
/// One event, with what is around it.
const EVENT_BOUNDS: Bounds = Bounds {
    answer_bytes_max: 2 * PDU_BYTES_MAX,
    timeout: Duration::from_secs(20),
};
const AUTH_BOUNDS: Bounds = Bounds {
    answer_bytes_max: 32 * 1024 * 1024,
    timeout: Duration::from_secs(30),
};

/// One event, unread and unchecked; none if the answer has none or several.
pub async fn event(
    client: &FederationClient,
    server: &ServerName,
    event: &EventId,
) -> Result<Option<Bytes>, RequestError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        pdus: Events<'a, 1>,
    }
    let uri = format!("/_matrix/federation/v1/event/{}", segment(event.as_str()));
    let request = Request::get(&uri, EVENT_BOUNDS);
    let answer = client.send(server, &request).await?;
    let read: Answer<'_> = raw_events::read(&answer)?;
    Ok(read.pdus.within(&answer).pop())
}

/// The auth chain of an event, unread and unchecked.
pub async fn event_auth(
    client: &FederationClient,
    server: &ServerName,
    room: &RoomId,
    event: &EventId,
) -> Result<Vec<Bytes>, RequestError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        auth_chain: Events<'a, AUTH_CHAIN_MAX>,
    }
    let uri = format!(
        "/_matrix/federation/v1/event_auth/{}/{}",
        segment(room.as_str()),
        segment(event.as_str())
    );
    let request = Request::get(&uri, AUTH_BOUNDS);
    let answer = client.send(server, &request).await?;
    let read: Answer<'_> = raw_events::read(&answer)?;
    Ok(read.auth_chain.within(&answer))
}
