//! Presence: set, followed from syncs, told to whom it concerns and to nobody else.

use serde_json::{Value, json};

use super::{in_a_room, moved, next, since};
use crate::harness::{Answer, Api, Builder, Server, escape};
use crate::rooms::act;

fn builder() -> Builder {
    Server::builder().set("PRESENCE__ENABLED", true)
}

async fn two_in_a_room() -> (Server, Api, Api, String) {
    let server = builder().start().await;
    let (alice, bob, room) = in_a_room(&server).await;
    (server, alice, bob, room)
}

/// Says nothing of the user who asks.
const QUIET: &str = "set_presence=offline";

fn status_path(user: &str) -> String {
    format!("/_matrix/client/v3/presence/{}/status", escape(user))
}

async fn set(api: &Api, body: Value) -> Answer {
    api.put(&status_path(&api.user_id), body).await
}

async fn status(api: &Api, of: &str) -> Value {
    api.get(&status_path(of)).await.ok()
}

/// What an answer tells of a user; none if it tells nothing.
fn told(answer: &Value, user: &str) -> Option<Value> {
    let events = answer["presence"]["events"].as_array();
    let mut of_user = events
        .into_iter()
        .flatten()
        .filter(|event| event["sender"] == user);
    let event = of_user.next()?;
    assert_eq!(event["type"], "m.presence");
    assert!(of_user.next().is_none(), "once at most: {answer}");
    Some(event["content"].clone())
}

fn word(content: Option<&Value>) -> Option<&str> {
    content?["presence"].as_str()
}

/// A first sync that says nothing of the user: its token.
async fn token(api: &Api) -> String {
    next(&api.sync(QUIET).await)
}

/// What is new, without saying anything of the user.
async fn quietly(api: &Api, token: &mut String, wait_ms: u32) -> Value {
    let answer = api
        .sync(&format!("{QUIET}&since={token}&timeout={wait_ms}"))
        .await;
    *token = next(&answer);
    answer
}

/// Syncs until something is told of a user.
async fn until_told(api: &Api, token: &mut String, user: &str) -> Value {
    loop {
        let answer = quietly(api, token, 30_000).await;
        if let Some(content) = told(&answer, user) {
            return content;
        }
    }
}

const ALICE: &str = "@alice:hs.test";
const BOB: &str = "@bob:hs.test";

