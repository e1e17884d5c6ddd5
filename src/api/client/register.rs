//! `POST /register`, `GET /register/available`, `GET
//! /register/m.login.registration_token/validity` (*Account registration*).

use std::net::IpAddr;

use axum::extract::State;
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::login::LoggedIn;
use crate::api::auth::ClientAddress;
use crate::api::errors::ApiError;
use crate::api::extract::{Query, SmallJson, required};
use crate::api::rate_limit::Limit;
use crate::api::registrations::{Known, Wanted};
use crate::api::uia::{AuthData, Flows, Operation, Stage};
use crate::api::{ApiState, Registration};
use crate::crypto::tokens::{TokenUse, equal, hash};
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
    inhibit_login: Option<bool>,
    refresh_token: Option<bool>,
    /// Of a guest who becomes a user like others (*Guest Access*).
    guest_access_token: Option<String>,
}

impl RegisterRequest {
    fn into_parts(self) -> (Option<AuthData>, Wanted) {
        let wanted = Wanted {
            username: self.username,
            password: self.password,
            device_id: self.device_id,
            initial_device_display_name: self.initial_device_display_name,
            inhibit_login: self.inhibit_login,
            refresh_token: self.refresh_token,
            guest_access_token: self.guest_access_token,
        };
        (self.auth, wanted)
    }
}

/// `POST /_matrix/client/v3/register`
///
/// What an earlier request of the same session said need not be said again,
/// and one that is repeated after its success logs in to the account it made
/// (*User-Interactive Authentication API*: "the result of the API call").
pub async fn register(
    State(api): State<ApiState>,
    ClientAddress(address): ClientAddress,
    Query(query): Query<RegisterQuery>,
    SmallJson(request): SmallJson<RegisterRequest>,
) -> Result<axum::Json<LoggedIn>, ApiError> {
    match query.kind.as_deref() {
        None | Some("user") => {}
        Some("guest") => return register_guest(&api, address, request).await,
        Some(_) => return Err(ApiError::InvalidParam("Unknown kind of account".into())),
    }
    let flows = flows(&api.settings.registration)?;
    // The first request of a flow asks no more than `available` does.
    let (auth, wanted) = request.into_parts();
    let limit = match auth {
        None => Limit::TokenValidity,
        Some(_) => Limit::Registration,
    };
    api.rate_limits.check_address(limit, address)?;
    let session = auth.as_ref().and_then(|auth| auth.session.as_deref());
    let earlier = session.and_then(|session| api.registrations.find(session));
    let wanted = match earlier {
        Some(Known {
            wanted: earlier,
            made: Some(user),
            ..
        }) => return log_in(&api, user, wanted.or(earlier), None).await,
        Some(earlier) => wanted.or(earlier.wanted),
        None => wanted,
    };
    // The specification wants these checks before the authentication.
    let guest = match &wanted.guest_access_token {
        Some(token) => Some(guest_of(&api, token, &wanted)?),
        None => None,
    };
    let user = match &guest {
        Some(guest) => guest.clone(),
        None => api.accounts.available(wanted.username.as_deref())?,
    };
    if let Some(password) = &wanted.password {
        api.accounts.check_new_password(password)?;
    }
    device_of(&wanted).check()?;
    let operation = Operation {
        name: "register",
        user: None,
        target: None,
    };
    let verify = async |_: Stage, auth: &AuthData| {
        let token = required(auth.token.as_deref(), "token")?;
        Ok(is_valid_token(&api.settings.registration, token))
    };
    let authorized = api.uia.authorize(operation, flows, auth.as_ref(), verify);
    if let Err(refusal) = authorized.await {
        if let ApiError::InteractiveAuth(challenge) = &refusal {
            api.registrations.ask(&challenge.session, wanted);
        }
        return Err(refusal);
    }
    let password = wanted.password.clone();
    match guest {
        Some(guest) => {
            let password = required(password, "password")?;
            api.accounts.upgrade_guest(&guest, password).await?;
        }
        None => api.accounts.create(&user, password, false).await?,
    }
    log_in(&api, user, wanted, session).await
}

fn device_of(wanted: &Wanted) -> DeviceRequest {
    DeviceRequest {
        device_id: wanted.device_id.clone(),
        initial_display_name: wanted.initial_device_display_name.clone(),
        refreshable: wanted.refresh_token.unwrap_or(false),
    }
}

/// Logs in to the account that was made, unless the client does not want that.
/// `session` is told of the account, so that it can ask again.
async fn log_in(
    api: &ApiState,
    user: OwnedUserId,
    mut wanted: Wanted,
    session: Option<&str>,
) -> Result<axum::Json<LoggedIn>, ApiError> {
    let mut answer = LoggedIn::without_session(user.clone());
    if !wanted.inhibit_login.unwrap_or(false) {
        let device = device_of(&wanted);
        device.check()?;
        let (device_id, granted) = api.accounts.log_in(&user, device).await?;
        answer = LoggedIn::new(user.clone(), &device_id, granted);
        // Who asks again gets the same device.
        wanted.device_id = Some(device_id.as_str().to_owned());
    }
    if let Some(session) = session {
        api.registrations.made(session, wanted, user);
    }
    Ok(axum::Json(answer))
}

/// `POST /register?kind=guest`: takes the device's display name from the request
/// and ignores the rest of it, as the specification has it.
async fn register_guest(
    api: &ApiState,
    address: IpAddr,
    request: RegisterRequest,
) -> Result<axum::Json<LoggedIn>, ApiError> {
    if !api.settings.registration.guests {
        return Err(ApiError::Forbidden("Guest access is disabled"));
    }
    api.rate_limits
        .check_address(Limit::Registration, address)?;
    let device = DeviceRequest {
        initial_display_name: request.initial_device_display_name,
        ..DeviceRequest::default()
    };
    device.check()?;
    let user = api.accounts.create_guest().await?;
    let (device_id, granted) = api.accounts.log_in(&user, device).await?;
    Ok(axum::Json(LoggedIn::new(user, &device_id, granted)))
}

/// The guest whose token this is, if they are the one who registers.
fn guest_of(api: &ApiState, token: &str, wanted: &Wanted) -> Result<OwnedUserId, ApiError> {
    let username = required(wanted.username.as_deref(), "username")?;
    required(wanted.password.as_ref(), "password")?;
    let session = api.users.session(&hash(TokenUse::Access, token));
    let guest = session.filter(|session| session.guest);
    let guest = guest.ok_or(ApiError::Forbidden("Not the access token of a guest"))?;
    match api.accounts.user_of(username) {
        Some(user) if user == guest.user_id => Ok(user),
        _ => Err(ApiError::Forbidden("This token is another user's")),
    }
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
