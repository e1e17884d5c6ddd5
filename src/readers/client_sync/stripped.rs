//! What a user who is not in a room may know of it: the stripped state of an
//! invite or a knock (client-server API, *Stripped state*).

use ruma::UserId;
use serde_json::value::RawValue;

use super::SyncError;
use super::history::RoomHistory;
use super::memory::Standing;
use super::outside::seen_from_outside;
use crate::matrix::client_event::stripped_state as stripped_event;
use crate::query::ids::EventSn;
use crate::query::rooms::StateKey;
use crate::query::stripped::DESCRIBING;

/// Stripped state as of the invite or knock, and that event itself.
pub fn stripped_state(
    history: &RoomHistory<'_>,
    user: &UserId,
    standing: &Standing,
) -> Result<Vec<Box<RawValue>>, SyncError> {
    if standing.outside {
        let seen = seen_from_outside(history, user)?;
        return Ok(seen.map(|seen| seen.stripped_state()).unwrap_or_default());
    }
    let (rooms, room_id) = (history.rooms, &history.room_id);
    let state = history.state_id_at(standing.changed_at + 1)?;
    let entry =
        |kind: &str, key: &str| rooms.state_entry(room_id, state, &StateKey::new(kind, key));
    let mut wanted: Vec<EventSn> = Vec::with_capacity(DESCRIBING.len() + 2);
    for kind in DESCRIBING {
        wanted.extend(entry(kind, "")?);
    }
    if let Some(own) = standing.event {
        wanted.push(own);
        // Who invites is told beside the invite, as clients show their name.
        if let Some(own) = rooms.events(room_id, &[own])?.pop() {
            let inviter = entry("m.room.member", own.sender.as_str())?;
            wanted.extend(inviter.filter(|inviter| *inviter != own.event));
        }
    }
    let events = rooms.events(room_id, &wanted)?;
    let stripped = events.iter().map(|event| stripped_event(&event.json));
    Ok(stripped.collect::<Result<_, _>>()?)
}
