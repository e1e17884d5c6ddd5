//! Simplified sliding sync over HTTP: what clients of 2026 do with it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Api, Server, escape};

const UNSTABLE: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// One request, as matrix-rust-sdk makes it.
async fn sync(api: &Api, pos: Option<&str>, timeout_ms: u64, body: Value) -> Value {
    let pos = pos.map_or(String::new(), |pos| format!("&pos={}", escape(pos)));
    let path = format!("{UNSTABLE}?timeout={timeout_ms}{pos}");
    api.post(&path, body).await.ok()
}

fn pos(answer: &Value) -> Option<&str> {
    answer["pos"].as_str()
}

fn room_list() -> Value {
    json!({
        "conn_id": "room-list",
        "lists": {"all_rooms": {
            "ranges": [[0, 19]],
            "timeline_limit": 1,
            "required_state": [
                ["m.room.name", ""], ["m.room.encryption", ""], ["m.room.member", "$LAZY"],
                ["m.room.member", "$ME"], ["m.room.create", ""], ["m.space.child", "*"],
            ],
            "filters": {"not_room_types": ["m.space"]},
        }},
        "extensions": {"account_data": {"enabled": true}, "to_device": {"enabled": true}},
    })
}

#[tokio::test]
async fn a_room_list_is_told_kept_up_to_date_and_survives_a_restart() {
    let mut server = Server::builder().set("LOG__PARTITIONS", 2).start().await;
    let versions = server.api().get("/_matrix/client/versions").await.ok();
    let announced = &versions["unstable_features"]["org.matrix.simplified_msc3575"];
    assert_eq!(announced, true);
    let (ann, ben) = (server.register("ann").await, server.register("ben").await);
    let tea = ann
        .create_room(json!({"name": "Tea", "preset": "public_chat"}))
        .await;
    ann.create_room(json!({"creation_content": {"type": "m.space"}}))
        .await;
    let chat = ann
        .create_room(json!({"is_direct": true, "invite": [ben.user_id]}))
        .await;

    let first = sync(&ann, None, 0, room_list()).await;
    assert_eq!(first["lists"], json!({"all_rooms": {"count": 2}}));
    let told = &first["rooms"][&tea];
    assert_eq!(
        (&told["name"], &told["initial"]),
        (&json!("Tea"), &json!(true))
    );
    assert_eq!(told["timeline"].as_array().map(Vec::len), Some(1));
    assert_eq!(told["notification_count"], 0);
    let kinds: Vec<_> = told["required_state"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|event| event["type"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(kinds, ["m.room.create", "m.room.member", "m.room.name"]);
    let global = &first["extensions"]["account_data"]["global"];
    assert_eq!(global[0]["type"], "m.push_rules");
    assert_eq!(first["extensions"]["to_device"]["events"], json!([]));

    // The invited one sees an invite, joins, and is told the room.
    let seen = sync(&ben, None, 0, room_list()).await;
    assert!(seen["rooms"][&chat]["invite_state"].is_array());
    ben.join(&chat).await.ok();
    let seen = sync(&ben, pos(&seen), 0, room_list()).await;
    assert_eq!(seen["rooms"][&chat]["initial"], true);

    // The poll wakes at a message, and its prev_batch leads into the past.
    let waiting = tokio::spawn({
        let (ann, pos) = (ann.clone(), pos(&first).map(str::to_owned));
        async move { sync(&ann, pos.as_deref(), 30_000, room_list()).await }
    });
    let begun = Instant::now();
    let said = ben.send_text(&chat, "hello").await;
    let second = waiting.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20));
    let mut second = second;
    if second["rooms"][&chat]["timeline"][0]["event_id"] != json!(said) {
        // It was the join that woke it.
        let position = second["pos"].as_str().map(str::to_owned);
        second = sync(&ann, position.as_deref(), 30_000, room_list()).await;
    }
    let told = &second["rooms"][&chat];
    assert_eq!(told["timeline"][0]["event_id"], json!(said));
    assert_eq!(told["num_live"], 1);
    for from in [&told["prev_batch"], &second["pos"]] {
        let from = from.as_str().unwrap();
        let path = format!(
            "/_matrix/client/v3/rooms/{}/messages?dir=b&limit=5&from={}",
            escape(&chat),
            escape(from)
        );
        let page = ann.get(&path).await.ok();
        assert_eq!(page["chunk"].as_array().map(Vec::len), Some(5), "{page}");
    }

    // A restart later only what is new is told.
    assert!(server.terminate().await.success());
    server.start().await;
    let moved = |api: &Api| {
        let mut moved = server.api();
        moved.token = api.token.clone();
        moved
    };
    let (ann, ben) = (moved(&ann), moved(&ben));
    let quiet = sync(&ann, pos(&second), 0, room_list()).await;
    assert_eq!(quiet["rooms"], json!({}));
    let said = ben.send_text(&chat, "again").await;
    let third = sync(&ann, pos(&quiet), 0, room_list()).await;
    let rooms = third["rooms"].as_object().unwrap();
    assert_eq!(rooms.len(), 1);
    assert_eq!(rooms[&chat]["timeline"][0]["event_id"], json!(said));
    assert!(rooms[&chat].get("initial").is_none());
}

