//! Rooms that wait for work that is done aside.
//!
//! A record whose decision takes more work than other rooms should wait for
//! parks its room: it and all later records of the room go into a durable queue
//! and have no outcome yet. An executor among the writers lets the first of the
//! queue be decided outside of the fold ([`RoomTables::prepare_aside`]) and appends a
//! record that says so; the fold of that record takes the result over, or works
//! it out again in a replay, and goes on with the queue. So when a room goes on
//! is written in the log, and every replay sees the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use ruma::{OwnedRoomId, RoomId};
use tokio::sync::watch;

use super::answers::RoomTables;
use super::events::EventError;
use super::fold::RoomServer;
use super::heads::Head;
use super::rows::{self, RoomRow};
use super::scope::Effort;
use super::state::StateIds;
use super::turn::{Decided, Item, envelope_of};

use crate::projectors::fold::FoldError;
use crate::query::ids::RoomSn;
use crate::query::parked::ParkedRoom;
use crate::storage::batch::Writes;
use crate::storage::columns::{PARKED, PARKED_RECORDS};
use crate::storage::keys::{Key, RowReader, RowWriter};
use crate::storage::overlay::{Overlay, Read, StoreError};

/// Since when a room waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parked {
    /// *Input* offset of the record at whose fold it began to wait.
    pub cause: u64,
    /// State ids that this fold had used before.
    pub ids_used: u64,
    /// Number of the next record in the queue.
    pub next: u64,
}

impl Parked {
    /// Begins to wait.
    pub fn at(cause: u64, ids_used: u64) -> Parked {
        Parked {
            cause,
            ids_used,
            next: 0,
        }
    }

    /// Reads since when a room waits; none if it does not.
    pub fn load(
        tables: &dyn Read,
        partition: u32,
        room: RoomSn,
    ) -> Result<Option<Parked>, StoreError> {
        let key = rows::room_key(partition, room);
        let Some(bytes) = tables.get(PARKED, key.as_ref())? else {
            return Ok(None);
        };
        let mut row = RowReader::new(PARKED, &bytes);
        Ok(Some(Parked {
            cause: row.varint()?,
            ids_used: row.varint()?,
            next: row.varint()?,
        }))
    }

    fn store(&self, tables: &mut Overlay<'_>, partition: u32, room: RoomSn) {
        let mut row = RowWriter::with_capacity(16);
        row.varint(self.cause)
            .varint(self.ids_used)
            .varint(self.next);
        tables.put(
            PARKED,
            rows::room_key(partition, room).as_ref(),
            row.finish(),
        );
    }

    /// Puts a record at the end of the queue.
    pub fn queue(&mut self, offset: u64, tables: &mut Overlay<'_>, partition: u32, room: RoomSn) {
        let key = rows::room_key(partition, room).number(self.next);
        tables.put(PARKED_RECORDS, key.as_ref(), rows::number(offset));
        self.next += 1;
        self.store(tables, partition, room);
    }

    /// The first records of the queue: number and offset.
    pub fn first(
        tables: &dyn Read,
        partition: u32,
        room: RoomSn,
        limit: usize,
    ) -> Result<Vec<(u64, u64)>, StoreError> {
        let prefix = rows::room_key(partition, room);
        let prefix = prefix.as_ref();
        let rows = tables.range(PARKED_RECORDS, prefix, None, false, limit)?;
        rows.iter()
            .map(|(key, value)| {
                let rest = key.get(prefix.len()..).unwrap_or_default();
                let number = RowReader::new(PARKED_RECORDS, rest).number()?;
                Ok((number, rows::read_number(PARKED_RECORDS, value)?))
            })
            .collect()
    }

    /// A record of the queue is decided.
    pub fn decided(number: u64, tables: &mut Overlay<'_>, partition: u32, room: RoomSn) {
        let key = rows::room_key(partition, room).number(number);
        tables.delete(PARKED_RECORDS, key.as_ref());
    }

    /// Goes on waiting since another record, if any is left in the queue.
    pub fn again(
        mut self,
        (cause, ids_used): (u64, u64),
        tables: &mut Overlay<'_>,
        partition: u32,
        room: RoomSn,
    ) -> Result<Option<Parked>, StoreError> {
        if Parked::first(&*tables, partition, room, 1)?.is_empty() {
            tables.delete(PARKED, rows::room_key(partition, room).as_ref());
            return Ok(None);
        }
        (self.cause, self.ids_used) = (cause, ids_used);
        self.store(tables, partition, room);
        Ok(Some(self))
    }
}

