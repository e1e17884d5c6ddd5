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
fn cve_2018_12423_levels_without_a_power_levels_event() {
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

/// Each key of the power levels, alone on another value than its default, changes
/// what the rules say; `events_default` once did not, in a library that forgot it.
#[test]
fn cve_2022_36009_each_key_of_the_power_levels_counts() {
    let message = |room: &Room| room.judge("@alice:hs", "m.room.message", None, "{}");
    let name = |room: &Room| room.judge("@alice:hs", "m.room.name", Some(""), "{}");
    let kick = |room: &Room| room.member("@alice:hs", "@bob:other", "leave");
    let ban = |room: &Room| room.member("@alice:hs", "@bob:other", "ban");
    let invite = |room: &Room| room.member("@alice:hs", "@new:hs", "invite");
    // In versions 1 and 2 alone the rules judge redactions.
    let redact = |room: &Room| {
        let redaction = "m.room.redaction";
        room.judge_after("$p", Some("$x:hs"), "@alice:hs", redaction, None, "{}")
    };
    let notify = |room: &Room| {
        let kind = "m.room.power_levels";
        let levels = room.levels.as_ref().expect("is there");
        let users: Vec<String> = levels
            .users
            .iter()
            .map(|(user, level)| format!(r#""{user}":{level}"#))
            .collect();
        let content = format!(
            r#"{{"users":{{{}}},"events":{{"{kind}":10}},"notifications":{{"room":5}}}}"#,
            users.join(",")
        );
        room.judge("@alice:hs", kind, Some(""), &content)
    };
    type Judge<'a> = &'a dyn Fn(&Room) -> Result<(), AuthError>;
    let every = |_: RoomVersion| true;
    let until_2 = |version: RoomVersion| version <= RoomVersion::V2;
    let from_6 = |version: RoomVersion| version >= RoomVersion::V6;
    let levels_open = r#""events":{"m.room.power_levels":10}"#;
    // Alice has 10. A member in full, who is judged, and what follows without it.
    type Case<'a> = (&'a str, &'a str, Judge<'a>, bool, fn(RoomVersion) -> bool);
    let cases: [Case<'_>; 9] = [
        ("", r#""events_default":11"#, &message, true, every),
        ("", r#""state_default":10"#, &name, false, every),
        ("", r#""events":{"m.room.name":10}"#, &name, false, every),
        (
            "",
            r#""events":{"m.room.message":11}"#,
            &message,
            true,
            every,
        ),
        ("", r#""kick":10"#, &kick, false, every),
        ("", r#""ban":10"#, &ban, false, every),
        ("", r#""invite":11"#, &invite, true, every),
        ("", r#""redact":10"#, &redact, false, until_2),
        (
            levels_open,
            r#""notifications":{"room":11}"#,
            &notify,
            true,
            from_6,
        ),
    ];
    for version in RoomVersion::all() {
        let users = match version {
            V12 => r#""users":{"@alice:hs":10}"#,
            _ => r#""users":{"@admin:hs":100,"@alice:hs":10}"#,
        };
        let with = |members: &[&str]| {
            let members: Vec<&str> = members
                .iter()
                .copied()
                .filter(|text| !text.is_empty())
                .collect();
            let content = object(&format!("{{{}}}", members.join(",")));
            let mut room = room(version);
            room.levels = Some(PowerLevels::parse(version, &content).expect("parses"));
            room
        };
        for (always, member, judge, allowed_without, is_read) in &cases {
            let before = judge(&with(&[users, always]));
            let after = judge(&with(&[users, always, member]));
            match is_read(version) {
                true => {
                    assert_eq!(before.is_ok(), *allowed_without, "{version} {member}");
                    assert_eq!(after.is_ok(), !allowed_without, "{version} {member}");
                }
                false => assert_eq!(before, after, "{version} {member}"),
            }
        }
        // `users` and `users_default`, of somebody without a level of their own.
        for (member, level) in [
            (r#""users":{"@alice:hs":50}"#, 50),
            (r#""users_default":50"#, 50),
        ] {
            assert!(name(&with(&[])).is_err(), "{version}");
            let room = with(&[member]);
            assert_eq!(name(&room), Ok(()), "{version} {member}");
            let levels = room.levels.as_ref().expect("is there");
            let own = levels.users.get(&user("@alice:hs")).copied();
            assert_eq!(own.or(levels.users_default), Some(level));
        }
        // A string is a level up to version 9, and a fraction up to version 5.
        for (text, until) in [(r#""11""#, RoomVersion::V9), ("11.9", RoomVersion::V5)] {
            let content = format!(r#"{{{users},"events_default":{text}}}"#);
            let content = crate::matrix::canonical_json::parse_stored_object(content.as_bytes());
            let parsed = PowerLevels::parse(version, &content.expect("parses"));
            assert_eq!(parsed.is_ok(), version <= until, "{version} {text}");
            if let Ok(levels) = parsed {
                let mut room = room(version);
                room.levels = Some(levels);
                assert_eq!(
                    message(&room),
                    Err(AuthError::EventPower),
                    "{version} {text}"
                );
            }
        }
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