/// As Element X asks: receipts of all lists, and of what is subscribed to.
#[tokio::test]
async fn a_waiting_client_is_told_how_far_others_have_read() {
    let server = Server::builder().start().await;
    let (ann, ben) = (server.register("ann").await, server.register("ben").await);
    let room = ann.create_room(json!({"preset": "public_chat"})).await;
    ben.join(&room).await.ok();
    let said = ann.send_text(&room, "hello").await;
    let asks = || {
        let mut asks = room_list();
        asks["extensions"]["receipts"] = json!({"enabled": true, "rooms": ["*"]});
        asks
    };
    let first = sync(&ann, None, 0, asks()).await;
    assert!(first["extensions"].get("receipts").is_none());
    let waiting = tokio::spawn({
        let (ann, pos) = (ann.clone(), pos(&first).map(str::to_owned));
        let asks = asks();
        async move { sync(&ann, pos.as_deref(), 30_000, asks).await }
    });
    let path = format!(
        "/_matrix/client/v3/rooms/{}/receipt/m.read/{}",
        escape(&room),
        escape(&said)
    );
    ben.post(&path, json!({})).await.ok();
    let answer = waiting.await.unwrap();
    let told = &answer["extensions"]["receipts"]["rooms"][&room];
    assert_eq!(told["type"], "m.receipt");
    let read = &told["content"][&said]["m.read"][&ben.user_id];
    assert!(read["ts"].is_u64(), "{answer}");
    // Whoever begins is told as well.
    let other = sync(&ben, None, 0, asks()).await;
    assert_eq!(&other["extensions"]["receipts"]["rooms"][&room], told);
}

#[tokio::test]
async fn what_cannot_be_answered_says_why() {
    let server = Server::builder().start().await;
    let (ann, ben) = (server.register("ann").await, server.register("ben").await);
    server
        .api()
        .post(UNSTABLE, json!({}))
        .await
        .refused(401, "M_MISSING_TOKEN");
    ann.post(UNSTABLE, json!([]))
        .await
        .refused(400, "M_BAD_JSON");
    let list = json!({"timeline_limit": 1});
    let backward = json!({"lists": {"a": {"timeline_limit": 1, "ranges": [[3, 1]]}}});
    ann.post(UNSTABLE, backward)
        .await
        .refused(400, "M_INVALID_PARAM");
    let many: serde_json::Map<String, Value> = (0..101)
        .map(|n| (format!("!{n}:hs.test"), list.clone()))
        .collect();
    let many = json!({"room_subscriptions": many});
    ann.post(UNSTABLE, many)
        .await
        .refused(400, "M_INVALID_PARAM");
    let path = format!("{UNSTABLE}?set_presence=asleep");
    ann.post(&path, json!({}))
        .await
        .refused(400, "M_INVALID_PARAM");
    for pos in ["nonsense", "x1_5_s1_AAAA", ""] {
        let path = format!("{UNSTABLE}?pos={pos}");
        ann.post(&path, json!({}))
            .await
            .refused(400, "M_UNKNOWN_POS");
    }
    let answer = sync(&ann, None, 0, json!({"txn_id": "t"})).await;
    assert_eq!(answer["txn_id"], "t");
    let path = format!("{UNSTABLE}?pos={}", pos(&answer).unwrap());
    ben.post(&path, json!({}))
        .await
        .refused(400, "M_UNKNOWN_POS");
    ann.post(&path, json!({})).await.ok();
}

#[tokio::test]
async fn the_accepted_proposal_is_spelled_as_it_says() {
    let server = Server::builder().start().await;
    let ann = server.register("ann").await;
    let room = ann.create_room(json!({"name": "Tea"})).await;
    let path = "/_matrix/client/v4/sync";
    let asks = |pos: Option<&str>, limit: u64| {
        json!({
            "pos": pos, "timeout": 0, "set_presence": "offline",
            "lists": {"all": {
                "range": [0, 9], "timeline_limit": limit,
                "required_state": {
                    "include": [{}], "exclude": [{"type": "m.room.power_levels"}],
                    "lazy_members": true,
                },
            }},
        })
    };
    let first = ann.post(path, asks(None, 1)).await.ok();
    let told = &first["rooms"][&room];
    assert!(told.get("notification_count").is_none());
    assert_eq!(
        (&told["membership"], &told["lists"]),
        (&json!("join"), &json!(["all"]))
    );
    let state = told["required_state"].as_array().unwrap();
    assert!(
        state
            .iter()
            .all(|event| event["type"] != "m.room.power_levels")
    );
    let more = ann.post(path, asks(pos(&first), 5)).await.ok();
    assert_eq!(more["rooms"][&room]["expanded_timeline"], true);
}
