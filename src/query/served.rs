//! In which form another server is given the events of a room.
//!
//! What it may see it gets whole. A server in the room needs the graph all the
//! same, so there it gets the rest redacted: ids, signatures and what authorises
//! events survive that. Rejected events are given to nobody.

use std::sync::Arc;

use bytes::Bytes;
use log_format::record::output::Decision;
use ruma::ServerName;

use super::rooms::{QueryError, RoomHead, Rooms, StateKey, StoredEvent};
use super::users::Users;
use super::visibility::{Viewer, Viewpoint};
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::{parse_stored_object, to_bytes};
use crate::matrix::redaction::redact;

/// One server's sight of one room, as of one head. Make one for each request.
pub struct ServerView<'a> {
    pub head: Arc<RoomHead>,
    viewpoint: Viewpoint<'a>,
    users: &'a dyn Users,
    is_resident: bool,
}

impl<'a> ServerView<'a> {
    pub fn of(
        rooms: &'a dyn Rooms,
        users: &'a dyn Users,
        head: &Arc<RoomHead>,
        server: &'a ServerName,
    ) -> ServerView<'a> {
        ServerView {
            head: head.clone(),
            viewpoint: Viewpoint::at_head(rooms, head, Viewer::Server(server)),
            users,
            is_resident: head.is_resident(server),
        }
    }

    pub fn rooms(&self) -> &'a dyn Rooms {
        self.viewpoint.rooms()
    }

    /// Whether the server may see an event.
    pub fn may_see(&self, event: &StoredEvent) -> Result<bool, QueryError> {
        self.viewpoint.may_see(event)
    }

    /// Whether it may know the room's state at an event.
    pub fn may_read_at(&self, event: &StoredEvent) -> Result<bool, QueryError> {
        self.viewpoint.may_read_at(event)
    }

    /// An event as the server gets it; none if it gets nothing.
    pub fn form(&self, event: &StoredEvent) -> Result<Option<Bytes>, QueryError> {
        if event.decision == Decision::Rejected {
            return Ok(None);
        }
        let is_seen = self.may_see(event)?;
        let is_whole = is_seen || (self.is_resident && self.is_current(event));
        Ok(match (is_whole, is_seen || self.is_resident) {
            (true, _) if !self.is_erased(event) => Some(event.json.clone()),
            (_, true) => redacted(self.head.authority.create_info.version, event),
            (_, false) => None,
        })
    }

    /// Whether the sender, a user of ours, wanted it to be forgotten. State stays:
    /// it is the room's.
    ///
    /// Source: client-server API, *POST account/deactivate*, `erase`.
    fn is_erased(&self, event: &StoredEvent) -> bool {
        let account = match event.state_key {
            None => self.users.account(&event.sender),
            Some(_) => None,
        };
        account.is_some_and(|account| account.erased)
    }

    /// Whether an event is part of current state, which every server in the room
    /// knows from its join.
    fn is_current(&self, event: &StoredEvent) -> bool {
        let Some(state_key) = &event.state_key else {
            return false;
        };
        let key = StateKey::new(&event.kind, state_key);
        self.head.state.get(&key) == Some(&event.event)
    }
}

/// The redacted form; none of what cannot be read, which nobody is given then.
fn redacted(version: RoomVersion, event: &StoredEvent) -> Option<Bytes> {
    let whole = parse_stored_object(&event.json).ok()?;
    Some(to_bytes(&redact(&version.rules().redaction, &whole)).into())
}
