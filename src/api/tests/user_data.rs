//! Profile, account data, filters, push rules, discovery.

use serde_json::json;

use super::Doors;

#[tokio::test]
async fn a_profile_is_set_read_and_cleared_by_field() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    let base = "/v3/profile/@alice:hs";
    // Others are shown a name until the user chooses another.
    let fresh = json!({ "displayname": "alice" });
    assert_eq!(doors.get(base, "").await.ok(), fresh);
    for (key, value) in [
        ("displayname", json!("Älice 🦀")),
        ("avatar_url", json!("mxc://hs/abc")),
        ("m.tz", json!("Europe/London")),
        (
            "com.example.job",
            json!({ "title": ["Engineer", null, 1.5] }),
        ),
    ] {
        let path = format!("{base}/{key}");
        doors.put(&path, &token, json!({ key: value })).await.ok();
        assert_eq!(doors.get(&path, "").await.ok(), json!({ key: value }));
    }
    assert_eq!(doors.get(base, "").await.ok().as_object().unwrap().len(), 4);
    let path = format!("{base}/com.example.job");
    for _ in 0..2 {
        doors.call("DELETE", &path, Some(&token), "").await.ok();
    }
    assert_eq!(doors.get(&path, "").await.error(), (404, "M_NOT_FOUND"));
    // An empty avatar removes it.
    let path = format!("{base}/avatar_url");
    doors
        .put(&path, &token, json!({ "avatar_url": "" }))
        .await
        .ok();
    assert_eq!(doors.get(&path, "").await.error(), (404, "M_NOT_FOUND"));
    for (user, error) in [
        ("@nobody:hs", (404, "M_NOT_FOUND")),
        // No such server either.
        ("@alice:elsewhere", (502, "M_UNKNOWN")),
    ] {
        let answer = doors.get(&format!("/v3/profile/{user}"), "").await;
        assert_eq!(answer.error(), error);
    }
}

#[tokio::test]
async fn a_profile_has_bounds() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    let long = |n: usize| "x".repeat(n);
    let key = format!("com.{}", long(252));
    for (key, value, code) in [
        ("displayname", json!(long(257)), "M_INVALID_PARAM"),
        ("displayname", json!(1), "M_BAD_JSON"),
        ("displayname", json!(null), "M_BAD_JSON"),
        ("avatar_url", json!("https://hs/a.png"), "M_INVALID_PARAM"),
        (
            "avatar_url",
            json!(format!("mxc://hs/{}", long(1_000))),
            "M_INVALID_PARAM",
        ),
        ("Displayname", json!(""), "M_INVALID_PARAM"),
        ("plain", json!(""), "M_INVALID_PARAM"),
        ("com..example", json!(""), "M_INVALID_PARAM"),
        ("com.example", json!(long(65_600)), "M_PROFILE_TOO_LARGE"),
        (&key, json!(""), "M_KEY_TOO_LARGE"),
    ] {
        let path = format!("/v3/profile/@alice:hs/{key}");
        let answer = doors.put(&path, &token, json!({ key: value })).await;
        assert_eq!(answer.error(), (400, code), "{key}");
    }
    let path = "/v3/profile/@alice:hs/displayname";
    let answer = doors.put(path, &token, json!({ "name": "x" })).await;
    assert_eq!(answer.error(), (400, "M_MISSING_PARAM"));
    doors
        .put(path, &token, json!({ "displayname": long(256) }))
        .await
        .ok();
    // Fields add up.
    let half = long(33_000);
    let first = json!({ "com.a": half });
    doors
        .put("/v3/profile/@alice:hs/com.a", &token, first)
        .await
        .ok();
    let answer = doors
        .put(
            "/v3/profile/@alice:hs/com.b",
            &token,
            json!({ "com.b": half }),
        )
        .await;
    assert_eq!(answer.error(), (400, "M_PROFILE_TOO_LARGE"));
}

#[tokio::test]
async fn account_data_is_kept_by_type_and_room() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    let global = "/v3/user/@alice:hs/account_data/m.direct";
    let room = "/v3/user/@alice:hs/rooms/!room:hs/account_data/m.direct";
    let content = json!({ "@bob:hs": ["!room:hs"], "float": 1.5 });
    assert_eq!(
        doors.get(global, &token).await.error(),
        (404, "M_NOT_FOUND")
    );
    doors.put(global, &token, content.clone()).await.ok();
    assert_eq!(doors.get(global, &token).await.ok(), content);
    assert_eq!(doors.get(room, &token).await.error(), (404, "M_NOT_FOUND"));
    doors.put(room, &token, json!({})).await.ok();
    assert_eq!(doors.get(room, &token).await.ok(), json!({}));
    // The same again is no record.
    let before = doors.world.appended();
    doors.put(global, &token, content).await.ok();
    assert_eq!(doors.world.appended(), before);
}

