//! Every route with every method, nasty path parts and nasty bodies: there is
//! always an answer in the standard form, and it is never a 500.

use http::Method;
use proptest::prelude::*;
use serde_json::Value;

use super::{Answer, Doors};
use crate::api::client::routes::routes;

/// Path parts that clients make up; each stands in for every parameter once.
const PARTS: [&str; 14] = [
    "@alice:hs",
    "!room:hs",
    "!MMzcYvWM1mYmAAkGgVdyBuGBrfQbTNpOvJ5ob9h3Sig",
    "$event",
    "#alias:hs",
    "m.room.member",
    "0",
    "%00",
    "%ff",
    "%2F",
    "%F0%9F%A6%80",
    "..",
    "-9999999999999999999999",
    "%22%7B%5B",
];

const BODIES: [&str; 12] = [
    "",
    "{}",
    "[]",
    "null",
    "{\"type\":null}",
    "{\"type\":\"m.login.password\",\"user\":\"alice\",\"password\":\"\\u0000\"}",
    "{\"auth\":{\"type\":\"m.login.dummy\"},\"username\":\"\\ud83e\\udd80\"}",
    "{\"auth\":{\"type\":\"m.login.password\",\"session\":\"x\",\"password\":\"x\"}}",
    "{\"displayname\":9007199254740993,\"membership\":1e400}",
    "{\"membership\":\"join\",\"user_id\":\"@\",\"reason\":[]}",
    "{\"body\":-0,\"msgtype\":1.5,\"m.relates_to\":{\"event_id\":1}}",
    "{\"limit\":-1,\"filter\":{\"generic_search_term\":{}},\"room\":{\"timeline\":[]}}",
];

fn assert_well_formed(answer: &Answer, what: &str) {
    let status = answer.status.as_u16();
    // Refused until something is free again is an answer; a fault is not.
    assert!(status < 500 || status == 503, "{what}: {answer:?}");
    let is_challenge = status == 401 && answer.body["flows"].is_array();
    if status >= 400 && !is_challenge {
        let code = answer.body["errcode"].as_str();
        assert!(
            code.is_some_and(|it| it.starts_with("M_")),
            "{what}: {answer:?}"
        );
        assert!(answer.body["error"].is_string(), "{what}: {answer:?}");
    }
}

/// The template's parameters, each replaced by the same part.
fn fill(template: &str, part: &str) -> String {
    let pieces = template
        .split('/')
        .map(|piece| match piece.starts_with('{') {
            true => part,
            false => piece,
        });
    pieces.collect::<Vec<_>>().join("/")
}

/// What asks sync where it stands: waiting for news is not what is tested here,
/// nor waiting for a reader that follows nothing.
fn waits(path: &str) -> bool {
    let mut ends = ["/sync", "/events", "/initialSync", "/notifications"].iter();
    ends.any(|end| path.ends_with(end))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_every_nonsense() {
    let doors = Doors::open();
    let methods = [Method::GET, Method::PUT, Method::POST, Method::DELETE];
    let templates = routes().paths.into_iter();
    // `r0` leads to the same handlers.
    for template in templates.filter(|path| !path.contains("/r0/") && !waits(path)) {
        let token = doors.register_or_log_in("alice").await;
        for part in PARTS {
            let path = fill(template, part);
            for method in &methods {
                for body in BODIES {
                    let what = format!("{method} {path} {body}");
                    let answer = doors.call(method.as_str(), &path, Some(&token), body).await;
                    assert_well_formed(&answer, &what);
                }
            }
        }
    }
}

/// JSON as it could be, beside bytes as they should not be.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
        prop::sample::select(vec![
            "m.login.password",
            "m.login.dummy",
            "@alice:hs",
            "!r:hs"
        ])
        .prop_map(Value::from),
    ];
    let keys = prop::sample::select(vec![
        "type",
        "auth",
        "identifier",
        "user",
        "password",
        "session",
        "username",
        "device_id",
        "devices",
        "new_password",
        "displayname",
        "avatar_url",
        "room",
        "timeline",
        "limit",
        "refresh_token",
        "medium",
        "x",
    ]);
    let json = leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..6)
                .prop_map(|fields| fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    });
    let text = json.prop_map(|value: Value| value.to_string().into_bytes());
    let bytes = prop::collection::vec(any::<u8>(), 0..64);
    let cut = text
        .clone()
        .prop_flat_map(|text| (0..=text.len()).prop_map(move |at| text[..at].to_vec()));
    prop_oneof![4 => text, 1 => bytes, 2 => cut]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_body_is_answered(body in any_body(), route in 0..super::bad_input::WRITES.len()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let doors = Doors::open();
            let token = doors.token_without_password("alice").await;
            let (method, path) = super::bad_input::WRITES[route];
            let answer = doors.call(method, path, Some(&token), body.clone()).await;
            assert_well_formed(&answer, &format!("{method} {path} {}", String::from_utf8_lossy(&body)));
        });
    }
}
