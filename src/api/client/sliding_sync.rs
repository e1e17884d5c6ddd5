//! `POST /sync` of simplified sliding sync: what is new in the rooms that a
//! client looks at, now or within the timeout (MSC4186).
//!
//! Served at the unstable path that clients of 2026 call and at the one of the
//! accepted proposal; what differs between these is how answers are spelled.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use log_format::record::ephemeral::PresenceState;
use serde::Deserialize;

use super::sync::timeout;
use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Json, Query};
use crate::readers::client_sync::sliding::request::{Body, Dialect, SlidingRequest};

/// Query parameters, which the accepted proposal has in the body.
#[derive(Debug, Deserialize)]
pub struct Parameters {
    pos: Option<String>,
    /// Milliseconds.
    timeout: Option<u64>,
    set_presence: Option<String>,
}

/// `POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync`
pub async fn unstable(
    State(api): State<ApiState>,
    auth: Auth,
    Query(parameters): Query<Parameters>,
    Json(mut body): Json<Body>,
) -> Result<Response, ApiError> {
    body.pos = parameters.pos.or(body.pos);
    body.timeout = parameters.timeout.or(body.timeout);
    body.set_presence = parameters.set_presence.or(body.set_presence);
    sync(&api, &auth, Dialect::Unstable, body).await
}

/// `POST /_matrix/client/v4/sync`
pub async fn accepted(
    State(api): State<ApiState>,
    auth: Auth,
    Json(body): Json<Body>,
) -> Result<Response, ApiError> {
    sync(&api, &auth, Dialect::Accepted, body).await
}

async fn sync(
    api: &ApiState,
    auth: &Auth,
    dialect: Dialect,
    body: Body,
) -> Result<Response, ApiError> {
    let says = match body.set_presence.as_deref() {
        None => Some(PresenceState::Online),
        Some(word) => PresenceState::parse(word),
    };
    let wrong = || ApiError::InvalidParam("set_presence is no presence".into());
    let says = says.ok_or_else(wrong)?;
    let request = SlidingRequest::new(auth.user_id(), auth.device_id(), dialect, body);
    let mut request = request.map_err(|error| ApiError::InvalidParam(error.to_string().into()))?;
    request.timeout = timeout(auth, request.timeout);
    request.access = Some(*auth.token_hash());
    let syncing = api
        .presence_setter
        .sync(auth.user_id(), auth.device_id(), says)
        .await;
    let answer = api.sync.sliding_sync(request).await?;
    drop(syncing);
    Ok(([(CONTENT_TYPE, "application/json")], answer).into_response())
}
