//! `GET /pushrules/…` (*Push Rules*). Every user has the predefined rules;
//! changing them is not served yet, so those methods answer `M_UNRECOGNIZED`.

use axum::Json;
use ruma::UserId;
use ruma::push::Ruleset;
use serde_json::{Value, json};

use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::Path;

/// The content of a user's `m.push_rules`.
pub fn content(user: &UserId) -> Value {
    json!({ "global": Ruleset::server_default(user) })
}

/// `GET /_matrix/client/v3/pushrules/`
pub async fn all(auth: Auth) -> Json<Value> {
    Json(content(auth.user_id()))
}

/// `GET /_matrix/client/v3/pushrules/global/`
pub async fn global(auth: Auth) -> Json<Ruleset> {
    Json(Ruleset::server_default(auth.user_id()))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub async fn rule(
    auth: Auth,
    Path((kind, rule_id)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    find(auth.user_id(), &kind, &rule_id).map(Json)
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
pub async fn enabled(
    auth: Auth,
    Path((kind, rule_id)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let rule = find(auth.user_id(), &kind, &rule_id)?;
    Ok(Json(json!({ "enabled": rule.get("enabled") })))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
pub async fn actions(
    auth: Auth,
    Path((kind, rule_id)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let rule = find(auth.user_id(), &kind, &rule_id)?;
    Ok(Json(json!({ "actions": rule.get("actions") })))
}

fn find(user: &UserId, kind: &str, rule_id: &str) -> Result<Value, ApiError> {
    let mut content = content(user);
    let rules = content.pointer_mut(&format!("/global/{kind}"));
    let rules = rules.and_then(Value::as_array_mut).map(std::mem::take);
    let mut rules = rules.unwrap_or_default().into_iter();
    let rule = rules.find(|rule| rule.get("rule_id").is_some_and(|id| id == rule_id));
    rule.ok_or(ApiError::NotFound("No such push rule"))
}
