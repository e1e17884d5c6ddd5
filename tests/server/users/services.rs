//! OpenID, TURN, third-party look-ups, support, whois, mutual rooms.

use serde_json::json;

use super::of_user;
use crate::commands::run;
use crate::harness::{Api, Server, escape, password};
use crate::rooms::two_users;

const USER_INFO: &str = "/_matrix/federation/v1/openid/userinfo";

async fn openid_token(api: &Api) -> String {
    let path = of_user(api, "openid/request_token");
    let answer = api.post(&path, json!({})).await.ok();
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["matrix_server_name"], "hs.test");
    assert_eq!(answer["expires_in"], 3600);
    answer["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_openid_token_says_whose_it_is_until_its_device_goes() {
    let (server, alice, bob) = two_users().await;
    let nobody = server.api();
    let token = openid_token(&alice).await;
    let asked = |token: &str| format!("{USER_INFO}?access_token={}", escape(token));
    let info = nobody.get(&asked(&token)).await.ok();
    assert_eq!(info, json!({ "sub": alice.user_id }));
    nobody.get(USER_INFO).await.refused(401, "M_MISSING_TOKEN");
    // One bit of it changed, and what never was a token.
    let mut forged = token.clone().into_bytes();
    forged[20] = if forged[20] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    for wrong in [
        forged.as_str(),
        "an/invalid/token",
        alice.token.as_deref().unwrap(),
    ] {
        let refused = nobody.get(&asked(wrong)).await;
        refused.refused(401, "M_UNKNOWN_TOKEN");
    }
    // It opens nothing else.
    let mut holder = server.api();
    holder.token = Some(token.clone());
    let whoami = "/_matrix/client/v3/account/whoami";
    holder.get(whoami).await.refused(401, "M_UNKNOWN_TOKEN");
    let path = of_user(&alice, "openid/request_token");
    bob.post(&path, json!({})).await.refused(403, "M_FORBIDDEN");
    alice
        .post("/_matrix/client/v3/logout", json!({}))
        .await
        .ok();
    let refused = nobody.get(&asked(&token)).await;
    refused.refused(401, "M_UNKNOWN_TOKEN");
    // And with the account.
    let token = openid_token(&bob).await;
    let auth = json!({
        "type": "m.login.password", "password": password("bob"),
        "identifier": { "type": "m.id.user", "user": "bob" },
    });
    let goes = bob.post(
        "/_matrix/client/v3/account/deactivate",
        json!({ "auth": auth }),
    );
    goes.await.ok();
    let refused = nobody.get(&asked(&token)).await;
    refused.refused(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn turn_and_support_are_what_the_operator_set() {
    let mut server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let path = "/_matrix/client/v3/voip/turnServer";
    assert_eq!(alice.get(path).await.ok(), json!({}));
    server.api().get(path).await.refused(401, "M_MISSING_TOKEN");
    let support = "/.well-known/matrix/support";
    server.api().get(support).await.refused(404, "M_NOT_FOUND");
    server.terminate().await;
    server.set(
        "TURN__URIS",
        "turn:turn.hs.test?transport=udp,turns:turn.hs.test",
    );
    server.set("TURN__SECRET", "north");
    server.set("TURN__USER_LIFETIME", 600);
    server.set("SUPPORT__PAGE", "https://hs.test/help");
    server.set("SUPPORT__ADMIN_MATRIX_ID", "@admin:other.test");
    server.set("SUPPORT__SECURITY_EMAIL", "security@hs.test");
    server.start().await;
    let mut again = server.api();
    again.token = alice.token.clone();
    let turn = again.get(path).await.ok();
    assert_eq!(turn["ttl"], 600);
    let uris = json!(["turn:turn.hs.test?transport=udp", "turns:turn.hs.test"]);
    assert_eq!(turn["uris"], uris);
    let username = turn["username"].as_str().unwrap();
    let (expires, user) = username.split_once(':').unwrap();
    assert_eq!(user, alice.user_id);
    assert!(expires.parse::<u64>().unwrap() > 1_700_000_000);
    // 20 bytes in padded base64.
    let code = turn["password"].as_str().unwrap();
    assert!(code.len() == 28 && code.ends_with('='), "{code}");
    let expected = json!({
        "contacts": [
            { "role": "m.role.admin", "matrix_id": "@admin:other.test" },
            { "role": "m.role.security", "email_address": "security@hs.test" },
        ],
        "support_page": "https://hs.test/help",
    });
    assert_eq!(again.get(support).await.ok(), expected);
}

#[tokio::test]
async fn without_bridges_there_are_no_third_party_networks() {
    let server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let of = |rest: &str| format!("/_matrix/client/v3/thirdparty/{rest}");
    assert_eq!(alice.get(&of("protocols")).await.ok(), json!({}));
    for empty in [
        "location?alias=%23x%3Ahs.test",
        "user?userid=%40x%3Ahs.test",
    ] {
        assert_eq!(alice.get(&of(empty)).await.ok(), json!([]));
    }
    for unknown in ["protocol/irc", "location/irc", "user/irc"] {
        alice.get(&of(unknown)).await.refused(404, "M_NOT_FOUND");
    }
    let nobody = server.api().get(&of("protocols")).await;
    nobody.refused(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn whois_is_for_oneself_and_administrators() {
    let (server, alice, bob) = two_users().await;
    let of = |user: &str| format!("/_matrix/client/v3/admin/whois/{}", escape(user));
    let own = alice.get(&of(&alice.user_id)).await.ok();
    assert_eq!(own["user_id"], alice.user_id.as_str());
    let devices = own["devices"].as_object().unwrap();
    assert_eq!(devices.len(), 1);
    // The request itself was the last that the device made.
    let connection = &devices.values().next().unwrap()["sessions"][0]["connections"][0];
    assert_eq!(connection["ip"], "127.0.0.1");
    let seen = connection["last_seen"].as_u64().unwrap();
    let listed = alice.get("/_matrix/client/v3/devices").await.ok();
    assert_eq!(listed["devices"][0]["last_seen_ip"], "127.0.0.1");
    assert_eq!(listed["devices"][0]["last_seen_ts"], seen);
    alice
        .get(&of(&bob.user_id))
        .await
        .refused(403, "M_FORBIDDEN");
    alice
        .get(&of("@none:hs.test"))
        .await
        .refused(403, "M_FORBIDDEN");
    let made = run(
        &server,
        &["user", "create", "root", "--admin"],
        "wonderland\n",
    );
    assert!(made.status.success(), "{made:?}");
    let login = json!({
        "type": "m.login.password", "password": "wonderland",
        "identifier": { "type": "m.id.user", "user": "root" },
    });
    let session = server
        .api()
        .post("/_matrix/client/v3/login", login)
        .await
        .ok();
    let mut root = server.api();
    root.token = session["access_token"].as_str().map(str::to_owned);
    let other = root.get(&of(&alice.user_id)).await.ok();
    assert_eq!(other, own);
    root.get(&of("@none:hs.test"))
        .await
        .refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn mutual_rooms_are_those_that_both_joined() {
    let (_server, alice, bob) = two_users().await;
    let of = |user: &str| format!("/_matrix/client/v1/mutual_rooms?user_id={}", escape(user));
    let mut shared = vec![];
    for n in 0..101 {
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        if n > 0 {
            bob.join(&room).await.ok();
            shared.push(room);
        }
    }
    shared.sort();
    let page = alice.get(&of(&bob.user_id)).await.ok();
    assert_eq!(page, json!({ "joined": shared, "count": 100 }));
    let last = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&last).await.ok();
    shared.push(last);
    shared.sort();
    let page = bob.get(&of(&alice.user_id)).await.ok();
    assert_eq!(page["count"], 101);
    assert_eq!(page["joined"], json!(shared[..100]));
    let next = page["next_batch"].as_str().unwrap();
    let from = format!("{}&from={}", of(&alice.user_id), escape(next));
    let page = bob.get(&from).await.ok();
    assert_eq!(page, json!({ "joined": shared[100..], "count": 101 }));
    let none = alice.get(&of("@none:hs.test")).await.ok();
    assert_eq!(none, json!({ "joined": [], "count": 0 }));
    for wrong in [
        of(&alice.user_id),
        of("alice"),
        of("@Alice:hs.test"),
        format!("{}&from=x", of(&bob.user_id)),
    ] {
        alice.get(&wrong).await.refused(400, "M_INVALID_PARAM");
    }
    let missing = alice.get("/_matrix/client/v1/mutual_rooms").await;
    missing.refused(400, "M_MISSING_PARAM");
}
