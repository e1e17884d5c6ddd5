//! `GET /_matrix/federation/v1/state_ids/{roomId}` and `/state/{roomId}`: the
//! state before an event (server-server API, *Retrieving the complete state*...).

use std::time::Duration;

use reqwest::Method;
use ruma::{EventId, OwnedEventId, RoomId, ServerName};
use serde::Deserialize;

use super::client::{Bounds, FederationClient, Request};
use super::queries::{segment, uri};
use super::raw_events::{self, Listed};
use super::state_answer::{OF_A_STATE, PACE, STATE_EVENTS_MAX, StateAnswer};
use crate::outbound::answer::RequestError;
use crate::outbound::json_stream::Form;

/// Two lists of ids of some 45 bytes.
const IDS_BOUNDS: Bounds = Bounds {
    answer_bytes_max: 24 * 1024 * 1024,
    timeout: Duration::from_secs(60),
};
/// The state before an event, as a server tells it.
#[derive(Debug)]
pub struct StateIds {
    pub state: Vec<OwnedEventId>,
    /// What authorises the state's events, and what authorises that, and so on.
    pub auth_chain: Vec<OwnedEventId>,
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

/// The events of the state before an event, read while they come.
pub async fn state<'c>(
    client: &'c FederationClient,
    server: &ServerName,
    room: &RoomId,
    event: &EventId,
) -> Result<StateAnswer<'c>, RequestError> {
    let uri = path("state", room, event);
    let (body, permit) = client.open(server, (Method::GET, &uri, None), PACE).await?;
    Ok(StateAnswer::new(body, permit, OF_A_STATE, Form::Bare))
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
