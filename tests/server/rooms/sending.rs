//! Sending: transactions, their life across restarts, redactions, one line of
//! events however many send at once.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::{act, of_room, two_users};
use crate::harness::{Api, Server, escape};

fn text(body: &str) -> Value {
    json!({ "msgtype": "m.text", "body": body })
}

async fn event(api: &Api, room: &str, id: &str) -> Value {
    let path = of_room(room, &format!("event/{}", escape(id)));
    api.get(&path).await.ok()
}

#[tokio::test]
async fn a_transaction_makes_one_event_across_restarts_too() {
    let (mut server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let first = alice.send(&room, "t1", text("one")).await;
    assert_eq!(alice.send(&room, "t1", text("two")).await, first);
    let mut same = Vec::new();
    for _ in 0..10 {
        let (alice, room) = (alice.clone(), room.clone());
        same.push(tokio::spawn(async move {
            alice.send(&room, "t2", text("many")).await
        }));
    }
    let mut ids = Vec::new();
    for task in same {
        ids.push(task.await.unwrap());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    // Another device, another type, another room: another request.
    assert_ne!(bob.send(&room, "t1", text("bob")).await, first);
    let sticker = of_room(&room, "send/m.sticker/t1");
    assert_ne!(
        alice.put(&sticker, text("s")).await.ok()["event_id"],
        first.as_str()
    );
    let other = alice.create_room(json!({})).await;
    assert_ne!(alice.send(&other, "t1", text("other")).await, first);
    // The transaction id is echoed to its device alone.
    let seen = event(&alice, &room, &first).await;
    assert_eq!(seen["unsigned"]["transaction_id"], "t1");
    assert_eq!(seen["content"]["body"], "one");
    assert_eq!(
        event(&bob, &room, &first).await["unsigned"].get("transaction_id"),
        None
    );

    server.kill();
    server.start().await;
    let mut again = server.api();
    again.token = alice.token.clone();
    assert_eq!(again.send(&room, "t1", text("three")).await, first);
    assert_eq!(again.send(&room, "t2", text("three")).await, ids[0]);
}

#[tokio::test]
async fn without_a_transaction_each_request_is_an_event() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({})).await;
    let path = of_room(&room, "send/m.room.message");
    let first = alice.post(&path, text("one")).await.ok();
    let second = alice.post(&path, text("one")).await.ok();
    assert_ne!(first["event_id"], second["event_id"]);
    let seen = event(&alice, &room, first["event_id"].as_str().unwrap()).await;
    assert_eq!(seen["content"], text("one"));
    assert_eq!(seen["unsigned"].get("transaction_id"), None);

    let redaction = of_room(&room, "send/m.room.redaction");
    let content = json!({ "redacts": first["event_id"] });
    alice.post(&redaction, content).await.ok();
    let seen = event(&alice, &room, first["event_id"].as_str().unwrap()).await;
    assert_eq!(seen["content"], json!({}));
    let second = second["event_id"].as_str().unwrap();
    let redact = of_room(&room, &format!("redact/{}", escape(second)));
    bob.post(&redact, json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
    let reason = json!({ "reason": "mistaken" });
    let redaction = alice.post(&redact, reason).await.ok();
    let seen = event(&alice, &room, second).await;
    assert_eq!(seen["content"], json!({}));
    let because = &seen["unsigned"]["redacted_because"];
    assert_eq!(because["event_id"], redaction["event_id"]);
    assert_eq!(because["content"]["reason"], "mistaken");
    bob.post(&path, text("two"))
        .await
        .refused(403, "M_FORBIDDEN");
    let long = json!({ "body": "A".repeat(70_000) });
    alice.post(&path, long).await.refused(413, "M_TOO_LARGE");
    let float = json!({ "body": 1.5 });
    alice.post(&path, float).await.refused(400, "M_BAD_JSON");
}

#[tokio::test]
async fn the_same_state_again_is_the_same_event() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let levels = json!({ "state_default": 0 });
    let path = of_room(&room, "state/m.room.power_levels");
    alice.put(&path, levels).await.ok();

    let path = of_room(&room, "state/com.example.colour/wall");
    let put = async |user: &Api, content: Value| {
        let sent = user.put(&path, content).await.ok();
        sent["event_id"].as_str().unwrap().to_owned()
    };
    let blue = json!({ "name": "blue", "rgb": [0, 0, 255] });
    let first = put(&alice, blue.clone()).await;
    assert_eq!(put(&alice, blue.clone()).await, first);
    // Other content, and another sender, say something new.
    let red = put(&alice, json!({ "name": "red" })).await;
    let second = put(&alice, blue.clone()).await;
    let theirs = put(&bob, blue.clone()).await;
    assert_eq!(put(&bob, blue.clone()).await, theirs);
    let all = HashSet::from([first, red, second, theirs]);
    assert_eq!(all.len(), 4);

    // Who may not write it is told so, even if it stands.
    let levels = of_room(&room, "state/m.room.power_levels");
    alice
        .put(&levels, json!({ "state_default": 50 }))
        .await
        .ok();
    bob.put(&path, blue).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn many_senders_at_once_make_one_line() {
    let server = Server::builder().start().await;
    let mut senders = Vec::new();
    for name in ["u0", "u1", "u2", "u3"] {
        senders.push(server.register(name).await);
    }
    let room = senders[0]
        .create_room(json!({ "preset": "public_chat" }))
        .await;
    for sender in &senders[1..] {
        sender.join(&room).await.ok();
    }
    let mut tasks = Vec::new();
    for (number, sender) in senders.iter().enumerate() {
        for lane in 0..2 {
            let (sender, room) = (sender.clone(), room.clone());
            tasks.push(tokio::spawn(async move {
                for index in 0..8 {
                    sender
                        .send_text(&room, &format!("{number} {lane} {index}"))
                        .await;
                }
            }));
        }
    }
    for round in 0..5 {
        let topic = of_room(&room, "state/m.room.topic");
        senders[0]
            .put(&topic, json!({ "topic": round.to_string() }))
            .await
            .ok();
    }
    for task in tasks {
        task.await.unwrap();
    }
    // Every event is in the timeline, once.
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut from = String::new();
    loop {
        let page = of_room(&room, &format!("messages?dir=f&limit=50{from}"));
        let page = senders[0].get(&page).await.ok();
        for event in page["chunk"].as_array().unwrap() {
            let id = event["event_id"].as_str().unwrap().to_owned();
            *seen.entry(id).or_default() += 1;
        }
        match page["end"].as_str() {
            Some(end) => from = format!("&from={end}"),
            None => break,
        }
    }
    // Six events of creation, three joins, messages and topics.
    assert_eq!(seen.len(), 6 + 3 + 4 * 2 * 8 + 5);
    assert!(seen.values().all(|times| *times == 1));
    // Each has one parent and no two have the same: that is one line.
    let filter = json!({
        "event_format": "federation",
        "room": { "timeline": { "limit": 100 }, "rooms": [room] },
    });
    let synced = senders[0]
        .sync(&format!("timeout=0&filter={}", escape(&filter.to_string())))
        .await;
    let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
    let mut parents = HashSet::new();
    for event in timeline.as_array().unwrap() {
        let prev_events = event["prev_events"].as_array().unwrap();
        match event["type"] == "m.room.create" {
            true => assert_eq!(prev_events.len(), 0),
            false => assert_eq!(prev_events.len(), 1, "{event}"),
        }
        for parent in prev_events {
            assert!(
                parents.insert(parent.as_str().unwrap().to_owned()),
                "{event}"
            );
        }
    }
    assert_eq!(parents.len(), seen.len() - 1);
}

#[tokio::test]
async fn cve_2024_6302_redactions_take_what_is_ones_own_or_power() {
    let (_server, alice, bob) = two_users().await;
    for version in ["10", "11", "12"] {
        let room = alice
            .create_room(json!({ "preset": "public_chat", "room_version": version }))
            .await;
        bob.join(&room).await.ok();
        let of_alice = alice.send_text(&room, "secret").await;
        let of_bob = bob.send_text(&room, "secret").await;
        let redact = |id: &str, txn: &str| of_room(&room, &format!("redact/{}/{txn}", escape(id)));
        bob.put(&redact(&of_alice, "r"), json!({}))
            .await
            .refused(403, "M_FORBIDDEN");
        let done = bob
            .put(&redact(&of_bob, "r"), json!({ "reason": "oops" }))
            .await
            .ok();
        let again = bob
            .put(&redact(&of_bob, "r"), json!({ "reason": "oops" }))
            .await
            .ok();
        assert_eq!(done, again);
        let redacted = event(&alice, &room, &of_bob).await;
        assert_eq!(redacted["content"], json!({}));
        let because = &redacted["unsigned"]["redacted_because"];
        assert_eq!(because["content"]["reason"], "oops");
        assert_eq!(because["redacts"], of_bob.as_str());
        assert_eq!(because["content"]["redacts"], of_bob.as_str());
        assert_eq!(because["event_id"], done["event_id"]);
        let second = bob.send_text(&room, "more").await;
        alice.put(&redact(&second, "r"), json!({})).await.ok();
        assert_eq!(event(&bob, &room, &second).await["content"], json!({}));
        bob.put(&redact("$unknown", "u"), json!({}))
            .await
            .refused(400, "M_INVALID_PARAM");
    }
}

#[tokio::test]
async fn state_is_set_read_and_replaced() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let thing = of_room(&room, "state/org.example.thing");
    let first = alice.put(&thing, json!({ "n": 1 })).await.ok();
    let second = alice
        .put(&format!("{thing}/"), json!({ "n": 2 }))
        .await
        .ok();
    assert_ne!(first, second);
    for path in [thing.clone(), format!("{thing}/")] {
        assert_eq!(bob.get(&path).await.ok(), json!({ "n": 2 }));
    }
    let whole = bob.get(&format!("{thing}?format=event")).await.ok();
    assert_eq!(whole["event_id"], second["event_id"]);
    assert_eq!(whole["state_key"], "");
    assert_eq!(whole["room_id"], room.as_str());
    assert_eq!(whole["unsigned"]["prev_content"], json!({ "n": 1 }));
    assert_eq!(whole["unsigned"]["replaces_state"], first["event_id"]);
    alice
        .put(&format!("{thing}/key"), json!({ "n": 3 }))
        .await
        .ok();
    assert_eq!(
        bob.get(&format!("{thing}/key")).await.ok(),
        json!({ "n": 3 })
    );
    bob.get(&format!("{thing}/other"))
        .await
        .refused(404, "M_NOT_FOUND");
    bob.put(&thing, json!({})).await.refused(403, "M_FORBIDDEN");
    let all = bob.get(&of_room(&room, "state")).await.ok();
    let things = all.as_array().unwrap().iter();
    let things = things.filter(|event| event["type"] == "org.example.thing");
    assert_eq!(things.count(), 2);
    // The create event is never set again; nobody sets another's membership wrongly.
    alice
        .put(
            &of_room(&room, "state/m.room.create"),
            json!({ "room_version": "12" }),
        )
        .await
        .refused(403, "M_FORBIDDEN");
    let member = of_room(
        &room,
        &format!("state/m.room.member/{}", escape(&bob.user_id)),
    );
    alice
        .put(&member, json!({ "membership": "join" }))
        .await
        .refused(403, "M_FORBIDDEN");
    alice
        .put(&member, json!({ "membership": "leave" }))
        .await
        .ok();
    act(&bob, &room, "join", None).await.ok();
}

#[tokio::test]
async fn who_is_not_in_a_room_does_not_write_to_it() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({})).await;
    for room in [room.as_str(), "!unknown:hs.test"] {
        let send = of_room(room, "send/m.room.message/t");
        bob.put(&send, text("x")).await.refused(403, "M_FORBIDDEN");
        let state = of_room(room, "state/m.room.topic");
        bob.put(&state, json!({ "topic": "x" }))
            .await
            .refused(403, "M_FORBIDDEN");
        bob.get(&of_room(room, "state"))
            .await
            .refused(403, "M_FORBIDDEN");
    }
}
