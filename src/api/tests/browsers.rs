//! CORS, unknown paths and methods, panics.

use http::HeaderMap;

use super::Doors;

fn assert_cors(headers: &HeaderMap) {
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        (
            "access-control-allow-methods",
            "GET, POST, PUT, DELETE, OPTIONS",
        ),
        (
            "access-control-allow-headers",
            "X-Requested-With, Content-Type, Authorization",
        ),
    ] {
        assert_eq!(headers.get(name).unwrap(), value);
    }
}

#[tokio::test]
async fn every_answer_has_the_headers() {
    let doors = Doors::open();
    for (method, path, status) in [
        ("GET", "/versions", 200),
        ("GET", "/v3/account/whoami", 401),
        ("GET", "/v3/nothing/here", 404),
        ("GET", "/_matrix/nothing", 404),
        ("PUT", "/versions", 405),
        ("DELETE", "/v3/login", 405),
        ("OPTIONS", "/v3/login", 204),
        ("OPTIONS", "/v3/account/deactivate", 204),
        ("OPTIONS", "/v3/nothing/here", 204),
    ] {
        let answer = doors.call(method, path, None, "").await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_cors(&answer.headers);
        if status >= 400 {
            assert_eq!(answer.headers["content-type"], "application/json");
        }
        if status == 404 || status == 405 {
            assert_eq!(answer.error().1, "M_UNRECOGNIZED", "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let doors = Doors::open();
    doors.world.break_accounts();
    let answer = doors.get("/v3/profile/@alice:hs", "").await;
    assert_eq!(answer.error(), (500, "M_UNKNOWN"));
    assert_cors(&answer.headers);
}
