//! Receipts and fully-read markers.

use serde_json::{Value, json};

use super::{next, since, told, two_in_a_room};
use crate::harness::{Answer, Api, escape};
use crate::rooms::{act, of_room};

async fn read(api: &Api, room: &str, kind: &str, event: &str, body: Value) -> Answer {
    let path = of_room(room, &format!("receipt/{kind}/{}", escape(event)));
    api.post(&path, body).await
}

/// Who is told to have read an event, in an `m.receipt` event's content.
fn readers<'a>(content: &'a Value, event: &str, kind: &str) -> Vec<&'a str> {
    let users = content[event][kind].as_object();
    users.map_or(vec![], |users| users.keys().map(String::as_str).collect())
}

#[tokio::test]
async fn receipts_go_to_the_room_and_private_ones_to_nobody_else() {
    let (mut server, alice, bob, room) = two_in_a_room().await;
    let first = alice.send_text(&room, "one").await;
    let second = alice.send_text(&room, "two").await;
    let mut a = next(&alice.sync("").await);
    let mut b = next(&bob.sync("").await);

    // One who waits is told at once.
    let waiting = {
        let (alice, token) = (alice.clone(), a.clone());
        tokio::spawn(async move { alice.sync(&format!("since={token}&timeout=30000")).await })
    };
    assert_eq!(
        read(&bob, &room, "m.read", &first, json!({})).await.ok(),
        json!({})
    );
    let answer = waiting.await.unwrap();
    a = next(&answer);
    let [content] = &told(&answer, &room, "m.receipt")[..] else {
        panic!("one event: {answer}");
    };
    let ts = content[&first]["m.read"]["@bob:hs.test"]["ts"].as_u64();
    assert!(ts.is_some_and(|ts| ts > 1_600_000_000_000), "{content}");
    // The sender's own devices are told as well.
    let answer = since(&bob, &mut b, 0).await;
    assert_eq!(
        told(&answer, &room, "m.receipt"),
        std::slice::from_ref(content)
    );

    // Private ones are told to their user alone, and do not wake the others.
    read(&bob, &room, "m.read.private", &second, json!({}))
        .await
        .ok();
    let answer = since(&alice, &mut a, 300).await;
    assert_eq!(answer["rooms"]["join"], json!({}), "{answer}");
    let answer = since(&bob, &mut b, 0).await;
    let [content] = &told(&answer, &room, "m.receipt")[..] else {
        panic!("one event: {answer}");
    };
    assert_eq!(
        readers(content, &second, "m.read.private"),
        ["@bob:hs.test"]
    );

    // Nothing goes back, and what says nothing new is not told again.
    read(&bob, &room, "m.read", &second, json!({})).await.ok();
    read(&bob, &room, "m.read", &first, json!({})).await.ok();
    let answer = since(&alice, &mut a, 0).await;
    let [content] = &told(&answer, &room, "m.receipt")[..] else {
        panic!("one event: {answer}");
    };
    assert_eq!(readers(content, &second, "m.read"), ["@bob:hs.test"]);
    assert_eq!(readers(content, &first, "m.read"), Vec::<&str>::new());
    read(&bob, &room, "m.read", &second, json!({})).await.ok();
    let answer = since(&alice, &mut a, 0).await;
    assert_eq!(told(&answer, &room, "m.receipt"), Vec::<Value>::new());

    // After a crash all is as it was, and a first sync has what is current.
    let tokens = [alice.token.clone(), bob.token.clone()];
    server.kill();
    server.start().await;
    for (token, sees_private) in tokens.into_iter().zip([false, true]) {
        let mut user = server.api();
        user.token = token;
        let answer = user.sync("").await;
        let [content] = &told(&answer, &room, "m.receipt")[..] else {
            panic!("one event: {answer}");
        };
        assert_eq!(readers(content, &second, "m.read"), ["@bob:hs.test"]);
        let private = readers(content, &second, "m.read.private");
        assert_eq!(!private.is_empty(), sees_private, "{content}");
        // A filter leaves them out.
        let filter = json!({"room": {"ephemeral": {"not_types": ["m.receipt"]}}});
        let answer = user
            .sync(&format!("filter={}", escape(&filter.to_string())))
            .await;
        assert_eq!(told(&answer, &room, "m.receipt"), Vec::<Value>::new());
    }
}

#[tokio::test]
async fn receipts_of_threads_stand_apart() {
    let (_server, alice, bob, room) = two_in_a_room().await;
    let root = alice.send_text(&room, "root").await;
    let relation = |rel_type: &str, event: &str| {
        json!({ "msgtype": "m.text", "body": "…",
            "m.relates_to": { "rel_type": rel_type, "event_id": event } })
    };
    let inside = alice.send(&room, "t1", relation("m.thread", &root)).await;
    let about = alice
        .send(&room, "t2", relation("m.reference", &inside))
        .await;
    let about_root = alice
        .send(&room, "t3", relation("m.reference", &root))
        .await;
    let plain = alice.send_text(&room, "plain").await;
    let mut a = next(&alice.sync("").await);

    // Which events a thread's receipt may name.
    let outcomes = [
        (&inside, root.as_str(), true),
        (&about, &root, true),
        (&root, &root, true),
        (&about_root, &root, true),
        (&about_root, "main", true),
        (&root, "main", true),
        (&plain, "main", true),
        (&plain, &root, false),
        (&inside, "main", false),
        (&about, "main", false),
        (&inside, &plain, false),
    ];
    for (event, thread, is_related) in outcomes {
        let body = json!({ "thread_id": thread });
        let answer = read(&bob, &room, "m.read.private", event, body).await;
        match is_related {
            true => assert_eq!(answer.ok(), json!({})),
            false => drop(answer.refused(400, "M_INVALID_PARAM")),
        }
    }

    // One event for each thread; the same event may be in several of them.
    for thread in [None, Some("main"), Some(root.as_str())] {
        let body = thread.map_or(json!({}), |thread| json!({ "thread_id": thread }));
        read(&bob, &room, "m.read", &root, body).await.ok();
    }
    let answer = since(&alice, &mut a, 0).await;
    let mut threads: Vec<_> = told(&answer, &room, "m.receipt")
        .iter()
        .map(|content| content[&root]["m.read"]["@bob:hs.test"]["thread_id"].clone())
        .collect();
    threads.sort_by_key(Value::to_string);
    let mut expected = vec![json!("main"), json!(root), Value::Null];
    expected.sort_by_key(Value::to_string);
    assert_eq!(threads, expected);
}

