//! `GET|POST /login`, `POST /refresh`, `POST /logout`, `POST /logout/all`:
//! sessions begin and end (*Login*, *Refreshing access tokens*).

use axum::extract::State;
use ruma::{DeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::discovery::well_known_document;
use crate::api::ApiState;
use crate::api::auth::{Auth, ClientAddress};
use crate::api::errors::ApiError;
use crate::api::extract::{SmallJson, required};
use crate::api::rate_limit::Limit;
use crate::api::uia::Identifier;
use crate::writers::client::accounts::AccountError;
use crate::writers::client::devices::{DeviceRequest, GrantedTokens};

/// Body of `POST /login`; fields of login types that are not offered are left out.
#[derive(Deserialize)]
pub struct LoginRequest {
    #[serde(rename = "type")]
    kind: String,
    identifier: Option<Identifier>,
    /// Deprecated forms of `identifier`.
    user: Option<String>,
    medium: Option<String>,
    address: Option<String>,
    password: Option<String>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
}

/// What a login, and a registration that logs in, is answered with.
#[derive(Serialize)]
pub struct LoggedIn {
    user_id: OwnedUserId,
    #[serde(flatten)]
    session: Option<GrantedSession>,
    #[serde(skip_serializing_if = "Option::is_none")]
    well_known: Option<Value>,
}

#[derive(Serialize)]
struct GrantedSession {
    device_id: Box<str>,
    #[serde(flatten)]
    tokens: TokenAnswer,
}

/// The token fields of login, registration and refresh.
#[derive(Serialize)]
pub struct TokenAnswer {
    access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<u64>,
}

impl From<GrantedTokens> for TokenAnswer {
    fn from(granted: GrantedTokens) -> TokenAnswer {
        TokenAnswer {
            access_token: granted.access_token,
            refresh_token: granted.refresh_token,
            expires_in_ms: granted.expires_in_ms,
        }
    }
}

impl LoggedIn {
    pub(super) fn without_session(user_id: OwnedUserId) -> LoggedIn {
        LoggedIn {
            user_id,
            session: None,
            well_known: None,
        }
    }

    pub(super) fn new(user_id: OwnedUserId, device: &DeviceId, granted: GrantedTokens) -> LoggedIn {
        let session = GrantedSession {
            device_id: device.as_str().into(),
            tokens: granted.into(),
        };
        LoggedIn {
            user_id,
            session: Some(session),
            well_known: None,
        }
    }
}

/// `GET /_matrix/client/v3/login`
pub async fn flows() -> axum::Json<Value> {
    axum::Json(json!({ "flows": [{ "type": "m.login.password" }] }))
}

/// `POST /_matrix/client/v3/login`
pub async fn log_in(
    State(api): State<ApiState>,
    ClientAddress(address): ClientAddress,
    SmallJson(request): SmallJson<LoginRequest>,
) -> Result<axum::Json<LoggedIn>, ApiError> {
    if request.kind != "m.login.password" {
        return Err(ApiError::UnknownLoginType);
    }
    let identifier = request.identifier.unwrap_or(Identifier {
        kind: None,
        user: request.user,
        medium: request.medium,
        address: request.address,
    });
    let user = named_user(&api, &identifier)?;
    let password = required(request.password, "password")?;
    let device = DeviceRequest {
        device_id: request.device_id,
        initial_display_name: request.initial_device_display_name,
        refreshable: request.refresh_token,
    };
    device.check()?;
    api.rate_limits
        .check_address(Limit::LoginAddress, address)?;
    if let Some(user) = &user {
        api.rate_limits.check(Limit::LoginAccount, user.as_str())?;
    }
    check_password(&api, user.as_deref(), password).await?;
    // A password that fits belongs to a user.
    let user = user.ok_or(AccountError::WrongCredentials)?;
    let (device_id, granted) = api.accounts.log_in(&user, device).await?;
    let mut answer = LoggedIn::new(user, &device_id, granted);
    answer.well_known = well_known_document(&api);
    Ok(axum::Json(answer))
}

/// The local user that an identifier names; none if there can be no such user.
/// Third-party identifiers are kept for nobody, so they name none.
pub(super) fn named_user(
    api: &ApiState,
    identifier: &Identifier,
) -> Result<Option<OwnedUserId>, ApiError> {
    let third_party = identifier.medium.is_some() || identifier.address.is_some();
    match identifier.kind.as_deref() {
        Some("m.id.thirdparty" | "m.id.phone") => Ok(None),
        None if third_party && identifier.user.is_none() => Ok(None),
        None | Some("m.id.user") => {
            let name = required(identifier.user.as_deref(), "user")?;
            Ok(api.accounts.user_of(name))
        }
        Some(_) => Err(ApiError::InvalidParam("Unknown identifier type".into())),
    }
}

/// Checks a password for a login or a stage, and counts failures by account.
pub(super) async fn check_password(
    api: &ApiState,
    user: Option<&UserId>,
    password: String,
) -> Result<(), ApiError> {
    if let Some(user) = user {
        api.rate_limits
            .not_barred(Limit::FailedLogin, user.as_str())?;
    }
    let checked = api.accounts.check_password(user, password).await;
    if let (Err(AccountError::WrongCredentials), Some(user)) = (&checked, user) {
        api.rate_limits
            .note_failure(Limit::FailedLogin, user.as_str());
    }
    Ok(checked?)
}

/// Body of `POST /refresh`.
#[derive(Deserialize)]
pub struct RefreshRequest {
    refresh_token: String,
}

/// `POST /_matrix/client/v3/refresh`
pub async fn refresh(
    State(api): State<ApiState>,
    SmallJson(request): SmallJson<RefreshRequest>,
) -> Result<axum::Json<TokenAnswer>, ApiError> {
    let granted = api.accounts.refresh(&request.refresh_token).await?;
    Ok(axum::Json(granted.into()))
}

/// `POST /_matrix/client/v3/logout`
pub async fn log_out(
    State(api): State<ApiState>,
    auth: Auth,
) -> Result<axum::Json<Value>, ApiError> {
    let device = vec![auth.device_id().as_str().to_owned()];
    api.accounts
        .remove_devices(auth.user_id(), Some(device))
        .await?;
    Ok(axum::Json(json!({})))
}

/// `POST /_matrix/client/v3/logout/all`
pub async fn log_out_all(
    State(api): State<ApiState>,
    auth: Auth,
) -> Result<axum::Json<Value>, ApiError> {
    api.accounts.remove_devices(auth.user_id(), None).await?;
    Ok(axum::Json(json!({})))
}
