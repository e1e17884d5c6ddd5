//! User directory: who can be found by name, and by whom (client-server API,
//! *User Directory*).
//!
//! It follows *output* and keeps words of user ids and display names, who is in
//! which room, and which rooms anybody may look into. One finds those with whom
//! one shares a room and those in such rooms. Users of this server are found by
//! their profile; of others only what they are called in rooms that the searcher
//! may look into counts, so a name that somebody uses in one room stays there.

mod find;
mod fold;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::RwLock;
use ruma::OwnedServerName;

pub use self::find::{FoundUser, FoundUsers};

use self::fold::Group;
use self::rows::{OpenRow, TABLES_VERSION};
use crate::logs::log::{Log, LogRecord, PartitionId};
use crate::query::ids::RoomSn;
use crate::query::rooms::Rooms;
use crate::query::tokens::Epoch;
use crate::query::users::Users;
use crate::readers::run::{Reader, ReaderError};
use crate::readers::store::{Cursor, Write, clear, scan};
use crate::storage::columns::{
    DIRECTORY_MEMBERS, DIRECTORY_NAMES, DIRECTORY_OPEN, DIRECTORY_WORDS, Table,
};
use crate::storage::overlay::{Overlay, StoreError};

/// Under which the cursors are kept.
const NAME: &str = "user_directory";

/// Every table of this reader.
const TABLES: [Table; 4] = [
    DIRECTORY_WORDS,
    DIRECTORY_NAMES,
    DIRECTORY_MEMBERS,
    DIRECTORY_OPEN,
];

/// What the reader is built from.
pub struct Ports {
    pub store: Arc<dyn Write>,
    pub rooms: Arc<dyn Rooms>,
    pub users: Arc<dyn Users>,
    pub output: Arc<dyn Log>,
}

/// The reader. Shared by the tasks that follow *output* and by all requests.
pub struct UserDirectory {
    store: Arc<dyn Write>,
    rooms: Arc<dyn Rooms>,
    users: Arc<dyn Users>,
    partitions: u32,
    server_name: OwnedServerName,
    epoch: Epoch,
    /// By partition, offset of the next record.
    cursors: RwLock<Vec<u64>>,
    /// Rooms that anybody may look into: a copy of [`DIRECTORY_OPEN`].
    open_rooms: RwLock<HashSet<(PartitionId, RoomSn)>>,
}

impl UserDirectory {
    /// Finds the tables as they were left, or empties those that belong to
    /// another epoch or version, or lie ahead of *output*, to be rebuilt.
    pub fn open(
        ports: Ports,
        server_name: OwnedServerName,
        epoch: Epoch,
    ) -> Result<UserDirectory, StoreError> {
        let store = &*ports.store;
        let partitions = ports.output.partitions();
        let mut cursors = Vec::new();
        let mut open_rooms = HashSet::new();
        for partition in 0..partitions {
            let cursor = Cursor::load(store, NAME, partition)?.filter(|cursor| {
                cursor.version == TABLES_VERSION
                    && cursor.epoch == epoch
                    && cursor.next <= ports.output.end(partition)
            });
            if cursor.is_none() {
                for table in TABLES {
                    clear(store, table, &rows::partition_key(partition))?;
                }
            }
            cursors.push(cursor.map_or(0, |cursor| cursor.next));
            scan(
                store,
                DIRECTORY_OPEN,
                &rows::partition_key(partition),
                |key, value| {
                    if rows::decode::<OpenRow>(DIRECTORY_OPEN, value)?.is_open() {
                        open_rooms.insert((partition, rows::room_of(DIRECTORY_OPEN, key)?));
                    }
                    Ok(())
                },
            )?;
        }
        Ok(UserDirectory {
            store: ports.store,
            rooms: ports.rooms,
            users: ports.users,
            partitions,
            server_name,
            epoch,
            cursors: RwLock::new(cursors),
            open_rooms: RwLock::new(open_rooms),
        })
    }

    /// A directory of a log that nobody follows, for tests of what lies above.
    #[cfg(test)]
    pub fn in_memory(
        rooms: Arc<dyn Rooms>,
        users: Arc<dyn Users>,
        output: Arc<dyn Log>,
    ) -> Arc<UserDirectory> {
        let ports = Ports {
            store: Arc::new(crate::readers::store::memory::MemoryStore::default()),
            rooms,
            users,
            output,
        };
        let server = ruma::server_name!("hs").to_owned();
        let opened = UserDirectory::open(ports, server, Epoch(1));
        Arc::new(opened.expect("a store in memory opens"))
    }
}

impl Reader for UserDirectory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cursor(&self, partition: PartitionId) -> u64 {
        let cursors = self.cursors.read();
        cursors.get(partition as usize).copied().unwrap_or(0)
    }

    fn fold(&self, partition: PartitionId, records: &[LogRecord]) -> Result<(), ReaderError> {
        let Some(last) = records.last() else {
            return Ok(());
        };
        let next = last.offset + 1;
        let mut group = Group::new(
            partition,
            Overlay::new(self.store.as_ref()),
            self.rooms.as_ref(),
            &self.server_name,
        );
        for record in records {
            group.fold(record)?;
        }
        let (mut rows, opened) = group.finish();
        let cursor = Cursor {
            version: TABLES_VERSION,
            epoch: self.epoch,
            next,
        };
        cursor.put(NAME, partition, &mut rows);
        self.store.write(rows.into_writes())?;
        let mut open_rooms = self.open_rooms.write();
        for (room, is_open) in opened {
            match is_open {
                true => open_rooms.insert((partition, room)),
                false => open_rooms.remove(&(partition, room)),
            };
        }
        drop(open_rooms);
        if let Some(cursor) = self.cursors.write().get_mut(partition as usize) {
            *cursor = next;
        }
        Ok(())
    }
}
