//! The typing extension: who types in the rooms that a request looks at
//! (MSC3961, by the rules for extensions of MSC4186).
//!
//! A room is looked at if it is in the window of a list, or subscribed to, that
//! the extension is for. One of which the client knows that somebody types is
//! told of wherever it went, or it would type there for ever.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::{OwnedRoomId, RoomId};

use super::super::SyncError;
use super::super::memory::{Memory, RoomIx};
use super::super::typing::typing_event;
use super::connection::RoomKey;
use super::extensions::{Extending, Typing};
use super::lists::{ListSet, key_of};
use crate::query::ephemeral::{Changes, Since, TypingRoom};
use crate::query::ids::EphemeralOffset;

/// A room to be told of.
struct Due {
    key: RoomKey,
    room: Arc<TypingRoom>,
    /// Up to where the client was told; none for one that is told nothing yet.
    since: Option<EphemeralOffset>,
}

impl Extending<'_> {
    /// What changed in rooms that are looked at, and what is current in those
    /// that are told for the first time.
    pub(super) fn typing(
        &self,
        new: &[OwnedRoomId],
        changes: &Changes,
        told: &mut Vec<(RoomKey, bool)>,
    ) -> Result<Typing, SyncError> {
        let mut typing = Typing::default();
        for due in self.due(new, changes) {
            let event = typing_event(&due.room, due.since, self.unwanted)?;
            let Some(event) = event else { continue };
            told.push((due.key, due.room.typing().next().is_some()));
            typing.rooms.insert(due.room.room_id.clone(), event);
        }
        Ok(typing)
    }

    fn due(&self, new: &[OwnedRoomId], changes: &Changes) -> Vec<Due> {
        let sync = self.sync;
        let mut rooms: BTreeMap<OwnedRoomId, (Arc<TypingRoom>, Option<EphemeralOffset>)> =
            BTreeMap::new();
        for room in &changes.typing {
            let told_to = Some(self.ephemeral_since());
            rooms.insert(room.room_id.clone(), (room.clone(), told_to));
        }
        if self.told.typing.is_none() {
            // The first time with this extension, or since a restart.
            for room in sync.ephemeral.changes(Since::Nothing).typing {
                rooms.entry(room.room_id.clone()).or_insert((room, None));
            }
        }
        for room in new {
            if let Some(typing) = sync.ephemeral.typing_in(room) {
                rooms.insert(room.clone(), (typing, None));
            }
        }
        if rooms.is_empty() {
            return Vec::new();
        }
        let windows = self.windows.rooms.iter().copied().collect();
        let memory = sync.memory.read();
        let due = rooms.into_iter().filter_map(|(room_id, (room, since))| {
            let ix = memory.room_ix(&room_id)?;
            let key = key_of(memory.room(ix));
            let was_told = self.told.typing.as_ref();
            let was_told = was_told.is_some_and(|told| told.contains(&key));
            let is_due = self.is_joined(&memory, ix)
                && (was_told || self.is_looked_at(&room_id, ix, &windows));
            is_due.then_some(Due { key, room, since })
        });
        due.collect()
    }

    fn is_joined(&self, memory: &Memory, ix: RoomIx) -> bool {
        let user = memory.user(&self.request.user);
        let standing = user.and_then(|user| user.rooms.get(&ix));
        standing.is_some_and(|standing| standing.membership == Membership::Join)
    }

    fn is_looked_at(&self, room: &RoomId, ix: RoomIx, windows: &HashMap<RoomIx, ListSet>) -> bool {
        let extension = &self.request.extensions.typing;
        let is_subscribed = self.request.subscriptions.contains_key(room);
        if is_subscribed && extension.is_for_room(room.as_str()) {
            return true;
        }
        let wanted = ListSet::of(&self.request.lists, |name| extension.is_for_list(name));
        windows.get(&ix).is_some_and(|lists| lists.meets(wanted))
    }
}
