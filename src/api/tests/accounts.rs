//! Registration, passwords, deactivation.

use serde_json::json;

use super::{Doors, PASSWORD};

#[tokio::test]
async fn registering_takes_a_challenge_and_gives_a_session() {
    let doors = Doors::open();
    let body = json!({ "username": "Alice", "password": PASSWORD });
    let challenge = doors.post("/v3/register", None, body).await;
    assert_eq!(challenge.error(), (401, ""));
    assert_eq!(
        challenge.body["flows"],
        json!([{ "stages": ["m.login.dummy"] }])
    );
    let body = json!({
        "username": "Alice",
        "password": PASSWORD,
        "auth": { "type": "m.login.dummy", "session": challenge.body["session"] },
        "device_id": "PHONE",
        "refresh_token": true,
    });
    let session = doors.post("/v3/register", None, body).await.ok();
    assert_eq!(session["user_id"], "@alice:hs");
    assert_eq!(session["device_id"], "PHONE");
    assert_eq!(session["expires_in_ms"], 3_600_000);
    assert!(session["refresh_token"].is_string());
    let token = session["access_token"].as_str().unwrap();
    let who = doors.get("/v3/account/whoami", token).await.ok();
    let expected = json!({ "user_id": "@alice:hs", "device_id": "PHONE", "is_guest": false });
    assert_eq!(who, expected);
}

#[tokio::test]
async fn registering_without_login_gives_no_session() {
    let doors = Doors::open();
    let body = json!({ "inhibit_login": true, "auth": { "type": "m.login.dummy" } });
    let session = doors.post("/r0/register", None, body).await.ok();
    let keys: Vec<_> = session.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["user_id"]);
}

#[tokio::test]
async fn a_registration_remembers_what_was_asked_first() {
    let doors = Doors::open();
    let body = json!({
        "username": "alice",
        "password": PASSWORD,
        "device_id": "PHONE",
        "initial_device_display_name": "Phone",
        "refresh_token": true,
    });
    let challenge = doors.post("/v3/register", None, body).await;
    let auth = json!({ "type": "m.login.dummy", "session": challenge.body["session"] });
    let rest = json!({ "auth": auth });
    let session = doors.post("/v3/register", None, rest.clone()).await.ok();
    assert_eq!(session["user_id"], "@alice:hs");
    assert_eq!(session["device_id"], "PHONE");
    assert!(session["refresh_token"].is_string());
    let login = json!({ "type": "m.login.password", "user": "alice", "password": PASSWORD });
    doors.post("/v3/login", None, login).await.ok();

    // The answer got lost: the same request gives the same account and device.
    let again = doors.post("/v3/register", None, rest).await.ok();
    assert_eq!(again["user_id"], "@alice:hs");
    assert_eq!(again["device_id"], "PHONE");
    let token = again["access_token"].as_str().unwrap();
    assert_ne!(session["access_token"], token);
    let device = doors.get("/v3/devices/PHONE", token).await.ok();
    assert_eq!(device["display_name"], "Phone");
    // Another session makes nothing of it.
    let taken = json!({ "username": "alice", "auth": { "type": "m.login.dummy" } });
    let taken = doors.post("/v3/register", None, taken).await;
    assert_eq!(taken.error(), (400, "M_USER_IN_USE"));
}

