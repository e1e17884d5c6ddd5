//! An invite by an address (security.md 1.2, *Users joined or parted without
//! consent*): our user began it, an identity server says who it is for, and the
//! server of that user has us go on.

use axum::extract::Request;
use axum::response::Response;
use engram::crypto::signing_key::ServerKey;
use engram::matrix::RoomVersion;
use engram::matrix::canonical_json::{CanonicalJsonValue, parse_object, to_bytes};
use engram::matrix::signing::{sign_event, sign_json};
use http::StatusCode;
use reqwest::Method;
use ruma::ServerName;
use serde_json::{Value, json};

use super::Neighbourhood;
use super::fake::{FAR, Fake, answer, object, own_keys};
use super::visitor::{CAROL, errcode, membership};
use crate::harness::{Api, escape};

/// A server that publishes its key and signs whatever invite it is sent.
async fn signs_invites(neighbourhood: &Neighbourhood) -> Fake {
    let key = || ServerKey::from_seed([3; 32], "fake");
    let keys = own_keys("c.test", &key(), FAR);
    let name = <&ServerName>::try_from("c.test").unwrap();
    let answers = move |request: Request| {
        let keys = to_bytes(&keys);
        async move {
            let path = request.uri().path().to_owned();
            if path == "/_matrix/key/v2/server" {
                return answer(StatusCode::OK, keys);
            }
            if !path.starts_with("/_matrix/federation/v2/invite/") {
                return answer(
                    StatusCode::NOT_FOUND,
                    br#"{"errcode":"M_NOT_FOUND"}"#.to_vec(),
                );
            }
            signed(request, name, &key()).await
        }
    };
    Fake::start(neighbourhood, "c.test", answers).await
}

async fn signed(request: Request, name: &ServerName, key: &ServerKey) -> Response {
    let body = axum::body::to_bytes(request.into_body(), 1 << 20)
        .await
        .unwrap();
    let mut body = parse_object(&body).unwrap();
    let Some(CanonicalJsonValue::Object(mut event)) = body.remove("event") else {
        panic!("no event");
    };
    sign_event(RoomVersion::V11, &mut event, name, key);
    let event = object(&json!({ "event": event }));
    answer(StatusCode::OK, to_bytes(&event))
}

/// What the identity server says, as it is shown in an invite.
fn bound(identity: &ServerKey, user: &str) -> Value {
    let mut signed = object(&json!({ "mxid": user, "token": "the token" }));
    sign_json(
        &mut signed,
        <&ServerName>::try_from("id.test").unwrap(),
        identity,
    );
    json!({ "display_name": "c…@example.org", "signed": signed })
}

fn invite(room: &str, sender: &str, shown: &Value) -> Value {
    json!({
        "type": "m.room.member", "room_id": room, "sender": sender, "state_key": CAROL,
        "content": { "membership": "invite", "third_party_invite": shown, "more": "ours" },
    })
}

async fn exchange(c: &Fake, room: &str, event: &Value) -> (u16, Value) {
    let uri = format!(
        "/_matrix/federation/v1/exchange_third_party_invite/{}",
        escape(room)
    );
    c.send("a.test", Method::PUT, &uri, &object(event)).await
}

async fn invited_by_address(alice: &Api, identity: &ServerKey) -> String {
    let room = alice.create_room(json!({ "room_version": "11" })).await;
    let key = identity.public_base64();
    let content = json!({
        "display_name": "c…@example.org", "key_validity_url": "https://id.test/valid",
        "public_key": key, "public_keys": [{ "public_key": key }],
    });
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.third_party_invite/{}",
        escape(&room),
        escape("the token")
    );
    alice.put(&path, content).await.ok();
    room
}

#[tokio::test(flavor = "multi_thread")]
async fn synapse_pr_5744_whom_our_user_invited_by_an_address_is_invited_and_nobody_else() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let alice = a.register("alice").await;
    let bob = a.register("bob").await;
    let c = signs_invites(&neighbourhood).await;
    let identity = ServerKey::from_seed([9; 32], "3");
    let room = invited_by_address(&alice, &identity).await;
    let shown = bound(&identity, CAROL);
    let good = invite(&room, &alice.user_id, &shown);
    let with = |field: &str, value: Value| {
        let mut event = good.clone();
        event[field] = value;
        event
    };
    let other = ServerKey::from_seed([8; 32], "3");
    let mut token = shown.clone();
    token["signed"]["token"] = json!("another");
    for (what, event, status) in [
        ("another type", with("type", json!("m.room.message")), 400),
        ("another room", with("room_id", json!("!other:a.test")), 400),
        ("their sender", with("sender", json!(CAROL)), 400),
        (
            "another's user",
            with("state_key", json!("@bob:b.test")),
            400,
        ),
        (
            "a join",
            with("content", json!({ "membership": "join" })),
            400,
        ),
        (
            "a plain invite",
            with("content", json!({ "membership": "invite" })),
            400,
        ),
        (
            "who did not invite",
            with("sender", json!(bob.user_id)),
            403,
        ),
        (
            "another server's word",
            invite(&room, &alice.user_id, &bound(&other, CAROL)),
            403,
        ),
        (
            "for another",
            invite(&room, &alice.user_id, &bound(&identity, "@dave:c.test")),
            403,
        ),
        (
            "an unknown token",
            invite(&room, &alice.user_id, &token),
            403,
        ),
    ] {
        let answer = exchange(&c, &room, &event).await;
        assert_eq!(answer.0, status, "{what} {answer:?}");
        assert_eq!(membership(&alice, &room, CAROL).await, None, "{what}");
    }
    let unknown = invite("!unknown:a.test", &alice.user_id, &shown);
    let answer = exchange(&c, "!unknown:a.test", &unknown).await;
    assert_eq!(errcode(&answer), (404, "M_NOT_FOUND"));

    assert_eq!(exchange(&c, &room, &good).await, (200, json!({})));
    assert_eq!(membership(&alice, &room, CAROL).await.unwrap(), "invite");
    // Of what the other server sent, only what the rules read was taken over.
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.member/{}",
        escape(&room),
        escape(CAROL)
    );
    let told = alice.get(&path).await.ok();
    assert_eq!(told["third_party_invite"], shown);
    assert_eq!(told["more"], Value::Null);
}
