//! The user directory: who finds whom, by which name.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::FOLLOWED_MAX;
use crate::harness::{Api, Server, escape};
use crate::rooms::act;

async fn find(api: &Api, body: Value) -> Value {
    let path = "/_matrix/client/v3/user_directory/search";
    api.post(path, body).await.ok()
}

/// Asks until a term finds exactly these users, in this order.
async fn finds(api: &Api, term: &str, expected: &[&Api]) {
    let expected: Vec<&str> = expected.iter().map(|user| &*user.user_id).collect();
    let begun = Instant::now();
    loop {
        let found = find(api, json!({ "search_term": term })).await;
        let found = found["results"].as_array().unwrap().iter();
        let found: Vec<_> = found
            .map(|user| user["user_id"].as_str().unwrap().to_owned())
            .collect();
        if found == expected {
            return;
        }
        assert!(
            begun.elapsed() < FOLLOWED_MAX,
            "{term} finds {found:?} instead of {expected:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn set_profile(api: &Api, field: &str, value: &str) {
    let path = format!(
        "/_matrix/client/v3/profile/{}/{field}",
        escape(&api.user_id)
    );
    api.put(&path, json!({ field: value })).await.ok();
}

#[tokio::test]
async fn users_are_found_by_those_who_may_know_of_them() {
    let mut server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let eve = server.register("eve").await;
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    act(&alice, &room, "invite", Some(&bob)).await.ok();
    bob.join(&room).await.ok();
    set_profile(&bob, "displayname", "Robert Mårtens").await;
    set_profile(&bob, "avatar_url", "mxc://hs.test/face").await;
    finds(&alice, "ROB", &[&bob]).await;
    finds(&alice, "martens", &[&bob]).await;
    finds(&alice, "@bob:hs", &[&bob]).await;
    finds(&eve, "rob", &[]).await;
    let found = find(&alice, json!({ "search_term": "robert" })).await;
    let expected = json!({
        "user_id": bob.user_id,
        "display_name": "Robert Mårtens",
        "avatar_url": "mxc://hs.test/face",
    });
    assert_eq!(found, json!({ "results": [expected], "limited": false }));
    // A name is found until it is another.
    set_profile(&bob, "displayname", "Bobby").await;
    finds(&alice, "robert", &[]).await;
    finds(&alice, "bobby", &[&bob]).await;
    // Members of a room that anybody may join are found by anybody.
    let public = bob.create_room(json!({ "preset": "public_chat" })).await;
    finds(&eve, "bobby", &[&bob]).await;
    server.kill();
    server.start().await;
    let [alice, bob, eve] = [&alice, &bob, &eve].map(|before| {
        let mut api = server.api();
        api.token = before.token.clone();
        api.user_id = before.user_id.clone();
        api
    });
    finds(&eve, "bobby", &[&bob]).await;
    act(&bob, &public, "leave", None).await.ok();
    finds(&eve, "bobby", &[]).await;
    let password = crate::harness::password("bob");
    let auth = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": "bob" },
        "password": password,
    });
    let deactivate = "/_matrix/client/v3/account/deactivate";
    bob.post(deactivate, json!({ "auth": auth })).await.ok();
    finds(&alice, "bobby", &[]).await;
    finds(&alice, "bob", &[]).await;
}

#[tokio::test]
async fn the_limit_is_kept_and_told() {
    let server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let mut all = Vec::new();
    for index in 0..12 {
        let user = server.register(&format!("user{index:02}")).await;
        user.join(&room).await.ok();
        all.push(user);
    }
    finds(&alice, "user11", &[&all[11]]).await;
    let of = async |body: Value| {
        let found = find(&alice, body).await;
        let count = found["results"].as_array().unwrap().len();
        (count, found["limited"].as_bool().unwrap())
    };
    assert_eq!(of(json!({ "search_term": "user" })).await, (10, true));
    assert_eq!(
        of(json!({ "search_term": "user", "limit": 12 })).await,
        (12, false)
    );
    assert_eq!(
        of(json!({ "search_term": "user", "limit": 3 })).await,
        (3, true)
    );
    assert_eq!(of(json!({ "search_term": "" })).await, (0, false));
    let path = "/_matrix/client/v3/user_directory/search";
    alice
        .post(path, json!({}))
        .await
        .refused(400, "M_MISSING_PARAM");
    let long = json!({ "search_term": "x".repeat(1000) });
    alice.post(path, long).await.refused(400, "M_INVALID_PARAM");
}
