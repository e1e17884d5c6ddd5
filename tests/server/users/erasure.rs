//! Accounts that are closed with the wish to be erased: what they said is shown
//! whole to those alone who were there (*Account deactivation*, `erase`).

use serde_json::{Value, json};

use crate::harness::{Api, Server, escape, password};
use crate::rooms::of_room;
use crate::search;

async fn close_account(api: &Api, name: &str, erase: bool) {
    let auth = json!({
        "type": "m.login.password", "password": password(name),
        "identifier": { "type": "m.id.user", "user": api.user_id },
    });
    let body = json!({ "auth": auth, "erase": erase });
    let path = "/_matrix/client/v3/account/deactivate";
    api.post(path, body).await.ok();
}

/// The content of an event in every way in which its reader gets it.
async fn read(api: &Api, room: &str, event: &str) -> Vec<Value> {
    let id = escape(event);
    let whole = api.get(&of_room(room, &format!("event/{id}"))).await.ok();
    let around = api.get(&of_room(room, &format!("context/{id}"))).await.ok();
    let page = api.get(&of_room(room, "messages?dir=b&limit=100")).await;
    let page = page.ok();
    let find = |events: &Value| -> Value {
        let mut events = events.as_array().unwrap().iter();
        let found = events.find(|found| found["event_id"] == event);
        found.unwrap_or_else(|| panic!("no {event}"))["content"].clone()
    };
    let mut seen = vec![
        whole["content"].clone(),
        around["event"]["content"].clone(),
        find(&page["chunk"]),
    ];
    for format in ["client", "federation"] {
        let filter = json!({
            "event_format": format, "room": { "timeline": { "limit": 100 } },
        });
        let query = format!("timeout=0&filter={}", escape(&filter.to_string()));
        let synced = api.sync(&query).await;
        let timeline = &synced["rooms"]["join"][room]["timeline"]["events"];
        let mut events = timeline.as_array().unwrap().iter();
        // The federation format has no event ids, but for who knows the text.
        let found = events.find(|found| match format {
            "client" => found["event_id"] == event,
            _ => found["type"] == "m.room.message",
        });
        seen.push(found.unwrap()["content"].clone());
    }
    seen
}

#[tokio::test]
async fn what_an_erased_user_said_is_kept_by_who_was_there() {
    for version in ["1", "6", "10", "12"] {
        let mut server = Server::builder().start().await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let carol = server.register("carol").await;
        let made = json!({ "preset": "public_chat", "room_version": version });
        let room = bob.create_room(made).await;
        alice.join(&room).await.ok();
        let said = alice.send_text(&room, "a wombat of mine").await;
        carol.join(&room).await.ok();
        let text = json!({ "body": "a wombat of mine", "msgtype": "m.text" });
        for reader in [&bob, &carol] {
            let seen = read(reader, &room, &said).await;
            assert!(seen.iter().all(|seen| *seen == text), "{seen:?}");
        }
        search::finds(&carol, "wombat", &[&said]).await;
        close_account(&alice, "alice", true).await;
        for restarted in [false, true] {
            let of = |user: &Api| {
                let mut api = server.api();
                api.token = user.token.clone();
                api.user_id = user.user_id.clone();
                api
            };
            let (bob, carol) = (of(&bob), of(&carol));
            let seen = read(&bob, &room, &said).await;
            assert!(seen.iter().all(|seen| *seen == text), "{seen:?}");
            let seen = read(&carol, &room, &said).await;
            assert!(seen.iter().all(|seen| *seen == json!({})), "{seen:?}");
            assert_eq!(search::now(&bob, "wombat").await, [said.as_str()]);
            assert!(search::now(&carol, "wombat").await.is_empty());
            if !restarted {
                server.kill();
                server.start().await;
            }
        }
    }
}

#[tokio::test]
async fn who_closes_an_account_without_that_wish_stays_readable() {
    let server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = bob.create_room(json!({ "preset": "public_chat" })).await;
    alice.join(&room).await.ok();
    let said = alice.send_text(&room, "good bye").await;
    close_account(&alice, "alice", false).await;
    carol.join(&room).await.ok();
    let text = json!({ "body": "good bye", "msgtype": "m.text" });
    let seen = read(&carol, &room, &said).await;
    assert!(seen.iter().all(|seen| *seen == text), "{seen:?}");
}
