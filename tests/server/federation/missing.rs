//! Events that come without their past: what is fetched, from whom, and what
//! comes of lies about it (security, 1.2 and 1.3).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Neighbourhood;
use super::fake::Fake;
use super::guest::{Event, Guest, transaction};
use super::library::Library;
use super::receiving::{error, public_room, texts};
use crate::harness::{Api, Server, escape};

/// Failures in a row after which a server is not asked about a room for a while.
const LIES_BELIEVED: usize = 4;

struct Scene {
    neighbourhood: Neighbourhood,
    a: Server,
    alice: Api,
    b: Fake,
    library: Library,
}

async fn scene() -> Scene {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let alice = a.register("alice").await;
    let library = Library::default();
    let b = library.serve(&neighbourhood, "b.test").await;
    Scene {
        neighbourhood,
        a,
        alice,
        b,
        library,
    }
}

impl Scene {
    /// A guest in a new room of that version.
    async fn guest(&self, version: &str) -> Guest<'_> {
        let room = public_room(&self.alice, version).await;
        let mut guest = Guest::look(&self.b, &self.alice, &room, "bob").await;
        guest.library = self.library.clone();
        let join = guest.member("join");
        guest.sent(&[&join]).await;
        guest
    }

    async fn name_of_bob(&self, room: &str) -> Value {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/state/m.room.member/%40bob%3Ab.test",
            escape(room)
        );
        self.alice.get(&path).await.ok()["displayname"].clone()
    }
}

