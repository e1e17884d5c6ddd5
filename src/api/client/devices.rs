//! `GET /devices`, `GET|PUT|DELETE /devices/{deviceId}`, `POST /delete_devices`
//! (*Device Management*).

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use ruma::UserId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::account::confirm;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{OptionalJson, Path, SmallJson};
use crate::api::rate_limit::Limit;
use crate::api::uia::{AuthData, Target};
use crate::api::{Api, ApiState};
use crate::query::users::Device;

/// A device as its user sees it.
#[derive(Serialize)]
pub struct DeviceAnswer {
    device_id: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_ts: Option<u64>,
}

impl DeviceAnswer {
    fn of(api: &Api, user: &UserId, device: Device) -> DeviceAnswer {
        let seen = api.sightings.of(user, &device.device_id);
        DeviceAnswer {
            device_id: device.device_id.as_str().into(),
            display_name: device.display_name,
            last_seen_ip: seen.as_ref().map(|seen| seen.address),
            last_seen_ts: seen.as_ref().map(|seen| seen.at_ms),
        }
    }
}

/// `GET /_matrix/client/v3/devices`
pub async fn list(State(api): State<ApiState>, auth: Auth) -> Json<Value> {
    let user = auth.user_id();
    let devices = api.users.devices(user).into_iter();
    let devices: Vec<DeviceAnswer> = devices
        .map(|device| DeviceAnswer::of(&api, user, device))
        .collect();
    Json(json!({ "devices": devices }))
}

/// `GET /_matrix/client/v3/devices/{deviceId}`
pub async fn one(
    State(api): State<ApiState>,
    auth: Auth,
    Path(device_id): Path<String>,
) -> Result<Json<DeviceAnswer>, ApiError> {
    let mut devices = api.users.devices(auth.user_id()).into_iter();
    let device = devices.find(|device| device.device_id == *device_id);
    let device = device.ok_or(ApiError::NotFound("No device with this ID"))?;
    Ok(Json(DeviceAnswer::of(&api, auth.user_id(), device)))
}

/// Body of `PUT /devices/{deviceId}`.
#[derive(Deserialize)]
pub struct RenameRequest {
    display_name: Option<String>,
}

/// `PUT /_matrix/client/v3/devices/{deviceId}`
pub async fn rename(
    State(api): State<ApiState>,
    auth: Auth,
    Path(device_id): Path<String>,
    SmallJson(request): SmallJson<RenameRequest>,
) -> Result<Json<Value>, ApiError> {
    let user = auth.user_id();
    api.rate_limits.check(Limit::UserData, user.as_str())?;
    api.accounts
        .rename_device(user, &device_id, request.display_name)
        .await?;
    Ok(Json(json!({})))
}

/// Body of `DELETE /devices/{deviceId}`.
#[derive(Deserialize)]
pub struct RemoveRequest {
    auth: Option<AuthData>,
}

/// `DELETE /_matrix/client/v3/devices/{deviceId}`
pub async fn remove(
    State(api): State<ApiState>,
    auth: Auth,
    Path(device_id): Path<String>,
    OptionalJson(request): OptionalJson<RemoveRequest>,
) -> Result<Json<Value>, ApiError> {
    let target = Target::of([&*device_id]);
    let confirmed = confirm(
        &api,
        &auth,
        "devices/delete",
        Some(target),
        request.auth.as_ref(),
    );
    confirmed.await?;
    let devices = Some(vec![device_id]);
    api.accounts.remove_devices(auth.user_id(), devices).await?;
    Ok(Json(json!({})))
}

/// Body of `POST /delete_devices`.
#[derive(Deserialize)]
pub struct RemoveManyRequest {
    devices: Vec<String>,
    auth: Option<AuthData>,
}

/// `POST /_matrix/client/v3/delete_devices`
pub async fn remove_many(
    State(api): State<ApiState>,
    auth: Auth,
    SmallJson(request): SmallJson<RemoveManyRequest>,
) -> Result<Json<Value>, ApiError> {
    let target = Target::of(request.devices.iter().map(String::as_str));
    let confirmed = confirm(
        &api,
        &auth,
        "delete_devices",
        Some(target),
        request.auth.as_ref(),
    );
    confirmed.await?;
    let devices = Some(request.devices);
    api.accounts.remove_devices(auth.user_id(), devices).await?;
    Ok(Json(json!({})))
}
