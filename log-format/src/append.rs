//! Appending to a partition: one writer, whole batches, explicit syncs.
//!
//! Nothing here runs by itself: who groups records into batches and when to
//! sync is the caller's choice. Opening is `open.rs`, room for the next batch
//! `fill.rs`, rolling to a new segment `roll.rs`, taking records off the end
//! `cut.rs`. Source: FORMAT.md, sections 5 and 10.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use ed25519_dalek::SigningKey;

use crate::chain::{self, Merkle};
use crate::checkpoint_writer::Checkpoints;
use crate::error::AppendError;
use crate::file_system::{File, FileSystem, Lock};
use crate::fill::Ahead;
use crate::frame::{FrameHeader, HEADER_BYTES, kind, padded};
use crate::index::SparseIndex;
use crate::partition::LogId;
use crate::record::Kind;
use crate::record::envelope::PAYLOAD_BYTES_MAX;
use crate::seal::{SEAL_BYTES, Seal};
use crate::segment::SegmentHeader;

/// Records that one batch may have; a batch index is a `u16`.
pub const BATCH_RECORDS_MAX: usize = 1 << 16;
/// Bytes that the frames of one batch may have; a batch lies in one segment.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// Name of the lock file in a partition's folder.
pub const LOCK_NAME: &str = "LOCK";

/// Whether syncs reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    Real,
    /// Pretends. For *ephemeral*, which may be lost, and for tests that prove that
    /// of the others it would be noticed.
    Off,
}

/// How a partition is written.
#[derive(Clone)]
pub struct WriterConfig {
    /// Size at which a segment is sealed; at least a few header pages.
    pub segment_bytes: u64,
    /// Whether the file is filled with zeroes ahead of its end, so that a sync
    /// writes data only. For *input*.
    pub zero_fill: bool,
    /// Bytes that are filled at a time.
    pub fill_step_bytes: u64,
    /// Signs checkpoints; without it there are none.
    pub checkpoint_key: Option<SigningKey>,
    pub sync: SyncMode,
}

impl WriterConfig {
    /// Settings for *input*.
    pub fn input(segment_bytes: u64) -> WriterConfig {
        WriterConfig {
            segment_bytes,
            zero_fill: true,
            fill_step_bytes: (segment_bytes / 8).clamp(64 << 10, 1 << 20),
            checkpoint_key: None,
            sync: SyncMode::Real,
        }
    }

    /// Settings for *output*, which is flushed lazily, and with the sync off for
    /// *ephemeral*.
    pub fn output(segment_bytes: u64) -> WriterConfig {
        WriterConfig {
            zero_fill: false,
            ..WriterConfig::input(segment_bytes)
        }
    }
}

/// A record to be appended.
#[derive(Clone, Debug)]
pub struct Pending {
    pub kind: Kind,
    /// Append time in microseconds since the epoch; raised to that of the record before.
    pub time_us: u64,
    pub payload: Vec<u8>,
    /// [`crate::record::Envelope::digest`] of the payload.
    pub digest: [u8; 32],
}

/// The one writer of a partition.
pub struct PartitionWriter {
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) dir: PathBuf,
    pub(crate) config: WriterConfig,
    pub(crate) log_id: LogId,
    pub(crate) partition: u32,
    /// `None` between the seal of a segment and the making of the next.
    pub(crate) active: Option<Active>,
    /// The seal of the segment before the active one.
    pub(crate) previous_seal: Option<Seal>,
    pub(crate) end: u64,
    pub(crate) durable_end: u64,
    pub(crate) link: [u8; 32],
    pub(crate) time_us: u64,
    pub(crate) poisoned: bool,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) ahead: Option<Arc<Ahead>>,
    pub(crate) buffer: Vec<u8>,
    pub(crate) segments_begun: u64,
    /// Bytes written since the opening, headers, seals and commits included,
    /// without zero-fill and checkpoints.
    pub(crate) written_bytes: u64,
    pub(crate) _lock: Box<dyn Lock>,
}

/// The segment that is written to.
pub(crate) struct Active {
    pub file: Arc<dyn File>,
    pub path: PathBuf,
    pub header: SegmentHeader,
    /// Position behind the last batch.
    pub position: u64,
    /// Position up to which a sync returned.
    pub synced: u64,
    /// Length of the file: zeroes from `position` up to here.
    pub filled: u64,
    /// Bytes of a refused write may lie behind `position`.
    pub litter: bool,
    pub merkle: Merkle,
    pub index: SparseIndex,
}

