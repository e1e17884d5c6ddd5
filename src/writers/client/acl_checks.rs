//! `m.room.server_acl`: nobody locks their own server out of a room, since no one
//! there could open it again (security.md 1.5).

use ruma::ServerName;

use super::room_error::RoomWriteError;
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::matrix::server_acl::{SERVER_ACL_TYPE, ServerAcl};

/// Errors: the state event is a list that does not let `own` take part.
///
/// Lists do not tell servers of one host by their ports: who keeps out one of the
/// `others` in the room that is on our host means what they do.
pub(super) fn check<'s>(
    own: &ServerName,
    mut others: impl Iterator<Item = &'s ServerName>,
    (kind, state_key): (&str, &str),
    content: &CanonicalJsonObject,
) -> Result<(), RoomWriteError> {
    let is_list = kind == SERVER_ACL_TYPE && state_key.is_empty();
    if !is_list || ServerAcl::parse(content).allows(own) {
        return Ok(());
    }
    let is_beside = |other: &ServerName| other != own && other.host() == own.host();
    match others.any(is_beside) {
        true => Ok(()),
        false => Err(RoomWriteError::InvalidParam(
            "this list would lock out the server that you are on".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use serde_json::json;

    use super::*;
    use crate::matrix::canonical_json::parse_object;

    #[test]
    fn who_is_on_our_host_may_be_kept_out() {
        let own = server_name!("a.test:8448");
        let list = json!({ "allow": ["*"], "deny": ["a.test"] }).to_string();
        let list = parse_object(list.as_bytes()).unwrap();
        let set = |other: &ServerName| {
            let others = [own, other];
            check(own, others.into_iter(), (SERVER_ACL_TYPE, ""), &list)
        };
        assert!(set(server_name!("b.test")).is_err());
        assert!(set(own).is_err());
        assert!(set(server_name!("a.test:8449")).is_ok());
        assert!(set(server_name!("a.test")).is_ok());
    }
}
