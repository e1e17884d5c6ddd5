//! The store: one RocksDB with our families, opened the one way that fits a
//! database whose log lies elsewhere.
//!
//! RocksDB's own write-ahead log is off, because *input* is it. All families are
//! flushed atomically, so that after a crash the store is what it was at some
//! earlier applied offset, never a mixture. Nothing here knows what rows mean.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DBCompressionType,
    DBWithThreadMode, FlushOptions, Options, ReadOptions, SingleThreaded, WriteBatch,
    WriteBufferManager, WriteOptions, properties,
};

use super::batch::Batch;
use super::columns::{Family, Table};
use super::flush::FlushSchedule;
use super::keys;
use super::overlay::{Read, StoreError};

/// Budgets of the store. All sizes in bytes.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Data, index and filter blocks of all families, and memtables beyond it.
    pub block_cache_bytes: usize,
    /// Memtables of all families together; a flush begins when they reach it.
    pub memtable_bytes: usize,
    /// What compaction and flush may write per second, so that they never fill
    /// the disk's queue in front of an append. Zero: no limit.
    pub background_bytes_per_second: i64,
    /// Threads for flush and compaction together.
    pub background_jobs: i32,
    /// Files kept open.
    pub open_files_max: i32,
    /// What was written longer ago than this is flushed, in microseconds.
    pub flush_interval_us: u64,
    /// After so many microseconds without a write, what is left is flushed.
    pub flush_idle_us: u64,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            block_cache_bytes: 32 << 20,
            memtable_bytes: 24 << 20,
            background_bytes_per_second: 64 << 20,
            background_jobs: 2,
            open_files_max: 256,
            flush_interval_us: 30_000_000,
            flush_idle_us: 2_000_000,
        }
    }
}

/// What `/metrics` shows of the store. Sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreMetrics {
    pub batches: u64,
    pub puts: u64,
    pub flushes: u64,
    pub memtable_bytes: u64,
    pub block_cache_bytes: u64,
    pub table_file_bytes: u64,
    pub compaction_pending_bytes: u64,
}

/// What a family takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilySize {
    pub family: Family,
    /// Its files on disk, without those that a compaction has replaced.
    pub file_bytes: u64,
    /// Its rows that no flush has written yet, and room kept for more.
    pub memtable_bytes: u64,
}

type Db = DBWithThreadMode<SingleThreaded>;

/// An open store. Shared by `Arc`; all methods take `&self`.
pub struct Store {
    db: Db,
    path: PathBuf,
    cache: Cache,
    memtables: WriteBufferManager,
    batches: AtomicU64,
    puts: AtomicU64,
    flushes: AtomicU64,
    /// Also held during a flush, so that two callers never flush at once.
    schedule: Mutex<FlushSchedule>,
}

impl Store {
    /// Opens the store in `path`, or creates it.
    ///
    /// Errors: a store that is open elsewhere, damaged, or made with families
    /// that this version does not know. It is derived, so the caller may set it
    /// aside and rebuild.
    pub fn open(path: &Path, options: &StoreOptions) -> Result<Store, StoreError> {
        Store::open_as(path, options, false)
    }

    /// Opens an existing store without ever writing to it: a snapshot, or the
    /// store of a stopped server.
    pub fn open_read_only(path: &Path, options: &StoreOptions) -> Result<Store, StoreError> {
        Store::open_as(path, options, true)
    }

    fn open_as(path: &Path, options: &StoreOptions, read_only: bool) -> Result<Store, StoreError> {
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        let memtables = WriteBufferManager::new_write_buffer_manager(options.memtable_bytes, false);
        let database = database_options(options, &memtables);
        let families = std::iter::once("default")
            .chain(Family::ALL.map(Family::name))
            .map(|name| ColumnFamilyDescriptor::new(name, family_options(options, &cache)));
        let db = if read_only {
            Db::open_cf_descriptors_read_only(&database, path, families, false)?
        } else {
            Db::open_cf_descriptors(&database, path, families)?
        };
        Ok(Store {
            db,
            path: path.to_owned(),
            cache,
            memtables,
            batches: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            schedule: Mutex::new(FlushSchedule::new(
                options.flush_interval_us,
                options.flush_idle_us,
            )),
        })
    }

