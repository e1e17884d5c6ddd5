//! What a client must not send to rooms, each with the specification's error.

use reqwest::Method;
use serde_json::json;

use super::{of_room, two_users};

/// Method and path, body, and the status and code that answer them.
type Case = ((Method, String), Vec<u8>, u16, &'static str);

#[tokio::test]
async fn nonsense_is_answered_with_the_specified_error() {
    let (_server, alice, _) = two_users().await;
    let room = alice.create_room(json!({})).await;
    let send = |rest: &str| (Method::PUT, of_room(&room, rest));
    let post = |path: &str| (Method::POST, path.to_owned());
    let create = "/_matrix/client/v3/createRoom";
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let large = format!("{{\"body\":\"{}\"}}", "x".repeat(70_000));
    let huge = format!("{{\"body\":\"{}\"}}", "x".repeat(2 << 20));
    let long = "t".repeat(256);
    let long_key = "k".repeat(256);
    let cases: Vec<Case> = vec![
        (
            send("send/m.room.message/1"),
            b"".to_vec(),
            400,
            "M_NOT_JSON",
        ),
        (
            send("send/m.room.message/2"),
            b"{".to_vec(),
            400,
            "M_NOT_JSON",
        ),
        (
            send("send/m.room.message/3"),
            b"[]".to_vec(),
            400,
            "M_BAD_JSON",
        ),
        (
            send("send/m.room.message/4"),
            b"\"x\"".to_vec(),
            400,
            "M_BAD_JSON",
        ),
        (
            send("send/m.room.message/5"),
            b"{\"a\":\"\xff\"}".to_vec(),
            400,
            "M_NOT_JSON",
        ),
        (
            send("send/m.room.message/6"),
            b"{\"a\":1.5}".to_vec(),
            400,
            "M_BAD_JSON",
        ),
        (
            send("send/m.room.message/7"),
            b"{\"a\":9007199254740992}".to_vec(),
            400,
            "M_BAD_JSON",
        ),
        (
            send("send/m.room.message/8"),
            b"{\"a\":1e400}".to_vec(),
            400,
            "M_BAD_JSON",
        ),
        (
            send("send/m.room.message/9"),
            format!("{{\"a\":{deep}}}").into(),
            400,
            "M_BAD_JSON",
        ),
        (
            send("send/m.room.message/10"),
            large.clone().into(),
            413,
            "M_TOO_LARGE",
        ),
        (
            send("send/m.room.message/11"),
            huge.into(),
            413,
            "M_TOO_LARGE",
        ),
        (
            send(&format!("send/{long}/12")),
            b"{}".to_vec(),
            413,
            "M_TOO_LARGE",
        ),
        (
            send(&format!("send/m.a/{long}")),
            b"{}".to_vec(),
            400,
            "M_INVALID_PARAM",
        ),
        (
            send(&format!("state/m.a/{long_key}")),
            b"{}".to_vec(),
            413,
            "M_TOO_LARGE",
        ),
        (send("state/m.room.topic"), large.into(), 413, "M_TOO_LARGE"),
        (
            send("state/m.room.member/nobody"),
            b"{\"membership\":\"join\"}".to_vec(),
            403,
            "M_FORBIDDEN",
        ),
        (
            send("state/m.room.member/@a:b"),
            b"{}".to_vec(),
            403,
            "M_FORBIDDEN",
        ),
        (
            send("state/m.room.power_levels"),
            b"{\"users\":1}".to_vec(),
            400,
            "M_BAD_JSON",
        ),
        (
            send("send/m.room.member/13"),
            b"{}".to_vec(),
            403,
            "M_FORBIDDEN",
        ),
        (
            send("send/m.room.create/14"),
            b"{}".to_vec(),
            403,
            "M_FORBIDDEN",
        ),
        (
            send("send/m.room.redaction/15"),
            b"{}".to_vec(),
            400,
            "M_BAD_JSON",
        ),
        (
            send("redact/no-event/1"),
            b"{}".to_vec(),
            400,
            "M_INVALID_PARAM",
        ),
        (
            post(&of_room("no-room", "join")),
            b"{}".to_vec(),
            400,
            "M_INVALID_PARAM",
        ),
        (
            post(&of_room(&room, "kick")),
            b"{}".to_vec(),
            400,
            "M_MISSING_PARAM",
        ),
        (
            post(&of_room(&room, "kick")),
            b"{\"user_id\":1}".to_vec(),
            400,
            "M_BAD_JSON",
        ),
        (
            post(&of_room(&room, "ban")),
            b"{\"user_id\":\"x\"}".to_vec(),
            400,
            "M_BAD_JSON",
        ),
        (
            post(create),
            b"{\"preset\":\"x\"}".to_vec(),
            400,
            "M_BAD_JSON",
        ),
        (
            post(create),
            b"{\"visibility\":1}".to_vec(),
            400,
            "M_BAD_JSON",
        ),
        (
            post(create),
            b"{\"invite\":\"@a:b\"}".to_vec(),
            400,
            "M_BAD_JSON",
        ),
        (
            post(create),
            b"{\"invite\":[\"a\"]}".to_vec(),
            400,
            "M_BAD_JSON",
        ),
        (
            post(create),
            b"{\"room_alias_name\":\"a b\"}".to_vec(),
            400,
            "M_INVALID_PARAM",
        ),
        (
            post(create),
            b"{\"room_alias_name\":\"a:b\"}".to_vec(),
            400,
            "M_INVALID_PARAM",
        ),
        (
            post(create),
            b"{\"initial_state\":[{}]}".to_vec(),
            400,
            "M_MISSING_PARAM",
        ),
        (
            post(create),
            b"{\"creation_content\":{\"a\":1.5}}".to_vec(),
            400,
            "M_BAD_JSON",
        ),
        (post(create), b"{\"name\":{}}".to_vec(), 400, "M_BAD_JSON"),
        (post(create), b"not json".to_vec(), 400, "M_NOT_JSON"),
    ];
    let mut wrong = Vec::new();
    for ((method, path), body, status, errcode) in cases {
        let answer = alice.raw(method, &path, body).await;
        let found = (answer.status.as_u16(), answer.body["errcode"].as_str());
        if found != (status, Some(errcode)) {
            wrong.push(format!("{path}: {status} {errcode}, not {}", answer.text));
        }
    }
    for (query, status, errcode) in [
        ("messages", 400, "M_MISSING_PARAM"),
        ("messages?dir=x", 400, "M_INVALID_PARAM"),
        ("messages?dir=b&from=x", 400, "M_INVALID_PARAM"),
        ("messages?dir=b&to=t1_", 400, "M_INVALID_PARAM"),
        ("messages?dir=b&limit=x", 400, "M_INVALID_PARAM"),
        ("messages?dir=b&limit=-1", 400, "M_INVALID_PARAM"),
        ("messages?dir=b&filter=x", 400, "M_INVALID_PARAM"),
        ("members?at=x", 400, "M_INVALID_PARAM"),
        ("members?membership=x", 400, "M_INVALID_PARAM"),
        ("state/m.room.topic?format=x", 400, "M_INVALID_PARAM"),
        ("event/x", 400, "M_INVALID_PARAM"),
        ("context/x", 400, "M_INVALID_PARAM"),
    ] {
        let answer = alice.get(&of_room(&room, query)).await;
        let found = (answer.status.as_u16(), answer.body["errcode"].as_str());
        if found != (status, Some(errcode)) {
            wrong.push(format!("{query}: {status} {errcode}, not {}", answer.text));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // After all this the room holds what it held, and goes on.
    let page = alice
        .get(&of_room(&room, "messages?dir=f&limit=100"))
        .await
        .ok();
    assert_eq!(page["chunk"].as_array().unwrap().len(), 6);
    alice.send_text(&room, "fine").await;
}

#[tokio::test]
async fn an_event_may_be_as_large_as_the_specification_allows() {
    let (_server, alice, _) = two_users().await;
    let room = alice.create_room(json!({})).await;
    // The largest body that is taken is found by halving; the sizes around it
    // must be taken and refused without a gap.
    let (mut taken, mut refused) = (60_000, 65_536);
    while refused - taken > 1 {
        let size = (taken + refused) / 2;
        let path = of_room(&room, &format!("send/m.room.message/s{size}"));
        let answer = alice.put(&path, json!({ "body": "x".repeat(size) })).await;
        match answer.status.as_u16() {
            200 => taken = size,
            _ => {
                answer.refused(413, "M_TOO_LARGE");
                refused = size;
            }
        }
    }
    let page = alice
        .get(&of_room(&room, "messages?dir=b&limit=1"))
        .await
        .ok();
    assert!(page["chunk"][0]["content"]["body"].as_str().unwrap().len() >= 60_000);
    assert!(taken > 64_000, "{taken}");
}
