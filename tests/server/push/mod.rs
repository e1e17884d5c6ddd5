//! Push rules, what they make of events, and what is unread, over HTTP.

mod counts;
mod notifications;
mod rules;

use serde_json::{Value, json};

use crate::harness::{Api, escape};
use crate::rooms::of_room;

/// Path below the user's rules.
fn rules(rest: &str) -> String {
    format!("/_matrix/client/v3/pushrules/global/{rest}")
}

/// Gives the user a rule.
async fn put_rule(api: &Api, kind: &str, id: &str, rule: Value) {
    let path = rules(&format!("{kind}/{}", escape(id)));
    assert_eq!(api.put(&path, rule).await.ok(), json!({}));
}

/// The ids of the user's rules of a kind, in their order.
async fn ids(api: &Api, kind: &str) -> Vec<String> {
    let rules = api.get(&rules("")).await.ok();
    let rules = rules[kind].as_array().unwrap();
    let id = |rule: &Value| rule["rule_id"].as_str().unwrap().to_owned();
    rules.iter().map(id).collect()
}

/// Sends a receipt.
async fn read(api: &Api, room: &str, kind: &str, event: &str, body: Value) {
    let path = of_room(room, &format!("receipt/{kind}/{}", escape(event)));
    api.post(&path, body).await.ok();
}

/// A message that mentions somebody.
async fn mention(api: &Api, room: &str, txn: &str, user: &Api) -> String {
    let mentions = json!({ "user_ids": [user.user_id] });
    let content = json!({ "msgtype": "m.text", "body": "psst", "m.mentions": mentions });
    api.send(room, txn, content).await
}

/// A message in a thread.
async fn in_thread(api: &Api, room: &str, txn: &str, root: &str) -> String {
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let content = json!({ "msgtype": "m.text", "body": "aside", "m.relates_to": relation });
    api.send(room, txn, content).await
}

/// What is unread in a room that an answer tells of: notifications, highlights.
fn unread(answer: &Value, room: &str) -> (u64, u64) {
    pair(&answer["rooms"]["join"][room]["unread_notifications"])
}

fn pair(counts: &Value) -> (u64, u64) {
    let count = |name: &str| {
        let count = counts[name].as_u64();
        count.unwrap_or_else(|| panic!("no counts: {counts}"))
    };
    (count("notification_count"), count("highlight_count"))
}
