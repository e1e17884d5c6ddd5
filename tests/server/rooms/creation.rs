//! createRoom: presets, versions, every field, and what is refused.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{act, membership, of_room, state, two_users};
use crate::harness::{Server, escape};

#[tokio::test]
async fn presets_and_versions_set_the_state_that_the_specification_says() {
    let (_server, alice, bob) = two_users().await;
    let presets = [
        ("private_chat", "invite", "can_join"),
        ("trusted_private_chat", "invite", "can_join"),
        ("public_chat", "public", "forbidden"),
    ];
    for version in ["10", "11", "12"] {
        for (preset, join_rule, guest_access) in presets {
            let room = alice
                .create_room(json!({
                    "preset": preset, "room_version": version, "invite": [bob.user_id],
                }))
                .await;
            let rule = state(&alice, &room, "m.room.join_rules").await;
            assert_eq!(rule["join_rule"], join_rule);
            let guests = state(&alice, &room, "m.room.guest_access").await;
            assert_eq!(guests["guest_access"], guest_access);
            let history = state(&alice, &room, "m.room.history_visibility").await;
            assert_eq!(history["history_visibility"], "shared");

            let create = state(&alice, &room, "m.room.create").await;
            assert_eq!(create["room_version"], version);
            let levels = state(&alice, &room, "m.room.power_levels").await;
            let trusted = preset == "trusted_private_chat";
            if version == "12" {
                assert!(!room.contains(':'), "{room}");
                assert_eq!(levels["users"], json!({}));
                assert_eq!(levels["events"]["m.room.tombstone"], 150);
                let more = create["additional_creators"].clone();
                let expected = if trusted {
                    json!([bob.user_id])
                } else {
                    Value::Null
                };
                assert_eq!(more, expected);
            } else {
                assert!(room.ends_with(":hs.test"), "{room}");
                assert_eq!(levels["users"][&alice.user_id], 100);
                let bobs = levels["users"][&bob.user_id].as_i64();
                assert_eq!(bobs, trusted.then_some(100));
                assert_eq!(create.get("creator").is_some(), version == "10");
            }
            assert_eq!(membership(&alice, &room, &bob).await, "invite");
        }
    }
}

