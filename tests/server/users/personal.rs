//! Devices, tags, profile fields, account data.

use serde_json::json;

use super::of_user;
use crate::harness::{Server, escape};
use crate::rooms::two_users;

#[tokio::test]
async fn a_device_is_renamed_and_keeps_its_session() {
    let mut server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let devices = alice.get("/_matrix/client/v3/devices").await.ok();
    let id = devices["devices"][0]["device_id"].as_str().unwrap();
    let path = format!("/_matrix/client/v3/devices/{}", escape(id));
    assert!(devices["devices"][0]["display_name"].is_null());
    alice
        .put(&path, json!({ "display_name": "Älice's 📱" }))
        .await
        .ok();
    // None given: it stays.
    alice.put(&path, json!({})).await.ok();
    let long = json!({ "display_name": "x".repeat(101) });
    alice.put(&path, long).await.refused(400, "M_INVALID_PARAM");
    let wrong = json!({ "display_name": 7 });
    alice.put(&path, wrong).await.refused(400, "M_BAD_JSON");
    let unknown = "/_matrix/client/v3/devices/NONE";
    let named = json!({ "display_name": "x" });
    alice
        .put(unknown, named.clone())
        .await
        .refused(404, "M_NOT_FOUND");
    bob.put(&path, named).await.refused(404, "M_NOT_FOUND");
    let device = alice.get(&path).await.ok();
    assert_eq!(device["display_name"], "Älice's 📱");
    // It is in the log.
    server.kill();
    server.start().await;
    let mut again = server.api();
    again.token = alice.token.clone();
    let listed = again.get("/_matrix/client/v3/devices").await.ok();
    assert_eq!(listed["devices"][0]["display_name"], "Älice's 📱");
    again.put(&path, json!({ "display_name": "" })).await.ok();
    let device = again.get(&path).await.ok();
    assert!(device["display_name"].is_null());
}

#[tokio::test]
async fn tags_are_set_and_removed_one_by_one() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({})).await;
    let tags = of_user(&alice, &format!("rooms/{}/tags", escape(&room)));
    assert_eq!(alice.get(&tags).await.ok(), json!({ "tags": {} }));
    let tag = |name: &str| format!("{tags}/{}", escape(name));
    let (first, second) = (tag("m.favourite"), tag("u.Wörk/1"));
    let first = alice.put(&first, json!({ "order": 0.25 }));
    let second = alice.put(&second, json!({}));
    // Both at once: neither takes the other back.
    let (first, second) = tokio::join!(first, second);
    first.ok();
    second.ok();
    let both = json!({ "tags": { "m.favourite": { "order": 0.25 }, "u.Wörk/1": {} } });
    assert_eq!(alice.get(&tags).await.ok(), both);
    let data = of_user(
        &alice,
        &format!("rooms/{}/account_data/m.tag", escape(&room)),
    );
    assert_eq!(alice.get(&data).await.ok(), both);
    let synced = alice.sync("timeout=0").await;
    let given = synced["rooms"]["join"][&room]["account_data"]["events"].clone();
    assert_eq!(given, json!([{ "type": "m.tag", "content": both }]));
    for order in [json!(1.5), json!(-0.1), json!("0.5"), json!(null)] {
        let content = json!({ "order": order });
        let refused = alice.put(&tag("x"), content).await;
        refused.refused(400, "M_INVALID_PARAM");
    }
    let long = tag(&"x".repeat(256));
    alice
        .put(&long, json!({}))
        .await
        .refused(400, "M_INVALID_PARAM");
    alice
        .put(&tag("x"), json!([]))
        .await
        .refused(400, "M_BAD_JSON");
    alice.delete(&tag("m.favourite")).await.ok();
    alice.delete(&tag("m.favourite")).await.ok();
    let left = json!({ "tags": { "u.Wörk/1": {} } });
    assert_eq!(alice.get(&tags).await.ok(), left);
    for refused in [
        bob.get(&tags).await,
        bob.put(&tag("x"), json!({})).await,
        bob.delete(&tag("x")).await,
    ] {
        refused.refused(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn account_data_of_the_server_and_of_others_is_not_set() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({})).await;
    let in_room = format!("rooms/{}/account_data/", escape(&room));
    for prefix in ["account_data/", &in_room] {
        for kind in ["m.fully_read", "m.push_rules"] {
            let path = of_user(&alice, &format!("{prefix}{kind}"));
            let refused = alice.put(&path, json!({})).await;
            refused.refused(405, "M_BAD_JSON");
        }
        let path = of_user(&alice, &format!("{prefix}org.example.x"));
        alice.get(&path).await.refused(404, "M_NOT_FOUND");
        bob.get(&path).await.refused(403, "M_FORBIDDEN");
        bob.put(&path, json!({})).await.refused(403, "M_FORBIDDEN");
        alice.put(&path, json!([])).await.refused(400, "M_BAD_JSON");
        alice.put(&path, json!({ "a": 1.5 })).await.ok();
        assert_eq!(alice.get(&path).await.ok(), json!({ "a": 1.5 }));
    }
}

