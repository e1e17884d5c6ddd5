//! What a group of folds wants to write, readable before it is written.
//!
//! A fold reads through its lane's overlay: first what the group wrote, then
//! the store. Keys that are overwritten within a group reach RocksDB once. A
//! key belongs to one room, user or alias, so overlays of lanes never meet.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::batch::Writes;
use super::columns::{Family, Table};
use super::keys;

/// A store that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("RocksDB: {0}")]
    RocksDb(#[from] rocksdb::Error),
    #[error("the store has no family {0}")]
    NoFamily(&'static str),
    #[error("table {table} holds a row that does not decode: {why}")]
    Row { table: &'static str, why: String },
}

impl StoreError {
    /// Whether the disk had no room. RocksDB writes again by itself some seconds
    /// after there is room; what failed was not written and may be tried again.
    pub fn is_disk_full(&self) -> bool {
        // The bindings hand over the text alone.
        matches!(self, StoreError::RocksDb(error) if error.as_ref().contains("No space left on device"))
    }
}

/// Point and range reads of the store below.
pub trait Read: Send + Sync {
    /// The value of a key. `key` is without the table's tag.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
    /// Rows whose key begins with `prefix`, in key order, from `from` (inclusive),
    /// forward or backward, at most `limit`. All keys are without the tag.
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
    writes: Writes,
}

impl<'a> Overlay<'a> {
    /// An overlay without writes.
    pub fn new(store: &'a dyn Read) -> Overlay<'a> {
        Overlay {
            store,
            writes: BTreeMap::new(),
        }
    }

    fn full_key(table: Table, key: &[u8]) -> (Family, Vec<u8>) {
        (table.family, keys::tagged(table, key))
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

    /// [`Read::range`] of the store as it will be once the pending writes are in it.
    pub fn range(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let pending = self.pending(table, prefix, from, reverse);
        // So many rows of the store may be hidden by pending writes.
        let stored = limit.saturating_add(pending.len());
        let stored = self.store.range(table, prefix, from, reverse, stored)?;
        if pending.is_empty() {
            return Ok(stored);
        }
        let mut merged: BTreeMap<Bytes, Option<Bytes>> = stored
            .into_iter()
            .map(|(key, value)| (key, Some(value)))
            .collect();
        merged.extend(pending);
        let live = merged
            .into_iter()
            .filter_map(|(key, value)| value.map(|value| (key, value)));
        Ok(match reverse {
            false => live.take(limit).collect(),
            true => live.rev().take(limit).collect(),
        })
    }

    /// Pending writes of a range, keys without tag.
    fn pending(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        reverse: bool,
    ) -> Vec<(Bytes, Option<Bytes>)> {
        let bound = |key: &[u8]| (table.family, keys::tagged(table, key));
        let start = match from {
            Some(from) if !reverse && from > prefix => Bound::Included(bound(from)),
            _ => Bound::Included(bound(prefix)),
        };
        let end = match from {
            Some(from) if reverse => Bound::Included(bound(from)),
            // A tag is never 0xFF, so a full key always has an end.
            _ => keys::prefix_end(&keys::tagged(table, prefix))
                .map_or(Bound::Unbounded, |end| Bound::Excluded((table.family, end))),
        };
        if let (Bound::Included(start), Bound::Included(end)) = (&start, &end)
            && start > end
        {
            return vec![];
        }
        self.writes
            .range((start, end))
            .map(|((_, key), value)| (Bytes::copy_from_slice(&key[1..]), value.clone()))
            .filter(|(key, _)| key.starts_with(prefix))
            .collect()
    }

    /// Takes over what an overlay above this one gathered.
    pub fn absorb(&mut self, writes: Writes) {
        self.writes.extend(writes);
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Rows pending to be set.
    pub fn puts(&self) -> usize {
        self.writes.values().filter(|value| value.is_some()).count()
    }

    /// The pending writes, by family and full key.
    pub fn into_writes(self) -> Writes {
        self.writes
    }
}

impl Read for Overlay<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Overlay::get(self, table, key)
    }

    fn range(
        &self,
        table: Table,
        prefix: &[u8],
        from: Option<&[u8]>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        Overlay::range(self, table, prefix, from, reverse, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::columns::{EVENT_IDS, ROOM_IDS};
    use crate::storage::open::{Store, StoreOptions};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Put(Vec<u8>, u8),
        Delete(Vec<u8>),
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0u8..3, 0..4)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (key(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
            key().prop_map(Step::Delete),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Ranges over store and pending writes equal ranges over one map.
        #[test]
        fn ranges_merge_pending_writes(
            stored in prop::collection::vec(step(), 0..30),
            pending in prop::collection::vec(step(), 0..30),
            asked in prop::collection::vec((key(), prop::option::of(key()), any::<bool>(), 0usize..6), 1..20),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path(), &StoreOptions::default()).unwrap();
            let mut model = BTreeMap::new();
            let mut batch = store.batch();
            let mut first = Overlay::new(&store);
            let mut apply = |overlay: &mut Overlay<'_>, step: &Step| match step {
                Step::Put(key, value) => {
                    overlay.put(EVENT_IDS, key, vec![*value]);
                    model.insert(key.clone(), *value);
                }
                Step::Delete(key) => {
                    overlay.delete(EVENT_IDS, key);
                    model.remove(key);
                }
            };
            stored.iter().for_each(|step| apply(&mut first, step));
            // A neighbouring table that must never show.
            first.put(ROOM_IDS, b"\x01", vec![0]);
            batch.apply(first.into_writes()).unwrap();
            store.write(batch).unwrap();
            let mut second = Overlay::new(&store);
            pending.iter().for_each(|step| apply(&mut second, step));
            second.put(ROOM_IDS, b"\x02", vec![0]);
            for (prefix, from, reverse, limit) in asked {
                // The port defines `from` within the prefix.
                let from = from.map(|from| [prefix.as_slice(), &from].concat());
                let mut expected: Vec<(Vec<u8>, u8)> = model
                    .iter()
                    .filter(|(key, _)| key.starts_with(&prefix))
                    .filter(|(key, _)| match (&from, reverse) {
                        (None, _) => true,
                        (Some(from), false) => *key >= from,
                        (Some(from), true) => *key <= from,
                    })
                    .map(|(key, value)| (key.clone(), *value))
                    .collect();
                if reverse {
                    expected.reverse();
                }
                expected.truncate(limit);
                let got: Vec<(Vec<u8>, u8)> = second
                    .range(EVENT_IDS, &prefix, from.as_deref(), reverse, limit)
                    .unwrap()
                    .into_iter()
                    .map(|(key, value)| (key.to_vec(), value[0]))
                    .collect();
                prop_assert_eq!(got, expected);
            }
        }
    }
}
