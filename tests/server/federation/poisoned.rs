//! A resident that lies to who wants to join, leave or knock. Whatever it
//! proposes, nothing but our user's own member event is ever signed, and nothing
//! that does not pass its checks becomes part of a room.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use engram::crypto::ServerKey;
use engram::matrix::canonical_json::to_bytes;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::elsewhere::join_by;
use super::fake::{FAR, Fake, answer, own_keys};
use crate::harness::{Api, Server};

const ROOM: &str = "!room:c.test";
const BOB: &str = "@bob:b.test";

/// What the liar answers, and what it was sent.
#[derive(Default)]
struct Lies {
    template: Mutex<Value>,
    joined: Mutex<Value>,
    sent: Mutex<Vec<Value>>,
}

struct Scene {
    _b: Server,
    _c: Fake,
    bob: Api,
    lies: Arc<Lies>,
}

async fn scene() -> Scene {
    let neighbourhood = Neighbourhood::new();
    let b = neighbourhood.builder("b.test").start().await;
    let bob = b.register("bob").await;
    let lies = Arc::new(Lies::default());
    let told = lies.clone();
    let c = Fake::start(&neighbourhood, "c.test", move |request: Request| {
        let told = told.clone();
        async move { told.answer(request).await }
    });
    Scene {
        _b: b,
        _c: c.await,
        bob,
        lies,
    }
}

impl Lies {
    async fn answer(&self, request: Request) -> Response {
        let ok = |json: &Value| answer(StatusCode::OK, json.to_string().into_bytes());
        let path = request.uri().path().to_owned();
        if path == "/_matrix/key/v2/server" {
            let keys = own_keys("c.test", &ServerKey::from_seed([3; 32], "fake"), FAR);
            return answer(StatusCode::OK, to_bytes(&keys));
        }
        if path.contains("/make_") {
            return ok(&self.template.lock());
        }
        if path.contains("/send_") {
            let body = axum::body::to_bytes(request.into_body(), 1 << 20)
                .await
                .unwrap();
            self.sent
                .lock()
                .push(serde_json::from_slice(&body).unwrap());
            return ok(&self.joined.lock());
        }
        answer(
            StatusCode::NOT_FOUND,
            br#"{"errcode":"M_NOT_FOUND"}"#.to_vec(),
        )
    }
}

fn template(membership: &str) -> Value {
    json!({
        "room_version": "11",
        "event": {
            "type": "m.room.member", "room_id": ROOM, "sender": BOB, "state_key": BOB,
            "content": { "membership": membership }, "depth": 5, "origin_server_ts": 1,
            "prev_events": ["$previous"], "auth_events": ["$create"],
        },
    })
}

/// CVE-2026-24471: servers signed whatever event a template held. Templates that
/// are not sound are in the table of lies; of what is added to a sound one nothing
/// is signed.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_24471_a_poisoned_template_is_never_signed() {
    let Scene { bob, lies, .. } = &scene().await;
    let mut more = template("join");
    more["event"]["redacts"] = json!("$victim");
    more["event"]["evil"] = json!(true);
    more["event"]["content"]["third_party_invite"] = json!({ "signed": {} });
    more["event"]["content"]["join_authorised_via_users_server"] = json!("@x:c.test");
    *lies.template.lock() = more;
    *lies.joined.lock() = json!({});
    join_by(bob, ROOM, "c.test").await.refused(502, "M_UNKNOWN");
    let sent = lies.sent.lock();
    assert_eq!(sent.len(), 1);
    let fields: Vec<_> = sent[0].as_object().unwrap().keys().collect();
    let known = [
        "auth_events",
        "content",
        "depth",
        "hashes",
        "origin_server_ts",
        "prev_events",
        "room_id",
        "sender",
        "signatures",
        "state_key",
        "type",
    ];
    assert_eq!(fields, known);
    let content = sent[0]["content"].as_object().unwrap().keys();
    let content: Vec<_> = content.filter(|field| *field != "displayname").collect();
    assert_eq!(content, ["join_authorised_via_users_server", "membership"]);
}

/// What a resident answers to a join is checked, event by event.
#[tokio::test(flavor = "multi_thread")]
async fn continuwuity_0_5_4_a_room_that_is_made_up_is_not_joined() {
    let Scene { bob, lies, .. } = &scene().await;
    *lies.template.lock() = template("join");
    let event = |kind: &str, room: &str| {
        json!({
            "type": kind, "room_id": room, "sender": "@c:c.test", "state_key": "",
            "content": { "room_version": "11" }, "depth": 1, "origin_server_ts": 1,
            "prev_events": [], "auth_events": [],
            "hashes": { "sha256": "x" }, "signatures": { "c.test": { "ed25519:fake": "x" } },
        })
    };
    let create = event("m.room.create", ROOM);
    for (state, chain) in [
        (json!([]), json!([])),
        // Signed by nobody.
        (json!([create]), json!([create])),
        (json!([event("m.room.create", "!other:c.test")]), json!([])),
        (json!([event("m.room.name", ROOM)]), json!([])),
        (json!([1, "x", null, []]), json!([{}])),
        (json!({}), json!([])),
        (json!([]), json!(null)),
    ] {
        *lies.joined.lock() = json!({ "state": state, "auth_chain": chain });
        let refused = join_by(bob, ROOM, "c.test").await;
        assert_eq!(refused.status, 502, "{state} {}", refused.text);
    }
    *lies.joined.lock() = json!({ "state": [], "auth_chain": [], "members_omitted": true });
    join_by(bob, ROOM, "c.test").await.refused(502, "M_UNKNOWN");
    let rooms = bob.get("/_matrix/client/v3/joined_rooms").await.ok();
    assert_eq!(rooms["joined_rooms"], json!([]));
    // And the server goes on.
    let room = bob.create_room(json!({})).await;
    bob.send_text(&room, "all is well").await;
}
