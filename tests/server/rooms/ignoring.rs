//! Ignored users and blocked invites: what is not told, and what still is.

use serde_json::{Value, json};

use super::{act, of_room, state, two_users};
use crate::harness::{Api, Server, escape};

async fn set_data(api: &Api, kind: &str, content: Value) {
    let user = escape(&api.user_id);
    let path = format!("/_matrix/client/v3/user/{user}/account_data/{kind}");
    api.put(&path, content).await.ok();
}

async fn ignore(api: &Api, ignored: &[&Api]) {
    let ignored: serde_json::Map<String, Value> = ignored
        .iter()
        .map(|user| (user.user_id.clone(), json!({})))
        .collect();
    set_data(
        api,
        "m.ignored_user_list",
        json!({ "ignored_users": ignored }),
    )
    .await;
}

/// Bodies of the messages, and types of what else is in a list of events.
fn told(events: &Value) -> Vec<String> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |event: &Value| {
        let body = event["content"]["body"].as_str();
        body.or(event["type"].as_str())
            .unwrap_or_default()
            .to_owned()
    };
    events.iter().map(text).collect()
}

#[tokio::test]
async fn messages_of_an_ignored_user_are_not_told_but_state_is() {
    let (_server, alice, bob) = two_users().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    let name = of_room(&room, "state/m.room.power_levels");
    let mut levels = state(&alice, &room, "m.room.power_levels").await;
    levels["state_default"] = json!(0);
    levels["events"]["m.room.name"] = json!(0);
    alice.put(&name, levels).await.ok();
    let since = alice.sync("").await["next_batch"].clone();
    let since = since.as_str().unwrap();

    ignore(&alice, &[&bob]).await;
    let hidden = bob.send_text(&room, "hidden").await;
    let name = of_room(&room, "state/m.room.name");
    bob.put(&name, json!({ "name": "Bob's" })).await.ok();
    let seen = alice.send_text(&room, "seen").await;

    let sync = alice.sync(&format!("since={since}")).await;
    let timeline = &sync["rooms"]["join"][&room]["timeline"]["events"];
    assert_eq!(told(timeline), ["m.room.name", "seen"]);
    let counts = &sync["rooms"]["join"][&room]["unread_notifications"];
    assert_eq!(counts["notification_count"], 0);
    let page = alice.get(&of_room(&room, "messages?dir=b&limit=3")).await;
    assert_eq!(told(&page.ok()["chunk"])[..2], ["seen", "m.room.name"]);
    let context = of_room(&room, &format!("context/{}?limit=4", escape(&seen)));
    let context = alice.get(&context).await.ok();
    assert!(!told(&context["events_before"]).contains(&"hidden".to_owned()));
    let event = of_room(&room, &format!("event/{}", escape(&hidden)));
    alice.get(&event).await.refused(404, "M_NOT_FOUND");
    bob.get(&event).await.ok();

    // Nobody loses sight of themselves, and who is heard again is heard at once.
    ignore(&alice, &[&alice]).await;
    let since = sync["next_batch"].as_str().unwrap();
    bob.send_text(&room, "again").await;
    alice.send_text(&room, "own").await;
    let sync = alice.sync(&format!("since={since}")).await;
    let timeline = &sync["rooms"]["join"][&room]["timeline"]["events"];
    assert_eq!(told(timeline), ["again", "own"]);
    alice.get(&event).await.ok();
}

#[tokio::test]
async fn invites_of_an_ignored_user_are_not_told() {
    let (_server, alice, bob) = two_users().await;
    ignore(&bob, &[&alice]).await;
    let since = bob.sync("").await["next_batch"].clone();
    let room = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    let sync = bob
        .sync(&format!("since={}", since.as_str().unwrap()))
        .await;
    assert_eq!(sync["rooms"]["invite"].get(&room), None);
    assert_eq!(bob.sync("").await["rooms"]["invite"].get(&room), None);
    // Nor to clients from before sync.
    let events = "/_matrix/client/v3/events?timeout=0&from=";
    let events = format!("{events}{}", since.as_str().unwrap());
    assert_eq!(bob.get(&events).await.ok()["chunk"], json!([]));
    let initial = bob.get("/_matrix/client/v3/initialSync").await.ok();
    assert_eq!(initial["rooms"], json!([]));
    // It is there all the same.
    ignore(&bob, &[]).await;
    assert!(bob.sync("").await["rooms"]["invite"].get(&room).is_some());
    let told = bob.get(&events).await.ok();
    assert_eq!(told["chunk"][0]["room_id"], room.as_str());
    bob.join(&room).await.ok();
}

#[tokio::test]
async fn who_takes_no_invites_gets_none() {
    let (server, alice, bob) = two_users().await;
    let carol = server.register("carol").await;
    let room = alice.create_room(json!({})).await;
    let before = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    let config = "m.invite_permission_config";
    set_data(&bob, config, json!({ "default_action": "block" })).await;

    act(&alice, &room, "invite", Some(&bob))
        .await
        .refused(403, "M_INVITE_BLOCKED");
    let member = of_room(
        &room,
        &format!("state/m.room.member/{}", escape(&bob.user_id)),
    );
    alice
        .put(&member, json!({ "membership": "invite" }))
        .await
        .refused(403, "M_INVITE_BLOCKED");
    let new = json!({ "invite": [bob.user_id] });
    alice
        .post("/_matrix/client/v3/createRoom", new)
        .await
        .refused(403, "M_INVITE_BLOCKED");
    // Who could not invite anyway does not learn it.
    act(&carol, &room, "invite", Some(&bob))
        .await
        .refused(403, "M_FORBIDDEN");
    // An older invite is withheld from sync, and from nothing else.
    assert_eq!(bob.sync("").await["rooms"]["invite"].get(&before), None);
    assert_eq!(super::membership(&alice, &before, &bob).await, "invite");

    set_data(&bob, config, json!({ "default_action": "unheard of" })).await;
    assert!(bob.sync("").await["rooms"]["invite"].get(&before).is_some());
    act(&alice, &room, "invite", Some(&bob)).await.ok();
}

#[tokio::test]
async fn what_is_no_list_of_users_ignores_nobody() {
    let server = Server::builder().start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    for content in [
        json!({ "ignored_users": [bob.user_id] }),
        json!({ "ignored_users": "all" }),
        json!({}),
    ] {
        set_data(&alice, "m.ignored_user_list", content).await;
        bob.send_text(&room, "heard").await;
        let page = alice.get(&of_room(&room, "messages?dir=b&limit=1")).await;
        assert_eq!(told(&page.ok()["chunk"]), ["heard"]);
    }
}
