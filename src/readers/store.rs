//! What a reader needs of the store: its rows, and its cursor beside them.
//!
//! A group's rows and the cursor behind it are one batch, so that a crash
//! leaves both or neither; nothing here is flushed, since *output* has it all.

use crate::logs::log::PartitionId;
use crate::query::tokens::Epoch;
use crate::storage::batch::Writes;
use crate::storage::columns::{CURSORS, Table};
use crate::storage::open::Store;
use crate::storage::overlay::{Overlay, Read, StoreError};

/// A store that rows can be written to, all of a batch or none.
pub trait Write: Read {
    /// Writes a batch. Not flushed: a crash may take the newest batches back,
    /// never one from the middle.
    fn write(&self, writes: Writes) -> Result<(), StoreError>;

    /// Removes all rows whose keys begin with these, in one batch whose size does
    /// not grow with them.
    fn remove(&self, prefixes: &[(Table, Vec<u8>)]) -> Result<(), StoreError>;
}

impl Write for Store {
    fn remove(&self, prefixes: &[(Table, Vec<u8>)]) -> Result<(), StoreError> {
        let mut batch = self.batch();
        for (table, prefix) in prefixes {
            batch.delete_prefix(*table, prefix)?;
        }
        Store::write(self, batch)
    }

    fn write(&self, writes: Writes) -> Result<(), StoreError> {
        let mut batch = self.batch();
        batch.apply(writes)?;
        Store::write(self, batch)
    }
}

/// Where a reader's cursor stands in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Version of the reader's tables; another one is rebuilt from *output*.
    pub version: u32,
    pub epoch: Epoch,
    /// Offset of the next record to fold.
    pub next: u64,
}

impl Cursor {
    fn key(reader: &str, partition: PartitionId) -> Vec<u8> {
        let mut key = (partition as u16).to_be_bytes().to_vec();
        key.extend_from_slice(reader.as_bytes());
        key
    }

    /// Reads a reader's cursor; none before its first group.
    pub fn load(
        store: &dyn Read,
        reader: &str,
        partition: PartitionId,
    ) -> Result<Option<Cursor>, StoreError> {
        let Some(row) = store.get(CURSORS, &Cursor::key(reader, partition))? else {
            return Ok(None);
        };
        let bytes: [u8; 16] = row.as_ref().try_into().map_err(|_| StoreError::Row {
            table: CURSORS.name,
            why: format!("{} bytes instead of 16", row.len()),
        })?;
        let [v0, v1, v2, v3, e0, e1, e2, e3, next @ ..] = bytes;
        Ok(Some(Cursor {
            version: u32::from_le_bytes([v0, v1, v2, v3]),
            epoch: Epoch(u32::from_le_bytes([e0, e1, e2, e3])),
            next: u64::from_le_bytes(next),
        }))
    }

    /// Adds the cursor to a group's writes.
    pub fn put(self, reader: &str, partition: PartitionId, group: &mut Overlay<'_>) {
        let mut row = Vec::with_capacity(16);
        row.extend_from_slice(&self.version.to_le_bytes());
        row.extend_from_slice(&self.epoch.0.to_le_bytes());
        row.extend_from_slice(&self.next.to_le_bytes());
        group.put(CURSORS, &Cursor::key(reader, partition), row);
    }
}

/// Rows that one page of a scan or of a deletion takes.
const PAGE_ROWS: usize = 4096;

/// Calls `each` with every row whose key begins with `prefix`, in key order.
pub fn scan(
    store: &dyn Read,
    table: Table,
    prefix: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut from: Option<Vec<u8>> = None;
    loop {
        let page = store.range(table, prefix, from.as_deref(), false, PAGE_ROWS)?;
        for (key, value) in &page {
            each(key, value)?;
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE_ROWS => {
                // The smallest key behind the last one.
                let mut next = last.to_vec();
                next.push(0);
                from = Some(next);
            }
            _ => return Ok(()),
        }
    }
}

/// Deletes every row of a table whose key begins with `prefix`, page by page.
pub fn clear(store: &dyn Write, table: Table, prefix: &[u8]) -> Result<(), StoreError> {
    loop {
        let page = store.range(table, prefix, None, false, PAGE_ROWS)?;
        let mut group = Overlay::new(store);
        for (key, _) in &page {
            group.delete(table, key);
        }
        store.write(group.into_writes())?;
        if page.len() < PAGE_ROWS {
            return Ok(());
        }
    }
}

#[cfg(test)]
pub mod memory {
    //! A stand-in for the store.

    use std::collections::BTreeMap;

    use bytes::Bytes;
    use parking_lot::RwLock;

    use super::*;
    use crate::storage::columns::Family;

    /// A store in memory: opening RocksDB for each random history takes too long.
    #[derive(Default)]
    pub struct MemoryStore {
        rows: RwLock<BTreeMap<(Family, Vec<u8>), Bytes>>,
    }

    impl MemoryStore {
        /// Another store with the same rows.
        pub fn copy(&self) -> MemoryStore {
            MemoryStore {
                rows: RwLock::new(self.rows.read().clone()),
            }
        }

        /// Whether another store holds the same.
        pub fn same_rows(&self, other: &MemoryStore) -> bool {
            *self.rows.read() == *other.rows.read()
        }
    }

    fn tagged(table: Table, key: &[u8]) -> (Family, Vec<u8>) {
        (table.family, [&[table.tag], key].concat())
    }

    impl Read for MemoryStore {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            Ok(self.rows.read().get(&tagged(table, key)).cloned())
        }

        fn range(
            &self,
            table: Table,
            prefix: &[u8],
            from: Option<&[u8]>,
            reverse: bool,
            limit: usize,
        ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
            let rows = self.rows.read();
            let prefix = tagged(table, prefix);
            let from = from.map(|from| tagged(table, from).1);
            let first = match (&from, reverse) {
                (Some(from), false) => (prefix.0, from.clone().max(prefix.1.clone())),
                _ => prefix.clone(),
            };
            let within = rows
                .range(first..)
                .take_while(|((family, key), _)| *family == prefix.0 && key.starts_with(&prefix.1))
                .take_while(|((_, key), _)| {
                    !reverse || from.as_ref().is_none_or(|from| key <= from)
                })
                .map(|((_, key), value)| (Bytes::copy_from_slice(&key[1..]), value.clone()));
            if !reverse {
                return Ok(within.take(limit).collect());
            }
            let mut found: Vec<_> = within.collect();
            found.reverse();
            found.truncate(limit);
            Ok(found)
        }
    }

    impl Write for MemoryStore {
        fn remove(&self, prefixes: &[(Table, Vec<u8>)]) -> Result<(), StoreError> {
            let mut rows = self.rows.write();
            for (table, prefix) in prefixes {
                let (family, prefix) = tagged(*table, prefix);
                rows.retain(|(of, key), _| *of != family || !key.starts_with(&prefix));
            }
            Ok(())
        }

        fn write(&self, writes: Writes) -> Result<(), StoreError> {
            let mut rows = self.rows.write();
            for (key, value) in writes {
                match value {
                    Some(value) => rows.insert(key, value),
                    None => rows.remove(&key),
                };
            }
            Ok(())
        }
    }
}
