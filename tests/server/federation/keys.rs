//! Which keys are believed, and from whom (docs/security-tests.md, CVE-2024-6299).

use std::sync::Arc;

use axum::extract::Request;
use engram::crypto::signing_key::ServerKey;
use engram::matrix::canonical_json::{CanonicalJsonObject, to_bytes};
use engram::matrix::signing::sign_json;
use http::StatusCode;
use parking_lot::Mutex;
use ruma::ServerName;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::fake::{FAR, Fake, answer, own_keys};

const PROFILE: &str = "/_matrix/federation/v1/query/profile?user_id=%40alice%3Aa.test";
/// Long ago: 2001.
const PAST: u64 = 1_000_000_000_000;

fn key(seed: u8) -> ServerKey {
    ServerKey::from_seed([seed; 32], "fake")
}

/// A server whose answers about keys a test changes; it answers nothing else.
async fn with_answers(
    neighbourhood: &Neighbourhood,
    name: &'static str,
) -> (Fake, Arc<Mutex<Option<CanonicalJsonObject>>>) {
    let told: Arc<Mutex<Option<CanonicalJsonObject>>> = Arc::default();
    let tells = told.clone();
    let fake = Fake::start(neighbourhood, name, move |_: Request| {
        std::future::ready(match &*tells.lock() {
            Some(json) => answer(StatusCode::OK, to_bytes(json)),
            None => answer(StatusCode::NOT_FOUND, b"{}".to_vec()),
        })
    });
    (fake.await, told)
}

/// A new key under an id that was known before is another's, or a mistake; what
/// was signed before could not be told from what is signed now.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_6299_another_key_under_a_known_id_is_not_taken() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    a.register("alice").await;
    let (mut c, told) = with_answers(&neighbourhood, "c.test").await;
    // Known, but good for nothing any more, so that it is asked for again.
    *told.lock() = Some(own_keys("c.test", &key(3), PAST));
    assert_eq!(c.get("a.test", PROFILE).await.0, 401);
    *told.lock() = Some(own_keys("c.test", &key(4), FAR));
    c.key = Arc::new(key(4));
    assert_eq!(c.get("a.test", PROFILE).await.0, 401);
    // The one that was there stays good, once its server says so.
    *told.lock() = Some(own_keys("c.test", &key(3), FAR));
    assert_eq!(c.get("a.test", PROFILE).await.0, 401);
    c.key = Arc::new(key(3));
    assert_eq!(c.get("a.test", PROFILE).await.0, 200);
}

/// A notary speaks with its own signature, for a server that signed as well.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_6299_a_notary_is_believed_with_both_signatures_only() {
    let named = |name: &str| <&ServerName>::try_from(name).unwrap().to_owned();
    let by_notary = |mut json: CanonicalJsonObject, key: &ServerKey| {
        sign_json(&mut json, &named("c.test"), key);
        json
    };
    let of_b = || own_keys("b.test", &key(5), FAR);
    let unsigned = || {
        let mut json = of_b();
        json.remove("signatures");
        json
    };
    let altered = || {
        let mut json = of_b();
        let other = own_keys("b.test", &key(6), FAR);
        json.insert("verify_keys".to_owned(), other["verify_keys"].clone());
        json
    };
    let answers: [(&str, CanonicalJsonObject, u16); 5] = [
        ("the server's alone", of_b(), 401),
        ("the notary's alone", by_notary(unsigned(), &key(3)), 401),
        ("another's than the notary", by_notary(of_b(), &key(7)), 401),
        ("of other keys", by_notary(altered(), &key(3)), 401),
        ("both", by_notary(of_b(), &key(3)), 200),
    ];
    for (what, told, status) in answers {
        let neighbourhood = Neighbourhood::new();
        let builder = neighbourhood.builder("a.test");
        let a = builder.set("FEDERATION__NOTARIES", "c.test").start().await;
        a.register("alice").await;
        let told: Value = serde_json::from_slice(&to_bytes(&told)).unwrap();
        let told = json!({ "server_keys": [told] }).to_string();
        let own = to_bytes(&own_keys("c.test", &key(3), FAR));
        let _notary = Fake::start(&neighbourhood, "c.test", move |request: Request| {
            let path = request.uri().path();
            std::future::ready(match path.starts_with("/_matrix/key/v2/query") {
                true => answer(StatusCode::OK, told.clone().into_bytes()),
                false => answer(StatusCode::OK, own.clone()),
            })
        })
        .await;
        // It does not say which keys it has.
        let (mut b, _) = with_answers(&neighbourhood, "b.test").await;
        b.key = Arc::new(key(5));
        assert_eq!(b.get("a.test", PROFILE).await.0, status, "{what}");
    }
}