    /// The folder that the store lies in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn family(&self, family: Family) -> Result<&ColumnFamily, StoreError> {
        self.db
            .cf_handle(family.name())
            .ok_or(StoreError::NoFamily(family.name()))
    }

    /// A batch to be filled and handed to [`Store::write`].
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Writes a batch: all of it or nothing, visible at once, durable at the next flush.
    pub fn write(&self, batch: Batch<'_>) -> Result<(), StoreError> {
        let (batch, puts) = batch.into_parts();
        self.write_raw(batch)?;
        self.count(puts);
        Ok(())
    }

    /// [`Store::write`], again and again while the disk is full and `patience`
    /// (which waits a little) says to go on.
    pub fn write_patiently(
        &self,
        batch: Batch<'_>,
        patience: &dyn Fn() -> bool,
    ) -> Result<(), StoreError> {
        let (mut batch, puts) = batch.into_parts();
        // A write consumes its batch.
        let bytes = batch.data().to_vec();
        loop {
            match self.write_raw(batch) {
                Err(error) if error.is_disk_full() && patience() => {
                    batch = WriteBatch::from_data(&bytes);
                }
                written => break written?,
            }
        }
        self.count(puts);
        Ok(())
    }

    fn count(&self, puts: u64) {
        self.puts.fetch_add(puts, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Release);
    }

    fn write_raw(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options)?;
        Ok(())
    }

    /// Flushes all families at one point and waits for it.
    pub fn flush(&self) -> Result<(), StoreError> {
        let mut schedule = self.schedule.lock();
        self.flush_locked(&mut schedule)
    }

    fn flush_locked(&self, schedule: &mut FlushSchedule) -> Result<(), StoreError> {
        let batches = self.batches.load(Ordering::Acquire);
        let mut families = vec![];
        for family in Family::ALL {
            families.push(self.family(family)?);
        }
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families, &options)?;
        self.flushes.fetch_add(1, Ordering::Relaxed);
        schedule.flushed(batches);
        Ok(())
    }

    /// To be called every second or so with a monotonic or wall time: flushes
    /// what is old, or what is left when writing has paused. Returns whether it did.
    pub fn flush_if_due(&self, now_us: u64) -> Result<bool, StoreError> {
        let mut schedule = self.schedule.lock();
        let due = schedule.is_due(self.batches.load(Ordering::Acquire), now_us);
        if due && let Err(error) = self.flush_locked(&mut schedule) {
            schedule.failed(now_us);
            return Err(error);
        }
        Ok(due)
    }

    /// Makes a copy of the store in `to`, which must not exist, by hard links
    /// where the file system has them. It holds every batch that was written
    /// before the call, and is whole: its applied offsets tell where it stands.
    pub fn checkpoint(&self, to: &Path) -> Result<(), StoreError> {
        Checkpoint::new(&self.db)?.create_checkpoint(to)?;
        Ok(())
    }

    /// Calls `row` with each key (without tag) and value of a table whose key
    /// begins with `prefix`, in key order, as of one point in time; stops at the
    /// first error. For digests and exports: bypasses the block cache.
    pub fn scan<E: From<StoreError>>(
        &self,
        table: Table,
        prefix: &[u8],
        mut row: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let full = keys::tagged(table, prefix);
        let mut options = bounded(&full);
        options.fill_cache(false);
        let family = self.family(table.family)?;
        let mut rows = self.db.raw_iterator_cf_opt(family, options);
        rows.seek(&full);
        while let Some((key, value)) = rows.item() {
            row(key.get(1..).unwrap_or_default(), value)?;
            rows.next();
        }
        rows.status()
            .map_err(|error| E::from(StoreError::RocksDb(error)))
    }

    /// What the store holds and did since it was opened.
    pub fn metrics(&self) -> StoreMetrics {
        let sum = |name: &properties::PropName| {
            Family::ALL
                .iter()
                .filter_map(|family| self.db.cf_handle(family.name()))
                .filter_map(|family| self.db.property_int_value_cf(family, name).ok().flatten())
                .sum()
        };
        StoreMetrics {
            batches: self.batches.load(Ordering::Relaxed),
            puts: self.puts.load(Ordering::Relaxed),
            flushes: self.flushes.load(Ordering::Relaxed),
            memtable_bytes: self.memtables.get_usage() as u64,
            block_cache_bytes: self.cache.get_usage() as u64,
            table_file_bytes: sum(properties::LIVE_SST_FILES_SIZE),
            compaction_pending_bytes: sum(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
        }
    }

    /// What each family takes.
    pub fn sizes(&self) -> Vec<FamilySize> {
        let of = |family: Family, name: &properties::PropName| {
            let handle = self.db.cf_handle(family.name())?;
            self.db.property_int_value_cf(handle, name).ok().flatten()
        };
        let sizes = Family::ALL.into_iter().map(|family| FamilySize {
            family,
            file_bytes: of(family, properties::LIVE_SST_FILES_SIZE).unwrap_or(0),
            memtable_bytes: of(family, properties::CUR_SIZE_ALL_MEM_TABLES).unwrap_or(0),
        });
        sizes.collect()
    }

    /// Merges all files into the last level and waits. For measurements and
    /// after an erasure; not for the running server's hot hours.
    pub fn compact(&self) -> Result<(), StoreError> {
        for family in Family::ALL {
            let family = self.family(family)?;
            self.db
                .compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }
}

impl Read for Store {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let family = self.family(table.family)?;
        let found = self.db.get_pinned_cf(family, keys::tagged(table, key))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let full = keys::tagged(table, prefix);
        let family = self.family(table.family)?;
        let mut rows = self.db.raw_iterator_cf_opt(family, bounded(&full));
        match (from, reverse) {
            (None, false) => rows.seek(&full),
            (None, true) => rows.seek_to_last(),
            (Some(from), false) => rows.seek(keys::tagged(table, from)),
            (Some(from), true) => rows.seek_for_prev(keys::tagged(table, from)),
        }
        let mut found = vec![];
        while found.len() < limit {
            let Some((key, value)) = rows.item() else {
                break;
            };
            let key = key.get(1..).unwrap_or_default();
            found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            if reverse {
                rows.prev();
            } else {
                rows.next();
            }
        }
        rows.status()?;
        Ok(found)
    }
}

