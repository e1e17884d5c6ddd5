//! Reports: who may make them, what they tell, and who reads them.

use serde_json::{Value, json};

use super::guest;
use crate::commands::run;
use crate::harness::{Answer, Api, Server, escape};
use crate::rooms::{of_room, two_users};

async fn report_event(api: &Api, room: &str, event: &str) -> Answer {
    let path = of_room(room, &format!("report/{}", escape(event)));
    api.post(&path, json!({ "reason": "rude" })).await
}

fn of_user(user: &str) -> String {
    format!("/_matrix/client/v3/users/{}/report", escape(user))
}

fn listed(server: &Server, arguments: &[&str]) -> Value {
    let output = run(server, &[&["reports", "--json"], arguments].concat(), "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_reach_the_operator_and_outlive_the_process() {
    let (mut server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let event = alice.send_text(&room, "you are a hamster").await;
    assert_eq!(listed(&server, &[]), json!([]));

    report_event(&bob, &room, &event).await.ok();
    let reason = json!({ "reason": "" });
    bob.post(&of_room(&room, "report"), reason.clone())
        .await
        .ok();
    bob.post(
        &of_user(&alice.user_id),
        json!({ "reason": "\u{1b}[31mrüde" }),
    )
    .await
    .ok();
    let reports = listed(&server, &[]);
    let [user, of_room, of_event] = &**reports.as_array().unwrap() else {
        panic!("{reports}");
    };
    assert_eq!(user["reporter"], bob.user_id.as_str());
    assert_eq!(user["user_id"], alice.user_id.as_str());
    assert_eq!(user["reason"], "\u{1b}[31mrüde");
    assert!(user["room_id"].is_null());
    assert_eq!(of_room["room_id"], room.as_str());
    assert_eq!(of_room["reason"], "");
    assert!(of_room["event_id"].is_null());
    assert_eq!(of_event["event_id"], event.as_str());
    assert_eq!(of_event["sender"], alice.user_id.as_str());
    assert_eq!(of_event["reason"], "rude");
    assert_eq!(listed(&server, &["--limit", "1"]), json!([user]));
    let text = String::from_utf8(run(&server, &["reports"], "").stdout).unwrap();
    assert!(
        text.contains(&event) && text.contains("\\u{1b}[31mrüde"),
        "{text}"
    );

    // They are in the log, and a stopped server's are read from its folder.
    server.kill();
    server.start().await;
    assert_eq!(listed(&server, &[]), reports);
    server.terminate().await;
    assert_eq!(listed(&server, &[]), reports);
}

#[tokio::test]
async fn an_answer_to_a_report_tells_nothing_of_what_is_reported() {
    let (server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let hidden = json!({ "history_visibility": "joined" });
    let path = of_room(&room, "state/m.room.history_visibility");
    alice.put(&path, hidden).await.ok();
    let before = alice.send_text(&room, "before Bob came").await;

    // Rooms and users that are not there are reported like those that are.
    for room in [&*room, "!unknown:hs.test", "!unknown:elsewhere.test"] {
        let path = of_room(room, "report");
        let answer = bob.post(&path, json!({ "reason": "spam" })).await.ok();
        assert_eq!(answer, json!({}));
    }
    for user in [&*alice.user_id, "@unknown:hs.test"] {
        let answer = bob.post(&of_user(user), json!({ "reason": "spam" })).await;
        assert_eq!(answer.ok(), json!({}));
    }
    // Events are reported by who is in the room; all else looks the same.
    let outside = report_event(&bob, &room, &before).await;
    let outside = outside.refused(404, "M_NOT_FOUND");
    bob.join(&room).await.ok();
    for (room, event) in [
        (&*room, &*before),
        (&*room, "$unknown"),
        ("!unknown:hs.test", &*before),
    ] {
        let refused = report_event(&bob, room, event).await;
        assert_eq!(refused.refused(404, "M_NOT_FOUND"), outside);
    }
    let seen = alice.send_text(&room, "seen").await;
    report_event(&bob, &room, &seen).await.ok();
    // Whom one ignores can still be reported.
    let ignored = json!({ "ignored_users": { &alice.user_id: {} } });
    let path = super::of_user(&bob, "account_data/m.ignored_user_list");
    bob.put(&path, ignored).await.ok();
    report_event(&bob, &room, &seen).await.ok();

    let path = of_room(&room, "report");
    bob.post(&path, json!({}))
        .await
        .refused(400, "M_MISSING_PARAM");
    bob.post(&path, json!({ "reason": 7 }))
        .await
        .refused(400, "M_BAD_JSON");
    bob.post(&path, json!({ "reason": "x".repeat(20_000) }))
        .await
        .refused(413, "M_TOO_LARGE");
    bob.post(&of_user("nobody"), json!({ "reason": "" }))
        .await
        .refused(400, "M_INVALID_PARAM");
    // The reason of an event's report may be left out.
    let path = of_room(&room, &format!("report/{}", escape(&seen)));
    bob.post(&path, json!({})).await.ok();
    let nobody = server.api();
    nobody
        .post(&path, json!({}))
        .await
        .refused(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn reports_are_limited_by_user() {
    let server = Server::builder()
        .set("RATE_LIMITS__ENABLED", true)
        .start()
        .await;
    let alice = server.register("alice").await;
    let room = of_room("!unknown:hs.test", "report");
    let reason = json!({ "reason": "spam" });
    for _ in 0..10 {
        alice.post(&room, reason.clone()).await.ok();
    }
    let refused = alice.post(&room, reason.clone()).await;
    refused.refused(429, "M_LIMIT_EXCEEDED");
    let bob = server.register("bob").await;
    bob.post(&room, reason).await.ok();
}

#[tokio::test]
async fn guests_report_nothing() {
    let server = Server::builder()
        .set("REGISTRATION__GUESTS", true)
        .start()
        .await;
    let guest = guest(&server).await;
    let reason = json!({ "reason": "spam" });
    let path = of_room("!unknown:hs.test", "report");
    guest
        .post(&path, reason)
        .await
        .refused(403, "M_GUEST_ACCESS_FORBIDDEN");
}
