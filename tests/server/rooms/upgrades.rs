//! Upgrading rooms: what the successor has, what becomes of the old room, and
//! what its members find again.

use serde_json::{Value, json};

use super::{act, membership, of_room, state, two_users};
use crate::harness::{Answer, Api, escape};

async fn try_upgrade(api: &Api, room: &str, body: Value) -> Answer {
    api.post(&of_room(room, "upgrade"), body).await
}

async fn upgrade(api: &Api, room: &str, version: &str) -> String {
    let answer = try_upgrade(api, room, json!({ "new_version": version })).await;
    let answer = answer.ok();
    answer["replacement_room"].as_str().unwrap().to_owned()
}

async fn put_state(api: &Api, room: &str, kind: &str, content: Value) -> Answer {
    api.put(&of_room(room, &format!("state/{kind}")), content)
        .await
}

fn alias_path(alias: &str) -> String {
    format!("/_matrix/client/v3/directory/room/{}", escape(alias))
}

/// Every version can follow every other, and takes along what it can.
#[tokio::test]
async fn a_successor_has_the_state_of_the_old_room_in_every_version() {
    let (_server, alice, bob) = two_users().await;
    for (old, new) in [
        (1, 2),
        (2, 9),
        (5, 12),
        (6, 6),
        (8, 7),
        (10, 11),
        (11, 12),
        (12, 11),
        (12, 1),
        (12, 12),
    ] {
        let room = alice
            .create_room(json!({
                "room_version": old.to_string(),
                "name": "Pub", "topic": "Beer",
                "creation_content": { "type": "m.space", "m.federate": false },
                "initial_state": [
                    { "type": "m.room.avatar", "content": { "url": "mxc://hs.test/a" } },
                    { "type": "m.room.history_visibility",
                      "content": { "history_visibility": "joined" } },
                    { "type": "m.room.server_acl", "content": { "allow": ["*"] } },
                    { "type": "org.example.secret", "content": { "kept": "behind" } },
                    { "type": "m.space.child", "state_key": "!a:hs.test",
                      "content": { "via": ["hs.test"], "order": "x" } },
                    { "type": "m.space.child", "state_key": "!gone:hs.test", "content": {} },
                ],
                "power_level_content_override": { "kick": 77 },
            }))
            .await;
        act(&alice, &room, "ban", Some(&bob)).await.ok();
        let levels = state(&alice, &room, "m.room.power_levels").await;
        let next = upgrade(&alice, &room, &new.to_string()).await;

        let create = state(&alice, &next, "m.room.create").await;
        assert_eq!(create["room_version"], new.to_string());
        assert_eq!(create["type"], "m.space");
        assert_eq!(create["m.federate"], false);
        assert_eq!(create["predecessor"]["room_id"], room.as_str());
        let tombstone = of_room(&room, "state/m.room.tombstone?format=event");
        let tombstone = alice.get(&tombstone).await.ok();
        assert_eq!(tombstone["content"]["replacement_room"], next.as_str());
        assert!(tombstone["content"]["body"].is_string());
        let named = create["predecessor"].get("event_id");
        if new < 12 {
            assert_eq!(named, Some(&tombstone["event_id"]), "{old} to {new}");
        } else {
            assert_eq!(named, None);
        }
        for (kind, field, value) in [
            ("m.room.name", "name", json!("Pub")),
            ("m.room.topic", "topic", json!("Beer")),
            ("m.room.avatar", "url", json!("mxc://hs.test/a")),
            (
                "m.room.history_visibility",
                "history_visibility",
                json!("joined"),
            ),
            ("m.room.join_rules", "join_rule", json!("invite")),
            ("m.room.guest_access", "guest_access", json!("can_join")),
            ("m.room.server_acl", "allow", json!(["*"])),
            ("m.space.child/!a:hs.test", "order", json!("x")),
        ] {
            assert_eq!(state(&alice, &next, kind).await[field], value, "{kind}");
        }
        for kind in ["org.example.secret", "m.space.child/!gone:hs.test"] {
            let path = of_room(&next, &format!("state/{kind}"));
            alice.get(&path).await.refused(404, "M_NOT_FOUND");
        }
        assert_eq!(membership(&alice, &next, &bob).await, "ban");
        let new_levels = state(&alice, &next, "m.room.power_levels").await;
        assert_eq!(new_levels["kick"], 77);
        let own = &new_levels["users"][&alice.user_id];
        match (old, new) {
            (_, 12) => assert_eq!(*own, Value::Null),
            (12, _) => assert!(own.as_i64().unwrap() >= 100),
            _ => assert_eq!(new_levels, levels),
        }
        // The successor is a room to be used, by the same rules as any.
        alice.send_text(&next, "here we are").await;
        put_state(&alice, &next, "m.room.name", json!({ "name": "Bar" }))
            .await
            .ok();
        bob.join(&next).await.refused(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn aliases_and_the_place_in_the_directory_move() {
    let (_server, alice, bob) = two_users().await;
    let room = alice
        .create_room(json!({ "visibility": "public", "room_alias_name": "pub" }))
        .await;
    bob.join(&room).await.ok();
    let body = json!({ "room_id": room });
    bob.put(&alias_path("#bobs:hs.test"), body).await.ok();
    let canonical = json!({ "alias": "#pub:hs.test", "alt_aliases": ["#bobs:hs.test"] });
    put_state(&alice, &room, "m.room.canonical_alias", canonical.clone())
        .await
        .ok();

    let next = upgrade(&alice, &room, "11").await;
    let kind = "m.room.canonical_alias";
    assert_eq!(state(&alice, &room, kind).await, json!({}));
    assert_eq!(state(&alice, &next, kind).await, canonical);
    for alias in ["#pub:hs.test", "#bobs:hs.test"] {
        let found = alice.get(&alias_path(alias)).await.ok();
        assert_eq!(found["room_id"], next.as_str());
        assert_eq!(found["servers"], json!(["hs.test"]));
    }
    let listed = alice.get("/_matrix/client/v3/publicRooms").await.ok();
    let listed = listed["chunk"].as_array().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["room_id"], next.as_str());
    // Who made an alias may still take it away.
    bob.delete(&alias_path("#bobs:hs.test")).await.ok();
}

#[tokio::test]
async fn the_old_room_falls_silent() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    upgrade(&alice, &room, "12").await;
    let levels = state(&alice, &room, "m.room.power_levels").await;
    assert_eq!(
        (&levels["events_default"], &levels["invite"]),
        (&json!(50), &json!(50))
    );
    let path = of_room(&room, "send/m.room.message/t1");
    bob.put(&path, json!({ "body": "?" }))
        .await
        .refused(403, "M_FORBIDDEN");

    let unusual = json!({ "users_default": 80, "events_default": 90 });
    let room = alice
        .create_room(json!({ "power_level_content_override": unusual }))
        .await;
    upgrade(&alice, &room, "12").await;
    let levels = state(&alice, &room, "m.room.power_levels").await;
    assert_eq!(
        (&levels["events_default"], &levels["invite"]),
        (&json!(90), &json!(81))
    );
}

/// A moderator who may upgrade gets the power to set the new room up, and is a
/// moderator again at its end.
#[tokio::test]
async fn who_upgrades_has_no_more_power_than_before() {
    let (server, alice, bob) = two_users().await;
    let carol = server.register("carol").await;
    let room = alice
        .create_room(json!({ "preset": "public_chat", "room_version": "10" }))
        .await;
    bob.join(&room).await.ok();
    carol.join(&room).await.ok();
    let mut levels = state(&alice, &room, "m.room.power_levels").await;
    levels["users"][&bob.user_id] = json!(50);
    put_state(&alice, &room, "m.room.power_levels", levels.clone())
        .await
        .ok();
    try_upgrade(&bob, &room, json!({ "new_version": "11" }))
        .await
        .refused(403, "M_FORBIDDEN");
    levels["events"]["m.room.tombstone"] = json!(50);
    put_state(&alice, &room, "m.room.power_levels", levels.clone())
        .await
        .ok();
    act(&alice, &room, "ban", Some(&carol)).await.ok();

    let next = upgrade(&bob, &room, "11").await;
    assert_eq!(state(&bob, &next, "m.room.power_levels").await, levels);
    assert_eq!(state(&bob, &room, "m.room.power_levels").await, levels);
    assert_eq!(membership(&bob, &next, &carol).await, "ban");
    // In version 12 whoever upgrades is the creator, and may name others.
    let body = json!({ "new_version": "12", "additional_creators": [alice.user_id, bob.user_id] });
    let next = try_upgrade(&alice, &room, body).await.ok();
    let next = next["replacement_room"].as_str().unwrap();
    let create = state(&alice, next, "m.room.create").await;
    assert_eq!(create["additional_creators"], json!([bob.user_id]));
    let levels = state(&alice, next, "m.room.power_levels").await;
    assert_eq!(levels["users"], json!({}));
    assert_eq!(levels["events"]["m.room.tombstone"], 150);
}

#[tokio::test]
async fn what_cannot_be_upgraded_stays_as_it_is() {
    let (_server, alice, bob) = two_users().await;
    let room = alice
        .create_room(json!({ "preset": "public_chat", "room_version": "10" }))
        .await;
    for (body, code) in [
        (
            json!({ "new_version": "unheard of" }),
            "M_UNSUPPORTED_ROOM_VERSION",
        ),
        (json!({}), "M_MISSING_PARAM"),
        (json!({ "new_version": 11 }), "M_BAD_JSON"),
        (
            json!({ "new_version": "12", "additional_creators": ["nobody"] }),
            "M_BAD_JSON",
        ),
    ] {
        try_upgrade(&alice, &room, body).await.refused(400, code);
    }
    let body = json!({ "new_version": "11" });
    try_upgrade(&bob, &room, body.clone())
        .await
        .refused(404, "M_NOT_FOUND");
    try_upgrade(&alice, "!fail:unknown", body.clone())
        .await
        .refused(404, "M_NOT_FOUND");
    bob.join(&room).await.ok();
    let rooms = bob.get("/_matrix/client/v3/joined_rooms").await.ok();
    try_upgrade(&bob, &room, body)
        .await
        .refused(403, "M_FORBIDDEN");
    let after = bob.get("/_matrix/client/v3/joined_rooms").await.ok();
    assert_eq!(rooms, after);
    let path = of_room(&room, "state/m.room.tombstone");
    alice.get(&path).await.refused(404, "M_NOT_FOUND");
    let own = json!({ "replacement_room": room, "body": "round and round" });
    put_state(&alice, &room, "m.room.tombstone", own.clone())
        .await
        .refused(400, "M_INVALID_PARAM");
    let path = of_room(&room, "send/m.room.tombstone/t1");
    alice.put(&path, own).await.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn an_upgrade_can_be_repeated() {
    let (server, alice, _bob) = two_users().await;
    let room = alice.create_room(json!({ "room_version": "10" })).await;
    let next = upgrade(&alice, &room, "11").await;
    assert_eq!(upgrade(&alice, &room, "11").await, next);
    // Two at once are one as well.
    let room = alice.create_room(json!({ "room_version": "10" })).await;
    let (one, two) = tokio::join!(upgrade(&alice, &room, "12"), upgrade(&alice, &room, "12"));
    assert_eq!(one, two);
    assert_eq!(upgrade(&alice, &room, "12").await, one);
    // Another version is another room, and so is the one of somebody else.
    assert_ne!(upgrade(&alice, &room, "11").await, one);
    let dora = server.register("dora").await;
    let room = alice
        .create_room(json!({
            "preset": "trusted_private_chat", "invite": [dora.user_id], "room_version": "12",
        }))
        .await;
    dora.join(&room).await.ok();
    let alices = upgrade(&alice, &room, "12").await;
    assert_ne!(upgrade(&dora, &room, "12").await, alices);
}

#[tokio::test]
async fn members_find_their_tags_and_direct_chats_again() {
    let (server, alice, bob) = two_users().await;
    let carol = server.register("carol").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    for user in [&bob, &carol] {
        user.join(&room).await.ok();
    }
    let data = |user: &Api, rest: &str| {
        let user = escape(&user.user_id);
        format!("/_matrix/client/v3/user/{user}/{rest}")
    };
    let tags = |room: &str| format!("rooms/{}/account_data/m.tag", escape(room));
    let mine = json!({ "tags": { "m.favourite": { "order": 0.5 } } });
    for user in [&alice, &bob] {
        let path = data(user, &tags(&room));
        user.put(&path, mine.clone()).await.ok();
        let direct = json!({ carol.user_id.clone(): ["!x:y", room], "@other:hs.test": ["!x:y"] });
        let path = data(user, "account_data/m.direct");
        user.put(&path, direct).await.ok();
    }
    let next = upgrade(&alice, &room, "11").await;
    for user in [&alice, &bob, &carol] {
        user.join(&next).await.ok();
    }
    for user in [&alice, &bob] {
        let tags = user.get(&data(user, &tags(&next))).await.ok();
        assert_eq!(tags, mine);
        let direct = user.get(&data(user, "account_data/m.direct")).await.ok();
        let expected = json!({
            carol.user_id.clone(): ["!x:y", room, next], "@other:hs.test": ["!x:y"],
        });
        assert_eq!(direct, expected);
    }
    let path = data(&carol, &tags(&next));
    carol.get(&path).await.refused(404, "M_NOT_FOUND");

    // A room that only claims to be the successor is given nothing.
    let claim = json!({ "predecessor": { "room_id": next } });
    let claims = alice
        .create_room(json!({ "preset": "public_chat", "creation_content": claim }))
        .await;
    bob.join(&claims).await.ok();
    let path = data(&bob, &tags(&claims));
    bob.get(&path).await.refused(404, "M_NOT_FOUND");
}
