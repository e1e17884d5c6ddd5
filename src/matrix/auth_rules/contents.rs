//! The contents that the rules read, parsed once: create, join rules,
//! third-party invites, membership.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::super::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use super::super::ids::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use super::super::room_version::RoomVersion;
use super::AuthError;
use crate::crypto::signing_key::BASE64;

/// A room's create event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateInfo {
    pub event_id: OwnedEventId,
    pub room_id: OwnedRoomId,
    pub version: RoomVersion,
    pub sender: OwnedUserId,
    /// The one creator; from version 12 the sender and `additional_creators`.
    pub creators: Vec<OwnedUserId>,
    /// `m.federate`; true unless it says false.
    pub federate: bool,
}

impl CreateInfo {
    /// Reads an accepted create event. The version is that of the room, which
    /// was read from the content before the event could be parsed.
    pub fn parse(
        version: RoomVersion,
        event_id: OwnedEventId,
        room_id: OwnedRoomId,
        sender: OwnedUserId,
        content: &CanonicalJsonObject,
    ) -> Result<CreateInfo, AuthError> {
        let rules = &version.rules().authorization;
        let mut creators = Vec::with_capacity(1);
        if rules.use_room_create_sender {
            creators.push(sender.clone());
        } else {
            let creator = content
                .get("creator")
                .ok_or(AuthError::CreateWithoutCreator)?;
            // The rules ask for its presence only; what is no user id has no power.
            let creator = creator
                .as_str()
                .and_then(|user| OwnedUserId::try_from(user).ok());
            creators.extend(creator);
        }
        if rules.additional_room_creators {
            for creator in additional_creators(content)? {
                if !creators.contains(&creator) {
                    creators.push(creator);
                }
            }
        }
        let federate = content
            .get("m.federate")
            .and_then(|value| value.as_bool())
            .unwrap_or(true);
        Ok(CreateInfo {
            event_id,
            room_id,
            version,
            sender,
            creators,
            federate,
        })
    }

    /// Whether the user is a creator of the room.
    pub fn is_creator(&self, user: &UserId) -> bool {
        self.creators.iter().any(|creator| creator == user)
    }

    /// Whether the create event makes this room.
    pub(super) fn makes(&self, room: &RoomId) -> bool {
        self.room_id == room
    }
}

/// `content.room_version` of a create event; absent means version 1.
pub fn room_version_of(create_content: &CanonicalJsonObject) -> Result<RoomVersion, AuthError> {
    let unknown = |name: &str| AuthError::CreateUnknownVersion(name.into());
    match create_content.get("room_version") {
        None => Ok(RoomVersion::V1),
        Some(CanonicalJsonValue::String(name)) => {
            RoomVersion::parse(name).ok_or_else(|| unknown(name))
        }
        Some(_) => Err(unknown("")),
    }
}

/// Rule 1.4 of version 12.
pub(super) fn additional_creators(
    content: &CanonicalJsonObject,
) -> Result<Vec<OwnedUserId>, AuthError> {
    let Some(value) = content.get("additional_creators") else {
        return Ok(Vec::new());
    };
    let CanonicalJsonValue::Array(values) = value else {
        return Err(AuthError::CreateAdditionalCreators);
    };
    let user = |value: &CanonicalJsonValue| {
        OwnedUserId::try_from(value.as_str()?)
            .ok()
            .filter(|user| user.as_str().len() <= crate::limits::ID_BYTES_MAX)
    };
    values
        .iter()
        .map(|value| user(value).ok_or(AuthError::CreateAdditionalCreators))
        .collect()
}

/// Who may join a room (client-server API, *m.room.join_rules*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRule {
    Public,
    /// Also what holds where the room sets none.
    Invite,
    Knock,
    Restricted,
    KnockRestricted,
    /// `private` and anything else: nobody.
    Other,
}

