//! `GET /account/whoami`, `POST /account/password`, `POST /account/deactivate`,
//! `GET /account/3pid` (*Account management*).

use axum::Json;
use axum::extract::State;
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::login::{check_password, named_user};
use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{SmallJson, required};
use crate::api::uia::{AuthData, Operation, Stage, Target};
use crate::writers::client::accounts::AccountError;

/// Answer of `GET /account/whoami`.
#[derive(Serialize)]
pub struct WhoAmI {
    user_id: OwnedUserId,
    device_id: Box<str>,
    is_guest: bool,
}

/// `GET /_matrix/client/v3/account/whoami`
pub async fn whoami(auth: Auth) -> Json<WhoAmI> {
    Json(WhoAmI {
        user_id: auth.user_id().to_owned(),
        device_id: auth.device_id().as_str().into(),
        is_guest: auth.0.guest,
    })
}

/// Body of `POST /account/password`.
#[derive(Deserialize)]
pub struct PasswordRequest {
    new_password: String,
    #[serde(default = "yes")]
    logout_devices: bool,
    auth: Option<AuthData>,
}

fn yes() -> bool {
    true
}

/// `POST /_matrix/client/v3/account/password`
///
/// Without an access token the specification would have the user prove an
/// e-mail address; there are none here, so a session is wanted.
pub async fn set_password(
    State(api): State<ApiState>,
    auth: Auth,
    SmallJson(request): SmallJson<PasswordRequest>,
) -> Result<Json<Value>, ApiError> {
    api.accounts.check_new_password(&request.new_password)?;
    confirm(&api, &auth, "account/password", None, request.auth.as_ref()).await?;
    let (user, device) = (auth.user_id(), auth.device_id());
    let (password, logout) = (request.new_password, request.logout_devices);
    api.accounts
        .set_password(user, password, logout, Some(device))
        .await?;
    Ok(Json(json!({})))
}

/// Body of `POST /account/deactivate`.
#[derive(Deserialize)]
pub struct DeactivateRequest {
    auth: Option<AuthData>,
    #[serde(default)]
    erase: bool,
}

/// `POST /_matrix/client/v3/account/deactivate`
pub async fn deactivate(
    State(api): State<ApiState>,
    auth: Auth,
    SmallJson(request): SmallJson<DeactivateRequest>,
) -> Result<Json<Value>, ApiError> {
    confirm(
        &api,
        &auth,
        "account/deactivate",
        None,
        request.auth.as_ref(),
    )
    .await?;
    // Before the account is closed, so that whoever is cut off can do it again.
    api.room_writer.leave_all(auth.user_id()).await?;
    api.accounts
        .deactivate(auth.user_id(), request.erase)
        .await?;
    // No identifier is bound anywhere, so all of them are unbound.
    Ok(Json(json!({ "id_server_unbind_result": "success" })))
}

/// `GET /_matrix/client/v3/account/3pid`
///
/// No third-party identifier can be added, so there are none.
pub async fn third_party_ids(_: Auth) -> Json<Value> {
    Json(json!({ "threepids": [] }))
}

/// Has the session's user type their password again, for what is done to `target`.
///
/// Errors: `Forbidden` for another user's password, right or wrong; and those
/// of [`UiaSessions::authorize`](crate::api::uia::UiaSessions::authorize).
pub(super) async fn confirm(
    api: &ApiState,
    auth: &Auth,
    name: &'static str,
    target: Option<Target>,
    data: Option<&AuthData>,
) -> Result<(), ApiError> {
    let operation = Operation {
        name,
        user: Some(auth.user_id().to_owned()),
        target,
    };
    let verify = async |_: Stage, data: &AuthData| {
        let named = match (&data.identifier, &data.user) {
            (Some(identifier), _) => named_user(api, identifier)?,
            (None, Some(user)) => api.accounts.user_of(user),
            (None, None) => Some(auth.user_id().to_owned()),
        };
        let password = required(data.password.clone(), "password")?;
        if named.as_deref() != Some(auth.user_id()) {
            return Err(ApiError::Forbidden(
                "Only the user of this session can confirm this",
            ));
        }
        match check_password(api, Some(auth.user_id()), password).await {
            Ok(()) => Ok(true),
            Err(ApiError::Account(AccountError::WrongCredentials)) => Ok(false),
            Err(other) => Err(other),
        }
    };
    api.uia
        .authorize(operation, &[&[Stage::Password]], data, verify)
        .await
}
