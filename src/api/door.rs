//! What every request passes, whatever it asks: CORS, `OPTIONS`, the bound on
//! requests in flight, panics, and how long it took. One layer, so that a
//! request is boxed once for all of it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use metrics::{Counter, Histogram};
use serde_json::{Map, Value, json};

use super::client::routes::Routes;
use super::errors::{AdminContactDue, ApiError};
use super::{Api, ApiState};

/// Seconds from the request's head to the answer's head, by `endpoint`.
const REQUEST_SECONDS: &str = "engram_http_request_seconds";
/// Handlers that panicked; must stay 0.
const PANICS: &str = "engram_http_panics_total";
/// The endpoint under which requests to unknown paths are counted.
const UNKNOWN_ENDPOINT: &str = "unknown";

struct Door {
    api: ApiState,
    /// Taken once, so that a request looks up no metric by its labels.
    latency: HashMap<&'static str, Histogram>,
    unknown: Histogram,
    panics: Counter,
}

/// Puts the door around all routes.
pub(super) fn wrap(routes: Routes, api: ApiState) -> Router {
    let latency = |path: &'static str| {
        (
            path,
            metrics::histogram!(REQUEST_SECONDS, "endpoint" => path),
        )
    };
    let door = Arc::new(Door {
        api: api.clone(),
        latency: routes.paths.into_iter().map(latency).collect(),
        unknown: metrics::histogram!(REQUEST_SECONDS, "endpoint" => UNKNOWN_ENDPOINT),
        panics: metrics::counter!(PANICS),
    });
    routes
        .router
        .fallback(async || ApiError::UnknownPath)
        .method_not_allowed_fallback(async || ApiError::WrongMethod)
        .layer(from_fn_with_state(door, pass))
        .with_state(api)
}

async fn pass(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let mut response = if request.method() == Method::OPTIONS {
        // No logic of the endpoint may run (client-server API, *Web Browser Clients*).
        StatusCode::NO_CONTENT.into_response()
    } else {
        answer(&door, request, next).await
    };
    if response.extensions().get::<AdminContactDue>().is_some() {
        response = with_admin_contact(response, &door.api).await;
    }
    allow_browsers(response.headers_mut());
    response
}

async fn answer(door: &Door, request: Request, next: Next) -> Response {
    let Ok(_permit) = door.api.in_flight.try_acquire() else {
        return ApiError::Overloaded.into_response();
    };
    let started = Instant::now();
    let matched = request.extensions().get::<MatchedPath>();
    let latency = matched.and_then(|path| door.latency.get(path.as_str()));
    let latency = latency.unwrap_or(&door.unknown);
    // A handler holds no lock across an await that others would find half
    // changed: what it shares is behind the log.
    let response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            door.panics.increment(1);
            ApiError::Panicked.into_response()
        }
    };
    latency.record(started.elapsed());
    response
}

/// The headers that the specification recommends for all requests.
fn allow_browsers(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS"),
    );
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("X-Requested-With, Content-Type, Authorization"),
    );
}

/// `M_RESOURCE_LIMIT_EXCEEDED` must name whom to turn to. Rare, so the body is
/// parsed again instead of every error carrying the settings.
async fn with_admin_contact(response: Response, api: &Api) -> Response {
    let (mut parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 16)
        .await
        .unwrap_or_default();
    let mut fields: Map<String, Value> = serde_json::from_slice(&bytes).unwrap_or_default();
    fields.insert(
        "admin_contact".to_owned(),
        json!(api.settings.admin_contact),
    );
    parts.headers.remove(http::header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(Value::Object(fields).to_string()))
}
