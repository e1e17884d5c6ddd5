//! `ROOT`: the manifest of a topic, two slots that are written in turn.
//!
//! What is fixed for the life of a log stands here: its id and its number of
//! partitions. Source: FORMAT.md, section 3.

use std::io;
use std::path::Path;

use crate::error::OpenError;
use crate::file_system::{FileSystem, OpenMode, read_all, replace};
use crate::frame::{array_at, u32_at, u64_at};
use crate::partition::{LogId, Topic};
use crate::segment::{CHECKSUM_ID, CODEC_ID, HASH_ID};

/// Length of one slot.
pub const SLOT_BYTES: usize = 512;
/// Name of the file in a topic's folder.
pub const FILE_NAME: &str = "ROOT";
/// First eight bytes of a slot.
pub const MAGIC: [u8; 8] = *b"ENGRROOT";
const VERSION: u16 = 1;
const CRC_AT: usize = SLOT_BYTES - 4;

/// What is fixed about a topic, and what changes rarely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRoot {
    pub topic: Topic,
    pub log_id: LogId,
    /// *Output*: id of the *input* log that it is made from; else `log_id`.
    pub source_log_id: LogId,
    /// *Output*: number of the rebuild that made it; else 0.
    pub epoch: u64,
    /// How many partitions; never changes.
    pub partitions: u32,
    /// Rises with each write; the valid slot with the larger one counts.
    pub sequence: u64,
    /// Features that a reader must know; this version knows none.
    pub features_incompatible: u32,
}

impl TopicRoot {
    /// The manifest of a new log.
    pub fn new(topic: Topic, log_id: LogId, partitions: u32) -> TopicRoot {
        TopicRoot {
            topic,
            log_id,
            source_log_id: log_id,
            epoch: 0,
            partitions,
            sequence: 0,
            features_incompatible: 0,
        }
    }

    /// The manifest of a new *output* log.
    pub fn new_output(input: LogId, epoch: u64, partitions: u32) -> TopicRoot {
        TopicRoot {
            source_log_id: input,
            epoch,
            ..TopicRoot::new(Topic::Output, LogId::of_output(input, epoch), partitions)
        }
    }

    /// Reads the manifest of a topic's folder; `None` if there is none.
    ///
    /// Errors: `Refused` if neither slot is valid or the version is not known.
    pub fn read(fs: &dyn FileSystem, topic_dir: &Path) -> Result<Option<TopicRoot>, OpenError> {
        let path = topic_dir.join(FILE_NAME);
        let bytes = match read_all(fs, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|source| OpenError::Io {
                path: path.clone(),
                source,
            })?,
        };
        let slots = bytes.chunks_exact(SLOT_BYTES).take(2);
        let newest = slots
            .filter_map(TopicRoot::decode)
            .max_by_key(|root| root.sequence);
        let refused = |why: &str| OpenError::Refused {
            path,
            why: why.to_owned(),
        };
        match newest {
            None => Err(refused("neither slot of the manifest is valid")),
            Some(root) if root.features_incompatible != 0 => Err(refused(
                "the log has features that this version does not know",
            )),
            Some(root) => Ok(Some(root)),
        }
    }

    /// Writes the manifest, over the older slot if there are two; durable when
    /// it returns. `sequence` is raised.
    pub fn write(&mut self, fs: &dyn FileSystem, topic_dir: &Path) -> Result<(), OpenError> {
        let path = topic_dir.join(FILE_NAME);
        self.sequence += 1;
        let written = (|| {
            fs.create_dir_all(topic_dir)?;
            let slot = self.sequence % 2;
            let file = match fs.open(&path, OpenMode::ReadWrite) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let mut both = vec![0; 2 * SLOT_BYTES];
                    let at = slot as usize * SLOT_BYTES;
                    both[at..at + SLOT_BYTES].copy_from_slice(&self.encode());
                    replace(fs, &path, &both)?;
                    return fs.sync_dir(topic_dir);
                }
                file => file?,
            };
            file.write_at(&self.encode(), slot * SLOT_BYTES as u64)?;
            file.sync_all()?;
            fs.sync_dir(topic_dir)
        })();
        written.map_err(|source| OpenError::Io { path, source })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SLOT_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[self.topic as u8, 0]);
        out.extend_from_slice(&self.partitions.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.log_id.0);
        out.extend_from_slice(&self.source_log_id.0);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&CODEC_ID.to_le_bytes());
        out.extend_from_slice(&[HASH_ID, CHECKSUM_ID]);
        out.extend_from_slice(&self.features_incompatible.to_le_bytes());
        out.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(slot: &[u8]) -> Option<TopicRoot> {
        let whole = slot.len() == SLOT_BYTES
            && slot[..8] == MAGIC
            && crc32c::crc32c(&slot[..CRC_AT]) == u32_at(slot, CRC_AT)
            && slot[8..10] == VERSION.to_le_bytes()
            && slot[64..68] == [CODEC_ID as u8, 0, HASH_ID, CHECKSUM_ID];
        if !whole {
            return None;
        }
        Some(TopicRoot {
            topic: Topic::from_number(slot[10])?,
            partitions: u32_at(slot, 12),
            sequence: u64_at(slot, 16),
            log_id: LogId(array_at(slot, 24)),
            source_log_id: LogId(array_at(slot, 40)),
            epoch: u64_at(slot, 56),
            features_incompatible: u32_at(slot, 68),
        })
    }
}
