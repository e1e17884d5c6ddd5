//! `POST /user/{userId}/openid/request_token` (*OpenID*), and `GET
//! /_matrix/federation/v1/openid/userinfo` (server-server API, *OpenID*), where
//! whoever is shown such a token asks whose it is.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::api::ApiState;
use crate::api::auth::{Auth, ClientAddress};
use crate::api::errors::ApiError;
use crate::api::extract::{OptionalJson, Path, Query};
use crate::api::rate_limit::Limit;
use crate::clock::now_ms;

/// How long a token is good for: long enough to log in somewhere with it.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// `POST /_matrix/client/v3/user/{userId}/openid/request_token`
pub async fn request_token(
    State(api): State<ApiState>,
    auth: Auth,
    Path(user): Path<OwnedUserId>,
    OptionalJson(_): OptionalJson<Map<String, Value>>,
) -> Result<Json<Value>, ApiError> {
    auth.must_be(&user)?;
    api.rate_limits.check(Limit::UserData, user.as_str())?;
    let expires_ms = now_ms() + LIFETIME.as_millis() as u64;
    let device = auth.device_id().as_str();
    Ok(Json(json!({
        "access_token": api.openid.issue(user.as_str(), device, expires_ms),
        "token_type": "Bearer",
        "matrix_server_name": api.settings.server_name,
        "expires_in": LIFETIME.as_secs(),
    })))
}

/// Query of `GET /openid/userinfo`.
#[derive(Deserialize)]
pub struct UserInfoQuery {
    access_token: Option<String>,
}

/// `GET /_matrix/federation/v1/openid/userinfo`
pub async fn user_info(
    State(api): State<ApiState>,
    ClientAddress(address): ClientAddress,
    Query(query): Query<UserInfoQuery>,
) -> Result<Json<Value>, ApiError> {
    let token = query.access_token.ok_or(ApiError::MissingToken)?;
    api.rate_limits.check_address(Limit::LookUp, address)?;
    let unknown = ApiError::UnknownToken { soft_logout: false };
    let user = owner(&api, &token).ok_or(unknown)?;
    Ok(Json(json!({ "sub": user })))
}

/// Whose the token is, while their account and the device that asked for the
/// token are there.
fn owner(api: &ApiState, token: &str) -> Option<OwnedUserId> {
    let token = api.openid.read(token)?;
    let user = UserId::parse(&token.user).ok()?;
    if token.expires_ms <= now_ms() {
        return None;
    }
    let mut devices = api.users.devices(&user).into_iter();
    let is_known = devices.any(|device| api.openid.is_of(&token, device.device_id.as_str()));
    is_known.then_some(user)
}
