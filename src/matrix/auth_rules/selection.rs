//! Which state events an event cites as its `auth_events`
//! (server-server API, *Auth events selection*).

use std::borrow::Cow;

use smallvec::SmallVec;

use super::super::ids::UserId;
use super::super::room_version::RoomVersion;
use super::contents::MemberContent;

/// The key of a state event that authorises another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuthKey<'a> {
    pub kind: &'static str,
    pub state_key: Cow<'a, str>,
}

/// The keys that one event may cite; rarely more than four.
pub type AuthKeys<'a> = SmallVec<[AuthKey<'a>; 6]>;

/// The state keys whose events, as far as the room has them, authorise an event.
///
/// `member` is the content of an `m.room.member` event and none for others.
/// The create event cites nothing; from version 12 nothing cites it.
pub fn auth_types_for_event<'a>(
    version: RoomVersion,
    kind: &str,
    sender: &'a UserId,
    state_key: Option<&'a str>,
    member: Option<MemberContent<'a>>,
) -> AuthKeys<'a> {
    let mut keys = AuthKeys::new();
    if kind == "m.room.create" {
        return keys;
    }
    let mut add = |kind: &'static str, state_key: &'a str| {
        let key = AuthKey {
            kind,
            state_key: Cow::Borrowed(state_key),
        };
        if !keys.contains(&key) {
            keys.push(key);
        }
    };
    if version
        .rules()
        .event_format
        .allow_room_create_in_auth_events
    {
        add("m.room.create", "");
    }
    add("m.room.power_levels", "");
    add("m.room.member", sender.as_str());
    if kind != "m.room.member" {
        return keys;
    }
    if let Some(target) = state_key {
        add("m.room.member", target);
    }
    let Some(member) = member else { return keys };
    if let "join" | "invite" | "knock" = member.membership {
        add("m.room.join_rules", "");
    }
    if let ("invite", Some(token)) = (member.membership, member.third_party_token()) {
        add("m.room.third_party_invite", token);
    }
    let restricted = version.rules().authorization.restricted_join_rule;
    if let ("join", Some(user), true) = (
        member.membership,
        member.join_authorised_via_users_server,
        restricted,
    ) {
        add("m.room.member", user);
    }
    keys
}
