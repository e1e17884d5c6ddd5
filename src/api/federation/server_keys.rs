//! `GET /_matrix/key/v2/server`, `GET /_matrix/key/v2/query/{serverName}` and
//! `POST /_matrix/key/v2/query`: our keys, and as a notary those of others
//! (server-server API, *Retrieving server keys*).

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::ApiState;
use crate::api::auth::ClientAddress;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query, SmallJson};
use crate::api::rate_limit::Limit;
use crate::clock::now_ms;
use crate::matrix::canonical_json::CanonicalJsonObject;

/// Servers that one request may ask about: each may cost a request of ours.
const SERVERS_MAX: usize = 20;

/// `GET /_matrix/key/v2/server`
pub async fn own(State(api): State<ApiState>) -> Json<CanonicalJsonObject> {
    Json(api.keyring.own().published(now_ms()))
}

#[derive(Deserialize)]
pub struct Criteria {
    minimum_valid_until_ts: Option<u64>,
}

/// `GET /_matrix/key/v2/query/{serverName}`
pub async fn notarised(
    State(api): State<ApiState>,
    ClientAddress(address): ClientAddress,
    Path(server): Path<OwnedServerName>,
    Query(criteria): Query<Criteria>,
) -> Result<Json<Value>, ApiError> {
    api.rate_limits.check_address(Limit::Notary, address)?;
    let until = criteria.minimum_valid_until_ts;
    let found = about(&api, &server, until).await?;
    Ok(answer(found))
}

/// `GET /_matrix/key/v2/query/{serverName}/{keyId}`: the same. The key id was
/// taken out of the specification; old servers send it.
pub async fn notarised_key(
    state: State<ApiState>,
    address: ClientAddress,
    Path((server, _)): Path<(OwnedServerName, String)>,
    criteria: Query<Criteria>,
) -> Result<Json<Value>, ApiError> {
    notarised(state, address, Path(server), criteria).await
}

#[derive(Deserialize)]
pub struct Batch {
    server_keys: BTreeMap<OwnedServerName, BTreeMap<String, Criteria>>,
}

/// `POST /_matrix/key/v2/query`
pub async fn notarised_batch(
    State(api): State<ApiState>,
    ClientAddress(address): ClientAddress,
    SmallJson(batch): SmallJson<Batch>,
) -> Result<Json<Value>, ApiError> {
    if batch.server_keys.len() > SERVERS_MAX {
        let text = format!("At most {SERVERS_MAX} servers can be asked about at a time");
        return Err(ApiError::InvalidParam(text.into()));
    }
    let mut found = Vec::new();
    for (server, keys) in &batch.server_keys {
        api.rate_limits.check_address(Limit::Notary, address)?;
        let until = keys
            .values()
            .filter_map(|criteria| criteria.minimum_valid_until_ts)
            .max();
        found.extend(about(&api, server, until).await?);
    }
    Ok(answer(found))
}

fn answer(found: impl IntoIterator<Item = CanonicalJsonObject>) -> Json<Value> {
    let found: Vec<_> = found.into_iter().collect();
    Json(json!({ "server_keys": found }))
}

/// What we can say of a server. What it said last counts on when it does not
/// answer, so that old events can be verified.
async fn about(
    api: &ApiState,
    server: &ServerName,
    until: Option<u64>,
) -> Result<Option<CanonicalJsonObject>, ApiError> {
    let own = api.keyring.own();
    if own.is(server) {
        return Ok(Some(own.published(now_ms())));
    }
    let until = until.unwrap_or_else(now_ms);
    let valid = |valid_until: u64| valid_until >= until;
    if let Some(known) = api
        .keyring
        .newest(server)?
        .filter(|known| valid(known.valid_until_ts))
    {
        return Ok(Some(own.notarise(&known)));
    }
    // Whatever comes of it, the last answer is the best there is.
    let fetched = api.keyring.with(server, "", |_| false).await;
    if let Err(error) = fetched {
        tracing::debug!(%server, %error, "keys not fetched for a notary's answer");
    }
    let newest = api.keyring.newest(server)?;
    Ok(newest.map(|keys| own.notarise(&keys)))
}
