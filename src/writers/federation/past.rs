//! What an event from elsewhere builds on and is not here.

use std::collections::BTreeSet;

use ruma::{EventId, OwnedEventId, RoomId};

use crate::matrix::event::Pdu;
use crate::query::ids::StateId;
use crate::query::rooms::{QueryError, Rooms, StoredEvent};

/// Look-ups between which others get a turn.
const LOOKUPS_AT_A_TIME: usize = 256;

/// The events that are to be had before an event can be judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Those at which the state is not known.
    pub prev_events: Vec<OwnedEventId>,
    pub auth_events: Vec<OwnedEventId>,
}

impl Missing {
    pub fn is_empty(&self) -> bool {
        self.prev_events.is_empty() && self.auth_events.is_empty()
    }
}

/// What is missing of an event's past, where `comes` tells which events are
/// appended already and may not be folded yet.
pub fn missing(
    rooms: &dyn Rooms,
    pdu: &Pdu,
    comes: impl Fn(&EventId) -> bool,
) -> Result<Missing, QueryError> {
    let mut missing = Missing::default();
    for id in &pdu.prev_events {
        let known = comes(id)
            || rooms
                .event(&pdu.room_id, id)?
                .is_some_and(|it| has_state(&it));
        if !known {
            missing.prev_events.push(id.clone());
        }
    }
    for id in &pdu.auth_events {
        if !comes(id) && !is_known(rooms, &pdu.room_id, id)? {
            missing.auth_events.push(id.clone());
        }
    }
    Ok(missing)
}

/// Whether an event is here, whatever became of it.
pub fn is_known(rooms: &dyn Rooms, room: &RoomId, id: &EventId) -> Result<bool, QueryError> {
    Ok(rooms.event(room, id)?.is_some())
}

/// Those that are not here, each once.
pub async fn unknown<'a>(
    rooms: &dyn Rooms,
    room: &RoomId,
    ids: impl Iterator<Item = &'a OwnedEventId>,
) -> Result<BTreeSet<&'a EventId>, QueryError> {
    let mut unknown = BTreeSet::new();
    for (done, id) in ids.enumerate() {
        if done % LOOKUPS_AT_A_TIME == 0 {
            tokio::task::yield_now().await;
        }
        if !is_known(rooms, room, id)? {
            unknown.insert(&**id);
        }
    }
    Ok(unknown)
}

/// Whether the state at an event is known, so that others may build on it. Only
/// a create event has none before it, and it has one behind it.
pub fn has_state(event: &StoredEvent) -> bool {
    event.state_after != StateId::EMPTY
}
