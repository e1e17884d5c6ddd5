//! What servers are told of a room's history: in which form, and who.

use engram::matrix::RoomVersion;
use engram::matrix::event::Pdu;
use reqwest::Method;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::fake::object;
use super::guest::Guest;
use super::visitor::{CAROL, Scene, Visitor, errcode, events, scene};
use crate::harness::{Api, escape, password};

const V1: &str = "/_matrix/federation/v1";

async fn room(alice: &Api, version: &str, visibility: &str) -> String {
    let visibility = json!({
        "type": "m.room.history_visibility", "state_key": "",
        "content": { "history_visibility": visibility },
    });
    let body = json!({
        "room_version": version, "preset": "public_chat", "initial_state": [visibility],
    });
    alice.create_room(body).await
}

async fn event(c: &Visitor, id: &str) -> (u16, Value) {
    c.get(&format!("{V1}/event/{}", escape(id))).await
}

async fn at(c: &Visitor, what: &str, room: &str, event: &str) -> (u16, Value) {
    let (room, event) = (escape(room), escape(event));
    c.get(&format!("{V1}/{what}/{room}?event_id={event}")).await
}

async fn event_auth(c: &Visitor, room: &str, event: &str) -> (u16, Value) {
    c.get(&format!(
        "{V1}/event_auth/{}/{}",
        escape(room),
        escape(event)
    ))
    .await
}

async fn backfill(c: &Visitor, room: &str, from: &str, limit: usize) -> (u16, Value) {
    let (room, from) = (escape(room), escape(from));
    c.get(&format!("{V1}/backfill/{room}?v={from}&limit={limit}"))
        .await
}

async fn missing(c: &Visitor, room: &str, body: Value) -> (u16, Value) {
    let uri = format!("{V1}/get_missing_events/{}", escape(room));
    c.fake
        .send("a.test", Method::POST, &uri, &object(&body))
        .await
}

fn ids(pdus: &[Pdu]) -> Vec<&str> {
    pdus.iter().map(|pdu| pdu.event_id.as_str()).collect()
}

