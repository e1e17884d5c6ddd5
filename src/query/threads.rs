//! Which thread an event is in (client-server API, *Threaded read receipts*).

use std::sync::Arc;

use ruma::{EventId, OwnedEventId, RoomId};

use super::rooms::{QueryError, Rooms, StoredEvent};
use crate::matrix::relation::{Relation, THREAD};

/// How many relations are followed to find out which thread an event is in
/// (client-server API, *Threaded read receipts*).
pub const THREAD_HOPS_MAX: usize = 3;

/// The root of the thread that an event is in; none if it is in the main
/// timeline, as roots are, and what relates to a root in another way.
pub fn thread_root(
    rooms: &dyn Rooms,
    room: &RoomId,
    event: &StoredEvent,
) -> Result<Option<OwnedEventId>, QueryError> {
    let mut parent: Option<Arc<StoredEvent>> = None;
    for _ in 0..THREAD_HOPS_MAX {
        let pdu = parent.as_ref().map_or(&event.json, |parent| &parent.json);
        let Some(relation) = Relation::of_event(pdu) else {
            break;
        };
        let Ok(parent_id) = <&EventId>::try_from(&*relation.parent) else {
            break;
        };
        if relation.rel_type == THREAD {
            return Ok(Some(parent_id.to_owned()));
        }
        let Some(next) = rooms.event(room, parent_id)? else {
            break;
        };
        parent = Some(next);
    }
    Ok(None)
}
