//! `GET /_matrix/federation/v1/state_ids/{roomId}` and `/state/{roomId}`: the
//! state before an event (server-server API, *Retrieving the complete state*...).

use std::time::Duration;

use bytes::Bytes;
use ruma::{EventId, OwnedEventId, RoomId, ServerName};
use serde::Deserialize;

use super::client::{Bounds, FederationClient, Request};
use super::queries::{segment, uri};
use super::raw_events::{self, Events, Listed};
use crate::outbound::answer::RequestError;

/// Events of one state, and as many of its auth chain. The largest known rooms
/// have some 100,000 members.
pub const STATE_EVENTS_MAX: usize = 200_000;
/// Two lists of ids of some 45 bytes.
const IDS_BOUNDS: Bounds = Bounds {
    answer_bytes_max: 24 * 1024 * 1024,
    timeout: Duration::from_secs(60),
};
/// A member event has about 1 KiB.
const STATE_BOUNDS: Bounds = Bounds {
    answer_bytes_max: 128 * 1024 * 1024,
    timeout: Duration::from_secs(180),
};

/// The state before an event, as a server tells it.
#[derive(Debug)]
pub struct StateIds {
    pub state: Vec<OwnedEventId>,
    /// What authorises the state's events, and what authorises that, and so on.
    pub auth_chain: Vec<OwnedEventId>,
}

/// The same with the events, unread.
#[derive(Debug)]
pub struct StateEvents {
    pub state: Vec<Bytes>,
    pub auth_chain: Vec<Bytes>,
}

/// The ids of the state before an event.
pub async fn state_ids(
    client: &FederationClient,
    server: &ServerName,
    room: &RoomId,
    event: &EventId,
) -> Result<StateIds, RequestError> {
    #[derive(Deserialize)]
    struct Answer {
        pdu_ids: Listed<OwnedEventId, STATE_EVENTS_MAX>,
        auth_chain_ids: Listed<OwnedEventId, STATE_EVENTS_MAX>,
    }
    let uri = path("state_ids", room, event);
    let request = Request::get(&uri, IDS_BOUNDS);
    let answer = client.send(server, &request).await?;
    let read: Answer = raw_events::read(&answer)?;
    Ok(StateIds {
        state: read.pdu_ids.0,
        auth_chain: read.auth_chain_ids.0,
    })
}

/// The events of the state before an event. They share one buffer.
pub async fn state(
    client: &FederationClient,
    server: &ServerName,
    room: &RoomId,
    event: &EventId,
) -> Result<StateEvents, RequestError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        pdus: Events<'a, STATE_EVENTS_MAX>,
        #[serde(borrow)]
        auth_chain: Events<'a, STATE_EVENTS_MAX>,
    }
    let uri = path("state", room, event);
    let request = Request::get(&uri, STATE_BOUNDS);
    let answer = client.send(server, &request).await?;
    let read: Answer<'_> = raw_events::read(&answer)?;
    Ok(StateEvents {
        state: read.pdus.within(&answer),
        auth_chain: read.auth_chain.within(&answer),
    })
}

fn path(what: &str, room: &RoomId, event: &EventId) -> String {
    let path = format!("/_matrix/federation/v1/{what}/{}", segment(room.as_str()));
    uri(&path, &[("event_id", event.as_str())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_encoded() {
        let (room, event) = (ruma::room_id!("!a/b:hs"), ruma::event_id!("$c+d:hs"));
        assert_eq!(
            path("state_ids", room, event),
            "/_matrix/federation/v1/state_ids/!a%2Fb:hs?event_id=%24c%2Bd%3Ahs"
        );
    }
}
