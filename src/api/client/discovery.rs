//! `GET /versions`, `GET /capabilities`, `GET /.well-known/matrix/client` and
//! `…/support`: what this server is and can do (*API Versions*, *Capabilities negotiation*,
//! *Well-known URIs*).

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::{ApiState, Contact};
use crate::matrix::RoomVersion;

/// Versions of the specification whose meaning of the endpoints served here is
/// followed. A version from which clients conclude that an endpoint exists
/// which this server does not serve is not listed: from v1.7 on they upload
/// media behind a link, from v1.11 they get it with their token.
const VERSIONS: [&str; 7] = ["r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6"];

/// What is served of later versions, and what is in none, by the names under
/// which clients ask for it.
const FEATURES: [&str; 2] = [
    // Simplified sliding sync.
    "org.matrix.simplified_msc3575",
    // `recurse` of `/relations`, of version 1.10.
    "org.matrix.msc3981",
];

/// `GET /_matrix/client/versions`
pub async fn versions() -> Json<Value> {
    let features = FEATURES.map(|name| (name.to_owned(), Value::Bool(true)));
    let features = Map::from_iter(features);
    Json(json!({
        "versions": VERSIONS,
        "unstable_features": features,
    }))
}

/// `GET /_matrix/client/v3/capabilities`
pub async fn capabilities(State(api): State<ApiState>, _: Auth) -> Json<Value> {
    let available = RoomVersion::all().map(|version| (version.as_str(), "stable"));
    let available: std::collections::BTreeMap<_, _> = available.collect();
    Json(json!({ "capabilities": {
        "m.change_password": { "enabled": true },
        "m.room_versions": {
            "default": api.settings.default_room_version,
            "available": available,
        },
        "m.profile_fields": { "enabled": true },
        "m.set_displayname": { "enabled": true },
        "m.set_avatar_url": { "enabled": true },
        "m.3pid_changes": { "enabled": false },
        "m.get_login_token": { "enabled": false },
        "m.forget_forced_upon_leave": { "enabled": false },
    } }))
}

/// `GET /.well-known/matrix/client`
pub async fn well_known(State(api): State<ApiState>) -> Result<Json<Value>, ApiError> {
    let document = well_known_document(&api);
    document.map(Json).ok_or(ApiError::NotFound(
        "No server discovery information available",
    ))
}

/// `GET /.well-known/matrix/support`
pub async fn support(State(api): State<ApiState>) -> Result<Json<Value>, ApiError> {
    let support = &api.settings.support;
    let contacts: Vec<Value> = support.contacts.iter().map(contact).collect();
    let mut document = Map::new();
    if !contacts.is_empty() {
        document.insert("contacts".to_owned(), Value::Array(contacts));
    }
    if let Some(page) = &support.page {
        document.insert("support_page".to_owned(), json!(page));
    }
    match document.is_empty() {
        true => Err(ApiError::NotFound("No support information available")),
        false => Ok(Json(Value::Object(document))),
    }
}

fn contact(contact: &Contact) -> Value {
    let mut entry = Map::from_iter([("role".to_owned(), json!(contact.role))]);
    let ways = [
        ("matrix_id", &contact.matrix_id),
        ("email_address", &contact.email),
    ];
    for (way, value) in ways {
        if let Some(value) = value {
            entry.insert(way.to_owned(), json!(value));
        }
    }
    Value::Object(entry)
}

/// The discovery document, also part of a login's answer.
pub(super) fn well_known_document(api: &ApiState) -> Option<Value> {
    let base_url = api.settings.public_base_url.as_ref()?;
    Some(json!({ "m.homeserver": { "base_url": base_url } }))
}