impl PartitionWriter {
    /// Appends a batch, all or nothing. Durable once a later [`Self::sync`] returns.
    ///
    /// Returns the offsets of its records.
    pub fn append(&mut self, batch: &[Pending]) -> Result<Range<u64>, AppendError> {
        self.check_alive()?;
        let bytes = check_batch(batch)?;
        if batch.is_empty() {
            return Ok(self.end..self.end);
        }
        self.make_room(bytes)?;
        let salt_and_synced = self.salt_and_synced();
        let mut next = Next {
            link: self.link,
            time_us: self.time_us,
            position: self.position(),
            crc: 0,
        };
        self.buffer.clear();
        self.buffer.reserve(bytes);
        let mut places = Vec::with_capacity(batch.len());
        for (index, record) in batch.iter().enumerate() {
            places.push(self.put_record(&mut next, index, record, salt_and_synced));
        }
        let end = self.end + batch.len() as u64;
        self.put_commit(&next, end, batch.len(), salt_and_synced);
        self.write_buffer()?;
        if let Some(active) = &mut self.active {
            for (record, (position, time_us)) in batch.iter().zip(&places) {
                active.merkle.push(&record.digest);
                let relative = self.end - active.header.base;
                active.index.note(relative, *position, *time_us);
                self.end += 1;
            }
        }
        self.link = next.link;
        self.time_us = next.time_us;
        self.want_spare();
        Ok(end - batch.len() as u64..end)
    }

    /// Makes everything appended durable; returns the offset behind it.
    ///
    /// Errors: `OutcomeUnknown`, and the writer takes nothing more: what the
    /// kernel dropped cannot be written again by syncing again.
    pub fn sync(&mut self) -> Result<u64, AppendError> {
        self.check_alive()?;
        if let Some(active) = &self.active
            && active.synced < active.position
        {
            let (file, position) = (active.file.clone(), active.position);
            self.sync_file(&*file).map_err(|error| self.poison(error))?;
            if let Some(active) = &mut self.active {
                active.synced = position;
            }
        }
        self.durable_end = self.end;
        if self.checkpoint_due() {
            self.write_checkpoint(false);
        }
        Ok(self.durable_end)
    }

    /// Writes an empty commit frame that says how far the segment is synced, so
    /// that damage to the last batch can be told from a torn write. It needs no
    /// sync of its own. Does nothing if the last frame says so already.
    pub fn idle_commit(&mut self) -> Result<(), AppendError> {
        self.check_alive()?;
        let (salt, synced) = self.salt_and_synced();
        let Some(active) = &self.active else {
            return Ok(());
        };
        // Only a batch that is synced and not yet witnessed needs a witness.
        let witnessed = active.position != active.synced
            || active.position <= crate::segment::HEADER_PAGE_BYTES as u64;
        if witnessed || !self.has_room(HEADER_BYTES) {
            return Ok(());
        }
        let next = Next {
            link: self.link,
            time_us: self.time_us,
            position: active.position,
            crc: 0,
        };
        self.buffer.clear();
        self.put_commit(&next, self.end, 0, (salt, synced));
        self.fill_ahead(HEADER_BYTES)?;
        self.write_buffer()?;
        Ok(())
    }

    /// Offset behind the last record.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Offset behind the last record that is durable.
    pub fn durable_end(&self) -> u64 {
        self.durable_end
    }

    /// Chain link behind the last record.
    pub fn link(&self) -> [u8; 32] {
        self.link
    }

    /// Bytes of frames, segment headers and seals written since the opening.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Segments that were made since the opening.
    pub fn segments_begun(&self) -> u64 {
        self.segments_begun
    }

