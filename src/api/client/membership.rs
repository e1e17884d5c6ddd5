//! `POST /join/{roomIdOrAlias}`, `/knock/{roomIdOrAlias}` and
//! `/rooms/{roomId}/join|invite|leave|kick|ban|unban|forget` (*Room membership*).

use axum::Json;
use axum::extract::State;
use ruma::{
    OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName, OwnedUserId, RoomId, RoomOrAliasId, UserId,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::content::OptionalEventContent;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Json as Body, OptionalJson, Path, Query};
use crate::api::rate_limit::Limit;
use crate::api::{Api, ApiState};
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::writers::client::membership::Act;

/// Servers that one request may name. Ours: they are tried one after the other.
const SERVERS_MAX: usize = 20;

/// Body of what users do to themselves.
#[derive(Deserialize)]
pub struct Own {
    reason: Option<String>,
}

/// Body of what users do to others.
#[derive(Deserialize)]
pub struct Others {
    user_id: OwnedUserId,
    reason: Option<String>,
}

/// Body of an invite: by user id, or by third-party id, which is refused.
#[derive(Deserialize)]
pub struct Invite {
    user_id: Option<OwnedUserId>,
    reason: Option<String>,
    medium: Option<String>,
}

/// `POST /_matrix/client/v3/join/{roomIdOrAlias}`
pub async fn join_by_id_or_alias(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room): Path<OwnedRoomOrAliasId>,
    Query(named): Query<Parameters>,
    OptionalEventContent(body): OptionalEventContent,
) -> Result<Json<Value>, ApiError> {
    let (room_id, servers) = find(&api, &room, servers(named)).await?;
    join(&api, &auth, (room_id, servers), body).await
}

/// `POST /_matrix/client/v3/rooms/{roomId}/join`
pub async fn join_by_id(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    Query(named): Query<Parameters>,
    OptionalEventContent(body): OptionalEventContent,
) -> Result<Json<Value>, ApiError> {
    join(&api, &auth, (room_id, servers(named)), body).await
}

/// Joins. What the specification does not know in the body becomes part of the
/// member event, as clients are used to from other servers.
async fn join(
    api: &ApiState,
    auth: &Auth,
    (room_id, servers): (OwnedRoomId, Vec<OwnedServerName>),
    mut body: CanonicalJsonObject,
) -> Result<Json<Value>, ApiError> {
    let reason = match body.remove("reason") {
        None | Some(CanonicalJsonValue::Null) => None,
        Some(CanonicalJsonValue::String(reason)) => Some(reason),
        Some(_) => return Err(ApiError::BadJson("reason is no text".into())),
    };
    let signed = body.remove("third_party_signed");
    if signed.is_some_and(|signed| signed != CanonicalJsonValue::Null) {
        // No room here can hold the `m.room.third_party_invite` that such a
        // token belongs to, so the join could not be authorised by it.
        return Err(ApiError::Forbidden("Third-party invites are not supported"));
    }
    let user = auth.user_id();
    limit_joins(api, user, &room_id)?;
    api.room_writer
        .join(&room_id, user, reason, body, servers)
        .await?;
    Ok(Json(json!({ "room_id": room_id })))
}

/// Counts a join, whichever endpoint asks for it.
pub(super) fn limit_joins(api: &Api, user: &UserId, room_id: &RoomId) -> Result<(), ApiError> {
    let limit = match api.remote.is_here(room_id)? {
        true => Limit::JoinLocal,
        false => Limit::JoinRemote,
    };
    api.rate_limits.check(limit, user.as_str())?;
    api.rate_limits.check(Limit::JoinRoom, room_id.as_str())
}

/// Counts an invite, whichever endpoint asks for it.
pub fn limit_invites(
    api: &Api,
    user: &UserId,
    room_id: &RoomId,
    target: &UserId,
) -> Result<(), ApiError> {
    api.rate_limits.check(Limit::InviteIssuer, user.as_str())?;
    api.rate_limits.check(Limit::InviteRoom, room_id.as_str())?;
    api.rate_limits.check(Limit::InviteTarget, target.as_str())
}

/// `POST /_matrix/client/v3/knock/{roomIdOrAlias}`
pub async fn knock(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room): Path<OwnedRoomOrAliasId>,
    Query(named): Query<Parameters>,
    OptionalJson(body): OptionalJson<Own>,
) -> Result<Json<Value>, ApiError> {
    let (room_id, servers) = find(&api, &room, servers(named)).await?;
    let user = auth.user_id();
    limit_joins(&api, user, &room_id)?;
    api.room_writer
        .knock(&room_id, user, body.reason, &servers)
        .await?;
    Ok(Json(json!({ "room_id": room_id })))
}

