//! `GET /profile/{userId}`, `GET|PUT|DELETE /profile/{userId}/{keyName}`
//! (*Profiles*).

use axum::Json;
use axum::extract::State;
use ruma::{MxcUri, OwnedUserId, UserId};
use serde_json::{Map, Value, json};

use crate::api::ApiState;
use crate::api::auth::{Auth, ClientAddress};
use crate::api::errors::ApiError;
use crate::api::extract::{Json as Body, Path};
use crate::api::rate_limit::Limit;
use crate::limits::{AVATAR_URL_BYTES_MAX, DISPLAY_NAME_BYTES_MAX, PROFILE_FIELD_NAME_BYTES_MAX};

/// `GET /_matrix/client/v3/profile/{userId}`
pub async fn all(
    State(api): State<ApiState>,
    ClientAddress(address): ClientAddress,
    Path(user): Path<OwnedUserId>,
) -> Result<Json<Map<String, Value>>, ApiError> {
    api.rate_limits.check_address(Limit::LookUp, address)?;
    match user.server_name() == api.settings.server_name {
        true => of_local(&api, &user).map(Json),
        false => Ok(Json(api.queries.profile(&user, None).await?)),
    }
}

/// The whole profile of a user of ours.
pub fn of_local(api: &ApiState, user: &UserId) -> Result<Map<String, Value>, ApiError> {
    must_exist(api, user)?;
    let fields = api.users.profile(user).into_iter();
    Ok(fields
        .filter_map(|(name, json)| Some((name, parse(&json)?)))
        .collect())
}

/// `GET /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn field(
    State(api): State<ApiState>,
    ClientAddress(address): ClientAddress,
    Path((user, key)): Path<(OwnedUserId, String)>,
) -> Result<Json<Value>, ApiError> {
    api.rate_limits.check_address(Limit::LookUp, address)?;
    let value = match user.server_name() == api.settings.server_name {
        true => {
            must_exist(&api, &user)?;
            let fields = api.users.profile(&user);
            fields.get(&key).and_then(|json| parse(json))
        }
        false => api.queries.profile(&user, Some(&key)).await?.remove(&key),
    };
    let value = value.ok_or(ApiError::NotFound("No such profile field"))?;
    Ok(Json(json!({ key: value })))
}

/// `PUT /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn set_field(
    State(api): State<ApiState>,
    auth: Auth,
    Path((user, key)): Path<(OwnedUserId, String)>,
    Body(mut body): Body<Map<String, Value>>,
) -> Result<Json<Value>, ApiError> {
    auth.must_be(&user)?;
    check_key(&key)?;
    guests_name_themselves(&auth, &key)?;
    let value = body.remove(&key);
    let value = value.ok_or_else(|| ApiError::MissingParam(key.clone().into()))?;
    check_value(&key, &value)?;
    api.rate_limits.check(Limit::UserData, user.as_str())?;
    // Clients of before v1.16 had no other way to remove an avatar.
    if key == "avatar_url" && value == "" {
        api.user_data.remove_profile_field(&user, &key).await?;
    } else {
        api.user_data.set_profile_field(&user, &key, &value).await?;
    }
    show_in_rooms(&api, &user, &key).await;
    Ok(Json(json!({})))
}

/// `DELETE /_matrix/client/v3/profile/{userId}/{keyName}`
pub async fn remove_field(
    State(api): State<ApiState>,
    auth: Auth,
    Path((user, key)): Path<(OwnedUserId, String)>,
) -> Result<Json<Value>, ApiError> {
    auth.must_be(&user)?;
    check_key(&key)?;
    guests_name_themselves(&auth, &key)?;
    api.rate_limits.check(Limit::UserData, user.as_str())?;
    api.user_data.remove_profile_field(&user, &key).await?;
    show_in_rooms(&api, &user, &key).await;
    Ok(Json(json!({})))
}

/// Carries what member events copy of a profile into the user's rooms.
///
/// On a task of its own, since a client that hangs up must not leave half of
/// the rooms behind. What fails is logged and made good by the next change:
/// the profile itself is set.
async fn show_in_rooms(api: &ApiState, user: &UserId, key: &str) {
    if !matches!(key, "displayname" | "avatar_url") {
        return;
    }
    let (api, user) = (api.clone(), user.to_owned());
    let task = tokio::spawn(async move {
        if let Err(error) = api.room_writer.propagate_profile(&user).await {
            tracing::warn!(%user, %error, "profile not shown in all rooms");
        }
    });
    // It ends early only with the process.
    let _ = task.await;
}

/// Of their profile, guests may change the display name alone (*Guest Access*).
fn guests_name_themselves(auth: &Auth, key: &str) -> Result<(), ApiError> {
    match auth.0.guest && key != "displayname" {
        true => Err(ApiError::GuestForbidden),
        false => Ok(()),
    }
}

fn must_exist(api: &ApiState, user: &UserId) -> Result<(), ApiError> {
    match api.users.account(user) {
        Some(account) if !account.deactivated => Ok(()),
        _ => Err(ApiError::NotFound("Profile not found")),
    }
}

/// What is stored is JSON; were it not, the field would not be served.
fn parse(json: &str) -> Option<Value> {
    serde_json::from_str(json).ok()
}

/// `displayname`, `avatar_url`, `m.tz`, or a namespaced key.
fn check_key(key: &str) -> Result<(), ApiError> {
    if key.len() > PROFILE_FIELD_NAME_BYTES_MAX {
        return Err(ApiError::KeyTooLarge);
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    let namespaced = key.starts_with(|c: char| c.is_ascii_lowercase())
        && key.bytes().all(allowed)
        && key.contains('.')
        && key.split('.').all(|part| !part.is_empty());
    match key {
        "displayname" | "avatar_url" => Ok(()),
        _ if namespaced => Ok(()),
        _ => Err(ApiError::InvalidParam("Invalid profile key".into())),
    }
}

fn check_value(key: &str, value: &Value) -> Result<(), ApiError> {
    let max = match key {
        "displayname" => DISPLAY_NAME_BYTES_MAX,
        "avatar_url" => AVATAR_URL_BYTES_MAX,
        "m.tz" => PROFILE_FIELD_NAME_BYTES_MAX,
        _ => return Ok(()),
    };
    let Some(text) = value.as_str() else {
        return Err(ApiError::BadJson(format!("{key} must be a string").into()));
    };
    if text.len() > max {
        let text = format!("{key} must have at most {max} bytes");
        return Err(ApiError::InvalidParam(text.into()));
    }
    if key == "avatar_url" && !text.is_empty() && !<&MxcUri>::from(text).is_valid() {
        return Err(ApiError::InvalidParam(
            "avatar_url must be an mxc:// URI".into(),
        ));
    }
    Ok(())
}
