//! What is true for minutes: what of it is new since a token, and who is woken
//! by it.

use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::{OwnedRoomId, UserId};

use super::waiters::News;
use super::{ClientSync, SyncError};
use crate::query::ephemeral::{Changes, Since};
use crate::query::ids::EphemeralOffset;
use crate::query::tokens::SyncToken;

impl ClientSync {
    /// What changed since a token, and whether the token is of this process.
    pub(super) fn changes_since(&self, since: Option<&SyncToken>) -> (Changes, bool) {
        let since = match since {
            None => Since::Nothing,
            Some(since) if since.boot == self.boot => {
                Since::Offset(EphemeralOffset(since.ephemeral))
            }
            Some(_) => Since::OtherBoot,
        };
        let is_same_boot = matches!(since, Since::Offset(_));
        (self.ephemeral.changes(since), is_same_boot)
    }

    /// Wakes the requests that wait whenever something changed that concerns
    /// them, until it is dropped.
    pub async fn follow_ephemeral(self: Arc<Self>) {
        let mut next = EphemeralOffset(0);
        loop {
            let changes = self.ephemeral.changes(Since::Offset(next));
            next = changes.to;
            if let Err(error) = self.wake_for(&changes) {
                // Who was not woken is told with what comes next.
                tracing::warn!(%error, "requests that wait were not woken");
            }
            self.ephemeral.wait_beyond(next).await;
        }
    }

    fn wake_for(&self, changes: &Changes) -> Result<(), SyncError> {
        let mut remote = Vec::new();
        for presence in &changes.presence {
            if !self.is_local(&presence.user_id) {
                remote.extend(self.joined_rooms(&presence.user_id)?);
            }
        }
        let memory = self.memory.read();
        let mut news = News::default();
        let typed_in = changes.typing.iter().map(|room| &room.room_id);
        let rooms = typed_in.chain(&remote);
        news.rooms = rooms.filter_map(|room| memory.room_ix(room)).collect();
        let users = changes.presence.iter();
        news.presence = users
            .filter_map(|presence| memory.user_ix(&presence.user_id))
            .collect();
        self.waiters.wake(&memory, &news);
        Ok(())
    }

    pub(super) fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name
    }

    /// Rooms that any user is joined to, by the room server.
    pub(super) fn joined_rooms(&self, user: &UserId) -> Result<Vec<OwnedRoomId>, SyncError> {
        let rooms = self.rooms.rooms_of(user)?.into_iter();
        let joined = rooms.filter(|room| room.membership == Membership::Join);
        Ok(joined.map(|room| room.room_id).collect())
    }
}
