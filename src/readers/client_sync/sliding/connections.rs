//! All connections: in memory as long as they are used, in a table of their own
//! beyond that and over a restart.
//!
//! A bounded number of each device and in all; the one that was not used for
//! longest goes first, and its client starts over (MSC4186, *Connections*).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bincode::{Decode, Encode};
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use ruma::{OwnedDeviceId, OwnedUserId};

use super::super::rows::{self, Key};
use super::connection::{Connection, News, RoomKey, RoomSent, Told};
use super::extensions::ExtensionsTold;
use super::lists::ListsCache;
use super::required_state::Wanted;
use crate::crypto::random;
use crate::logs::log::{PartitionId, partition_of};
use crate::query::ids::RoomSn;
use crate::readers::store::{Write, clear, scan};
use crate::storage::columns::{SLIDING_CONNECTIONS, SLIDING_ROOMS};
use crate::storage::overlay::{Overlay, StoreError};

/// Connections of one device; the clients of 2026 use three.
const OF_DEVICE_MAX: usize = 16;
/// Connections in all: with a hundred rooms each, some 100 MB of rows.
const CONNECTIONS_MAX: usize = 20_000;
/// Connections in memory, in units of [`Connection::weight`]: 64 MiB.
const LIVE_WEIGHT_MAX: u64 = 1 << 20;
/// The same as a number of connections that it is laid out for.
const LIVE_EXPECTED: usize = 1_000;

/// Number of a connection that was opened and never answered: it has no rows.
const UNANSWERED: u64 = 0;

/// Whose connection, and which of theirs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionKey {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    pub conn_id: String,
}

/// A connection as found again: without its rooms, which have rows of their own.
#[derive(Debug, Encode, Decode)]
struct ConnectionRow {
    number: u64,
    /// When it was used, compared with others.
    used: u64,
    position: Option<String>,
    configs: Vec<Wanted>,
    extensions: ExtensionsTold,
    pending: Option<PendingRow>,
}

/// The newest answer.
#[derive(Debug, Encode, Decode)]
struct PendingRow {
    position: String,
    /// Partition and interned id of each room that it told.
    rooms: Vec<(u32, u64, RoomSent)>,
    extensions: ExtensionsTold,
}

/// A connection in use.
#[derive(Clone)]
pub struct Live {
    pub connection: Arc<Connection>,
    /// What its lists came to last.
    pub lists: Arc<Mutex<ListsCache>>,
}

struct ByWeight;

impl Weighter<ConnectionKey, Live> for ByWeight {
    fn weight(&self, _: &ConnectionKey, live: &Live) -> u64 {
        live.connection.weight()
    }
}

/// What is known of every connection.
struct Entry {
    number: u64,
    used: u64,
    /// Raised by each request: only the newest may answer.
    generation: u64,
}

struct Index {
    entries: HashMap<ConnectionKey, Entry>,
    of_device: HashMap<(OwnedUserId, OwnedDeviceId), Vec<String>>,
    by_use: BTreeMap<u64, ConnectionKey>,
    live: Cache<ConnectionKey, Live, ByWeight>,
    used: u64,
}

/// See the module's header.
pub struct Connections {
    partitions: u32,
    index: Mutex<Index>,
}

/// A request's hold on its connection.
pub struct Opened {
    pub key: ConnectionKey,
    /// As the client has it.
    pub connection: Connection,
    pub lists: Arc<Mutex<ListsCache>>,
    generation: u64,
}

impl Connections {
    pub fn new(partitions: u32) -> Connections {
        Connections {
            partitions,
            index: Mutex::new(Index {
                entries: HashMap::new(),
                of_device: HashMap::new(),
                by_use: BTreeMap::new(),
                live: Cache::with_weighter(LIVE_EXPECTED, LIVE_WEIGHT_MAX, ByWeight),
                used: 0,
            }),
        }
    }

