//! Which rooms have other servers in them: so that the others cost nothing.

use std::collections::{HashMap, HashSet};

use parking_lot::RwLock;

use super::rows;
use crate::logs::log::PartitionId;
use crate::readers::store::scan;
use crate::storage::columns::SENDER_SERVERS;
use crate::storage::overlay::{Read, StoreError};

/// The rooms of [`SENDER_SERVERS`]: some hundred bytes for each room that
/// anybody of another server is in.
#[derive(Default)]
pub struct Federated {
    rooms: RwLock<HashMap<PartitionId, HashSet<Box<str>>>>,
}

impl Federated {
    /// Adds the rooms of a partition, as they lie in the table.
    pub fn load(&self, store: &dyn Read, partition: PartitionId) -> Result<(), StoreError> {
        let mut rooms = self.rooms.write();
        let rooms = rooms.entry(partition).or_default();
        let prefix = rows::partition_key(partition);
        scan(store, SENDER_SERVERS, prefix.as_bytes(), |key, _| {
            rooms.insert(rows::room_of(key)?.into());
            Ok(())
        })
    }

    pub fn has(&self, partition: PartitionId, room: &str) -> bool {
        let rooms = self.rooms.read();
        rooms.get(&partition).is_some_and(|of| of.contains(room))
    }

    pub fn add(&self, partition: PartitionId, room: &str) {
        if !self.has(partition, room) {
            let mut rooms = self.rooms.write();
            rooms.entry(partition).or_default().insert(room.into());
        }
    }

    pub fn remove(&self, partition: PartitionId, room: &str) {
        if let Some(of) = self.rooms.write().get_mut(&partition) {
            of.remove(room);
        }
    }
}

/// The servers of a room, ours never among them.
pub fn servers_in(
    store: &dyn Read,
    partition: PartitionId,
    room: &str,
) -> Result<Vec<ruma::OwnedServerName>, StoreError> {
    let prefix = rows::servers_key(partition, room);
    let mut servers = Vec::new();
    scan(store, SENDER_SERVERS, prefix.as_bytes(), |key, value| {
        if rows::count(value)? > 0 {
            servers.push(rows::server_of(key)?);
        }
        Ok(())
    })?;
    Ok(servers)
}