/// Query parameters, any of which may be given several times.
pub(super) type Parameters = Vec<(String, String)>;

/// The servers in `via`, and in `server_name`, which it was called before. What is
/// no server name is of no use.
pub(super) fn servers(named: Parameters) -> Vec<OwnedServerName> {
    let named = named
        .into_iter()
        .filter(|(name, _)| name == "via" || name == "server_name");
    let servers = named.filter_map(|(_, server)| OwnedServerName::try_from(server).ok());
    servers.take(SERVERS_MAX).collect()
}

/// The room that an id or alias names, and the servers to reach it by: those that
/// were named, then those that the alias names.
pub(super) async fn find(
    api: &Api,
    room: &RoomOrAliasId,
    mut servers: Vec<OwnedServerName>,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), ApiError> {
    let alias = match OwnedRoomId::try_from(room.to_owned()) {
        Ok(room_id) => return Ok((room_id, servers)),
        Err(alias) => alias,
    };
    let ours = alias.server_name() == api.settings.server_name;
    let (room_id, named) = match ours {
        true => {
            let known = api.users.alias(&alias);
            let known = known.ok_or(ApiError::NotFound("Room alias not found"))?;
            (known.room_id, known.servers)
        }
        false => {
            let known = api.queries.directory(&alias).await?;
            (known.room_id, known.servers)
        }
    };
    servers.extend(named);
    servers.truncate(SERVERS_MAX);
    Ok((room_id, servers))
}

/// The room that an id or an alias of ours names.
pub(super) fn resolve(api: &Api, room: &RoomOrAliasId) -> Result<OwnedRoomId, ApiError> {
    match OwnedRoomId::try_from(room.to_owned()) {
        Ok(room_id) => Ok(room_id),
        Err(alias) => {
            let known = api.users.alias(&alias);
            known
                .map(|known| known.room_id)
                .ok_or(ApiError::NotFound("Room alias not found"))
        }
    }
}

/// `POST /_matrix/client/v3/rooms/{roomId}/invite`
pub async fn invite(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    Body(body): Body<Invite>,
) -> Result<Json<Value>, ApiError> {
    let Some(target) = body.user_id else {
        return Err(match body.medium {
            Some(_) => ApiError::Forbidden("Third-party invites are not supported"),
            None => ApiError::MissingParam("user_id".into()),
        });
    };
    let user = auth.user_id();
    limit_invites(&api, user, &room_id, &target)?;
    let act = Act::Invite { is_direct: false };
    api.room_writer
        .change_membership(act, &room_id, user, &target, body.reason)
        .await?;
    Ok(Json(json!({})))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/leave`
pub async fn leave(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    OptionalJson(body): OptionalJson<Own>,
) -> Result<Json<Value>, ApiError> {
    let user = auth.user_id();
    api.room_writer
        .change_membership(Act::Leave, &room_id, user, user, body.reason)
        .await?;
    Ok(Json(json!({})))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/kick`
pub async fn kick(
    api: State<ApiState>,
    auth: Auth,
    room_id: Path<OwnedRoomId>,
    body: Body<Others>,
) -> Result<Json<Value>, ApiError> {
    act_on(Act::Kick, api, auth, room_id, body).await
}

/// `POST /_matrix/client/v3/rooms/{roomId}/ban`
pub async fn ban(
    api: State<ApiState>,
    auth: Auth,
    room_id: Path<OwnedRoomId>,
    body: Body<Others>,
) -> Result<Json<Value>, ApiError> {
    act_on(Act::Ban, api, auth, room_id, body).await
}

/// `POST /_matrix/client/v3/rooms/{roomId}/unban`
pub async fn unban(
    api: State<ApiState>,
    auth: Auth,
    room_id: Path<OwnedRoomId>,
    body: Body<Others>,
) -> Result<Json<Value>, ApiError> {
    act_on(Act::Unban, api, auth, room_id, body).await
}

async fn act_on(
    act: Act,
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    Body(body): Body<Others>,
) -> Result<Json<Value>, ApiError> {
    api.room_writer
        .change_membership(act, &room_id, auth.user_id(), &body.user_id, body.reason)
        .await?;
    Ok(Json(json!({})))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/forget`
pub async fn forget(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
) -> Result<Json<Value>, ApiError> {
    api.room_writer.forget(&room_id, auth.user_id()).await?;
    Ok(Json(json!({})))
}