#[tokio::test]
async fn server_controlled_account_data_is_read_only() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    for event_type in ["m.fully_read", "m.push_rules"] {
        for scope in ["", "/rooms/!room:hs"] {
            let path = format!("/v3/user/@alice:hs{scope}/account_data/{event_type}");
            let answer = doors.put(&path, &token, json!({})).await;
            assert_eq!(answer.error(), (405, "M_BAD_JSON"), "{path}");
        }
    }
    let path = "/v3/user/@alice:hs/account_data/m.push_rules";
    let rules = doors.get(path, &token).await.ok();
    assert!(rules["global"]["override"].is_array());
}

#[tokio::test]
async fn other_users_data_is_out_of_reach() {
    let doors = Doors::open();
    let alice = doors.token_of("alice").await;
    doors.register("bob").await;
    for (method, path) in [
        ("GET", "/v3/user/@bob:hs/account_data/m.direct"),
        ("PUT", "/v3/user/@bob:hs/account_data/m.direct"),
        ("GET", "/v3/user/@bob:hs/rooms/!r:hs/account_data/m.tag"),
        ("PUT", "/v3/user/@bob:hs/rooms/!r:hs/account_data/m.tag"),
        ("POST", "/v3/user/@bob:hs/filter"),
        ("GET", "/v3/user/@bob:hs/filter/0"),
        ("PUT", "/v3/profile/@bob:hs/displayname"),
        ("DELETE", "/v3/profile/@bob:hs/displayname"),
    ] {
        let answer = doors.call(method, path, Some(&alice), "{}").await;
        assert_eq!(answer.error(), (403, "M_FORBIDDEN"), "{method} {path}");
    }
}

#[tokio::test]
async fn a_filter_is_stored_once_and_served_as_sent() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    let path = "/v3/user/@alice:hs/filter";
    let filter = json!({ "room": { "timeline": { "limit": 10 } }, "com.example": true });
    let first = doors.post(path, Some(&token), filter.clone()).await.ok();
    let again = doors.post(path, Some(&token), filter.clone()).await.ok();
    assert_eq!(first, again);
    let id = first["filter_id"].as_str().unwrap();
    assert_eq!(
        doors.get(&format!("{path}/{id}"), &token).await.ok(),
        filter
    );
    let unknown = doors.get(&format!("{path}/unknown"), &token).await;
    assert_eq!(unknown.error(), (404, "M_NOT_FOUND"));
    for bad in [
        json!({ "room": 1 }),
        json!({ "room": { "timeline": { "limit": "x" } } }),
    ] {
        let answer = doors.post(path, Some(&token), bad).await;
        assert_eq!(answer.error(), (400, "M_BAD_JSON"));
    }
}

#[tokio::test]
async fn predefined_push_rules_are_served() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    let all = doors.get("/v3/pushrules/", &token).await.ok();
    assert_eq!(
        all["global"],
        doors.get("/v3/pushrules/global/", &token).await.ok()
    );
    let path = "/v3/pushrules/global/override/.m.rule.master";
    let rule = doors.get(path, &token).await.ok();
    assert_eq!(rule["rule_id"], ".m.rule.master");
    let enabled = doors.get(&format!("{path}/enabled"), &token).await.ok();
    assert_eq!(enabled, json!({ "enabled": false }));
    let actions = doors.get(&format!("{path}/actions"), &token).await.ok();
    assert_eq!(actions, json!({ "actions": [] }));
    for (path, error) in [
        ("override/none", (404, "M_NOT_FOUND")),
        ("nosuch/.m.rule.master", (400, "M_INVALID_PARAM")),
    ] {
        let path = format!("/v3/pushrules/global/{path}");
        assert_eq!(doors.get(&path, &token).await.error(), error);
    }
}

#[tokio::test]
async fn discovery_says_what_is_configured() {
    let doors = Doors::open();
    let versions = doors.get("/versions", "").await.ok();
    assert!(
        versions["versions"]
            .as_array()
            .unwrap()
            .contains(&json!("v1.1"))
    );
    let features = &versions["unstable_features"];
    assert_eq!(features["org.matrix.simplified_msc3575"], true);
    let missing = doors.get("/.well-known/matrix/client", "").await;
    assert_eq!(missing.error(), (404, "M_NOT_FOUND"));
    let doors = Doors::with(|settings| {
        settings.registration.open = true;
        settings.public_base_url = Some("https://hs.example".to_owned());
    });
    let found = doors.get("/.well-known/matrix/client", "").await.ok();
    assert_eq!(
        found,
        json!({ "m.homeserver": { "base_url": "https://hs.example" } })
    );
    let token = doors.token_of("alice").await;
    let capabilities = doors.get("/v3/capabilities", &token).await.ok();
    assert_eq!(
        capabilities["capabilities"]["m.room_versions"]["default"],
        "12"
    );
    assert_eq!(
        doors.get("/v3/account/3pid", &token).await.ok(),
        json!({ "threepids": [] })
    );
}
