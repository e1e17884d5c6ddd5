//! The state before the oldest event of a stretch of the past.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ruma::{EventId, OwnedEventId, ServerName};

use crate::outbound::federation::{event, room_state};
use crate::query::rooms::RoomHead;
use crate::writers::federation::past::unknown;
use crate::writers::federation::remote_rooms::{RemoteRoomError, RemoteRooms};

/// Events of a state that are fetched one by one; where more are missing all of
/// it comes at once.
const ONE_BY_ONE_MAX: usize = 50;
/// Requests for single events at a time.
const AT_A_TIME: usize = 8;

impl RemoteRooms {
    /// The ids of the state before an event, whose events are here as outliers then.
    pub(super) async fn state_before(
        &self,
        head: &RoomHead,
        server: &ServerName,
        event: &EventId,
    ) -> Result<Vec<OwnedEventId>, RemoteRoomError> {
        let (client, room) = (&self.parts.client, &head.room_id);
        let version = head.authority.create_info.version;
        let told = room_state::state_ids(client, server, room, event).await?;
        let named = told.auth_chain.iter().chain(&told.state);
        let missing = unknown(&*self.parts.rooms, room, named).await?;
        let events: Vec<Bytes> = match missing.len() {
            0 => return Ok(told.state),
            1..=ONE_BY_ONE_MAX => {
                let fetches = missing
                    .into_iter()
                    .map(|id| event::event(client, server, id));
                let fetches: Vec<_> = fetches.collect();
                let answers = stream::iter(fetches).buffer_unordered(AT_A_TIME);
                // Whether enough of the state is there is seen when it is given.
                let found = answers.filter_map(|answer| async move { answer.ok().flatten() });
                found.collect().await
            }
            _ => {
                let whole = room_state::state(client, server, room, event).await?;
                let mut events = whole.auth_chain;
                events.extend(whole.state);
                events
            }
        };
        self.given
            .append_outliers(room, version, server, events)
            .await?;
        Ok(told.state)
    }
}
