//! Tokens that clients hold: positions in a room and in the stream of sync.
//!
//! Opaque to clients, versioned by their first letters, checked when they come
//! back: one that cannot be read is `M_INVALID_PARAM` at the door.

mod sync;
mod timeline;

pub use sync::{Epoch, SyncToken};
pub use timeline::TimelineToken;

/// Partitions that a token may name; far more than a log has.
const PARTITIONS_MAX: usize = 1024;

/// A token that was not made by this server, or by another version of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token of this server")]
pub struct TokenError;
