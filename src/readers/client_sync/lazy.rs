//! Which members a connection has been told of, so that lazy loading does not
//! repeat them (client-server API, *Lazy-loading room members*).
//!
//! A memory that may be lost at any time: then a member is sent once more.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use parking_lot::Mutex;
use quick_cache::unsync::Cache;
use ruma::{OwnedDeviceId, OwnedUserId, RoomId, UserId};

/// Connections that are remembered.
const CONNECTIONS_MAX: usize = 1_000;
/// Members that are remembered of a connection, eight bytes each; one that has
/// been told of more begins anew.
const MEMBERS_MAX: usize = 2_000;

/// What one connection was told, up to the token that it was last given.
#[derive(Debug, Default)]
struct Connection {
    token: String,
    members: HashSet<u64>,
}

/// The memory of all connections.
pub struct SentMembers {
    hasher: RandomState,
    connections: Mutex<Cache<(OwnedUserId, OwnedDeviceId), Connection>>,
}

impl Default for SentMembers {
    fn default() -> SentMembers {
        SentMembers {
            hasher: RandomState::new(),
            connections: Mutex::new(Cache::new(CONNECTIONS_MAX)),
        }
    }
}

impl SentMembers {
    /// Takes what a connection was told up to `since`. A client that repeats an
    /// older token has not got the newer answers: it is told everything again.
    pub fn take(
        &self,
        user: &UserId,
        device: &ruma::DeviceId,
        since: Option<&str>,
    ) -> KnownMembers<'_> {
        let key = (user.to_owned(), device.to_owned());
        let known = self.connections.lock().remove(&key);
        let members = known
            .map(|(_, connection)| connection)
            .filter(|connection| since == Some(connection.token.as_str()))
            .map(|connection| connection.members)
            .unwrap_or_default();
        KnownMembers {
            memory: self,
            key,
            members,
        }
    }
}

/// The members that one answer need not repeat.
pub struct KnownMembers<'a> {
    memory: &'a SentMembers,
    key: (OwnedUserId, OwnedDeviceId),
    members: HashSet<u64>,
}

impl KnownMembers<'_> {
    fn hash(&self, room: &RoomId, member: &str) -> u64 {
        self.memory.hasher.hash_one((room.as_str(), member))
    }

    /// Whether the client knows this member's event, as of its token.
    pub fn contains(&self, room: &RoomId, member: &str) -> bool {
        self.members.contains(&self.hash(room, member))
    }

    /// The answer tells of this member.
    pub fn insert(&mut self, room: &RoomId, member: &str) {
        if self.members.len() >= MEMBERS_MAX {
            self.members.clear();
        }
        let hash = self.hash(room, member);
        self.members.insert(hash);
    }

    /// The answer is on its way and gives this token.
    pub fn keep(self, token: &str) {
        let connection = Connection {
            token: token.to_owned(),
            members: self.members,
        };
        self.memory.connections.lock().insert(self.key, connection);
    }
}