#[tokio::test]
async fn a_repeated_registration_makes_one_account() {
    let doors = Doors::open();
    let body = json!({ "password": PASSWORD });
    let challenge = doors.post("/v3/register", None, body).await;
    let auth = json!({ "type": "m.login.dummy", "session": challenge.body["session"] });
    let body = json!({ "auth": auth });
    let first = doors.post("/v3/register", None, body.clone()).await.ok();
    let quiet = json!({ "auth": auth, "inhibit_login": true });
    let again = doors.post("/v3/register", None, quiet).await.ok();
    assert_eq!(again, json!({ "user_id": first["user_id"] }));
    // A closed account is not opened by it.
    let token = first["access_token"].as_str().unwrap();
    let password =
        json!({ "type": "m.login.password", "user": first["user_id"], "password": PASSWORD });
    let confirmed = json!({ "auth": password });
    doors
        .post("/v3/account/deactivate", Some(token), confirmed)
        .await
        .ok();
    let closed = doors.post("/v3/register", None, body).await;
    assert_eq!(closed.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn names_are_checked_before_the_authentication() {
    let doors = Doors::open();
    doors.register("alice").await;
    let long = "a".repeat(255);
    for (name, code) in [
        ("ALICE", "M_USER_IN_USE"),
        ("", "M_INVALID_USERNAME"),
        ("_bridge", "M_INVALID_USERNAME"),
        ("al ice", "M_INVALID_USERNAME"),
        ("älice", "M_INVALID_USERNAME"),
        ("al:ice", "M_INVALID_USERNAME"),
        (&long, "M_INVALID_USERNAME"),
    ] {
        let answer = doors
            .post("/v3/register", None, json!({ "username": name }))
            .await;
        assert_eq!(answer.error(), (400, code), "{name}");
        if name.is_ascii() && !name.contains(' ') {
            let path = format!("/v3/register/available?username={name}");
            let answer = doors.get(&path, "").await;
            assert_eq!(answer.error(), (400, code), "{name}");
        }
    }
    let free = doors
        .get("/v3/register/available?username=bob", "")
        .await
        .ok();
    assert_eq!(free, json!({ "available": true }));
}

#[tokio::test]
async fn passwords_have_bounds() {
    let doors = Doors::open();
    let long = "x".repeat(513);
    for (password, code) in [("1234567", "M_WEAK_PASSWORD"), (&*long, "M_INVALID_PARAM")] {
        let body = json!({ "password": password });
        let answer = doors.post("/v3/register", None, body).await;
        assert_eq!(answer.error(), (400, code));
    }
}

#[tokio::test]
async fn closed_registration_is_closed_for_guests_too() {
    let doors = Doors::with(|_| {});
    let body = json!({ "auth": { "type": "m.login.dummy" } });
    let answer = doors.post("/v3/register", None, body).await;
    assert_eq!(answer.error(), (403, "M_FORBIDDEN"));
    let doors = Doors::open();
    let guest = doors.post("/v3/register?kind=guest", None, json!({})).await;
    assert_eq!(guest.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn a_registration_token_opens_the_door_and_no_other() {
    let doors = Doors::with(|settings| {
        settings.registration.token = Some("sesame".to_owned());
        settings.rate_limits_enabled = false;
    });
    let validity = "/v1/register/m.login.registration_token/validity?token=";
    assert_eq!(
        doors.get(&format!("{validity}sesame"), "").await.ok()["valid"],
        true
    );
    assert_eq!(
        doors.get(&format!("{validity}poppy"), "").await.ok()["valid"],
        false
    );
    let kind = "m.login.registration_token";
    for (auth, code) in [
        (json!({ "type": "m.login.dummy" }), "M_FORBIDDEN"),
        (json!({ "type": kind, "token": "poppy" }), "M_FORBIDDEN"),
    ] {
        let answer = doors
            .post("/v3/register", None, json!({ "auth": auth }))
            .await;
        assert_eq!(answer.error(), (401, code));
        assert_eq!(answer.body["flows"], json!([{ "stages": [kind] }]));
    }
    let body = json!({ "username": "a", "auth": { "type": kind, "token": "sesame" } });
    assert_eq!(
        doors.post("/v3/register", None, body).await.ok()["user_id"],
        "@a:hs"
    );
    let closed = Doors::with(|_| {});
    let answer = closed.get(&format!("{validity}sesame"), "").await;
    assert_eq!(answer.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn a_new_password_logs_out_other_devices_only() {
    let doors = Doors::open();
    let here = doors.token_of("alice").await;
    let login = |password: &str| {
        json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "alice" },
            "password": password,
        })
    };
    let there = doors.post("/v3/login", None, login(PASSWORD)).await.ok();
    let there = there["access_token"].as_str().unwrap();
    let new = "new password";
    let challenge = json!({ "new_password": new });
    let challenge = doors
        .post("/v3/account/password", Some(&here), challenge)
        .await;
    assert_eq!(
        challenge.body["flows"],
        json!([{ "stages": ["m.login.password"] }])
    );
    let request = |user: &str, password: &str| {
        json!({
            "new_password": new,
            "auth": {
                "type": "m.login.password",
                "session": challenge.body["session"],
                "identifier": { "type": "m.id.user", "user": user },
                "password": password,
            },
        })
    };
    let wrong = request("alice", "wrong");
    let answer = doors.post("/v3/account/password", Some(&here), wrong).await;
    assert_eq!(answer.error(), (401, "M_FORBIDDEN"));
    assert_eq!(answer.body["completed"], json!([]));
    // Another user's password, be it right: trying again is no use.
    for name in ["@bob:hs", "@alice:elsewhere"] {
        let wrong = request(name, PASSWORD);
        let answer = doors.post("/v3/account/password", Some(&here), wrong).await;
        assert_eq!(answer.error(), (403, "M_FORBIDDEN"), "{name}");
    }
    let right = request("@alice:hs", PASSWORD);
    doors
        .post("/v3/account/password", Some(&here), right)
        .await
        .ok();
    doors.get("/v3/account/whoami", &here).await.ok();
    let gone = doors.get("/v3/account/whoami", there).await;
    assert_eq!(gone.error(), (401, "M_UNKNOWN_TOKEN"));
    let old = doors.post("/v3/login", None, login(PASSWORD)).await;
    assert_eq!(old.error(), (403, "M_FORBIDDEN"));
    doors.post("/v3/login", None, login(new)).await.ok();
}

#[tokio::test]
async fn deactivation_ends_everything() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    let name = json!({ "displayname": "Alice" });
    doors
        .put("/v3/profile/@alice:hs/displayname", &token, name)
        .await
        .ok();
    let auth = json!({ "type": "m.login.password", "user": "alice", "password": PASSWORD });
    let answer = doors
        .post(
            "/v3/account/deactivate",
            Some(&token),
            json!({ "auth": auth }),
        )
        .await;
    assert_eq!(answer.ok(), json!({ "id_server_unbind_result": "success" }));
    let gone = doors.get("/v3/account/whoami", &token).await;
    assert_eq!(gone.error(), (401, "M_UNKNOWN_TOKEN"));
    let login = json!({ "type": "m.login.password", "user": "alice", "password": PASSWORD });
    let answer = doors.post("/v3/login", None, login).await;
    assert_eq!(answer.error(), (403, "M_USER_DEACTIVATED"));
    let profile = doors.get("/v3/profile/@alice:hs", "").await;
    assert_eq!(profile.error(), (404, "M_NOT_FOUND"));
    let body = json!({ "username": "alice", "auth": { "type": "m.login.dummy" } });
    let again = doors.post("/v3/register", None, body).await;
    assert_eq!(again.error(), (400, "M_USER_IN_USE"));
}
