//! Login in all its forms, refresh, logout, devices, rate limits.

use serde_json::{Value, json};

use super::{Doors, PASSWORD};
use crate::writers::submit::AppendError;

fn login(identifier: Value) -> Value {
    json!({ "type": "m.login.password", "identifier": identifier, "password": PASSWORD })
}

#[tokio::test]
async fn every_way_to_name_a_user_logs_in() {
    let doors = Doors::open();
    doors.register("alice").await;
    let old = json!({ "type": "m.login.password", "user": "@alice:hs", "password": PASSWORD });
    for body in [
        login(json!({ "type": "m.id.user", "user": "alice" })),
        login(json!({ "type": "m.id.user", "user": "@alice:hs" })),
        login(json!({ "type": "m.id.user", "user": "ALICE" })),
        old,
    ] {
        let session = doors.post("/v3/login", None, body).await.ok();
        assert_eq!(session["user_id"], "@alice:hs");
        assert!(session.get("refresh_token").is_none() && session.get("expires_in_ms").is_none());
    }
}

#[tokio::test]
async fn who_cannot_log_in_learns_no_more() {
    let doors = Doors::open();
    doors.register("alice").await;
    let wrong = json!({ "type": "m.login.password", "user": "alice", "password": "wrong" });
    let mut texts = Vec::new();
    for body in [
        wrong,
        login(json!({ "type": "m.id.user", "user": "nobody" })),
        login(json!({ "type": "m.id.user", "user": "@alice:elsewhere" })),
        login(json!({ "type": "m.id.thirdparty", "medium": "email", "address": "a@b.c" })),
        login(json!({ "medium": "email", "address": "a@b.c" })),
        login(json!({ "type": "m.id.phone", "country": "GB", "phone": "1" })),
    ] {
        let answer = doors.post("/v3/login", None, body).await;
        assert_eq!(answer.error(), (403, "M_FORBIDDEN"));
        texts.push(answer.body["error"].clone());
    }
    texts.dedup();
    assert_eq!(texts.len(), 1);
}

#[tokio::test]
async fn a_known_device_keeps_its_name_and_loses_its_token() {
    let doors = Doors::open();
    doors.register("alice").await;
    let mut body = login(json!({ "type": "m.id.user", "user": "alice" }));
    body["device_id"] = json!("PHONE");
    body["initial_device_display_name"] = json!("Phone");
    let first = doors.post("/v3/login", None, body.clone()).await.ok();
    body["initial_device_display_name"] = json!("Other");
    let second = doors.post("/v3/login", None, body).await.ok();
    let first = first["access_token"].as_str().unwrap();
    let second = second["access_token"].as_str().unwrap();
    let answer = doors.get("/v3/devices/PHONE", first).await;
    assert_eq!(answer.error(), (401, "M_UNKNOWN_TOKEN"));
    let device = doors.get("/v3/devices/PHONE", second).await.ok();
    assert_eq!(device["device_id"], "PHONE");
    assert_eq!(device["display_name"], "Phone");
}