impl JoinRule {
    /// Reads an `m.room.join_rules` content.
    pub fn parse(content: &CanonicalJsonObject) -> JoinRule {
        match content.get("join_rule").and_then(|rule| rule.as_str()) {
            Some("public") => JoinRule::Public,
            Some("invite") => JoinRule::Invite,
            Some("knock") => JoinRule::Knock,
            Some("restricted") => JoinRule::Restricted,
            Some("knock_restricted") => JoinRule::KnockRestricted,
            _ => JoinRule::Other,
        }
    }

    /// The specification's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            JoinRule::Public => "public",
            JoinRule::Invite => "invite",
            JoinRule::Knock => "knock",
            JoinRule::Restricted => "restricted",
            JoinRule::KnockRestricted => "knock_restricted",
            JoinRule::Other => "private",
        }
    }
}

/// Rooms whose members may join a restricted room: the `m.room_membership`
/// conditions of `allow` (client-server API, *Restricted rooms*).
pub fn allowed_rooms(join_rules_content: &CanonicalJsonObject) -> Vec<OwnedRoomId> {
    let allow = join_rules_content
        .get("allow")
        .and_then(|allow| allow.as_array())
        .unwrap_or_default();
    let room_of = |condition: &CanonicalJsonValue| {
        let condition = condition.as_object()?;
        if condition.get("type")?.as_str()? != "m.room_membership" {
            return None;
        }
        OwnedRoomId::try_from(condition.get("room_id")?.as_str()?).ok()
    };
    allow.iter().filter_map(room_of).collect()
}

/// An `m.room.third_party_invite` event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThirdPartyInvite {
    pub sender: OwnedUserId,
    /// Ed25519 keys of `public_key` and `public_keys`, 32 bytes each.
    pub public_keys: Vec<[u8; 32]>,
}

impl ThirdPartyInvite {
    /// Reads the event's content. Keys that are none are left out: they match
    /// no signature.
    pub fn parse(sender: OwnedUserId, content: &CanonicalJsonObject) -> ThirdPartyInvite {
        let listed = content
            .get("public_keys")
            .and_then(|keys| keys.as_array())
            .unwrap_or_default();
        let listed = listed
            .iter()
            .filter_map(|key| key.as_object()?.get("public_key"));
        let public_keys = content
            .get("public_key")
            .into_iter()
            .chain(listed)
            .filter_map(decode_key)
            .collect();
        ThirdPartyInvite {
            sender,
            public_keys,
        }
    }
}

/// Identity servers write these keys in either alphabet of base64.
fn decode_key(value: &CanonicalJsonValue) -> Option<[u8; 32]> {
    let text = value.as_str()?;
    let bytes = BASE64
        .decode(text)
        .or_else(|_| URL_SAFE_NO_PAD.decode(text))
        .ok()?;
    bytes.try_into().ok()
}

/// What the rules read of an `m.room.member` content, borrowed from it.
#[derive(Clone, Copy, Debug)]
pub struct MemberContent<'a> {
    pub membership: &'a str,
    pub join_authorised_via_users_server: Option<&'a str>,
    pub third_party_invite: Option<&'a CanonicalJsonValue>,
}

impl<'a> MemberContent<'a> {
    /// Errors: rule 5.1, no `membership`.
    pub fn parse(content: &'a CanonicalJsonObject) -> Result<MemberContent<'a>, AuthError> {
        let text = |key: &str| content.get(key).and_then(|value| value.as_str());
        Ok(MemberContent {
            membership: text("membership").ok_or(AuthError::MemberMalformed)?,
            // A key that is no string names no user, which rule 5.3.5.2 refuses.
            join_authorised_via_users_server: content
                .get("join_authorised_via_users_server")
                .map(|user| user.as_str().unwrap_or_default()),
            third_party_invite: content.get("third_party_invite"),
        })
    }

    /// `third_party_invite.signed.token`.
    pub fn third_party_token(&self) -> Option<&'a str> {
        self.third_party_invite?
            .as_object()?
            .get("signed")?
            .as_object()?
            .get("token")?
            .as_str()
    }
}