#[tokio::test]
async fn what_is_set_is_told_to_who_shares_a_room() {
    let (server, alice, bob, room) = two_in_a_room().await;
    let carol = server.register("carol").await;
    let (mut a, mut c) = (token(&alice).await, token(&carol).await);
    assert_eq!(status(&bob, BOB).await, json!({ "presence": "offline" }));

    // One who waits is told, and what is told is whole.
    let waiting = {
        let (alice, token) = (alice.clone(), a.clone());
        tokio::spawn(async move {
            let query = format!("{QUIET}&since={token}&timeout=30000");
            alice.sync(&query).await
        })
    };
    let body = json!({ "presence": "online", "status_msg": "reading" });
    assert_eq!(set(&bob, body).await.ok(), json!({}));
    let answer = waiting.await.unwrap();
    a = next(&answer);
    let content = told(&answer, BOB).expect("bob is told of");
    assert_eq!(word(Some(&content)), Some("online"));
    assert_eq!(content["status_msg"], "reading");
    assert_eq!(content["currently_active"], true);
    assert!(content["last_active_ago"].as_u64().unwrap() < 30_000);
    let seen = status(&alice, BOB).await;
    assert_eq!(
        (&seen["presence"], &seen["status_msg"]),
        (&json!("online"), &json!("reading"))
    );
    // Once, and the same again is no news.
    set(
        &bob,
        json!({ "presence": "online", "status_msg": "reading" }),
    )
    .await
    .ok();
    assert_eq!(told(&quietly(&alice, &mut a, 300).await, BOB), None);

    set(&bob, json!({ "presence": "unavailable" })).await.ok();
    let content = told(&quietly(&alice, &mut a, 0).await, BOB).unwrap();
    assert_eq!(word(Some(&content)), Some("unavailable"));
    assert!(content.get("status_msg").is_none() && content.get("currently_active").is_none());
    // A message makes its sender online.
    bob.send_text(&room, "back").await;
    let content = until_told(&alice, &mut a, BOB).await;
    assert_eq!(word(Some(&content)), Some("online"));
    set(&bob, json!({ "presence": "offline", "status_msg": null }))
        .await
        .ok();
    let content = told(&quietly(&alice, &mut a, 0).await, BOB).unwrap();
    assert_eq!(word(Some(&content)), Some("offline"));
    // Who is offline stays so, whatever they do.
    bob.send_text(&room, "hidden").await;
    assert_eq!(told(&quietly(&alice, &mut a, 0).await, BOB), None);

    // Who shares no room learns nothing, and is not woken.
    let answer = quietly(&carol, &mut c, 300).await;
    assert_eq!(answer["presence"]["events"], json!([]), "{answer}");
    for user in [BOB, "@nobody:hs.test", "@a:elsewhere.test"] {
        carol
            .get(&status_path(user))
            .await
            .refused(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn a_sync_says_who_is_there() {
    let (_server, alice, bob, room) = two_in_a_room().await;
    let mut a = token(&alice).await;
    assert_eq!(status(&alice, BOB).await["presence"], "offline");

    // One's own presence is told as well, and is no reason to answer again.
    let answer = bob.sync("").await;
    assert_eq!(word(told(&answer, BOB).as_ref()), Some("online"));
    assert_eq!(told(&answer, ALICE), None, "who is offline is left out");
    let mut b = next(&answer);
    let answer = since(&bob, &mut b, 300).await;
    assert_eq!(answer["presence"]["events"], json!([]), "{answer}");
    let content = told(&quietly(&alice, &mut a, 0).await, BOB).unwrap();
    assert_eq!(word(Some(&content)), Some("online"));
    // Many syncs are one change.
    for _ in 0..5 {
        since(&bob, &mut b, 0).await;
    }
    assert_eq!(told(&quietly(&alice, &mut a, 0).await, BOB), None);

    bob.sync("set_presence=unavailable").await;
    let content = told(&quietly(&alice, &mut a, 0).await, BOB).unwrap();
    assert_eq!(word(Some(&content)), Some("unavailable"));
    bob.sync("set_presence=offline").await;
    assert_eq!(told(&quietly(&alice, &mut a, 0).await, BOB), None);
    // By sliding sync, too.
    let path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    bob.post(path, json!({})).await.ok();
    let content = told(&quietly(&alice, &mut a, 0).await, BOB).unwrap();
    assert_eq!(word(Some(&content)), Some("online"));

    // A first sync has who is there, if its filter lets them through.
    assert_eq!(
        word(told(&alice.sync(QUIET).await, BOB).as_ref()),
        Some("online")
    );
    for (filter, is_told) in [
        (json!({"types": ["m.presence"]}), true),
        (json!({"not_types": ["m.*"]}), false),
        (json!({"senders": [ALICE]}), false),
        (json!({"not_senders": [BOB]}), false),
    ] {
        let filter = json!({ "presence": filter });
        let query = format!("{QUIET}&filter={}", escape(&filter.to_string()));
        let answer = alice.sync(&query).await;
        assert_eq!(told(&answer, BOB).is_some(), is_told, "{filter}");
    }
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.ignored_user_list",
        escape(ALICE)
    );
    alice
        .put(&path, json!({"ignored_users": { BOB: {} }}))
        .await
        .ok();
    assert_eq!(told(&alice.sync(QUIET).await, BOB), None);

    // Who left learns nothing more.
    let mut b = token(&bob).await;
    act(&bob, &room, "leave", None).await.ok();
    quietly(&bob, &mut b, 0).await;
    set(&alice, json!({ "presence": "online" })).await.ok();
    let answer = quietly(&bob, &mut b, 300).await;
    assert_eq!(told(&answer, ALICE), None, "{answer}");
    bob.get(&status_path(ALICE))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn who_comes_to_share_a_room_is_told_of_the_others() {
    let (server, alice, bob, _room) = two_in_a_room().await;
    let carol = server.register("carol").await;
    for user in [&alice, &bob, &carol] {
        set(
            user,
            json!({ "presence": "online", "status_msg": user.user_id }),
        )
        .await
        .ok();
    }
    let (mut a, mut c) = (token(&alice).await, token(&carol).await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let answer = quietly(&alice, &mut a, 0).await;
    assert_eq!(answer["presence"]["events"], json!([]), "nobody is new");
    carol.join(&room).await.ok();
    let answer = quietly(&carol, &mut c, 0).await;
    assert_eq!(told(&answer, ALICE).unwrap()["status_msg"], ALICE);
    assert_eq!(told(&answer, BOB), None, "{answer}");
    let answer = quietly(&alice, &mut a, 0).await;
    let content = told(&answer, &carol.user_id).expect("carol is new to alice");
    assert_eq!(content["status_msg"], carol.user_id);
    assert_eq!(told(&answer, BOB), None, "{answer}");
    let answer = quietly(&alice, &mut a, 0).await;
    assert_eq!(answer["presence"]["events"], json!([]), "once");
}

/// Who was never there is told to be offline, once, to who newly shares a room; and
/// whoever is in no room is told of themselves.
#[tokio::test]
async fn who_was_never_there_is_told_of_and_everybody_of_themselves() {
    let server = builder().start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let mut b = token(&bob).await;
    bob.join(&room).await.ok();
    let answer = quietly(&bob, &mut b, 0).await;
    let content = told(&answer, ALICE).expect("alice is told of");
    assert_eq!(content, json!({ "presence": "offline" }));
    assert_eq!(told(&quietly(&bob, &mut b, 0).await, ALICE), None);

    let carol = server.register("carol").await;
    let status = json!({ "presence": "unavailable", "status_msg": "alone" });
    set(&carol, status).await.ok();
    let content = told(&carol.sync(QUIET).await, "@carol:hs.test").unwrap();
    assert_eq!(word(Some(&content)), Some("unavailable"));
    assert_eq!(content["status_msg"], "alone");
}

/// Clients from before `/sync` are there when they ask for the first time.
#[tokio::test]
async fn a_snapshot_of_an_old_client_tells_who_is_there() {
    let (server, alice, bob, _) = two_in_a_room().await;
    let stranger = server.register("carol").await;
    for user in [&bob, &stranger] {
        let online = json!({ "presence": "online" });
        set(user, online).await.ok();
    }
    let initial = alice.get("/_matrix/client/v3/initialSync").await.ok();
    let present = json!({ "presence": { "events": initial["presence"] } });
    for user in [ALICE, BOB] {
        let content = told(&present, user);
        assert_eq!(word(content.as_ref()), Some("online"), "{user}");
        let content = content.unwrap();
        assert!(content["last_active_ago"].is_u64());
        assert_eq!(content["user_id"], user);
    }
    assert_eq!(told(&present, "@carol:hs.test"), None);
    assert_eq!(word(Some(&status(&bob, ALICE).await)), Some("online"));

    // Of one room: its members, for members.
    let two = alice.create_room(json!({ "preset": "public_chat" })).await;
    stranger.join(&two).await.ok();
    let open = json!({ "history_visibility": "world_readable" });
    let path = format!("/_matrix/client/v3/rooms/{}/", escape(&two));
    let visibility = format!("{path}state/m.room.history_visibility");
    alice.put(&visibility, open).await.ok();
    let initial = format!("{path}initialSync");
    let of_room = alice.get(&initial).await.ok();
    let present = json!({ "presence": { "events": of_room["presence"] } });
    for user in [ALICE, "@carol:hs.test"] {
        assert_eq!(
            word(told(&present, user).as_ref()),
            Some("online"),
            "{user}"
        );
    }
    assert_eq!(told(&present, BOB), None, "bob is elsewhere");
    let from_outside = bob.get(&initial).await.ok();
    assert_eq!(from_outside["presence"], json!([]));
}

#[tokio::test]
async fn who_does_nothing_goes_idle_and_who_syncs_no_more_offline() {
    let server = builder()
        .set("PRESENCE__IDLE_SECONDS", 1)
        .set("PRESENCE__OFFLINE_SECONDS", 2)
        .start()
        .await;
    let (alice, bob, _room) = in_a_room(&server).await;
    let mut a = token(&alice).await;
    let b = next(&bob.sync("").await);
    // The sync that waits keeps bob there, and makes him do nothing.
    let filter = escape(r#"{"presence":{"types":[]},"room":{"rooms":[]}}"#);
    let waiting = {
        let bob = bob.clone();
        let query = format!("since={b}&timeout=3000&filter={filter}");
        tokio::spawn(async move { bob.sync(&query).await })
    };
    let mut words = Vec::new();
    while words.last().map(String::as_str) != Some("offline") {
        let content = until_told(&alice, &mut a, BOB).await;
        if content["presence"] == "offline" {
            assert!(waiting.is_finished(), "not while he syncs");
        }
        words.push(content["presence"].as_str().unwrap().to_owned());
    }
    assert_eq!(words, ["online", "unavailable", "offline"]);
    let ago = status(&alice, BOB).await["last_active_ago"].as_u64();
    assert!(ago.is_some_and(|ago| ago >= 3_000), "{ago:?}");
}

#[tokio::test]
async fn a_restart_forgets_no_status_and_leaves_time_to_come_back() {
    let mut server = builder().set("PRESENCE__OFFLINE_SECONDS", 2).start().await;
    let (alice, bob, _room) = in_a_room(&server).await;
    set(&bob, json!({ "presence": "online", "status_msg": "busy" }))
        .await
        .ok();
    let mut a = token(&alice).await;
    for is_crash in [true, false] {
        match is_crash {
            true => server.kill(),
            false => assert!(server.terminate().await.success()),
        }
        server.start().await;
        let (alice, bob) = (moved(&server, &alice), moved(&server, &bob));
        // Told again, since this process told nothing yet.
        let content = told(&quietly(&alice, &mut a, 0).await, BOB).unwrap();
        assert_eq!(word(Some(&content)), Some("online"));
        assert_eq!(content["status_msg"], "busy");
        let content = until_told(&alice, &mut a, BOB).await;
        assert_eq!(word(Some(&content)), Some("offline"));
        assert_eq!(content["status_msg"], "busy");
        bob.sync("").await;
        let content = until_told(&alice, &mut a, BOB).await;
        assert_eq!(content["status_msg"], "busy");
    }
    assert!(server.terminate().await.success());
    let verified = server.command(&["replay", "--verify"]).status().unwrap();
    assert!(verified.success(), "{}", server.output());
}

#[tokio::test]
async fn presence_can_be_switched_off() {
    let mut server = builder().start().await;
    let (alice, bob, _room) = in_a_room(&server).await;
    set(&bob, json!({ "presence": "online" })).await.ok();
    assert!(server.terminate().await.success());
    server.set("PRESENCE__ENABLED", false);
    server.start().await;
    let (alice, bob) = (moved(&server, &alice), moved(&server, &bob));
    bob.sync("").await;
    let answer = alice.sync("").await;
    assert_eq!(answer["presence"]["events"], json!([]), "{answer}");
    set(&bob, json!({ "presence": "online" }))
        .await
        .refused(403, "M_FORBIDDEN");
    alice
        .get(&status_path(BOB))
        .await
        .refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn what_is_no_presence_is_refused() {
    let (_server, alice, _bob, _room) = two_in_a_room().await;
    let online = json!({ "presence": "online" });
    alice
        .put(&status_path(BOB), online)
        .await
        .refused(403, "M_FORBIDDEN");
    for (body, code) in [
        (json!({}), "M_MISSING_PARAM"),
        (json!({ "presence": "asleep" }), "M_BAD_JSON"),
        (json!({ "presence": 1 }), "M_BAD_JSON"),
        (
            json!({ "presence": "online", "status_msg": 5 }),
            "M_BAD_JSON",
        ),
        (
            json!({ "presence": "online", "status_msg": "x".repeat(1_001) }),
            "M_INVALID_PARAM",
        ),
    ] {
        set(&alice, body).await.refused(400, code);
    }
    assert_eq!(status(&alice, ALICE).await["presence"], "offline");
    alice
        .get("/_matrix/client/v3/sync?set_presence=asleep")
        .await
        .refused(400, "M_INVALID_PARAM");
}
