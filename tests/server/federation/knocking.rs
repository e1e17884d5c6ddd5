//! Other servers' users knock on rooms through us.

use engram::matrix::RoomVersion;
use serde_json::json;

use super::visitor::{CAROL, Scene, errcode, events, membership, scene};
use crate::harness::{Api, escape};

async fn room(alice: &Api, version: &str, rule: &str) -> String {
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": rule } });
    let body = json!({ "room_version": version, "name": "Knock", "initial_state": [rule] });
    alice.create_room(body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_knock_is_answered_with_what_the_room_shows_of_itself() {
    let Scene { alice, c, .. } = &scene().await;
    for version in RoomVersion::all() {
        let room = room(alice, version.as_str(), "knock").await;
        let (status, template) = c.make("knock", &room, CAROL).await;
        if version < RoomVersion::V7 {
            assert_eq!(
                errcode(&(status, template)),
                (403, "M_FORBIDDEN"),
                "{version}"
            );
            continue;
        }
        assert_eq!(status, 200, "{version} {template}");
        let signed = c.complete(&template);
        let (status, answer) = c.hand("v1/send_knock", &room, &signed).await;
        assert_eq!(status, 200, "{version} {answer}");
        assert_eq!(membership(alice, &room, CAROL).await.unwrap(), "knock");
        let shown = events(version, &answer["knock_room_state"]);
        let kinds: Vec<&str> = shown.iter().map(|pdu| &*pdu.kind).collect();
        assert_eq!(kinds, ["m.room.create", "m.room.name", "m.room.join_rules"]);
        assert!(shown.iter().all(|pdu| pdu.room_id == room), "{version}");
        // A knock is no invite.
        let refused = c.make("join", &room, CAROL).await;
        assert_eq!(errcode(&refused), (403, "M_FORBIDDEN"), "{version}");
        c.leave(&room, CAROL).await;
        assert_eq!(membership(alice, &room, CAROL).await.unwrap(), "leave");
    }
}

/// security.md 1.5, *Knock*: membership x join rule.
#[tokio::test(flavor = "multi_thread")]
async fn knocks_are_for_rooms_that_want_them_and_users_who_are_not_in() {
    let Scene { alice, c, .. } = &scene().await;
    for (version, rule, may_knock) in [
        ("11", "invite", false),
        ("11", "public", false),
        ("11", "private", false),
        ("11", "knock", true),
        ("11", "knock_restricted", true),
        // Came with version 10.
        ("9", "knock_restricted", false),
    ] {
        let room = room(alice, version, rule).await;
        let answer = c.make("knock", &room, CAROL).await;
        assert_eq!(answer.0 == 200, may_knock, "{version} {rule} {answer:?}");
        if !may_knock {
            assert_eq!(errcode(&answer), (403, "M_FORBIDDEN"));
            continue;
        }
        let signed = c.complete(&answer.1);
        let ban = format!("/_matrix/client/v3/rooms/{}/ban", escape(&room));
        alice.post(&ban, json!({ "user_id": CAROL })).await.ok();
        let refused = c.hand("v1/send_knock", &room, &signed).await;
        assert_eq!(errcode(&refused), (403, "M_FORBIDDEN"), "{rule}");
        let refused = c.make("knock", &room, CAROL).await;
        assert_eq!(errcode(&refused), (403, "M_FORBIDDEN"), "{rule}");
    }
    let open = room(alice, "11", "public").await;
    c.join(&open, CAROL).await;
    let refused = c.make("knock", &open, CAROL).await;
    assert_eq!(errcode(&refused), (403, "M_FORBIDDEN"));
}
