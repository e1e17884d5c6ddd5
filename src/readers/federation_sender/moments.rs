//! Who types and who is there, told to other servers: read from the window as it
//! changes (`query/ephemeral.rs`), and gone with the process. A server that comes
//! to a room is told who of ours is there, and everybody now and then that they
//! still are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use log_format::record::ephemeral::PresenceState;
use log_format::record::output::Membership;
use ruma::{OwnedServerName, RoomId, UserId};

use super::FederationSender;
use super::edus::{About, Said};
use super::fold::Arrivals;
use super::servers::servers_in;
use crate::logs::log::partition_of;
use crate::query::ephemeral::{Changes, Presence, Since, TypingRoom};
use crate::query::ids::EphemeralOffset;
use crate::query::rooms::{QueryError, StateKey};

/// How often it is told again who is there: servers take those for gone of whom
/// they hear nothing for half an hour.
const TELL_AGAIN_EVERY: Duration = Duration::from_secs(25 * 60);
/// Users of a room that a server which comes to it is told of: some more than
/// wait for one server.
const PRESENT_MAX: usize = 256;

const MEMBER: &str = "m.room.member";

impl FederationSender {
    /// Tells on what changes from now on.
    pub(super) async fn tell_moments(&self) {
        let mut told = self.ports.ephemeral.changes(Since::Nothing).to;
        loop {
            self.ports.ephemeral.wait_beyond(told).await;
            let changes = self.ports.ephemeral.changes(Since::Offset(told));
            if let Err(error) = self.tell_changes(told, &changes) {
                tracing::warn!(%error, "typing and presence not told to other servers");
            }
            if changes.to == told {
                // Not beyond, whatever was waited for: no reason to run in circles.
                tokio::task::yield_now().await;
            }
            told = changes.to;
        }
    }

    fn tell_changes(&self, since: EphemeralOffset, changes: &Changes) -> Result<(), QueryError> {
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
        let news: Vec<_> = news
            .into_iter()
            .map(|(user, typist)| {
                let about = About::Typing {
                    room_id: room.room_id.clone(),
                    user_id: user.clone(),
                };
                (Arc::new(about), Arc::new(Said::Typing(typist.typing)))
            })
            .collect();
        for server in self.servers_in(&room.room_id)? {
            let destination = self.destinations.of(&server)?;
            for (about, said) in &news {
                self.tell(&destination, about.clone(), said.clone());
            }
        }
        Ok(())
    }

    /// To every server that shares a room with the user.
    fn tell_presence(&self, presence: &Presence) -> Result<(), QueryError> {
        let mut servers = BTreeSet::new();
        for room in self.ports.rooms.rooms_of(&presence.user_id)? {
            if room.membership == Membership::Join {
                servers.extend(self.servers_in(&room.room_id)?);
            }
        }
        self.tell_all(&servers, presence)
    }

    /// Tells servers that came to a room who of ours is there, and those that were
    /// in it before which of ours came.
    pub(super) fn tell_arrivals(
        &self,
        room: &RoomId,
        arrivals: &Arrivals,
    ) -> Result<(), QueryError> {
        if !self.ports.ephemeral.keeps_presence() {
            return Ok(());
        }
        if !arrivals.servers.is_empty() {
            for presence in self.present_in(room)? {
                self.tell_all(&arrivals.servers, &presence)?;
            }
        }
        if arrivals.users.is_empty() {
            return Ok(());
        }
        let mut others: BTreeSet<_> = self.servers_in(room)?.into_iter().collect();
        others.retain(|server| !arrivals.servers.contains(server));
        for user in &arrivals.users {
            let presence = self.ports.ephemeral.presence_of(user);
            if let Some(presence) = presence.filter(|presence| is_to_tell(presence)) {
                self.tell_all(&others, &presence)?;
            }
        }
        Ok(())
    }

    /// Those of our users in a room who are there.
    fn present_in(&self, room: &RoomId) -> Result<Vec<Arc<Presence>>, QueryError> {
        let Some(head) = self.ports.rooms.head(room)? else {
            return Ok(vec![]);
        };
        let members = head.state.range(StateKey::new(MEMBER, "")..);
        let members = members.take_while(|(key, _)| &*key.kind == MEMBER);
        let ours = members.filter_map(|(key, _)| {
            let user = <&UserId>::try_from(&*key.state_key).ok()?;
            let presence = self.ports.ephemeral.presence_of(user)?;
            (self.is_ours(user) && is_to_tell(&presence)).then_some(presence)
        });
        let mut present = Vec::new();
        for presence in ours.take(PRESENT_MAX) {
            // Whoever left has a member event too.
            let membership = self.ports.rooms.membership(room, &presence.user_id)?;
            if membership == Some(Membership::Join) {
                present.push(presence);
            }
        }
        Ok(present)
    }

    fn tell_all(
        &self,
        servers: &BTreeSet<OwnedServerName>,
        presence: &Presence,
    ) -> Result<(), QueryError> {
        let (about, said) = told(presence);
        for server in servers {
            let destination = self.destinations.of(server)?;
            self.tell(&destination, about.clone(), said.clone());
        }
        Ok(())
    }

    /// Tells again and again who is there.
    async fn tell_who_is_there(&self) {
        loop {
            self.time.sleep(TELL_AGAIN_EVERY).await;
            let known = self.ports.ephemeral.changes(Since::Nothing);
            for presence in known.presence {
                if self.is_ours(&presence.user_id)
                    && let Err(error) = self.tell_presence(&presence)
                {
                    tracing::warn!(%error, "presence not told again to other servers");
                    break;
                }
                // There may be thousands.
                tokio::task::yield_now().await;
            }
        }
    }

    fn servers_in(&self, room: &RoomId) -> Result<Vec<OwnedServerName>, QueryError> {
        let partition = partition_of(room.as_str(), self.ports.output.partitions());
        if !self.federated.has(partition, room.as_str()) {
            return Ok(vec![]);
        }
        servers_in(&*self.ports.store, partition, room.as_str())
            .map_err(|error| QueryError::Store(error.to_string()))
    }

    /// Sends, and tells on what changes, until its task is stopped. What is under
    /// way then is repeated at the next start: [`FederationSender::leave`] first
    /// waits for it.
    pub async fn run(self: Arc<Self>) {
        tokio::select! {
            () = self.clone().carry() => (),
            () = self.tell_moments() => (),
            () = self.tell_who_is_there() => (),
        }
    }
}

/// Whether there is more to say of a user than what everybody begins with.
fn is_to_tell(presence: &Presence) -> bool {
    presence.state != PresenceState::Offline || presence.status_msg.is_some()
}

/// A user's presence as it is told.
fn told(presence: &Presence) -> (Arc<About>, Arc<Said>) {
    let about = About::Presence {
        user_id: presence.user_id.clone(),
    };
    let said = Said::Presence {
        state: presence.state,
        status_msg: presence.status_msg.clone(),
        last_active_ms: presence.last_active_ms,
        currently_active: presence.currently_active,
    };
    (Arc::new(about), Arc::new(said))
}
