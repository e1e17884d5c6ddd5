//! Rooms that the operator has purged, and how far that has come.

use ruma::{OwnedRoomId, RoomId};
use tokio::sync::watch;

use super::ids::InputOffset;
use super::rooms::QueryError;

/// How far the purge of a room has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurgeStage {
    /// The room is still there; its local users are to leave it.
    Leaving,
    /// The room is gone; what is kept of it is being dropped.
    Dropping,
    /// Nothing is left since this record. The room may have come to be again.
    Complete(InputOffset),
}

/// A purge that is not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    pub room_id: OwnedRoomId,
    pub stage: PurgeStage,
}

/// What the writer that purges rooms asks of the room server.
pub trait RoomPurges: Send + Sync {
    /// Those that are going on.
    fn purges(&self) -> Result<Vec<Purge>, QueryError>;
    /// That of one room; none if it never was purged.
    fn purge_of(&self, room: &RoomId) -> Result<Option<PurgeStage>, QueryError>;
    /// Changes when a purge begins.
    fn purges_changed(&self) -> watch::Receiver<()>;
}
