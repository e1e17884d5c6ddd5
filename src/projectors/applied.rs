//! How far the store has come: one row per partition, written in the batch of
//! the group that it names.

use bincode::{Decode, Encode};
use log_format::codec;

use super::fold::PROJECTOR_VERSION;
use crate::logs::log::{Log, ReadError};
use crate::storage::columns::APPLIED;
use crate::storage::keys::Key;
use crate::storage::overlay::{Read, StoreError};

/// The place of a partition's projection in both of its logs. The links name
/// the logs' whole content up to there.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Applied {
    /// Offset behind the last *input* record that was folded.
    pub input_end: u64,
    pub input_link: [u8; 32],
    /// Offset behind the last *output* record that this led to.
    pub output_end: u64,
    pub output_link: [u8; 32],
    pub projector_version: u32,
}

impl Applied {
    /// Before the first record.
    pub fn start(partition: u32, input: &dyn Log, output: &dyn Log) -> Result<Applied, ReadError> {
        Ok(Applied {
            input_end: 0,
            input_link: input.link_before(partition, 0)?,
            output_end: 0,
            output_link: output.link_before(partition, 0)?,
            projector_version: PROJECTOR_VERSION,
        })
    }

    /// The row of a partition; none in a store that has not folded anything of it.
    pub fn read(store: &dyn Read, partition: u32) -> Result<Option<Applied>, StoreError> {
        let row = store.get(APPLIED, Key::of(partition).as_bytes())?;
        row.map(|row| {
            codec::decode(&row).map_err(|error| StoreError::Row {
                table: APPLIED.name,
                why: error.to_string(),
            })
        })
        .transpose()
    }

    /// The row's key and value.
    pub fn row(&self, partition: u32) -> (Key, Vec<u8>) {
        (Key::of(partition), codec::encode(self))
    }
}
