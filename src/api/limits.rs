//! Bounds of what a request may be, each with its reason (security.md, section 2).

use std::time::Duration;

/// Body of an ordinary JSON request: keys uploads, filters and state fit.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Body of a request that needs no session: registration and login.
pub const LOGIN_BODY_BYTES_MAX: usize = 64 << 10;
/// Nesting of JSON, of what clients send as of what servers send.
pub const JSON_DEPTH_MAX: usize = 100;
/// Keys of one JSON object.
pub const JSON_KEYS_MAX: usize = 10_000;
/// How long a body may stand still.
pub const BODY_IDLE: Duration = Duration::from_secs(30);
/// How long a body may take in all.
pub const BODY_TOTAL: Duration = Duration::from_secs(240);
/// Requests that are answered at the same time, long polls included; one more
/// than this is told to come again. Same as the bound on connections.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 20_000;
/// User-interactive sessions that are remembered; the least used is forgotten.
pub const UIA_SESSIONS_MAX: usize = 10_000;
/// How long a user-interactive session may take.
pub const UIA_SESSION_LIFETIME: Duration = Duration::from_secs(15 * 60);
