//! Bounds of time and number that only doors keep; what bounds bytes is in
//! [`crate::limits`].

use std::time::Duration;

pub use crate::limits::JSON_BODY_BYTES_MAX as BODY_BYTES_MAX;

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
/// Registrations whose wishes are remembered, some 4 KiB each at most; the least used is forgotten.
pub const REGISTRATIONS_MAX: usize = 2_000;
/// Searches that run at the same time: each keeps a processor and the disk busy,
/// and others wait for their turn rather than slow everything down.
pub const SEARCHES_MAX: usize = 4;
/// Answers to other servers that read much of a room at the same time, some 20 ms each.
pub const LARGE_ANSWERS_MAX: usize = 4;
/// Devices of which is remembered from where they were seen last, some 400 bytes each at most;
/// the least used is forgotten.
pub const SIGHTINGS_MAX: usize = 10_000;
/// How much of a client's name for itself is kept.
pub const SIGHTING_AGENT_BYTES_MAX: usize = 256;
/// How old the time of a sighting may be (client-server API, *Device Management*: "may be a few
/// minutes out of date, for efficiency reasons").
pub const SIGHTING_PRECISION: Duration = Duration::from_secs(60);