fn renamed(guest: &mut Guest<'_>, name: &str) -> Event {
    let user = guest.user.clone();
    let content = json!({ "membership": "join", "displayname": name });
    guest.event("m.room.member", Some(&user), content)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_in_between_are_fetched_and_seen_in_their_order() {
    let scene = scene().await;
    for version in ["2", "6", "12"] {
        let mut bob = scene.guest(version).await;
        let since = scene.alice.sync("").await["next_batch"].clone();
        let before = scene.library.asked("get_missing_events");
        let events: Vec<Event> = (0..45).map(|n| bob.text(&n.to_string())).collect();
        bob.sent(&[events.last().expect("some")]).await;
        let all: Vec<String> = (0..45).map(|n| n.to_string()).collect();
        assert_eq!(texts(&scene.alice, &bob.room).await, all, "{version}");
        let asked = scene.library.asked("get_missing_events") - before;
        assert_eq!(asked, 3, "20 events a call");
        let since = since.as_str().expect("a token");
        let sync = scene.alice.sync(&format!("since={since}&timeout=0")).await;
        let timeline = &sync["rooms"]["join"][&bob.room]["timeline"];
        let last = timeline["events"].as_array().expect("a list").last();
        assert_eq!(last.expect("some")["event_id"], json!(events[44].id));
    }
    assert_eq!(scene.library.asked("state"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_partition_meet() {
    let scene = scene().await;
    let mut bob = scene.guest("11").await;
    let theirs: Vec<Event> = (0..300).map(|n| bob.text(&format!("b{n}"))).collect();
    for n in 0..30 {
        scene.alice.send_text(&bob.room, &format!("a{n}")).await;
    }
    bob.sent(&[theirs.last().expect("some")]).await;
    let path = format!(
        "/_matrix/client/v3/rooms/{}/messages?dir=f&limit=500",
        escape(&bob.room)
    );
    let page = scene.alice.get(&path).await.ok();
    let events = page["chunk"].as_array().expect("a list").iter();
    let bodies: Vec<&str> = events
        .filter_map(|event| event["content"]["body"].as_str())
        .collect();
    let of = |side: char| {
        bodies
            .iter()
            .filter(move |body| body.starts_with(side))
            .copied()
    };
    let numbered = |side: char, count| (0..count).map(move |n| format!("{side}{n}"));
    assert!(of('a').eq(numbered('a', 30)));
    assert!(of('b').eq(numbered('b', 300)));
    // Both ends are built on, and there is one again.
    scene.alice.send_text(&bob.room, "together").await;
    let after = Guest::look(&scene.b, &scene.alice, &bob.room, "bob").await;
    assert_eq!(after.tips.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_that_does_not_close_is_crossed_with_a_state() {
    let scene = scene().await;
    // It knows of no events in between.
    scene
        .library
        .lie(|path, told| match path.contains("get_missing_events") {
            true => json!({ "events": [] }),
            false => told,
        });
    for version in ["1", "5", "10", "12"] {
        let mut bob = scene.guest(version).await;
        renamed(&mut bob, "Robert");
        bob.text("in between");
        let last = bob.text("behind a gap");
        bob.sent(&[&last]).await;
        assert_eq!(texts(&scene.alice, &bob.room).await, ["behind a gap"]);
        assert_eq!(scene.name_of_bob(&bob.room).await, "Robert", "{version}");
        let next = bob.text("and on");
        bob.sent(&[&next]).await;
        scene.alice.send_text(&bob.room, "with us").await;
        let seen = texts(&scene.alice, &bob.room).await;
        assert_eq!(seen, ["behind a gap", "and on", "with us"]);
    }
    assert!(scene.library.asked("/state_ids/") >= 4 && scene.library.asked("/event/") >= 4);
    assert_eq!(scene.library.asked("/state/"), 0, "few events were missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_state_comes_at_once() {
    let scene = scene().await;
    let mut bob = scene.guest("11").await;
    scene
        .library
        .lie(|path, told| match path.contains("get_missing_events") {
            true => json!({ "events": [] }),
            false => told,
        });
    // Each is authorised by the one before: all are in the auth chain.
    for n in 0..150 {
        renamed(&mut bob, &format!("Bob {n}"));
    }
    let last = bob.text("behind a gap");
    bob.sent(&[&last]).await;
    assert_eq!(scene.name_of_bob(&bob.room).await, "Bob 149");
    assert_eq!(scene.library.asked("/state/"), 1);
    assert_eq!(scene.library.asked("/event/"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_authorises_an_event_is_fetched() {
    let scene = scene().await;
    for version in ["3", "11"] {
        let mut bob = scene.guest(version).await;
        let tips = bob.tips.clone();
        // The new name is a fork that nobody sent, and authorises what follows.
        renamed(&mut bob, "Robert");
        bob.tips = tips;
        let text = bob.text("authorised elsewhere");
        bob.sent(&[&text]).await;
        assert_eq!(
            texts(&scene.alice, &bob.room).await,
            ["authorised elsewhere"]
        );
    }
    assert_eq!(scene.library.asked("/event_auth/"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_with_the_same_gap_have_it_filled_once() {
    let scene = scene().await;
    let mut bob = scene.guest("11").await;
    let c = scene.library.serve(&scene.neighbourhood, "c.test").await;
    let events: Vec<Event> = (0..15).map(|n| bob.text(&n.to_string())).collect();
    let (last, one_before) = (&events[14], &events[13]);
    let (from_b, from_c) = tokio::join!(
        transaction(&scene.b, json!([last.json]), json!([])),
        transaction(&c, json!([one_before.json, last.json]), json!([]))
    );
    assert_eq!(from_b.1["pdus"][&last.id], json!({}));
    assert_eq!(from_c.1["pdus"][&last.id], json!({}));
    let all: Vec<String> = (0..15).map(|n| n.to_string()).collect();
    assert_eq!(texts(&scene.alice, &bob.room).await, all);
    assert!(scene.library.asked("get_missing_events") <= 2);
}

/// Bob's server lets in whom the room does not: what it tells of the gap before
/// its own events has theirs in between.
#[tokio::test(flavor = "multi_thread")]
async fn pr_406_the_acl_is_for_what_fills_a_gap() {
    let scene = scene().await;
    let c = scene.library.serve(&scene.neighbourhood, "c.test").await;
    for version in ["6", "10", "12"] {
        let room = scene.guest(version).await.room;
        Guest::enter(&c, &scene.alice, &room, "carol").await;
        let path = format!(
            "/_matrix/client/v3/rooms/{}/state/m.room.server_acl/",
            escape(&room)
        );
        let acl = json!({ "allow": ["*"], "deny": ["c.test"] });
        scene.alice.put(&path, acl).await.ok();
        let mut bob = Guest::look(&scene.b, &scene.alice, &room, "bob").await;
        let mut carol = Guest::look(&c, &scene.alice, &room, "carol").await;
        (bob.library, carol.library) = (scene.library.clone(), scene.library.clone());
        // Only by the first and the last of them could one tell what is missing.
        bob.text("one");
        carol.tips = bob.tips.clone();
        let denied = [carol.text("denied"), carol.text("denied too")];
        bob.go_on_from(&denied[1]);
        bob.text("two");
        let last = bob.text("three");
        bob.sent(&[&last]).await;
        let seen = texts(&scene.alice, &room).await;
        assert_eq!(seen, ["one", "two", "three"], "{version}");
        // Nor is the last event before what was sent allowed to be one.
        carol.tips = bob.tips.clone();
        let denied_last = carol.text("denied again");
        bob.go_on_from(&denied_last);
        let after = bob.text("four");
        bob.sent(&[&after]).await;
        let seen = texts(&scene.alice, &room).await;
        assert_eq!(seen, ["one", "two", "three", "four"], "{version}");
        for event in denied.iter().chain([&denied_last]) {
            let path = format!(
                "/_matrix/client/v3/rooms/{}/event/{}",
                escape(&room),
                escape(&event.id)
            );
            scene.alice.get(&path).await.refused(404, "M_NOT_FOUND");
        }
        // The state is what it was: carol has been let in before.
        let path = format!(
            "/_matrix/client/v3/rooms/{}/state/m.room.member/%40carol%3Ac.test",
            escape(&room)
        );
        let member = scene.alice.get(&path).await.ok();
        assert_eq!(member["membership"], "join", "{version}");
        let next = bob.text("five");
        bob.sent(&[&next]).await;
    }
}

/// An answer does not wait for ever, and what was answered is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_without_its_past_gets_that_later() {
    let mut scene = scene().await;
    let mut bob = scene.guest("11").await;
    bob.text("one");
    let last = bob.text("two");
    let next = bob.text("three");
    scene.library.hold(true);
    let begun = Instant::now();
    bob.sent(&[&last, &next]).await;
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!(texts(&scene.alice, &bob.room).await, [""; 0]);
    let room = bob.room.clone();
    scene.a.kill();
    scene.library.hold(false);
    scene.a.start().await;
    let mut alice = scene.a.api();
    alice.token = scene.alice.token.clone();
    let begun = Instant::now();
    while texts(&alice, &room).await != ["one", "two", "three"] {
        assert!(begun.elapsed() < Duration::from_secs(120));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

type Lie = Box<dyn Fn(Value) -> Value + Send + Sync>;

/// What a server may answer to whoever asks for what is missing.
fn lies(other_room: &Event) -> Vec<(&'static str, Lie)> {
    let each = |change: fn(&mut Value)| -> Lie {
        Box::new(move |mut told| {
            for list in ["events", "pdus", "auth_chain"] {
                let events = told[list].as_array_mut().into_iter().flatten();
                events.for_each(change);
            }
            told
        })
    };
    let foreign = other_room.json.clone();
    vec![
        ("nothing", Box::new(|_| Value::Null)),
        ("no JSON", Box::new(|_| json!("no object"))),
        ("a bad signature", each(|event| event["depth"] = json!(7))),
        (
            "no signature",
            each(|event| event["signatures"] = json!({})),
        ),
        (
            "another sender",
            each(|event| event["sender"] = json!("@alice:a.test")),
        ),
        ("no event", each(|event| *event = json!(7))),
        (
            "events of another room",
            Box::new(move |mut told| {
                for list in ["events", "pdus", "auth_chain"] {
                    if told[list].is_array() {
                        told[list] = json!(vec![&foreign; 20]);
                    }
                }
                told
            }),
        ),
        (
            "far too many",
            Box::new(|mut told| {
                for list in ["events", "pdus", "pdu_ids", "auth_chain"] {
                    if told[list].is_array() {
                        told[list] = json!(vec![json!({}); 300_000]);
                    }
                }
                told
            }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2022_39200_lies_about_the_past_are_not_believed() {
    let scene = scene().await;
    let elsewhere = scene.guest("11").await;
    let foreign = elsewhere.aside("m.room.message", None, json!({ "body": "foreign" }));
    for (name, lie) in lies(&foreign) {
        let mut bob = scene.guest("11").await;
        renamed(&mut bob, "Robert");
        bob.text("in between");
        let last = bob.text("behind a gap");
        scene.library.lie(move |_, told| lie(told));
        let results = bob.send(&[&last]).await;
        let error = error(&results, &last);
        assert!(
            error.contains("past") || error.contains("state"),
            "{name}: {error}"
        );
        assert_eq!(texts(&scene.alice, &bob.room).await, [""; 0], "{name}");
        assert!(scene.name_of_bob(&bob.room).await.is_null(), "{name}");
        // The room goes on, and what comes with its past is taken.
        scene.alice.send_text(&bob.room, "goes on").await;
        assert_eq!(texts(&scene.alice, &bob.room).await, ["goes on"], "{name}");
        // Whoever keeps lying is not asked for a while.
        for _ in 0..LIES_BELIEVED - 1 {
            bob.send(&[&last]).await;
        }
        let asked = scene.library.asked("");
        let again = bob.send(&[&last]).await;
        assert!(again[&last.id]["error"].is_string(), "{name}");
        assert_eq!(scene.library.asked(""), asked, "{name}");
    }
    let metrics = scene.a.metrics().get("/metrics").await.text;
    let failed = format!(
        "engram_federation_gaps_total{{result=\"failed\"}} {}",
        8 * LIES_BELIEVED
    );
    assert!(metrics.contains(&failed), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_event_of_the_past_is_taken_redacted() {
    let scene = scene().await;
    let mut bob = scene.guest("11").await;
    bob.text("as it was signed");
    let last = bob.text("behind");
    scene.library.lie(|_, mut told| {
        let events = told["events"].as_array_mut().into_iter().flatten();
        events.for_each(|event| event["content"]["body"] = json!("altered"));
        told
    });
    bob.sent(&[&last]).await;
    assert_eq!(texts(&scene.alice, &bob.room).await, ["behind"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn continuwuity_51d0e615f_an_endless_past_ends_with_the_budget() {
    let scene = scene().await;
    let mut bob = scene.guest("11").await;
    (0..2_200).for_each(|n| drop(bob.text(&n.to_string())));
    let last = bob.text("the end");
    bob.sent(&[&last]).await;
    let asked = scene.library.asked("get_missing_events");
    assert!((100..=101).contains(&asked), "{asked}");
    // What is not fetched is left out, and the newest are there.
    let path = format!(
        "/_matrix/client/v3/rooms/{}/messages?dir=b&limit=3",
        escape(&bob.room)
    );
    let page = scene.alice.get(&path).await.ok();
    let bodies: Vec<&Value> = (0..2)
        .map(|n| &page["chunk"][n]["content"]["body"])
        .collect();
    assert_eq!(bodies[0], "the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_builds_on_a_refused_event_comes_in_with_a_state() {
    let scene = scene().await;
    let mut bob = scene.guest("11").await;
    let since = scene.alice.sync("").await["next_batch"].clone();
    // The room server keeps nothing of a second create event.
    let second = bob.aside("m.room.create", Some(""), json!({ "room_version": "11" }));
    bob.go_on_from(&second);
    let text = bob.text("on top of it");
    let results = bob.send(&[&second, &text]).await;
    assert!(error(&results, &second).contains("create"), "{results}");
    assert_eq!(results[&text.id], json!({}));
    let since = since.as_str().expect("a token");
    let sync = scene
        .alice
        .sync(&format!("since={since}&timeout=30000"))
        .await;
    let timeline = &sync["rooms"]["join"][&bob.room]["timeline"]["events"];
    assert_eq!(timeline[0]["event_id"], json!(text.id), "{sync}");
    assert_eq!(scene.library.asked("/state_ids/"), 1);
}
