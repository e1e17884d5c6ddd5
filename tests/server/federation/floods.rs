//! Much of what nobody may see, and what a room's members still get past it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::guest::{Event, Guest};
use super::receiving::public_room;
use super::visitor::{Scene, scene};
use crate::harness::{Api, escape};

/// Events of each kind that lie between what may be seen.
const HIDDEN: usize = 1_000;
/// Events on a page.
const PAGE: usize = 10;

/// Pages back from the end until the text comes; the number of pages. A token
/// that stands still, or an end before that, fails.
async fn pages_to(user: &Api, room: &str, text: &str) -> usize {
    let path = format!("/_matrix/client/v3/rooms/{}/messages", escape(room));
    let mut from = String::new();
    for page in 1..=HIDDEN / PAGE + 10 {
        let begun = Instant::now();
        let answer = user
            .get(&format!("{path}?dir=b&limit={PAGE}{from}"))
            .await
            .ok();
        assert!(begun.elapsed() < Duration::from_secs(5), "page {page}");
        let events = answer["chunk"].as_array().unwrap();
        if events.iter().any(|event| event["content"]["body"] == text) {
            return page;
        }
        let next = answer["end"]
            .as_str()
            .unwrap_or_else(|| panic!("ends at {page}: {answer}"));
        let next = format!("&from={}", escape(next));
        assert_ne!(next, from, "page {page} stands still");
        from = next;
    }
    panic!("{text} is not reached");
}

async fn send_all(guest: &Guest<'_>, events: &[Event]) {
    for part in events.chunks(50) {
        let part: Vec<&Event> = part.iter().collect();
        guest.sent(&part).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_45076_a_thousand_events_that_nobody_sees_end_no_page() {
    let Scene { a, alice, c } = &scene().await;
    let dave = a.register("dave").await;
    let room = public_room(alice, "11").await;
    let path = format!("/_matrix/client/v3/rooms/{}", escape(&room));
    let visibility = format!("{path}/state/m.room.history_visibility/");
    let joined = json!({ "history_visibility": "joined" });
    alice.put(&visibility, joined).await.ok();
    dave.join(&room).await.ok();
    alice.send_text(&room, "old").await;
    let since = dave.sync("").await["next_batch"].clone();
    dave.post(&format!("{path}/leave"), json!({})).await.ok();
    let mut carol = Guest::enter(&c.fake, alice, &room, "carol").await;

    // Rejected: she has not the power.
    let topic = json!({ "topic": "no power" });
    let rejected: Vec<Event> = (0..HIDDEN)
        .map(|_| carol.aside("m.room.topic", Some(""), topic.clone()))
        .collect();
    send_all(&carol, &rejected).await;
    // Said while Dave is away.
    let unseen: Vec<Event> = (0..HIDDEN).map(|n| carol.text(&n.to_string())).collect();
    send_all(&carol, &unseen).await;
    let last_unseen = unseen.last().unwrap().id.clone();
    // Soft-failed: she is banned, and her server says not to know.
    let ban = json!({ "user_id": carol.user });
    alice.post(&format!("{path}/ban"), ban).await.ok();
    let failed: Vec<Event> = (0..HIDDEN)
        .map(|n| carol.text(&format!("late {n}")))
        .collect();
    send_all(&carol, &failed).await;
    dave.join(&room).await.ok();
    let newest = alice.send_text(&room, "new").await;

    // For Alice there are only those in between that she may see; for Dave none.
    assert!(pages_to(alice, &room, "old").await <= HIDDEN / PAGE + 3);
    let pages = pages_to(&dave, &room, "old").await;
    println!("{pages} pages past {HIDDEN} events that are not shown");
    let context = format!("{path}/context/{}?limit=10", escape(&newest));
    for user in [alice, &dave] {
        let begun = Instant::now();
        let around = user.get(&context).await.ok();
        assert_eq!(around["event"]["content"]["body"], "new");
        assert!(around["start"].is_string() && around["end"].is_string());
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    let hidden = format!("{path}/context/{}", escape(&last_unseen));
    dave.get(&hidden).await.refused(404, "M_NOT_FOUND");
    // A sync over all of it tells what is new, and from where to go on.
    let since = since.as_str().unwrap();
    let sync = dave.sync(&format!("since={since}&timeout=0")).await;
    let timeline = &sync["rooms"]["join"][&room]["timeline"];
    assert!(timeline["prev_batch"].is_string(), "{sync}");
    let told: Vec<&Value> = timeline["events"].as_array().unwrap().iter().collect();
    assert!(told.iter().any(|event| event["content"]["body"] == "new"));
    assert!(!timeline.to_string().contains("late "));
}