fn body_of(pdu: &Pdu) -> Option<&str> {
    pdu.content_str("body")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_the_room_reads_its_history_in_every_version() {
    let Scene { alice, c, .. } = &scene().await;
    for version in RoomVersion::all() {
        let room = room(alice, version.as_str(), "shared").await;
        let mut said = Vec::new();
        for number in 0..5 {
            said.push(alice.send_text(&room, &format!("message {number}")).await);
        }
        c.join(&room, CAROL).await;
        let last = alice.send_text(&room, "after").await;

        let (status, found) = event(c, &said[2]).await;
        assert_eq!(status, 200, "{version} {found}");
        assert_eq!(found["origin"], "a.test");
        let found = events(version, &found["pdus"]);
        assert_eq!(ids(&found), [&said[2]], "{version}");
        assert_eq!(body_of(&found[0]), Some("message 2"));

        // The newest first, and each a sound event of its version.
        let (status, found) = backfill(c, &room, &last, 4).await;
        assert_eq!(status, 200, "{version} {found}");
        let found = events(version, &found["pdus"]);
        assert_eq!(ids(&found)[0], last, "{version}");
        assert_eq!(ids(&found)[2..], [&*said[4], &*said[3]], "{version}");
        let all = backfill(c, &room, &last, 1_000).await.1;
        let all = events(version, &all["pdus"]);
        assert_eq!(&*all.last().unwrap().kind, "m.room.create", "{version}");

        let body = json!({
            "earliest_events": [said[0]], "latest_events": [said[4]], "limit": 20,
        });
        let (status, found) = missing(c, &room, body).await;
        assert_eq!(status, 200, "{version} {found}");
        let found = events(version, &found["events"]);
        assert_eq!(ids(&found), said[1..4], "{version}");
        let body = json!({
            "earliest_events": [], "latest_events": [last], "limit": 3, "min_depth": 1,
        });
        let found = missing(c, &room, body).await.1;
        assert_eq!(events(version, &found["events"]).len(), 3, "{version}");

        // The state at an event, whole and by ids, and what authorises it.
        let (status, ids_at) = at(c, "state_ids", &room, &said[0]).await;
        assert_eq!(status, 200, "{version} {ids_at}");
        let (_, state_at) = at(c, "state", &room, &said[0]).await;
        let state = events(version, &state_at["pdus"]);
        let chain = events(version, &state_at["auth_chain"]);
        assert_eq!(json!(ids(&state)), ids_at["pdu_ids"], "{version}");
        assert_eq!(json!(ids(&chain)), ids_at["auth_chain_ids"], "{version}");
        assert!(state.iter().all(|pdu| pdu.sender != CAROL), "{version}");
        let (_, state_later) = at(c, "state", &room, &last).await;
        let later = events(version, &state_later["pdus"]);
        assert_eq!(later.len(), state.len() + 1, "{version}");

        let (status, found) = event_auth(c, &room, &last).await;
        assert_eq!(status, 200, "{version} {found}");
        let chain = events(version, &found["auth_chain"]);
        let message = Pdu::from_object(version, object(&event(c, &last).await.1["pdus"][0]));
        let cited = message.unwrap().auth_events;
        let known = |id: &ruma::OwnedEventId| chain.iter().any(|pdu| pdu.event_id == *id);
        assert!(cited.iter().all(known), "{version}");
        assert!(chain.iter().all(|pdu| pdu.auth_events.iter().all(known)));
    }
}

/// CVE-2018-12291: what a server may not see it gets without its content, from
/// every endpoint; the graph stays whole.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2018_12291_what_was_before_a_server_came_is_redacted_where_it_is_not_shared() {
    let Scene { alice, c, .. } = &scene().await;
    let version = RoomVersion::V11;
    for visibility in ["joined", "invited"] {
        let room = room(alice, "11", visibility).await;
        let topic = format!(
            "/_matrix/client/v3/rooms/{}/state/m.room.topic/",
            escape(&room)
        );
        alice.put(&topic, json!({ "topic": "secret" })).await.ok();
        let said = [
            alice.send_text(&room, "secret one").await,
            alice.send_text(&room, "secret two").await,
        ];
        alice.put(&topic, json!({ "topic": "open" })).await.ok();
        c.join(&room, CAROL).await;
        let last = alice.send_text(&room, "after").await;
        let answers = [
            event(c, &said[0]).await,
            backfill(c, &room, &last, 100).await,
            missing(
                c,
                &room,
                json!({ "earliest_events": [], "latest_events": [last], "limit": 20 }),
            )
            .await,
            at(c, "state", &room, &said[1]).await,
            event_auth(c, &room, &said[1]).await,
        ];
        for (status, answer) in &answers {
            assert_eq!(*status, 200, "{visibility} {answer}");
            assert!(
                !answer.to_string().contains("secret"),
                "{visibility} {answer}"
            );
        }
        let filled = events(version, &answers[1].1["pdus"]);
        assert!(ids(&filled).contains(&&*said[0]), "{visibility}");
        let shown: Vec<_> = filled.iter().filter_map(body_of).collect();
        assert_eq!(shown, ["after"], "{visibility}");
        // What holds now the server knows from its join.
        let now = at(c, "state", &room, &last).await.1;
        assert!(now.to_string().contains("open"), "{visibility}");
        // No event is found by its time that the server may not see.
        let ts = &answers[0].1["pdus"][0]["origin_server_ts"];
        let uri = format!("{V1}/timestamp_to_event/{}?ts={ts}&dir=f", escape(&room));
        let (status, found) = c.get(&uri).await;
        assert_eq!(status, 200, "{found}");
        let found = event(c, found["event_id"].as_str().unwrap()).await.1;
        assert_eq!(found["pdus"][0]["state_key"], CAROL, "{visibility} {found}");
    }
}

/// CVE-2022-39335: whoever is not in the room gets nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2022_39335_servers_that_are_not_in_the_room_are_told_nothing() {
    let Scene { alice, c, .. } = &scene().await;
    let room = room(alice, "11", "shared").await;
    let before = alice.send_text(&room, "before").await;
    let questions = async |event_id: &str| {
        let named = json!({ "earliest_events": [], "latest_events": [event_id] });
        let by_time = format!("{V1}/timestamp_to_event/{}?ts=0&dir=f", escape(&room));
        [
            event(c, event_id).await,
            backfill(c, &room, event_id, 10).await,
            missing(c, &room, named).await,
            at(c, "state", &room, event_id).await,
            at(c, "state_ids", &room, event_id).await,
            event_auth(c, &room, event_id).await,
            c.get(&by_time).await,
        ]
    };
    for answer in questions(&before).await {
        assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"), "{answer:?}");
    }
    c.join(&room, CAROL).await;
    let during = alice.send_text(&room, "during").await;
    for answer in questions(&during).await {
        assert_eq!(answer.0, 200, "{answer:?}");
    }
    c.leave(&room, CAROL).await;
    let after = alice.send_text(&room, "after").await;
    for answer in questions(&after).await {
        assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"), "{answer:?}");
    }
    // What it saw as a member it may fetch again.
    assert_eq!(event(c, &during).await.0, 200);
    assert_eq!(event(c, &before).await.0, 200);
    // A room that nobody knows looks the same.
    let answer = backfill(c, "!unknown:a.test", &after, 10).await;
    assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"));
    let unknown = "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    assert_eq!(errcode(&event(c, unknown).await), (404, "M_NOT_FOUND"));
}

