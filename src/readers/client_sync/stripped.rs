//! What a user who is not in a room may know of it: the stripped state of an
//! invite or a knock (client-server API, *Stripped state*).

use serde_json::value::RawValue;

use super::SyncError;
use super::history::RoomHistory;
use super::memory::Standing;
use crate::matrix::client_event::stripped_state as stripped_event;
use crate::query::ids::EventSn;
use crate::query::rooms::StateKey;

/// State events that describe a room, in the order in which they are given.
const DESCRIBING: [&str; 7] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
];

/// Stripped state as of the invite or knock, and that event itself.
pub fn stripped_state(
    history: &RoomHistory<'_>,
    standing: &Standing,
) -> Result<Vec<Box<RawValue>>, SyncError> {
    let state = history.state_at(standing.changed_at + 1)?;
    let described = DESCRIBING
        .iter()
        .filter_map(|kind| state.get(&StateKey::new(kind, "")).copied());
    let mut wanted: Vec<EventSn> = described.collect();
    wanted.extend(standing.event);
    let mut events = history.rooms.events(&history.room_id, &wanted)?;
    // Who invites is told beside the invite, as clients show their name.
    if let Some(own) = events.last() {
        let inviter = StateKey::new("m.room.member", own.sender.as_str());
        let inviter = state.get(&inviter).copied();
        if let Some(inviter) = inviter.filter(|inviter| Some(*inviter) != standing.event) {
            events.extend(history.rooms.events(&history.room_id, &[inviter])?);
        }
    }
    let stripped = events.iter().map(|event| stripped_event(&event.json));
    Ok(stripped.collect::<Result<_, _>>()?)
}
