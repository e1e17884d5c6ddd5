//! A table of what clients should not send, and what they are told.

use axum::body::{Body, Bytes};
use futures_util::stream;
use http::Request;

use super::Doors;

pub(super) const WRITES: [(&str, &str); 9] = [
    ("POST", "/v3/login"),
    ("POST", "/v3/register"),
    ("POST", "/v3/refresh"),
    ("POST", "/v3/account/password"),
    ("POST", "/v3/account/deactivate"),
    ("POST", "/v3/delete_devices"),
    ("PUT", "/v3/profile/@alice:hs/displayname"),
    ("PUT", "/v3/user/@alice:hs/account_data/com.example"),
    ("POST", "/v3/user/@alice:hs/filter"),
];

#[tokio::test]
async fn bodies_that_are_not_json_objects() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    let appended = doors.world.appended();
    let nested = format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500));
    let arrays = format!(
        "{{\"a\":{}{}}}",
        "[".repeat(50_000 / 2),
        "]".repeat(50_000 / 2)
    );
    let unclosed = "[".repeat(60_000);
    let keys: String = (0..10_001).map(|i| format!("\"{i}\":1,")).collect();
    let keys = format!("{{{keys}\"z\":1}}");
    let bodies: [(&[u8], &str); 16] = [
        (b"", "M_NOT_JSON"),
        (b"{", "M_NOT_JSON"),
        (b"not json", "M_NOT_JSON"),
        (b"{'a':1}", "M_NOT_JSON"),
        (b"{\"a\":1}}", "M_NOT_JSON"),
        (b"{\"a\":01}", "M_NOT_JSON"),
        (b"{\"a\":NaN}", "M_NOT_JSON"),
        (b"{\"a\":\"\xff\xfe\"}", "M_NOT_JSON"),
        (b"{\"\xc3\x28\":1}", "M_NOT_JSON"),
        (b"\xef\xbb\xbf{}", "M_NOT_JSON"),
        (unclosed.as_bytes(), "M_NOT_JSON"),
        (b"null", "M_BAD_JSON"),
        (b"\"text\"", "M_BAD_JSON"),
        (nested.as_bytes(), "M_BAD_JSON"),
        (arrays.as_bytes(), "M_BAD_JSON"),
        (keys.as_bytes(), "M_BAD_JSON"),
    ];
    for (method, path) in WRITES {
        for (body, code) in bodies {
            let small = path.contains("/login") || !path.contains("@alice");
            // What exceeds the small bound is told so first.
            let too_large = small && body.len() > 64 << 10;
            let expected = if too_large {
                (413, "M_TOO_LARGE")
            } else {
                (400, code)
            };
            let answer = doors.call(method, path, Some(&token), body.to_vec()).await;
            let start = String::from_utf8_lossy(&body[..body.len().min(20)]);
            assert_eq!(answer.error(), expected, "{method} {path} {start}");
        }
    }
    assert_eq!(doors.world.appended(), appended, "nothing was written");
}

