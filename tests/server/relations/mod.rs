//! How events relate, over HTTP: relations, threads, bundles, what is refused,
//! and events by time.

mod bundles;
mod pages;
mod refusals;
mod threads;
mod timestamps;
mod versions;

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::harness::{Answer, Api, escape};

/// Sends an event of any type under a transaction id that was not used before.
pub async fn send(api: &Api, room: &str, kind: &str, content: Value) -> Answer {
    static TRANSACTIONS: AtomicU64 = AtomicU64::new(0);
    let txn = TRANSACTIONS.fetch_add(1, Ordering::Relaxed);
    let path = format!(
        "/_matrix/client/v3/rooms/{}/send/{kind}/r{txn}",
        escape(room)
    );
    api.put(&path, content).await
}

/// A message that relates to another event.
pub async fn relate(api: &Api, room: &str, rel_type: &str, parent: &str, body: &str) -> String {
    let content = json!({
        "msgtype": "m.text", "body": body,
        "m.relates_to": { "rel_type": rel_type, "event_id": parent },
    });
    sent(send(api, room, "m.room.message", content).await)
}

/// An edit of a message.
pub async fn edit(api: &Api, room: &str, original: &str, body: &str) -> String {
    let content = json!({
        "msgtype": "m.text", "body": format!("* {body}"),
        "m.new_content": { "msgtype": "m.text", "body": body },
        "m.relates_to": { "rel_type": "m.replace", "event_id": original },
    });
    sent(send(api, room, "m.room.message", content).await)
}

/// A reaction.
pub async fn react(api: &Api, room: &str, parent: &str, key: &str) -> Answer {
    let relates_to = json!({ "rel_type": "m.annotation", "event_id": parent, "key": key });
    send(
        api,
        room,
        "m.reaction",
        json!({ "m.relates_to": relates_to }),
    )
    .await
}

#[track_caller]
pub fn sent(answer: Answer) -> String {
    answer.ok()["event_id"].as_str().unwrap().to_owned()
}

pub async fn redact(api: &Api, room: &str, event: &str) {
    static TRANSACTIONS: AtomicU64 = AtomicU64::new(0);
    let txn = TRANSACTIONS.fetch_add(1, Ordering::Relaxed);
    let (room, event) = (escape(room), escape(event));
    let path = format!("/_matrix/client/v3/rooms/{room}/redact/{event}/x{txn}");
    api.put(&path, json!({})).await.ok();
}

/// Path of `GET /relations`; `rest` is what follows the event id.
pub fn relations(room: &str, event: &str, rest: &str) -> String {
    let (room, event) = (escape(room), escape(event));
    format!("/_matrix/client/v1/rooms/{room}/relations/{event}{rest}")
}

/// What is bundled with an event as `GET /event` shows it.
pub async fn bundle(api: &Api, room: &str, event: &str) -> Value {
    let (room, event) = (escape(room), escape(event));
    let path = format!("/_matrix/client/v3/rooms/{room}/event/{event}");
    api.get(&path).await.ok()["unsigned"]["m.relations"].clone()
}

/// Event ids of a list of events.
pub fn ids(events: &Value) -> Vec<String> {
    let events = events.as_array().unwrap().iter();
    events
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect()
}

pub async fn ignore(api: &Api, ignored: &Api) {
    let user = escape(&api.user_id);
    let path = format!("/_matrix/client/v3/user/{user}/account_data/m.ignored_user_list");
    let list = json!({ "ignored_users": { ignored.user_id.clone(): {} } });
    api.put(&path, list).await.ok();
}