    /// Finds the connections of a partition's users again.
    pub fn load(&self, store: &dyn Write, partition: PartitionId) -> Result<(), StoreError> {
        let mut index = self.index.lock();
        scan(
            store,
            SLIDING_CONNECTIONS,
            Key::new(partition).bytes(),
            |key, value| {
                let (user, rest) =
                    rows::take_text(SLIDING_CONNECTIONS, key.get(2..).unwrap_or_default())?;
                let (device, rest) = rows::take_text(SLIDING_CONNECTIONS, rest)?;
                let (conn_id, _) = rows::take_text(SLIDING_CONNECTIONS, rest)?;
                let row: ConnectionRow = rows::decode(SLIDING_CONNECTIONS, value)?;
                let Ok(user) = OwnedUserId::try_from(user) else {
                    return Ok(());
                };
                let key = ConnectionKey {
                    user,
                    device: device.into(),
                    conn_id: conn_id.to_owned(),
                };
                index.enter(key, row.number, row.used);
                Ok(())
            },
        )
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.index.lock().entries.len()
    }

    /// Opens a connection for a request from `pos`, or anew without one. None if
    /// the position is not known (any more).
    pub fn open(
        &self,
        store: &dyn Write,
        key: ConnectionKey,
        pos: Option<&str>,
    ) -> Result<Option<Opened>, StoreError> {
        let mut index = self.index.lock();
        let Some(pos) = pos else {
            let generation = index.take_over(&key);
            // Counted from here on, whether or not it is ever answered.
            self.drop_superfluous(store, &mut index, &key)?;
            return Ok(Some(Opened {
                key,
                connection: Connection::new(u64::from_be_bytes(random::bytes())),
                lists: Arc::default(),
                generation,
            }));
        };
        let live = match index.live.get(&key).cloned() {
            Some(live) => live,
            None => {
                let Some(connection) = self.read(store, &key)? else {
                    return Ok(None);
                };
                let live = Live {
                    connection: Arc::new(connection),
                    lists: Arc::default(),
                };
                index.live.insert(key.clone(), live.clone());
                live
            }
        };
        let Some(connection) = live.connection.at(pos) else {
            return Ok(None);
        };
        let generation = index.take_over(&key);
        Ok(Some(Opened {
            key,
            connection,
            lists: live.lists,
            generation,
        }))
    }

    /// Whether no later request has taken over.
    pub fn is_newest(&self, opened: &Opened) -> bool {
        self.index.lock().generation(&opened.key) == opened.generation
    }

    /// Keeps what an answer told, under its position. False if a later request
    /// of the client has taken over: then nothing was told.
    pub fn keep(
        &self,
        store: &dyn Write,
        opened: Opened,
        position: &str,
        news: News,
    ) -> Result<bool, StoreError> {
        let Opened {
            key,
            mut connection,
            lists,
            generation,
        } = opened;
        let mut index = self.index.lock();
        if index.generation(&key) != generation {
            return Ok(false);
        }
        let mut rows = Overlay::new(store);
        let partition = self.partition(&key);
        for (room, sent) in std::mem::take(&mut connection.unwritten) {
            let at = room_key(partition, connection.number, room);
            rows::put(&mut rows, SLIDING_ROOMS, &at, &sent);
        }
        connection.pending = Some((position.to_owned(), news));
        let before = index.entries.get(&key).map(|entry| entry.number);
        index.used += 1;
        let row = row_of(&connection, index.used);
        rows::put(
            &mut rows,
            SLIDING_CONNECTIONS,
            &connection_key(partition, &key),
            &row,
        );
        store.write(rows.into_writes())?;
        let (number, used) = (connection.number, index.used);
        if let Some(before) = before.filter(|before| ![number, UNANSWERED].contains(before)) {
            clear(
                store,
                SLIDING_ROOMS,
                Key::new(partition).number(before).bytes(),
            )?;
        }
        index.enter(key.clone(), number, used);
        let live = Live {
            connection: Arc::new(connection),
            lists,
        };
        index.live.insert(key, live);
        Ok(true)
    }

