//! Every room version from a client's side: creating, joining, moderating,
//! redacting and reading, where the versions differ in what events look like
//! and in who may do what.

use serde_json::{Value, json};

use super::{act, membership, of_room, state, two_users};
use crate::harness::{Api, escape};

async fn event(api: &Api, room: &str, id: &str) -> Value {
    let path = of_room(room, &format!("event/{}", escape(id)));
    api.get(&path).await.ok()
}

/// Event ids as the version writes them.
fn assert_event_id(version: u32, id: &str) {
    let opaque = id.strip_prefix('$').expect("has its sigil");
    let allowed = |more: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        opaque.chars().all(known) && opaque.len() == 43
    };
    match version {
        1..=2 => assert!(opaque.ends_with(":hs.test"), "{version}: {id}"),
        3 => assert!(allowed("+/"), "{version}: {id}"),
        _ => assert!(allowed("-_"), "{version}: {id}"),
    }
}

#[tokio::test]
async fn every_version_serves_its_members() {
    let (server, alice, bob) = two_users().await;
    let carol = server.register("carol").await;
    for version in 1..=12_u32 {
        let room = alice
            .create_room(json!({
                "preset": "public_chat", "room_version": version.to_string(), "name": "Pub",
            }))
            .await;
        assert_eq!(room.contains(':'), version < 12, "{room}");
        let create = state(&alice, &room, "m.room.create").await;
        assert_eq!(create["room_version"], version.to_string());
        assert_eq!(create.get("creator").is_some(), version < 11);

        bob.join(&room).await.ok();
        carol.join(&room).await.ok();
        let mut ids = Vec::new();
        for text in ["one", "two", "three"] {
            ids.push(bob.send_text(&room, text).await);
        }
        ids.push(carol.send_text(&room, "four").await);
        for id in &ids {
            assert_event_id(version, id);
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 4);

        levels(version, &alice, &bob, &room).await;
        moderation(&alice, &bob, &carol, &room).await;
        redactions(version, &alice, &bob, &room).await;
        let page = of_room(&room, "messages?dir=f&limit=100");
        let page = alice.get(&page).await.ok();
        let events = page["chunk"].as_array().unwrap();
        for event in events {
            assert_event_id(version, event["event_id"].as_str().unwrap());
        }
        assert_eq!(events[0]["type"], "m.room.create");
    }
}

/// Alice gives Bob power over the topic and he uses it.
async fn levels(version: u32, alice: &Api, bob: &Api, room: &str) {
    let topic = of_room(room, "state/m.room.topic");
    bob.put(&topic, json!({ "topic": "Beer" }))
        .await
        .refused(403, "M_FORBIDDEN");
    let mut levels = state(alice, room, "m.room.power_levels").await;
    let creators = levels["users"].as_object().unwrap().len();
    assert_eq!(creators, usize::from(version < 12));
    levels["users"][&bob.user_id] = json!(50);
    let path = of_room(room, "state/m.room.power_levels");
    alice.put(&path, levels.clone()).await.ok();
    bob.put(&topic, json!({ "topic": "Beer" })).await.ok();
    assert_eq!(state(alice, room, "m.room.topic").await["topic"], "Beer");
    // Nobody raises themself, and creators of version 12 are not listed.
    levels["users"][&bob.user_id] = json!(51);
    bob.put(&path, levels.clone())
        .await
        .refused(403, "M_FORBIDDEN");
    levels["users"][&bob.user_id] = json!("50");
    levels["ban"] = json!("60");
    // Versions before 10 take levels as text from others; nobody here sends them.
    alice.put(&path, levels).await.refused(400, "M_BAD_JSON");
}

async fn moderation(alice: &Api, bob: &Api, carol: &Api, room: &str) {
    act(carol, room, "kick", Some(bob))
        .await
        .refused(403, "M_FORBIDDEN");
    act(alice, room, "kick", Some(carol)).await.ok();
    assert_eq!(membership(alice, room, carol).await, "leave");
    carol.join(room).await.ok();
    act(alice, room, "ban", Some(carol)).await.ok();
    carol.join(room).await.refused(403, "M_FORBIDDEN");
    act(alice, room, "unban", Some(carol)).await.ok();
    act(bob, room, "invite", Some(carol)).await.ok();
    carol.join(room).await.ok();
    assert_eq!(membership(alice, room, carol).await, "join");
}

/// A member redacts their own, an admin anybody's; clients find the target in
/// both places, whichever the version has it in.
async fn redactions(version: u32, alice: &Api, bob: &Api, room: &str) {
    let own = bob.send_text(room, "mine").await;
    let other = bob.send_text(room, "rude").await;
    let admins = alice.send_text(room, "law").await;
    let path = |id: &str, txn: &str| of_room(room, &format!("redact/{}/{txn}", escape(id)));
    let sent = [
        (&own, bob.put(&path(&own, "r1"), json!({})).await.ok()),
        (&other, alice.put(&path(&other, "r2"), json!({})).await.ok()),
    ];
    for (target, answer) in sent {
        let redaction = answer["event_id"].as_str().unwrap();
        assert_event_id(version, redaction);
        let redacted = event(alice, room, target).await;
        assert_eq!(redacted["content"], json!({}), "{version}");
        assert_eq!(
            redacted["unsigned"]["redacted_because"]["event_id"],
            redaction
        );
        let redaction = event(alice, room, redaction).await;
        assert_eq!(redaction["redacts"], target.as_str());
        assert_eq!(redaction["content"]["redacts"], target.as_str());
    }
    let levels = of_room(room, "state/m.room.power_levels");
    let mut content = alice.get(&levels).await.ok();
    content["redact"] = json!(90);
    alice.put(&levels, content).await.ok();
    bob.put(&path(&admins, "r3"), json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn join_rules_count_from_the_version_that_has_them() {
    let (server, alice, bob) = two_users().await;
    let carol = server.register("carol").await;
    let club = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&club).await.ok();
    let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
    for version in 1..=12_u32 {
        let create = |rule: &str| {
            let content = json!({ "join_rule": rule, "allow": allow });
            json!({
                "room_version": version.to_string(),
                "initial_state": [{ "type": "m.room.join_rules", "content": content }],
            })
        };
        for (rule, joined_since, knocked_since) in [
            ("restricted", 8, 99),
            ("knock_restricted", 10, 10),
            ("knock", 99, 7),
        ] {
            let room = alice.create_room(create(rule)).await;
            let joined = bob.join(&room).await;
            assert_eq!(
                joined.status == 200,
                version >= joined_since,
                "{version} {rule}"
            );
            carol.join(&room).await.refused(403, "M_FORBIDDEN");
            let knock = format!("/_matrix/client/v3/knock/{}", escape(&room));
            let knocked = carol.post(&knock, json!({})).await;
            assert_eq!(
                knocked.status == 200,
                version >= knocked_since,
                "{version} {rule}"
            );
            if version >= joined_since {
                let path = format!("m.room.member/{}", escape(&bob.user_id));
                let member = state(&alice, &room, &path).await;
                let by = &member["join_authorised_via_users_server"];
                assert_eq!(by, alice.user_id.as_str());
            }
        }
    }
}
