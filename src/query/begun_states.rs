//! States that a writer began to give and has not completed.

use log_format::record::input::GivenState;
use ruma::OwnedRoomId;

use super::rooms::QueryError;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BegunState {
    pub room_id: OwnedRoomId,
    pub given: GivenState,
}

/// Tells which states were begun: after a restart nobody goes on with them.
pub trait BegunStates: Send + Sync {
    fn begun_states(&self) -> Result<Vec<BegunState>, QueryError>;
}
