//! Stored events as clients see them: without what only servers need, with
//! what only this device may know (client-server API, *Room event format*).

use std::collections::HashMap;
use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::{EventId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::visible::RoomView;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::clock::now_ms;
use crate::query::ids::EventSn;
use crate::query::rooms::StoredEvent;

/// The members of a PDU that are passed on as they stand.
#[derive(Deserialize)]
struct Pdu<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
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
    room_id: &'a RoomId,
    sender: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'a str,
    unsigned: Unsigned<'a>,
}

#[derive(Serialize)]
struct Unsigned<'a> {
    age: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacted_because: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces_state: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<&'a str>,
}

/// Renders events of one view for the device that asks.
pub struct Renderer<'a> {
    view: &'a RoomView<'a>,
    auth: &'a Auth,
    now_ms: u64,
}

impl<'a> Renderer<'a> {
    pub fn new(view: &'a RoomView<'a>, auth: &'a Auth) -> Renderer<'a> {
        Renderer {
            view,
            auth,
            now_ms: now_ms(),
        }
    }

    /// One event.
    pub fn render(&self, event: &Arc<StoredEvent>) -> Result<Box<RawValue>, ApiError> {
        let mut rendered = self.render_all(std::slice::from_ref(event))?;
        rendered
            .pop()
            .ok_or_else(|| ApiError::Stored(event.event_id.to_string()))
    }

    /// Events in the order given. What they name (what they replaced, what
    /// redacted them) is read in one go.
    pub fn render_all(&self, events: &[Arc<StoredEvent>]) -> Result<Vec<Box<RawValue>>, ApiError> {
        let named: Vec<EventSn> = events
            .iter()
            .flat_map(|event| [event.replaces, event.redacted_by])
            .flatten()
            .collect();
        let named: HashMap<EventSn, Arc<StoredEvent>> = match named.is_empty() {
            true => HashMap::new(),
            false => {
                let found = self.view.events(&named)?.into_iter();
                found.map(|event| (event.event, event)).collect()
            }
        };
        events
            .iter()
            .map(|event| {
                let redacted_by = event.redacted_by.and_then(|sn| named.get(&sn));
                let replaced = event.replaces.and_then(|sn| named.get(&sn));
                let because = match redacted_by {
                    Some(redaction) => Some(self.write(redaction, None, None)?),
                    None => None,
                };
                self.write(event, replaced, because)
            })
            .collect()
    }

    fn write(
        &self,
        event: &StoredEvent,
        replaced: Option<&Arc<StoredEvent>>,
        redacted_because: Option<Box<RawValue>>,
    ) -> Result<Box<RawValue>, ApiError> {
        let pdu = read(event)?;
        // That something was replaced is told; what, only to who may see it.
        let prev_content = match replaced {
            Some(replaced) if self.view.may_see(replaced)? => Some(read(replaced)?.content),
            _ => None,
        };
        let with_redacts = redacts(event, &pdu)?;
        let client_event = ClientEvent {
            content: with_redacts.content.as_deref().unwrap_or(pdu.content),
            event_id: &event.event_id,
            origin_server_ts: event.origin_server_ts,
            redacts: with_redacts.top,
            room_id: self.view.room_id(),
            sender: &event.sender,
            state_key: event.state_key.as_deref(),
            kind: &event.kind,
            unsigned: Unsigned {
                age: i64::try_from(self.now_ms).unwrap_or(i64::MAX)
                    - i64::try_from(event.origin_server_ts).unwrap_or(i64::MAX),
                membership: self.view.membership_after(event)?.map(Membership::as_str),
                prev_content,
                redacted_because,
                replaces_state: replaced.map(|replaced| &*replaced.event_id),
                transaction_id: self.transaction_id(event),
            },
        };
        to_raw_value(&client_event).map_err(|error| ApiError::Stored(error.to_string()))
    }

    /// Echoed to the device that sent the event, and to no other.
    fn transaction_id<'e>(&self, event: &'e StoredEvent) -> Option<&'e str> {
        let (device, txn_id) = event.transaction.as_ref()?;
        let own = event.sender == self.auth.user_id() && device == self.auth.device_id();
        own.then_some(&**txn_id)
    }
}

fn read(event: &StoredEvent) -> Result<Pdu<'_>, ApiError> {
    serde_json::from_slice(&event.json)
        .map_err(|error| ApiError::Stored(format!("{}: {error}", event.event_id)))
}

/// `redacts` where clients look for it.
#[derive(Default)]
struct Redacts<'a> {
    top: Option<&'a RawValue>,
    /// The content with `redacts` added, where it was at the top alone.
    content: Option<Box<RawValue>>,
}

/// A client finds `redacts` at the top and in the content, whatever the room
/// version (room version 11, *Moving the redacts property*).
fn redacts<'a>(event: &StoredEvent, pdu: &Pdu<'a>) -> Result<Redacts<'a>, ApiError> {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow, default)]
        redacts: Option<&'a RawValue>,
    }
    if &*event.kind != "m.room.redaction" {
        return Ok(Redacts::default());
    }
    let inside = serde_json::from_str::<Content<'a>>(pdu.content.get());
    let inside = inside.ok().and_then(|content| content.redacts);
    let (Some(top), None) = (pdu.redacts, inside) else {
        return Ok(Redacts {
            top: pdu.redacts.or(inside),
            content: None,
        });
    };
    let stored = |error: serde_json::Error| ApiError::Stored(error.to_string());
    let mut content: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(pdu.content.get()).map_err(stored)?;
    let target = serde_json::from_str(top.get()).map_err(stored)?;
    content.insert("redacts".to_owned(), target);
    Ok(Redacts {
        top: Some(top),
        content: Some(to_raw_value(&content).map_err(stored)?),
    })
}
