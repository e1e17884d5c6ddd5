//! What a new room begins with: presets and default power levels
//! (client-server API, *POST createRoom*).

use ruma::{Int, OwnedUserId, UserId};

use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};

/// `preset` of createRoom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    PrivateChat,
    TrustedPrivateChat,
    PublicChat,
}

impl Preset {
    /// Reads the specification's word.
    pub fn parse(word: &str) -> Option<Preset> {
        match word {
            "private_chat" => Some(Preset::PrivateChat),
            "trusted_private_chat" => Some(Preset::TrustedPrivateChat),
            "public_chat" => Some(Preset::PublicChat),
            _ => None,
        }
    }

    /// Type and content of the state events that the preset sets, in order.
    pub fn state(self) -> [(&'static str, CanonicalJsonObject); 3] {
        let (join_rule, guest_access) = match self {
            Preset::PrivateChat | Preset::TrustedPrivateChat => ("invite", "can_join"),
            Preset::PublicChat => ("public", "forbidden"),
        };
        [
            ("m.room.join_rules", text("join_rule", join_rule)),
            (
                "m.room.history_visibility",
                text("history_visibility", "shared"),
            ),
            ("m.room.guest_access", text("guest_access", guest_access)),
        ]
    }

    /// Level that inviting takes: in private rooms everybody may.
    fn invite_level(self) -> i64 {
        match self {
            Preset::PrivateChat | Preset::TrustedPrivateChat => 0,
            Preset::PublicChat => 50,
        }
    }
}

/// The default `m.room.power_levels` content.
///
/// Creators of room version 12 have infinite power and are not listed. `equals`
/// are the invited of a `trusted_private_chat`, who get the creator's level.
pub fn power_levels(
    version: RoomVersion,
    preset: Preset,
    creator: &UserId,
    equals: &[OwnedUserId],
) -> CanonicalJsonObject {
    let privileged = has_privileged_creators(version);
    let mut users = CanonicalJsonObject::new();
    if !privileged {
        users.insert(creator.to_string(), level(100));
        if preset == Preset::TrustedPrivateChat {
            users.extend(equals.iter().map(|user| (user.to_string(), level(100))));
        }
    }
    // Upgrading a room must take more than any level that can be given away.
    let tombstone = if privileged { 150 } else { 100 };
    let events = [
        ("m.room.name", 50),
        ("m.room.avatar", 50),
        ("m.room.canonical_alias", 50),
        ("m.room.power_levels", 100),
        ("m.room.history_visibility", 100),
        ("m.room.encryption", 100),
        ("m.room.server_acl", 100),
        ("m.room.tombstone", tombstone),
    ];
    let events = events.map(|(kind, needed)| (kind.to_owned(), level(needed)));
    let mut content = CanonicalJsonObject::new();
    content.insert("users".into(), CanonicalJsonValue::Object(users));
    content.insert(
        "events".into(),
        CanonicalJsonValue::Object(events.into_iter().collect()),
    );
    for (field, needed) in [
        ("users_default", 0),
        ("events_default", 0),
        ("state_default", 50),
        ("ban", 50),
        ("kick", 50),
        ("redact", 50),
        ("historical", 100),
        ("invite", preset.invite_level()),
    ] {
        content.insert(field.into(), level(needed));
    }
    content
}

/// Whether creators have infinite power (room version 12 and later).
pub fn has_privileged_creators(version: RoomVersion) -> bool {
    version
        .rules()
        .authorization
        .explicitly_privilege_room_creators
}

/// An object with one text field.
pub fn text(field: &str, value: &str) -> CanonicalJsonObject {
    CanonicalJsonObject::from([(
        field.to_owned(),
        CanonicalJsonValue::String(value.to_owned()),
    )])
}

pub(super) fn level(level: i64) -> CanonicalJsonValue {
    // The levels above are far below 2^53, so the fallback is never taken.
    CanonicalJsonValue::Integer(Int::new(level).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use ruma::{owned_user_id, user_id};

    use super::*;

    #[test]
    fn creators_are_listed_only_where_they_need_to_be() {
        let creator = user_id!("@c:hs");
        let friend = [owned_user_id!("@f:hs")];
        let users = |version, preset| match power_levels(version, preset, creator, &friend)
            .remove("users")
        {
            Some(CanonicalJsonValue::Object(users)) => users.into_keys().collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        let trusted = Preset::TrustedPrivateChat;
        assert_eq!(users(RoomVersion::V11, trusted), ["@c:hs", "@f:hs"]);
        assert_eq!(users(RoomVersion::V10, Preset::PublicChat), ["@c:hs"]);
        assert!(users(RoomVersion::V12, trusted).is_empty());
    }

    #[test]
    fn presets_set_what_the_specification_says() {
        let of = |preset: Preset| {
            preset
                .state()
                .map(|(_, content)| match content.into_values().next() {
                    Some(CanonicalJsonValue::String(value)) => value,
                    other => panic!("{other:?}"),
                })
        };
        assert_eq!(of(Preset::PrivateChat), ["invite", "shared", "can_join"]);
        assert_eq!(
            of(Preset::TrustedPrivateChat),
            ["invite", "shared", "can_join"]
        );
        assert_eq!(of(Preset::PublicChat), ["public", "shared", "forbidden"]);
    }
}
