//! What is true for minutes: who types, who is there.
//!
//! Derived from *ephemeral* and held in memory. Each answer names the offset it
//! was read at, and what changed since another one can be asked for, so that
//! whoever tells it on goes from one to the next without a gap.

use std::collections::BTreeMap;
use std::sync::Arc;

use log_format::record::ephemeral::PresenceState;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use super::ids::EphemeralOffset;

/// Who types in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypingRoom {
    pub room_id: OwnedRoomId,
    /// Those who type, and of those who ceased to the ones of late, so that
    /// whoever ignores a user is not told of a change that only they made.
    pub users: BTreeMap<OwnedUserId, Typist>,
    /// Of the newest change.
    pub changed_at: EphemeralOffset,
}

/// A user of [`TypingRoom`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Typist {
    pub typing: bool,
    /// When they began, or ceased.
    pub changed_at: EphemeralOffset,
}

impl TypingRoom {
    /// Those who type now, by user id.
    pub fn typing(&self) -> impl Iterator<Item = &UserId> {
        let users = self.users.iter();
        users.filter_map(|(user, typist)| typist.typing.then_some(&**user))
    }
}

/// A user's presence (client-server API, *Presence*).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    pub user_id: OwnedUserId,
    pub state: PresenceState,
    pub status_msg: Option<Box<str>>,
    /// When the user last did something, in milliseconds since the epoch; of a
    /// user who is currently active some seconds ago.
    pub last_active_ms: Option<u64>,
    pub currently_active: bool,
    /// Of the newest change that clients are told of.
    pub changed_at: EphemeralOffset,
    /// Of the record that this is from.
    pub written_at: EphemeralOffset,
}

/// From where on changes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Nothing is known: what is current, where it is not what everybody begins
    /// with (nobody types, all are offline).
    Nothing,
    /// Something was told by another process: what is current, and what changed
    /// since this one began.
    OtherBoot,
    /// All below this offset is known.
    Offset(EphemeralOffset),
}

/// What changed, as of one offset. Each room and user once, as they are now,
/// in the order of their newest change.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Offset behind the last record that is in here.
    pub to: EphemeralOffset,
    pub typing: Vec<Arc<TypingRoom>>,
    pub presence: Vec<Arc<Presence>>,
}

/// The EDU server's and the presence server's memory, read-only.
pub trait Ephemeral: Send + Sync {
    /// Whether this server has presence: else nobody is told of anybody, not even
    /// that they are offline.
    fn keeps_presence(&self) -> bool;
    /// What changed.
    fn changes(&self, since: Since) -> Changes;
    /// Who types in a room; none where nobody did of late.
    fn typing_in(&self, room: &RoomId) -> Option<Arc<TypingRoom>>;
    /// A user's presence; none of whom nothing is known.
    fn presence_of(&self, user: &UserId) -> Option<Arc<Presence>>;
    /// Users with a status message whose record lies below `before`.
    fn statuses_before(&self, before: EphemeralOffset) -> Vec<Arc<Presence>>;
    /// Resolves once records beyond `offset` are in the answers.
    fn wait_beyond(&self, offset: EphemeralOffset) -> Waiting<'_>;
}

/// A future without a value.
pub type Waiting<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

#[cfg(test)]
pub mod fake {
    //! A stand-in for the EDU and presence servers.

    use super::*;

    /// Nobody types, and of nobody anything is known.
    pub struct Silence;

    impl Ephemeral for Silence {
        fn keeps_presence(&self) -> bool {
            false
        }
        fn changes(&self, _: Since) -> Changes {
            Changes::default()
        }
        fn typing_in(&self, _: &RoomId) -> Option<Arc<TypingRoom>> {
            None
        }
        fn presence_of(&self, _: &UserId) -> Option<Arc<Presence>> {
            None
        }
        fn statuses_before(&self, _: EphemeralOffset) -> Vec<Arc<Presence>> {
            Vec::new()
        }
        fn wait_beyond(&self, _: EphemeralOffset) -> Waiting<'_> {
            Box::pin(std::future::ready(()))
        }
    }
}