/// synapse#3642: an event is found in its own room only.
#[tokio::test(flavor = "multi_thread")]
async fn synapse_pr_3642_an_event_of_another_room_is_unknown() {
    let Scene { alice, c, .. } = &scene().await;
    let (one, two) = (
        room(alice, "11", "shared").await,
        room(alice, "11", "shared").await,
    );
    c.join(&one, CAROL).await;
    let elsewhere = alice.send_text(&two, "elsewhere").await;
    for answer in [
        at(c, "state", &one, &elsewhere).await,
        at(c, "state_ids", &one, &elsewhere).await,
        event_auth(c, &one, &elsewhere).await,
    ] {
        assert_eq!(errcode(&answer), (404, "M_NOT_FOUND"));
    }
    let filled = backfill(c, &one, &elsewhere, 10).await;
    assert_eq!((filled.0, &filled.1["pdus"]), (200, &json!([])));
    // Who names none asks for none.
    for named in [
        json!({ "earliest_events": [], "latest_events": [elsewhere] }),
        json!({}),
    ] {
        let found = missing(c, &one, named).await;
        assert_eq!((found.0, &found.1["events"]), (200, &json!([])));
    }
}

/// synapse#6553 for servers: what was redacted is gone for them too.
#[tokio::test(flavor = "multi_thread")]
async fn synapse_pr_6553_what_was_redacted_is_given_redacted() {
    let Scene { alice, c, .. } = &scene().await;
    let room = room(alice, "11", "shared").await;
    let said = alice.send_text(&room, "regretted").await;
    let uri = format!(
        "/_matrix/client/v3/rooms/{}/redact/{}/1",
        escape(&room),
        escape(&said)
    );
    alice.put(&uri, json!({})).await.ok();
    c.join(&room, CAROL).await;
    let last = alice.send_text(&room, "last").await;
    let named = json!({ "earliest_events": [], "latest_events": [last] });
    for (status, answer) in [
        event(c, &said).await,
        backfill(c, &room, &last, 100).await,
        missing(c, &room, named).await,
    ] {
        assert_eq!(status, 200);
        let told = answer.to_string();
        assert!(told.contains("m.room.message") && !told.contains("regretted"));
    }
}

/// synapse#3546: what users said who wanted it to be forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn synapse_pr_3546_what_erased_users_said_is_given_redacted() {
    let Scene { a, alice, c } = &scene().await;
    let room = room(alice, "11", "shared").await;
    let bob = a.register("bob").await;
    bob.join(&room).await.ok();
    let said = bob.send_text(&room, "to be forgotten").await;
    c.join(&room, CAROL).await;
    let last = alice.send_text(&room, "last").await;
    let before = event(c, &said).await.1;
    assert!(before.to_string().contains("to be forgotten"));
    let auth = json!({
        "type": "m.login.password", "password": password("bob"),
        "identifier": { "type": "m.id.user", "user": bob.user_id },
    });
    let path = "/_matrix/client/v3/account/deactivate";
    bob.post(path, json!({ "erase": true, "auth": auth }))
        .await
        .ok();
    let named = json!({ "earliest_events": [], "latest_events": [last] });
    for (status, answer) in [
        event(c, &said).await,
        backfill(c, &room, &last, 100).await,
        missing(c, &room, named).await,
    ] {
        assert_eq!(status, 200);
        let told = answer.to_string();
        assert!(told.contains(&bob.user_id) && !told.contains("to be forgotten"));
    }
}

/// CVE-2022-39374 for what we serve: a rejected event is given to nobody. A
/// soft-failed one is, as servers build on it.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2022_39374_rejected_events_are_given_to_nobody() {
    let Scene { alice, c, .. } = &scene().await;
    let room = room(alice, "11", "shared").await;
    c.join(&room, "@dave:c.test").await;
    let mut carol = Guest::enter(&c.fake, alice, &room, "carol").await;
    let levels = json!({ "users": { CAROL: 100 } });
    let rejected = carol.aside("m.room.power_levels", Some(""), levels);
    carol.send(&[&rejected]).await;
    for answer in [
        event(c, &rejected.id).await,
        at(c, "state", &room, &rejected.id).await,
        at(c, "state_ids", &room, &rejected.id).await,
        event_auth(c, &room, &rejected.id).await,
    ] {
        assert_eq!(errcode(&answer), (404, "M_NOT_FOUND"), "{answer:?}");
    }
    let filled = backfill(c, &room, &rejected.id, 100).await.1;
    let filled = events(RoomVersion::V11, &filled["pdus"]);
    assert!(!filled.is_empty() && !ids(&filled).contains(&&*rejected.id));
    // Said before the ban, as far as its server knows.
    let ban = format!("/_matrix/client/v3/rooms/{}/ban", escape(&room));
    alice.post(&ban, json!({ "user_id": CAROL })).await.ok();
    let late = carol.text("too late");
    carol.send(&[&late]).await;
    let (status, answer) = event(c, &late.id).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["pdus"][0]["content"]["body"], "too late");
    let last = alice.send_text(&room, "last").await;
    let filled = backfill(c, &room, &last, 100).await.1;
    assert!(!ids(&events(RoomVersion::V11, &filled["pdus"])).contains(&&*late.id));
}

