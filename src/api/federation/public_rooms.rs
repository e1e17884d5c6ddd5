//! `GET|POST /_matrix/federation/v1/publicRooms`: our directory, for other servers
//! (server-server API, *Published Room Directory*).

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::auth::{Signed, SignedJson};
use crate::api::client::public_rooms::{PublicRooms, Search, for_servers};
use crate::api::errors::ApiError;
use crate::api::extract::{Query, parse_json};
use crate::api::rate_limit::Limit;
use crate::api::{Api, ApiState};
use crate::limits::LOGIN_BODY_BYTES_MAX;
use crate::matrix::canonical_json::to_bytes;

#[derive(Deserialize)]
pub struct ListQuery {
    limit: Option<u64>,
    since: Option<String>,
    third_party_instance_id: Option<String>,
}

/// `GET /_matrix/federation/v1/publicRooms`
pub async fn list(
    State(api): State<ApiState>,
    Signed { origin }: Signed,
    Query(query): Query<ListQuery>,
) -> Result<Json<PublicRooms>, ApiError> {
    is_open(&api, origin.as_str())?;
    let network = query.third_party_instance_id;
    for_servers(&api, Search::for_all(query.limit, query.since, network))
}

/// `POST /_matrix/federation/v1/publicRooms`
pub async fn search(
    State(api): State<ApiState>,
    SignedJson { origin, body, .. }: SignedJson<LOGIN_BODY_BYTES_MAX>,
) -> Result<Json<PublicRooms>, ApiError> {
    is_open(&api, origin.as_str())?;
    for_servers(&api, parse_json(&to_bytes(&body))?)
}

fn is_open(api: &Api, origin: &str) -> Result<(), ApiError> {
    api.rate_limits.check(Limit::History, origin)?;
    match api.settings.serves_public_rooms {
        true => Ok(()),
        false => Err(ApiError::Forbidden(
            "The directory of this server is for its own users",
        )),
    }
}