    /// Whether a failure closed the writer.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    fn check_alive(&self) -> Result<(), AppendError> {
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        Ok(())
    }

    fn put_record(
        &mut self,
        next: &mut Next,
        index: usize,
        record: &Pending,
        (salt, synced): (u32, u32),
    ) -> (u64, u64) {
        let offset = self.end + index as u64;
        let kind_number = record.kind.number();
        next.time_us = next.time_us.max(record.time_us);
        next.link = chain::link(
            &next.link,
            offset,
            next.time_us,
            kind_number,
            &record.digest,
        );
        let header = FrameHeader {
            kind: kind::DATA,
            flags: 0,
            payload_len: record.payload.len() as u32,
            body_crc: crate::frame::payload_crc(&record.payload),
            offset,
            time_us: next.time_us,
            salt,
            synced,
            hash: record.digest,
            tail: FrameHeader::data_tail(index as u16, kind_number),
        };
        let raw = header.encode();
        next.crc = crc32c::crc32c_append(next.crc, &raw);
        let position = next.position;
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&raw);
        self.buffer.extend_from_slice(&record.payload);
        self.buffer.resize(start + header.frame_bytes(), 0);
        next.position += header.frame_bytes() as u64;
        (position, next.time_us)
    }

    fn put_commit(&mut self, next: &Next, end: u64, records: usize, (salt, synced): (u32, u32)) {
        let header = FrameHeader {
            kind: kind::COMMIT,
            flags: 0,
            payload_len: 0,
            body_crc: next.crc,
            offset: end,
            time_us: next.time_us,
            salt,
            synced,
            hash: next.link,
            tail: records as u32,
        };
        self.buffer.extend_from_slice(&header.encode());
    }

    fn salt_and_synced(&self) -> (u32, u32) {
        let active = self.active.as_ref();
        active.map_or((0, 0), |active| {
            (
                active.header.salt,
                u32::try_from(active.synced).unwrap_or(u32::MAX),
            )
        })
    }

    pub(crate) fn position(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.position)
    }

    /// Whether the active segment takes `bytes` more and a seal behind them.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.active.as_ref().is_some_and(|active| {
            active.position + bytes as u64 + SEAL_BYTES <= self.config.segment_bytes
        })
    }

    /// Writes the buffer at the position and moves it on.
    fn write_buffer(&mut self) -> Result<(), AppendError> {
        let Some(active) = &mut self.active else {
            return Err(AppendError::Poisoned);
        };
        let bytes = self.buffer.len() as u64;
        if let Err(error) = active.file.write_at(&self.buffer, active.position) {
            active.litter = true;
            return Err(self.refuse_or_poison(error));
        }
        active.position += bytes;
        active.filled = active.filled.max(active.position);
        self.written_bytes += bytes;
        Ok(())
    }

    /// A full disk refuses, anything else closes the writer for good.
    pub(crate) fn refuse_or_poison(&mut self, error: io::Error) -> AppendError {
        if is_full(&error) && !self.poisoned {
            return AppendError::Full;
        }
        self.poison(error)
    }

    pub(crate) fn poison(&mut self, error: io::Error) -> AppendError {
        self.poisoned = true;
        AppendError::OutcomeUnknown(error)
    }

    pub(crate) fn sync_file(&self, file: &dyn File) -> io::Result<()> {
        match self.config.sync {
            SyncMode::Real => file.sync_data(),
            SyncMode::Off => Ok(()),
        }
    }
}

/// Where the batch that is being encoded has got to.
struct Next {
    link: [u8; 32],
    time_us: u64,
    position: u64,
    /// CRC-32C of the batch's headers so far.
    crc: u32,
}

/// Bytes of the batch's frames, its commit included.
fn check_batch(batch: &[Pending]) -> Result<usize, AppendError> {
    let mut bytes = HEADER_BYTES;
    for (index, record) in batch.iter().enumerate() {
        if record.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(AppendError::TooLarge {
                index,
                bytes: record.payload.len(),
                max: PAYLOAD_BYTES_MAX,
            });
        }
        let kind_in_payload = record.payload.get(2..4);
        if kind_in_payload != Some(&record.kind.number().to_le_bytes()[..])
            || record.digest == [0; 32]
        {
            return Err(AppendError::Malformed { index });
        }
        bytes += HEADER_BYTES + padded(record.payload.len());
    }
    if batch.len() > BATCH_RECORDS_MAX || bytes > BATCH_BYTES_MAX {
        return Err(AppendError::BatchTooLarge {
            records: batch.len(),
            bytes,
        });
    }
    Ok(bytes)
}

/// Whether the error says that there is no room, as opposed to a broken disk.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
