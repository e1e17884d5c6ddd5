//! `GET /notifications`: what the user was notified of (*Listing Notifications*).

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use serde::Deserialize;

use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::Query;
use crate::readers::client_sync::NotificationsRequest;

/// Query parameters of `GET /notifications`.
#[derive(Debug, Deserialize)]
pub struct Parameters {
    from: Option<String>,
    limit: Option<usize>,
    only: Option<String>,
}

/// `GET /_matrix/client/v3/notifications`
pub async fn list(
    State(api): State<ApiState>,
    auth: Auth,
    Query(parameters): Query<Parameters>,
) -> Result<Response, ApiError> {
    let request = NotificationsRequest {
        user: auth.user_id().to_owned(),
        device: auth.device_id().to_owned(),
        from: parameters.from.filter(|from| !from.is_empty()),
        limit: parameters.limit,
        only_highlights: parameters.only.as_deref() == Some("highlight"),
    };
    let page = api.sync.notifications(request).await?;
    Ok(([(CONTENT_TYPE, "application/json")], page).into_response())
}
