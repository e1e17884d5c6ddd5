//! Typing: who is told, for how long, and who is not.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{moved, next, since, told, two_in_a_room};
use crate::harness::{Answer, Api, escape};
use crate::rooms::{act, of_room};

async fn typing(api: &Api, room: &str, body: Value) -> Answer {
    let path = of_room(room, &format!("typing/{}", escape(&api.user_id)));
    api.put(&path, body).await
}

async fn types(api: &Api, room: &str) {
    let body = json!({ "typing": true, "timeout": 60_000 });
    assert_eq!(typing(api, room, body).await.ok(), json!({}));
}

async fn ceases(api: &Api, room: &str) {
    typing(api, room, json!({ "typing": false })).await.ok();
}

/// The users of the one `m.typing` in an answer; none if there is none.
fn typists(answer: &Value, room: &str) -> Option<Vec<String>> {
    let events = told(answer, room, "m.typing");
    assert!(events.len() <= 1, "{answer}");
    let users = events.first()?["user_ids"].as_array().cloned();
    let names = users.unwrap_or_default().into_iter();
    Some(
        names
            .map(|user| user.as_str().unwrap().to_owned())
            .collect(),
    )
}

/// A sync in the background that waits for news.
fn wait(api: &Api, token: &str) -> tokio::task::JoinHandle<Value> {
    let (api, token) = (api.clone(), token.to_owned());
    tokio::spawn(async move { api.sync(&format!("since={token}&timeout=30000")).await })
}

const ALICE: &str = "@alice:hs.test";
const BOB: &str = "@bob:hs.test";

#[tokio::test]
async fn typing_is_told_as_it_changes() {
    let (_server, alice, bob, room) = two_in_a_room().await;
    let mut a = next(&alice.sync("").await);
    let mut b = next(&bob.sync("set_presence=offline").await);

    // One who waits is told at once, as is who types.
    let waiting = wait(&alice, &a);
    types(&bob, &room).await;
    let answer = waiting.await.unwrap();
    a = next(&answer);
    assert_eq!(typists(&answer, &room), Some(vec![BOB.to_owned()]));
    let event = &answer["rooms"]["join"][&room]["ephemeral"]["events"][0];
    assert!(event.get("room_id").is_none() && event.get("sender").is_none());
    let answer = since(&bob, &mut b, 0).await;
    assert_eq!(typists(&answer, &room), Some(vec![BOB.to_owned()]));

    // Saying it again is no news and wakes nobody.
    types(&bob, &room).await;
    let answer = since(&alice, &mut a, 300).await;
    assert_eq!(answer["rooms"]["join"], json!({}), "{answer}");

    // The list is whole each time, also at a first sync.
    types(&alice, &room).await;
    let answer = since(&bob, &mut b, 0).await;
    let both = Some(vec![ALICE.to_owned(), BOB.to_owned()]);
    assert_eq!(typists(&answer, &room), both);
    assert_eq!(typists(&alice.sync("").await, &room), both);

    // A message ends it not, its writer does; then nobody is left.
    alice.send_text(&room, "said").await;
    let answer = since(&bob, &mut b, 0).await;
    assert_eq!(typists(&answer, &room), None, "{answer}");
    ceases(&alice, &room).await;
    ceases(&bob, &room).await;
    ceases(&bob, &room).await;
    let answer = since(&bob, &mut b, 0).await;
    assert_eq!(typists(&answer, &room), Some(vec![]));
    assert_eq!(typists(&alice.sync("").await, &room), None);
}

#[tokio::test]
async fn typing_ends_with_its_time_and_with_the_membership() {
    let (_server, alice, bob, room) = two_in_a_room().await;
    let mut a = next(&alice.sync("").await);
    let begun = Instant::now();
    typing(&bob, &room, json!({ "typing": true, "timeout": 700 }))
        .await
        .ok();
    let answer = since(&alice, &mut a, 0).await;
    assert_eq!(typists(&answer, &room), Some(vec![BOB.to_owned()]));
    let answer = since(&alice, &mut a, 30_000).await;
    assert_eq!(typists(&answer, &room), Some(vec![]), "{answer}");
    assert!(begun.elapsed() >= Duration::from_millis(700));

    // Who is gone types no more, and learns nothing more.
    types(&bob, &room).await;
    since(&alice, &mut a, 0).await;
    let mut b = next(&bob.sync("").await);
    act(&bob, &room, "leave", None).await.ok();
    let mut left = None;
    while left.is_none() {
        let answer = since(&alice, &mut a, 30_000).await;
        left = typists(&answer, &room);
    }
    assert_eq!(left, Some(vec![]));
    types(&alice, &room).await;
    let answer = since(&bob, &mut b, 300).await;
    assert!(!answer.to_string().contains("m.typing"), "{answer}");
    // Who comes back is told what is current.
    bob.join(&room).await.ok();
    let answer = since(&bob, &mut b, 0).await;
    assert_eq!(typists(&answer, &room), Some(vec![ALICE.to_owned()]));
}

