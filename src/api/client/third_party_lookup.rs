//! `GET /thirdparty/…` (*Third-party Networks*). Bridges bring networks, and
//! there are no bridges yet: no protocol is known, no search finds anything.

use axum::Json;
use serde_json::{Value, json};

use crate::api::auth::Auth;
use crate::api::errors::ApiError;

/// `GET /_matrix/client/v3/thirdparty/protocols`
pub async fn protocols(_: Auth) -> Json<Value> {
    Json(json!({}))
}

/// `GET /_matrix/client/v3/thirdparty/protocol/{protocol}`, and searches in one.
pub async fn of_protocol(_: Auth) -> ApiError {
    ApiError::NotFound("Unknown third-party protocol")
}

/// `GET /_matrix/client/v3/thirdparty/location` and `…/user`: the reverse look-up.
pub async fn reverse(_: Auth) -> Json<Value> {
    Json(json!([]))
}
