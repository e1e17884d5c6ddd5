//! Restricted rooms (security.md 1.5): we vouch for whom we know to be in a room
//! whose members may join, and for nobody else.

use base64::Engine;
use engram::crypto::signing_key::BASE64;
use engram::matrix::RoomVersion;
use engram::matrix::redaction::redact;
use engram::matrix::signing::verify_json;
use serde_json::{Value, json};

use super::fake::object;
use super::visitor::{CAROL, Scene, errcode, membership, scene, with};
use crate::harness::{Api, escape};

const AUTHORISED_BY: &str = "join_authorised_via_users_server";

async fn restricted_room(alice: &Api, version: &str, allowed: &[&str]) -> String {
    let allow = allowed.iter();
    let allow: Vec<Value> = allow
        .map(|room| json!({ "type": "m.room_membership", "room_id": room }))
        .collect();
    let rule = json!({
        "type": "m.room.join_rules",
        "content": { "join_rule": "restricted", "allow": allow },
    });
    let body = json!({ "room_version": version, "initial_state": [rule] });
    alice.create_room(body).await
}

async fn public_room(alice: &Api) -> String {
    alice.create_room(json!({ "preset": "public_chat" })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn msc3083_we_vouch_for_members_of_rooms_whose_members_may_join() {
    let Scene { alice, c, .. } = &scene().await;
    for version in RoomVersion::all().filter(|version| *version >= RoomVersion::V8) {
        let open = public_room(alice).await;
        let room = restricted_room(alice, version.as_str(), &[&open]).await;
        let refused = c.make("join", &room, CAROL).await;
        assert_eq!(errcode(&refused), (403, "M_FORBIDDEN"), "{version}");
        c.join(&open, CAROL).await;
        let (status, template) = c.make("join", &room, CAROL).await;
        assert_eq!(status, 200, "{version} {template}");
        let by = &template["event"]["content"][AUTHORISED_BY];
        assert_eq!(by, "@alice:a.test", "{version}");
        let signed = c.complete(&template);
        let (status, answer) = c.hand("v2/send_join", &room, &signed).await;
        assert_eq!(status, 200, "{version} {answer}");
        assert_eq!(membership(alice, &room, CAROL).await.unwrap(), "join");
        // The event as other servers get it has our signature, and theirs.
        let event = object(&answer["event"]);
        let redacted = redact(&version.rules().redaction, &event);
        let keys = c.get("/_matrix/key/v2/server").await.1;
        let keys = keys["verify_keys"].as_object().unwrap();
        let (key_id, key) = keys.iter().next().unwrap();
        let key = BASE64.decode(key["key"].as_str().unwrap()).unwrap();
        assert!(verify_json(&redacted, "a.test", key_id, &key), "{version}");
        assert!(
            event["signatures"]
                .as_object()
                .unwrap()
                .contains_key("c.test")
        );
        // Without the field the room does not let them in, signed or not.
        c.leave(&room, CAROL).await;
        let bare = with(
            &object(&template["event"]),
            "content",
            json!({ "membership": "join" }),
        );
        let answer = c.hand("v2/send_join", &room, &c.sign(version, bare)).await;
        assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"), "{version}");
        // Nor do we, once they have left.
        c.leave(&open, CAROL).await;
        let again = c.sign(version, object(&template["event"]));
        let answer = c.hand("v2/send_join", &room, &again).await;
        assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn msc3083_what_we_cannot_know_we_do_not_say() {
    let Scene { alice, c, .. } = &scene().await;
    let open = public_room(alice).await;
    let room = restricted_room(alice, "11", &["!elsewhere:b.test", &open]).await;
    let refused = c.make("join", &room, CAROL).await;
    assert_eq!(errcode(&refused), (400, "M_UNABLE_TO_AUTHORISE_JOIN"));
    // One of them is enough.
    c.join(&open, CAROL).await;
    assert_eq!(c.make("join", &room, CAROL).await.0, 200);
    // A room that we have left is as it was then, and we do not vouch by that.
    let path = format!("/_matrix/client/v3/rooms/{}/leave", escape(&open));
    alice.post(&path, json!({})).await.ok();
    let refused = c.make("join", &room, CAROL).await;
    assert_eq!(errcode(&refused), (400, "M_UNABLE_TO_AUTHORISE_JOIN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn msc3083_our_users_let_in_whom_they_may_invite() {
    let Scene { alice, c, .. } = &scene().await;
    let open = public_room(alice).await;
    let room = restricted_room(alice, "11", &[&open]).await;
    c.join(&open, CAROL).await;
    let template = object(&c.make("join", &room, CAROL).await.1["event"]);
    let named = |user: &str| {
        let content = json!({ "membership": "join", AUTHORISED_BY: user });
        c.sign(RoomVersion::V11, with(&template, "content", content))
    };
    for (user, code) in [
        ("@nobody:a.test", (400, "M_UNABLE_TO_GRANT_JOIN")),
        // Whose signature is not there.
        ("@bob:b.test", (403, "M_FORBIDDEN")),
    ] {
        let answer = c.hand("v2/send_join", &room, &named(user)).await;
        assert_eq!(errcode(&answer), code, "{user}");
    }
    // The field is for joins: on another event it gets no signature of ours.
    let content = json!({ "membership": "leave", AUTHORISED_BY: "@alice:a.test" });
    let leave = c.sign(RoomVersion::V11, with(&template, "content", content));
    let answer = c.hand("v2/send_leave", &room, &leave).await;
    assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"));

    let levels = json!({ "users": { "@alice:a.test": 50 }, "invite": 100 });
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.power_levels/",
        escape(&room)
    );
    alice.put(&path, levels).await.ok();
    let refused = c.make("join", &room, CAROL).await;
    assert_eq!(errcode(&refused), (400, "M_UNABLE_TO_GRANT_JOIN"));
    let answer = c.hand("v2/send_join", &room, &named("@alice:a.test")).await;
    assert_eq!(errcode(&answer), (400, "M_UNABLE_TO_GRANT_JOIN"));
    assert_eq!(membership(alice, &room, CAROL).await, None);
}
