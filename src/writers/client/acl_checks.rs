//! `m.room.server_acl`: nobody locks their own server out of a room, since no one
//! there could open it again (security.md 1.5).

use ruma::ServerName;

use super::room_error::RoomWriteError;
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::matrix::server_acl::{SERVER_ACL_TYPE, ServerAcl};

/// Errors: the state event is a list that does not let `own` take part.
pub(super) fn check(
    own: &ServerName,
    kind: &str,
    state_key: &str,
    content: &CanonicalJsonObject,
) -> Result<(), RoomWriteError> {
    let is_list = kind == SERVER_ACL_TYPE && state_key.is_empty();
    match is_list && !ServerAcl::parse(content).allows(own) {
        true => Err(RoomWriteError::InvalidParam(
            "this list would lock out the server that you are on".into(),
        )),
        false => Ok(()),
    }
}
