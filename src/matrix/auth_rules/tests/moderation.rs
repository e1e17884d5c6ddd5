//! Rules 5.4 to 5.6: inviting, leaving, kicking, banning.

use super::*;

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
            String::from_utf8(crate::matrix::canonical_json::to_bytes(&signed)).expect("is UTF-8")
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

/// An event has room for more signatures than anybody should try.
#[test]
fn a_flood_of_signatures_is_not_tried_to_its_end() {
    let key = ServerKey::from_seed([9; 32], "0");
    let mut room = room(RoomVersion::V11);
    let keys = format!(
        r#"{{"public_keys":[{{"public_key":"{}"}}]}}"#,
        key.public_base64()
    );
    let invite = ThirdPartyInvite::parse(user("@alice:hs"), &object(&keys));
    room.invites.insert("tok".to_owned(), invite);
    for (useless, expected) in [
        (100, Ok(())),
        (300, Err(AuthError::ThirdPartyInviteSignature)),
    ] {
        // Signers come in the order of their names, the good one last.
        let wrong = "A".repeat(86);
        let flood: Vec<String> = (0..useless)
            .map(|number| format!(r#""a{number}":{{"ed25519:0":"{wrong}"}}"#))
            .collect();
        let text = format!(
            r#"{{"mxid":"@new:hs","token":"tok","signatures":{{{}}}}}"#,
            flood.join(",")
        );
        let mut signed = object(&text);
        sign_json(&mut signed, ruma::server_name!("z.example"), &key);
        let signed = String::from_utf8(crate::matrix::canonical_json::to_bytes(&signed));
        let content = format!(
            r#"{{"membership":"invite","third_party_invite":{{"signed":{}}}}}"#,
            signed.expect("is UTF-8")
        );
        let judged = room.judge("@alice:hs", "m.room.member", Some("@new:hs"), &content);
        assert_eq!(judged, expected, "{useless}");
    }
}