/// Read options that see only keys beginning with `full`.
fn bounded(full: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(full.to_vec());
    if let Some(end) = keys::prefix_end(full) {
        options.set_iterate_upper_bound(end);
    }
    options
}

fn database_options(budget: &StoreOptions, memtables: &WriteBufferManager) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_paranoid_checks(true);
    options.set_write_buffer_manager(memtables);
    options.set_max_background_jobs(budget.background_jobs);
    options.set_max_subcompactions(1);
    options.set_max_open_files(budget.open_files_max);
    // Dirty pages leave steadily instead of in one burst that an append's
    // fdatasync would have to wait for.
    options.set_bytes_per_sync(1 << 20);
    if budget.background_bytes_per_second > 0 {
        options.set_ratelimiter(budget.background_bytes_per_second, 100_000, 10);
    }
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

fn family_options(budget: &StoreOptions, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_block_size(8 << 10);
    blocks.set_format_version(5);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::Lz4);
    // The budget over all families decides when to flush; this only keeps a
    // single family from taking more than the whole of it. Arenas are small, as
    // each family holds at least one.
    options.set_write_buffer_size(budget.memtable_bytes);
    options.set_arena_block_size(256 << 10);
    options.set_max_write_buffer_number(3);
    options.set_level_zero_file_num_compaction_trigger(4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_target_file_size_base(16 << 20);
    options.set_max_bytes_for_level_base(64 << 20);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::columns::{CURSORS, EVENTS, STORE};
    use crate::storage::overlay::Overlay;

    fn open(path: &Path) -> Store {
        Store::open(path, &StoreOptions::default()).unwrap()
    }

    #[test]
    fn a_group_is_one_batch_and_survives_a_flush() {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = open(dir.path());
            let mut overlay = Overlay::new(&store);
            overlay.put(CURSORS, b"a", &b"1"[..]);
            overlay.put(CURSORS, b"b", &b"2"[..]);
            overlay.delete(CURSORS, b"a");
            let mut batch = store.batch();
            let writes = overlay.into_writes();
            batch.apply(writes).unwrap();
            batch.put(STORE, b"version", b"1").unwrap();
            store.write(batch).unwrap();
            assert_eq!(store.metrics().batches, 1);
            store.flush().unwrap();
        }
        let store = open(dir.path());
        assert_eq!(store.get(CURSORS, b"a").unwrap(), None);
        assert_eq!(store.get(CURSORS, b"b").unwrap().unwrap(), &b"2"[..]);
        assert_eq!(store.get(STORE, b"version").unwrap().unwrap(), &b"1"[..]);
        assert_eq!(store.get(STORE, b"b").unwrap(), None, "tables are apart");
    }

    #[test]
    fn a_family_grows_on_disk_by_what_is_flushed() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let file_bytes = |family| {
            let sizes = store.sizes();
            let size = sizes.iter().find(|size| size.family == family);
            size.unwrap().file_bytes
        };
        let mut batch = store.batch();
        batch.put(EVENTS, b"key", &[7; 1000]).unwrap();
        store.write(batch).unwrap();
        assert_eq!(file_bytes(Family::Rooms), 0);
        store.flush().unwrap();
        assert!(file_bytes(Family::Rooms) > 0);
        assert_eq!(file_bytes(Family::Users), 0, "families are told apart");
    }

    #[test]
    fn ranges_stay_within_prefix_and_table() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let mut batch = store.batch();
        for key in ["a1", "a2", "a3", "b1"] {
            batch.put(CURSORS, key.as_bytes(), b"").unwrap();
        }
        batch.put(STORE, b"a0", b"").unwrap();
        store.write(batch).unwrap();
        let keys = |from: Option<&str>, reverse, limit| -> Vec<String> {
            store
                .range(CURSORS, b"a", from.map(str::as_bytes), reverse, limit)
                .unwrap()
                .into_iter()
                .map(|(key, _)| String::from_utf8(key.to_vec()).unwrap())
                .collect()
        };
        assert_eq!(keys(None, false, 10), ["a1", "a2", "a3"]);
        assert_eq!(keys(None, true, 2), ["a3", "a2"]);
        assert_eq!(keys(Some("a2"), false, 10), ["a2", "a3"]);
        assert_eq!(keys(Some("a2x"), true, 10), ["a2", "a1"]);
        let mut scanned = vec![];
        store
            .scan::<StoreError>(CURSORS, b"", |key, _| {
                scanned.push(key.to_vec());
                Ok(())
            })
            .unwrap();
        assert_eq!(scanned.len(), 4);
    }

    #[test]
    fn a_checkpoint_holds_what_was_written_and_nothing_later() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("store"));
        let put = |key: &[u8]| {
            let mut batch = store.batch();
            batch.put(CURSORS, key, b"x").unwrap();
            store.write(batch).unwrap();
        };
        put(b"before");
        let copy = dir.path().join("copy");
        store.checkpoint(&copy).unwrap();
        put(b"after");
        let copy = Store::open_read_only(&copy, &StoreOptions::default()).unwrap();
        assert!(copy.get(CURSORS, b"before").unwrap().is_some());
        assert!(copy.get(CURSORS, b"after").unwrap().is_none());
    }

    #[test]
    fn what_was_not_flushed_is_lost_whole() {
        // The store is copied while open, as a crash leaves it: all families
        // stand at the last flush, none beyond.
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("store"));
        let put = |value: &[u8]| {
            let mut batch = store.batch();
            batch.put(CURSORS, b"k", value).unwrap();
            batch.put(EVENTS, b"k", value).unwrap();
            store.write(batch).unwrap();
        };
        put(b"1");
        store.flush().unwrap();
        put(b"2");
        let copy = dir.path().join("crashed");
        std::fs::create_dir(&copy).unwrap();
        for file in std::fs::read_dir(store.path()).unwrap() {
            let file = file.unwrap();
            if file.file_name() != "LOCK" {
                std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
            }
        }
        let copy = open(&copy);
        for table in [CURSORS, EVENTS] {
            assert_eq!(copy.get(table, b"k").unwrap().unwrap(), &b"1"[..]);
        }
    }
}
