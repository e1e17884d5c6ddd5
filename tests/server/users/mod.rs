//! What belongs to users over HTTP: devices, tags, guests, the directory, and
//! small endpoints about them.

mod erasure;
mod guests;
mod personal;
mod reports;
mod services;

use serde_json::{Value, json};

use crate::harness::{Api, Server, escape};

/// Path under the user's own data.
pub fn of_user(api: &Api, rest: &str) -> String {
    format!("/_matrix/client/v3/user/{}/{rest}", escape(&api.user_id))
}

/// A guest of the server.
pub async fn guest(server: &Server) -> Api {
    let mut guest = server.api();
    let answer = guest
        .post("/_matrix/client/v3/register?kind=guest", json!({}))
        .await
        .ok();
    guest.token = answer["access_token"].as_str().map(str::to_owned);
    guest.user_id = answer["user_id"].as_str().unwrap().to_owned();
    guest
}

/// Sets a piece of a room's state.
pub async fn set_state(api: &Api, room: &str, kind: &str, content: Value) {
    let path = crate::rooms::of_room(room, &format!("state/{kind}"));
    api.put(&path, content).await.ok();
}
