//! What was redacted is shown redacted by every endpoint.

use serde_json::{Value, json};

use super::{act, of_room, two_users};
use crate::harness::{Api, escape};

/// Redacts an event; gives the redaction's id.
async fn redact(api: &Api, room: &str, event: &str) -> String {
    let path = of_room(room, &format!("redact/{}/r{event}", escape(event)));
    let done = api.put(&path, json!({ "reason": "because" })).await.ok();
    done["event_id"].as_str().unwrap().to_owned()
}

/// Sets a piece of state; gives the event's id.
async fn set(api: &Api, room: &str, kind: &str, content: Value) -> String {
    let path = of_room(room, &format!("state/{kind}"));
    let done = api.put(&path, content).await.ok();
    done["event_id"].as_str().unwrap().to_owned()
}

/// An event among others.
fn find<'a>(events: &'a Value, id: &str) -> &'a Value {
    let mut events = events.as_array().unwrap().iter();
    let found = events.find(|event| event["event_id"] == id);
    found.unwrap_or_else(|| panic!("{id} is not shown"))
}

fn is_redacted(event: &Value, by: &str) {
    assert_eq!(event["content"], json!({}));
    let because = &event["unsigned"]["redacted_because"];
    assert_eq!(because["event_id"], by);
    assert_eq!(because["redacts"], event["event_id"]);
    assert_eq!(because["content"]["reason"], "because");
}

#[tokio::test]
async fn every_endpoint_shows_what_redaction_left() {
    let (server, alice, bob) = two_users().await;
    let carol = server.register("carol").await;
    for version in ["10", "11", "12"] {
        let room = json!({
            "preset": "public_chat", "visibility": "public", "room_version": version,
        });
        let room = alice.create_room(room).await;
        let name = set(&alice, &room, "m.room.name", json!({ "name": "secret" })).await;
        let topic = set(&alice, &room, "m.room.topic", json!({ "topic": "secret" })).await;
        let next = set(&alice, &room, "m.room.topic", json!({ "topic": "plain" })).await;
        bob.join(&room).await.ok();
        let before = bob.sync("timeout=0").await;
        let since = before["next_batch"].as_str().unwrap();
        let said = alice.send_text(&room, "secret").await;
        let by_name = redact(&alice, &room, &name).await;
        let by_topic = redact(&alice, &room, &topic).await;
        let by_said = redact(&alice, &room, &said).await;

        let shown = async |path: &str| {
            let shown = bob.get(&of_room(&room, path)).await.ok();
            assert!(!shown.to_string().contains("secret"), "{version} {path}");
            shown
        };
        is_redacted(&shown(&format!("event/{}", escape(&said))).await, &by_said);
        is_redacted(
            &shown(&format!("event/{}", escape(&topic))).await,
            &by_topic,
        );
        let context = shown(&format!("context/{}?limit=50", escape(&said))).await;
        is_redacted(&context["event"], &by_said);
        is_redacted(find(&context["state"], &name), &by_name);
        is_redacted(find(&context["events_before"], &topic), &by_topic);
        let page = shown("messages?dir=b&limit=50").await;
        is_redacted(find(&page["chunk"], &said), &by_said);
        // What the next topic replaced is told as it is now.
        let replacing = find(&page["chunk"], &next);
        assert_eq!(replacing["unsigned"]["prev_content"], json!({}));
        assert_eq!(replacing["unsigned"]["replaces_state"], topic);
        // The redactions took effect, and are shown.
        for by in [&by_name, &by_topic, &by_said] {
            assert_eq!(find(&page["chunk"], by)["type"], "m.room.redaction");
        }
        is_redacted(find(&shown("state").await, &name), &by_name);
        assert_eq!(shown("state/m.room.name").await, json!({}));
        is_redacted(&shown("state/m.room.name/?format=event").await, &by_name);

        for (query, section) in [("", "state"), ("&use_state_after=true", "state_after")] {
            let filter = escape(r#"{"room":{"timeline":{"limit":4}}}"#);
            let fresh = bob.sync(&format!("timeout=0&filter={filter}{query}")).await;
            let told = &fresh["rooms"]["join"][&room];
            assert!(!told.to_string().contains("secret"), "{version}");
            is_redacted(find(&told[section]["events"], &name), &by_name);
            is_redacted(find(&told["timeline"]["events"], &said), &by_said);
            // A room whose name was redacted is named by its members.
            assert_eq!(told["summary"]["m.heroes"], json!([alice.user_id]));
        }
        let later = bob.sync(&format!("timeout=0&since={since}")).await;
        let told = &later["rooms"]["join"][&room]["timeline"]["events"];
        assert!(!told.to_string().contains("secret"), "{version}");
        assert_eq!(find(told, &by_said)["redacts"], said);

        let listed = carol.get("/_matrix/client/v3/publicRooms").await.ok();
        let mut listed = listed["chunk"].as_array().unwrap().iter();
        let listed = listed
            .find(|listed| listed["room_id"] == room.as_str())
            .unwrap();
        assert!(listed.get("name").is_none());
        assert_eq!(listed["topic"], "plain");
        act(&alice, &room, "invite", Some(&carol)).await.ok();
        let invited = carol.sync("timeout=0").await;
        let stripped = &invited["rooms"]["invite"][&room]["invite_state"]["events"];
        assert!(!stripped.to_string().contains("secret"), "{version}");
        let mut stripped = stripped.as_array().unwrap().iter();
        let name = stripped
            .find(|event| event["type"] == "m.room.name")
            .unwrap();
        assert_eq!(name["content"], json!({}));
    }
}

#[tokio::test]
async fn a_redacted_membership_and_visibility_still_count() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let hidden = json!({ "history_visibility": "joined", "more": "secret" });
    let hidden = set(&alice, &room, "m.room.history_visibility", hidden).await;
    let early = alice.send_text(&room, "early").await;
    let path = of_room(
        &room,
        &format!("state/m.room.member/{}", escape(&alice.user_id)),
    );
    let profile = json!({ "membership": "join", "displayname": "secret" });
    let member = alice.put(&path, profile).await.ok();
    redact(&alice, &room, &hidden).await;
    redact(&alice, &room, member["event_id"].as_str().unwrap()).await;
    bob.join(&room).await.ok();
    let event = of_room(&room, &format!("event/{}", escape(&early)));
    bob.get(&event).await.refused(404, "M_NOT_FOUND");
    alice.get(&event).await.ok();
    let members = bob.get(&of_room(&room, "joined_members")).await.ok();
    assert_eq!(
        members["joined"][&alice.user_id]["display_name"],
        Value::Null
    );
    assert!(!bob.sync("timeout=0").await.to_string().contains("secret"));
}
