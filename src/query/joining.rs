//! Who may know of a room without being in it: the directory's reader, who was
//! invited, who could join or knock (client-server API, *Room Summaries*,
//! *Discovering rooms within spaces*, *Restricted rooms*).

use log_format::record::output::{Membership, Visibility};
use ruma::{OwnedRoomId, ServerName, UserId};

use super::rooms::{QueryError, RoomHead, Rooms, StateKey};
use crate::matrix::auth_rules::{self, JoinRule};
use crate::matrix::canonical_json::parse_stored_object;

/// Rooms of `m.room.join_rules` `allow` that are looked at. Ours.
const ALLOWED_ROOMS_MAX: usize = 64;

/// The rooms whose members may join this one; none where it is not restricted.
pub fn allowed_rooms(rooms: &dyn Rooms, head: &RoomHead) -> Result<Vec<OwnedRoomId>, QueryError> {
    if !is_restricted(head) {
        return Ok(Vec::new());
    }
    let key = StateKey::new("m.room.join_rules", "");
    let Some(event) = head.state.get(&key) else {
        return Ok(Vec::new());
    };
    let event = rooms.events(&head.room_id, &[*event])?.pop();
    let event = event.and_then(|event| parse_stored_object(&event.json).ok());
    let content = event
        .as_ref()
        .and_then(|event| event.get("content")?.as_object());
    let mut allowed = content.map(auth_rules::allowed_rooms).unwrap_or_default();
    allowed.truncate(ALLOWED_ROOMS_MAX);
    Ok(allowed)
}

/// How a user stands to the conditions of a restricted room, as far as we can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    Met,
    /// None of them is met.
    Failed,
    /// None that we can look at is met, and there are others.
    Unknown,
}

/// How a user stands to a restricted room's conditions, told by a server that is
/// to vouch for it: rooms that it is not in itself are as they were when it left.
///
/// Source: server-server API, *Restricted rooms*.
pub fn conditions(
    rooms: &dyn Rooms,
    head: &RoomHead,
    user: &UserId,
    vouching: &ServerName,
) -> Result<Conditions, QueryError> {
    let mut standing = Conditions::Failed;
    for allowed in allowed_rooms(rooms, head)? {
        match rooms.head(&allowed)? {
            Some(allowed) if allowed.is_resident(vouching) => {
                if allowed.authority.is_joined(user) {
                    return Ok(Conditions::Met);
                }
            }
            _ => standing = Conditions::Unknown,
        }
    }
    Ok(standing)
}

/// Whether a user is joined to one of the rooms whose members may join.
pub fn meets_a_condition(
    rooms: &dyn Rooms,
    head: &RoomHead,
    user: &UserId,
) -> Result<bool, QueryError> {
    for allowed in allowed_rooms(rooms, head)? {
        if rooms.membership(&allowed, user)? == Some(Membership::Join) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether somebody may know that a room exists and what it looks like; without
/// a user, whether anybody may.
pub fn may_know_of(
    rooms: &dyn Rooms,
    head: &RoomHead,
    user: Option<&UserId>,
) -> Result<bool, QueryError> {
    if head.visibility == Visibility::WorldReadable {
        return Ok(true);
    }
    let membership = user.and_then(|user| head.authority.membership(user));
    match membership {
        Some(Membership::Join | Membership::Invite) => return Ok(true),
        Some(Membership::Ban) => return Ok(false),
        Some(Membership::Knock | Membership::Leave) | None => {}
    }
    let rules = &head.authority.create_info.version.rules().authorization;
    let is_open = match head.authority.rule {
        JoinRule::Public => true,
        JoinRule::Knock => rules.knocking,
        JoinRule::KnockRestricted => rules.knock_restricted_join_rule,
        JoinRule::Invite | JoinRule::Restricted | JoinRule::Other => false,
    };
    match user {
        Some(user) if !is_open => meets_a_condition(rooms, head, user),
        _ => Ok(is_open),
    }
}

/// Whether another server may know of a room: one of its users is in it or
/// invited, or could look at it, join or knock (server-server API, *GET
/// hierarchy*).
pub fn may_server_know_of(
    rooms: &dyn Rooms,
    head: &RoomHead,
    server: &ServerName,
) -> Result<bool, QueryError> {
    if head.is_resident(server) || may_know_of(rooms, head, None)? {
        return Ok(true);
    }
    let mut members = head.authority.members.iter();
    let is_invited = members.any(|(user, member)| {
        user.server_name() == server && member.membership == Membership::Invite
    });
    if is_invited {
        return Ok(true);
    }
    for allowed in allowed_rooms(rooms, head)? {
        if rooms
            .head(&allowed)?
            .is_some_and(|allowed| allowed.is_resident(server))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether members of other rooms may join.
pub fn is_restricted(head: &RoomHead) -> bool {
    let rules = &head.authority.create_info.version.rules().authorization;
    match head.authority.rule {
        JoinRule::Restricted => rules.restricted_join_rule,
        JoinRule::KnockRestricted => rules.knock_restricted_join_rule,
        _ => false,
    }
}
