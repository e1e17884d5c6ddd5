//! Which servers rooms let take part, compiled once for each list that is in force.

use std::sync::Arc;

use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, ServerName};

use super::ids::EventSn;
use super::rooms::{QueryError, RoomHead, Rooms, StateKey};
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue, parse_stored_object};
use crate::matrix::server_acl::{SERVER_ACL_TYPE, ServerAcl};

/// Lists that are held compiled, of up to some 300 KiB each and mostly under one.
const LISTS_MAX: usize = 256;

/// Looks the lists up. Cheap to clone.
#[derive(Clone)]
pub struct ServerAcls {
    rooms: Arc<dyn Rooms>,
    compiled: Arc<Cache<(OwnedRoomId, EventSn), Arc<ServerAcl>>>,
}

impl ServerAcls {
    pub fn new(rooms: Arc<dyn Rooms>) -> ServerAcls {
        ServerAcls {
            rooms,
            compiled: Arc::new(Cache::new(LISTS_MAX)),
        }
    }

    /// Whether a server may take part in the room, by its current state.
    ///
    /// For the server that asks, and for that of an event's sender (server-server
    /// API, *Server Access Control Lists*).
    pub fn allows(&self, head: &RoomHead, server: &ServerName) -> Result<bool, QueryError> {
        let Some(event) = head.state.get(&StateKey::new(SERVER_ACL_TYPE, "")) else {
            return Ok(true);
        };
        let key = (head.room_id.clone(), *event);
        if let Some(list) = self.compiled.get(&key) {
            return Ok(list.allows(server));
        }
        // A room that was left by a purge in between has no list to ask.
        let Some(stored) = self.rooms.events(&head.room_id, &[*event])?.pop() else {
            return Ok(true);
        };
        let list = Arc::new(ServerAcl::parse(&content_of(&stored.json)));
        self.compiled.insert(key, list.clone());
        Ok(list.allows(server))
    }
}

fn content_of(pdu: &[u8]) -> CanonicalJsonObject {
    let mut event = parse_stored_object(pdu).unwrap_or_default();
    match event.remove("content") {
        Some(CanonicalJsonValue::Object(content)) => content,
        _ => CanonicalJsonObject::new(),
    }
}
