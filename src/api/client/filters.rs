//! `POST /user/{userId}/filter`, `GET /user/{userId}/filter/{filterId}`
//! (*Filtering*).

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use ruma::OwnedUserId;
use serde_json::{Map, Value, json};

use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Json as Body, Path};
use crate::api::rate_limit::Limit;
use crate::matrix::filter::Filter;

/// `POST /_matrix/client/v3/user/{userId}/filter`
pub async fn add(
    State(api): State<ApiState>,
    auth: Auth,
    Path(user): Path<OwnedUserId>,
    Body(definition): Body<Map<String, Value>>,
) -> Result<axum::Json<Value>, ApiError> {
    auth.must_be(&user)?;
    // Kept as sent, fields unknown to us included, but only if `/sync` will be
    // able to read it.
    let text = Value::Object(definition.clone()).to_string();
    if let Err(error) = Filter::parse(text.as_bytes()) {
        return Err(ApiError::BadJson(error.to_string().into()));
    }
    api.rate_limits.check(Limit::UserData, user.as_str())?;
    let filter_id = api.user_data.add_filter(&user, &definition).await?;
    Ok(axum::Json(json!({ "filter_id": filter_id })))
}

/// `GET /_matrix/client/v3/user/{userId}/filter/{filterId}`
pub async fn one(
    State(api): State<ApiState>,
    auth: Auth,
    Path((user, filter_id)): Path<(OwnedUserId, String)>,
) -> Result<Response, ApiError> {
    auth.must_be(&user)?;
    let filter = api.users.filter(&user, &filter_id);
    let filter = filter.ok_or(ApiError::NotFound("Unknown filter"))?;
    let body = HttpBody::from(String::from(&*filter));
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}
