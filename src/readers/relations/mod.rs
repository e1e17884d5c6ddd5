//! Relations: which events relate to which, where threads stand, and when
//! events were sent (client-server API, *Forming relationships between events*,
//! *Threading*, *timestamp_to_event*).
//!
//! It follows *output*, which has the events' JSON, and keeps tables of its own
//! in the order of the room. What it tells it tells of all events; who may see
//! which is decided where they are shown.

mod answers;
mod fold;
mod presence;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use self::fold::Group;
use self::presence::Presence;
use self::rows::{RoomKeys, TABLES_VERSION};
use crate::logs::log::{Log, LogRecord, PartitionId};
use crate::query::ids::RoomSn;
use crate::query::rooms::Rooms;
use crate::query::tokens::Epoch;
use crate::readers::purges::{Stretch, stretches};
use crate::readers::run::{Reader, ReaderError};
use crate::readers::store::{Cursor, Write, clear, scan};
use crate::storage::columns::{
    RELATIONS_ANNOTATIONS, RELATIONS_BY_TYPE, RELATIONS_CHILDREN, RELATIONS_EDITS, RELATIONS_OF,
    RELATIONS_PARENTS, RELATIONS_REPLIERS, RELATIONS_THREADS, RELATIONS_TIMES, Table,
};
use crate::storage::keys::{Key, RowReader};
use crate::storage::overlay::{Overlay, StoreError};

/// Under which the cursors are kept.
const NAME: &str = "relations";

/// Every table of this reader.
const TABLES: [Table; 9] = [
    RELATIONS_CHILDREN,
    RELATIONS_BY_TYPE,
    RELATIONS_PARENTS,
    RELATIONS_OF,
    RELATIONS_EDITS,
    RELATIONS_ANNOTATIONS,
    RELATIONS_THREADS,
    RELATIONS_REPLIERS,
    RELATIONS_TIMES,
];

/// How long an answer waits for the reader to pass what was decided before.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// The reader. Shared by the tasks that follow *output* and by all requests.
pub struct EventRelations {
    store: Arc<dyn Write>,
    rooms: Arc<dyn Rooms>,
    output: Arc<dyn Log>,
    epoch: Epoch,
    /// Offset of the next record by partition; moved behind a group once its
    /// rows are written.
    cursors: Box<[AtomicU64]>,
    presence: Presence,
    /// Notified after every group.
    advanced: Notify,
    /// A fold failed: what is asked from now on misses what came since.
    stopped: AtomicBool,
}

impl EventRelations {
    /// Finds the tables as they were left, or empties those that belong to
    /// another epoch or version, or lie ahead of *output*, to be rebuilt.
    pub fn open(
        store: Arc<dyn Write>,
        rooms: Arc<dyn Rooms>,
        output: Arc<dyn Log>,
        epoch: Epoch,
    ) -> Result<EventRelations, StoreError> {
        let presence = Presence::default();
        let mut cursors = Vec::new();
        for partition in 0..output.partitions() {
            let end = output.end(partition);
            let cursor = Cursor::load(store.as_ref(), NAME, partition)?;
            let kept = cursor.filter(|cursor| {
                cursor.version == TABLES_VERSION && cursor.epoch == epoch && cursor.next <= end
            });
            match kept {
                Some(_) => load(store.as_ref(), partition, &presence)?,
                None => {
                    for table in TABLES {
                        clear(store.as_ref(), table, Key::of(partition).as_ref())?;
                    }
                }
            }
            cursors.push(AtomicU64::new(kept.map_or(0, |cursor| cursor.next)));
        }
        Ok(EventRelations {
            store,
            rooms,
            output,
            epoch,
            cursors: cursors.into(),
            presence,
            advanced: Notify::new(),
            stopped: AtomicBool::new(false),
        })
    }

    fn fold_group(&self, partition: PartitionId, records: &[LogRecord]) -> Result<(), ReaderError> {
        let Some(last) = records.last() else {
            return Ok(());
        };
        let next = last.offset + 1;
        let mut group = Group {
            partition,
            rows: Overlay::new(self.store.as_ref()),
            rooms: self.rooms.as_ref(),
            presence: &self.presence,
        };
        for record in records {
            group.fold(record)?;
        }
        let mut rows = group.rows;
        let cursor = Cursor {
            version: TABLES_VERSION,
            epoch: self.epoch,
            next,
        };
        cursor.put(NAME, partition, &mut rows);
        self.store.write(rows.into_writes())?;
        if let Some(cursor) = self.cursors.get(partition as usize) {
            cursor.store(next, Ordering::Release);
        }
        Ok(())
    }

    /// Drops all that relates to anything in a room.
    fn drop_room(&self, partition: PartitionId, room: RoomSn) -> Result<(), StoreError> {
        let room = RoomKeys { partition, room }.room();
        let prefixes = TABLES.map(|table| (table, room.as_ref().to_vec()));
        self.store.remove(&prefixes)
    }

    fn fold_all(&self, partition: PartitionId, records: &[LogRecord]) -> Result<(), ReaderError> {
        for stretch in stretches(records)? {
            match stretch {
                Stretch::Plain(records) => self.fold_group(partition, records)?,
                Stretch::Purge(record, purged) => {
                    self.drop_room(partition, RoomSn(purged.room_sn))?;
                    self.fold_group(partition, record)?;
                }
            }
        }
        Ok(())
    }

    /// Waits, bounded, until the partitions are folded up to where they end now.
    async fn catch_up(&self, partitions: std::ops::Range<PartitionId>) {
        let ends = partitions.map(|partition| (partition, self.output.end(partition)));
        let ends: Vec<(PartitionId, u64)> = ends.collect();
        let deadline = Instant::now() + CATCH_UP_MAX;
        loop {
            let mut advanced = std::pin::pin!(self.advanced.notified());
            // From here on no group is missed, whenever it comes.
            advanced.as_mut().enable();
            let passed = ends.iter().all(|(at, end)| self.cursor(*at) >= *end);
            if passed
                || self.stopped.load(Ordering::Acquire)
                || timeout_at(deadline, advanced).await.is_err()
            {
                return;
            }
        }
    }
}

impl Reader for EventRelations {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cursor(&self, partition: PartitionId) -> u64 {
        let cursor = self.cursors.get(partition as usize);
        cursor.map_or(0, |cursor| cursor.load(Ordering::Acquire))
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

/// Reads which parents have something to be bundled.
fn load(store: &dyn Write, partition: PartitionId, presence: &Presence) -> Result<(), StoreError> {
    let prefix = Key::of(partition);
    scan(store, RELATIONS_PARENTS, prefix.as_ref(), |key, value| {
        if rows::summary(value)?.is_bundled() {
            let mut parts = RowReader::new(RELATIONS_PARENTS, key);
            parts.take(2)?;
            let room = RoomSn(parts.number()?);
            presence.add(partition, room, parts.key_text()?);
        }
        Ok(())
    })
}
