//! The recorder behind the `metrics` macros, rendered for Prometheus.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::names::{ALL, Kind};

/// Bounds of histograms in seconds: a disk flush is some 0.1 to 10 ms, a long
/// poll up to half a minute.
const SECONDS: [f64; 15] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
    30.0,
];
/// Bounds of histograms of counts.
const COUNTS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];

/// Installs the recorder for the whole process.
///
/// The handle renders what was recorded; its `run_upkeep` must be called every
/// few seconds, or what histograms gather is never folded together.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in ALL {
        let bounds: &[f64] = match metric.kind {
            Kind::Seconds => &SECONDS,
            Kind::Count => &COUNTS,
            Kind::Counter | Kind::Gauge => continue,
        };
        builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)?;
    }
    let handle = builder.install_recorder()?;
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Seconds | Kind::Count => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
    Ok(handle)
}
