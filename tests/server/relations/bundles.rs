//! What is bundled with an event, and wherever events are shown.

use serde_json::{Value, json};

use super::{bundle, edit, ignore, react, redact, relate, relations, send, sent};
use crate::harness::{Api, Server, escape};
use crate::rooms::{act, of_room, two_users};

async fn room_of(alice: &Api, bob: &Api) -> String {
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    room
}

#[tokio::test]
async fn the_latest_valid_edit_is_bundled_and_the_content_left_alone() {
    let (_server, alice, bob) = two_users().await;
    let room = room_of(&alice, &bob).await;
    let original = alice.send_text(&room, "one").await;
    assert_eq!(bundle(&alice, &room, &original).await, Value::Null);
    edit(&alice, &room, &original, "two").await;
    let third = edit(&alice, &room, &original, "three").await;
    // None of these is an edit: of somebody else, without what to put there, of
    // another type, of an edit.
    edit(&bob, &room, &original, "forged").await;
    relate(&alice, &room, "m.replace", &original, "bare").await;
    let relates_to = json!({ "rel_type": "m.replace", "event_id": original });
    let content = json!({ "body": "x", "m.new_content": {}, "m.relates_to": relates_to });
    sent(send(&alice, &room, "m.sticker", content).await);
    edit(&alice, &room, &third, "four").await;

    let path = of_room(&room, &format!("event/{}", escape(&original)));
    for api in [&alice, &bob] {
        let shown = api.get(&path).await.ok();
        assert_eq!(shown["content"]["body"], "one");
        let replace = &shown["unsigned"]["m.relations"]["m.replace"];
        assert_eq!(replace["event_id"], *third);
        assert_eq!(replace["content"]["m.new_content"]["body"], "three");
        assert_eq!(replace["sender"], *alice.user_id);
        assert!(replace["origin_server_ts"].is_u64());
        assert_eq!(replace["room_id"], *room);
    }
    assert_eq!(bundle(&alice, &room, &third).await, Value::Null);
    // Without the last edit the one before it counts again.
    redact(&alice, &room, &third).await;
    let replace = bundle(&alice, &room, &original).await;
    assert_eq!(replace["m.replace"]["content"]["body"], "* two");
    // An event that is redacted shows no edit, whatever became of the edits.
    redact(&alice, &room, &original).await;
    assert_eq!(bundle(&alice, &room, &original).await, Value::Null);
}