#[tokio::test]
async fn what_cannot_be_read_is_refused() {
    let (server, alice, bob, room) = two_in_a_room().await;
    let event = alice.send_text(&room, "one").await;
    let bad = "M_INVALID_PARAM";
    for thread_id in [json!(""), json!(5), json!(null), json!("thread"), json!([])] {
        let body = json!({ "thread_id": thread_id });
        read(&bob, &room, "m.read", &event, body)
            .await
            .refused(400, bad);
    }
    let threaded = json!({ "thread_id": "main" });
    read(&bob, &room, "m.fully_read", &event, threaded)
        .await
        .refused(400, bad);
    read(&bob, &room, "m.seen", &event, json!({}))
        .await
        .refused(400, bad);
    read(&bob, &room, "m.read", "event", json!({}))
        .await
        .refused(400, bad);
    read(&bob, &room, "m.read", "$unknown", json!({}))
        .await
        .refused(404, "M_NOT_FOUND");
    let other = alice.create_room(json!({ "preset": "public_chat" })).await;
    let elsewhere = alice.send_text(&other, "other").await;
    read(&alice, &room, "m.read", &elsewhere, json!({}))
        .await
        .refused(404, "M_NOT_FOUND");
    // Only members, and nothing that a member may not see.
    let carol = server.register("carol").await;
    read(&carol, &room, "m.read", &event, json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
    act(&bob, &room, "leave", None).await.ok();
    read(&bob, &room, "m.read", &event, json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
    let markers = of_room(&room, "read_markers");
    for body in [json!({"m.read": 5}), json!({"m.fully_read": "event"})] {
        alice.post(&markers, body).await.refused(400, "M_BAD_JSON");
    }
}

#[tokio::test]
async fn nobody_is_told_of_receipts_after_they_left() {
    let (_server, alice, bob, room) = two_in_a_room().await;
    let event = alice.send_text(&room, "one").await;
    let mut b = next(&bob.sync("").await);
    act(&bob, &room, "leave", None).await.ok();
    read(&alice, &room, "m.read", &event, json!({})).await.ok();
    let answer = since(&bob, &mut b, 0).await;
    assert!(!answer.to_string().contains("m.receipt"), "{answer}");
    let answer = since(&bob, &mut b, 0).await;
    assert!(!answer.to_string().contains("m.receipt"), "{answer}");
    // Who comes back is told what is current.
    bob.join(&room).await.ok();
    let answer = since(&bob, &mut b, 0).await;
    let [content] = &told(&answer, &room, "m.receipt")[..] else {
        panic!("one event: {answer}");
    };
    assert_eq!(readers(content, &event, "m.read"), ["@alice:hs.test"]);
}

#[tokio::test]
async fn read_markers_set_all_at_once_and_never_go_back() {
    let (_server, alice, bob, room) = two_in_a_room().await;
    let first = alice.send_text(&room, "one").await;
    let second = alice.send_text(&room, "two").await;
    let mut b = next(&bob.sync("").await);
    let markers = of_room(&room, "read_markers");
    let marker = |answer: &Value| {
        let events = &answer["rooms"]["join"][&room]["account_data"]["events"];
        let events = events.as_array().cloned().unwrap_or_default();
        let mut of_type = events
            .into_iter()
            .filter(|event| event["type"] == "m.fully_read");
        of_type
            .next()
            .map(|event| event["content"]["event_id"].clone())
    };
    let body = json!({ "m.fully_read": first, "m.read": second, "m.read.private": first });
    assert_eq!(bob.post(&markers, body).await.ok(), json!({}));
    let answer = since(&bob, &mut b, 0).await;
    assert_eq!(marker(&answer), Some(json!(first)));
    let [content] = &told(&answer, &room, "m.receipt")[..] else {
        panic!("one event: {answer}");
    };
    assert_eq!(readers(content, &second, "m.read"), ["@bob:hs.test"]);
    assert_eq!(readers(content, &first, "m.read.private"), ["@bob:hs.test"]);
    // The other endpoint moves the same marker.
    read(&bob, &room, "m.fully_read", &second, json!({}))
        .await
        .ok();
    assert_eq!(marker(&since(&bob, &mut b, 0).await), Some(json!(second)));
    let back = json!({ "m.fully_read": first });
    bob.post(&markers, back).await.ok();
    assert_eq!(marker(&since(&bob, &mut b, 0).await), None);
    // If one of them is not known then none is written.
    let third = alice.send_text(&room, "three").await;
    let body = json!({ "m.fully_read": third, "m.read": "$unknown" });
    bob.post(&markers, body).await.refused(404, "M_NOT_FOUND");
    assert_eq!(marker(&since(&bob, &mut b, 0).await), None);
    bob.post(&markers, json!({})).await.ok();
}
