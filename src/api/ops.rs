//! `GET /metrics` (Prometheus text) and `GET /health`, on a listener of their own.

use axum::Router;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use metrics_exporter_prometheus::PrometheusHandle;

/// The content type of Prometheus' text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The router of the metrics listener.
///
/// `/health` answers 200 as long as the process serves: a part that fails ends
/// the process, so there is no state in between.
pub fn router(metrics: PrometheusHandle) -> Router {
    Router::new()
        .route(
            "/metrics",
            get(async move || ([(CONTENT_TYPE, TEXT_FORMAT)], metrics.render())),
        )
        .route("/health", get(async || "ok\n"))
}
