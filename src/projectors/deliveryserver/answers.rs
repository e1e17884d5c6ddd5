//! Answers from the delivery server's table.

use std::sync::Arc;

use ruma::{OwnedServerName, ServerName};

use super::rows;
use crate::logs::log::partition_of;
use crate::query::deliveries::{Deliveries, Delivery};
use crate::query::rooms::QueryError;
use crate::storage::columns::DELIVERIES;
use crate::storage::keys::{Key, RowReader};
use crate::storage::overlay::{Read, StoreError};

/// Rows that one range read takes.
const PAGE_ROWS: usize = 1024;

/// The window into what servers acknowledged.
pub struct DeliveryAnswers {
    store: Arc<dyn Read>,
    partitions: u32,
}

impl DeliveryAnswers {
    /// A window over a store of so many partitions.
    pub fn new(store: Arc<dyn Read>, partitions: u32) -> DeliveryAnswers {
        DeliveryAnswers { store, partitions }
    }

    fn list(&self) -> Result<Vec<OwnedServerName>, StoreError> {
        let mut found = Vec::new();
        for partition in 0..self.partitions {
            let prefix = Key::of(partition);
            let mut from: Option<Vec<u8>> = None;
            loop {
                let page = self.store.range(
                    DELIVERIES,
                    prefix.as_bytes(),
                    from.as_deref(),
                    false,
                    PAGE_ROWS,
                )?;
                for (key, _) in &page {
                    let mut parts = RowReader::new(DELIVERIES, key);
                    parts.take(prefix.as_bytes().len())?;
                    // What is no server's name was not folded.
                    found.extend(OwnedServerName::try_from(parts.rest_text()?).ok());
                }
                let Some((last, _)) = page.last().filter(|_| page.len() == PAGE_ROWS) else {
                    break;
                };
                from = Some([last.as_ref(), &[0]].concat());
            }
        }
        Ok(found)
    }
}

impl Deliveries for DeliveryAnswers {
    fn delivery(&self, server: &ServerName) -> Result<Delivery, QueryError> {
        let partition = partition_of(server.as_str(), self.partitions);
        let row = rows::read_row(&*self.store, partition, server.as_str())
            .map_err(|error| QueryError::Store(error.to_string()))?;
        Ok(rows::delivery(row))
    }

    fn servers(&self) -> Result<Vec<OwnedServerName>, QueryError> {
        self.list()
            .map_err(|error| QueryError::Store(error.to_string()))
    }
}
