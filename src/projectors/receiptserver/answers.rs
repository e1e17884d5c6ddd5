//! Answers from the receipt server's table.

use std::sync::Arc;

use log_format::record::input::ReceiptType;
use ruma::{OwnedUserId, RoomId, UserId};

use super::rows;
use crate::logs::log::partition_of;
use crate::query::receipts::{Receipt, ReceiptThread, Receipts};
use crate::query::rooms::QueryError;
use crate::storage::columns::RECEIPTS;
use crate::storage::keys::prefix_end;
use crate::storage::overlay::{Read, StoreError};

/// Rows that one range read takes.
const PAGE_ROWS: usize = 256;

/// The window into receipts.
pub struct ReceiptAnswers {
    store: Arc<dyn Read>,
    partitions: u32,
}

impl ReceiptAnswers {
    /// A window over a store of so many partitions.
    pub fn new(store: Arc<dyn Read>, partitions: u32) -> ReceiptAnswers {
        ReceiptAnswers { store, partitions }
    }

    /// Receipts of at most `users` users, of those behind `from` in the order of keys.
    fn page(
        &self,
        room: &RoomId,
        mut from: Option<Vec<u8>>,
        users: usize,
    ) -> Result<Vec<(OwnedUserId, Vec<Receipt>)>, StoreError> {
        let partition = partition_of(room.as_str(), self.partitions);
        let prefix = rows::room_prefix(partition, room.as_str());
        let mut found: Vec<(OwnedUserId, Vec<Receipt>)> = Vec::new();
        loop {
            let prefix = prefix.as_bytes();
            let page = self
                .store
                .range(RECEIPTS, prefix, from.as_deref(), false, PAGE_ROWS)?;
            for (key, row) in &page {
                let rest = key.get(prefix.len()..).unwrap_or_default();
                let (user, receipt_type, thread) = rows::split_key(rest)?;
                let receipt = rows::receipt(receipt_type, thread, row)?;
                if let Some((last, receipts)) = found.last_mut()
                    && last.as_str() == user
                {
                    receipts.push(receipt);
                    continue;
                }
                if found.len() == users {
                    return Ok(found);
                }
                let bad = |_| StoreError::Row {
                    table: RECEIPTS.name,
                    why: "key holds no user id".to_owned(),
                };
                found.push((OwnedUserId::try_from(user).map_err(bad)?, vec![receipt]));
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE_ROWS => {
                    // The smallest key behind the last one.
                    let mut next = last.to_vec();
                    next.push(0);
                    from = Some(next);
                }
                _ => return Ok(found),
            }
        }
    }
}

impl Receipts for ReceiptAnswers {
    fn of_user(&self, room: &RoomId, user: &UserId) -> Result<Vec<Receipt>, QueryError> {
        let partition = partition_of(room.as_str(), self.partitions);
        let room_bytes = rows::room_prefix(partition, room.as_str()).as_bytes().len();
        let prefix = rows::user_prefix(partition, room.as_str(), user.as_str());
        // As many as the user has threads that they read here.
        let found = self
            .store
            .range(RECEIPTS, prefix.as_bytes(), None, false, usize::MAX)
            .map_err(failed)?;
        let read = |(key, row): &(bytes::Bytes, bytes::Bytes)| {
            let rest = key.get(room_bytes..).unwrap_or_default();
            let (_, receipt_type, thread) = rows::split_key(rest)?;
            rows::receipt(receipt_type, thread, row)
        };
        found
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map_err(failed)
    }

    fn receipt(
        &self,
        room: &RoomId,
        user: &UserId,
        receipt_type: ReceiptType,
        thread: &ReceiptThread,
    ) -> Result<Option<Receipt>, QueryError> {
        let partition = partition_of(room.as_str(), self.partitions);
        let names = (room.as_str(), user.as_str());
        let key = rows::key(partition, names, receipt_type, thread.as_thread_id());
        let row = self.store.get(RECEIPTS, key.as_bytes()).map_err(failed)?;
        let read = |row: bytes::Bytes| rows::receipt(receipt_type, thread.as_thread_id(), &row);
        row.map(read).transpose().map_err(failed)
    }

    fn receipts_in(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        users: usize,
    ) -> Result<Vec<(OwnedUserId, Vec<Receipt>)>, QueryError> {
        let partition = partition_of(room.as_str(), self.partitions);
        let behind = |user: &UserId| {
            let prefix = rows::user_prefix(partition, room.as_str(), user.as_str());
            prefix_end(prefix.as_bytes())
        };
        self.page(room, after.and_then(behind), users)
            .map_err(failed)
    }
}

fn failed(error: StoreError) -> QueryError {
    QueryError::Store(error.to_string())
}
