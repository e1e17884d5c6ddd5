//! `GET /relations`: what it finds, page by page, and for whom.

use serde_json::{Value, json};

use super::{edit, ids, ignore, react, redact, relate, relations, sent};
use crate::harness::{Api, Server};
use crate::rooms::{act, of_room, two_users};

/// All pages of a listing.
async fn all(api: &Api, room: &str, event: &str, rest: &str, limit: usize) -> Vec<String> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut found = Vec::new();
    let mut from = String::new();
    loop {
        let rest = format!("{path}?limit={limit}&{query}{from}");
        let page = api.get(&relations(room, event, &rest)).await.ok();
        let is_first = from.is_empty() && !query.contains("from=");
        assert_eq!(page.get("prev_batch").is_none(), is_first);
        let chunk = ids(&page["chunk"]);
        assert!(chunk.len() <= limit);
        found.extend(chunk);
        match page["next_batch"].as_str() {
            Some(next) => from = format!("&from={next}"),
            None => return found,
        }
    }
}

#[tokio::test]
async fn children_are_listed_both_ways_by_type_and_page() {
    let (server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let root = alice.send_text(&room, "root").await;
    let mut children = Vec::new();
    let mut replies = Vec::new();
    for index in 0..5 {
        let reply = relate(&bob, &room, "m.thread", &root, "reply").await;
        let reaction = sent(react(&alice, &room, &root, &index.to_string()).await);
        children.extend([reply.clone(), reaction]);
        replies.push(reply);
    }
    children.push(edit(&alice, &room, &root, "edited").await);
    let backward = |events: &[String]| events.iter().rev().cloned().collect::<Vec<_>>();
    for limit in [1, 2, 3, 11, 50] {
        let found = all(&alice, &room, &root, "", limit).await;
        assert_eq!(found, backward(&children), "{limit}");
        let found = all(&alice, &room, &root, "?dir=f", limit).await;
        assert_eq!(found, children, "{limit}");
        let found = all(&alice, &room, &root, "/m.thread", limit).await;
        assert_eq!(found, backward(&replies), "{limit}");
        let found = all(&bob, &room, &root, "/m.annotation/m.reaction", limit).await;
        assert_eq!(found.len(), 5);
        let found = all(&bob, &room, &root, "/m.annotation/m.room.message", limit).await;
        assert!(found.is_empty());
    }
    // Tokens of `/messages` and `/sync` do as well, and `to` ends a page.
    let since = alice.sync("").await["next_batch"].clone();
    let since = since.as_str().unwrap();
    relate(&bob, &room, "m.thread", &root, "later").await;
    let found = all(&alice, &room, &root, &format!("/m.thread?from={since}"), 50).await;
    assert_eq!(found, backward(&replies));
    let page = of_room(&room, "messages?dir=b&limit=4");
    let end = alice.get(&page).await.ok()["end"].clone();
    let to = format!("?to={}", end.as_str().unwrap());
    let found = all(&alice, &room, &root, &to, 50).await;
    assert_eq!(found.len(), 4);
    for rest in [
        "?from=x",
        "?to=t1_x",
        "?dir=x",
        "?limit=-1",
        "?recurse=maybe",
    ] {
        let answer = alice.get(&relations(&room, &root, rest)).await;
        answer.refused(400, "M_INVALID_PARAM");
    }
    // A restart leaves it all where it was, and a rebuild puts it there again.
    let before = all(&alice, &room, &root, "", 4).await;
    let mut server = server;
    for rebuilt in [false, true] {
        server.terminate().await;
        if rebuilt {
            std::fs::remove_dir_all(server.data_dir.join("store")).unwrap();
            std::fs::remove_dir_all(server.data_dir.join("snapshots")).unwrap();
        }
        server.start().await;
        let mut again = server.api();
        again.token = alice.token.clone();
        assert_eq!(all(&again, &room, &root, "", 4).await, before);
    }
}

#[tokio::test]
async fn relations_of_relations_are_followed_if_asked_for() {
    let (_server, alice, _) = two_users().await;
    let room = alice.create_room(json!({})).await;
    let root = alice.send_text(&room, "root").await;
    let reply = relate(&alice, &room, "m.thread", &root, "1").await;
    let edited = edit(&alice, &room, &reply, "1 edited").await;
    let reaction = sent(react(&alice, &room, &edited, "x").await);
    let fourth = sent(react(&alice, &room, &reaction, "y").await);
    let second = relate(&alice, &room, "m.thread", &root, "2").await;
    let page = alice.get(&relations(&room, &root, "")).await.ok();
    assert_eq!(ids(&page["chunk"]), [&*second, &reply]);
    assert!(page.get("recursion_depth").is_none());
    let page = alice
        .get(&relations(&room, &root, "?recurse=true"))
        .await
        .ok();
    assert_eq!(ids(&page["chunk"]), [&*second, &reaction, &edited, &reply]);
    assert_eq!(page["recursion_depth"], 3);
    assert!(!ids(&page["chunk"]).contains(&fourth));
    for limit in [1, 2, 3] {
        let forward = all(&alice, &room, &root, "?recurse=true&dir=f", limit).await;
        assert_eq!(forward, [&*reply, &edited, &reaction, &second]);
    }
    // What hangs on an event that does not pass is not found.
    let only = all(&alice, &room, &root, "/m.annotation?recurse=true", 9).await;
    assert!(only.is_empty());
    let only = all(&alice, &room, &reply, "/m.replace?recurse=true", 9).await;
    assert_eq!(only, [edited]);
    let by_old_name = "?org.matrix.msc3981.recurse=true&dir=f";
    assert_eq!(all(&alice, &room, &root, by_old_name, 9).await.len(), 4);
    let page = alice
        .get(&relations(&room, &root, "?recurse=false"))
        .await
        .ok();
    assert_eq!(page["recursion_depth"], 0);
}

#[tokio::test]
async fn only_what_one_may_see_and_wants_to_is_listed() {
    let server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let joined = json!({ "history_visibility": "joined" });
    let room = alice
        .create_room(json!({
            "preset": "public_chat",
            "initial_state": [{ "type": "m.room.history_visibility", "content": joined }],
        }))
        .await;
    let early = alice.send_text(&room, "early").await;
    relate(&alice, &room, "m.reference", &early, "also early").await;
    bob.join(&room).await.ok();
    let root = alice.send_text(&room, "root").await;
    let seen = relate(&alice, &room, "m.reference", &root, "seen").await;
    let of_bob = relate(&bob, &room, "m.reference", &root, "bob's").await;
    carol.join(&room).await.ok();
    let late = relate(&carol, &room, "m.reference", &root, "late").await;

    let chunk = async |api: &Api| -> Vec<String> {
        let page = api.get(&relations(&room, &root, "?dir=f")).await.ok();
        ids(&page["chunk"])
    };
    assert_eq!(chunk(&alice).await, [&*seen, &of_bob, &late]);
    // Who came later does not see the parent: as if there was none.
    carol
        .get(&relations(&room, &root, ""))
        .await
        .refused(404, "M_NOT_FOUND");
    bob.get(&relations(&room, &early, ""))
        .await
        .refused(404, "M_NOT_FOUND");
    let stranger = server.register("dave").await;
    for parent in [&*root, "$unknown"] {
        let answer = stranger.get(&relations(&room, parent, "")).await;
        answer.refused(404, "M_NOT_FOUND");
        let answer = alice.get(&relations("!none:hs.test", parent, "")).await;
        answer.refused(404, "M_NOT_FOUND");
    }
    ignore(&alice, &bob).await;
    assert_eq!(chunk(&alice).await, [&*seen, &late]);
    // Who left sees nothing of what came later.
    act(&bob, &room, "leave", None).await.ok();
    relate(&alice, &room, "m.reference", &root, "later").await;
    assert_eq!(chunk(&bob).await, [&*seen, &of_bob, &late]);
}

#[tokio::test]
async fn redacted_children_are_gone_and_redacted_parents_keep_theirs() {
    let (_server, alice, _) = two_users().await;
    let room = alice.create_room(json!({})).await;
    let other = alice.create_room(json!({})).await;
    let root = alice.send_text(&room, "root").await;
    let kept = relate(&alice, &room, "m.thread", &root, "kept").await;
    let gone = relate(&alice, &room, "m.thread", &root, "gone").await;
    // In another room it relates to nothing.
    relate(&alice, &other, "m.thread", &root, "elsewhere").await;
    redact(&alice, &room, &gone).await;
    assert_eq!(all(&alice, &room, &root, "", 9).await, [&*kept]);
    redact(&alice, &room, &root).await;
    assert_eq!(all(&alice, &room, &root, "", 9).await, [&*kept]);
    let page: Value = alice.get(&relations(&room, &gone, "")).await.ok();
    assert_eq!(page, json!({ "chunk": [] }));
}
