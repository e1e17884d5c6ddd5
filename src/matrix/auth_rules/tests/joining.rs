//! Rules 5.1, 5.3 and 5.7: joining and knocking.

use super::*;

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
fn msc3083_restricted_joins_need_a_member_who_may_invite() {
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
