//! `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`, and version 1 of it:
//! the invited user's server is told, and signs (server-server API, *Inviting to
//! a room*).

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use ruma::{EventId, RoomId, ServerName};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{Bounds, FederationClient, Request};
use super::handshakes::is_unknown_path;
use super::queries::segment;
use super::raw_events;
use crate::limits::PDU_BYTES_MAX;
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::outbound::answer::RequestError;

/// An event, and what is around it. The inviting user waits.
const BOUNDS: Bounds = Bounds {
    answer_bytes_max: 2 * PDU_BYTES_MAX,
    timeout: Duration::from_secs(20),
};

/// An invite as it is told.
#[derive(Clone, Copy, Debug)]
pub struct Invite<'a> {
    pub version: RoomVersion,
    pub room: &'a RoomId,
    pub event_id: &'a EventId,
    pub event: &'a CanonicalJsonObject,
    /// Events that describe the room, in the format of its version.
    pub room_state: &'a [CanonicalJsonValue],
}

/// Tells a server of an invite; the event that it signed, unread and unchecked.
pub async fn invite(
    client: &FederationClient,
    server: &ServerName,
    invite: &Invite<'_>,
) -> Result<Bytes, RequestError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        event: &'a RawValue,
    }
    let path = |version: u8| {
        format!(
            "/_matrix/federation/v{version}/invite/{}/{}",
            segment(invite.room.as_str()),
            segment(invite.event_id.as_str())
        )
    };
    let (uri, body) = (path(2), second(invite));
    let sent = client.send(server, &put(&uri, &body)).await;
    let (answer, is_second) = match sent {
        Err(error) if is_unknown_path(&error) && invite.version.has_event_id_field() => {
            let (uri, body) = (path(1), first(invite));
            (client.send(server, &put(&uri, &body)).await?, false)
        }
        sent => (sent?, true),
    };
    let read: Answer<'_> = match is_second {
        true => raw_events::read(&answer)?,
        // `[200, {"event": {...}}]`
        false => raw_events::read::<(u16, Answer<'_>)>(&answer)?.1,
    };
    Ok(answer.slice_ref(read.event.get().as_bytes()))
}

fn put<'a>(uri: &'a str, body: &'a CanonicalJsonObject) -> Request<'a> {
    Request {
        method: Method::PUT,
        uri,
        body: Some(body),
        bounds: BOUNDS,
    }
}

fn second(invite: &Invite<'_>) -> CanonicalJsonObject {
    let version = invite.version.as_str().to_owned();
    let state = invite.room_state.to_vec();
    CanonicalJsonObject::from([
        (
            "event".to_owned(),
            CanonicalJsonValue::Object(invite.event.clone()),
        ),
        (
            "invite_room_state".to_owned(),
            CanonicalJsonValue::Array(state),
        ),
        (
            "room_version".to_owned(),
            CanonicalJsonValue::String(version),
        ),
    ])
}

/// The event itself, with the state in `unsigned`. Rooms of versions 1 and 2 alone
/// have it.
fn first(invite: &Invite<'_>) -> CanonicalJsonObject {
    let state = CanonicalJsonValue::Array(invite.room_state.to_vec());
    let unsigned = CanonicalJsonObject::from([("invite_room_state".to_owned(), state)]);
    let mut body = invite.event.clone();
    body.insert("unsigned".to_owned(), CanonicalJsonValue::Object(unsigned));
    body
}
