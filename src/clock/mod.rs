//! The only place that reads the clock. Writers stamp records with it; nothing
//! that projects may import this module.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since the epoch.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds since the epoch, the unit of `origin_server_ts`.
pub fn now_ms() -> u64 {
    now_us() / 1000
}
