//! What a local join needs beside the auth rules, whichever endpoint asks for
//! it: that the room admits guests, and by whom a restricted room is opened.

use log_format::record::output::Membership;
use ruma::{OwnedUserId, UserId};
use serde_json::Value;

use super::room_error::RoomWriteError;
use super::room_state::RoomState;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::query::joining::meets_a_condition;
use crate::query::users::Users;

/// Says whether guests may join.
pub(super) const GUEST_ACCESS: &str = "m.room.guest_access";
/// Who vouches for a join of a restricted room, in its content.
pub const AUTHORISED_BY: &str = "join_authorised_via_users_server";

/// Checks and completes the content of a join.
///
/// Who authorises it is for the server alone to say, which signs for that user:
/// what a client wrote there is dropped. One who is joined already stays
/// authorised by whom they were.
pub(super) fn complete(
    users: &dyn Users,
    state: &RoomState<'_>,
    user: &UserId,
    content: &mut CanonicalJsonObject,
) -> Result<(), RoomWriteError> {
    content.remove(AUTHORISED_BY);
    let now = state.head.authority.membership(user);
    if now != Some(Membership::Join) && is_guest(users, user) && !admits_guests(state)? {
        return Err(RoomWriteError::GuestForbidden);
    }
    let by = match now {
        Some(Membership::Join) => standing_authoriser(state, user)?,
        Some(Membership::Invite) => None,
        _ if is_restricted(state) => authoriser(state, user)?.map(String::from),
        _ => None,
    };
    content.extend(by.map(|by| (AUTHORISED_BY.to_owned(), CanonicalJsonValue::String(by))));
    Ok(())
}

fn is_restricted(state: &RoomState<'_>) -> bool {
    let rule = &*state.head.authority.join_rule;
    matches!(rule, "restricted" | "knock_restricted")
}

/// Who authorised the join that holds.
fn standing_authoriser(
    state: &RoomState<'_>,
    user: &UserId,
) -> Result<Option<String>, RoomWriteError> {
    let shown = state.content("m.room.member", user.as_str())?;
    let by = shown.and_then(|mut shown| shown.remove(AUTHORISED_BY));
    Ok(match by {
        Some(Value::String(by)) => Some(by),
        _ => None,
    })
}

/// Who lets a member of an allowed room in: a local member who may invite
/// (room version 8 and later, *Restricted rooms*). None if the user fulfils no
/// condition; the auth rules then refuse the join.
fn authoriser(state: &RoomState<'_>, user: &UserId) -> Result<Option<OwnedUserId>, RoomWriteError> {
    if !meets_a_condition(state.rooms, state.head, user)? {
        return Ok(None);
    }
    let authoriser = state.head.authority.inviter_of(user.server_name());
    Ok(authoriser.cloned())
}

/// Whether the account is a guest's.
pub(super) fn is_guest(users: &dyn Users, user: &UserId) -> bool {
    users.account(user).is_some_and(|account| account.guest)
}

/// Whether guests may be in the room (client-server API, *Guest Access*).
pub(super) fn admits_guests(state: &RoomState<'_>) -> Result<bool, RoomWriteError> {
    let content = state.content(GUEST_ACCESS, "")?.unwrap_or_default();
    Ok(content.get("guest_access").and_then(Value::as_str) == Some("can_join"))
}