#[tokio::test]
async fn fields_of_the_wrong_type() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    for (method, path, body, code) in [
        ("POST", "/v3/login", r#"{}"#, "M_MISSING_PARAM"),
        ("POST", "/v3/login", r#"{"type":1}"#, "M_BAD_JSON"),
        (
            "POST",
            "/v3/login",
            r#"{"type":"m.login.foo"}"#,
            "M_UNKNOWN",
        ),
        (
            "POST",
            "/v3/login",
            r#"{"type":"m.login.password"}"#,
            "M_MISSING_PARAM",
        ),
        (
            "POST",
            "/v3/login",
            r#"{"type":"m.login.password","user":"a"}"#,
            "M_MISSING_PARAM",
        ),
        (
            "POST",
            "/v3/login",
            r#"{"type":"m.login.password","identifier":{"type":"x"}}"#,
            "M_INVALID_PARAM",
        ),
        (
            "POST",
            "/v3/login",
            r#"{"type":"m.login.password","identifier":[]}"#,
            "M_BAD_JSON",
        ),
        (
            "POST",
            "/v3/login",
            r#"{"type":"m.login.password","user":"a","password":"b","device_id":""}"#,
            "M_INVALID_PARAM",
        ),
        (
            "POST",
            "/v3/login",
            r#"{"type":"m.login.password","user":"a","password":"b","device_id":"\u0000"}"#,
            "M_INVALID_PARAM",
        ),
        (
            "POST",
            "/v3/login",
            r#"{"type":"m.login.password","user":"a","password":1e999}"#,
            "M_BAD_JSON",
        ),
        (
            "POST",
            "/v3/login",
            r#"{"type":"a","type":"b"}"#,
            "M_BAD_JSON",
        ),
        ("POST", "/v3/register", r#"{"username":1}"#, "M_BAD_JSON"),
        ("POST", "/v3/register", r#"{"auth":"dummy"}"#, "M_BAD_JSON"),
        (
            "POST",
            "/v3/register",
            r#"{"auth":{"type":5}}"#,
            "M_BAD_JSON",
        ),
        (
            "POST",
            "/v3/register?kind=alien",
            r#"{}"#,
            "M_INVALID_PARAM",
        ),
        ("POST", "/v3/refresh", r#"{}"#, "M_MISSING_PARAM"),
        ("POST", "/v3/account/password", r#"{}"#, "M_MISSING_PARAM"),
        (
            "POST",
            "/v3/account/password",
            r#"{"new_password":[]}"#,
            "M_BAD_JSON",
        ),
        (
            "POST",
            "/v3/delete_devices",
            r#"{"devices":"A"}"#,
            "M_BAD_JSON",
        ),
        ("POST", "/v3/delete_devices", r#"{}"#, "M_MISSING_PARAM"),
        (
            "PUT",
            "/v3/user/@alice:hs/account_data/a",
            r#"[]"#,
            "M_BAD_JSON",
        ),
        (
            "PUT",
            "/v3/user/@alice:hs/account_data/a",
            r#"{"a":1e999}"#,
            "M_BAD_JSON",
        ),
        (
            "PUT",
            "/v3/user/@alice:hs/account_data/a",
            r#"{"a":"\ud800"}"#,
            "M_BAD_JSON",
        ),
        ("GET", "/v3/register/available", "", "M_MISSING_PARAM"),
        (
            "GET",
            "/v1/register/m.login.registration_token/validity",
            "",
            "M_MISSING_PARAM",
        ),
    ] {
        let answer = doors.call(method, path, Some(&token), body).await;
        assert_eq!(answer.error(), (400, code), "{method} {path} {body}");
    }
}

#[tokio::test]
async fn identifiers_that_are_none() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    let long = format!("@{}:hs", "a".repeat(255));
    for user in [
        "alice",
        "@alice",
        "!alice:hs",
        "@alice:",
        "%40",
        "@a%00:h%20s",
        "%ff",
        &long,
    ] {
        for path in [
            format!("/v3/profile/{user}"),
            format!("/v3/profile/{user}/displayname"),
            format!("/v3/user/{user}/account_data/a"),
            format!("/v3/user/{user}/filter/a"),
        ] {
            let answer = doors.get(&path, &token).await;
            assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{path}");
        }
    }
    for room in ["room", "@room:hs", "%ff"] {
        let path = format!("/v3/user/@alice:hs/rooms/{room}/account_data/a");
        let answer = doors.get(&path, &token).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{path}");
    }
}

#[tokio::test]
async fn cve_2024_52805_bodies_over_the_bound_however_they_come() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    let login = format!("{{\"type\":\"{}\"}}", "x".repeat(64 << 10));
    let answer = doors.call("POST", "/v3/login", None, login).await;
    assert_eq!(answer.error(), (413, "M_TOO_LARGE"));
    let path = "/_matrix/client/v3/user/@alice:hs/account_data/a";
    // Announced, but not sent.
    let request = Request::put(path)
        .header("authorization", format!("Bearer {token}"))
        .header("content-length", "99999999999");
    let answer = doors.send(request.body(Body::from("{")).unwrap()).await;
    assert_eq!(answer.error(), (413, "M_TOO_LARGE"));
    // Without a length, in pieces, without an end.
    let endless =
        stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 4096])));
    let request = Request::put(path).header("authorization", format!("Bearer {token}"));
    let answer = doors
        .send(request.body(Body::from_stream(endless)).unwrap())
        .await;
    assert_eq!(answer.error(), (413, "M_TOO_LARGE"));
    // In pieces, within the bound.
    let pieces = ["{\"a\"", ":", "1}"].map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
    let request = Request::put(path).header("authorization", format!("Bearer {token}"));
    let answer = doors
        .send(
            request
                .body(Body::from_stream(stream::iter(pieces)))
                .unwrap(),
        )
        .await;
    answer.ok();
    // Broken off.
    let broken = [Ok(Bytes::from("{")), Err(std::io::Error::other("gone"))];
    let request = Request::put(path).header("authorization", format!("Bearer {token}"));
    let answer = doors
        .send(
            request
                .body(Body::from_stream(stream::iter(broken)))
                .unwrap(),
        )
        .await;
    assert_eq!(answer.error(), (400, "M_UNKNOWN"));
    // More than one type of account data may hold.
    let content = format!("{{\"a\":\"{}\"}}", "x".repeat(64 << 10));
    let answer = doors.call("PUT", path, Some(&token), content).await;
    assert_eq!(answer.error(), (413, "M_TOO_LARGE"));
}
