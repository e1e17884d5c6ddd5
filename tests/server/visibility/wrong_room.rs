//! Synapse PR 3642: an event was served under a room that it is not in. An
//! event of another room, and one that the user may not see, is to every
//! endpoint like one that does not exist.

use reqwest::Method;
use serde_json::json;

use super::table;
use crate::harness::{Answer, Api, escape};
use crate::rooms::two_users;

/// Asks every endpoint that takes a room and an event. A transaction id is of
/// one request, so that no answer is that of an earlier one.
async fn ask(api: &Api, method: &Method, path: &str, room: &str, event: &str) -> Answer {
    let path = path
        .replace("{roomId}", &escape(room))
        .replace("{eventId}", &escape(event))
        .replace("{txnId}", &escape(event))
        .replace("{receiptType}", "m.read")
        .replace("{relType}", "m.thread")
        .replace("{eventType}", "m.room.message");
    let body = (method != Method::GET).then(|| json!({}));
    api.request(method.clone(), &path, body).await
}

/// The endpoints that answer, with their methods.
async fn endpoints(api: &Api, room: &str) -> Vec<(Method, &'static str)> {
    let mut endpoints = Vec::new();
    for path in table::paths_of_events() {
        for method in [Method::GET, Method::POST, Method::PUT] {
            let answer = ask(api, &method, path, room, "$unknown").await;
            if answer.status != 405 {
                endpoints.push((method, path));
            }
        }
    }
    endpoints
}

#[tokio::test]
async fn synapse_pr_3642_an_event_of_another_room_does_not_exist() {
    let (_server, alice, bob) = two_users().await;
    let here = alice.create_room(json!({ "preset": "public_chat" })).await;
    let there = alice.create_room(json!({ "preset": "public_chat" })).await;
    let hidden_content = json!({ "history_visibility": "joined" });
    let state = json!([{ "type": "m.room.history_visibility", "content": hidden_content }]);
    let closed = json!({ "preset": "public_chat", "initial_state": state });
    let closed = alice.create_room(closed).await;
    let hidden = alice.send_text(&closed, "before bob").await;
    let elsewhere = alice.send_text(&there, "hello").await;
    for room in [&here, &there, &closed] {
        bob.join(room).await.ok();
    }
    let endpoints = endpoints(&bob, &here).await;
    for wanted in ["event/{eventId}", "context/{eventId}"] {
        let is_asked =
            |(method, path): &(Method, &str)| method == Method::GET && path.ends_with(wanted);
        assert!(endpoints.iter().any(is_asked), "{endpoints:?}");
    }
    for (method, path) in endpoints {
        for (room, event, why) in [
            (&here, &elsewhere, "an event of another room"),
            (&closed, &hidden, "an event that is hidden"),
        ] {
            let unknown = ask(&bob, &method, path, room, "$unknown").await;
            let answer = ask(&bob, &method, path, room, event).await;
            let found = (answer.status, answer.text.replace(&**event, "$unknown"));
            let wanted = (unknown.status, unknown.text);
            assert_eq!(found, wanted, "{method} {path} of {why}");
            let is_told = method == Method::GET && answer.status == 200;
            let nothing = answer.body["chunk"] == json!([]);
            assert!(!is_told || nothing, "{path} of {why}: {}", answer.text);
        }
    }
}
