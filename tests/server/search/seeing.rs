//! Who finds what.

use serde_json::json;

use super::{finds, now, results};
use crate::rooms::{act, of_room, two_users};

#[tokio::test]
async fn who_left_finds_what_they_saw_and_no_more() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let before = alice.send_text(&room, "the plan").await;
    finds(&alice, "plan", &[&before]).await;
    assert!(now(&bob, "plan").await.is_empty(), "not in the room yet");
    bob.join(&room).await.ok();
    finds(&bob, "plan", &[&before]).await;
    act(&bob, &room, "leave", None).await.ok();
    let after = alice.send_text(&room, "the new plan").await;
    finds(&alice, "plan", &[&before, &after]).await;
    finds(&bob, "plan", &[&before]).await;
    // The state that goes with it is that at which they left.
    let name = of_room(&room, "state/m.room.name");
    alice.put(&name, json!({ "name": "later" })).await.ok();
    let criteria = json!({ "search_term": "plan", "include_state": true });
    let found = results(&bob, criteria).await;
    let state = found["state"][&room].as_array().unwrap();
    assert!(state.iter().all(|event| event["type"] != "m.room.name"));
    act(&bob, &room, "forget", None).await.ok();
    assert!(now(&bob, "plan").await.is_empty());
    // Back in the room they find all of it.
    bob.join(&room).await.ok();
    finds(&bob, "plan", &[&before, &after]).await;
}

#[tokio::test]
async fn history_before_a_join_is_found_only_where_it_is_shared() {
    let (_server, alice, bob) = two_users().await;
    let visibility = json!({
        "preset": "public_chat",
        "initial_state": [{
            "type": "m.room.history_visibility",
            "state_key": "",
            "content": { "history_visibility": "joined" },
        }],
    });
    let room = alice.create_room(visibility).await;
    let hidden = alice.send_text(&room, "whisper one").await;
    bob.join(&room).await.ok();
    let heard = alice.send_text(&room, "whisper two").await;
    finds(&alice, "whisper", &[&hidden, &heard]).await;
    let found = results(&bob, json!({ "search_term": "whisper" })).await;
    assert_eq!(super::ids(&found), [heard]);
    assert_eq!(found["count"], 1);
}

#[tokio::test]
async fn a_redacted_message_is_not_found_from_the_next_request_on() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    for index in 0..10 {
        let text = format!("secret{index}");
        let message = alice.send_text(&room, &text).await;
        finds(&bob, &text, &[&message]).await;
        let redact = of_room(&room, &format!("redact/{message}/{index}"));
        alice.put(&redact, json!({})).await.ok();
        let found = results(&bob, json!({ "search_term": text })).await;
        assert_eq!(
            (&found["count"], &found["results"]),
            (&json!(0), &json!([]))
        );
    }
}

#[tokio::test]
async fn encrypted_rooms_are_not_searched() {
    let (_server, alice, _) = two_users().await;
    let room = alice.create_room(json!({})).await;
    let message = alice.send_text(&room, "plaintext").await;
    finds(&alice, "plaintext", &[&message]).await;
    let encryption = of_room(&room, "state/m.room.encryption");
    let algorithm = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    alice.put(&encryption, algorithm).await.ok();
    assert!(now(&alice, "plaintext").await.is_empty());
}
