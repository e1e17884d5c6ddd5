//! Rules 6 to 11: sending, power levels, redactions.

use super::*;

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
fn msc4289_creators_of_version_12_stand_above_all_levels() {
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
