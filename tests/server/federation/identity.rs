//! Who servers are: keys, signatures, notaries, and what they ask one another.

use std::sync::Arc;

use axum::extract::Request;
use engram::crypto::signing_key::ServerKey;
use engram::matrix::canonical_json::to_bytes;
use http::StatusCode;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::fake::{FAR, Fake, answer, object, own_keys};
use crate::commands::run;
use crate::harness::{Server, escape};

const PROFILE: &str = "/_matrix/federation/v1/query/profile?user_id=%40alice%3Aa.test";

async fn named(server: &Server, name: &str, display_name: &str) {
    let user = server.register(name).await;
    let path = format!(
        "/_matrix/client/v3/profile/{}/displayname",
        escape(&user.user_id)
    );
    user.put(&path, json!({ "displayname": display_name }))
        .await
        .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_ask_one_another_for_profiles_and_aliases() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let mut b = neighbourhood.builder("b.test").start().await;
    named(&b, "bob", "Bob of B").await;
    let bob = b.register("bobby").await;
    let room = bob.create_room(json!({ "room_alias_name": "r/ä?" })).await;

    let profile = "/_matrix/client/v3/profile/%40bob%3Ab.test";
    let found = a.api().get(profile).await.ok();
    assert_eq!(found, json!({ "displayname": "Bob of B" }));
    let field = a.api().get(&format!("{profile}/displayname")).await.ok();
    assert_eq!(field, found);
    let unset = a.api().get(&format!("{profile}/avatar_url")).await;
    unset.refused(404, "M_NOT_FOUND");
    let nobody = a
        .api()
        .get("/_matrix/client/v3/profile/%40no%3Ab.test")
        .await;
    nobody.refused(404, "M_NOT_FOUND");

    let alias = |name: &str| format!("/_matrix/client/v3/directory/room/{}", escape(name));
    let found = a.api().get(&alias("#r/ä?:b.test")).await.ok();
    assert_eq!(found, json!({ "room_id": room, "servers": ["b.test"] }));
    let unknown = a.api().get(&alias("#none:b.test")).await;
    unknown.refused(404, "M_NOT_FOUND");

    // Nobody is there, and nobody waits for long to be told.
    b.terminate().await;
    a.api().get(profile).await.refused(502, "M_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn spec_x_matrix_only_signed_requests_are_answered() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    named(&a, "alice", "Alice").await;
    let c = Fake::with_keys(&neighbourhood, "c.test").await;
    let (status, body) = c.get("a.test", PROFILE).await;
    assert_eq!((status, body), (200, json!({ "displayname": "Alice" })));

    a.api().get(PROFILE).await.refused(401, "M_UNAUTHORIZED");
    let signed =
        |destination: &str, uri: &str| c.authorization(destination, &Method::GET, uri, None);
    let header = signed("a.test", PROFILE);
    let body = object(&json!({}));
    let refused = [
        // Meant for another server, told or not told.
        signed("b.test", PROFILE),
        signed("b.test", PROFILE).replace(r#"destination="b.test","#, ""),
        // Another path, method or body was signed.
        signed("a.test", "/_matrix/federation/v1/query/profile"),
        c.authorization("a.test", &Method::PUT, PROFILE, None),
        c.authorization("a.test", &Method::GET, PROFILE, Some(&body)),
        // Another's name, our own name, another key.
        header.replace("c.test", "b.test"),
        header.replace("c.test", "a.test"),
        header.replace("ed25519:fake", "ed25519:other"),
        // Not what the header is.
        header.replace(r#"origin="c.test","#, ""),
        header.replace(r#"origin="c.test","#, r#"origin="c.test",origin="b.test","#),
        header.replace("X-Matrix", "Bearer"),
        "X-Matrix".to_owned(),
    ];
    for header in refused {
        let (status, body) = c.ask_with("a.test", Method::GET, PROFILE, &header).await;
        assert_eq!(
            (status, &body["errcode"]),
            (401, &json!("M_UNAUTHORIZED")),
            "{header}"
        );
    }
    // Without the destination, as older servers send it, it is still bound to us.
    let old = header.replace(r#"destination="a.test","#, "");
    assert_eq!(
        c.ask_with("a.test", Method::GET, PROFILE, &old).await.0,
        200
    );
    // Whoever is not ours is not told of.
    let theirs = "/_matrix/federation/v1/query/profile?user_id=%40bob%3Ab.test";
    assert_eq!(c.get("a.test", theirs).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notary_remembers_servers_that_are_gone() {
    let neighbourhood = Neighbourhood::new();
    let mut a = neighbourhood.builder("a.test").start().await;
    let mut b = neighbourhood.builder("b.test").start().await;
    let query = "/_matrix/key/v2/query/b.test";
    let found = a.api().get(query).await.ok();
    let keys = &found["server_keys"][0];
    assert_eq!(keys["server_name"], "b.test");
    let own = b.api().get("/_matrix/key/v2/server").await.ok();
    assert_eq!(keys["verify_keys"], own["verify_keys"]);
    for signer in ["a.test", "b.test"] {
        assert!(keys["signatures"][signer].is_object(), "{keys}");
    }
    b.terminate().await;
    a.terminate().await;
    a.start().await;
    let again = a.api().get(query).await.ok();
    assert_eq!(again["server_keys"][0]["verify_keys"], keys["verify_keys"]);
    // Valid for longer than b said: asked for, not had, and the last answer counts.
    let longer = format!("{query}?minimum_valid_until_ts=9000000000000");
    let last = a.api().get(&longer).await.ok();
    assert_eq!(last["server_keys"][0]["verify_keys"], keys["verify_keys"]);

    let batch = json!({ "server_keys": {
        "a.test": {}, "b.test": { "ed25519:x": { "minimum_valid_until_ts": 1 } }, "c.test": {},
    } });
    let answer = a.api().post("/_matrix/key/v2/query", batch).await.ok();
    let names = answer["server_keys"].as_array().unwrap().iter();
    let names: Vec<&Value> = names.map(|keys| &keys["server_name"]).collect();
    assert_eq!(names, ["a.test", "b.test"]);
}

/// A server that lost its old key, and says nothing of it any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_notary_remembers_keys_that_their_server_forgot() {
    let neighbourhood = Neighbourhood::new();
    let mut a = neighbourhood.builder("a.test").start().await;
    let of = |seed, id| own_keys("c.test", &ServerKey::from_seed([seed; 32], id), FAR);
    let told = Arc::new(Mutex::new(of(4, "old")));
    let tells = told.clone();
    let _c = Fake::start(&neighbourhood, "c.test", move |_: Request| {
        let keys = to_bytes(&tells.lock());
        std::future::ready(answer(StatusCode::OK, keys))
    })
    .await;
    let ask = |a: &Server, until: u64| {
        let wanted = json!({ "minimum_valid_until_ts": until });
        let body = json!({ "server_keys": { "c.test": { "ed25519:old": wanted } } });
        let api = a.api();
        async move {
            let found = api.post("/_matrix/key/v2/query", body).await.ok();
            let keys = found["server_keys"].as_array().unwrap().iter();
            let ids = keys.map(|keys| keys["verify_keys"].as_object().unwrap().keys().cloned());
            ids.map(Iterator::collect).collect::<Vec<Vec<String>>>()
        }
    };
    assert_eq!(ask(&a, 1).await, [["ed25519:old"]]);
    *told.lock() = of(5, "new");
    // Valid for longer than what is known: asked for anew.
    for until in [FAR + 1, 1] {
        assert_eq!(ask(&a, until).await, [["ed25519:old"], ["ed25519:new"]]);
    }
    a.terminate().await;
    a.start().await;
    assert_eq!(ask(&a, 1).await, [["ed25519:old"], ["ed25519:new"]]);
    // A key that is not known is asked for, however long the others are valid.
    *told.lock() = of(6, "newest");
    let body = json!({ "server_keys": { "c.test": {
        "ed25519:newest": { "minimum_valid_until_ts": 1 },
    } } });
    let found = a.api().post("/_matrix/key/v2/query", body).await.ok();
    let found = &found["server_keys"];
    assert!(
        found[0]["verify_keys"]["ed25519:newest"].is_object(),
        "{found}"
    );
    assert_eq!(ask(&a, 1).await, [["ed25519:old"], ["ed25519:newest"]]);
    // Who asks for no key in particular is told what holds now.
    let query = "/_matrix/key/v2/query/c.test";
    let found = a.api().get(query).await.ok();
    assert_eq!(found["server_keys"].as_array().unwrap().len(), 1, "{found}");
    assert!(found["server_keys"][0]["verify_keys"]["ed25519:newest"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_key_stays_published_and_signs_no_more() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let mut b = neighbourhood.builder("b.test").start().await;
    named(&a, "alice", "Alice").await;
    let profile = "/_matrix/client/v3/profile/%40alice%3Aa.test";
    b.api().get(profile).await.ok();
    let published = b.api().get("/_matrix/key/v2/server").await.ok();
    let (old, _) = published["verify_keys"]
        .as_object()
        .unwrap()
        .iter()
        .next()
        .unwrap();

    let busy = run(&b, &["federation", "rotate-key"], "");
    assert_eq!(busy.status.code(), Some(3));
    b.terminate().await;
    let rotated = run(&b, &["federation", "rotate-key"], "");
    assert_eq!(rotated.status.code(), Some(0));
    b.start().await;
    let now = b.api().get("/_matrix/key/v2/server").await.ok();
    assert!(now["verify_keys"].get(old).is_none(), "{now}");
    assert_eq!(
        now["old_verify_keys"][old]["key"],
        published["verify_keys"][old]["key"]
    );
    assert!(now["old_verify_keys"][old]["expired_ts"].is_u64());
    // The other server finds the new key by itself.
    b.api().get(profile).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_to_a_server_is_told_step_by_step() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let _b = neighbourhood.builder("b.test").start().await;
    let checked = run(&a, &["federation", "check", "b.test"], "");
    let text = String::from_utf8(checked.stdout).unwrap();
    assert_eq!(checked.status.code(), Some(0), "{text}");
    for step in ["✓ name", "✓ address", "✓ version    Engram", "✓ keys"] {
        assert!(text.contains(step), "{step} is not in\n{text}");
    }
    let checked = run(&a, &["federation", "check", "c.test", "--json"], "");
    assert_eq!(checked.status.code(), Some(1));
    let steps: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let last = steps.as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["name"], &last["ok"]),
        (&json!("connection"), &json!(false))
    );
    assert!(last["hint"].is_string());
    // What only we can reach is not looked at for others.
    let checked = run(&a, &["federation", "check", "127.0.0.1:1"], "");
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(text.contains("✗ address"), "{text}");
    assert!(text.contains("federation.deny_addresses"), "{text}");
}
