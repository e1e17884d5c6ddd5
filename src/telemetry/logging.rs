//! Log lines: `tracing` to standard error, as text or as JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::values::{LogFilter, LogFormat};

/// Installs the subscriber for the whole process. A second call changes nothing.
pub fn init(filter: &LogFilter, format: LogFormat) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter.as_str()))
        .with_writer(std::io::stderr);
    // Only tests call this twice, and they do not care which subscriber won.
    let _ = match format {
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
