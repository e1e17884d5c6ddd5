//! The two steps by which a server that is not in a room has an event of its
//! user put there: `make_join`, `make_knock`, `make_leave` and what is sent
//! after each (server-server API, *Joining Rooms*, *Knocking upon a room*,
//! *Leaving Rooms*).

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use ruma::{EventId, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{Bounds, FederationClient, Request};
use super::queries::{segment, uri};
use super::raw_events::{self, Events};
use crate::matrix::Membership;
use crate::matrix::canonical_json::{
    CanonicalJsonObject, Numbers, parse_object, parse_object_with,
};
use crate::outbound::answer::RequestError;

/// Events of the state of a room, and as many of what authorises it. The largest
/// known rooms have some 100,000 members.
const STATE_EVENTS_MAX: usize = 200_000;

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
/// The whole state of a room, of which member events of some 1 KiB are the most,
/// and what authorises it; the other server has to look all of it up.
const JOIN_BOUNDS: Bounds = Bounds {
    answer_bytes_max: 256 * 1024 * 1024,
    timeout: Duration::from_secs(300),
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

/// What comes back for a join: events as they came, unchecked. They share the
/// answer's buffer.
#[derive(Debug)]
pub struct Joined {
    pub state: Vec<Bytes>,
    pub auth_chain: Vec<Bytes>,
    /// The join with the resident's signature, if it needs one.
    pub event: Option<Bytes>,
    /// Members are missing from the state, though we asked for all.
    pub members_omitted: bool,
    /// Size of the whole answer.
    pub bytes: usize,
}

#[derive(Deserialize)]
struct JoinedAnswer<'a> {
    #[serde(borrow)]
    state: Events<'a, STATE_EVENTS_MAX>,
    #[serde(borrow)]
    auth_chain: Events<'a, STATE_EVENTS_MAX>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(default)]
    members_omitted: bool,
}

impl JoinedAnswer<'_> {
    fn within(self, answer: &Bytes) -> Joined {
        let event = self.event.map(RawValue::get);
        Joined {
            state: self.state.within(answer),
            auth_chain: self.auth_chain.within(answer),
            event: event.map(|event| answer.slice_ref(event.as_bytes())),
            members_omitted: self.members_omitted,
            bytes: answer.len(),
        }
    }
}

/// Sends a join, and asks for the whole state.
pub async fn send_join(
    client: &FederationClient,
    server: &ServerName,
    (room, event_id): (&RoomId, &EventId),
    event: &CanonicalJsonObject,
) -> Result<Joined, RequestError> {
    let sent = send(client, server, "join", (room, event_id), event, JOIN_BOUNDS).await?;
    match sent {
        Sent::Second(answer) => {
            let read: JoinedAnswer<'_> = raw_events::read(&answer)?;
            Ok(read.within(&answer))
        }
        // `[200, {...}]`
        Sent::First(answer) => {
            let (_, read): (u16, JoinedAnswer<'_>) = raw_events::read(&answer)?;
            Ok(read.within(&answer))
        }
    }
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
    let sent = send(client, server, "leave", ids, event, SEND_BOUNDS).await;
    sent.map(drop)
}

enum Sent {
    First(Bytes),
    Second(Bytes),
}

/// Sends by version 2 of an endpoint, or by version 1 where that is not known.
async fn send(
    client: &FederationClient,
    server: &ServerName,
    what: &str,
    ids: (&RoomId, &EventId),
    event: &CanonicalJsonObject,
    bounds: Bounds,
) -> Result<Sent, RequestError> {
    let mut path = path(2, what, ids);
    if what == "join" {
        path.push_str("?omit_members=false");
    }
    let mut request = Request {
        method: Method::PUT,
        uri: &path,
        body: Some(event),
        bounds,
    };
    match client.send(server, &request).await {
        Ok(answer) => Ok(Sent::Second(answer)),
        Err(error) if is_unknown_path(&error) => {
            let path = self::path(1, what, ids);
            request.uri = &path;
            client.send(server, &request).await.map(Sent::First)
        }
        Err(error) => Err(error),
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
    fn an_answer_is_read_in_either_form() {
        let second = Bytes::from_static(
            br#"{"origin":"b","state":[{"a":1},{"b":2}],"auth_chain":[{"c":3}],"event":{"d":4}}"#,
        );
        let read: JoinedAnswer<'_> = raw_events::read(&second).expect("reads");
        let read = read.within(&second);
        assert_eq!((read.state.len(), read.auth_chain.len()), (2, 1));
        assert_eq!(read.event.as_deref(), Some(&br#"{"d":4}"#[..]));
        let first = Bytes::from_static(br#"[200,{"state":[],"auth_chain":[]}]"#);
        let (status, read): (u16, JoinedAnswer<'_>) = raw_events::read(&first).expect("reads");
        assert_eq!(status, 200);
        assert!(read.within(&first).event.is_none());
    }

    #[test]
    fn version_1_is_for_servers_that_know_no_other() {
        let refused = |status: u16, errcode: &str| {
            is_unknown_path(&RequestError::Refused(Refusal {
                status,
                errcode: errcode.to_owned(),
                error: String::new(),
            }))
        };
        assert!(
            refused(404, "M_UNRECOGNIZED") && refused(404, "") && refused(400, "M_UNRECOGNIZED")
        );
        assert!(!refused(404, "M_NOT_FOUND") && !refused(403, "M_FORBIDDEN") && !refused(502, ""));
    }
}
