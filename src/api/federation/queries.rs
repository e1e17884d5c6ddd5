//! `GET /_matrix/federation/v1/query/{profile,directory}`: what another server
//! may know of our users and aliases (server-server API, *Querying for information*).

use axum::Json;
use axum::extract::State;
use ruma::{OwnedRoomAliasId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::auth::Signed;
use crate::api::ApiState;
use crate::api::client::{directory, profile};
use crate::api::errors::ApiError;
use crate::api::extract::{Query, required};

#[derive(Deserialize)]
pub struct ProfileQuery {
    user_id: Option<OwnedUserId>,
    field: Option<String>,
}

/// `GET /_matrix/federation/v1/query/profile`
pub async fn profile(
    State(api): State<ApiState>,
    _: Signed,
    Query(query): Query<ProfileQuery>,
) -> Result<Json<Map<String, Value>>, ApiError> {
    let user = required(query.user_id, "user_id")?;
    if user.server_name() != api.settings.server_name {
        return Err(ApiError::InvalidParam(
            "The user is not of this server".into(),
        ));
    }
    let mut fields = profile::of_local(&api, &user)?;
    if let Some(field) = query.field {
        fields.retain(|name, _| *name == field);
        if fields.is_empty() {
            return Err(ApiError::NotFound("No such profile field"));
        }
    }
    Ok(Json(fields))
}

#[derive(Deserialize)]
pub struct DirectoryQuery {
    room_alias: Option<OwnedRoomAliasId>,
}

/// `GET /_matrix/federation/v1/query/directory`
pub async fn directory(
    State(api): State<ApiState>,
    _: Signed,
    Query(query): Query<DirectoryQuery>,
) -> Result<Json<Value>, ApiError> {
    let alias = required(query.room_alias, "room_alias")?;
    let known = directory::of_local(&api, &alias)?;
    Ok(Json(
        json!({ "room_id": known.room_id, "servers": known.servers }),
    ))
}