#[tokio::test]
async fn edits_of_what_is_encrypted_hide_their_content_and_state_has_none() {
    let (_server, alice, _) = two_users().await;
    let room = alice.create_room(json!({})).await;
    let encrypted = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x" });
    let original = sent(send(&alice, &room, "m.room.encrypted", encrypted.clone()).await);
    let mut edited = encrypted;
    edited["m.relates_to"] = json!({ "rel_type": "m.replace", "event_id": original });
    let edited = sent(send(&alice, &room, "m.room.encrypted", edited).await);
    let shown = bundle(&alice, &room, &original).await;
    assert_eq!(shown["m.replace"]["event_id"], *edited);
    // State events are given no bundles.
    let topic = of_room(&room, "state/m.room.topic");
    let topic = sent(alice.put(&topic, json!({ "topic": "x" })).await);
    relate(&alice, &room, "m.reference", &topic, "about it").await;
    assert_eq!(bundle(&alice, &room, &topic).await, Value::Null);
    let page = alice.get(&relations(&room, &topic, "")).await.ok();
    assert_eq!(page["chunk"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn references_are_listed_and_annotations_are_not() {
    let (_server, alice, bob) = two_users().await;
    let room = room_of(&alice, &bob).await;
    let poll = alice.send_text(&room, "a poll").await;
    let one = relate(&alice, &room, "m.reference", &poll, "yes").await;
    let two = relate(&bob, &room, "m.reference", &poll, "no").await;
    react(&bob, &room, &poll, "x").await.ok();
    let both = json!({ "m.reference": { "chunk": [{ "event_id": one }, { "event_id": two }] } });
    assert_eq!(bundle(&alice, &room, &poll).await, both);
    redact(&alice, &room, &poll).await;
    assert_eq!(bundle(&alice, &room, &poll).await, both);
    ignore(&alice, &bob).await;
    let mine = json!({ "m.reference": { "chunk": [{ "event_id": one }] } });
    assert_eq!(bundle(&alice, &room, &poll).await, mine);
    assert_eq!(bundle(&bob, &room, &poll).await, both);
}

#[tokio::test]
async fn a_thread_is_summed_up_for_each_who_looks() {
    let server = Server::builder().start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = room_of(&alice, &bob).await;
    carol.join(&room).await.ok();
    let root = alice.send_text(&room, "root").await;
    let first = relate(&alice, &room, "m.thread", &root, "one").await;
    let second = relate(&bob, &room, "m.thread", &root, "two").await;
    edit(&bob, &room, &second, "two, edited").await;

    let thread = bundle(&bob, &room, &root).await["m.thread"].clone();
    assert_eq!(thread["count"], 2);
    assert_eq!(thread["current_user_participated"], true);
    let latest = &thread["latest_event"];
    assert_eq!(latest["event_id"], *second);
    // What relates to it is bundled with it, in turn.
    let nested = &latest["unsigned"]["m.relations"]["m.replace"];
    assert_eq!(nested["content"]["m.new_content"]["body"], "two, edited");
    let participated = async |api: &Api| {
        bundle(api, &room, &root).await["m.thread"]["current_user_participated"].clone()
    };
    assert_eq!(participated(&alice).await, true);
    assert_eq!(participated(&carol).await, false);
    let third = relate(&carol, &room, "m.thread", &root, "three").await;
    assert_eq!(participated(&carol).await, true);
    redact(&carol, &room, &third).await;
    assert_eq!(participated(&carol).await, false);

    ignore(&carol, &bob).await;
    let thread = bundle(&carol, &room, &root).await["m.thread"].clone();
    assert_eq!(thread["count"], 1);
    assert_eq!(thread["latest_event"]["event_id"], *first);
    // Who left is told of what was there then.
    act(&bob, &room, "leave", None).await.ok();
    for index in 0..3 {
        relate(&alice, &room, "m.thread", &root, &index.to_string()).await;
    }
    let thread = bundle(&bob, &room, &root).await["m.thread"].clone();
    assert_eq!(thread["latest_event"]["event_id"], *second);
    // A redacted root is still one.
    redact(&alice, &room, &root).await;
    let thread = bundle(&alice, &room, &root).await["m.thread"].clone();
    assert_eq!(thread["count"], 5);
}

/// The one event with this id in a list, with what is bundled with it.
#[track_caller]
fn bundled(events: &Value, id: &str) -> Value {
    let events = events.as_array().unwrap();
    let event = events.iter().find(|event| event["event_id"] == id);
    event.unwrap()["unsigned"]["m.relations"].clone()
}

#[tokio::test]
async fn bundles_are_wherever_events_are_shown() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let since = alice.sync("").await["next_batch"].clone();
    let since = since.as_str().unwrap();
    bob.join(&room).await.ok();
    let root = alice.send_text(&room, "root").await;
    let reply = relate(&bob, &room, "m.thread", &root, "reply").await;
    let edited = edit(&bob, &room, &reply, "edited").await;
    let has_thread = |bundle: &Value| bundle["m.thread"]["latest_event"]["event_id"] == *reply;
    let has_edit = |bundle: &Value| bundle["m.replace"]["event_id"] == *edited;

    let page = alice.get(&of_room(&room, "messages?dir=b")).await.ok();
    assert!(has_thread(&bundled(&page["chunk"], &root)));
    assert!(has_edit(&bundled(&page["chunk"], &reply)));
    let context = of_room(&room, &format!("context/{}", escape(&reply)));
    let context = alice.get(&context).await.ok();
    assert!(has_thread(&bundled(&context["events_before"], &root)));
    assert!(has_edit(&bundled(&json!([context["event"]]), &reply)));
    let page = alice.get(&relations(&room, &root, "")).await.ok();
    assert!(has_edit(&bundled(&page["chunk"], &reply)));

    // In sync, where the client may miss what relates to an event.
    let limited = json!({ "room": { "timeline": { "limit": 3 } } });
    let filter = escape(&limited.to_string());
    for since in ["", &format!("&since={since}")] {
        let told = alice.sync(&format!("filter={filter}{since}")).await;
        let told = &told["rooms"]["join"][&room]["timeline"];
        assert_eq!(told["limited"], true);
        let shown = bundled(&told["events"], &root);
        assert!(has_thread(&shown));
        assert!(shown["m.thread"]["latest_event"].get("room_id").is_none());
    }
    let told = alice.sync(&format!("since={since}")).await;
    let told = &told["rooms"]["join"][&room]["timeline"];
    assert_eq!(told["limited"], false);
    assert_eq!(bundled(&told["events"], &root), Value::Null);

    let sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let subscription = json!({ "timeline_limit": 9, "required_state": [] });
    let body = json!({ "room_subscriptions": { room.clone(): subscription } });
    let told = alice.post(sliding, body).await.ok();
    assert!(has_thread(&bundled(
        &told["rooms"][&room]["timeline"],
        &root
    )));
}
