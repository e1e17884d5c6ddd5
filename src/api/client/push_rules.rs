//! `GET /pushrules/…` and `PUT|DELETE /pushrules/global/{kind}/{ruleId}`,
//! `PUT …/enabled`, `PUT …/actions` (*Push Rules: API*).

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Json as Body, Path, Query, required};
use crate::api::rate_limit::Limit;
use crate::matrix::push_rules::{Kind, NewRule, Position, Rule, RuleError, Ruleset};
use crate::query::notified::ruleset_of;
use crate::writers::client::user_data::UserDataError;

/// `GET /_matrix/client/v3/pushrules/`
pub async fn all(State(api): State<ApiState>, auth: Auth) -> Json<Value> {
    let rules = ruleset_of(&*api.users, auth.user_id());
    Json(json!({ "global": rules }))
}

/// `GET /_matrix/client/v3/pushrules/global/`
pub async fn global(State(api): State<ApiState>, auth: Auth) -> Json<Ruleset> {
    Json(ruleset_of(&*api.users, auth.user_id()))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/`, which the specification does
/// not have and clients know from other servers: the rules of one kind.
pub async fn of_kind(
    State(api): State<ApiState>,
    auth: Auth,
    Path(kind): Path<String>,
) -> Result<Json<Vec<Rule>>, ApiError> {
    let kind = kind_of(&kind)?;
    let rules = ruleset_of(&*api.users, auth.user_id());
    Ok(Json(rules.of(kind).to_vec()))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub async fn rule(
    State(api): State<ApiState>,
    auth: Auth,
    Path((kind, rule_id)): Path<(String, String)>,
) -> Result<Json<Rule>, ApiError> {
    find(&api, &auth, &kind, &rule_id).map(Json)
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
pub async fn enabled(
    State(api): State<ApiState>,
    auth: Auth,
    Path((kind, rule_id)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let rule = find(&api, &auth, &kind, &rule_id)?;
    Ok(Json(json!({ "enabled": rule.enabled })))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
pub async fn actions(
    State(api): State<ApiState>,
    auth: Auth,
    Path((kind, rule_id)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let rule = find(&api, &auth, &kind, &rule_id)?;
    Ok(Json(json!({ "actions": rule.actions })))
}

/// Body of `PUT /pushrules/global/{kind}/{ruleId}`.
#[derive(Deserialize)]
pub struct PutRule {
    actions: Option<Vec<Value>>,
    conditions: Option<Vec<Value>>,
    pattern: Option<String>,
}

/// Where a rule is put. If both are there, `before` counts.
#[derive(Deserialize)]
pub struct Beside {
    before: Option<String>,
    after: Option<String>,
}

impl From<Beside> for Position {
    fn from(beside: Beside) -> Position {
        match (beside.before, beside.after) {
            (Some(before), _) => Position::Before(before),
            (None, Some(after)) => Position::After(after),
            (None, None) => Position::Unsaid,
        }
    }
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub async fn put(
    State(api): State<ApiState>,
    auth: Auth,
    Path((kind, rule_id)): Path<(String, String)>,
    Query(beside): Query<Beside>,
    Body(rule): Body<PutRule>,
) -> Result<Json<Value>, ApiError> {
    let kind = kind_of(&kind)?;
    let pattern = match kind {
        Kind::Content => Some(required(rule.pattern, "pattern")?),
        _ => None,
    };
    let new = NewRule {
        kind,
        rule_id,
        actions: required(rule.actions, "actions")?,
        conditions: rule.conditions,
        pattern,
    };
    let position = Position::from(beside);
    change(&api, &auth, |rules| rules.put(new, &position)).await
}

/// `DELETE /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub async fn remove(
    State(api): State<ApiState>,
    auth: Auth,
    Path((kind, rule_id)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let kind = kind_of(&kind)?;
    change(&api, &auth, |rules| rules.remove(kind, &rule_id)).await
}

/// Body of `PUT …/enabled`.
#[derive(Deserialize)]
pub struct SetEnabled {
    enabled: Option<bool>,
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
pub async fn set_enabled(
    State(api): State<ApiState>,
    auth: Auth,
    Path((kind, rule_id)): Path<(String, String)>,
    Body(body): Body<SetEnabled>,
) -> Result<Json<Value>, ApiError> {
    let kind = kind_of(&kind)?;
    let enabled = required(body.enabled, "enabled")?;
    let set = |rules: &mut Ruleset| rules.set_enabled(kind, &rule_id, enabled);
    change(&api, &auth, set).await
}

/// Body of `PUT …/actions`.
#[derive(Deserialize)]
pub struct SetActions {
    actions: Option<Vec<Value>>,
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
pub async fn set_actions(
    State(api): State<ApiState>,
    auth: Auth,
    Path((kind, rule_id)): Path<(String, String)>,
    Body(body): Body<SetActions>,
) -> Result<Json<Value>, ApiError> {
    let kind = kind_of(&kind)?;
    let actions = required(body.actions, "actions")?;
    let set = |rules: &mut Ruleset| rules.set_actions(kind, &rule_id, actions);
    change(&api, &auth, set).await
}

async fn change(
    api: &ApiState,
    auth: &Auth,
    change: impl FnOnce(&mut Ruleset) -> Result<(), RuleError> + Send,
) -> Result<Json<Value>, ApiError> {
    let user = auth.user_id();
    api.rate_limits.check(Limit::UserData, user.as_str())?;
    api.user_data.change_push_rules(user, change).await?;
    Ok(Json(json!({})))
}

fn find(api: &ApiState, auth: &Auth, kind: &str, rule_id: &str) -> Result<Rule, ApiError> {
    let kind = kind_of(kind)?;
    let rules = ruleset_of(&*api.users, auth.user_id());
    let rule = rules.rule(kind, rule_id).cloned();
    rule.ok_or(ApiError::UserData(UserDataError::PushRule(
        RuleError::NotFound,
    )))
}

fn kind_of(word: &str) -> Result<Kind, ApiError> {
    Kind::parse(word).ok_or(ApiError::InvalidParam("Unknown kind of push rule".into()))
}
