//! `m.typing`: who types in a room (client-server API, *Typing Notifications*).
//!
//! The whole list, each time that it changes: clients put it in place of the one
//! before.

use std::collections::BTreeMap;
use std::sync::Arc;

use ruma::{OwnedRoomId, RoomId, UserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::SyncError;
use super::answer::Building;
use super::room::Stretch;
use crate::matrix::filter::RoomEventFilter;
use crate::query::ephemeral::{Changes, TypingRoom};
use crate::query::ids::EphemeralOffset;
use crate::query::unwanted::Unwanted;

const TYPING: &str = "m.typing";

/// The rooms that changed for an answer, of those that its filter lets through.
#[derive(Debug, Default)]
pub struct TypingChanges(BTreeMap<OwnedRoomId, Arc<TypingRoom>>);

impl TypingChanges {
    pub fn new(changes: &Changes, filter: &RoomEventFilter) -> TypingChanges {
        if changes.typing.is_empty() || !filter.matches_without_sender(TYPING) {
            return TypingChanges::default();
        }
        let rooms = changes.typing.iter();
        let rooms = rooms.filter(|room| filter.matches_room(&room.room_id));
        TypingChanges(
            rooms
                .map(|room| (room.room_id.clone(), room.clone()))
                .collect(),
        )
    }

    pub fn has(&self, room: &RoomId) -> bool {
        self.0.contains_key(room)
    }
}

impl Building<'_> {
    /// The event for a room that the user is joined to, if there is news: that it
    /// changed since the client's token, or to who comes to the room that somebody
    /// types.
    pub(super) fn typing_event(
        &self,
        room: &RoomId,
        stretch: &Stretch,
    ) -> Result<Option<Box<RawValue>>, SyncError> {
        let filter = &self.request.filter.room.ephemeral;
        let (room, since) = match (self.typing.0.get(room), stretch.known_at) {
            (Some(room), _) => (room.clone(), self.ephemeral_since()),
            (_, None) if filter.matches_without_sender(TYPING) => {
                let Some(room) = self.sync.ephemeral.typing_in(room) else {
                    return Ok(None);
                };
                (room, None)
            }
            _ => return Ok(None),
        };
        typing_event(&room, since, &self.unwanted)
    }
}

/// `m.typing` as of now, without users that the reader ignores; none if it says
/// nothing new to who was told up to `since`, or nothing to who was told nothing.
pub fn typing_event(
    room: &TypingRoom,
    since: Option<EphemeralOffset>,
    unwanted: &Unwanted,
) -> Result<Option<Box<RawValue>>, SyncError> {
    #[derive(Serialize)]
    struct Event<'a> {
        content: Content<'a>,
        #[serde(rename = "type")]
        event_type: &'static str,
    }
    #[derive(Serialize)]
    struct Content<'a> {
        user_ids: Vec<&'a UserId>,
    }
    let users = room.users.iter();
    let mut wanted = users.filter(|(user, _)| !unwanted.is_ignored(user));
    let user_ids: Vec<_> = room
        .typing()
        .filter(|user| !unwanted.is_ignored(user))
        .collect();
    let is_news = match since {
        Some(since) => wanted.any(|(_, typist)| typist.changed_at >= since),
        None => !user_ids.is_empty(),
    };
    if !is_news {
        return Ok(None);
    }
    Ok(Some(to_raw_value(&Event {
        content: Content { user_ids },
        event_type: TYPING,
    })?))
}
