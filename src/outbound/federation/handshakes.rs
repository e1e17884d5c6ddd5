//! The two steps by which a server that is not in a room has an event of its
//! user put there: `make_join`, `make_knock`, `make_leave` and what is sent
//! after each (server-server API, *Joining Rooms*, *Knocking upon a room*,
//! *Leaving Rooms*).

use std::time::Duration;

use reqwest::Method;
use ruma::{EventId, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{Bounds, FederationClient, Request};
use super::queries::{segment, uri};
use super::raw_events::{self, Events};
use super::state_answer::{OF_A_JOIN, PACE, StateAnswer};
use crate::matrix::Membership;
use crate::matrix::canonical_json::{
    CanonicalJsonObject, Numbers, parse_object, parse_object_with,
};
use crate::outbound::answer::RequestError;
use crate::outbound::json_stream::Form;

/// What is made and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    Join,
    Knock,
    Leave,
}

impl Handshake {
    fn word(self) -> &'static str {
        match self {
            Handshake::Join => "join",
            Handshake::Knock => "knock",
            Handshake::Leave => "leave",
        }
    }

    /// The membership that the event has.
    pub fn membership(self) -> Membership {
        match self {
            Handshake::Join => Membership::Join,
            Handshake::Knock => Membership::Knock,
            Handshake::Leave => Membership::Leave,
        }
    }
}

/// A template has one event.
const MAKE_BOUNDS: Bounds = Bounds {
    answer_bytes_max: 256 * 1024,
    timeout: Duration::from_secs(20),
};
/// Stripped state, or nothing.
const SEND_BOUNDS: Bounds = Bounds {
    answer_bytes_max: 1024 * 1024,
    timeout: Duration::from_secs(60),
};
/// Stripped events that are looked at of a knock's answer.
const KNOCK_STATE_MAX: usize = 64;

/// What a resident proposes. Nothing of it is checked.
#[derive(Debug)]
pub struct Template {
    /// None: version 1 or 2, of a server that knows no others.
    pub room_version: Option<String>,
    pub event: CanonicalJsonObject,
}

/// Asks a server for a template.
pub async fn make(
    client: &FederationClient,
    server: &ServerName,
    handshake: Handshake,
    (room, user): (&RoomId, &UserId),
    versions: impl Iterator<Item = &str>,
) -> Result<Template, RequestError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        room_version: Option<String>,
        #[serde(borrow)]
        event: &'a RawValue,
    }
    let mut path = format!(
        "/_matrix/federation/v1/make_{}/{}/{}",
        handshake.word(),
        segment(room.as_str()),
        segment(user.as_str())
    );
    // The versions of a room that one leaves do not matter.
    if handshake != Handshake::Leave {
        let versions: Vec<_> = versions.map(|version| ("ver", version)).collect();
        path = uri(&path, &versions);
    }
    let request = Request::get(&path, MAKE_BOUNDS);
    let answer = client.send(server, &request).await?;
    let read: Answer<'_> = raw_events::read(&answer)?;
    let event = parse_object_with(read.event.get().as_bytes(), Numbers::Kept);
    Ok(Template {
        room_version: read.room_version,
        event: event.map_err(|_| RequestError::NotJson)?,
    })
}

/// Sends a join, and asks for the whole state.
pub async fn send_join<'c>(
    client: &'c FederationClient,
    server: &ServerName,
    ids: (&RoomId, &EventId),
    event: &CanonicalJsonObject,
) -> Result<StateAnswer<'c>, RequestError> {
    let mut path = path(2, "join", ids);
    path.push_str("?omit_members=false");
    let opened = client
        .open(server, (Method::PUT, &path, Some(event)), PACE)
        .await;
    let ((body, permit), form) = match opened {
        Ok(opened) => (opened, Form::Bare),
        Err(error) if is_unknown_path(&error) => {
            let path = self::path(1, "join", ids);
            let request = (Method::PUT, &*path, Some(event));
            (client.open(server, request, PACE).await?, Form::Pair)
        }
        Err(error) => return Err(error),
    };
    Ok(StateAnswer::new(body, permit, OF_A_JOIN, form))
}

/// Sends a knock; the stripped state that comes back, unchecked.
pub async fn send_knock(
    client: &FederationClient,
    server: &ServerName,
    (room, event_id): (&RoomId, &EventId),
    event: &CanonicalJsonObject,
) -> Result<Vec<CanonicalJsonObject>, RequestError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow, default)]
        knock_room_state: Events<'a, KNOCK_STATE_MAX>,
    }
    let path = path(1, "knock", (room, event_id));
    let request = Request {
        method: Method::PUT,
        uri: &path,
        body: Some(event),
        bounds: SEND_BOUNDS,
    };
    let answer = client.send(server, &request).await?;
    let read: Answer<'_> = raw_events::read(&answer)?;
    let events = read.knock_room_state.within(&answer).into_iter();
    Ok(events
        .filter_map(|event| parse_object(&event).ok())
        .collect())
}

/// Sends a leave: an invite is rejected, a knock is taken back.
pub async fn send_leave(
    client: &FederationClient,
    server: &ServerName,
    ids: (&RoomId, &EventId),
    event: &CanonicalJsonObject,
) -> Result<(), RequestError> {
    let path = path(2, "leave", ids);
    let mut request = Request {
        method: Method::PUT,
        uri: &path,
        body: Some(event),
        bounds: SEND_BOUNDS,
    };
    match client.send(server, &request).await {
        Err(error) if is_unknown_path(&error) => {
            let path = self::path(1, "leave", ids);
            request.uri = &path;
            client.send(server, &request).await.map(drop)
        }
        sent => sent.map(drop),
    }
}

fn path(version: u8, what: &str, (room, event_id): (&RoomId, &EventId)) -> String {
    format!(
        "/_matrix/federation/v{version}/send_{what}/{}/{}",
        segment(room.as_str()),
        segment(event_id.as_str())
    )
}

/// Whether the other server does not know the endpoint, which it says with 404
/// and `M_UNRECOGNIZED`, or in older versions without a code.
pub(super) fn is_unknown_path(error: &RequestError) -> bool {
    match error {
        RequestError::Refused(refusal) => match refusal.errcode.as_str() {
            "M_UNRECOGNIZED" => true,
            "" => matches!(refusal.status, 404 | 405),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::answer::Refusal;

    #[test]
    fn version_1_is_for_servers_that_know_no_other() {
        let refused = |status: u16, errcode: &str| {
            is_unknown_path(&RequestError::Refused(Refusal {
                status,
                errcode: errcode.to_owned(),
                error: String::new(),
                room_version: None,
            }))
        };
        assert!(
            refused(404, "M_UNRECOGNIZED") && refused(404, "") && refused(400, "M_UNRECOGNIZED")
        );
        assert!(!refused(404, "M_NOT_FOUND") && !refused(403, "M_FORBIDDEN") && !refused(502, ""));
    }
}