/// A decision that was worked out aside.
pub(super) struct Prepared {
    cause: u64,
    pub digest: [u8; 32],
    pub decided: Decided,
    pub head: Option<Head>,
    pub writes: Writes,
}

/// What was prepared for rooms that wait, and who hears that one begins to.
pub struct ParkedRooms {
    /// As many as the executor works on at a time.
    prepared: Mutex<BTreeMap<OwnedRoomId, Prepared>>,
    changed: watch::Sender<()>,
}

impl Default for ParkedRooms {
    fn default() -> ParkedRooms {
        ParkedRooms {
            prepared: Mutex::default(),
            changed: watch::channel(()).0,
        }
    }
}

impl ParkedRooms {
    /// A room waits, as of a published head.
    pub fn waits(&self) {
        self.changed.send_replace(());
    }

    /// Changes when a room begins to wait.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The room is gone, and with it what it waited for.
    pub(super) fn forget(&self, room_id: &RoomId) {
        self.prepared.lock().remove(room_id);
    }

    /// What was prepared for a room since it waits for `cause`.
    pub(super) fn take(&self, room_id: &RoomId, cause: u64) -> Option<Prepared> {
        let prepared = self.prepared.lock().remove(room_id)?;
        (prepared.cause == cause).then_some(prepared)
    }
}

/// A digest of what a decision writes and says.
pub(super) fn digest(writes: &Writes, decided: &Decided) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for ((family, key), value) in writes {
        hasher.update(family.name().as_bytes());
        hasher.update(&(key.len() as u64).to_le_bytes());
        hasher.update(key);
        if let Some(value) = value {
            hasher.update(&(value.len() as u64).to_le_bytes());
            hasher.update(value);
        }
    }
    hasher.update(decided.outcome.decision.name().as_bytes());
    *hasher.finalize().as_bytes()
}

impl RoomTables {
    /// Every room that waits.
    pub(super) fn parked_rooms(&self) -> Result<Vec<ParkedRoom>, EventError> {
        let mut rooms = vec![];
        for partition in 0..self.partitions() {
            let prefix = Key::of(partition);
            let parked = self
                .store()
                .range(PARKED, prefix.as_ref(), None, false, usize::MAX)?;
            for (key, value) in parked {
                let rest = key.get(prefix.as_ref().len()..).unwrap_or_default();
                let room = RoomSn(RowReader::new(PARKED, rest).number()?);
                let row = RoomRow::load(self.store(), partition, room)?;
                let room_id = row.and_then(|row| OwnedRoomId::try_from(&*row.room_id).ok());
                rooms.push(ParkedRoom {
                    partition,
                    room_id: room_id.ok_or(EventError::NotAnEvent(room.0))?,
                    cause: RowReader::new(PARKED, &value).varint()?,
                });
            }
        }
        Ok(rooms)
    }

    /// Works out, outside of the fold, what the first record of a parked room's
    /// queue leads to. Returns the digest that the record which ends the wait
    /// must carry; none if the room does not wait for this any more.
    ///
    /// Nothing changes in a parked room's tables, so what is read here is what
    /// the fold will find.
    pub(super) fn prepare_aside(
        self: &Arc<RoomTables>,
        partition: u32,
        room_id: &RoomId,
        cause: u64,
    ) -> Result<Option<[u8; 32]>, FoldError> {
        let mut lane = RoomServer::new(self.clone());
        let tables = Overlay::new(self.store());
        if !lane.bring_head(partition, room_id, &tables)? {
            return Ok(None);
        }
        let head = lane.group.heads.get(room_id);
        let Some((room, parked)) = head.and_then(|head| Some((head.shown.room, head.parked?)))
        else {
            return Ok(None);
        };
        let first = Parked::first(&tables, partition, room, 1)?;
        let first = first.first().filter(|_| parked.cause == cause);
        let Some((_, offset)) = first.copied() else {
            return Ok(None);
        };
        let mut ids = StateIds::after(cause, parked.ids_used);
        let source = self.events.log_record(partition, offset)?;
        let envelope = envelope_of(&source)?;
        let item = Item::kept(partition, &source, &envelope);
        let attempt = lane.attempt(&item, Effort::aside(), &mut ids, &tables)?;
        // With so much effort, what stops an item refuses it.
        let Some((decided, writes)) = attempt else {
            return Ok(None);
        };
        let digest = digest(&writes, &decided);
        let prepared = Prepared {
            cause,
            digest,
            decided,
            head: lane.group.heads.remove(room_id),
            writes,
        };
        let mut all = self.parked.prepared.lock();
        all.insert(room_id.to_owned(), prepared);
        Ok(Some(digest))
    }
}