#[tokio::test]
async fn every_field_has_its_effect() {
    let (_server, alice, bob) = two_users().await;
    let room = alice
        .create_room(json!({
            "visibility": "public",
            "room_alias_name": "pub",
            "name": "The Pub",
            "topic": "Beer",
            "invite": [bob.user_id],
            "is_direct": true,
            "creation_content": { "m.federate": false, "type": "m.space", "creator": "@x:y" },
            "initial_state": [
                { "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } },
                { "type": "m.room.name", "content": { "name": "loses" } },
                { "type": "org.example.thing", "state_key": "k", "content": { "n": 1.0 } },
                { "type": "m.room.canonical_alias", "content": {
                    "alias": "#pub:hs.test", "alt_aliases": ["#pub:hs.test"],
                } },
            ],
            "power_level_content_override": { "kick": 77, "events": { "m.room.name": 0 } },
        }))
        .await;
    let create = state(&alice, &room, "m.room.create").await;
    assert_eq!(create["m.federate"], false);
    assert_eq!(create["type"], "m.space");
    assert_eq!(create.get("creator"), None);
    assert_eq!(state(&alice, &room, "m.room.name").await["name"], "The Pub");
    assert_eq!(state(&alice, &room, "m.room.topic").await["topic"], "Beer");
    let history = state(&alice, &room, "m.room.history_visibility").await;
    assert_eq!(history["history_visibility"], "joined");
    assert_eq!(
        state(&alice, &room, "m.room.join_rules").await["join_rule"],
        "public"
    );
    assert_eq!(
        state(&alice, &room, "org.example.thing/k").await,
        json!({ "n": 1 })
    );
    let levels = state(&alice, &room, "m.room.power_levels").await;
    assert_eq!(levels["kick"], 77);
    // What it takes to upgrade the room stays above what setting any state takes.
    assert_eq!(
        levels["events"],
        json!({ "m.room.name": 0, "m.room.tombstone": 150 })
    );
    assert_eq!(levels["ban"], 50);
    let canonical = state(&alice, &room, "m.room.canonical_alias").await;
    assert_eq!(canonical["alias"], "#pub:hs.test");
    let invite = state(
        &alice,
        &room,
        &format!("m.room.member/{}", escape(&bob.user_id)),
    )
    .await;
    assert_eq!(invite["is_direct"], true);

    let alias = format!(
        "/_matrix/client/v3/directory/room/{}",
        escape("#pub:hs.test")
    );
    assert_eq!(alice.get(&alias).await.ok()["room_id"], room.as_str());
    let listed = bob.get("/_matrix/client/v3/publicRooms").await.ok();
    assert_eq!(listed["chunk"][0]["room_id"], room.as_str());
    assert_eq!(listed["chunk"][0]["name"], "The Pub");
    assert_eq!(listed["chunk"][0]["num_joined_members"], 1);

    // The order of the events is the specification's.
    let page = alice
        .get(&of_room(&room, "messages?dir=f&limit=50"))
        .await
        .ok();
    let types: Vec<&str> = page["chunk"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        types,
        [
            "m.room.create",
            "m.room.member",
            "m.room.power_levels",
            "m.room.canonical_alias",
            "m.room.join_rules",
            "m.room.guest_access",
            "m.room.history_visibility",
            "org.example.thing",
            "m.room.canonical_alias",
            "m.room.name",
            "m.room.topic",
            "m.room.member",
        ]
    );
}

#[tokio::test]
async fn a_room_that_cannot_be_leaves_nothing_behind() {
    let (_server, alice, bob) = two_users().await;
    let create = "/_matrix/client/v3/createRoom";
    let first = alice
        .create_room(json!({ "room_alias_name": "taken" }))
        .await;
    alice
        .post(create, json!({ "room_alias_name": "taken" }))
        .await
        .refused(400, "M_ROOM_IN_USE");
    alice
        .post(create, json!({ "room_version": "13" }))
        .await
        .refused(400, "M_UNSUPPORTED_ROOM_VERSION");
    alice
        .post(create, json!({ "room_version": "nonsense" }))
        .await
        .refused(400, "M_UNSUPPORTED_ROOM_VERSION");
    // Power so high that the creator may not set the name.
    let powerless = json!({
        "room_version": "11", "name": "x", "room_alias_name": "free",
        "power_level_content_override": { "users": { alice.user_id.clone(): 10 } },
    });
    alice
        .post(create, powerless)
        .await
        .refused(400, "M_INVALID_ROOM_STATE");
    let listed = json!({
        "room_version": "12",
        "power_level_content_override": { "users": { alice.user_id.clone(): 100 } },
    });
    alice
        .post(create, listed)
        .await
        .refused(400, "M_INVALID_ROOM_STATE");
    alice
        .post(
            create,
            json!({ "creation_content": { "additional_creators": ["nobody"] } }),
        )
        .await
        .refused(400, "M_INVALID_ROOM_STATE");
    alice
        .post(create, json!({ "invite_3pid": [{ "medium": "email" }] }))
        .await
        .refused(403, "M_FORBIDDEN");
    // An invite that its user's server has to sign is no initial state.
    let elsewhere = json!({ "initial_state": [{
        "type": "m.room.member", "state_key": "@x:elsewhere.test",
        "content": { "membership": "invite" },
    }] });
    alice
        .post(create, elsewhere)
        .await
        .refused(400, "M_INVALID_ROOM_STATE");
    let twice = json!({ "initial_state": [{ "type": "m.room.create", "content": {} }] });
    alice
        .post(create, twice)
        .await
        .refused(400, "M_INVALID_ROOM_STATE");
    let alias_of_another = json!({ "room_alias_name": "mine", "initial_state": [
        { "type": "m.room.canonical_alias", "content": {
            "alias": "#mine:hs.test", "alt_aliases": ["#taken:hs.test"],
        } },
    ] });
    alice
        .post(create, alias_of_another)
        .await
        .refused(400, "M_BAD_ALIAS");
    // An invite is one by whichever field, also to who takes none.
    let config = format!(
        "/_matrix/client/v3/user/{}/account_data/m.invite_permission_config",
        escape(&bob.user_id)
    );
    let block = json!({ "default_action": "block" });
    bob.put(&config, block).await.ok();
    let member = json!({ "initial_state": [{
        "type": "m.room.member", "state_key": bob.user_id,
        "content": { "membership": "invite" },
    }] });
    for body in [json!({ "invite": [bob.user_id] }), member] {
        let refused = alice.post(create, body).await;
        refused.refused(403, "M_INVITE_BLOCKED");
    }
    let rooms = alice.get("/_matrix/client/v3/joined_rooms").await.ok();
    assert_eq!(rooms["joined_rooms"], json!([first]));
    // The alias of the refused room is free for another.
    bob.create_room(json!({ "room_alias_name": "free" })).await;
}

#[tokio::test]
async fn aliases_come_and_go() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let path = |alias: &str| format!("/_matrix/client/v3/directory/room/{}", escape(alias));
    let target = json!({ "room_id": room });
    bob.put(&path("#a:hs.test"), target.clone())
        .await
        .refused(403, "M_FORBIDDEN");
    alice.put(&path("#a:hs.test"), target.clone()).await.ok();
    alice
        .put(&path("#a:hs.test"), target.clone())
        .await
        .refused(409, "M_UNKNOWN");
    alice
        .put(&path("#a:elsewhere.test"), target.clone())
        .await
        .refused(400, "M_INVALID_PARAM");
    assert_eq!(
        bob.get(&path("#a:hs.test")).await.ok()["room_id"],
        room.as_str()
    );
    bob.join("#a:hs.test").await.ok();
    bob.delete(&path("#a:hs.test"))
        .await
        .refused(403, "M_FORBIDDEN");
    bob.put(&path("#b:hs.test"), target).await.ok();
    let aliases = bob.get(&of_room(&room, "aliases")).await.ok();
    assert_eq!(aliases["aliases"], json!(["#a:hs.test", "#b:hs.test"]));

    let canonical = of_room(&room, "state/m.room.canonical_alias");
    alice
        .put(
            &canonical,
            json!({ "alias": "#a:hs.test", "alt_aliases": ["#b:hs.test"] }),
        )
        .await
        .ok();
    alice
        .put(&canonical, json!({ "alias": "#nowhere:hs.test" }))
        .await
        .refused(400, "M_BAD_ALIAS");
    alice
        .put(&canonical, json!({ "alias": "no alias" }))
        .await
        .refused(400, "M_INVALID_PARAM");

    alice.delete(&path("#b:hs.test")).await.ok();
    bob.get(&path("#b:hs.test"))
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .delete(&path("#b:hs.test"))
        .await
        .refused(404, "M_NOT_FOUND");
    // The room no longer names an alias that is gone.
    let named = alice.get(&canonical).await.ok();
    assert_eq!(named, json!({ "alias": "#a:hs.test" }));
    // Who made an alias takes it away, also without the power to say so there.
    let target = json!({ "room_id": room });
    bob.put(&path("#c:hs.test"), target).await.ok();
    let both = json!({ "alias": "#a:hs.test", "alt_aliases": ["#c:hs.test"] });
    alice.put(&canonical, both.clone()).await.ok();
    bob.delete(&path("#c:hs.test")).await.ok();
    assert_eq!(alice.get(&canonical).await.ok(), both);
    alice.delete(&path("#a:hs.test")).await.ok();
    let named = alice.get(&canonical).await.ok();
    assert_eq!(named, json!({ "alt_aliases": ["#c:hs.test"] }));
    act(&bob, &room, "leave", None).await.ok();
    bob.get(&of_room(&room, "aliases"))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn the_directory_lists_what_was_published() {
    let (_server, alice, bob) = two_users().await;
    let room = alice
        .create_room(json!({ "preset": "public_chat", "name": "Club" }))
        .await;
    let listing = format!("/_matrix/client/v3/directory/list/room/{}", escape(&room));
    assert_eq!(bob.get(&listing).await.ok()["visibility"], "private");
    bob.put(&listing, json!({ "visibility": "public" }))
        .await
        .refused(403, "M_FORBIDDEN");
    alice
        .put(&listing, json!({ "visibility": "public" }))
        .await
        .ok();
    assert_eq!(bob.get(&listing).await.ok()["visibility"], "public");
    let search = |term: &str| json!({ "filter": { "generic_search_term": term } });
    let rooms = "/_matrix/client/v3/publicRooms";
    let found = bob.post(rooms, search("CLU")).await.ok();
    assert_eq!(found["chunk"][0]["room_id"], room.as_str());
    assert_eq!(found["total_room_count_estimate"], 1);
    let found = bob.post(rooms, search("other")).await.ok();
    assert_eq!(found["chunk"], json!([]));
    alice
        .put(&listing, json!({ "visibility": "private" }))
        .await
        .ok();
    assert_eq!(bob.get(rooms).await.ok()["chunk"], json!([]));
    let unknown = format!(
        "/_matrix/client/v3/directory/list/room/{}",
        escape("!x:hs.test")
    );
    bob.get(&unknown).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn the_directory_is_paged_and_filtered() {
    let (_server, alice, bob) = two_users().await;
    let mut names = Vec::new();
    for number in 0..5 {
        let space = json!({ "type": "m.space" });
        let room = alice
            .create_room(json!({
                "visibility": "public", "name": format!("Room {number}"),
                "topic": if number % 2 == 0 { "Even things" } else { "odd" },
                "creation_content": if number == 3 { space } else { json!({}) },
            }))
            .await;
        // The more are in it, the earlier it comes.
        if number == 2 {
            bob.join(&room).await.ok();
        }
        names.push(format!("Room {number}"));
    }
    let named = |page: &Value| -> Vec<String> {
        let rooms = page["chunk"].as_array().unwrap().iter();
        rooms
            .map(|room| room["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let path = "/_matrix/client/v3/publicRooms";
    let first = bob.get(&format!("{path}?limit=2")).await.ok();
    assert_eq!(named(&first)[0], "Room 2");
    assert_eq!(first["total_room_count_estimate"], 5);
    assert!(first.get("prev_batch").is_none());
    let mut found = named(&first);
    let mut page = first.clone();
    while let Some(next) = page["next_batch"].as_str() {
        let next = format!("{path}?limit=2&since={}", escape(next));
        page = bob.get(&next).await.ok();
        found.extend(named(&page));
    }
    let back = page["prev_batch"].as_str().unwrap();
    let back = format!("{path}?limit=2&since={}", escape(back));
    assert_eq!(named(&bob.get(&back).await.ok()), found[2..4]);
    found.sort();
    assert_eq!(found, names);

    let search = async |filter: Value| {
        let body = json!({ "filter": filter });
        let mut found = named(&bob.post(path, body).await.ok());
        found.sort();
        found
    };
    assert_eq!(
        search(json!({ "room_types": ["m.space"] })).await,
        ["Room 3"]
    );
    let rooms = search(json!({ "room_types": [null] })).await;
    assert_eq!(rooms, ["Room 0", "Room 1", "Room 2", "Room 4"]);
    let both = search(json!({ "room_types": [null, "m.space"] })).await;
    assert_eq!(both, names);
    let even = search(json!({ "generic_search_term": "EVEN", "room_types": [null] })).await;
    assert_eq!(even, ["Room 0", "Room 2", "Room 4"]);
    let page = json!({ "limit": 1, "filter": { "generic_search_term": "odd" } });
    let page = bob.post(path, page).await.ok();
    assert_eq!(page["chunk"].as_array().unwrap().len(), 1);
    assert_eq!(page["total_room_count_estimate"], 2);
    assert!(page["next_batch"].is_string());
    bob.get(&format!("{path}?since=unknown"))
        .await
        .refused(400, "M_INVALID_PARAM");
}

/// From version 12 a room's id is the hash of its create event: rooms that were
/// made alike within one millisecond came out as one room, and were refused.
#[tokio::test(flavor = "multi_thread")]
async fn rooms_made_alike_at_once_are_different_rooms() {
    let server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let rooms = (0..64).map(|_| alice.create_room(json!({})));
    let rooms: BTreeSet<String> = futures_util::future::join_all(rooms)
        .await
        .into_iter()
        .collect();
    assert_eq!(rooms.len(), 64);
}
