//! Identifiers: ruma's types, and the stricter checks that making one needs.
//!
//! What comes from other servers is read leniently (historical ids must keep
//! working); what this server allocates follows the current grammar.

pub use ruma::{
    DeviceId, EventId, OwnedDeviceId, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName,
    OwnedUserId, RoomAliasId, RoomId, ServerName, UserId,
};

use crate::limits::ID_BYTES_MAX;

/// Why an identifier cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("is empty")]
    Empty,
    #[error("contains a character that is not allowed")]
    Character,
    #[error("is longer than 255 bytes")]
    TooLong,
}

/// The id of a user who registers with this localpart, in lower case.
///
/// Source: appendices, *User identifiers*. Upper case letters are lowered, as
/// servers are asked to do with the names that people choose.
pub fn new_user_id(localpart: &str, server: &ServerName) -> Result<OwnedUserId, IdError> {
    let localpart = localpart.to_ascii_lowercase();
    check_user_localpart(&localpart)?;
    let id = format!("@{localpart}:{server}");
    if id.len() > ID_BYTES_MAX {
        return Err(IdError::TooLong);
    }
    OwnedUserId::try_from(id).map_err(|_| IdError::Character)
}

/// Whether a localpart follows the current grammar.
pub fn check_user_localpart(localpart: &str) -> Result<(), IdError> {
    if localpart.is_empty() {
        return Err(IdError::Empty);
    }
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte);
    if localpart.bytes().all(allowed) {
        Ok(())
    } else {
        Err(IdError::Character)
    }
}

/// The alias of a room on this server (appendices, *Room aliases*). Whitespace
/// and control characters are refused besides what the grammar forbids: nobody
/// could type them.
pub fn new_room_alias(localpart: &str, server: &ServerName) -> Result<OwnedRoomAliasId, IdError> {
    if localpart.is_empty() {
        return Err(IdError::Empty);
    }
    if localpart
        .chars()
        .any(|c| c == ':' || c.is_control() || c.is_whitespace())
    {
        return Err(IdError::Character);
    }
    let id = format!("#{localpart}:{server}");
    if id.len() > ID_BYTES_MAX {
        return Err(IdError::TooLong);
    }
    OwnedRoomAliasId::try_from(id).map_err(|_| IdError::Character)
}

/// The id of a room before version 12, from its random localpart.
pub fn new_room_id(localpart: &str, server: &ServerName) -> Result<OwnedRoomId, IdError> {
    let id = format!("!{localpart}:{server}");
    if id.len() > ID_BYTES_MAX {
        return Err(IdError::TooLong);
    }
    OwnedRoomId::try_from(id).map_err(|_| IdError::Character)
}

/// The room that a create event of version 12 creates: its id with `!` for `$`.
pub fn room_id_of_create(create_event: &EventId) -> Result<OwnedRoomId, IdError> {
    let opaque = create_event
        .as_str()
        .strip_prefix('$')
        .ok_or(IdError::Character)?;
    OwnedRoomId::try_from(format!("!{opaque}")).map_err(|_| IdError::Character)
}

/// The create event of a version 12 room: the room id with `$` for `!`.
pub fn create_event_of_room(room: &RoomId) -> Result<OwnedEventId, IdError> {
    let opaque = room.as_str().strip_prefix('!').ok_or(IdError::Character)?;
    OwnedEventId::try_from(format!("${opaque}")).map_err(|_| IdError::Character)
}

/// The domain of an identifier with one: what follows the first colon.
pub fn domain_of(id: &str) -> Option<&str> {
    id.split_once(':')
        .map(|(_, domain)| domain)
        .filter(|domain| !domain.is_empty())
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn new_user_ids_follow_the_strict_grammar() {
        let hs = server_name!("hs.example");
        assert_eq!(
            new_user_id("Alice.a_b=c-d/e+f0", hs).expect("valid"),
            "@alice.a_b=c-d/e+f0:hs.example"
        );
        assert_eq!(new_user_id("", hs), Err(IdError::Empty));
        for bad in ["a b", "ä", "a:b", "a@b", "a*", "a\0", "a\n"] {
            assert_eq!(new_user_id(bad, hs), Err(IdError::Character), "{bad:?}");
        }
        let room = ID_BYTES_MAX - "@:hs.example".len();
        assert!(new_user_id(&"a".repeat(room), hs).is_ok());
        assert_eq!(
            new_user_id(&"a".repeat(room + 1), hs),
            Err(IdError::TooLong)
        );
    }

    #[test]
    fn new_aliases_are_bounded_in_bytes() {
        let hs = server_name!("hs.example");
        assert_eq!(
            new_room_alias("日本", hs).expect("valid"),
            "#日本:hs.example"
        );
        for bad in ["a:b", "a b", "a\0", "a\t"] {
            assert_eq!(new_room_alias(bad, hs), Err(IdError::Character), "{bad:?}");
        }
        assert_eq!(new_room_alias("", hs), Err(IdError::Empty));
        assert_eq!(new_room_alias(&"日".repeat(90), hs), Err(IdError::TooLong));
    }

    #[test]
    fn a_room_of_version_12_is_named_by_its_create_event() {
        let event = ruma::event_id!("$31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM");
        let room = room_id_of_create(event).expect("valid");
        assert_eq!(room, "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM");
        assert_eq!(create_event_of_room(&room).expect("valid"), event);
    }

    #[test]
    fn domains_follow_the_first_colon() {
        assert_eq!(domain_of("@a:hs:8448"), Some("hs:8448"));
        assert_eq!(domain_of("$hash"), None);
        assert_eq!(domain_of("!x:"), None);
    }
}
