//! Spaces and rooms seen from outside: hierarchy, summaries, and to whom they
//! are shown.

use serde_json::{Value, json};

use super::{act, of_room, two_users};
use crate::harness::{Answer, Api, Server, escape};

async fn space(api: &Api, name: &str) -> String {
    let body = json!({
        "preset": "public_chat", "name": name, "creation_content": { "type": "m.space" },
    });
    api.create_room(body).await
}

async fn room(api: &Api, name: &str) -> String {
    let body = json!({ "preset": "public_chat", "name": name });
    api.create_room(body).await
}

async fn add_child(api: &Api, parent: &str, child: &str, more: Value) {
    let mut content = json!({ "via": ["hs.test"] });
    for (key, value) in more.as_object().unwrap() {
        content[key] = value.clone();
    }
    let path = of_room(parent, &format!("state/m.space.child/{}", escape(child)));
    api.put(&path, content).await.ok();
}

async fn hierarchy(api: &Api, root: &str, query: &str) -> Answer {
    let root = escape(root);
    api.get(&format!(
        "/_matrix/client/v1/rooms/{root}/hierarchy?{query}"
    ))
    .await
}

fn names(page: &Value) -> Vec<String> {
    let rooms = page["rooms"].as_array().unwrap();
    let name = |room: &Value| room["name"].as_str().unwrap_or("?").to_owned();
    rooms.iter().map(name).collect()
}

async fn summary(api: &Api, room: &str) -> Answer {
    let path = format!("/_matrix/client/v1/room_summary/{}", escape(room));
    api.get(&path).await
}

/// A root with two spaces below it, one of which leads back to the root.
async fn tree(api: &Api) -> String {
    let root = space(api, "root").await;
    let (first, second) = (space(api, "first").await, space(api, "second").await);
    add_child(api, &root, &second, json!({ "order": "b" })).await;
    add_child(api, &root, &first, json!({ "order": "a" })).await;
    let lone = room(api, "lone").await;
    add_child(api, &root, &lone, json!({ "suggested": true })).await;
    for (parent, name) in [(&first, "one"), (&first, "two"), (&second, "three")] {
        let child = room(api, name).await;
        add_child(api, parent, &child, json!({})).await;
    }
    add_child(api, &first, &root, json!({})).await;
    add_child(api, &second, &first, json!({})).await;
    add_child(api, &root, "!unknown:hs.test", json!({})).await;
    root
}

#[tokio::test]
async fn a_space_is_walked_depth_first_and_each_room_shown_once() {
    let (_server, alice, bob) = two_users().await;
    let root = tree(&alice).await;
    let all = hierarchy(&bob, &root, "").await.ok();
    let expected = ["root", "first", "one", "two", "second", "three", "lone"];
    assert_eq!(names(&all), expected);
    assert_eq!(all.get("next_batch"), None);
    let shown = &all["rooms"][0];
    assert_eq!(shown["room_type"], "m.space");
    assert_eq!(shown["join_rule"], "public");
    assert_eq!(shown["num_joined_members"], 1);
    assert_eq!(shown["world_readable"], false);
    let children = shown["children_state"].as_array().unwrap();
    assert_eq!(children.len(), 4);
    assert_eq!(children[0]["content"]["order"], "a");
    assert_eq!(children[0]["sender"], alice.user_id.as_str());
    assert_eq!(children[0]["type"], "m.space.child");
    assert!(children[0]["origin_server_ts"].is_u64());
    assert_eq!(children[3]["state_key"], "!unknown:hs.test");
    assert_eq!(all["rooms"][2]["children_state"], json!([]));

    let top = hierarchy(&bob, &root, "max_depth=0").await.ok();
    assert_eq!(names(&top), ["root"]);
    let one = hierarchy(&bob, &root, "max_depth=1").await.ok();
    assert_eq!(names(&one), ["root", "first", "second", "lone"]);
    let suggested = hierarchy(&bob, &root, "suggested_only=true").await.ok();
    assert_eq!(names(&suggested), ["root", "lone"]);
    let children = suggested["rooms"][0]["children_state"].as_array().unwrap();
    assert_eq!(children.len(), 1);
}

