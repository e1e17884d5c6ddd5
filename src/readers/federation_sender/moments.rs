//! Who types and who is there, told to other servers: read from the window as it
//! changes (`query/ephemeral.rs`), and gone with the process.

use std::collections::BTreeSet;
use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::{OwnedServerName, RoomId, UserId};

use super::FederationSender;
use super::edus::{About, Edus, Said};
use super::servers::servers_in;
use crate::logs::log::partition_of;
use crate::query::ephemeral::{Changes, Presence, Since, TypingRoom};
use crate::query::ids::EphemeralOffset;
use crate::query::rooms::QueryError;

impl FederationSender {
    /// Tells on what changes from now on.
    pub(super) async fn tell_moments(&self) {
        let mut told = self.ports.ephemeral.changes(Since::Nothing).to;
        loop {
            self.ports.ephemeral.wait_beyond(told).await;
            let changes = self.ports.ephemeral.changes(Since::Offset(told));
            if let Err(error) = self.tell(told, &changes) {
                tracing::warn!(%error, "typing and presence not told to other servers");
            }
            if changes.to == told {
                // Not beyond, whatever was waited for: no reason to run in circles.
                tokio::task::yield_now().await;
            }
            told = changes.to;
        }
    }

    fn tell(&self, since: EphemeralOffset, changes: &Changes) -> Result<(), QueryError> {
        for room in &changes.typing {
            self.tell_typing(since, room)?;
        }
        for presence in &changes.presence {
            if self.is_ours(&presence.user_id) {
                self.tell_presence(presence)?;
            }
        }
        Ok(())
    }

    fn is_ours(&self, user: &UserId) -> bool {
        user.server_name() == self.ports.server_name
    }

    fn tell_typing(&self, since: EphemeralOffset, room: &TypingRoom) -> Result<(), QueryError> {
        let users = room.users.iter();
        let news: Vec<_> = users
            .filter(|(user, typist)| typist.changed_at >= since && self.is_ours(user))
            .collect();
        if news.is_empty() {
            return Ok(());
        }
        self.tell_servers(self.servers_in(&room.room_id)?, |edus, failing| {
            // Nobody reads it by the time that server is back.
            for (user, typist) in news.iter().filter(|_| !failing) {
                let about = About::Typing {
                    room_id: room.room_id.clone(),
                    user_id: (*user).clone(),
                };
                edus.add(about, Said::Typing(typist.typing));
            }
        })
    }

    /// To every server that shares a room with the user.
    fn tell_presence(&self, presence: &Presence) -> Result<(), QueryError> {
        let mut servers = BTreeSet::new();
        for room in self.ports.rooms.rooms_of(&presence.user_id)? {
            if room.membership == Membership::Join {
                servers.extend(self.servers_in(&room.room_id)?);
            }
        }
        let said = Said::Presence {
            state: presence.state,
            status_msg: presence.status_msg.clone(),
            last_active_ms: presence.last_active_ms,
            currently_active: presence.currently_active,
        };
        self.tell_servers(servers, |edus, _| {
            let about = About::Presence {
                user_id: presence.user_id.clone(),
            };
            edus.add(about, said.clone());
        })
    }

    fn servers_in(&self, room: &RoomId) -> Result<Vec<OwnedServerName>, QueryError> {
        let partition = partition_of(room.as_str(), self.ports.output.partitions());
        if !self.federated.has(partition, room.as_str()) {
            return Ok(vec![]);
        }
        servers_in(&*self.ports.store, partition, room.as_str())
            .map_err(|error| QueryError::Store(error.to_string()))
    }

    /// Leaves something with each of these servers; `add` also gets whether the
    /// server could not be reached of late.
    fn tell_servers(
        &self,
        servers: impl IntoIterator<Item = OwnedServerName>,
        add: impl Fn(&mut Edus, bool),
    ) -> Result<(), QueryError> {
        for server in servers {
            let destination = self.destinations.of(&server)?;
            {
                let mut state = destination.state();
                let failing = state.failures > 0;
                add(&mut state.edus, failing);
            }
            self.destinations.call(&destination);
        }
        Ok(())
    }

    /// Sends, and tells on what changes, until its task is stopped. What is under
    /// way then is repeated at the next start.
    pub async fn run(self: Arc<Self>) {
        tokio::select! {
            () = self.clone().carry() => (),
            () = self.tell_moments() => (),
        }
    }
}
