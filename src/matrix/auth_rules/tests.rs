//! Pass and fail tables per rule and version, against a room whose state a test
//! makes up. Whole rooms are in the scenarios of `tests/rooms/`; a comparison with
//! an independent implementation is made by the tests of state resolution.

mod citing;
mod create;
mod joining;
mod levels;
mod moderation;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::canonical_json::parse_object;
use super::super::ids::{OwnedEventId, OwnedRoomId, OwnedUserId};
use super::super::signing::sign_json;
use super::*;
use crate::crypto::ServerKey;

/// A room whose state is whatever a test puts there.
pub(crate) struct Room {
    pub version: RoomVersion,
    pub create: Option<CreateInfo>,
    pub levels: Option<PowerLevels>,
    pub join_rule: JoinRule,
    pub members: BTreeMap<OwnedUserId, Membership>,
    pub invites: BTreeMap<String, ThirdPartyInvite>,
}

impl AuthState for Room {
    fn create(&self) -> Option<&CreateInfo> {
        self.create.as_ref()
    }
    fn power_levels(&self) -> Option<&PowerLevels> {
        self.levels.as_ref()
    }
    fn join_rule(&self) -> JoinRule {
        self.join_rule
    }
    fn membership(&self, user: &UserId) -> Option<Membership> {
        self.members.get(user).copied()
    }
    fn third_party_invite(&self, token: &str) -> Option<ThirdPartyInvite> {
        self.invites.get(token).cloned()
    }
}

pub(crate) fn user(id: &str) -> OwnedUserId {
    OwnedUserId::try_from(id).expect(id)
}

pub(crate) fn object(text: &str) -> CanonicalJsonObject {
    parse_object(text.as_bytes()).expect(text)
}

pub(crate) const CREATE: &str = "$create";

pub(crate) fn room_id(version: RoomVersion) -> OwnedRoomId {
    let id = if version.room_id_is_create_hash() {
        "!create"
    } else {
        "!room:hs"
    };
    OwnedRoomId::try_from(id).expect(id)
}

/// A room created by @admin:hs (level 100), with @mod:hs (50), @alice:hs and
/// @bob:other joined, @in:hs invited, @out:hs banned, @gone:hs left, and
/// @door:hs knocking.
pub(crate) fn room(version: RoomVersion) -> Room {
    let content = object(r#"{"creator":"@admin:hs","additional_creators":["@second:hs"]}"#);
    let create = CreateInfo::parse(
        version,
        OwnedEventId::try_from(CREATE).expect("valid"),
        room_id(version),
        user("@admin:hs"),
        &content,
    );
    let mut members = BTreeMap::new();
    for (id, membership) in [
        ("@admin:hs", Membership::Join),
        ("@second:hs", Membership::Join),
        ("@mod:hs", Membership::Join),
        ("@mod2:hs", Membership::Join),
        ("@alice:hs", Membership::Join),
        ("@bob:other", Membership::Join),
        ("@in:hs", Membership::Invite),
        ("@out:hs", Membership::Ban),
        ("@gone:hs", Membership::Leave),
        ("@door:hs", Membership::Knock),
    ] {
        members.insert(user(id), membership);
    }
    let levels = if version
        .rules()
        .authorization
        .explicitly_privilege_room_creators
    {
        r#"{"users":{"@mod:hs":50,"@mod2:hs":50},"events":{"m.room.topic":20},"invite":0}"#
    } else {
        r#"{"users":{"@admin:hs":100,"@mod:hs":50,"@mod2:hs":50},"events":{"m.room.topic":20},"invite":0}"#
    };
    Room {
        version,
        create: Some(create.expect("parses")),
        levels: Some(PowerLevels::parse(version, &object(levels)).expect("parses")),
        join_rule: JoinRule::Invite,
        members,
        invites: BTreeMap::new(),
    }
}

impl Room {
    pub(crate) fn judge(
        &self,
        sender: &str,
        kind: &str,
        state_key: Option<&str>,
        content: &str,
    ) -> Result<(), AuthError> {
        self.judge_after("$other", None, sender, kind, state_key, content)
    }

    fn judge_after(
        &self,
        prev: &str,
        redacts: Option<&str>,
        sender: &str,
        kind: &str,
        state_key: Option<&str>,
        content: &str,
    ) -> Result<(), AuthError> {
        let event_id = OwnedEventId::try_from("$event:other").expect("valid");
        let (room_id, sender) = (room_id(self.version), user(sender));
        let event = AuthEvent {
            event_id: &event_id,
            room_id: &room_id,
            sender: &sender,
            kind,
            state_key,
            content: EventContent::Bytes(content.as_bytes()),
            prev_events_count: usize::from(kind != "m.room.create"),
            first_prev_event: Some(prev),
            redacts,
        };
        check(self.version, &event, self)
    }

    fn member(&self, sender: &str, target: &str, membership: &str) -> Result<(), AuthError> {
        self.judge(
            sender,
            "m.room.member",
            Some(target),
            &format!(r#"{{"membership":"{membership}"}}"#),
        )
    }
}

fn versions(from: RoomVersion, to: RoomVersion) -> impl Iterator<Item = RoomVersion> {
    RoomVersion::all().filter(move |version| (from..=to).contains(version))
}

const V1: RoomVersion = RoomVersion::V1;
const V12: RoomVersion = RoomVersion::V12;

proptest! {
    /// No content makes the rules panic, and none is accepted without a reason.
    #[test]
    fn any_json_content_is_judged(version in 1_u8..=12, text in "[ -~]{0,80}", kind in 0..5_usize) {
        let version = RoomVersion::parse(&version.to_string()).expect("known");
        let kind = ["m.room.member", "m.room.power_levels", "m.room.create", "m.room.join_rules", "m.room.third_party_invite"][kind];
        let _ = room(version).judge("@mod:hs", kind, Some("@mod:hs"), &text);
    }
}