#[tokio::test]
async fn a_page_goes_on_where_the_last_one_ended() {
    let (mut server, alice, bob) = two_users().await;
    let root = tree(&alice).await;
    let mut found = Vec::new();
    let mut query = "limit=2&max_depth=5".to_owned();
    loop {
        let page = hierarchy(&bob, &root, &query).await.ok();
        found.extend(names(&page));
        let Some(next) = page.get("next_batch") else {
            break;
        };
        assert_eq!(page["rooms"].as_array().unwrap().len(), 2);
        query = format!("limit=2&max_depth=5&from={}", next.as_str().unwrap());
    }
    let expected = ["root", "first", "one", "two", "second", "three", "lone"];
    assert_eq!(found, expected);

    let page = hierarchy(&bob, &root, "limit=3&max_depth=5").await.ok();
    let token = page["next_batch"].as_str().unwrap().to_owned();
    for query in [
        format!("from={token}"),
        format!("max_depth=4&from={token}"),
        format!("max_depth=5&suggested_only=true&from={token}"),
        "from=nonsense".to_owned(),
        "limit=0".to_owned(),
        "limit=-1".to_owned(),
        "max_depth=-1".to_owned(),
    ] {
        hierarchy(&bob, &root, &query)
            .await
            .refused(400, "M_INVALID_PARAM");
    }
    let other = space(&alice, "other").await;
    hierarchy(&bob, &other, &format!("max_depth=5&from={token}"))
        .await
        .refused(400, "M_INVALID_PARAM");
    // A token outlives the process that gave it.
    server.terminate().await;
    server.start().await;
    let mut again = server.api();
    again.token = bob.token.clone();
    let query = format!("max_depth=5&from={token}");
    let page = hierarchy(&again, &root, &query).await.ok();
    assert_eq!(names(&page), expected[3..]);
}

/// A room by how it can be joined, and whether who is not in it may know of it.
async fn rooms_to_know_of(alice: &Api, bob: &Api) -> Vec<(String, &'static str, bool)> {
    let club = room(alice, "club").await;
    bob.join(&club).await.ok();
    let secret = room(alice, "secret club").await;
    let condition = |room: &str| json!([{ "type": "m.room_membership", "room_id": room }]);
    let mut rooms = Vec::new();
    for (name, version, rules, readable, known) in [
        (
            "public",
            "11",
            json!({ "join_rule": "public" }),
            false,
            true,
        ),
        (
            "invite",
            "11",
            json!({ "join_rule": "invite" }),
            false,
            false,
        ),
        (
            "readable",
            "11",
            json!({ "join_rule": "invite" }),
            true,
            true,
        ),
        ("knock", "11", json!({ "join_rule": "knock" }), false, true),
        (
            "old knock",
            "6",
            json!({ "join_rule": "knock" }),
            false,
            false,
        ),
        (
            "restricted",
            "11",
            json!({ "join_rule": "restricted", "allow": condition(&club) }),
            false,
            true,
        ),
        (
            "old restricted",
            "7",
            json!({ "join_rule": "restricted", "allow": condition(&club) }),
            false,
            false,
        ),
        (
            "not for bob",
            "11",
            json!({ "join_rule": "restricted", "allow": condition(&secret) }),
            false,
            false,
        ),
        (
            "both",
            "11",
            json!({ "join_rule": "knock_restricted", "allow": condition(&secret) }),
            false,
            true,
        ),
    ] {
        let visibility = if readable { "world_readable" } else { "shared" };
        let room = alice
            .create_room(json!({
                "name": name, "room_version": version,
                "initial_state": [
                    { "type": "m.room.join_rules", "content": rules },
                    { "type": "m.room.history_visibility",
                      "content": { "history_visibility": visibility } },
                ],
            }))
            .await;
        rooms.push((room, name, known));
    }
    rooms
}

