//! State that stands as it would be written: clients set the same again, after
//! a lost answer or out of habit, and each time would cost the room an event.

use ruma::OwnedEventId;

use crate::matrix::canonical_json::{CanonicalJsonValue, parse_stored_object};
use crate::query::rooms::{QueryError, RoomHead, Rooms, StateKey};
use crate::writers::client::event_builder::Draft;

/// The event of the room's state that says what `draft` would, by the same sender.
pub(super) fn standing(
    rooms: &dyn Rooms,
    head: &RoomHead,
    draft: &Draft,
) -> Result<Option<OwnedEventId>, QueryError> {
    let Some(state_key) = &draft.state_key else {
        return Ok(None);
    };
    let Some(event) = head.state.get(&StateKey::new(&draft.kind, state_key)) else {
        return Ok(None);
    };
    let Some(event) = rooms.events(&head.room_id, &[*event])?.pop() else {
        return Ok(None);
    };
    if event.sender != draft.sender {
        return Ok(None);
    }
    // One that cannot be read is no reason not to write another.
    let stored = parse_stored_object(&event.json).unwrap_or_default();
    let same = match stored.get("content") {
        Some(CanonicalJsonValue::Object(content)) => *content == draft.content,
        _ => false,
    };
    Ok(same.then(|| event.event_id.clone()))
}
