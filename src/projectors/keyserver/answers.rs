//! Answers from the key server's table.

use std::sync::Arc;

use ruma::ServerName;

use super::rows;
use crate::logs::log::partition_of;
use crate::query::rooms::QueryError;
use crate::query::server_keys::{StoredKeys, StoredServerKeys};
use crate::storage::overlay::Read;

/// The window into other servers' keys.
pub struct KeyAnswers {
    store: Arc<dyn Read>,
    partitions: u32,
}

impl KeyAnswers {
    /// A window over a store of so many partitions.
    pub fn new(store: Arc<dyn Read>, partitions: u32) -> KeyAnswers {
        KeyAnswers { store, partitions }
    }
}

impl StoredServerKeys for KeyAnswers {
    fn keys_of(&self, server: &ServerName) -> Result<Option<StoredKeys>, QueryError> {
        let partition = partition_of(server.as_str(), self.partitions);
        let row = rows::read_row(&*self.store, partition, server.as_str())
            .map_err(|error| QueryError::Store(error.to_string()))?;
        Ok(row.map(rows::stored))
    }
}
