//! A stored event as a client sees it: without what only servers need, with
//! what only this client may know.

use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::EventId;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::SyncError;
use crate::query::rooms::StoredEvent;

/// What is told beside the event itself, in `unsigned`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// Now, in milliseconds; none where the age is of no interest.
    pub now_ms: Option<u64>,
    /// Of the requesting user, at the event.
    pub membership: Option<Membership>,
    /// Only for the device that sent the event.
    pub transaction_id: Option<&'a str>,
    /// The state event that this one replaced, and whether the user may see it.
    pub replaces: Option<(&'a StoredEvent, bool)>,
    /// The redaction of this event, as clients see it.
    pub redacted_because: Option<&'a RawValue>,
}

/// The parts of a PDU that clients see. The rest of the JSON is passed over
/// without being built.
#[derive(Deserialize)]
struct Pdu<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow, default)]
    redacts: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RedactionContent<'a> {
    #[serde(borrow, default)]
    redacts: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct ClientEvent<'a> {
    content: &'a RawValue,
    event_id: &'a EventId,
    origin_server_ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<&'a RawValue>,
    sender: &'a ruma::UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Unsigned::is_empty")]
    unsigned: Unsigned<'a>,
}

#[derive(Default, Serialize)]
struct Unsigned<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    age: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacted_because: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces_state: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<&'a str>,
}

impl Unsigned<'_> {
    fn is_empty(&self) -> bool {
        self.age.is_none()
            && self.membership.is_none()
            && self.prev_content.is_none()
            && self.redacted_because.is_none()
            && self.replaces_state.is_none()
            && self.transaction_id.is_none()
    }
}

fn pdu(event: &StoredEvent) -> Result<Pdu<'_>, SyncError> {
    serde_json::from_slice(&event.json).map_err(|error| SyncError::Event {
        event_id: event.event_id.to_string(),
        why: error.to_string(),
    })
}

/// The event's content, as it stands in its JSON.
pub fn content(event: &StoredEvent) -> Result<&RawValue, SyncError> {
    Ok(pdu(event)?.content)
}

/// The event in the format `client` (client-server API, *Room event format*),
/// without `room_id`, as `/sync` gives it.
pub fn client_event(event: &StoredEvent, extras: Extras<'_>) -> Result<Box<RawValue>, SyncError> {
    let read = pdu(event)?;
    // What was replaced is told even where its content cannot be shown.
    let prev_content = match extras.replaces {
        Some((replaced, true)) => Some(content(replaced)?),
        _ => None,
    };
    let unsigned = Unsigned {
        age: extras
            .now_ms
            .map(|now| now as i64 - event.origin_server_ts as i64),
        membership: extras.membership.map(Membership::as_str),
        prev_content,
        redacted_because: extras.redacted_because,
        replaces_state: extras.replaces.map(|(replaced, _)| &*replaced.event_id),
        transaction_id: extras.transaction_id,
    };
    let (redacts, with_redacts) = redacts(event, &read)?;
    Ok(to_raw_value(&ClientEvent {
        content: with_redacts.as_deref().unwrap_or(read.content),
        event_id: &event.event_id,
        origin_server_ts: event.origin_server_ts,
        redacts,
        sender: &event.sender,
        state_key: event.state_key.as_deref(),
        kind: &event.kind,
        unsigned,
    })?)
}

/// `redacts` at the top level and, if it has to be added there, the content
/// with it: a client finds it in both places, whatever the room version
/// (room version 11, *Moving the redacts property*).
fn redacts<'a>(
    event: &StoredEvent,
    read: &Pdu<'a>,
) -> Result<(Option<&'a RawValue>, Option<Box<RawValue>>), SyncError> {
    if &*event.kind != "m.room.redaction" {
        return Ok((None, None));
    }
    let inside = serde_json::from_str::<RedactionContent<'a>>(read.content.get())
        .ok()
        .and_then(|content| content.redacts);
    let (Some(top), None) = (read.redacts, inside) else {
        return Ok((read.redacts.or(inside), None));
    };
    let mut content: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(read.content.get())?;
    content.insert("redacts".to_owned(), serde_json::from_str(top.get())?);
    Ok((Some(top), Some(to_raw_value(&content)?)))
}

/// The event as its server sent it: the format `federation`.
pub fn federation_event(event: &StoredEvent) -> Result<Box<RawValue>, SyncError> {
    Ok(serde_json::from_slice(&event.json)?)
}

#[derive(Serialize)]
struct StrippedEvent<'a> {
    content: &'a RawValue,
    sender: &'a ruma::UserId,
    state_key: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
}

/// A state event in its stripped form (client-server API, *Stripped state*).
pub fn stripped_event(event: &Arc<StoredEvent>) -> Result<Box<RawValue>, SyncError> {
    Ok(to_raw_value(&StrippedEvent {
        content: content(event)?,
        sender: &event.sender,
        state_key: event.state_key.as_deref().unwrap_or_default(),
        kind: &event.kind,
    })?)
}
