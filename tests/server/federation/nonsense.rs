//! Whatever another server sends to whichever endpoint, it gets an answer, and a
//! healthy room goes on (security test S12, for what we serve).

use engram::matrix::canonical_json::{CanonicalJsonObject, Numbers, parse_object_with};
use reqwest::Method;
use serde_json::json;

use super::visitor::{CAROL, Scene, all_versions, scene};
use crate::harness::escape;

/// Paths of the server-server API that take a body, with their methods.
fn with_bodies() -> Vec<(Method, &'static str)> {
    let paths = engram::api::client::routes::routes().paths.into_iter();
    let paths = paths.filter(|path| path.starts_with("/_matrix/federation/"));
    let methods = paths.map(|path| match path {
        _ if path.contains("get_missing_events") || path.ends_with("/publicRooms") => {
            (Method::POST, path)
        }
        _ => (Method::PUT, path),
    });
    methods.collect()
}

fn bodies(member: &CanonicalJsonObject) -> Vec<CanonicalJsonObject> {
    let object = |text: &str| parse_object_with(text.as_bytes(), Numbers::Kept).unwrap();
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(90), "]".repeat(90));
    let mut bodies = vec![
        object("{}"),
        object(&deep),
        object(r#"{"event":{},"room_version":"11","invite_room_state":{}}"#),
        object(r#"{"event":[],"room_version":11}"#),
        object(r#"{"earliest_events":[[]],"latest_events":[null],"limit":1e9}"#),
        object(r#"{"latest_events":["$a"],"earliest_events":[],"min_depth":-9007199254740991}"#),
        object(r#"{"pdus":{},"edus":[1]}"#),
        object(r#"{"pdus":[{}],"edus":[{}],"origin":"a.test"}"#),
        object(r#"{"filter":{"room_types":[1]},"limit":-1}"#),
    ];
    // A good event, with each field gone or of each type.
    for field in member.keys() {
        let mut without = member.clone();
        without.remove(field);
        bodies.push(without);
        for value in [
            "null",
            "true",
            "1",
            "1.5",
            "\"\\u0000\"",
            "[]",
            "[[[]]]",
            "{}",
            "18446744073709551616",
        ] {
            let mut with = member.clone();
            let value = object(&format!("{{\"value\":{value}}}"))["value"].clone();
            with.insert(field.clone(), value);
            bodies.push(with);
        }
    }
    bodies
}

#[tokio::test(flavor = "multi_thread")]
async fn s12_nonsense_is_answered_and_healthy_rooms_go_on() {
    let Scene { a, alice, c } = &scene().await;
    let body = json!({ "preset": "public_chat", "room_version": "11" });
    let room = alice.create_room(body).await;
    let signed = c.complete(&c.make("join", &room, CAROL).await.1);
    let bodies = bodies(&signed.event);
    let mut asked = 0;
    for (method, path) in with_bodies() {
        for body in &bodies {
            let uri = path
                .replace("{roomId}", &escape(&room))
                .replace("{eventId}", &escape(&signed.event_id))
                .replace("{userId}", &escape(CAROL))
                .replace("{txnId}", &format!("t{asked}"));
            let (status, answer) = c.fake.send("a.test", method.clone(), &uri, body).await;
            assert!(status < 500, "{method} {uri} answers {status} {answer}");
            asked += 1;
        }
    }
    // Nor do odd identifiers and parameters break anything.
    let odd = [
        "!",
        "$",
        "@",
        "%00",
        "!%F0%9F%98%80:a.test",
        "$x%0A",
        "@c:c.test:1:2",
    ];
    let long = "!".repeat(300);
    for path in engram::api::client::routes::routes().paths {
        if !path.starts_with("/_matrix/federation/") {
            continue;
        }
        for id in odd.into_iter().chain([&*long]) {
            let mut uri = path.to_owned();
            for parameter in ["{roomId}", "{eventId}", "{userId}", "{txnId}"] {
                uri = uri.replace(parameter, id);
            }
            for query in ["", "?event_id=", "?v=&limit=-1&ts=x&dir=z", "?ver=&ver=%FF"] {
                let uri = format!("{uri}{query}");
                let (status, answer) = c.get(&uri).await;
                assert!(status < 500, "GET {uri} answers {status} {answer}");
            }
        }
    }
    let (room_part, user) = (escape(&room), escape(CAROL));
    let versions = all_versions();
    let uri = format!("/_matrix/federation/v1/make_join/{room_part}/{user}?{versions}");
    assert_eq!(c.get(&uri).await.0, 200);
    c.join(&room, CAROL).await;
    alice.send_text(&room, "still here").await;
    let panics = a.metrics().get("/metrics").await.text;
    let panics: Vec<&str> = panics
        .lines()
        .filter(|line| line.contains("panic"))
        .collect();
    let none = panics
        .iter()
        .all(|line| line.starts_with('#') || line.ends_with(" 0"));
    assert!(none, "{panics:?}");
}