#[tokio::test]
async fn rooms_are_shown_to_those_who_may_know_of_them() {
    let (server, alice, bob) = two_users().await;
    let nobody = server.api();
    let root = space(&alice, "root").await;
    let rooms = rooms_to_know_of(&alice, &bob).await;
    for (room, _, _) in &rooms {
        add_child(&alice, &root, room, json!({})).await;
    }
    let page = hierarchy(&bob, &root, "").await.ok();
    let known = rooms.iter().filter(|(_, _, known)| *known);
    let mut expected = vec!["root"];
    expected.extend(known.map(|(_, name, _)| *name));
    assert_eq!(names(&page), expected);
    for (room, name, known) in &rooms {
        match known {
            true => {
                let shown = summary(&bob, room).await.ok();
                assert_eq!(shown["name"], *name);
                assert_eq!(shown["membership"], "leave");
                hierarchy(&bob, room, "").await.ok();
            }
            false => {
                summary(&bob, room).await.refused(404, "M_NOT_FOUND");
                hierarchy(&bob, room, "").await.refused(403, "M_FORBIDDEN");
            }
        }
        // Without a token, no membership opens a door.
        match *known && *name != "restricted" {
            true => {
                let shown = summary(&nobody, room).await.ok();
                assert_eq!(shown.get("membership"), None, "{name}");
            }
            false => {
                summary(&nobody, room).await.refused(404, "M_NOT_FOUND");
            }
        }
        summary(&alice, room).await.ok();
        act(&alice, room, "invite", Some(&bob)).await.ok();
        let shown = summary(&bob, room).await.ok();
        assert_eq!(shown["membership"], "invite");
        act(&alice, room, "ban", Some(&bob)).await.ok();
        let banned = summary(&bob, room).await;
        match *name {
            "readable" => assert_eq!(banned.ok()["membership"], "ban"),
            _ => drop(banned.refused(404, "M_NOT_FOUND")),
        }
    }
    hierarchy(&bob, "!unknown:hs.test", "")
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_summary_has_what_the_room_says_of_itself() {
    let server = Server::builder().start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let club = room(&alice, "club").await;
    bob.join(&club).await.ok();
    let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
    let room = alice
        .create_room(json!({
            "room_version": "10", "room_alias_name": "cheese", "name": "CHEESE",
            "topic": "Tasty", "creation_content": { "type": "org.example.dairy" },
            "initial_state": [
                { "type": "m.room.join_rules",
                  "content": { "join_rule": "restricted", "allow": allow } },
                { "type": "m.room.avatar", "content": { "url": "mxc://hs.test/brie" } },
                { "type": "m.room.encryption",
                  "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
            ],
        }))
        .await;
    let expected = json!({
        "room_id": room, "canonical_alias": "#cheese:hs.test", "name": "CHEESE",
        "topic": "Tasty", "avatar_url": "mxc://hs.test/brie", "num_joined_members": 1,
        "world_readable": false, "guest_can_join": true, "join_rule": "restricted",
        "room_type": "org.example.dairy", "allowed_room_ids": [club],
        "encryption": "m.megolm.v1.aes-sha2", "room_version": "10", "membership": "leave",
    });
    assert_eq!(summary(&bob, &room).await.ok(), expected);
    assert_eq!(summary(&bob, "#cheese:hs.test").await.ok(), expected);
    for path in ["summary/{}", "rooms/{}/summary"] {
        let path = path.replace("{}", &escape("#cheese:hs.test"));
        let path = format!("/_matrix/client/unstable/im.nheko.summary/{path}");
        let shown = bob.get(&path).await.ok();
        assert_eq!(shown["name"], "CHEESE");
        assert_eq!(shown["im.nheko.summary.room_version"], "10");
        assert_eq!(shown["im.nheko.summary.encryption"], "m.megolm.v1.aes-sha2");
    }
    // The plain text of the topic counts, whatever else it says.
    let topic = json!({
        "topic": "fallback",
        "m.topic": { "m.text": [
            { "mimetype": "text/html", "body": "<b>x</b>" }, { "body": "plain" },
        ] },
    });
    let path = of_room(&room, "state/m.room.topic");
    alice.put(&path, topic).await.ok();
    assert_eq!(summary(&bob, &room).await.ok()["topic"], "plain");

    summary(&bob, "#nothing:hs.test")
        .await
        .refused(404, "M_NOT_FOUND");
    summary(&bob, "!nothing:hs.test")
        .await
        .refused(404, "M_NOT_FOUND");
    summary(&bob, "nothing")
        .await
        .refused(400, "M_INVALID_PARAM");
    let mut stale = server.api();
    stale.token = Some("no token".into());
    summary(&stale, &room).await.refused(401, "M_UNKNOWN_TOKEN");
}
