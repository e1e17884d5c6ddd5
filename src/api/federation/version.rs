//! `GET /_matrix/federation/v1/version` and `GET /.well-known/matrix/server`
//! (server-server API, *Server discovery*).

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::api::ApiState;
use crate::api::errors::ApiError;

/// `GET /_matrix/federation/v1/version`
pub async fn version() -> Json<Value> {
    Json(json!({ "server": {
        "name": "Engram",
        "version": env!("CARGO_PKG_VERSION"),
    } }))
}

/// `GET /.well-known/matrix/server`: to whom we delegate, if we do.
pub async fn well_known(State(api): State<ApiState>) -> Result<Json<Value>, ApiError> {
    match &api.settings.delegated_to {
        Some(server) => Ok(Json(json!({ "m.server": server }))),
        None => Err(ApiError::NotFound("This server delegates to no other name")),
    }
}
