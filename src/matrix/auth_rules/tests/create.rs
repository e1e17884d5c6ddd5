//! Rules 1, 2 and 4: create events, the room they make, who may be in it at all.

use super::*;

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
