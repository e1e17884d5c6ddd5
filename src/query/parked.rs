//! Rooms that wait for work which is done aside; see `projectors/roomserver/parked.rs`.

use ruma::{OwnedRoomId, RoomId};
use tokio::sync::watch;

use super::rooms::QueryError;
use crate::logs::log::PartitionId;

/// A room that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRoom {
    pub partition: PartitionId,
    pub room_id: OwnedRoomId,
    /// *Input* offset of the record at which it began to wait.
    pub cause: u64,
}

/// Work that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkDone {
    /// BLAKE3 of what the decision writes and says.
    pub digest: [u8; 32],
    /// Version of the projector that decided so.
    pub projector_version: u32,
}

/// What the executor of such work asks of the room server.
pub trait ParkedWork: Send + Sync {
    /// Every room that waits.
    fn parked(&self) -> Result<Vec<ParkedRoom>, QueryError>;
    /// Changes when a room begins to wait.
    fn parked_changed(&self) -> watch::Receiver<()>;
    /// Does the work for which a room waits; blocks, perhaps for seconds.
    /// Returns none if the room goes on already.
    fn prepare(&self, room: &RoomId, cause: u64) -> Result<Option<WorkDone>, QueryError>;
}