    /// Forgets a connection: its client starts over.
    pub fn expire(&self, store: &dyn Write, key: &ConnectionKey) -> Result<(), StoreError> {
        self.drop_connection(store, &mut self.index.lock(), key)
    }

    /// Makes room for a connection that was entered.
    fn drop_superfluous(
        &self,
        store: &dyn Write,
        index: &mut Index,
        newest: &ConnectionKey,
    ) -> Result<(), StoreError> {
        while let Some(oldest) = index.superfluous(newest) {
            self.drop_connection(store, index, &oldest)?;
        }
        Ok(())
    }

    fn drop_connection(
        &self,
        store: &dyn Write,
        index: &mut Index,
        key: &ConnectionKey,
    ) -> Result<(), StoreError> {
        let partition = self.partition(key);
        let mut rows = Overlay::new(store);
        rows.delete(SLIDING_CONNECTIONS, connection_key(partition, key).bytes());
        store.write(rows.into_writes())?;
        if let Some(number) = index.remove(key).filter(|number| *number != UNANSWERED) {
            clear(
                store,
                SLIDING_ROOMS,
                Key::new(partition).number(number).bytes(),
            )?;
        }
        Ok(())
    }

    fn partition(&self, key: &ConnectionKey) -> PartitionId {
        partition_of(key.user.as_str(), self.partitions)
    }

    fn read(
        &self,
        store: &dyn Write,
        key: &ConnectionKey,
    ) -> Result<Option<Connection>, StoreError> {
        let partition = self.partition(key);
        let Some(row) = store.get(SLIDING_CONNECTIONS, connection_key(partition, key).bytes())?
        else {
            return Ok(None);
        };
        let row: ConnectionRow = rows::decode(SLIDING_CONNECTIONS, &row)?;
        let mut told = Told {
            configs: row.configs,
            extensions: row.extensions,
            ..Told::default()
        };
        let prefix = Key::new(partition).number(row.number);
        scan(store, SLIDING_ROOMS, prefix.bytes(), |key, value| {
            let (rest, room) = key.split_last_chunk::<8>().unwrap_or((key, &[0; 8]));
            let partition = rest.last_chunk::<8>().unwrap_or(&[0; 8]);
            let room = RoomKey {
                partition: u64::from_be_bytes(*partition) as PartitionId,
                room: RoomSn(u64::from_be_bytes(*room)),
            };
            told.rooms.insert(room, rows::decode(SLIDING_ROOMS, value)?);
            Ok(())
        })?;
        let pending = row.pending.map(|pending| {
            let rooms = pending.rooms.into_iter().map(|(partition, room, sent)| {
                let room = RoomSn(room);
                (RoomKey { partition, room }, sent)
            });
            let news = News {
                rooms: rooms.collect(),
                members: Vec::new(),
                extensions: pending.extensions,
                typing: None,
            };
            (pending.position, news)
        });
        Ok(Some(Connection {
            number: row.number,
            position: row.position,
            told,
            pending,
            unwritten: Vec::new(),
        }))
    }
}

