//! A stored event as `/sync` shows it: without its room, which the section names.

use serde_json::value::RawValue;

use super::SyncError;
use crate::matrix::client_event::{self, Format, Unsigned};
use crate::query::rooms::StoredEvent;

/// The event in the format `client` (client-server API, *Room event format*).
pub fn client_event(
    event: &StoredEvent,
    unsigned: Unsigned<'_>,
) -> Result<Box<RawValue>, SyncError> {
    let format = Format {
        event_id: &event.event_id,
        room_id: None,
        unsigned,
    };
    Ok(client_event::client_event(&event.json, &format)?)
}

/// The event as its server sent it: the format `federation`.
pub fn federation_event(event: &StoredEvent) -> Result<Box<RawValue>, SyncError> {
    Ok(serde_json::from_slice(&event.json)?)
}
