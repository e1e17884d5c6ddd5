//! `GET /_matrix/key/v2/server`, `GET /_matrix/key/v2/query/{serverName}` and
//! `POST /_matrix/key/v2/query`: our keys, and as a notary those of others
//! (server-server API, *Retrieving server keys*).

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Request, State};
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::ApiState;
use crate::api::auth::ClientAddress;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query, parse_json, read_body_within};
use crate::api::rate_limit::Limit;
use crate::clock::now_ms;
use crate::limits::LOGIN_BODY_BYTES_MAX;
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::matrix::server_keys::ServerKeys;

/// Servers that one request may ask about: each may cost a request of ours.
const SERVERS_MAX: usize = 20;
/// Keys of one server that are looked up by their id.
const KEYS_MAX: usize = 20;

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
    let found = about(&api, &server, [], until).await?;
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
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let patience = api.settings.server_bodies;
    let body = read_body_within(request, LOGIN_BODY_BYTES_MAX, patience).await?;
    let batch: Batch = parse_json(&body)?;
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
        let ids = keys.keys().map(String::as_str);
        found.extend(about(&api, server, ids, until).await?);
    }
    Ok(answer(found))
}

fn answer(found: impl IntoIterator<Item = CanonicalJsonObject>) -> Json<Value> {
    let found: Vec<_> = found.into_iter().collect();
    Json(json!({ "server_keys": found }))
}

/// What we can say of a server, about the keys that are asked for first. What it
/// said last counts on when it does not answer, and what it said of a key that it
/// names no more, so that old events can be verified.
async fn about<'a>(
    api: &ApiState,
    server: &ServerName,
    ids: impl IntoIterator<Item = &'a str>,
    until: Option<u64>,
) -> Result<Vec<CanonicalJsonObject>, ApiError> {
    let own = api.keyring.own();
    if own.is(server) {
        return Ok(vec![own.published(now_ms())]);
    }
    let ids: Vec<&str> = ids.into_iter().take(KEYS_MAX).collect();
    let newest = newest(api, server, &ids, until).await?;
    let is_named = |id: &str| newest.as_ref().is_some_and(|it| it.keys.contains_key(id));
    let mut found: Vec<CanonicalJsonObject> = Vec::new();
    for id in ids.into_iter().filter(|id| !is_named(id)) {
        if let Some(older) = api.keyring.older_with(server, id)? {
            let older = own.notarise(&older);
            if !found.contains(&older) {
                found.push(older);
            }
        }
    }
    found.extend(newest.map(|keys| own.notarise(&keys)));
    Ok(found)
}

/// The newest answer of a server that is, or can be, known. It is asked for where
/// what is known is not valid for long enough, or lacks a key that is asked about.
async fn newest(
    api: &ApiState,
    server: &ServerName,
    ids: &[&str],
    until: Option<u64>,
) -> Result<Option<ServerKeys>, ApiError> {
    let until = until.unwrap_or_else(now_ms);
    let stored = api.keyring.known(server)?;
    let is_known = |id: &&str| {
        let stored = stored.as_ref();
        stored.is_some_and(|stored| stored.keys.contains_key(*id))
    };
    let newest = api.keyring.newest(server)?;
    let will_do = |newest: &ServerKeys| newest.valid_until_ts >= until && ids.iter().all(is_known);
    if newest.as_ref().is_some_and(will_do) {
        return Ok(newest);
    }
    // Whatever comes of it, the last answer is the best there is.
    let fetched = api.keyring.with(server, "", |_| false).await;
    if let Err(error) = fetched {
        tracing::debug!(%server, %error, "keys not fetched for a notary's answer");
    }
    Ok(api.keyring.newest(server)?)
}
