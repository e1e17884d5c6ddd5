//! Where a sync token stands in a room, for `/messages` and its kin.

use ruma::RoomId;

use super::history::RoomHistory;
use super::{ClientSync, SyncError};
use crate::query::ids::{Place, StateId};
use crate::query::rooms::QueryError;
use crate::query::tokens::{PositionError, SyncPositions, SyncToken, TokenError};

impl SyncPositions for ClientSync {
    fn place_of(&self, room: &RoomId, token: &SyncToken) -> Result<Option<Place>, PositionError> {
        let Some((history, to)) = self.at_token(room, token)? else {
            return Ok(None);
        };
        let newest = history.timeline_before(0, to, 1).map_err(failed)?;
        Ok(newest.first().map(|row| row.place))
    }

    fn state_of(&self, room: &RoomId, token: &SyncToken) -> Result<Option<StateId>, PositionError> {
        let Some((history, to)) = self.at_token(room, token)? else {
            return Ok(None);
        };
        let state = history.state_id_at(to).map_err(failed)?;
        Ok((state != StateId::EMPTY).then_some(state))
    }
}

impl ClientSync {
    /// A room's rows, and the offset behind what a token was told of them; none
    /// for a room that is not known here.
    fn at_token(
        &self,
        room: &RoomId,
        token: &SyncToken,
    ) -> Result<Option<(RoomHistory<'_>, u64)>, TokenError> {
        let partitions = self.output.partitions() as usize;
        if token.epoch != self.epoch || token.vector.len() != partitions {
            return Err(TokenError);
        }
        let (partition, sn, newest) = {
            let memory = self.memory.read();
            let Some(ix) = memory.room_ix(room) else {
                return Ok(None);
            };
            let slot = memory.room(ix);
            (slot.partition, slot.room, slot.newest.clone())
        };
        let offset = token.vector.get(partition as usize).ok_or(TokenError)?;
        let history = RoomHistory {
            store: self.store.as_ref(),
            rooms: self.rooms.as_ref(),
            partition,
            room: sn,
            room_id: room.to_owned(),
            newest,
        };
        Ok(Some((history, offset.0)))
    }
}

fn failed(error: SyncError) -> PositionError {
    match error {
        SyncError::Query(error) => PositionError::Query(error),
        error => PositionError::Query(QueryError::Store(error.to_string())),
    }
}
