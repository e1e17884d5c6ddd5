//! What users tell one another beside the rooms' events, over HTTP: receipts,
//! typing, presence.

mod presence;
mod receipts;
mod typing;

use serde_json::{Value, json};

use crate::harness::{Api, Server};

/// A server with two users and a room that both are in.
async fn two_in_a_room() -> (Server, Api, Api, String) {
    let server = Server::builder().start().await;
    let (alice, bob, room) = in_a_room(&server).await;
    (server, alice, bob, room)
}

/// Two users of a server and a room that both are in.
async fn in_a_room(server: &Server) -> (Api, Api, String) {
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await.ok();
    (alice, bob, room)
}

/// Content of the events of a type in an answer's `ephemeral` section of a room.
fn told(answer: &Value, room: &str, kind: &str) -> Vec<Value> {
    let events = &answer["rooms"]["join"][room]["ephemeral"]["events"];
    let events = events.as_array().cloned().unwrap_or_default();
    let of_type = events.into_iter().filter(|event| event["type"] == kind);
    of_type.map(|mut event| event["content"].take()).collect()
}

/// What is new since a token, and the next token.
async fn since(api: &Api, token: &mut String, wait_ms: u32) -> Value {
    let answer = api.sync(&format!("since={token}&timeout={wait_ms}")).await;
    *token = next(&answer);
    answer
}

fn next(answer: &Value) -> String {
    let token = answer["next_batch"].as_str();
    token.expect("an answer has a token").to_owned()
}

/// The same user at a server that was started again.
fn moved(server: &Server, user: &Api) -> Api {
    let mut moved = server.api();
    moved.token = user.token.clone();
    moved.user_id = user.user_id.clone();
    moved
}
