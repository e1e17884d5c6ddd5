//! Unread counts, and what resets them.

use serde_json::{Value, json};

use super::{in_thread, mention, pair, read, unread};
use crate::harness::{Api, Server, escape};
use crate::rooms::{of_room, two_users};

/// A room of the two.
async fn shared_room(alice: &Api, bob: &Api) -> String {
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    room
}

fn next(answer: &Value) -> String {
    answer["next_batch"].as_str().unwrap().to_owned()
}

const BY_THREAD: &str = "filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22unread_thread_notifications%22%3Atrue%7D%7D%7D";

#[tokio::test]
async fn a_receipt_resets_the_count_and_wakes_its_user() {
    let (_server, alice, bob) = two_users().await;
    let room = shared_room(&alice, &bob).await;
    let first = bob.send_text(&room, "one").await;
    mention(&bob, &room, "m1", &alice).await;
    let last = bob.send_text(&room, "three").await;
    let answer = alice.sync("").await;
    assert_eq!(unread(&answer, &room), (3, 1));
    let mut since = next(&answer);
    for (kind, event, expected) in [
        ("m.read.private", &first, (2, 1)),
        ("m.read", &last, (0, 0)),
    ] {
        let waiting = {
            let (alice, since) = (alice.clone(), since.clone());
            tokio::spawn(async move { alice.sync(&format!("since={since}&timeout=30000")).await })
        };
        read(&alice, &room, kind, event, json!({})).await;
        let answer = waiting.await.unwrap();
        assert_eq!(unread(&answer, &room), expected, "{kind}");
        since = next(&answer);
    }
    // The one that is behind takes nothing back, and what comes counts again.
    read(&alice, &room, "m.read.private", &first, json!({})).await;
    bob.send_text(&room, "four").await;
    let answer = alice.sync(&format!("since={since}")).await;
    assert_eq!(unread(&answer, &room), (1, 0));
    // What the user says themselves reads the room as well.
    alice.send_text(&room, "yes").await;
    let answer = alice.sync(&format!("since={}", next(&answer))).await;
    assert_eq!(unread(&answer, &room), (0, 0));
    // A count that changes is told to a client that wants no receipts.
    let deaf = escape(r#"{"room":{"ephemeral":{"not_types":["m.receipt"]}}}"#);
    let five = bob.send_text(&room, "five").await;
    let answer = alice
        .sync(&format!("filter={deaf}&since={}", next(&answer)))
        .await;
    assert_eq!(unread(&answer, &room), (1, 0));
    read(&alice, &room, "m.read", &five, json!({})).await;
    let answer = alice
        .sync(&format!("filter={deaf}&since={}", next(&answer)))
        .await;
    assert_eq!(unread(&answer, &room), (0, 0));
    let answer = alice
        .sync(&format!("filter={deaf}&since={}", next(&answer)))
        .await;
    assert_eq!(answer["rooms"]["join"], json!({}));
}

#[tokio::test]
async fn threads_are_counted_and_read_apart() {
    let (_server, alice, bob) = two_users().await;
    let room = shared_room(&alice, &bob).await;
    let root = bob.send_text(&room, "root").await;
    let other = bob.send_text(&room, "other root").await;
    let in_first = in_thread(&bob, &room, "t1", &root).await;
    in_thread(&bob, &room, "t2", &other).await;
    // A reaction to what is in a thread notifies nobody.
    let relation = json!({ "rel_type": "m.annotation", "event_id": in_first, "key": "+" });
    let path = of_room(&room, "send/m.reaction/t3");
    bob.put(&path, json!({ "m.relates_to": relation }))
        .await
        .ok();
    let told = |answer: &Value| {
        let room = &answer["rooms"]["join"][&room];
        let threads = room["unread_thread_notifications"].as_object();
        let threads = threads.cloned().unwrap_or_default();
        let thread = |root: &String| threads.get(root).map(pair);
        (
            pair(&room["unread_notifications"]),
            thread(&root),
            thread(&other),
        )
    };
    let answer = alice.sync(BY_THREAD).await;
    assert_eq!(told(&answer), ((2, 0), Some((1, 0)), Some((1, 0))));
    // Clients that do not know threads are told the sum.
    assert_eq!(unread(&alice.sync("").await, &room), (4, 0));

    let since = |answer: &Value| format!("{BY_THREAD}&since={}", next(answer));
    read(
        &alice,
        &room,
        "m.read",
        &in_first,
        json!({ "thread_id": root }),
    )
    .await;
    let answer = alice.sync(&since(&answer)).await;
    assert_eq!(told(&answer), ((2, 0), None, Some((1, 0))));
    read(
        &alice,
        &room,
        "m.read",
        &other,
        json!({ "thread_id": "main" }),
    )
    .await;
    let answer = alice.sync(&since(&answer)).await;
    assert_eq!(told(&answer), ((0, 0), None, Some((1, 0))));
    // What is said in a thread reads that alone; a receipt for the room all.
    bob.send_text(&room, "main").await;
    in_thread(&bob, &room, "t4", &root).await;
    in_thread(&alice, &room, "t5", &other).await;
    let answer = alice.sync(&since(&answer)).await;
    assert_eq!(told(&answer), ((1, 0), Some((1, 0)), None));
    let last = bob.send_text(&room, "last").await;
    read(&alice, &room, "m.read", &last, json!({})).await;
    let answer = alice.sync(&since(&answer)).await;
    assert_eq!(told(&answer), ((0, 0), None, None));
}

#[tokio::test]
async fn redacted_and_edited_messages_do_not_count() {
    let (_server, alice, bob) = two_users().await;
    let room = shared_room(&alice, &bob).await;
    let one = mention(&bob, &room, "m1", &alice).await;
    let two = bob.send_text(&room, "two").await;
    let answer = alice.sync("").await;
    assert_eq!(unread(&answer, &room), (2, 1));
    let edit = json!({
        "msgtype": "m.text", "body": "* too",
        "m.new_content": { "msgtype": "m.text", "body": "too" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": two },
    });
    bob.send(&room, "e1", edit).await;
    let path = of_room(&room, &format!("redact/{}/r1", escape(&one)));
    bob.put(&path, json!({})).await.ok();
    let answer = alice.sync(&format!("since={}", next(&answer))).await;
    assert_eq!(unread(&answer, &room), (1, 0));
    // Redacted before it was counted, it never was there.
    let three = bob.send_text(&room, "three").await;
    let path = of_room(&room, &format!("redact/{}/r2", escape(&three)));
    bob.put(&path, json!({})).await.ok();
    let answer = alice.sync(&format!("since={}", next(&answer))).await;
    assert_eq!(unread(&answer, &room), (1, 0));
}

#[tokio::test]
async fn counts_outlive_crashes_and_restarts() {
    let mut server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = shared_room(&alice, &bob).await;
    mention(&bob, &room, "m1", &alice).await;
    let mut read_to = String::new();
    for number in 0..80 {
        let sent = bob.send_text(&room, &number.to_string()).await;
        if number == 9 {
            read_to = sent;
        }
        if number % 40 == 39 {
            alice.sync("").await;
        }
    }
    assert_eq!(unread(&alice.sync("").await, &room), (81, 1));
    let tokens = [alice.token.clone(), bob.token.clone()];
    for kind in ["kill", "stop"] {
        match kind {
            "kill" => server.kill(),
            _ => assert!(server.terminate().await.success()),
        }
        server.start().await;
        let [mut alice, mut bob] = [server.api(), server.api()];
        (alice.token, bob.token) = (tokens[0].clone(), tokens[1].clone());
        let before = if kind == "kill" { (81, 1) } else { (71, 0) };
        assert_eq!(unread(&alice.sync("").await, &room), before, "{kind}");
        if kind == "kill" {
            read(&alice, &room, "m.read", &read_to, json!({})).await;
            bob.send_text(&room, "one more").await;
            assert_eq!(unread(&alice.sync("").await, &room), (71, 0));
        }
    }
}

/// Sliding sync tells the same counts, and of receipts alone as well.
#[tokio::test]
async fn sliding_sync_counts_alike() {
    let (_server, alice, bob) = two_users().await;
    let room = shared_room(&alice, &bob).await;
    let root = mention(&bob, &room, "m1", &alice).await;
    let last = in_thread(&bob, &room, "t1", &root).await;
    let path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let lists = json!({ "a": { "ranges": [[0, 9]], "required_state": [], "timeline_limit": 1 } });
    let body = json!({ "lists": lists });
    let answer = alice.post(path, body.clone()).await.ok();
    assert_eq!(pair(&answer["rooms"][&room]), (2, 1));
    let pos = answer["pos"].as_str().unwrap();
    read(&alice, &room, "m.read.private", &last, json!({})).await;
    let answer = alice
        .post(&format!("{path}?pos={pos}"), body.clone())
        .await
        .ok();
    assert_eq!(pair(&answer["rooms"][&room]), (0, 0));
    // Of what others read there is nothing to tell.
    let pos = answer["pos"].as_str().unwrap();
    read(&bob, &room, "m.read", &last, json!({})).await;
    let answer = alice.post(&format!("{path}?pos={pos}"), body).await.ok();
    assert_eq!(answer["rooms"], json!({}));
}