impl Index {
    /// Gives a connection, which is the one that was used last now, to a request.
    fn take_over(&mut self, key: &ConnectionKey) -> u64 {
        let generation = self.used + 1;
        let number = self
            .entries
            .get(key)
            .map_or(UNANSWERED, |entry| entry.number);
        self.enter(key.clone(), number, generation);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.generation = generation;
        }
        generation
    }

    fn generation(&self, key: &ConnectionKey) -> u64 {
        self.entries.get(key).map_or(0, |entry| entry.generation)
    }

    fn enter(&mut self, key: ConnectionKey, number: u64, used: u64) {
        self.used = self.used.max(used);
        let entry = self.entries.entry(key.clone()).or_insert(Entry {
            number,
            used: 0,
            generation: 0,
        });
        entry.number = number;
        let before = std::mem::replace(&mut entry.used, used);
        self.by_use.remove(&before);
        self.by_use.insert(used, key.clone());
        let device = (key.user, key.device);
        let of_device = self.of_device.entry(device).or_default();
        if !of_device.contains(&key.conn_id) {
            of_device.push(key.conn_id);
        }
    }

    /// The connection that is one too many after `newest` was used.
    fn superfluous(&self, newest: &ConnectionKey) -> Option<ConnectionKey> {
        let device = (newest.user.clone(), newest.device.clone());
        let of_device = self.of_device.get(&device)?;
        if of_device.len() > OF_DEVICE_MAX {
            let keys = of_device.iter().map(|conn_id| ConnectionKey {
                conn_id: conn_id.clone(),
                ..newest.clone()
            });
            return keys.min_by_key(|key| self.entries.get(key).map_or(0, |entry| entry.used));
        }
        let oldest = self.by_use.first_key_value()?;
        (self.by_use.len() > CONNECTIONS_MAX).then(|| oldest.1.clone())
    }

    fn remove(&mut self, key: &ConnectionKey) -> Option<u64> {
        self.live.remove(key);
        let entry = self.entries.remove(key)?;
        self.by_use.remove(&entry.used);
        let device = (key.user.clone(), key.device.clone());
        if let Some(of_device) = self.of_device.get_mut(&device) {
            of_device.retain(|conn_id| *conn_id != key.conn_id);
            if of_device.is_empty() {
                self.of_device.remove(&device);
            }
        }
        Some(entry.number)
    }
}

fn row_of(connection: &Connection, used: u64) -> ConnectionRow {
    let pending = connection.pending.as_ref().map(|(position, news)| {
        let rooms = news.rooms.iter();
        let rooms = rooms.map(|(key, sent)| (key.partition, key.room.0, *sent));
        PendingRow {
            position: position.clone(),
            rooms: rooms.collect(),
            extensions: news.extensions,
        }
    });
    ConnectionRow {
        number: connection.number,
        used,
        position: connection.position.clone(),
        configs: connection.told.configs.clone(),
        extensions: connection.told.extensions,
        pending,
    }
}

fn connection_key(partition: PartitionId, key: &ConnectionKey) -> Key {
    Key::new(partition)
        .text(key.user.as_str())
        .text(key.device.as_str())
        .text(&key.conn_id)
}

fn room_key(partition: PartitionId, number: u64, room: RoomKey) -> Key {
    Key::new(partition)
        .number(number)
        .number(u64::from(room.partition))
        .room(room.room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readers::store::memory::MemoryStore;

    fn key(conn_id: usize) -> ConnectionKey {
        ConnectionKey {
            user: ruma::user_id!("@a:here").to_owned(),
            device: "DEVICE".into(),
            conn_id: conn_id.to_string(),
        }
    }

    #[test]
    fn requests_that_are_never_answered_leave_no_more_than_others() {
        let (connections, store) = (Connections::new(1), MemoryStore::default());
        let open = |conn_id| connections.open(&store, key(conn_id), None);
        let first = open(0).expect("opens").expect("anew");
        for conn_id in 1..100 {
            open(conn_id).expect("opens");
        }
        assert_eq!(connections.len(), OF_DEVICE_MAX);
        // One that had to go is not answered, and not kept.
        assert!(!connections.is_newest(&first));
        let kept = connections.keep(&store, first, "pos", News::default());
        assert!(!kept.expect("no failure"));
        assert_eq!(connections.len(), OF_DEVICE_MAX);
        // One that was answered is used whenever it is asked.
        let last = open(99).expect("opens").expect("anew");
        let kept = connections.keep(&store, last, "pos", News::default());
        assert!(kept.expect("no failure"));
        for conn_id in 200..(199 + OF_DEVICE_MAX) {
            open(conn_id).expect("opens");
        }
        let asked = connections.open(&store, key(99), Some("pos"));
        assert!(asked.expect("opens").is_some());
        open(300).expect("opens");
        let asked = connections.open(&store, key(99), Some("pos"));
        assert!(asked.expect("opens").is_some());
    }
}
