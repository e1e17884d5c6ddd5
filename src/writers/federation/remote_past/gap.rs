//! Where a room's history is missing.

use log_format::record::output::Decision;
use ruma::{EventId, OwnedEventId, RoomId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::query::ids::{EventSn, Place};
use crate::query::rooms::{Direction, QueryError, Rooms, StoredEvent};

/// A place before which history is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The event that stands behind it.
    pub before: OwnedEventId,
    /// What that builds on and is not in the timeline.
    pub missing: Vec<OwnedEventId>,
}

/// The first gap that is met on the way back from a place, within so many events
/// of the timeline.
pub fn find(
    rooms: &dyn Rooms,
    room: &RoomId,
    from: Place,
    wanted: usize,
) -> Result<Option<Gap>, QueryError> {
    let count = wanted.saturating_add(1);
    let rows = rooms.timeline(room, from, Direction::Backward, count)?;
    // The event from which the walk comes: at the place itself, or behind it.
    let behind = match from.0.checked_sub(1) {
        Some(before) if from != Place::END => {
            let next = rooms.timeline(room, Place(before), Direction::Forward, 1)?;
            next.into_iter().next()
        }
        _ => None,
    };
    let mut newer: Option<(Place, EventSn)> = behind;
    for (place, event) in &rows {
        if let Some((at, behind)) = newer
            && !at.is_next_to(*place)
            && let Some(gap) = gap_before(rooms, room, behind)?
        {
            return Ok(Some(gap));
        }
        newer = Some((*place, *event));
    }
    match newer {
        // The walk ended at the oldest event that is here.
        Some((_, oldest)) if rows.len() < count => gap_before(rooms, room, oldest),
        _ => Ok(None),
    }
}

/// The gap that is next to an event of the timeline, on the side of a time that
/// was looked for: before the event if it was found on the way forward, behind it
/// on the way back. Where none was found on the way back, what is before all.
pub fn beside(
    rooms: &dyn Rooms,
    room: &RoomId,
    found: Option<Place>,
    direction: Direction,
) -> Result<Option<Gap>, QueryError> {
    let before = match (direction, found) {
        // What is newer than all that is here comes by itself.
        (Direction::Forward, None) => return Ok(None),
        (Direction::Forward, Some(found)) => Place(found.0.saturating_sub(1)),
        (Direction::Backward, found) => found.unwrap_or(Place::START),
    };
    let behind = rooms.timeline(room, before, Direction::Forward, 1)?;
    match behind.first() {
        Some((_, event)) => gap_before(rooms, room, *event),
        None => Ok(None),
    }
}

fn gap_before(rooms: &dyn Rooms, room: &RoomId, event: EventSn) -> Result<Option<Gap>, QueryError> {
    let Some(event) = rooms.events(room, &[event])?.pop() else {
        return Ok(None);
    };
    let mut missing = Vec::new();
    for id in prev_events(&event) {
        if !is_placed(rooms, room, &id)? {
            missing.push(id);
        }
    }
    Ok((!missing.is_empty()).then(|| Gap {
        before: event.event_id.clone(),
        missing,
    }))
}

/// Whether an event needs no fetching: it is in the timeline, or was judged and
/// has no place there.
pub fn is_placed(rooms: &dyn Rooms, room: &RoomId, id: &EventId) -> Result<bool, QueryError> {
    let known = rooms.event(room, id)?;
    Ok(known.is_some_and(|known| known.decision != Decision::Outlier))
}

/// What a stored event builds on, in either form that room versions have.
fn prev_events(event: &StoredEvent) -> Vec<OwnedEventId> {
    #[derive(Deserialize)]
    struct Pdu<'a> {
        #[serde(borrow)]
        prev_events: Vec<&'a RawValue>,
    }
    let read: Result<Pdu<'_>, _> = serde_json::from_slice(&event.json);
    let Ok(read) = read else { return Vec::new() };
    let ids = read.prev_events.into_iter().filter_map(|named| {
        let named = named.get();
        serde_json::from_str::<OwnedEventId>(named)
            .or_else(|_| {
                serde_json::from_str::<(OwnedEventId, serde::de::IgnoredAny)>(named)
                    .map(|pair| pair.0)
            })
            .ok()
    });
    ids.collect()
}
