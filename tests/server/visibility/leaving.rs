//! CVE-2024-53867: sliding sync told users what happened in a room after they
//! had left it. Nothing newer than the leave is told, by either kind of sync:
//! no state, no typing, no receipts, no counts.

use serde_json::{Value, json};

use super::table;
use crate::harness::{Api, Server, escape};
use crate::rooms::{act, of_room};

const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
/// Begins every word that only members may know.
const LATER: &str = "later-";

/// Where a client stands in both kinds of sync.
struct Tokens {
    since: String,
    pos: String,
}

fn sliding_body(room: &str, connection: &str) -> Value {
    let rule = json!({ "required_state": [["*", "*"]], "timeline_limit": 50 });
    let mut list = rule.clone();
    list["ranges"] = json!([[0, 99]]);
    json!({
        "conn_id": connection,
        "lists": { "all": list },
        "room_subscriptions": { room: rule },
        "extensions": {
            "typing": { "enabled": true }, "receipts": { "enabled": true },
            "account_data": { "enabled": true },
        },
    })
}

async fn slide(api: &Api, room: &str, connection: &str, pos: Option<&str>) -> Value {
    let pos = pos.map_or(String::new(), |pos| format!("&pos={}", escape(pos)));
    let path = format!("{SLIDING}?timeout=0{pos}");
    api.post(&path, sliding_body(room, connection)).await.ok()
}

async fn stand(api: &Api, room: &str) -> Tokens {
    let since = api.sync("timeout=0").await;
    let answer = slide(api, room, "old", None).await;
    assert_eq!(answer["rooms"][room]["joined_count"], 2);
    Tokens {
        since: since["next_batch"].as_str().expect("a token").to_owned(),
        pos: answer["pos"].as_str().expect("a position").to_owned(),
    }
}

/// What goes on in the room when the user is gone. Gives the ids that they must
/// not be told.
async fn life_goes_on(alice: &Api, carol: &Api, room: &str, gone: &Api) -> Vec<String> {
    let mentions = json!({
        "msgtype": "m.text", "body": format!("{LATER}message"),
        "m.mentions": { "user_ids": [gone.user_id] },
    });
    let said = alice.send(room, &format!("{LATER}txn"), mentions).await;
    for (kind, field) in [("m.room.name", "name"), ("m.room.topic", "topic")] {
        let path = of_room(room, &format!("state/{kind}"));
        let content = json!({ field: format!("{LATER}{field}") });
        alice.put(&path, content).await.ok();
    }
    let join = json!({ "reason": format!("{LATER}join") });
    carol.post(&of_room(room, "join"), join).await.ok();
    let receipt = of_room(room, &format!("receipt/m.read/{}", escape(&said)));
    carol.post(&receipt, json!({})).await.ok();
    if table::has_path("/_matrix/client/v3/rooms/{roomId}/typing/{userId}") {
        let typing = of_room(room, &format!("typing/{}", escape(&carol.user_id)));
        let body = json!({ "typing": true, "timeout": 30_000 });
        carol.put(&typing, body).await.ok();
    }
    vec![said, carol.user_id.clone()]
}

fn is_silent(answer: &Value, room: &str, secrets: &[String], what: &str) {
    let text = answer.to_string();
    assert!(!text.contains(LATER), "{what} tells {text}");
    for secret in secrets {
        assert!(!text.contains(secret), "{what} tells {secret}: {text}");
    }
    for section in ["join", "invite", "knock"] {
        assert!(
            answer["rooms"][section].get(room).is_none(),
            "{what}: {text}"
        );
    }
    let left = &answer["rooms"]["leave"][room];
    for inside in ["ephemeral", "unread_notifications", "summary"] {
        let told = left.get(inside);
        assert!(told.is_none_or(|told| told == &json!({})), "{what}: {left}");
    }
    for extension in ["typing", "receipts"] {
        let told = &answer["extensions"][extension]["rooms"];
        assert!(told.get(room).is_none(), "{what}: {told}");
    }
    let told = &answer["rooms"][room];
    // Three are joined when the third has come; the user knew two.
    for count in ["joined_count", "notification_count", "highlight_count"] {
        let count = told[count].as_u64().unwrap_or(0);
        assert!(count <= 2, "{what}: {told}");
    }
    for count in ["notification_count", "highlight_count"] {
        assert_eq!(told[count].as_u64().unwrap_or(0), 0, "{what}: {told}");
    }
}

async fn hears_nothing(gone: &Api, room: &str, tokens: Tokens, secrets: &[String]) {
    let left = escape(&json!({ "room": { "include_leave": true } }).to_string());
    for (what, query) in [
        ("sync", String::new()),
        ("sync of full state", "&full_state=true".into()),
        ("sync with what was left", format!("&filter={left}")),
    ] {
        let answer = gone.sync(&format!("timeout=0{query}")).await;
        is_silent(&answer, room, secrets, what);
        let since = format!("timeout=0&since={}{query}", tokens.since);
        let answer = gone.sync(&since).await;
        is_silent(&answer, room, secrets, &format!("{what} since"));
        let next = answer["next_batch"].as_str().expect("a token");
        let answer = gone.sync(&format!("timeout=0&since={next}{query}")).await;
        is_silent(&answer, room, secrets, &format!("{what} after that"));
    }
    let mut pos = Some(tokens.pos);
    for round in 0..3 {
        let answer = slide(gone, room, "old", pos.as_deref()).await;
        is_silent(&answer, room, secrets, &format!("sliding sync, {round}"));
        pos = answer["pos"].as_str().map(str::to_owned);
    }
    let mut pos = None;
    for round in 0..2 {
        let answer = slide(gone, room, "new", pos.as_deref()).await;
        is_silent(
            &answer,
            room,
            secrets,
            &format!("new sliding sync, {round}"),
        );
        pos = answer["pos"].as_str().map(str::to_owned);
    }
}

#[tokio::test]
async fn cve_2024_53867_who_left_hears_nothing_more() {
    let server = Server::builder().start().await;
    let alice = server.register("alice").await;
    for how in ["leave", "kick", "ban"] {
        let bob = server.register(&format!("bob.{how}")).await;
        let carol = server.register(&format!("carol.{how}")).await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await.ok();
        let first = stand(&bob, &room).await;
        match how {
            "leave" => act(&bob, &room, how, None).await.ok(),
            _ => act(&alice, &room, how, Some(&bob)).await.ok(),
        };
        let secrets = life_goes_on(&alice, &carol, &room, &bob).await;
        hears_nothing(&bob, &room, first, &secrets).await;
    }
}
