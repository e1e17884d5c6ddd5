//! One lane of the room server over a log in memory, a record at a time: what
//! each fold decides, writes, reads and takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use engram::logs::log::{Append, Log, NewRecord};
use engram::projectors::fold::{FoldInput, Folded, PROJECTOR_VERSION, Projector};
use engram::projectors::roomserver::{RoomServer, RoomServerOptions, RoomTables};
use engram::query::parked::ParkedWork;
use engram::storage::columns::Table;
use engram::storage::open::{Store, StoreOptions};
use engram::storage::overlay::{Overlay, Read, StoreError};
use log_format::codec;
use log_format::record::input::InputRoomResumed;
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::OwnedRoomId;

use crate::memory_log::MemoryLog;

/// See the module. Each record is a group of its own.
pub struct OneLane {
    pub store: Arc<Store>,
    pub log: Arc<MemoryLog>,
    pub tables: Arc<RoomTables>,
    lane: RoomServer,
    _folder: tempfile::TempDir,
}

/// What one record led to.
pub struct Taken {
    pub folded: Folded,
    /// Rows written or deleted.
    pub rows: usize,
    /// Look-ups and scans of the store.
    pub reads: u64,
    pub fold: Duration,
    /// Of these rows into the store.
    pub write: Duration,
}

/// A store that counts what is read of it.
struct Counting<'a> {
    store: &'a Store,
    reads: AtomicU64,
}

impl Read for Counting<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.get(table, key)
    }

    fn range(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.range(table, prefix, from, reverse, limit)
    }
}

impl OneLane {
    pub fn new(options: &RoomServerOptions) -> OneLane {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), &StoreOptions::default()).unwrap();
        let (store, log) = (Arc::new(store), Arc::new(MemoryLog::new("input", 1)));
        let as_log: Arc<dyn Log> = log.clone();
        let tables = RoomTables::new(store.clone(), as_log, &[9; 16], options);
        OneLane {
            lane: RoomServer::new(tables.clone()),
            store,
            log,
            tables,
            _folder: folder,
        }
    }

    /// Appends and folds a record.
    pub fn take(&mut self, record: NewRecord) -> Taken {
        let offset = self.log.end(0);
        drop(self.log.enqueue(0, vec![record]).unwrap());
        let records = self.log.read(0, offset, 1).unwrap();
        let input = FoldInput {
            partition: 0,
            offset,
            time_us: records[0].time_us,
            envelope: &records[0].envelope().unwrap(),
        };
        let counting = Counting {
            store: &self.store,
            reads: AtomicU64::new(0),
        };
        let begun = Instant::now();
        let mut overlay = Overlay::new(&counting);
        let folded = self.lane.fold(&input, &mut overlay).unwrap();
        let fold = begun.elapsed();
        let writes = overlay.into_writes();
        let (rows, reads) = (writes.len(), counting.reads.load(Ordering::Relaxed));
        let begun = Instant::now();
        let mut batch = self.store.batch();
        batch.apply(writes).unwrap();
        self.store.write(batch).unwrap();
        self.lane.publish();
        Taken {
            folded,
            rows,
            reads,
            fold,
            write: begun.elapsed(),
        }
    }

    /// Does the work for which a room waits, if any does, and lets it go on.
    /// How long the work took, and what followed.
    pub fn go_on(&mut self) -> Option<(Duration, Taken)> {
        let parked = self.tables.parked().unwrap().pop()?;
        let room_id: &OwnedRoomId = &parked.room_id;
        let begun = Instant::now();
        let done = self.tables.prepare(room_id, parked.cause).unwrap().unwrap();
        let took = begun.elapsed();
        let body = codec::encode(&InputRoomResumed {
            cause: parked.cause,
            digest: done.digest,
            projector_version: PROJECTOR_VERSION,
        });
        let envelope = NewEnvelope {
            key: room_id.as_str(),
            room_id: Some(room_id.as_str()),
            body: &body,
            ..NewEnvelope::default()
        };
        let record = NewRecord::new(Kind::InputRoomResumed, Source::Internal, &envelope);
        Some((took, self.take(record)))
    }
}
