//! What a room shows of itself to who is not in it: the state that goes along
//! with invites and knocks (client-server API, *Stripped state*).

use super::ids::EventSn;
use super::rooms::{RoomHead, StateKey};

/// State events that describe a room, in the order in which they are given.
pub const DESCRIBING: [&str; 7] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
];

/// Those events of current state.
pub fn describing(head: &RoomHead) -> Vec<EventSn> {
    let kinds = DESCRIBING.into_iter();
    let events = kinds.filter_map(|kind| head.state.get(&StateKey::new(kind, "")));
    events.copied().collect()
}
