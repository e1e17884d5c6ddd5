//! `POST /register`, `GET /register/available`, `GET
//! /register/m.login.registration_token/validity` (*Account registration*).

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::login::LoggedIn;
use crate::api::auth::ClientAddress;
use crate::api::errors::ApiError;
use crate::api::extract::{Query, SmallJson, required};
use crate::api::rate_limit::Limit;
use crate::api::uia::{AuthData, Flows, Operation, Stage};
use crate::api::{ApiState, Registration};
use crate::crypto::tokens::equal;
use crate::writers::client::devices::DeviceRequest;

/// Query of `POST /register`.
#[derive(Deserialize)]
pub struct RegisterQuery {
    kind: Option<String>,
}

/// Body of `POST /register`.
#[derive(Deserialize)]
pub struct RegisterRequest {
    auth: Option<AuthData>,
    username: Option<String>,
    password: Option<String>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
    #[serde(default)]
    refresh_token: bool,
}

/// `POST /_matrix/client/v3/register`
pub async fn register(
    State(api): State<ApiState>,
    ClientAddress(address): ClientAddress,
    Query(query): Query<RegisterQuery>,
    SmallJson(request): SmallJson<RegisterRequest>,
) -> Result<axum::Json<LoggedIn>, ApiError> {
    match query.kind.as_deref() {
        None | Some("user") => {}
        Some("guest") => return Err(ApiError::Forbidden("Guest access is disabled")),
        Some(_) => return Err(ApiError::InvalidParam("Unknown kind of account".into())),
    }
    let flows = flows(&api.settings.registration)?;
    // The first request of a flow asks no more than `available` does.
    let limit = match request.auth {
        None => Limit::TokenValidity,
        Some(_) => Limit::Registration,
    };
    api.rate_limits.check_address(limit, address)?;
    // The specification wants these checks before the authentication.
    let user = api.accounts.available(request.username.as_deref())?;
    if let Some(password) = &request.password {
        api.accounts.check_new_password(password)?;
    }
    let device = DeviceRequest {
        device_id: request.device_id,
        initial_display_name: request.initial_device_display_name,
        refreshable: request.refresh_token,
    };
    device.check()?;
    let operation = Operation {
        name: "register",
        user: None,
    };
    let verify = async |_: Stage, auth: &AuthData| {
        let token = required(auth.token.as_deref(), "token")?;
        Ok(is_valid_token(&api.settings.registration, token))
    };
    api.uia
        .authorize(operation, flows, request.auth.as_ref(), verify)
        .await?;
    api.accounts.create(&user, request.password, false).await?;
    if request.inhibit_login {
        return Ok(axum::Json(LoggedIn::without_session(user)));
    }
    let (device_id, granted) = api.accounts.log_in(&user, device).await?;
    Ok(axum::Json(LoggedIn::new(user, &device_id, granted)))
}

/// The flows that the configuration allows.
///
/// Errors: `Forbidden` if there is none.
fn flows(registration: &Registration) -> Result<Flows, ApiError> {
    match (registration.open, &registration.token) {
        (true, None) => Ok(&[&[Stage::Dummy]]),
        (false, Some(_)) => Ok(&[&[Stage::RegistrationToken]]),
        (true, Some(_)) => Ok(&[&[Stage::Dummy], &[Stage::RegistrationToken]]),
        (false, None) => Err(ApiError::Forbidden("Registration is disabled")),
    }
}

fn is_valid_token(registration: &Registration, token: &str) -> bool {
    let expected = registration.token.as_deref();
    expected.is_some_and(|expected| equal(token.as_bytes(), expected.as_bytes()))
}

/// Query of `GET /register/available`.
#[derive(Deserialize)]
pub struct AvailableQuery {
    username: Option<String>,
}

/// `GET /_matrix/client/v3/register/available`
pub async fn available(
    State(api): State<ApiState>,
    ClientAddress(address): ClientAddress,
    Query(query): Query<AvailableQuery>,
) -> Result<axum::Json<Value>, ApiError> {
    let username = required(query.username, "username")?;
    api.rate_limits
        .check_address(Limit::TokenValidity, address)?;
    api.accounts.available(Some(&username))?;
    Ok(axum::Json(json!({ "available": true })))
}

/// Query of the validity check.
#[derive(Deserialize)]
pub struct ValidityQuery {
    token: Option<String>,
}

/// `GET /_matrix/client/v1/register/m.login.registration_token/validity`
pub async fn token_validity(
    State(api): State<ApiState>,
    ClientAddress(address): ClientAddress,
    Query(query): Query<ValidityQuery>,
) -> Result<axum::Json<Value>, ApiError> {
    let token = required(query.token, "token")?;
    flows(&api.settings.registration)?;
    api.rate_limits
        .check_address(Limit::TokenValidity, address)?;
    let valid = is_valid_token(&api.settings.registration, &token);
    Ok(axum::Json(json!({ "valid": valid })))
}
