//! `GET /voip/turnServer`: where a client finds a TURN server, and a name and
//! password that this server and that one can work out alike (*Voice over IP*;
//! coturn's `use-auth-secret`).

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::clock::now_ms;
use crate::crypto::sha1::hmac_sha1;

/// `GET /_matrix/client/v3/voip/turnServer`; an empty object where there is none.
pub async fn turn_server(State(api): State<ApiState>, auth: Auth) -> Json<Value> {
    let Some(turn) = &api.settings.turn else {
        return Json(json!({}));
    };
    let expires = now_ms() / 1000 + turn.lifetime.as_secs();
    let username = format!("{expires}:{}", auth.user_id());
    let password = hmac_sha1(turn.secret.as_bytes(), username.as_bytes());
    Json(json!({
        "username": username,
        "password": STANDARD.encode(password),
        "uris": turn.uris,
        "ttl": turn.lifetime.as_secs(),
    }))
}
