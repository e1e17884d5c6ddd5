//! The state before the oldest event of a stretch of the past.

use ruma::{EventId, OwnedEventId, ServerName};

use crate::query::rooms::RoomHead;
use crate::writers::federation::budget::Budget;
use crate::writers::federation::remote_rooms::{RemoteRoomError, RemoteRooms};

impl RemoteRooms {
    /// The ids of the state before an event, whose events are here as outliers then.
    pub(super) async fn state_before(
        &self,
        head: &RoomHead,
        server: &ServerName,
        event: &EventId,
    ) -> Result<Vec<OwnedEventId>, RemoteRoomError> {
        let version = head.authority.create_info.version;
        let teller = self.teller(server, &head.room_id, version);
        Ok(teller.state_before(event, &mut Budget::default()).await?)
    }
}
