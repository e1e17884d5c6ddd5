//! `GET /sync`: what is new for the user, now or within the timeout (*Syncing*).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use serde::Deserialize;

use super::presence::Word;
use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::Query;
use crate::clock::now_ms;
use crate::matrix::filter::Filter;
use crate::readers::client_sync::{StateSection, SyncRequest};

/// Query parameters of `GET /sync`.
#[derive(Debug, Deserialize)]
pub struct Parameters {
    since: Option<String>,
    /// The id of a stored filter, or a definition, which begins with a brace.
    filter: Option<String>,
    #[serde(default)]
    full_state: bool,
    #[serde(default)]
    use_state_after: bool,
    /// The same as clients ask that know it from before it was specified.
    #[serde(default, rename = "org.matrix.msc4222.use_state_after")]
    msc4222_use_state_after: bool,
    /// Milliseconds.
    #[serde(default)]
    timeout: u64,
    /// None is online.
    set_presence: Option<Word>,
}

/// `GET /_matrix/client/v3/sync`
pub async fn sync(
    State(api): State<ApiState>,
    auth: Auth,
    Query(parameters): Query<Parameters>,
) -> Result<Response, ApiError> {
    let state_section = match (
        parameters.use_state_after,
        parameters.msc4222_use_state_after,
    ) {
        (true, _) => StateSection::After,
        (false, true) => StateSection::UnstableAfter,
        (false, false) => StateSection::Before,
    };
    let request = SyncRequest {
        user: auth.user_id().to_owned(),
        device: auth.device_id().to_owned(),
        since: parameters.since.filter(|since| !since.is_empty()),
        filter: Arc::new(filter(&api, &auth, parameters.filter.as_deref())?),
        full_state: parameters.full_state,
        timeout: timeout(&auth, Duration::from_millis(parameters.timeout)),
        state_section,
        access: Some(*auth.token_hash()),
    };
    let says = parameters.set_presence.unwrap_or(Word::Online).state();
    let syncing = api
        .presence_setter
        .sync(auth.user_id(), auth.device_id(), says)
        .await;
    let answer = api.sync.sync(request).await?;
    drop(syncing);
    Ok(([(CONTENT_TYPE, "application/json")], answer).into_response())
}

/// No request waits on when its token has expired.
pub(super) fn timeout(auth: &Auth, wanted: Duration) -> Duration {
    match auth.0.expires_ms {
        Some(expires_ms) => wanted.min(Duration::from_millis(expires_ms.saturating_sub(now_ms()))),
        None => wanted,
    }
}

fn filter(api: &ApiState, auth: &Auth, parameter: Option<&str>) -> Result<Filter, ApiError> {
    let wrong = || ApiError::InvalidParam("filter is no filter".into());
    match parameter {
        None | Some("") => Ok(Filter::default()),
        Some(inline) if inline.starts_with('{') => {
            Filter::parse(inline.as_bytes()).map_err(|_| wrong())
        }
        Some(id) => {
            let stored = api.users.filter(auth.user_id(), id);
            let unknown = || ApiError::InvalidParam("No such filter".into());
            Filter::parse(stored.ok_or_else(unknown)?.as_bytes()).map_err(|_| wrong())
        }
    }
}
