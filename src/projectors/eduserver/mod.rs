//! The EDU server: the projector of what users do in rooms for a moment, which
//! is that they type. In memory alone: it is true for seconds.
//!
//! Who may type where, and when it is over, is for the writer. Here somebody
//! begins or ceases to type, or nothing changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use log_format::codec;
use log_format::record::Envelope;
use log_format::record::ephemeral::EphemeralTyping;
use ruma::{OwnedRoomId, OwnedUserId, RoomId};

use crate::query::ephemeral::{Since, TypingRoom, Typist};
use crate::query::ids::EphemeralOffset;

/// Rooms that are remembered in which nobody types any more; a client that was
/// told of typing in one that was forgotten learns no more that it ended.
const QUIET_ROOMS_MAX: usize = 100_000;
/// Users of a room that are remembered who do not type any more.
const QUIET_USERS_MAX: usize = 32;

/// Who types, by room.
#[derive(Default)]
pub struct TypingTable {
    rooms: BTreeMap<OwnedRoomId, Arc<TypingRoom>>,
    /// Rooms by their newest change: one entry for each.
    by_change: BTreeMap<EphemeralOffset, OwnedRoomId>,
}

impl TypingTable {
    /// Folds a record. One that cannot be read, or says nothing new, changes nothing.
    pub fn fold(&mut self, offset: EphemeralOffset, envelope: &Envelope<'_>) {
        let body = codec::decode::<EphemeralTyping>(envelope.body).ok();
        let room = RoomId::parse(envelope.key).ok();
        let user = envelope
            .sender
            .and_then(|user| OwnedUserId::try_from(user).ok());
        let (Some(body), Some(room), Some(user)) = (body, room, user) else {
            return;
        };
        let was_typing = self.rooms.get(&room).and_then(|room| room.users.get(&user));
        if was_typing.is_some_and(|typist| typist.typing) == body.typing {
            return;
        }
        let slot = self.rooms.entry(room.clone()).or_insert_with(|| {
            Arc::new(TypingRoom {
                room_id: room.clone(),
                users: BTreeMap::new(),
                changed_at: offset,
            })
        });
        // Who reads it has a copy of their own.
        let slot = Arc::make_mut(slot);
        self.by_change.remove(&slot.changed_at);
        slot.changed_at = offset;
        let typist = Typist {
            typing: body.typing,
            changed_at: offset,
        };
        slot.users.insert(user, typist);
        forget_quiet_users(slot);
        self.by_change.insert(offset, room);
        self.forget_quiet_rooms();
    }

    /// Rooms that changed, in the order of their changes. `began` is where the
    /// log stood when the process began.
    pub fn changes(&self, since: Since, began: EphemeralOffset) -> Vec<Arc<TypingRoom>> {
        let from = match since {
            Since::Offset(offset) => offset,
            Since::Nothing | Since::OtherBoot => EphemeralOffset(0),
        };
        let changed = self.by_change.range(from..);
        let changed = changed.filter_map(|(_, room)| self.rooms.get(room));
        let is_told = |room: &&Arc<TypingRoom>| match since {
            Since::Offset(_) => true,
            Since::OtherBoot => room.changed_at >= began || room.typing().next().is_some(),
            Since::Nothing => room.typing().next().is_some(),
        };
        changed.filter(is_told).cloned().collect()
    }

    pub fn room(&self, room: &RoomId) -> Option<Arc<TypingRoom>> {
        self.rooms.get(room).cloned()
    }

    fn forget_quiet_rooms(&mut self) {
        if self.rooms.len() <= QUIET_ROOMS_MAX {
            return;
        }
        let mut oldest = self.by_change.iter();
        let quiet = oldest.find(|(_, room)| {
            let room = self.rooms.get(*room);
            room.is_none_or(|room| room.typing().next().is_none())
        });
        if let Some((offset, room)) = quiet.map(|(offset, room)| (*offset, room.clone())) {
            self.by_change.remove(&offset);
            self.rooms.remove(&room);
        }
    }
}

fn forget_quiet_users(room: &mut TypingRoom) {
    let quiet = || room.users.iter().filter(|(_, typist)| !typist.typing);
    if quiet().count() <= QUIET_USERS_MAX {
        return;
    }
    let oldest = quiet().min_by_key(|(_, typist)| typist.changed_at);
    if let Some(user) = oldest.map(|(user, _)| user.clone()) {
        room.users.remove(&user);
    }
}

#[cfg(test)]
mod tests;
