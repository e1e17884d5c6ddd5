//! The row of a server, and how it answers.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use log_format::codec;
use log_format::record::input::Emitted;

use crate::query::deliveries::{Delivery, Progress};
use crate::storage::columns::DELIVERIES;
use crate::storage::keys::Key;
use crate::storage::overlay::{Overlay, Read, StoreError};

/// Row of [`DELIVERIES`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct DeliveryRow {
    /// By partition of *output*.
    pub progress: BTreeMap<u32, ProgressRow>,
    pub failures: u32,
    pub retry_at_ms: u64,
    pub succeeded_ms: u64,
}

/// How far one partition is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProgressRow {
    pub upto: Emitted,
    pub next: Option<Emitted>,
}

/// Key of a server's row.
pub fn key(partition: u32, server: &str) -> Key {
    Key::of(partition).bytes(server.as_bytes())
}

fn decode(row: &[u8]) -> Result<DeliveryRow, StoreError> {
    codec::decode(row).map_err(|error| StoreError::Row {
        table: DELIVERIES.name,
        why: error.to_string(),
    })
}

/// The row of a server, as it will be once `tables` are written.
pub fn pending_row(
    tables: &Overlay<'_>,
    partition: u32,
    server: &str,
) -> Result<DeliveryRow, StoreError> {
    let row = tables.get(DELIVERIES, key(partition, server).as_bytes())?;
    row.map_or_else(|| Ok(DeliveryRow::default()), |row| decode(&row))
}

/// The row of a server.
pub fn read_row(
    tables: &dyn Read,
    partition: u32,
    server: &str,
) -> Result<DeliveryRow, StoreError> {
    pending_row(&Overlay::new(tables), partition, server)
}

/// A row as the query window shows it.
pub fn delivery(row: DeliveryRow) -> Delivery {
    let progress = row.progress.into_iter().map(|(partition, row)| {
        let progress = Progress {
            upto: row.upto,
            next: row.next,
        };
        (partition, progress)
    });
    Delivery {
        progress: progress.collect(),
        failures: row.failures,
        retry_at_ms: row.retry_at_ms,
        succeeded_ms: row.succeeded_ms,
    }
}
