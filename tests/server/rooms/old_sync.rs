//! The endpoints from before `/sync`: snapshots, the event stream, looking in.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{act, of_room, two_users};
use crate::harness::{Api, Server, escape};
use crate::users::{guest, of_user, set_state};

const V3: &str = "/_matrix/client/v3";

fn ids(events: &Value) -> Vec<&str> {
    let events = events.as_array().unwrap().iter();
    events
        .map(|event| event["event_id"].as_str().unwrap())
        .collect()
}

/// One answer of the event stream from a token on.
async fn stream(api: &Api, from: &str, rest: &str) -> Value {
    let path = format!("{V3}/events?from={}{rest}", escape(from));
    api.get(&path).await.ok()
}

#[tokio::test]
async fn the_stream_tells_every_event_once_and_in_order() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.send_text(&room, "before Bob").await;
    let begun = bob.get(&format!("{V3}/events?timeout=0")).await.ok();
    assert_eq!(begun["chunk"], json!([]));
    assert_eq!(begun["start"], begun["end"]);
    let mut from = begun["end"].as_str().unwrap().to_owned();

    // The history that Bob may read by then is not what came since.
    bob.join(&room).await.ok();
    let joined = stream(&bob, &from, "&timeout=0").await;
    let [join] = &**joined["chunk"].as_array().unwrap() else {
        panic!("{joined}");
    };
    assert_eq!(join["room_id"], room.as_str());
    assert_eq!(join["state_key"], bob.user_id.as_str());
    assert_eq!(join["content"]["membership"], "join");
    assert_eq!(joined["start"], from.as_str());
    from = joined["end"].as_str().unwrap().to_owned();

    // More than an answer holds: pages, none of them with a gap. Of two rooms.
    let other = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    bob.join(&other).await.ok();
    let mut sent = Vec::new();
    for number in 0..130 {
        sent.push(alice.send_text(&room, &format!("{number}")).await);
        sent.push(bob.send_text(&other, &format!("{number}")).await);
    }
    act(&alice, &room, "kick", Some(&bob)).await.ok();
    alice.send_text(&room, "not for Bob").await;
    let mut told = Vec::new();
    loop {
        let page = stream(&bob, &from, "&timeout=0").await;
        let chunk = page["chunk"].as_array().unwrap();
        if chunk.is_empty() {
            break;
        }
        told.extend(chunk.iter().cloned());
        from = page["end"].as_str().unwrap().to_owned();
    }
    let messages = told
        .iter()
        .filter(|event| event["type"] == "m.room.message")
        .map(|event| event["event_id"].as_str().unwrap());
    assert!(messages.eq(sent.iter().map(String::as_str)));
    let invite = &told[0];
    assert_eq!(invite["room_id"], other.as_str());
    assert_eq!(invite["content"]["membership"], "invite");
    let kick = told.last().unwrap();
    assert_eq!(kick["room_id"], room.as_str());
    assert_eq!(kick["content"]["membership"], "leave");

    for wrong in ["nonsense", "s1_AAAA"] {
        let path = format!("{V3}/events?timeout=0&from={wrong}");
        bob.get(&path).await.refused(400, "M_INVALID_PARAM");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_waits_for_news_of_ones_own_rooms() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({})).await;
    let synced = alice.sync("timeout=0").await;
    let from = synced["next_batch"].as_str().unwrap().to_owned();
    let others = bob.create_room(json!({})).await;
    let waiting = stream(&alice, &from, "&timeout=20000");
    let speaking = async {
        bob.send_text(&others, "elsewhere").await;
        alice.send_text(&room, "here").await
    };
    let begun = Instant::now();
    let (told, sent) = tokio::join!(waiting, speaking);
    assert_eq!(ids(&told["chunk"]), [sent]);
    assert!(begun.elapsed() < Duration::from_secs(15));
    let end = told["end"].as_str().unwrap();
    let nothing = stream(&alice, end, "&timeout=1").await;
    assert_eq!(nothing["chunk"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_looks_into_a_world_readable_room() {
    let server = Server::builder()
        .set("REGISTRATION__GUESTS", true)
        .start()
        .await;
    let alice = server.register("alice").await;
    let guest = guest(&server).await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let initial = of_room(&room, "initialSync");
    guest.get(&initial).await.refused(403, "M_FORBIDDEN");
    let peek = |from: &str, rest: &str| {
        format!(
            "{V3}/events?room_id={}&from={}{rest}",
            escape(&room),
            escape(from)
        )
    };
    let closed = guest.get(&peek("", "&timeout=0")).await;
    closed.refused(403, "M_FORBIDDEN");
    let hidden = alice.send_text(&room, "for members").await;
    let open = json!({ "history_visibility": "world_readable" });
    set_state(&alice, &room, "m.room.history_visibility", open).await;
    let shown = alice.send_text(&room, "for the world").await;

    let look = guest.get(&initial).await.ok();
    assert_eq!(look["room_id"], room.as_str());
    assert!(look.get("membership").is_none());
    assert_eq!(look["visibility"], "private");
    let messages = ids(&look["messages"]["chunk"]);
    assert!(messages.contains(&&*shown) && !messages.contains(&&*hidden));
    let state = look["state"].as_array().unwrap();
    assert!(state.iter().any(|event| event["type"] == "m.room.create"));
    let from = look["messages"]["end"].as_str().unwrap();

    let waiting = async { guest.get(&peek(from, "&timeout=20000")).await.ok() };
    let speaking = alice.send_text(&room, "live");
    let begun = Instant::now();
    let (told, sent) = tokio::join!(waiting, speaking);
    assert_eq!(ids(&told["chunk"]), [sent]);
    assert_eq!(told["chunk"][0]["room_id"], room.as_str());
    assert!(begun.elapsed() < Duration::from_secs(15));
    // Guests have `/events` for previews of rooms alone.
    for path in ["initialSync", "events"] {
        let answer = guest.get(&format!("{V3}/{path}")).await;
        answer.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    }
}

#[tokio::test]
async fn a_snapshot_tells_of_every_room_of_the_user() {
    let (_server, alice, bob) = two_users().await;
    let joined = alice
        .create_room(json!({ "visibility": "public", "name": "Tea" }))
        .await;
    let last = alice.send_text(&joined, "last").await;
    let invited = bob.create_room(json!({ "invite": [alice.user_id] })).await;
    let left = bob.create_room(json!({ "preset": "public_chat" })).await;
    alice.join(&left).await.ok();
    act(&alice, &left, "leave", None).await.ok();
    bob.send_text(&left, "without Alice").await;
    let tag = of_user(
        &alice,
        &format!("rooms/{}/account_data/org.example.a", escape(&joined)),
    );
    alice.put(&tag, json!({ "a": 1 })).await.ok();
    let global = of_user(&alice, "account_data/org.example.b");
    alice.put(&global, json!({ "b": 2 })).await.ok();

    let read = of_room(&joined, &format!("receipt/m.read/{}", escape(&last)));
    alice.post(&read, json!({})).await.ok();

    let initial = alice.get(&format!("{V3}/initialSync?limit=1")).await.ok();
    let rooms = initial["rooms"].as_array().unwrap();
    let find = |id: &str| rooms.iter().find(|room| room["room_id"] == id);
    assert_eq!(rooms.len(), 2);
    let tea = find(&joined).unwrap();
    assert_eq!(tea["membership"], "join");
    assert_eq!(tea["visibility"], "public");
    assert_eq!(ids(&tea["messages"]["chunk"]), [&*last]);
    assert_eq!(tea["messages"]["chunk"][0]["room_id"], joined.as_str());
    let state = tea["state"].as_array().unwrap();
    assert!(state.iter().any(|e| e["content"]["name"] == "Tea"));
    let data = json!([{ "type": "org.example.a", "content": { "a": 1 } }]);
    assert_eq!(tea["account_data"], data);
    let invite = find(&invited).unwrap();
    assert_eq!(invite["membership"], "invite");
    assert_eq!(invite["invite"]["sender"], bob.user_id.as_str());
    assert!(invite.get("state").is_none() && invite.get("messages").is_none());
    let data = initial["account_data"].as_array().unwrap();
    let of_kind = |kind: &str| data.iter().find(|datum| datum["type"] == kind);
    assert_eq!(of_kind("org.example.b").unwrap()["content"]["b"], 2);
    assert!(of_kind("m.push_rules").unwrap()["content"]["global"].is_object());
    assert_eq!(initial["presence"], json!([]), "this server has none");
    let receipts = initial["receipts"].clone();
    assert_eq!(receipts[0]["room_id"], joined.as_str());
    assert_eq!(receipts[0]["type"], "m.receipt");
    let of_alice = &receipts[0]["content"][&last]["m.read"][&alice.user_id];
    assert!(of_alice["ts"].is_u64(), "{receipts}");
    let of_one = alice.get(&of_room(&joined, "initialSync")).await.ok();
    assert_eq!(of_one["receipts"], receipts);
    let of_left = alice.get(&of_room(&left, "initialSync")).await.ok();
    assert_eq!(
        (&of_left["receipts"], &of_left["presence"]),
        (&json!([]), &json!([]))
    );

    // Earlier messages, and later ones, go on from there.
    let start = tea["messages"]["start"].as_str().unwrap();
    let path = of_room(
        &joined,
        &format!("messages?dir=b&limit=1&from={}", escape(start)),
    );
    let earlier = alice.get(&path).await.ok();
    assert_eq!(earlier["chunk"][0]["content"]["name"], "Tea");
    let sent = alice.send_text(&joined, "later").await;
    let later = stream(&alice, initial["end"].as_str().unwrap(), "&timeout=0").await;
    assert_eq!(ids(&later["chunk"]), [sent]);

    let archived = format!("{V3}/initialSync?limit=1&archived=true");
    let initial = alice.get(&archived).await.ok();
    let rooms = initial["rooms"].as_array().unwrap();
    let gone = rooms.iter().find(|room| room["room_id"] == left.as_str());
    let gone = gone.unwrap();
    assert_eq!(gone["membership"], "leave");
    assert_eq!(
        gone["messages"]["chunk"][0]["content"]["membership"],
        "leave"
    );
    act(&alice, &left, "forget", None).await.ok();
    let initial = alice.get(&archived).await.ok();
    assert_eq!(initial["rooms"].as_array().unwrap().len(), 2);
    let negative = format!("{V3}/initialSync?limit=-1");
    alice.get(&negative).await.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn an_event_is_found_without_its_room() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.create_room(json!({})).await;
    let sent = alice.send_text(&room, "here").await;
    let path = format!("{V3}/events/{}", escape(&sent));
    let found = alice.get(&path).await.ok();
    assert_eq!(found["event_id"], sent.as_str());
    assert_eq!(found["room_id"], room.as_str());
    assert_eq!(found["content"]["body"], "here");
    bob.get(&path).await.refused(404, "M_NOT_FOUND");
    let unknown = format!("{V3}/events/%24unknown");
    alice.get(&unknown).await.refused(404, "M_NOT_FOUND");
    bob.join(&room).await.ok();
    bob.get(&path).await.ok();
}
