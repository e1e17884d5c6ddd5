//! Client sync: what is new for a user since a token (client-server API, *Syncing*).
//!
//! It follows *output*, keeps which events, state changes, memberships and
//! account data stand at which offset, and answers `/sync` from these; events
//! and states themselves, which never change, it asks of the room server.
//! What is true for minutes (who types, who is there) it asks of the query
//! window. It lists notifications as well, and the event stream of old clients,
//! which are in the same rows, and answers no other endpoint.

mod answer;
mod ephemeral;
mod fold;
mod history;
mod lazy;
mod left;
mod memory;
mod momentary;
mod notifications;
mod outside;
mod positions;
mod presence;
mod purged;
mod recent;
mod room;
mod rows;
pub mod sliding;
mod state;
mod stream;
mod stripped;
mod summary;
#[cfg(test)]
pub(crate) mod tests;
mod timeline;
mod typing;
mod unread;
mod visible;
mod wait;
mod waiters;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use log_format::record::input::TokenHash;
use parking_lot::RwLock;
use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId};
use tokio::sync::Notify;

use self::fold::Group;
use self::lazy::SentMembers;
use self::memory::{MembershipNews, Memory};
pub use self::notifications::NotificationsRequest;
use self::recent::Recent;
use self::rows::{AccountDataRow, Key, MembershipRow, RoomRow, StateRow, TABLES_VERSION};
use self::sliding::Sliding;
use self::summary::Summaries;
use self::unread::UnreadCounts;
use self::waiters::Waiters;
use crate::logs::log::{Log, LogRecord, PartitionId};
use crate::matrix::client_event::FormatError;
use crate::matrix::filter::Filter;
use crate::query::ephemeral::Ephemeral;
use crate::query::ids::{EventSn, RoomSn, StateId};
use crate::query::notified::Notified;
use crate::query::receipts::Receipts;
use crate::query::relations::Relations;
use crate::query::rooms::{QueryError, Rooms};
use crate::query::shown::ShowError;
use crate::query::tokens::{Epoch, TokenError};
use crate::query::users::Users;
use crate::readers::purges::{Stretch, stretches};
use crate::readers::run::{Reader, ReaderError};
use crate::readers::store::{Cursor, Write, clear, scan};
use crate::storage::columns::{
    SYNC_DATA, SYNC_DATA_AT, SYNC_MEMBERS, SYNC_OWN_RECEIPTS, SYNC_PURGED, SYNC_RECEIPTS,
    SYNC_RECEIPTS_AT, SYNC_ROOMS, SYNC_STATE, SYNC_TIMELINE, SYNC_UNREAD, Table,
};
use crate::storage::overlay::{Overlay, StoreError};

/// Under which the cursors are kept.
const NAME: &str = "client_sync";

/// Every table of this reader.
const TABLES: [Table; 11] = [
    SYNC_TIMELINE,
    SYNC_STATE,
    SYNC_MEMBERS,
    SYNC_ROOMS,
    SYNC_DATA,
    SYNC_DATA_AT,
    SYNC_RECEIPTS,
    SYNC_OWN_RECEIPTS,
    SYNC_RECEIPTS_AT,
    SYNC_PURGED,
    SYNC_UNREAD,
];

/// Longest time that a request waits for something new.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(90);

