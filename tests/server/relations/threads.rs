//! `GET /threads`: which threads a room has, in which order.

use serde_json::{Value, json};

use super::{edit, ids, ignore, redact, relate};
use crate::harness::{Api, Server, escape};
use crate::rooms::{act, two_users};

async fn threads(api: &Api, room: &str, query: &str) -> Value {
    let room = escape(room);
    let path = format!("/_matrix/client/v1/rooms/{room}/threads?{query}");
    api.get(&path).await.ok()
}

/// Roots of all pages.
async fn roots(api: &Api, room: &str, query: &str, limit: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut from = String::new();
    loop {
        let page = threads(api, room, &format!("limit={limit}&{query}{from}")).await;
        assert!(page["chunk"].as_array().unwrap().len() <= limit);
        found.extend(ids(&page["chunk"]));
        match page["next_batch"].as_str() {
            Some(next) => from = format!("&from={next}"),
            None => return found,
        }
    }
}

#[tokio::test]
async fn threads_come_by_their_newest_reply_page_by_page() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let mut all = Vec::new();
    for index in 0..5 {
        let root = alice.send_text(&room, &index.to_string()).await;
        relate(&alice, &room, "m.thread", &root, "reply").await;
        all.insert(0, root);
    }
    for limit in [1, 2, 5, 9] {
        assert_eq!(roots(&alice, &room, "", limit).await, all, "{limit}");
    }
    // A reply moves its thread to the front, and its redaction takes it back.
    let reply = relate(&bob, &room, "m.thread", &all[3], "bob's").await;
    let mut moved = all.clone();
    let third = moved.remove(3);
    moved.insert(0, third.clone());
    assert_eq!(roots(&alice, &room, "", 2).await, moved);
    assert_eq!(
        roots(&bob, &room, "include=participated", 2).await,
        [&*third]
    );
    assert_eq!(
        roots(&alice, &room, "include=participated", 2).await.len(),
        5
    );
    let page = threads(&bob, &room, "limit=1").await;
    let bundle = &page["chunk"][0]["unsigned"]["m.relations"]["m.thread"];
    assert_eq!(bundle["latest_event"]["event_id"], *reply);
    assert_eq!(
        (&bundle["count"], &page["chunk"][0]["room_id"]),
        (&json!(2), &json!(room))
    );
    redact(&bob, &room, &reply).await;
    assert_eq!(roots(&alice, &room, "include=all", 2).await, all);
    assert!(
        roots(&bob, &room, "include=participated", 2)
            .await
            .is_empty()
    );
    for query in ["limit=0", "limit=-1", "include=some", "from=x"] {
        let path = format!("/_matrix/client/v1/rooms/{}/threads?{query}", escape(&room));
        alice.get(&path).await.refused(400, "M_INVALID_PARAM");
    }
}

#[tokio::test]
async fn a_thread_stands_where_its_newest_reply_does_for_who_looks() {
    let server = Server::builder().start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    carol.join(&room).await.ok();
    let first = alice.send_text(&room, "first").await;
    let second = alice.send_text(&room, "second").await;
    let of_bob = bob.send_text(&room, "bob's").await;
    for root in [&of_bob, &first, &second] {
        relate(&alice, &room, "m.thread", root, "alice's").await;
    }
    relate(&bob, &room, "m.thread", &first, "bob's").await;
    let only_bob = alice.send_text(&room, "nobody else replies").await;
    relate(&bob, &room, "m.thread", &only_bob, "bob's").await;
    let to_all = [&*only_bob, &first, &second, &of_bob];
    assert_eq!(roots(&alice, &room, "", 2).await, to_all);

    ignore(&carol, &bob).await;
    for limit in [1, 2, 3] {
        let seen = roots(&carol, &room, "", limit).await;
        assert_eq!(seen, [&*second, &first, &of_bob], "{limit}");
    }
    // A root of whom one ignores is shown without what it said.
    let page = threads(&carol, &room, "").await;
    let root = &page["chunk"][2];
    assert_eq!(
        (&root["event_id"], &root["content"]),
        (&json!(of_bob), &json!({}))
    );
    assert_eq!(root["unsigned"]["m.relations"]["m.thread"]["count"], 1);
    let page = threads(&alice, &room, "").await;
    assert_eq!(page["chunk"][3]["content"]["body"], "bob's");

    // Who left sees threads as they were.
    act(&carol, &room, "leave", None).await.ok();
    relate(&alice, &room, "m.thread", &of_bob, "later").await;
    let third = alice.send_text(&room, "third").await;
    relate(&alice, &room, "m.thread", &third, "later").await;
    let seen = roots(&carol, &room, "", 1).await;
    assert_eq!(seen, [&*second, &first, &of_bob]);
    let stranger = server.register("dave").await;
    let path = |room: &str| format!("/_matrix/client/v1/rooms/{}/threads", escape(room));
    act(&alice, &room, "ban", Some(&stranger)).await.ok();
    for room in [&*room, "!none:hs.test"] {
        stranger.get(&path(room)).await.refused(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn what_relates_to_another_event_is_no_root() {
    let (_server, alice, _) = two_users().await;
    let room = alice.create_room(json!({})).await;
    let message = alice.send_text(&room, "message").await;
    let edited = edit(&alice, &room, &message, "edited").await;
    // It comes before what makes its root no root: the server cannot know.
    let early = json!({ "msgtype": "m.text", "body": "x",
        "m.relates_to": { "rel_type": "m.thread", "event_id": "$unknown" } });
    super::sent(super::send(&alice, &room, "m.room.message", early).await);
    assert!(roots(&alice, &room, "", 5).await.is_empty());
    // Redacted, it relates to nothing any more.
    redact(&alice, &room, &edited).await;
    relate(&alice, &room, "m.thread", &edited, "reply").await;
    assert_eq!(roots(&alice, &room, "", 5).await, [edited]);
}