#[tokio::test]
async fn filters_and_ignored_users_are_left_out() {
    let (_server, alice, bob, room) = two_in_a_room().await;
    let other = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&other).await.ok();
    types(&bob, &room).await;
    types(&bob, &other).await;
    for (filter, here, there) in [
        (json!({}), true, true),
        (json!({"not_types": ["m.typing"]}), false, false),
        (json!({"types": ["m.receipt"]}), false, false),
        (json!({"rooms": [other]}), false, true),
        (json!({"not_rooms": [other]}), true, false),
        (json!({"senders": [BOB]}), false, false),
    ] {
        let filter = json!({"room": {"ephemeral": filter}});
        let query = format!("filter={}", escape(&filter.to_string()));
        let answer = alice.sync(&query).await;
        let found = [&room, &other].map(|room| typists(&answer, room).is_some());
        assert_eq!(found, [here, there], "{filter}");
    }

    let ignored = json!({"ignored_users": { BOB: {} }});
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.ignored_user_list",
        escape(&alice.user_id)
    );
    alice.put(&path, ignored).await.ok();
    let answer = alice.sync("").await;
    assert!(!answer.to_string().contains("m.typing"), "{answer}");
    let mut a = next(&answer);
    ceases(&bob, &room).await;
    let answer = since(&alice, &mut a, 300).await;
    assert_eq!(answer["rooms"]["join"], json!({}), "{answer}");
}

#[tokio::test]
async fn a_restart_ends_what_nobody_would_end() {
    let (mut server, alice, bob, room) = two_in_a_room().await;
    let mut a = next(&alice.sync("").await);
    types(&bob, &room).await;
    let answer = since(&alice, &mut a, 0).await;
    assert_eq!(typists(&answer, &room), Some(vec![BOB.to_owned()]));
    server.kill();
    server.start().await;
    let alice = moved(&server, &alice);
    let mut ended = None;
    while ended != Some(vec![]) {
        let answer = since(&alice, &mut a, 30_000).await;
        let told = typists(&answer, &room);
        assert!(told.is_some(), "the first answer tells: {answer}");
        ended = told;
    }
    assert_eq!(typists(&since(&alice, &mut a, 0).await, &room), None);

    // None of it is in what is derived from the log that counts.
    assert!(server.terminate().await.success());
    let verified = server.command(&["replay", "--verify"]).status().unwrap();
    assert!(verified.success(), "{}", server.output());
}

#[tokio::test]
async fn only_members_type_and_only_for_themselves() {
    let (server, alice, bob, room) = two_in_a_room().await;
    let carol = server.register("carol").await;
    let as_bob = of_room(&room, &format!("typing/{}", escape(&bob.user_id)));
    let body = json!({ "typing": true });
    let forbidden = "M_FORBIDDEN";
    alice
        .put(&as_bob, body.clone())
        .await
        .refused(403, forbidden);
    typing(&carol, &room, body.clone())
        .await
        .refused(403, forbidden);
    typing(&carol, "!nowhere:hs.test", body.clone())
        .await
        .refused(403, forbidden);
    for body in [json!({"typing": 1}), json!({"typing": true, "timeout": -5})] {
        typing(&bob, &room, body).await.refused(400, "M_BAD_JSON");
    }
    typing(&bob, &room, body).await.ok();
    let mut c = next(&carol.sync("").await);
    types(&alice, &room).await;
    let answer = since(&carol, &mut c, 300).await;
    assert!(!answer.to_string().contains("m.typing"), "{answer}");
}

const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// Who types in a room by the typing extension; none if it says nothing of it.
fn extended(answer: &Value, room: &str) -> Option<Value> {
    let event = answer["extensions"]["typing"]["rooms"].get(room)?;
    assert_eq!(event["type"], "m.typing");
    Some(event["content"]["user_ids"].clone())
}

#[tokio::test]
async fn sliding_sync_tells_of_the_rooms_that_are_looked_at() {
    let (_server, alice, bob, room) = two_in_a_room().await;
    let other = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&other).await.ok();
    bob.send_text(&other, "newest").await;
    types(&bob, &other).await;
    let ask = async |pos: Option<&str>, timeout: u64, extension: Value| {
        let pos = pos.map_or(String::new(), |pos| format!("&pos={}", escape(pos)));
        let body = json!({
            "lists": {"newest": {"ranges": [[0, 0]], "timeline_limit": 1}},
            "extensions": {"typing": extension},
        });
        let path = format!("{SLIDING}?timeout={timeout}{pos}");
        alice.post(&path, body).await.ok()
    };
    let enabled = json!({ "enabled": true });
    let pos = |answer: &Value| answer["pos"].as_str().unwrap().to_owned();
    let first = ask(None, 0, enabled.clone()).await;
    assert_eq!(extended(&first, &other), Some(json!([BOB])));

    // A room that is in no window is not told of.
    types(&bob, &room).await;
    let quiet = ask(Some(&pos(&first)), 300, enabled.clone()).await;
    assert_eq!(quiet["extensions"], json!({}), "{quiet}");

    // One who waits is woken.
    let waiting = async { ask(Some(&pos(&quiet)), 30_000, enabled.clone()).await };
    let (second, ()) = tokio::join!(waiting, ceases(&bob, &other));
    assert_eq!(extended(&second, &other), Some(json!([])), "{second}");
    assert_eq!(extended(&second, &room), None);

    // The extension is for the lists that it names, and off unless asked for.
    types(&bob, &other).await;
    for extension in [json!({"enabled": true, "lists": ["x"]}), json!({})] {
        let answer = ask(Some(&pos(&second)), 0, extension).await;
        assert_eq!(answer["extensions"], json!({}), "{answer}");
    }
    let again = ask(Some(&pos(&second)), 0, enabled.clone()).await;
    assert_eq!(extended(&again, &other), Some(json!([BOB])));

    // What the client knows to be typed in is told of also outside the window.
    bob.send_text(&room, "newer").await;
    let moved = ask(Some(&pos(&again)), 0, enabled.clone()).await;
    assert_eq!(extended(&moved, &room), Some(json!([BOB])), "{moved}");
    ceases(&bob, &other).await;
    let last = ask(Some(&pos(&moved)), 0, enabled).await;
    assert_eq!(extended(&last, &other), Some(json!([])), "{last}");
}