/// Why a sync could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// `since` cannot be read.
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Query(#[from] QueryError),
    /// An event of ours cannot be shown.
    #[error(transparent)]
    Event(#[from] FormatError),
    #[error(transparent)]
    Show(#[from] ShowError),
    #[error("answer could not be written: {0}")]
    Answer(#[from] serde_json::Error),
    /// The session ended while the request waited.
    #[error("the device was logged out")]
    LoggedOut,
    /// `pos` is not known, or not any more: the client starts over.
    #[error("unknown position")]
    UnknownPosition,
    /// One request asks for more different state than a connection keeps: to start
    /// over would not help.
    #[error("too many different rules for state")]
    TooManyRules,
    /// The reader stopped, see the log for why.
    #[error("the sync reader has stopped")]
    Stopped,
}

/// A request, parsed.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    /// None: the client knows nothing yet.
    pub since: Option<String>,
    pub filter: Arc<Filter>,
    pub full_state: bool,
    /// At most [`TIMEOUT_MAX`] is waited.
    pub timeout: Duration,
    pub state_section: StateSection,
    /// The session that asks: the request ends when it does. None in tests.
    pub access: Option<TokenHash>,
}

/// Which section tells of state, and under which name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateSection {
    /// `state`: up to the start of the timeline.
    #[default]
    Before,
    /// `state_after`: up to its end.
    After,
    /// The same under the name that it had before it was specified (MSC4222).
    UnstableAfter,
}

impl StateSection {
    pub fn of(after: bool) -> StateSection {
        match after {
            true => StateSection::After,
            false => StateSection::Before,
        }
    }

    pub fn is_after(self) -> bool {
        self != StateSection::Before
    }
}

/// What the reader is built from.
pub struct Ports {
    pub store: Arc<dyn Write>,
    pub rooms: Arc<dyn Rooms>,
    pub users: Arc<dyn Users>,
    pub receipts: Arc<dyn Receipts>,
    pub relations: Arc<dyn Relations>,
    pub ephemeral: Arc<dyn Ephemeral>,
    pub output: Arc<dyn Log>,
}

/// The reader. Shared by the tasks that follow *output* and by all requests.
pub struct ClientSync {
    store: Arc<dyn Write>,
    rooms: Arc<dyn Rooms>,
    users: Arc<dyn Users>,
    relations: Arc<dyn Relations>,
    receipts: Arc<dyn Receipts>,
    ephemeral: Arc<dyn Ephemeral>,
    output: Arc<dyn Log>,
    server_name: OwnedServerName,
    epoch: Epoch,
    /// See [`crate::query::tokens::SyncToken::boot`].
    boot: u32,
    /// Written by folds, a group at a time; requests copy what they need and
    /// let go before they read rows. Inside it only that of `waiters` is taken.
    memory: RwLock<Memory>,
    waiters: Waiters,
    /// Notified after every group.
    advanced: Notify,
    /// A fold failed half-way: the memory is no longer what the rows say.
    stopped: AtomicBool,
    /// The server is about to stop: no request waits any more.
    closing: AtomicBool,
    sent_members: SentMembers,
    summaries: Summaries,
    notified: Arc<Notified>,
    unread: UnreadCounts,
    sliding: Sliding,
}

impl ClientSync {
    /// Finds the tables as they were left, or empties those that belong to
    /// another epoch or version, or lie ahead of *output*, to be rebuilt.
    pub fn open(
        ports: Ports,
        server_name: OwnedServerName,
        epoch: Epoch,
        boot: u32,
    ) -> Result<ClientSync, StoreError> {
        let partitions = ports.output.partitions();
        let mut memory = Memory::new(partitions);
        let sliding = Sliding::new(partitions);
        for partition in 0..partitions {
            let cursor = Cursor::load(ports.store.as_ref(), NAME, partition)?;
            let end = ports.output.end(partition);
            let kept = match cursor {
                Some(cursor) => (cursor.version == TABLES_VERSION
                    && cursor.epoch == epoch
                    && cursor.next <= end)
                    .then_some(cursor.next),
                // Nothing was folded yet, and there is nothing to fold.
                None => (end == 0).then_some(0),
            };
            match kept {
                Some(next) => {
                    sliding.load(ports.store.as_ref(), partition)?;
                    memory.cursors[partition as usize] = next;
                    load(ports.store.as_ref(), partition, &mut memory)?;
                }
                None => {
                    for table in TABLES.into_iter().chain(sliding::TABLES) {
                        clear(ports.store.as_ref(), table, Key::new(partition).bytes())?;
                    }
                }
            }
        }
        memory.forget_joins();
        // Whoever waits comes later than what was loaded.
        memory.news = waiters::News::default();
        let notified = Arc::new(Notified::new(ports.rooms.clone(), ports.users.clone()));
        let (store, receipts) = (ports.store.clone(), ports.receipts.clone());
        Ok(ClientSync {
            store: ports.store,
            rooms: ports.rooms,
            users: ports.users,
            relations: ports.relations,
            receipts: ports.receipts,
            ephemeral: ports.ephemeral,
            output: ports.output,
            server_name,
            epoch,
            boot,
            memory: RwLock::new(memory),
            waiters: Waiters::default(),
            advanced: Notify::new(),
            stopped: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            sent_members: SentMembers::default(),
            summaries: Summaries::default(),
            unread: UnreadCounts::new(store, receipts, notified.clone()),
            notified,
            sliding,
        })
    }

    /// A reader of a log that nobody follows, for tests of what lies above.
    #[cfg(test)]
    pub fn in_memory(
        rooms: Arc<dyn Rooms>,
        users: Arc<dyn Users>,
        output: Arc<dyn Log>,
    ) -> Arc<ClientSync> {
        let ports = Ports {
            store: Arc::new(crate::readers::store::memory::MemoryStore::default()),
            rooms,
            users,
            receipts: Arc::new(crate::query::receipts::fake::NoReceipts),
            relations: Arc::new(crate::query::relations::fake::NoRelations),
            ephemeral: Arc::new(crate::query::ephemeral::fake::Silence),
            output,
        };
        let server = ruma::server_name!("hs").to_owned();
        let opened = ClientSync::open(ports, server, Epoch(1), 1);
        Arc::new(opened.expect("a store in memory opens"))
    }

    /// Answers all requests that wait with what there is, and lets none wait
    /// from now on, so that a stop need not outwait the long polls.
    pub fn release(&self) {
        self.closing.store(true, Ordering::Release);
        self.waiters.wake_all();
        if let Err(error) = self.unread.save_all() {
            // They are counted again.
            tracing::warn!(%error, "unread counts could not be kept");
        }
    }

    /// What judges of which events users are notified.
    pub fn notified(&self) -> &Arc<Notified> {
        &self.notified
    }

    /// Requests that wait now, for `/metrics`.
    pub fn waiting(&self) -> usize {
        self.waiters.count()
    }

    fn fold_group(&self, partition: PartitionId, records: &[LogRecord]) -> Result<(), ReaderError> {
        let Some(last) = records.last() else {
            return Ok(());
        };
        let next = last.offset + 1;
        let mut memory = self.memory.write();
        let mut group = Group::new(
            partition,
            &mut memory,
            Overlay::new(self.store.as_ref()),
            self.rooms.as_ref(),
            &self.server_name,
        );
        for record in records {
            group.fold(record)?;
        }
        let mut rows = group.finish();
        let cursor = Cursor {
            version: TABLES_VERSION,
            epoch: self.epoch,
            next,
        };
        cursor.put(NAME, partition, &mut rows);
        self.store.write(rows.into_writes())?;
        memory.cursors[partition as usize] = next;
        let news = std::mem::take(&mut memory.news);
        // Those who are woken read what is written here: not before the lock is free.
        let memory = parking_lot::RwLockWriteGuard::downgrade(memory);
        self.waiters.wake(&memory, &news);
        Ok(())
    }
}

impl ClientSync {
    fn fold_all(&self, partition: PartitionId, records: &[LogRecord]) -> Result<(), ReaderError> {
        for stretch in stretches(records)? {
            match stretch {
                Stretch::Plain(records) => self.fold_group(partition, records)?,
                Stretch::Purge(record, purged) => {
                    for record in record {
                        self.drop_room(partition, record, &purged)?;
                    }
                    self.fold_group(partition, record)?;
                }
            }
        }
        Ok(())
    }
}

impl Reader for ClientSync {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cursor(&self, partition: PartitionId) -> u64 {
        let memory = self.memory.read();
        memory.cursors.get(partition as usize).copied().unwrap_or(0)
    }

    fn fold(&self, partition: PartitionId, records: &[LogRecord]) -> Result<(), ReaderError> {
        let folded = self.fold_all(partition, records);
        if folded.is_err() {
            self.stopped.store(true, Ordering::Release);
        }
        self.advanced.notify_waiters();
        folded
    }
}

/// Reads a partition's rows back into memory.
fn load(store: &dyn Write, partition: PartitionId, memory: &mut Memory) -> Result<(), StoreError> {
    let prefix = Key::new(partition);
    let mut by_sn = std::collections::HashMap::new();
    scan(store, SYNC_ROOMS, prefix.bytes(), |key, value| {
        let row: RoomRow = rows::decode(SYNC_ROOMS, value)?;
        let room = RoomSn(rows::last_number(SYNC_ROOMS, key)?);
        let Ok(room_id) = ruma::OwnedRoomId::try_from(row.room_id) else {
            return Ok(());
        };
        let ix = memory.intern_room(&room_id, partition, room);
        let cursor = memory.cursors[partition as usize];
        let slot = memory.room_mut(ix);
        slot.last_change = row.last_change;
        slot.traits = row.traits;
        slot.newest.timeline = Recent::new(cursor);
        by_sn.insert(room, ix);
        Ok(())
    })?;
    for (room, ix) in &by_sn {
        let prefix = Key::new(partition).room(*room);
        let receipt = store.range(SYNC_RECEIPTS, prefix.bytes(), None, true, 1)?;
        if let Some((key, _)) = receipt.first() {
            let offset = rows::last_number(SYNC_RECEIPTS, key)?;
            memory.room_mut(*ix).receipts_at = Some(offset);
        }
        let newest = store.range(SYNC_STATE, prefix.bytes(), None, true, 1)?;
        let Some((key, value)) = newest.first() else {
            continue;
        };
        let slot = memory.room_mut(*ix);
        slot.newest.state_changed_at = Some(rows::last_number(SYNC_STATE, key)?);
        match rows::decode(SYNC_STATE, value)? {
            StateRow::Part { first, .. } => slot.parts_from = Some(first),
            StateRow::Change { state, .. } => slot.newest.state = Some(StateId(state)),
        }
    }
    // Rows of a user and room come in the order of their offsets, so that the
    // memory ends with the newest and knows since when the user is joined.
    scan(store, SYNC_MEMBERS, prefix.bytes(), |key, value| {
        let (user, rest) = rows::split_text(SYNC_MEMBERS, key)?;
        let row: MembershipRow = rows::decode(SYNC_MEMBERS, value)?;
        let offset = rows::last_number(SYNC_MEMBERS, key)?;
        let room = rest
            .first_chunk::<8>()
            .map(|room| u64::from_be_bytes(*room));
        let room = room.and_then(|room| by_sn.get(&RoomSn(room)));
        let (Ok(user), Some(room)) = (<&ruma::UserId>::try_from(user), room) else {
            return Ok(());
        };
        let user = memory.intern_user(user);
        let news = MembershipNews {
            membership: row.membership,
            event: row.event.map(EventSn),
            offset,
            at_us: row.at_us,
            by_self: row.by_self,
            encrypted: row.encrypted,
            outside: row.outside,
        };
        memory.set_membership(user, *room, news);
        Ok(())
    })?;
    scan(store, SYNC_OWN_RECEIPTS, prefix.bytes(), |key, _| {
        let (user, rest) = rows::split_text(SYNC_OWN_RECEIPTS, key)?;
        let offset = rows::last_number(SYNC_OWN_RECEIPTS, key)?;
        let room = rest
            .first_chunk::<8>()
            .map(|room| u64::from_be_bytes(*room));
        let room = room.and_then(|room| by_sn.get(&RoomSn(room)));
        if let (Ok(user), Some(room)) = (<&ruma::UserId>::try_from(user), room) {
            let user = memory.intern_user(user);
            memory.user_mut(user).own_receipts.insert(*room, offset);
        }
        Ok(())
    })?;
    scan(store, SYNC_PURGED, prefix.bytes(), |key, _| {
        let (user, _) = rows::split_text(SYNC_PURGED, key)?;
        let offset = rows::last_number(SYNC_PURGED, key)?;
        if let Ok(user) = <&ruma::UserId>::try_from(user) {
            let user = memory.intern_user(user);
            memory.user_mut(user).purged_at.insert(partition, offset);
        }
        Ok(())
    })?;
    scan(store, SYNC_DATA, prefix.bytes(), |key, value| {
        let (user, _) = rows::split_text(SYNC_DATA, key)?;
        let offset = rows::last_number(SYNC_DATA, key)?;
        // Decoded to be sure that it will decode when it is asked for.
        rows::decode::<AccountDataRow>(SYNC_DATA, value)?;
        if let Ok(user) = <&ruma::UserId>::try_from(user) {
            let ix = memory.intern_user(user);
            memory.user_mut(ix).account_data_at = Some(offset);
        }
        Ok(())
    })
}
