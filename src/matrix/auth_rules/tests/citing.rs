//! Rule 3: what an event cites; and that the rules read what is never erased.

use super::*;

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
fn synapse_pr_6501_cited_events_are_checked() {
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
        let skeleton = crate::matrix::redaction::redact(&version.rules().redaction, &whole);
        let extract = crate::matrix::redaction::auth_extract(
            version,
            "m.room.power_levels",
            &object(content),
        )
        .map(|extract| crate::matrix::canonical_json::to_bytes(&extract));
        let skeleton = crate::matrix::canonical_json::to_bytes(&skeleton);
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
