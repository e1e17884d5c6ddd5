//! What a message may not relate to, and how.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::json;

use super::{edit, react, redact, relate, send, sent};
use crate::harness::escape;
use crate::rooms::two_users;

#[tokio::test]
async fn an_annotation_is_sent_once() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let message = alice.send_text(&room, "message").await;
    let other = alice.send_text(&room, "another").await;
    let first = sent(react(&alice, &room, &message, "\u{1F44D}").await);
    let again = react(&alice, &room, &message, "\u{1F44D}").await;
    again.refused(400, "M_DUPLICATE_ANNOTATION");
    // Another key, event, type or sender is another annotation.
    react(&alice, &room, &message, "\u{1F44E}").await.ok();
    react(&alice, &room, &other, "\u{1F44D}").await.ok();
    react(&bob, &room, &message, "\u{1F44D}").await.ok();
    let relates_to = json!({ "rel_type": "m.annotation", "event_id": message, "key": "\u{1F44D}" });
    let content = json!({ "m.relates_to": relates_to });
    send(&alice, &room, "x.bot", content.clone()).await.ok();
    redact(&alice, &room, &first).await;
    sent(react(&alice, &room, &message, "\u{1F44D}").await);
    react(&alice, &room, &message, "\u{1F44D}")
        .await
        .refused(400, "M_DUPLICATE_ANNOTATION");
    // A repeat of the request is no second annotation.
    let path = format!("/_matrix/client/v3/rooms/{}/send/x.bot/once", escape(&room));
    let once = sent(bob.put(&path, content.clone()).await);
    assert_eq!(sent(bob.put(&path, content).await), once);
}

#[tokio::test]
async fn of_many_at_once_one_annotates() {
    let (_server, alice, _) = two_users().await;
    let room = alice.create_room(json!({})).await;
    let message = Arc::<str>::from(alice.send_text(&room, "message").await);
    for round in 0..5 {
        let key = round.to_string();
        let many = (0..8).map(|_| react(&alice, &room, &message, &key));
        let answers = join_all(many).await;
        let accepted = answers.iter().filter(|answer| answer.status == 200);
        assert_eq!(accepted.count(), 1);
        for answer in answers.into_iter().filter(|answer| answer.status != 200) {
            answer.refused(400, "M_DUPLICATE_ANNOTATION");
        }
    }
}

#[tokio::test]
async fn threads_do_not_nest() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let root = alice.send_text(&room, "root").await;
    let reply = relate(&alice, &room, "m.thread", &root, "reply").await;
    let edited = edit(&alice, &room, &root, "edited").await;
    let rich = json!({ "msgtype": "m.text", "body": "reply",
        "m.relates_to": { "m.in_reply_to": { "event_id": root } } });
    let rich = sent(send(&alice, &room, "m.room.message", rich).await);
    let thread = |root: &str| {
        json!({ "msgtype": "m.text", "body": "x",
            "m.relates_to": { "rel_type": "m.thread", "event_id": root } })
    };
    for parent in [&reply, &edited] {
        let answer = send(&alice, &room, "m.room.message", thread(parent)).await;
        answer.refused(400, "M_UNKNOWN");
        // Outsiders are not told what relates to what.
        let answer = send(&bob, &room, "m.room.message", thread(parent)).await;
        answer.refused(403, "M_FORBIDDEN");
    }
    // A rich reply has no `rel_type`, and an event may not be known here yet.
    for parent in [&*root, &rich, "$unknown"] {
        sent(send(&alice, &room, "m.room.message", thread(parent)).await);
    }
}