#[tokio::test]
async fn profile_fields_are_set_served_and_bounded() {
    let (server, alice, bob) = two_users().await;
    let field = |name: &str| {
        let user = escape(&alice.user_id);
        format!("/_matrix/client/v3/profile/{user}/{}", escape(name))
    };
    let nobody = server.api();
    let value = json!({ "pronouns": ["she", "her"], "n": 1.5 });
    alice
        .put(
            &field("org.example.about"),
            json!({ "org.example.about": value }),
        )
        .await
        .ok();
    alice
        .put(&field("m.tz"), json!({ "m.tz": "Europe/Berlin" }))
        .await
        .ok();
    alice
        .put(&field("displayname"), json!({ "displayname": "Älice" }))
        .await
        .ok();
    let all = nobody
        .get(&format!(
            "/_matrix/client/v3/profile/{}",
            escape(&alice.user_id)
        ))
        .await
        .ok();
    let expected = json!({
        "displayname": "Älice", "m.tz": "Europe/Berlin", "org.example.about": value,
    });
    assert_eq!(all, expected);
    let one = nobody.get(&field("org.example.about")).await.ok();
    assert_eq!(one, json!({ "org.example.about": value }));
    nobody
        .get(&field("org.example.other"))
        .await
        .refused(404, "M_NOT_FOUND");
    let unknown = "/_matrix/client/v3/profile/%40nobody%3Ahs.test";
    nobody.get(unknown).await.refused(404, "M_NOT_FOUND");
    nobody
        .get(&format!("{unknown}/displayname"))
        .await
        .refused(404, "M_NOT_FOUND");
    for (name, body, code) in [
        (
            "avatar_url",
            json!({ "displayname": "x" }),
            "M_MISSING_PARAM",
        ),
        (
            "avatar_url",
            json!({ "avatar_url": "http://x/y" }),
            "M_INVALID_PARAM",
        ),
        ("displayname", json!({ "displayname": 1 }), "M_BAD_JSON"),
        ("m.tz", json!({ "m.tz": null }), "M_BAD_JSON"),
        ("nodots", json!({ "nodots": 1 }), "M_INVALID_PARAM"),
        (
            "Org.example",
            json!({ "Org.example": 1 }),
            "M_INVALID_PARAM",
        ),
    ] {
        alice.put(&field(name), body).await.refused(400, code);
    }
    let long = format!("a.{}", "x".repeat(254));
    let refused = alice.put(&field(&long), json!({ &long: 1 })).await;
    refused.refused(400, "M_KEY_TOO_LARGE");
    let half = "x".repeat(40_000);
    alice.put(&field("a.a"), json!({ "a.a": half })).await.ok();
    let refused = alice.put(&field("a.b"), json!({ "a.b": half })).await;
    refused.refused(400, "M_PROFILE_TOO_LARGE");
    bob.put(&field("a.c"), json!({ "a.c": 1 }))
        .await
        .refused(403, "M_FORBIDDEN");
    bob.delete(&field("a.a")).await.refused(403, "M_FORBIDDEN");
    alice.delete(&field("a.a")).await.ok();
    alice.delete(&field("a.a")).await.ok();
    nobody.get(&field("a.a")).await.refused(404, "M_NOT_FOUND");
}
