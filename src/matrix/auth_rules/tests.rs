//! Pass and fail tables per rule and version. A comparison with an independent
//! implementation is made by the tests of state resolution, which judge events.

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

#[test]
fn create_events() {
    for version in RoomVersion::all() {
        let room = room(version);
        let create =
            |sender: &str, content: &str| room.judge(sender, "m.room.create", Some(""), content);
        assert_eq!(
            create("@admin:hs", r#"{"creator":"@admin:hs","room_version":"6"}"#),
            Ok(())
        );
        assert_eq!(
            create(
                "@admin:hs",
                r#"{"creator":"@admin:hs","room_version":"99"}"#
            ),
            Err(AuthError::CreateUnknownVersion("99".into()))
        );
        let of_other = create("@admin:other", r#"{"creator":"@admin:other"}"#);
        let without_creator = create("@admin:hs", "{}");
        let bad_creators = create(
            "@admin:hs",
            r#"{"creator":"@admin:hs","additional_creators":["x"]}"#,
        );
        assert_eq!(
            of_other == Err(AuthError::CreateRoomIdDomain),
            version < V12,
            "{version}"
        );
        assert_eq!(
            without_creator == Err(AuthError::CreateWithoutCreator),
            version < RoomVersion::V11
        );
        assert_eq!(
            bad_creators == Err(AuthError::CreateAdditionalCreators),
            version == V12
        );
        assert_eq!(of_other.is_ok(), version == V12);
    }
}

#[test]
fn a_create_event_stands_first() {
    let room = room(V12);
    let event_id = OwnedEventId::try_from("$x").expect("valid");
    let (room_id, sender) = (room_id(V12), user("@admin:hs"));
    let event = AuthEvent {
        event_id: &event_id,
        room_id: &room_id,
        sender: &sender,
        kind: "m.room.create",
        state_key: Some(""),
        content: EventContent::Bytes(b"{}"),
        prev_events_count: 1,
        first_prev_event: Some("$p"),
        redacts: None,
    };
    assert_eq!(
        check(V12, &event, &room),
        Err(AuthError::CreateWithPrevEvents)
    );
}

#[test]
fn nothing_happens_without_a_create_event() {
    for version in RoomVersion::all() {
        let mut room = room(version);
        room.create = None;
        assert_eq!(
            room.judge("@alice:hs", "m.room.message", None, "{}"),
            Err(AuthError::NoCreate)
        );
    }
}

#[test]
fn version_12_wants_the_room_of_the_create_event() {
    let mut room = room(V12);
    room.create.as_mut().expect("is there").room_id =
        OwnedRoomId::try_from("!else").expect("valid");
    assert_eq!(
        room.judge("@alice:hs", "m.room.message", None, "{}"),
        Err(AuthError::RoomIdMismatch)
    );
}

#[test]
fn rooms_that_do_not_federate_are_local() {
    for version in RoomVersion::all() {
        let mut room = room(version);
        room.create.as_mut().expect("is there").federate = false;
        assert_eq!(
            room.judge("@alice:hs", "m.room.message", None, "{}"),
            Ok(())
        );
        assert_eq!(
            room.judge("@bob:other", "m.room.message", None, "{}"),
            Err(AuthError::NotFederated)
        );
    }
}

#[test]
fn aliases_belong_to_their_server_up_to_version_5() {
    for version in RoomVersion::all() {
        let room = room(version);
        let judge = |state_key| room.judge("@alice:hs", "m.room.aliases", state_key, "{}");
        if version <= RoomVersion::V5 {
            assert_eq!(judge(Some("hs")), Ok(()));
            assert_eq!(judge(Some("other")), Err(AuthError::AliasesDomain));
            assert_eq!(judge(None), Err(AuthError::AliasesWithoutStateKey));
        } else {
            assert_eq!(judge(Some("hs")), Err(AuthError::EventPower));
        }
    }
}

#[test]
fn the_creator_joins_first() {
    for version in RoomVersion::all() {
        let mut room = room(version);
        room.members.clear();
        let join = r#"{"membership":"join"}"#;
        let first = |prev: &str, sender: &str| {
            room.judge_after(prev, None, sender, "m.room.member", Some(sender), join)
        };
        assert_eq!(first(CREATE, "@admin:hs"), Ok(()));
        assert_eq!(first("$other", "@admin:hs"), Err(AuthError::JoinNotInvited));
        assert_eq!(first(CREATE, "@second:hs"), Err(AuthError::JoinNotInvited));
    }
}

#[test]
fn joins_follow_the_join_rule() {
    use JoinRule::{Invite, Knock, KnockRestricted, Other, Public, Restricted};
    for version in RoomVersion::all() {
        let mut room = room(version);
        for rule in [Public, Invite, Knock, Restricted, KnockRestricted, Other] {
            room.join_rule = rule;
            let since = match rule {
                Public | Invite => V1,
                Knock => RoomVersion::V7,
                Restricted => RoomVersion::V8,
                KnockRestricted => RoomVersion::V10,
                Other => RoomVersion::V12,
            };
            let known = version >= since && rule != Other;
            let stranger = room.member("@new:hs", "@new:hs", "join");
            match rule {
                Public => assert_eq!(stranger, Ok(())),
                _ if !known => assert_eq!(stranger, Err(AuthError::JoinRule), "{version} {rule:?}"),
                Invite | Knock => assert_eq!(stranger, Err(AuthError::JoinNotInvited)),
                _ => assert_eq!(stranger, Err(AuthError::JoinAuthoriserNotJoined)),
            }
            assert_eq!(
                room.member("@in:hs", "@in:hs", "join").is_ok(),
                known,
                "{version} {rule:?}"
            );
            assert_eq!(room.member("@alice:hs", "@alice:hs", "join").is_ok(), known);
            assert_eq!(
                room.member("@out:hs", "@out:hs", "join"),
                Err(AuthError::JoinBanned)
            );
            assert_eq!(
                room.member("@mod:hs", "@new:hs", "join"),
                Err(AuthError::JoinForOther)
            );
        }
    }
}

#[test]
fn restricted_joins_need_a_member_who_may_invite() {
    for version in versions(RoomVersion::V8, V12) {
        let mut room = room(version);
        room.join_rule = JoinRule::Restricted;
        room.levels.as_mut().expect("is there").invite = Some(50);
        let join = |authoriser: &str| {
            let content = format!(
                r#"{{"membership":"join","join_authorised_via_users_server":{authoriser}}}"#
            );
            room.judge("@new:hs", "m.room.member", Some("@new:hs"), &content)
        };
        assert_eq!(join(r#""@mod:hs""#), Ok(()));
        assert_eq!(join(r#""@alice:hs""#), Err(AuthError::JoinAuthoriserPower));
        for bad in [r#""@in:hs""#, r#""@nobody:hs""#, r#""x""#, "1", "null"] {
            assert_eq!(join(bad), Err(AuthError::JoinAuthoriserNotJoined), "{bad}");
        }
    }
}

#[test]
fn invites() {
    for version in RoomVersion::all() {
        let mut room = room(version);
        assert_eq!(room.member("@alice:hs", "@new:hs", "invite"), Ok(()));
        assert_eq!(room.member("@alice:hs", "@gone:hs", "invite"), Ok(()));
        assert_eq!(room.member("@alice:hs", "@door:hs", "invite"), Ok(()));
        assert_eq!(
            room.member("@in:hs", "@new:hs", "invite"),
            Err(AuthError::InviteSenderNotJoined)
        );
        for target in ["@bob:other", "@out:hs"] {
            assert_eq!(
                room.member("@mod:hs", target, "invite"),
                Err(AuthError::InviteTargetJoinedOrBanned)
            );
        }
        room.levels.as_mut().expect("is there").invite = Some(50);
        assert_eq!(
            room.member("@alice:hs", "@new:hs", "invite"),
            Err(AuthError::InvitePower)
        );
        assert_eq!(room.member("@mod:hs", "@new:hs", "invite"), Ok(()));
    }
}

#[test]
fn third_party_invites_are_proved_by_signature() {
    let key = ServerKey::from_seed([9; 32], "0");
    for version in RoomVersion::all() {
        let mut room = room(version);
        let keys = format!(
            r#"{{"public_key":"x","public_keys":[{{"public_key":"{}"}}]}}"#,
            key.public_base64()
        );
        let invite = ThirdPartyInvite::parse(user("@alice:hs"), &object(&keys));
        room.invites.insert("tok".to_owned(), invite);
        let signed = |mxid: &str, token: &str| {
            let mut signed = object(&format!(r#"{{"mxid":"{mxid}","token":"{token}"}}"#));
            sign_json(&mut signed, ruma::server_name!("id.example"), &key);
            String::from_utf8(super::super::canonical_json::to_bytes(&signed)).expect("is UTF-8")
        };
        let judge = |sender: &str, target: &str, invite: &str| {
            let content = format!(r#"{{"membership":"invite","third_party_invite":{invite}}}"#);
            room.judge(sender, "m.room.member", Some(target), &content)
        };
        let with = |signed: &str| format!(r#"{{"display_name":"a","signed":{signed}}}"#);
        assert_eq!(
            judge("@alice:hs", "@new:hs", &with(&signed("@new:hs", "tok"))),
            Ok(())
        );
        let refusals = [
            (
                "@alice:hs",
                "@out:hs",
                with(&signed("@out:hs", "tok")),
                AuthError::ThirdPartyInviteBanned,
            ),
            (
                "@alice:hs",
                "@new:hs",
                "{}".to_owned(),
                AuthError::ThirdPartyInviteUnsigned,
            ),
            (
                "@alice:hs",
                "@new:hs",
                with("{}"),
                AuthError::ThirdPartyInviteMalformed,
            ),
            (
                "@alice:hs",
                "@new:hs",
                with(&signed("@bob:hs", "tok")),
                AuthError::ThirdPartyInviteOtherUser,
            ),
            (
                "@alice:hs",
                "@new:hs",
                with(&signed("@new:hs", "no")),
                AuthError::ThirdPartyInviteUnknownToken,
            ),
            (
                "@mod:hs",
                "@new:hs",
                with(&signed("@new:hs", "tok")),
                AuthError::ThirdPartyInviteOtherSender,
            ),
            (
                "@alice:hs",
                "@new:hs",
                with(
                    r#"{"mxid":"@new:hs","token":"tok","signatures":{"id.example":{"ed25519:0":"AAAA"}}}"#,
                ),
                AuthError::ThirdPartyInviteSignature,
            ),
        ];
        for (sender, target, invite, expected) in refusals {
            assert_eq!(judge(sender, target, &invite), Err(expected), "{version}");
        }
    }
}

#[test]
fn leaving_kicking_and_unbanning() {
    for version in RoomVersion::all() {
        let mut room = room(version);
        assert_eq!(room.member("@alice:hs", "@alice:hs", "leave"), Ok(()));
        assert_eq!(room.member("@in:hs", "@in:hs", "leave"), Ok(()));
        assert_eq!(
            room.member("@door:hs", "@door:hs", "leave").is_ok(),
            version >= RoomVersion::V7
        );
        for outside in ["@out:hs", "@gone:hs", "@new:hs"] {
            assert_eq!(
                room.member(outside, outside, "leave"),
                Err(AuthError::LeaveNotMember)
            );
        }
        assert_eq!(room.member("@mod:hs", "@alice:hs", "leave"), Ok(()));
        assert_eq!(room.member("@mod:hs", "@in:hs", "leave"), Ok(()));
        assert_eq!(
            room.member("@mod:hs", "@mod2:hs", "leave"),
            Err(AuthError::KickTargetPower)
        );
        assert_eq!(
            room.member("@mod:hs", "@admin:hs", "leave"),
            Err(AuthError::KickTargetPower)
        );
        assert_eq!(
            room.member("@alice:hs", "@bob:other", "leave"),
            Err(AuthError::KickPower)
        );
        assert_eq!(
            room.member("@in:hs", "@alice:hs", "leave"),
            Err(AuthError::KickSenderNotJoined)
        );
        assert_eq!(room.member("@mod:hs", "@out:hs", "leave"), Ok(()));
        room.levels.as_mut().expect("is there").ban = Some(60);
        assert_eq!(
            room.member("@mod:hs", "@out:hs", "leave"),
            Err(AuthError::UnbanPower)
        );
    }
}

#[test]
fn bans() {
    for version in RoomVersion::all() {
        let room = room(version);
        for target in ["@alice:hs", "@new:hs", "@in:hs", "@out:hs", "@gone:hs"] {
            assert_eq!(room.member("@mod:hs", target, "ban"), Ok(()));
        }
        for target in ["@mod2:hs", "@admin:hs", "@mod:hs"] {
            assert_eq!(
                room.member("@mod:hs", target, "ban"),
                Err(AuthError::BanTargetPower)
            );
        }
        assert_eq!(
            room.member("@alice:hs", "@bob:other", "ban"),
            Err(AuthError::BanPower)
        );
        assert_eq!(
            room.member("@gone:hs", "@bob:other", "ban"),
            Err(AuthError::BanSenderNotJoined)
        );
    }
}

#[test]
fn knocks() {
    for version in RoomVersion::all() {
        let mut room = room(version);
        for rule in [
            JoinRule::Knock,
            JoinRule::KnockRestricted,
            JoinRule::Invite,
            JoinRule::Public,
        ] {
            room.join_rule = rule;
            let open = rule == JoinRule::Knock
                || rule == JoinRule::KnockRestricted && version >= RoomVersion::V10;
            let knock = |sender: &str, target: &str| room.member(sender, target, "knock");
            if version < RoomVersion::V7 {
                assert_eq!(
                    knock("@new:hs", "@new:hs"),
                    Err(AuthError::MembershipUnknown("knock".into()))
                );
            } else if !open {
                assert_eq!(knock("@new:hs", "@new:hs"), Err(AuthError::KnockRule));
            } else {
                for outside in ["@new:hs", "@gone:hs", "@door:hs"] {
                    assert_eq!(knock(outside, outside), Ok(()));
                }
                for inside in ["@alice:hs", "@in:hs", "@out:hs"] {
                    assert_eq!(knock(inside, inside), Err(AuthError::KnockMembership));
                }
                assert_eq!(knock("@alice:hs", "@new:hs"), Err(AuthError::KnockForOther));
            }
        }
    }
}

#[test]
fn malformed_member_events() {
    for version in RoomVersion::all() {
        let room = room(version);
        assert_eq!(
            room.member("@mod:hs", "@x:hs", "dance"),
            Err(AuthError::MembershipUnknown("dance".into()))
        );
        for (state_key, content) in [
            (None, r#"{"membership":"join"}"#),
            (Some("@alice:hs"), "{}"),
            (Some("@alice:hs"), r#"{"membership":1}"#),
            (Some("alice"), r#"{"membership":"join"}"#),
        ] {
            let judged = room.judge("@alice:hs", "m.room.member", state_key, content);
            assert_eq!(judged, Err(AuthError::MemberMalformed));
        }
    }
}

#[test]
fn sending_needs_membership_and_level() {
    for version in RoomVersion::all() {
        let mut room = room(version);
        let message = |room: &Room, sender: &str| {
            room.judge(sender, "m.room.message", None, "not json, never read")
        };
        assert_eq!(message(&room, "@alice:hs"), Ok(()));
        for outside in ["@in:hs", "@out:hs", "@gone:hs", "@new:hs", "@door:hs"] {
            assert_eq!(message(&room, outside), Err(AuthError::SenderNotJoined));
        }
        assert_eq!(
            room.judge("@alice:hs", "m.room.name", Some(""), "{}"),
            Err(AuthError::EventPower)
        );
        assert_eq!(room.judge("@mod:hs", "m.room.name", Some(""), "{}"), Ok(()));
        assert_eq!(
            room.judge("@alice:hs", "m.room.topic", Some(""), "{}"),
            Err(AuthError::EventPower)
        );
        room.levels.as_mut().expect("is there").users_default = Some(20);
        assert_eq!(
            room.judge("@alice:hs", "m.room.topic", Some(""), "{}"),
            Ok(())
        );
        room.levels.as_mut().expect("is there").events_default = Some(30);
        assert_eq!(message(&room, "@alice:hs"), Err(AuthError::EventPower));
        assert_eq!(message(&room, "@mod:hs"), Ok(()));
        room.levels.as_mut().expect("is there").state_default = Some(0);
        assert_eq!(
            room.judge("@mod:hs", "m.x", Some("@alice:hs"), "{}"),
            Err(AuthError::StateKeyOfOther)
        );
        assert_eq!(room.judge("@mod:hs", "m.x", Some("@mod:hs"), "{}"), Ok(()));
        room.levels.as_mut().expect("is there").invite = Some(50);
        let invite =
            |sender: &str| room.judge(sender, "m.room.third_party_invite", Some("t"), "{}");
        assert_eq!(invite("@mod:hs"), Ok(()));
        assert_eq!(invite("@alice:hs"), Err(AuthError::ThirdPartyInvitePower));
    }
}

#[test]
fn levels_without_a_power_levels_event() {
    for version in RoomVersion::all() {
        let mut room = room(version);
        room.levels = None;
        assert_eq!(
            room.judge("@admin:hs", "m.room.name", Some(""), "{}"),
            Ok(())
        );
        assert_eq!(
            room.judge("@mod:hs", "m.room.name", Some(""), "{}"),
            Err(AuthError::EventPower)
        );
        assert_eq!(room.judge("@mod:hs", "m.room.message", None, "{}"), Ok(()));
        let second = room.judge("@second:hs", "m.room.name", Some(""), "{}");
        assert_eq!(second.is_ok(), version == V12);
    }
}

#[test]
fn creators_of_version_12_stand_above_all_levels() {
    let mut room = room(V12);
    let levels = room.levels.as_mut().expect("is there");
    levels.users.insert(user("@mod:hs"), (1 << 53) - 1);
    levels.users_default = Some((1 << 53) - 1);
    levels.events_default = Some((1 << 53) - 1);
    assert_eq!(
        room.member("@mod:hs", "@second:hs", "leave"),
        Err(AuthError::KickTargetPower)
    );
    assert_eq!(room.member("@second:hs", "@mod:hs", "ban"), Ok(()));
    assert_eq!(
        room.member("@admin:hs", "@second:hs", "leave"),
        Err(AuthError::KickTargetPower)
    );
    let named = room.judge(
        "@admin:hs",
        "m.room.power_levels",
        Some(""),
        r#"{"users":{"@second:hs":1}}"#,
    );
    assert_eq!(
        named,
        Err(AuthError::PowerLevelsCreator(user("@second:hs")))
    );
}

#[test]
fn redactions_are_judged_in_versions_1_and_2_only() {
    for version in RoomVersion::all() {
        let room = room(version);
        let judge = |sender: &str, target: &str| {
            room.judge_after("$p", Some(target), sender, "m.room.redaction", None, "{}")
        };
        assert_eq!(judge("@mod:hs", "$x:hs"), Ok(()));
        // The redaction's own id is of `other`.
        assert_eq!(judge("@bob:other", "$x:other"), Ok(()));
        let foreign = judge("@bob:other", "$x:hs");
        assert_eq!(
            foreign == Err(AuthError::RedactionPower),
            version <= RoomVersion::V2,
            "{version}"
        );
    }
}

#[test]
fn power_levels_have_their_shape() {
    for version in RoomVersion::all() {
        let mut room = room(version);
        room.levels = None;
        let judge =
            |content: &str| room.judge("@admin:hs", "m.room.power_levels", Some(""), content);
        assert_eq!(judge("{}"), Ok(()));
        assert_eq!(
            judge(
                r#"{"users":{"@x:hs":-5},"ban":7,"events":{"m.x":1},"notifications":{"room":1}}"#
            ),
            Ok(())
        );
        assert_eq!(
            judge(r#"{"users":{"x":1}}"#),
            Err(AuthError::PowerLevelsUsers)
        );
        assert_eq!(judge(r#"{"users":[]}"#), Err(AuthError::PowerLevelsUsers));
        assert_eq!(
            judge(r#"{"users":{"@x:hs":null}}"#),
            Err(AuthError::PowerLevelsUsers)
        );
        assert_eq!(
            judge(r#"{"events":{"m.x":true}}"#),
            Err(AuthError::PowerLevelsNotIntegers("events"))
        );
        assert_eq!(
            judge(r#"{"kick":[]}"#),
            Err(AuthError::PowerLevelsNotInteger("kick"))
        );
        let strings = judge(r#"{"users":{"@x:hs":" +0050 "},"ban":"-1","events":{"m.x":"1"}}"#);
        assert_eq!(strings.is_ok(), version < RoomVersion::V10, "{version}");
        assert!(judge(r#"{"users":{"@x:hs":"5.0"}}"#).is_err());
        assert!(judge(r#"{"users":{"@x:hs":"5 0"}}"#).is_err());
        let notifications = judge(r#"{"notifications":{"room":true}}"#);
        assert_eq!(
            notifications.is_ok(),
            version < RoomVersion::V6,
            "{version}"
        );
    }
}

#[test]
fn power_levels_change_only_below_the_senders() {
    let current = r#"{"users":{"@admin:hs":100,"@mod:hs":50,"@mod2:hs":50,"@alice:hs":10},"kick":60,
        "events":{"m.room.power_levels":50,"m.high":70,"m.low":10},"notifications":{"room":50,"high":70}}"#;
    for version in versions(V1, RoomVersion::V11) {
        let mut room = room(version);
        room.levels = Some(PowerLevels::parse(version, &object(current)).expect("parses"));
        let change = |from: &str, to: &str| {
            assert!(current.contains(from), "{from}");
            room.judge(
                "@mod:hs",
                "m.room.power_levels",
                Some(""),
                &current.replace(from, to),
            )
        };
        let was = |name| Err(AuthError::PowerLevelsFieldCurrent(name));
        let event_was = |key: &str| Err(AuthError::PowerLevelsEventCurrent(key.into()));
        let event_gets = |key: &str| Err(AuthError::PowerLevelsEventNew(key.into()));
        assert_eq!(change("\"kick\":60", "\"kick\":60"), Ok(()));
        assert_eq!(change("\"kick\":60", "\"kick\":50"), was("kick"));
        assert_eq!(change("\"kick\":60,", ""), was("kick"));
        assert_eq!(change("\"kick\":60", "\"kick\":60,\"ban\":40"), Ok(()));
        assert_eq!(
            change("\"kick\":60", "\"kick\":60,\"ban\":51"),
            Err(AuthError::PowerLevelsFieldNew("ban"))
        );
        assert_eq!(change("\"m.low\":10", "\"m.low\":50"), Ok(()));
        assert_eq!(change("\"m.low\":10", "\"m.low\":51"), event_gets("m.low"));
        assert_eq!(change("\"m.high\":70,", ""), event_was("m.high"));
        assert_eq!(
            change("\"m.high\":70", "\"m.high\":10"),
            event_was("m.high")
        );
        assert_eq!(
            change("\"m.low\":10", "\"m.low\":10,\"m.new\":51"),
            event_gets("m.new")
        );
        let limited = version >= RoomVersion::V6;
        let high = change("\"high\":70", "\"high\":10");
        assert_eq!(
            high,
            if limited {
                Err(AuthError::PowerLevelsNotificationCurrent("high".into()))
            } else {
                Ok(())
            },
            "{version}"
        );
        let raised = change("\"room\":50", "\"room\":51");
        assert_eq!(
            raised,
            if limited {
                Err(AuthError::PowerLevelsNotificationNew("room".into()))
            } else {
                Ok(())
            }
        );
        let other = |id: &str| Err(AuthError::PowerLevelsOtherUser(user(id)));
        let too_high = |id: &str| Err(AuthError::PowerLevelsUserRaised(user(id)));
        assert_eq!(change("\"@alice:hs\":10", "\"@alice:hs\":50"), Ok(()));
        assert_eq!(change(",\"@alice:hs\":10", ""), Ok(()));
        assert_eq!(
            change("\"@alice:hs\":10", "\"@alice:hs\":51"),
            too_high("@alice:hs")
        );
        assert_eq!(
            change("\"@mod2:hs\":50", "\"@mod2:hs\":49"),
            other("@mod2:hs")
        );
        assert_eq!(change(",\"@mod2:hs\":50", ""), other("@mod2:hs"));
        assert_eq!(change("\"@admin:hs\":100,", ""), other("@admin:hs"));
        assert_eq!(change("\"@mod:hs\":50", "\"@mod:hs\":0"), Ok(()));
        assert_eq!(
            change("\"@mod:hs\":50", "\"@mod:hs\":51"),
            too_high("@mod:hs")
        );
    }
}

#[test]
fn events_cite_what_authorises_them() {
    for version in RoomVersion::all() {
        let sender = user("@alice:hs");
        let keys = |kind: &str, state_key: Option<&'static str>, content: &str| {
            let content = object(content);
            let member =
                (kind == "m.room.member").then(|| MemberContent::parse(&content).expect("parses"));
            let keys = auth_types_for_event(version, kind, &sender, state_key, member);
            let keys = keys.iter().filter(|key| key.kind != "m.room.create");
            keys.map(|key| format!("{} {}", &key.kind[7..], key.state_key))
                .collect::<Vec<_>>()
        };
        let create = auth_types_for_event(version, "m.room.message", &sender, None, None);
        assert_eq!(
            create.iter().any(|key| key.kind == "m.room.create"),
            version < V12
        );
        assert!(auth_types_for_event(version, "m.room.create", &sender, Some(""), None).is_empty());

        let plain = ["power_levels ", "member @alice:hs"];
        assert_eq!(keys("m.room.message", None, "{}"), plain);
        assert_eq!(keys("m.room.topic", Some(""), "{}"), plain);
        let member = |membership: &str| {
            keys(
                "m.room.member",
                Some("@bob:hs"),
                &format!(r#"{{"membership":"{membership}"}}"#),
            )
        };
        let pair = ["power_levels ", "member @alice:hs", "member @bob:hs"];
        for membership in ["leave", "ban"] {
            assert_eq!(member(membership), pair);
        }
        for membership in ["join", "invite", "knock"] {
            assert_eq!(member(membership)[..3], pair);
            assert_eq!(member(membership)[3..], ["join_rules "]);
        }
        let third = keys(
            "m.room.member",
            Some("@alice:hs"),
            r#"{"membership":"invite","third_party_invite":{"signed":{"token":"t"}}}"#,
        );
        assert_eq!(
            third,
            [
                "power_levels ",
                "member @alice:hs",
                "join_rules ",
                "third_party_invite t"
            ]
        );
        let restricted = keys(
            "m.room.member",
            Some("@alice:hs"),
            r#"{"membership":"join","join_authorised_via_users_server":"@mod:hs"}"#,
        );
        assert_eq!(
            restricted.contains(&"member @mod:hs".to_owned()),
            version >= RoomVersion::V8
        );
    }
}

#[test]
fn cited_events_are_checked() {
    for version in RoomVersion::all() {
        let (room_id, sender) = (room_id(version), user("@alice:hs"));
        let elsewhere = OwnedRoomId::try_from("!elsewhere:hs").expect("valid");
        let event_id = OwnedEventId::try_from("$x").expect("valid");
        let event = AuthEvent {
            event_id: &event_id,
            room_id: &room_id,
            sender: &sender,
            kind: "m.room.message",
            state_key: None,
            content: EventContent::Bytes(b""),
            prev_events_count: 1,
            first_prev_event: None,
            redacts: None,
        };
        let cite = |kind, state_key| CitedEvent {
            kind,
            state_key,
            room_id: &room_id,
            rejected: false,
        };
        let mut good = vec![
            cite("m.room.power_levels", ""),
            cite("m.room.member", "@alice:hs"),
        ];
        if version < V12 {
            assert_eq!(
                check_auth_events(version, &event, &good),
                Err(AuthError::AuthEventsWithoutCreate)
            );
            good.push(cite("m.room.create", ""));
        }
        assert_eq!(check_auth_events(version, &event, &good), Ok(()));
        let with = |cited: CitedEvent<'_>| {
            let mut all = good.clone();
            all.insert(0, cited);
            let mut deduplicated: Vec<CitedEvent<'_>> = Vec::new();
            for entry in all {
                let same = |other: &CitedEvent<'_>| {
                    other.kind == entry.kind && other.state_key == entry.state_key
                };
                if entry.rejected || entry.room_id != room_id || !deduplicated.iter().any(same) {
                    deduplicated.push(entry);
                }
            }
            check_auth_events(version, &event, &deduplicated)
        };
        assert!(matches!(
            with(cite("m.room.topic", "")),
            Err(AuthError::AuthEventsUnexpected { .. })
        ));
        assert!(matches!(
            with(cite("m.room.member", "@bob:hs")),
            Err(AuthError::AuthEventsUnexpected { .. })
        ));
        let rejected = CitedEvent {
            rejected: true,
            ..cite("m.room.power_levels", "")
        };
        assert_eq!(with(rejected), Err(AuthError::AuthEventsRejected));
        let foreign = CitedEvent {
            room_id: &elsewhere,
            ..cite("m.room.power_levels", "")
        };
        assert_eq!(with(foreign), Err(AuthError::AuthEventsOtherRoom));
        let mut twice = good.clone();
        twice.push(cite("m.room.member", "@alice:hs"));
        assert!(matches!(
            check_auth_events(version, &event, &twice),
            Err(AuthError::AuthEventsDuplicate { .. })
        ));
        let create_cited = check_auth_events(version, &event, &[cite("m.room.create", "")]);
        assert_eq!(create_cited.is_ok(), version < V12);
    }
}

/// What the body is erased of, the rules do not miss.
#[test]
fn an_erased_event_is_judged_as_the_whole_one() {
    let content = r#"{"invite":99,"notifications":{"room":70},"users":{"@mod:hs":50},"unread":1}"#;
    for version in RoomVersion::all() {
        let whole = object(&format!(
            r#"{{"type":"m.room.power_levels","content":{content}}}"#
        ));
        let skeleton = super::super::redaction::redact(&version.rules().redaction, &whole);
        let extract =
            super::super::redaction::auth_extract(version, "m.room.power_levels", &object(content))
                .map(|extract| super::super::canonical_json::to_bytes(&extract));
        let skeleton = super::super::canonical_json::to_bytes(&skeleton);
        let erased = EventContent::Skeleton {
            skeleton: &skeleton,
            auth_extract: extract.as_deref(),
        };
        let loaded = erased.load().expect("loads");
        let mut expected = PowerLevels::parse(version, &object(content)).expect("parses");
        if !version
            .rules()
            .authorization
            .limit_notifications_power_levels
        {
            expected.notifications.clear();
        }
        assert_eq!(
            PowerLevels::parse(version, &loaded),
            Ok(expected),
            "{version}"
        );
    }
}

proptest! {
    /// No content makes the rules panic, and none is accepted without a reason.
    #[test]
    fn any_json_content_is_judged(version in 1_u8..=12, text in "[ -~]{0,80}", kind in 0..5_usize) {
        let version = RoomVersion::parse(&version.to_string()).expect("known");
        let kind = ["m.room.member", "m.room.power_levels", "m.room.create", "m.room.join_rules", "m.room.third_party_invite"][kind];
        let _ = room(version).judge("@mod:hs", kind, Some("@mod:hs"), &text);
    }
}
