//! What a writer reads of a room's current state: entries of one head, parsed
//! leniently (missing or misshapen is none), since the auth rules judge them.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::room_error::RoomWriteError;
use crate::matrix::canonical_json::{
    CanonicalJsonObject, CanonicalJsonValue, Numbers, parse_object_with,
};
use crate::query::rooms::{RoomHead, Rooms, StateKey, StoredEvent};

/// One room's current state.
#[derive(Clone, Copy)]
pub struct RoomState<'a> {
    pub rooms: &'a dyn Rooms,
    pub head: &'a RoomHead,
}

impl<'a> RoomState<'a> {
    pub fn new(rooms: &'a dyn Rooms, head: &'a RoomHead) -> RoomState<'a> {
        RoomState { rooms, head }
    }

    /// The state event of a key.
    pub fn event(
        &self,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, RoomWriteError> {
        let Some(event) = self.head.state.get(&StateKey::new(kind, state_key)) else {
            return Ok(None);
        };
        let mut found = self.rooms.events(&self.head.room_id, &[*event])?;
        Ok(found.pop())
    }

    /// The content of a state event.
    pub fn content(
        &self,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Map<String, Value>>, RoomWriteError> {
        let event = self.event(kind, state_key)?;
        Ok(event.and_then(|event| content_of(&event.json)))
    }

    /// The content of a state event, fit for another event: none where it holds
    /// numbers that new events may not have.
    pub fn canonical(
        &self,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<CanonicalJsonObject>, RoomWriteError> {
        let event = self.event(kind, state_key)?;
        Ok(event.and_then(|event| canonical_content(&event.json)))
    }
}

/// `content` of a PDU as [`RoomState::canonical`] gives it.
pub fn canonical_content(pdu: &[u8]) -> Option<CanonicalJsonObject> {
    let mut event = parse_object_with(pdu, Numbers::Converted).ok()?;
    match event.remove("content") {
        Some(CanonicalJsonValue::Object(content)) => Some(content),
        _ => None,
    }
}

/// `content` of a PDU.
pub fn content_of(pdu: &[u8]) -> Option<Map<String, Value>> {
    #[derive(serde::Deserialize)]
    struct OnlyContent {
        content: Map<String, Value>,
    }
    let event: OnlyContent = serde_json::from_slice(pdu).ok()?;
    Some(event.content)
}
