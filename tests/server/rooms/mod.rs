//! Rooms over HTTP: creation, membership, sending, reading, bad input.

mod bad_input;
mod creation;
mod ignoring;
mod membership;
mod old_sync;
mod purging;
mod reading;
mod redactions;
mod sending;
mod spaces;
mod syncing;
mod upgrades;
mod versions;

use serde_json::{Value, json};

use crate::harness::{Answer, Api, Server, escape};

/// Path under a room.
pub fn of_room(room: &str, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/{rest}", escape(room))
}

/// A piece of state's content.
pub async fn state(api: &Api, room: &str, kind: &str) -> Value {
    api.get(&of_room(room, &format!("state/{kind}"))).await.ok()
}

/// A member endpoint, about `user` if there is one.
pub async fn act(api: &Api, room: &str, act: &str, user: Option<&Api>) -> Answer {
    let body = match user {
        Some(user) => json!({ "user_id": user.user_id, "reason": "because" }),
        None => json!({}),
    };
    api.post(&of_room(room, act), body).await
}

/// The user's membership as another sees it.
pub async fn membership(seen_by: &Api, room: &str, user: &Api) -> String {
    let path = of_room(
        room,
        &format!("state/m.room.member/{}", escape(&user.user_id)),
    );
    let answer = seen_by.get(&path).await;
    answer.body["membership"]
        .as_str()
        .unwrap_or("none")
        .to_owned()
}

/// A server, and two users of it.
pub async fn two_users() -> (Server, Api, Api) {
    let server = Server::builder().start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    (server, alice, bob)
}