/// The rows *limits* of the security page for these endpoints.
#[tokio::test(flavor = "multi_thread")]
async fn tuwunel_a90b0a83a_walks_are_bounded_by_the_number_of_events() {
    let Scene { alice, c, .. } = &scene().await;
    let room = room(alice, "11", "shared").await;
    c.join(&room, CAROL).await;
    let mut last = String::new();
    for number in 0..130 {
        last = alice.send_text(&room, &number.to_string()).await;
    }
    let filled = backfill(c, &room, &last, 5_000).await.1;
    assert_eq!(filled["pdus"].as_array().unwrap().len(), 100);
    let none = backfill(c, &room, &last, 0).await.1;
    assert_eq!(none["pdus"], json!([]));
    for (limit, given) in [
        (json!(1_000), 20),
        (json!(5), 5),
        (json!(-3), 0),
        (Value::Null, 10),
    ] {
        let mut body = json!({ "earliest_events": [], "latest_events": [last] });
        if !limit.is_null() {
            body["limit"] = limit;
        }
        let found = missing(c, &room, body).await.1;
        assert_eq!(found["events"].as_array().unwrap().len(), given);
    }
    let many: Vec<String> = (0..101).map(|number| format!("$event{number}")).collect();
    let named = json!({ "earliest_events": [], "latest_events": many });
    let refused = missing(c, &room, named).await;
    assert_eq!(errcode(&refused), (400, "M_INVALID_PARAM"));
    for body in [
        json!({ "earliest_events": {}, "latest_events": [] }),
        json!({ "earliest_events": [1], "latest_events": [] }),
        json!({ "earliest_events": [], "latest_events": [], "limit": "10" }),
    ] {
        assert_eq!(missing(c, &room, body).await.0, 400);
    }
    for query in [
        "",
        "?v=%24a",
        "?limit=5",
        "?v=nothing&limit=5",
        "?v=%24a&limit=x",
    ] {
        let uri = format!("{V1}/backfill/{}{query}", escape(&room));
        assert_eq!(c.get(&uri).await.0, 400, "{query}");
    }
}

/// security.md 1.5: the list of servers closes what is read, too.
#[tokio::test(flavor = "multi_thread")]
async fn pr_406_server_acls_close_the_history() {
    let Scene { alice, c, .. } = &scene().await;
    let room = room(alice, "11", "world_readable").await;
    c.join(&room, CAROL).await;
    let said = alice.send_text(&room, "said").await;
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.server_acl/",
        escape(&room)
    );
    alice.put(&path, json!({ "allow": ["a.test"] })).await.ok();
    let named = json!({ "earliest_events": [], "latest_events": [said] });
    for answer in [
        event(c, &said).await,
        backfill(c, &room, &said, 10).await,
        missing(c, &room, named).await,
        at(c, "state", &room, &said).await,
        at(c, "state_ids", &room, &said).await,
        event_auth(c, &room, &said).await,
    ] {
        assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"), "{answer:?}");
    }
}

/// An honest server that is not in the room reads what is open to the world by
/// the event's id, and nothing else (security test S11 for strangers).
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_without_a_signature() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let alice = a.register("alice").await;
    let room = room(&alice, "11", "world_readable").await;
    let said = alice.send_text(&room, "open").await;
    let c = Visitor::start(&neighbourhood).await;
    assert_eq!(event(&c, &said).await.0, 200);
    let room_part = escape(&room);
    for path in [
        format!("{V1}/event/{}", escape(&said)),
        format!("{V1}/state/{room_part}?event_id={}", escape(&said)),
        format!("{V1}/state_ids/{room_part}?event_id={}", escape(&said)),
        format!("{V1}/backfill/{room_part}?v={}&limit=1", escape(&said)),
        format!("{V1}/event_auth/{room_part}/{}", escape(&said)),
        format!("{V1}/timestamp_to_event/{room_part}?ts=0&dir=f"),
        format!("{V1}/make_join/{room_part}/{}?ver=11", escape(CAROL)),
    ] {
        a.api().get(&path).await.refused(401, "M_UNAUTHORIZED");
    }
}
