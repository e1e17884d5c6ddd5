//! One write batch for a whole group: the overlays of all lanes and the rows
//! that say how far the group came.

use std::collections::BTreeMap;

use bytes::Bytes;
use rocksdb::WriteBatch;

use super::columns::{Family, Table};
use super::keys;
use super::open::Store;
use super::overlay::StoreError;

/// Pending writes of [`super::overlay::Overlay::into_writes`].
pub type Writes = BTreeMap<(Family, Vec<u8>), Option<Bytes>>;

/// A batch that [`Store::write`] applies as one.
pub struct Batch<'a> {
    store: &'a Store,
    batch: WriteBatch,
    puts: u64,
}

impl<'a> Batch<'a> {
    pub(super) fn new(store: &'a Store) -> Batch<'a> {
        Batch {
            store,
            batch: WriteBatch::default(),
            puts: 0,
        }
    }

    /// Sets a row. `key` is without the table's tag.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let family = self.store.family(table.family)?;
        self.batch.put_cf(family, keys::tagged(table, key), value);
        self.puts += 1;
        Ok(())
    }

    /// Removes a row.
    pub fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        let family = self.store.family(table.family)?;
        self.batch.delete_cf(family, keys::tagged(table, key));
        Ok(())
    }

    /// Removes all rows whose keys begin with `prefix`, however many they are.
    pub fn delete_prefix(&mut self, table: Table, prefix: &[u8]) -> Result<(), StoreError> {
        let family = self.store.family(table.family)?;
        let from = keys::tagged(table, prefix);
        // A tag is never 0xFF, so a full key always has an end.
        if let Some(to) = keys::prefix_end(&from) {
            self.batch.delete_range_cf(family, from, to);
        }
        Ok(())
    }

    /// Adds what an overlay gathered.
    pub fn apply(&mut self, writes: Writes) -> Result<(), StoreError> {
        for ((family, key), value) in writes {
            let family = self.store.family(family)?;
            match value {
                Some(value) => {
                    self.batch.put_cf(family, key, value);
                    self.puts += 1;
                }
                None => self.batch.delete_cf(family, key),
            }
        }
        Ok(())
    }

    /// Rows set so far.
    pub fn puts(&self) -> u64 {
        self.puts
    }

    /// Size of the batch in bytes.
    pub fn size_bytes(&self) -> usize {
        self.batch.size_in_bytes()
    }

    pub(super) fn into_parts(self) -> (WriteBatch, u64) {
        (self.batch, self.puts)
    }
}
