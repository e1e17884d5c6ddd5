//! Which policy server a room uses, by its current state.

use super::rooms::{QueryError, RoomHead, Rooms, StateKey};
use crate::matrix::canonical_json::parse_stored_object;
use crate::matrix::policy::{POLICY_TYPE, PolicyServer};

/// The policy server of a room; none if it names none, or one that has nobody in
/// the room (server-server API, *Determining if a Policy Server is enabled in a
/// room*). The fold decides by the same.
pub fn policy_server(
    rooms: &dyn Rooms,
    head: &RoomHead,
) -> Result<Option<PolicyServer>, QueryError> {
    let Some(event) = head.state.get(&StateKey::new(POLICY_TYPE, "")) else {
        return Ok(None);
    };
    let Some(stored) = rooms.events(&head.room_id, &[*event])?.pop() else {
        return Ok(None);
    };
    let pdu = parse_stored_object(&stored.json).unwrap_or_default();
    let content = pdu.get("content").and_then(|content| content.as_object());
    let policy = content.and_then(PolicyServer::parse);
    Ok(policy.filter(|policy| head.is_resident(&policy.via)))
}
