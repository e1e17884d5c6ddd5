//! Rooms that a user sees from outside, by sliding sync: invites and knocks, also
//! while the room's servers are away. And invites by the first version of the
//! endpoint, which servers ask that know no other.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use engram::crypto::ServerKey;
use engram::matrix::RoomVersion;
use engram::matrix::canonical_json::{parse_object_with, to_bytes};
use engram::matrix::signing::hash_and_sign_event;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::elsewhere::{BOB, Pair, act, join_by, pair};
use super::fake::{FAR, Fake, answer, own_keys};
use super::made_up::{MadeUp, ROOM};
use super::visitor::{CAROL, membership};
use crate::harness::{Api, escape};

/// What one request of sliding sync tells, as clients of today make it.
async fn sliding(api: &Api, pos: Option<&str>) -> Value {
    let pos = pos.map_or(String::new(), |pos| format!("&pos={}", escape(pos)));
    let path =
        format!("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0{pos}");
    let body = json!({ "lists": { "all": {
        "ranges": [[0, 9]], "timeline_limit": 1, "required_state": [["m.room.member", "$ME"]],
    }}});
    api.post(&path, body).await.ok()
}

/// Content of a stripped event.
fn shown<'a>(told: &'a Value, kind: &str, key: &str) -> &'a Value {
    let events = told["invite_state"].as_array();
    let events = events.unwrap_or_else(|| panic!("{told}"));
    let found = events
        .iter()
        .find(|event| event["type"] == kind && event["state_key"] == key);
    &found.unwrap_or_else(|| panic!("no {kind} in {told}"))["content"]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_is_in_the_list_also_when_its_server_is_away() {
    let Pair {
        alice,
        bob,
        mut a,
        mut b,
    } = pair().await;
    let body = json!({ "preset": "private_chat", "name": "Secret" });
    let room = alice.create_room(body).await;
    let first = sliding(&bob, None).await;
    assert_eq!(first["lists"]["all"]["count"], 0);
    act(&alice, &room, "invite", json!({ "user_id": BOB }))
        .await
        .ok();
    a.kill();
    // Whoever waited is told, and who begins anew; and after a restart as well.
    let news = sliding(&bob, first["pos"].as_str()).await;
    let anew = sliding(&bob, None).await;
    b.kill();
    b.start().await;
    let mut again = b.api();
    again.token = bob.token.clone();
    let restarted = sliding(&again, None).await;
    for told in [&news, &anew, &restarted] {
        assert_eq!(told["lists"]["all"]["count"], 1, "{told}");
        let told = &told["rooms"][&room];
        assert_eq!(shown(told, "m.room.name", "")["name"], "Secret");
        assert_eq!(shown(told, "m.room.member", BOB)["membership"], "invite");
        // Nothing of the room itself.
        assert!(
            told.get("timeline")
                .is_none_or(|events| events == &json!([]))
        );
    }
    // It is rejected, though nobody can be told.
    act(&again, &room, "leave", json!({})).await.ok();
    let news = sliding(&again, restarted["pos"].as_str()).await;
    // Who saw it is shown its end, and who begins anew nothing of it.
    assert_eq!(news["rooms"][&room]["membership"], "leave", "{news}");
    assert_eq!(sliding(&again, None).await["lists"]["all"]["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_knock_is_in_the_list_until_it_is_taken_back() {
    let Pair {
        alice,
        bob,
        mut a,
        b,
    } = pair().await;
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let body = json!({ "initial_state": [rule], "name": "Door" });
    let room = alice.create_room(body).await;
    let first = sliding(&bob, None).await;
    let knock = format!("/_matrix/client/v3/knock/{}?via=a.test", escape(&room));
    bob.post(&knock, json!({ "reason": "please" })).await.ok();
    a.kill();
    let news = sliding(&bob, first["pos"].as_str()).await;
    let anew = sliding(&bob, None).await;
    for told in [&news, &anew] {
        assert_eq!(told["lists"]["all"]["count"], 1, "{told}");
        let told = &told["rooms"][&room];
        assert_eq!(shown(told, "m.room.name", "")["name"], "Door");
        let own = shown(told, "m.room.member", BOB);
        assert_eq!(
            (&own["membership"], &own["reason"]),
            (&json!("knock"), &json!("please"))
        );
    }
    act(&bob, &room, "leave", json!({})).await.ok();
    let after = sliding(&bob, anew["pos"].as_str()).await;
    assert_eq!(after["rooms"][&room]["membership"], "leave", "{after}");
    assert_eq!(sliding(&bob, None).await["lists"]["all"]["count"], 0);
    drop(b);
}

/// A server that knows the first version of each endpoint alone.
#[derive(Clone, Default)]
struct Old {
    /// Paths and bodies of what came to those.
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    /// Answers to `make_join` and `send_join`.
    room: Arc<Mutex<(String, String)>>,
}

impl Old {
    async fn answer(self, request: Request) -> Response {
        let path = request.uri().path().to_owned();
        let key = ServerKey::from_seed([3; 32], "fake");
        if path == "/_matrix/key/v2/server" {
            return answer(StatusCode::OK, to_bytes(&own_keys("c.test", &key, FAR)));
        }
        if path.contains("/make_join/") {
            return answer(StatusCode::OK, self.room.lock().0.clone().into_bytes());
        }
        if !path.starts_with("/_matrix/federation/v1/") {
            let unknown = br#"{"errcode":"M_UNRECOGNIZED","error":"?"}"#;
            return answer(StatusCode::NOT_FOUND, unknown.to_vec());
        }
        let body = axum::body::to_bytes(request.into_body(), 1 << 20)
            .await
            .unwrap();
        let json = serde_json::from_slice(&body).unwrap_or_default();
        self.asked.lock().push((path.clone(), json));
        if path.contains("/send_join/") {
            let joined = format!("[200,{}]", self.room.lock().1);
            return answer(StatusCode::OK, joined.into_bytes());
        }
        if !path.contains("/invite/") {
            return answer(StatusCode::OK, b"[200,{}]".to_vec());
        }
        let mut event =
            parse_object_with(&body, engram::matrix::canonical_json::Numbers::Kept).unwrap();
        event.remove("unsigned");
        let server = ruma::server_name!("c.test");
        hash_and_sign_event(RoomVersion::V1, &mut event, server, &key);
        let event = String::from_utf8(to_bytes(&event)).unwrap();
        let signed = format!(r#"[200,{{"event":{event}}}]"#);
        answer(StatusCode::OK, signed.into_bytes())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_know_version_1_of_an_endpoint_are_asked_by_it() {
    let neighbourhood = Neighbourhood::new();
    let b = neighbourhood.builder("b.test").start().await;
    let bob = b.register("bob").await;
    let old = Old::default();
    let told = old.clone();
    let _c = Fake::start(&neighbourhood, "c.test", move |request: Request| {
        told.clone().answer(request)
    })
    .await;
    for version in ["1", "2"] {
        let body = json!({ "preset": "private_chat", "room_version": version, "name": "Old" });
        let room = bob.create_room(body).await;
        act(&bob, &room, "invite", json!({ "user_id": CAROL }))
            .await
            .ok();
        assert_eq!(membership(&bob, &room, CAROL).await.unwrap(), "invite");
        let asked = std::mem::take(&mut *old.asked.lock());
        let invites = asked.iter().filter(|(path, _)| path.contains("/invite/"));
        let [(_, event)] = &invites.collect::<Vec<_>>()[..] else {
            panic!("{asked:?}");
        };
        assert_eq!(event["state_key"], CAROL);
        let state = event["unsigned"]["invite_room_state"].as_array().unwrap();
        assert!(state.iter().any(|event| event["content"]["name"] == "Old"));
    }
    // It cannot know the format of later rooms.
    let room = bob.create_room(json!({ "preset": "private_chat" })).await;
    old.asked.lock().clear();
    let refused = act(&bob, &room, "invite", json!({ "user_id": CAROL })).await;
    assert_ne!(refused.status, 200, "{}", refused.text);
    assert_eq!(membership(&bob, &room, CAROL).await, None);
    assert!(old.asked.lock().is_empty());

    let made_up = MadeUp::with_members(20);
    *old.room.lock() = (made_up.template().to_string(), made_up.joined());
    join_by(&bob, ROOM, "c.test").await.ok();
    bob.send_text(ROOM, "hello").await;
    let asked = old.asked.lock();
    assert!(asked.iter().any(|(path, _)| path.contains("/send_join/")));
}
