//! Tokens that clients hold: positions in a room and in the stream of sync.
//!
//! Opaque to clients, versioned by their first letters, checked when they come
//! back: one that cannot be read is `M_INVALID_PARAM` at the door.

mod sliding;
mod sync;
mod timeline;

pub use sliding::SlidingToken;
pub use sync::{Epoch, SyncToken};
pub use timeline::TimelineToken;

/// Where a [`SyncToken`] stands in a room, so that `/messages` can go on from
/// there. The reader that made the token knows.
pub trait SyncPositions: Send + Sync {
    /// Place of the newest event of the room's timeline that was delivered by
    /// the token; none if there was none. A token that cannot be read here (of
    /// another epoch, or with other partitions) is an error.
    fn place_of(
        &self,
        room: &ruma::RoomId,
        token: &SyncToken,
    ) -> Result<Option<super::ids::Place>, PositionError>;

    /// The room's current state as it was delivered by the token; none if the
    /// room was not known then. Errors as [`SyncPositions::place_of`].
    fn state_of(
        &self,
        room: &ruma::RoomId,
        token: &SyncToken,
    ) -> Result<Option<super::ids::StateId>, PositionError>;
}

/// Why a position cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum PositionError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Query(#[from] super::rooms::QueryError),
}

/// Partitions that a token may name; far more than a log has.
const PARTITIONS_MAX: usize = 1024;

/// A token that was not made by this server, or by another version of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token of this server")]
pub struct TokenError;
