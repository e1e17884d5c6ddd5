//! A room as *output* tells it: its state folded up to a moment ([`fold`]), and
//! what the events of that state say ([`contents`], [`summary`]).
//!
//! A state is held as a whole, as large as the room; nothing else grows.

pub mod contents;
pub mod fold;
pub mod redactions;
pub mod summary;

use std::path::Path;

use log_format::PartitionReader;
use log_format::partition::{Topic, partition_of};

use self::fold::RoomFold;
use crate::error::{Status, ToolError};
use crate::open::{Partition, partitions};

/// The partition of *output* that holds a room.
pub struct RoomLog {
    pub room_id: String,
    pub partition: Partition,
    pub reader: PartitionReader,
    /// Offset behind the last record.
    pub end: u64,
}

impl RoomLog {
    /// Finds the room's partition among those that PATH names.
    pub fn open(path: &Path, room_id: &str) -> Result<RoomLog, ToolError> {
        let mut outputs = partitions(path)?;
        outputs.retain(|partition| partition.topic == Some(Topic::Output));
        let Some(first) = outputs.first() else {
            return Err(ToolError::NoOutput(path.to_owned()));
        };
        let count = first
            .root()?
            .map_or(outputs.len() as u32, |root| root.partitions);
        let number = partition_of(room_id, count);
        let partition = outputs
            .into_iter()
            .find(|partition| partition.number == number)
            .ok_or_else(|| ToolError::NoPartition {
                path: path.to_owned(),
                partition: number,
            })?;
        let (reader, end) = partition.open()?;
        Ok(RoomLog {
            room_id: room_id.to_owned(),
            partition,
            reader,
            end,
        })
    }

    /// Says what makes an answer less than certain, and how the run ends.
    pub fn warn_of_doubt(&self, fold: &RoomFold) -> Status {
        let begin = self.reader.begin();
        if begin > 0 {
            eprintln!(
                "engram-log: output begins at offset {begin}: entries that did not change since are missing"
            );
        }
        if fold.misfits == 0 {
            return Status::Clean;
        }
        eprintln!(
            "engram-log: {} records of the room do not fit what came before them",
            fold.misfits
        );
        Status::Corrupt
    }
}
