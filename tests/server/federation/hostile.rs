//! Servers that lie about themselves (security, 1.2 and 1.7): what they ask is
//! refused, in bounded time, and the server goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use engram::crypto::signing_key::ServerKey;
use engram::matrix::canonical_json::to_bytes;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::json;

use super::Neighbourhood;
use super::fake::{FAR, Fake, answer, object, own_keys};

const PROFILE: &str = "/_matrix/federation/v1/query/profile?user_id=%40alice%3Aa.test";

/// What a server answers when it is asked for its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    OtherServer,
    Unsigned,
    SignedByAnother,
    AlteredAfterSigning,
    /// Good until a moment ago: CVE-2024-6299.
    Expired,
    NotJson,
    Huge,
    /// Chunked, without a length and without an end.
    Endless,
    Redirect,
    Error,
    /// Another key under the id that signs.
    OtherKey,
}

const LIES: [Lie; 11] = [
    Lie::OtherServer,
    Lie::Unsigned,
    Lie::SignedByAnother,
    Lie::AlteredAfterSigning,
    Lie::Expired,
    Lie::NotJson,
    Lie::Huge,
    Lie::Endless,
    Lie::Redirect,
    Lie::Error,
    Lie::OtherKey,
];

fn tell(lie: Lie) -> Response {
    let key = ServerKey::from_seed([3; 32], "fake");
    let ok = |body| answer(StatusCode::OK, body);
    match lie {
        Lie::OtherServer => ok(to_bytes(&own_keys("b.test", &key, FAR))),
        Lie::Unsigned => {
            let mut keys = own_keys("c.test", &key, FAR);
            keys.remove("signatures");
            ok(to_bytes(&keys))
        }
        Lie::SignedByAnother => {
            let mut keys = own_keys("c.test", &key, FAR);
            let other = ServerKey::from_seed([4; 32], "fake");
            let theirs = own_keys("c.test", &other, FAR);
            keys.insert("signatures".to_owned(), theirs["signatures"].clone());
            ok(to_bytes(&keys))
        }
        Lie::AlteredAfterSigning => {
            let mut keys = own_keys("c.test", &key, 1);
            let later = object(&json!({ "ts": FAR }));
            keys.insert("valid_until_ts".to_owned(), later["ts"].clone());
            ok(to_bytes(&keys))
        }
        Lie::Expired => ok(to_bytes(&own_keys("c.test", &key, 1_000_000_000_000))),
        Lie::NotJson => ok(b"<html>".to_vec()),
        Lie::Huge => ok(vec![b' '; 8 << 20]),
        Lie::Endless => {
            let chunk = Bytes::from(vec![b' '; 64 << 10]);
            let chunks =
                futures_util::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
            Response::new(Body::from_stream(chunks))
        }
        Lie::Redirect => {
            let mut response = answer(StatusCode::FOUND, vec![]);
            let to = "https://a.test:8448/_matrix/key/v2/server".parse().unwrap();
            response.headers_mut().insert("Location", to);
            response
        }
        Lie::Error => answer(StatusCode::INTERNAL_SERVER_ERROR, vec![b'x'; 1 << 20]),
        Lie::OtherKey => {
            let other = ServerKey::from_seed([4; 32], "fake");
            ok(to_bytes(&own_keys("c.test", &other, FAR)))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_lied_about_open_no_door() {
    let neighbourhood = Neighbourhood::new();
    let mut a = neighbourhood.builder("a.test").start().await;
    a.register("alice").await;
    let (told, asked) = (Arc::new(Mutex::new(LIES[0])), Arc::new(AtomicU32::new(0)));
    let (tells, counts) = (told.clone(), asked.clone());
    let c = Fake::start(&neighbourhood, "c.test", move |_: Request| {
        counts.fetch_add(1, Ordering::Relaxed);
        std::future::ready(tell(*tells.lock()))
    });
    let c = c.await;
    for lie in LIES {
        let begun = Instant::now();
        *told.lock() = lie;
        asked.store(0, Ordering::Relaxed);
        let (status, body) = c.get("a.test", PROFILE).await;
        assert_eq!(status, 401, "{lie:?}: {body}");
        assert!(asked.load(Ordering::Relaxed) > 0, "{lie:?} was not told");
        assert!(begun.elapsed() < Duration::from_secs(15), "{lie:?}");
        // It would not ask again at once.
        a.terminate().await;
        a.start().await;
    }
    let known = a.api().get("/_matrix/key/v2/query/c.test").await.ok();
    let keys = known["server_keys"].as_array().unwrap();
    // Only what c.test really signed may have been kept.
    assert!(keys.len() <= 1, "{known}");
    a.api()
        .get("/_matrix/client/v3/profile/%40alice%3Aa.test")
        .await
        .ok();
}