#[tokio::test]
async fn an_expired_token_is_soft_logged_out_and_refreshed_once() {
    let doors = Doors::open();
    doors.register("alice").await;
    let mut body = login(json!({ "type": "m.id.user", "user": "alice" }));
    body["refresh_token"] = json!(true);
    let session = doors.post("/v3/login", None, body).await.ok();
    let access = session["access_token"].as_str().unwrap();
    doors.world.expire_tokens();
    let expired = doors.get("/v3/account/whoami", access).await;
    assert_eq!(expired.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(expired.body["soft_logout"], true);
    let refresh = json!({ "refresh_token": session["refresh_token"] });
    let fresh = doors.post("/v3/refresh", None, refresh.clone()).await.ok();
    doors
        .get(
            "/v3/account/whoami",
            fresh["access_token"].as_str().unwrap(),
        )
        .await
        .ok();
    let spent = doors.post("/v3/refresh", None, refresh).await;
    assert_eq!(spent.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(spent.body["soft_logout"], true);
    // An access token is no refresh token.
    let wrong = json!({ "refresh_token": fresh["access_token"] });
    let answer = doors.post("/v3/refresh", None, wrong).await;
    assert_eq!(answer.error(), (401, "M_UNKNOWN_TOKEN"));
}

#[tokio::test]
async fn logging_out_ends_one_device_or_all() {
    let doors = Doors::open();
    let one = doors.token_of("alice").await;
    let body = login(json!({ "type": "m.id.user", "user": "alice" }));
    let two = doors.post("/v3/login", None, body.clone()).await.ok();
    let two = two["access_token"].as_str().unwrap();
    doors.post("/v3/logout", Some(&one), json!({})).await.ok();
    assert_eq!(doors.get("/v3/devices", &one).await.error().0, 401);
    let devices = doors.get("/v3/devices", two).await.ok();
    assert_eq!(devices["devices"].as_array().unwrap().len(), 1);
    // No body at all is what many clients send.
    let answer = doors.call("POST", "/v3/logout/all", Some(two), "").await;
    answer.ok();
    assert_eq!(doors.get("/v3/devices", two).await.error().0, 401);
}

#[tokio::test]
async fn devices_are_removed_with_the_password() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    let mut body = login(json!({ "type": "m.id.user", "user": "alice" }));
    for device in ["A", "B", "C"] {
        body["device_id"] = json!(device);
        doors.post("/v3/login", None, body.clone()).await.ok();
    }
    let challenge = doors
        .call("DELETE", "/v3/devices/A", Some(&token), "")
        .await;
    assert_eq!(challenge.status, 401);
    let auth = json!({ "type": "m.login.password", "user": "alice", "password": PASSWORD });
    let with_auth = json!({ "auth": auth }).to_string();
    doors
        .call("DELETE", "/v3/devices/A", Some(&token), with_auth)
        .await
        .ok();
    let body = json!({ "auth": auth, "devices": ["B", "C", "not there"] });
    doors
        .post("/v3/delete_devices", Some(&token), body)
        .await
        .ok();
    let devices = doors.get("/v3/devices", &token).await.ok();
    assert_eq!(devices["devices"].as_array().unwrap().len(), 1);
    assert_eq!(
        doors.get("/v3/devices/A", &token).await.error(),
        (404, "M_NOT_FOUND")
    );
}

#[tokio::test]
async fn a_token_in_the_query_counts_and_a_wrong_one_does_not() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    let path = format!("/v3/account/whoami?access_token={token}");
    doors.call("GET", &path, None, "").await.ok();
    for (path, token, code) in [
        ("/v3/account/whoami", None, "M_MISSING_TOKEN"),
        ("/v3/account/whoami?access_token=", None, "M_MISSING_TOKEN"),
        ("/v3/account/whoami", Some("unknown"), "M_UNKNOWN_TOKEN"),
        (
            "/v3/account/whoami?access_token=unknown",
            None,
            "M_UNKNOWN_TOKEN",
        ),
    ] {
        let answer = doors.call("GET", path, token, "").await;
        assert_eq!(answer.error(), (401, code), "{path}");
        assert!(answer.body.get("soft_logout").is_none());
    }
}

#[tokio::test]
async fn failed_logins_are_slowed_down_and_told_so() {
    let doors = Doors::with(|settings| settings.registration.open = true);
    doors.register("alice").await;
    let wrong = json!({ "type": "m.login.password", "user": "alice", "password": "wrong" });
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(doors.post("/v3/login", None, wrong.clone()).await);
    }
    let last = answers.pop().unwrap();
    assert_eq!(last.error(), (429, "M_LIMIT_EXCEEDED"));
    assert!(last.body["retry_after_ms"].as_u64().unwrap() > 0);
    let seconds = last.headers["retry-after"].to_str().unwrap();
    assert!(seconds.parse::<u64>().unwrap() > 0);
    assert_eq!(answers[0].error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn what_the_log_does_not_take_is_not_acknowledged() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    let path = "/v3/user/@alice:hs/account_data/com.example";
    for (error, expected) in [
        (AppendError::DiskFull, (503, "M_RESOURCE_LIMIT_EXCEEDED")),
        (AppendError::Overloaded, (503, "M_LIMIT_EXCEEDED")),
        (AppendError::Closed, (503, "M_UNKNOWN")),
        (AppendError::OutcomeUnknown, (503, "M_UNKNOWN")),
        (
            AppendError::TooLarge { bytes: 2, max: 1 },
            (413, "M_TOO_LARGE"),
        ),
    ] {
        doors.world.refuse_next(error);
        let answer = doors.put(path, &token, json!({ "a": 1 })).await;
        assert_eq!(answer.error(), expected);
        if expected.1 == "M_RESOURCE_LIMIT_EXCEEDED" {
            assert_eq!(answer.body["admin_contact"], "mailto:postmaster@hs");
        }
        assert_eq!(
            answer.headers.contains_key("retry-after"),
            expected.0 == 503
        );
        assert_eq!(doors.get(path, &token).await.error(), (404, "M_NOT_FOUND"));
    }
    // It recovers by itself.
    doors.put(path, &token, json!({ "a": 1 })).await.ok();
}
