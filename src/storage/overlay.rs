//! What a group of folds wants to write, readable before it is written.
//!
//! A fold reads through its lane's overlay: first what the group wrote, then
//! the store. Keys that are overwritten within a group reach RocksDB once. A
//! key belongs to one room, user or alias, so overlays of lanes never meet.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::columns::Table;

/// A store that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("RocksDB: {0}")]
    RocksDb(#[from] rocksdb::Error),
    #[error("table {table} holds a row that does not decode: {why}")]
    Row { table: &'static str, why: String },
}

/// Point and range reads of the store below.
pub trait Read: Send + Sync {
    /// The value of a key. `key` is without the table's tag.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
    /// Rows whose key begins with `prefix`, in key order, from `from` (inclusive,
    /// also without the tag), forward or backward, at most `limit`.
    fn range(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError>;
}

/// Pending writes above a [`Read`].
pub struct Overlay<'a> {
    store: &'a dyn Read,
    /// Full key (tag first) by family → value, `None` for a deletion. Ordered,
    /// so that what is written has one order.
    writes: BTreeMap<(super::columns::Family, Vec<u8>), Option<Bytes>>,
}

impl<'a> Overlay<'a> {
    /// An overlay without writes.
    pub fn new(store: &'a dyn Read) -> Overlay<'a> {
        Overlay {
            store,
            writes: BTreeMap::new(),
        }
    }

    fn full_key(table: Table, key: &[u8]) -> (super::columns::Family, Vec<u8>) {
        let mut full = Vec::with_capacity(key.len() + 1);
        full.push(table.tag);
        full.extend_from_slice(key);
        (table.family, full)
    }

    /// Sets a row.
    pub fn put(&mut self, table: Table, key: &[u8], value: impl Into<Bytes>) {
        self.writes
            .insert(Self::full_key(table, key), Some(value.into()));
    }

    /// Removes a row.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.writes.insert(Self::full_key(table, key), None);
    }

    /// Reads a row.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.writes.get(&Self::full_key(table, key)) {
            Some(pending) => Ok(pending.clone()),
            None => self.store.get(table, key),
        }
    }

    /// The pending writes, by family and full key.
    pub fn into_writes(self) -> BTreeMap<(super::columns::Family, Vec<u8>), Option<Bytes>> {
        self.writes
    }
}
