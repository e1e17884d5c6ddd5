//! Runs a reader: one task for each partition of *output*, woken by the log.

use std::sync::Arc;

use log_format::codec::CodecError;
use log_format::record::EnvelopeError;
use tokio_util::sync::CancellationToken;

use crate::logs::log::{Log, LogRecord, PartitionId, ReadError};
use crate::query::rooms::QueryError;
use crate::storage::overlay::StoreError;

/// Payload bytes of one group: large enough that a catch-up is not ruled by
/// the cost of a batch, small enough that answers wait for milliseconds only.
const GROUP_BYTES: usize = 256 * 1024;

/// A reader that cannot go on. Its tables stay as they were before the group.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("output record at offset {offset} is no envelope: {source}")]
    Envelope { offset: u64, source: EnvelopeError },
    #[error("output record at offset {offset}: {source}")]
    Body { offset: u64, source: CodecError },
    #[error("output record at offset {offset} lacks its {what}")]
    Field { offset: u64, what: &'static str },
}

/// Follows *output* and keeps tables.
pub trait Reader: Send + Sync {
    /// Under which its cursors are kept.
    fn name(&self) -> &'static str;

    /// Offset of the next record of a partition that it wants.
    fn cursor(&self, partition: PartitionId) -> u64;

    /// Folds consecutive records, the first of them at the cursor, and moves
    /// the cursor behind them, in one batch.
    fn fold(&self, partition: PartitionId, records: &[LogRecord]) -> Result<(), ReaderError>;
}

/// Folds what a partition holds until `stop`, or until the reader fails.
pub async fn follow(
    reader: Arc<dyn Reader>,
    output: Arc<dyn Log>,
    partition: PartitionId,
    stop: CancellationToken,
) -> Result<(), ReaderError> {
    loop {
        let next = reader.cursor(partition);
        let records = output.read(partition, next, GROUP_BYTES)?;
        if !records.is_empty() {
            reader.fold(partition, &records)?;
            if stop.is_cancelled() {
                return Ok(());
            }
            // A catch-up shares its thread with the requests that wait for it.
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // `wait_beyond` speaks of the end, an exclusive bound, as the cursor does.
            () = output.wait_beyond(partition, next) => {}
        }
    }
}

/// Spawns [`follow`] for every partition. A reader that fails says so in the
/// log and stops: what it would answer from then on would be wrong.
pub fn spawn(
    reader: &Arc<dyn Reader>,
    output: &Arc<dyn Log>,
    stop: &CancellationToken,
) -> Vec<tokio::task::JoinHandle<Result<(), ReaderError>>> {
    (0..output.partitions())
        .map(|partition| {
            let (reader, output, stop) = (reader.clone(), output.clone(), stop.clone());
            tokio::spawn(async move {
                let name = reader.name();
                let ended = follow(reader, output, partition, stop).await;
                if let Err(error) = &ended {
                    tracing::error!(reader = name, partition, %error, "reader stopped");
                }
                ended
            })
        })
        .collect()
}
