//! `GET /admin/whois/{userId}` (*Server Administration*).

use axum::Json;
use axum::extract::State;
use ruma::OwnedUserId;
use serde_json::{Map, Value, json};

use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::Path;
use crate::api::sightings::Sighting;

/// `GET /_matrix/client/v3/admin/whois/{userId}`, for administrators and of oneself.
///
/// Each device has one session, and that at most one connection: from where the
/// device was seen last.
pub async fn whois(
    State(api): State<ApiState>,
    auth: Auth,
    Path(user): Path<OwnedUserId>,
) -> Result<Json<Value>, ApiError> {
    // Before the look-up, so that nobody learns who is here.
    if !auth.0.admin {
        auth.must_be(&user)?;
    }
    if api.users.account(&user).is_none() {
        return Err(ApiError::NotFound("User not found"));
    }
    let devices = api.users.devices(&user).into_iter().map(|device| {
        let seen = api.sightings.of(&user, &device.device_id);
        let connections: Vec<Value> = seen.map(connection).into_iter().collect();
        let sessions = json!({ "sessions": [{ "connections": connections }] });
        (device.device_id.as_str().to_owned(), sessions)
    });
    let devices: Map<String, Value> = devices.collect();
    Ok(Json(json!({ "user_id": user, "devices": devices })))
}

/// `ConnectionInfo`.
fn connection(seen: Sighting) -> Value {
    let mut connection = json!({ "ip": seen.address, "last_seen": seen.at_ms });
    if let (Some(fields), Some(agent)) = (connection.as_object_mut(), seen.user_agent) {
        fields.insert("user_agent".to_owned(), json!(agent));
    }
    connection
}
