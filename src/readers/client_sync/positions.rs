//! Where a sync token stands in a room, for `/messages` and its kin.

use super::ClientSync;
use super::rows::{Key, TimelineRow};
use crate::query::ids::Place;
use crate::query::rooms::QueryError;
use crate::query::tokens::{PositionError, SyncPositions, SyncToken, TokenError};
use crate::storage::columns::SYNC_TIMELINE;

impl SyncPositions for ClientSync {
    fn place_of(
        &self,
        room: &ruma::RoomId,
        token: &SyncToken,
    ) -> Result<Option<Place>, PositionError> {
        let partitions = self.output.partitions() as usize;
        if token.epoch != self.epoch || token.vector.len() != partitions {
            return Err(TokenError.into());
        }
        let (partition, sn) = {
            let memory = self.memory.read();
            let Some(ix) = memory.room_ix(room) else {
                return Ok(None);
            };
            let slot = memory.room(ix);
            (slot.partition, slot.room)
        };
        let offset = token.vector.get(partition as usize).ok_or(TokenError)?;
        let Some(last) = offset.0.checked_sub(1) else {
            return Ok(None);
        };
        let prefix = Key::new(partition).room(sn);
        let from = Key::new(partition).room(sn).number(last);
        let (prefix, from) = (prefix.bytes(), Some(from.bytes()));
        let failed = |error| PositionError::Query(QueryError::Store(format!("{error}")));
        let rows = self.store.range(SYNC_TIMELINE, prefix, from, true, 1);
        let Some((key, value)) = rows.map_err(failed)?.pop() else {
            return Ok(None);
        };
        let row = TimelineRow::decode(SYNC_TIMELINE, &key, &value).map_err(failed)?;
        Ok(Some(row.place))
    }
}
