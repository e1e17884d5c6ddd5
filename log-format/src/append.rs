//! Appending to a partition: one writer, whole batches, explicit syncs.
//!
//! Nothing here runs by itself: who groups records into batches and when to
//! sync is the caller's choice. Rolling to a new segment is `roll.rs`, taking
//! records off the end `cut.rs`. Source: FORMAT.md, sections 5 and 10.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::SigningKey;

use crate::chain::{self, Merkle};
use crate::checkpoint::{self, CHECKPOINT_BYTES, Checkpoint};
use crate::error::{AppendError, OpenError};
use crate::file_system::{File, FileSystem, Lock, OpenMode};
use crate::frame::{FrameHeader, HEADER_BYTES, kind, padded};
use crate::index::SparseIndex;
use crate::partition::{LogId, Witness};
use crate::record::Kind;
use crate::record::envelope::PAYLOAD_BYTES_MAX;
use crate::recovery::{self, Recovery, Tail, Verdict};
use crate::seal::{SEAL_BYTES, Seal};
use crate::segment::SegmentHeader;

/// Records that one batch may have; a batch index is a `u16`.
pub const BATCH_RECORDS_MAX: usize = 1 << 16;
/// Bytes that the frames of one batch may have; a batch lies in one segment.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// Name of the lock file in a partition's folder.
pub const LOCK_NAME: &str = "LOCK";

/// Records and microseconds after which a checkpoint is due.
const CHECKPOINT_RECORDS: u64 = 10_000;
const CHECKPOINT_US: u64 = 60_000_000;

/// Whether syncs reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    Real,
    /// Pretends. For tests that prove that the others would notice.
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

    /// Settings for *output* and *ephemeral*: derived, flushed lazily.
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
    checkpoints: Checkpoints,
    buffer: Vec<u8>,
    pub(crate) segments_begun: u64,
    /// Bytes written since the opening, headers, seals and commits included,
    /// without zero-fill and checkpoints.
    pub(crate) written_bytes: u64,
    _lock: Box<dyn Lock>,
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

struct Checkpoints {
    position: u64,
    previous: [u8; 32],
    offset: u64,
    time_us: u64,
}

impl PartitionWriter {
    /// Opens a partition for writing, making it if it is not there, and repairs
    /// a torn tail. Everything below the end is durable when it returns.
    ///
    /// `least_end`: what is known from elsewhere to have been durable.
    /// Errors: `Locked`, `Corrupt` and `Refused` leave the files as they were.
    pub fn open(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        config: WriterConfig,
        log_id: LogId,
        partition: u32,
        least_end: Option<Witness>,
    ) -> Result<(PartitionWriter, Recovery), OpenError> {
        let failed = |source| OpenError::Io {
            path: dir.to_owned(),
            source,
        };
        fs.create_dir_all(dir).map_err(failed)?;
        let lock_path = dir.join(LOCK_NAME);
        let lock = fs.lock(&lock_path).map_err(failed)?;
        let lock = lock.ok_or(OpenError::Locked(lock_path))?;
        distrust_cache(&*fs, dir, config.sync).map_err(failed)?;

        let mut found = recovery::examine(&*fs, dir, least_end).map_err(failed)?;
        if let Some(info) = found.segments.last()
            && (info.header.log_id, info.header.partition) != (log_id, partition)
        {
            return Err(OpenError::Refused {
                path: info.path.clone(),
                why: format!(
                    "belongs to log {} partition {}, not to log {log_id} partition {partition}",
                    info.header.log_id, info.header.partition
                ),
            });
        }
        let recovery = match found.verdict {
            Verdict::Corrupt(evidence) => return Err(OpenError::Corrupt(evidence)),
            Verdict::Refused { path, why } => return Err(OpenError::Refused { path, why }),
            Verdict::Clean => Recovery::Clean { end: found.end },
            Verdict::Torn {
                segment,
                position,
                cut_bytes,
                fault,
            } => {
                let quarantine =
                    recovery::repair(&*fs, dir, &segment, position, cut_bytes, &fault)?;
                if let Some(tail) = &mut found.tail {
                    tail.file_bytes = tail.file.len().map_err(failed)?;
                }
                Recovery::Torn {
                    end: found.end,
                    cut_bytes,
                    quarantine,
                }
            }
        };

        let last = found.segments.pop();
        let before = found.segments.pop().and_then(|info| info.seal);
        let (previous_seal, unsealed) = match last {
            None => (None, None),
            Some(info) if info.seal.is_some() => (info.seal, None),
            Some(info) => (before, Some(info)),
        };
        let last_checkpoint = found.checkpoints.last();
        let mut writer = PartitionWriter {
            fs,
            dir: dir.to_owned(),
            config,
            log_id,
            partition,
            active: None,
            previous_seal: previous_seal.map(|(seal, _)| seal),
            end: found.end,
            durable_end: found.end,
            link: if found.link == [0; 32] {
                chain::genesis(log_id, partition)
            } else {
                found.link
            },
            time_us: found.time_us,
            poisoned: false,
            checkpoints: Checkpoints {
                position: found.checkpoint_bytes,
                previous: last_checkpoint.map_or([0; 32], Checkpoint::digest),
                offset: last_checkpoint.map_or(0, |last| last.offset),
                time_us: last_checkpoint.map_or(0, |last| last.time_us),
            },
            buffer: Vec::new(),
            segments_begun: 0,
            written_bytes: 0,
            _lock: lock,
        };
        writer.remove_leftovers().map_err(failed)?;
        if let (Some(info), Some(tail)) = (unsealed, found.tail) {
            writer.adopt(info, tail).map_err(failed)?;
        }
        writer.publish_key().map_err(failed)?;
        if writer.active.is_none() {
            writer.start_segment().map_err(failed)?;
        }
        Ok((writer, recovery))
    }

    /// Continues the unsealed last segment, or finishes its interrupted seal.
    fn adopt(&mut self, info: recovery::SegmentInfo, tail: Tail) -> io::Result<()> {
        self.fs.set_read_only(&info.path, false)?;
        let file = self.fs.open(&info.path, OpenMode::ReadWrite)?;
        // What was read may be in the cache only (phantom reads): from here on it stays.
        self.sync_file(&*file)?;
        self.fs.sync_dir(&self.dir)?;
        let active = Active {
            file,
            path: info.path,
            header: info.header,
            position: tail
                .seal
                .as_ref()
                .map_or(tail.position, |(_, position)| *position),
            synced: tail.position,
            filled: tail.file_bytes,
            litter: false,
            merkle: tail.merkle,
            index: tail.index,
        };
        self.active = Some(active);
        if tail.seal.is_some() {
            self.seal_active()?;
        }
        Ok(())
    }

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
    fn has_room(&self, bytes: usize) -> bool {
        self.active.as_ref().is_some_and(|active| {
            active.position + bytes as u64 + SEAL_BYTES <= self.config.segment_bytes
        })
    }

    /// Rolls and fills until `bytes` can be written at the position.
    fn make_room(&mut self, bytes: usize) -> Result<(), AppendError> {
        let holds_records = self
            .active
            .as_ref()
            .is_some_and(|active| active.header.base < self.end);
        if holds_records && !self.has_room(bytes) {
            self.seal_active()
                .map_err(|error| self.refuse_or_poison(error))?;
        }
        if self.active.is_none() {
            self.start_segment()
                .map_err(|error| self.refuse_or_poison(error))?;
        }
        self.fill_ahead(bytes)
    }

    /// Has zeroes from the position on for `bytes` and a seal, if zero-filling.
    fn fill_ahead(&mut self, bytes: usize) -> Result<(), AppendError> {
        self.sweep_litter()?;
        if !self.config.zero_fill {
            return Ok(());
        }
        let (segment_bytes, step) = (self.config.segment_bytes, self.config.fill_step_bytes);
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let needed = active.position + bytes as u64 + SEAL_BYTES;
        if needed <= active.filled {
            return Ok(());
        }
        let to = (needed + step).min(segment_bytes).max(needed);
        let zeroes = vec![0; (to - active.filled) as usize];
        // Zeroes behind the end change nothing, so a failure that is not the
        // disk's fullness is left to the write that follows to report.
        match active.file.write_at(&zeroes, active.filled) {
            Ok(()) => active.filled = to,
            Err(error) if is_full(&error) => return Err(AppendError::Full),
            Err(error) => return Err(self.poison(error)),
        }
        Ok(())
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

    /// Takes away what a refused write may have left behind the position, before
    /// anything else is written there.
    fn sweep_litter(&mut self) -> Result<(), AppendError> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        if !active.litter {
            return Ok(());
        }
        match active.file.set_len(active.position) {
            Ok(()) => {
                active.filled = active.position;
                active.litter = false;
                Ok(())
            }
            Err(error) => Err(self.refuse_or_poison(error)),
        }
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

    fn checkpoint_due(&self) -> bool {
        let new = self.durable_end.saturating_sub(self.checkpoints.offset);
        self.config.checkpoint_key.is_some()
            && new > 0
            && (new >= CHECKPOINT_RECORDS
                || self.fs.now_us() >= self.checkpoints.time_us.saturating_add(CHECKPOINT_US))
    }

    /// Signs what is durable. A failure to write it down is left for the next
    /// time: checkpoints witness, they do not carry.
    pub(crate) fn write_checkpoint(&mut self, durable: bool) {
        let Some(key) = &self.config.checkpoint_key else {
            return;
        };
        let checkpoint = Checkpoint {
            log_id: self.log_id,
            partition: self.partition as u16,
            offset: self.durable_end,
            position: self.position(),
            link: self.link,
            time_us: self.fs.now_us(),
            previous: self.checkpoints.previous,
            key_id: [0; 8],
            signature: [0; 64],
        }
        .sign(key);
        let path = self.dir.join(checkpoint::FILE_NAME);
        let written = (|| {
            let file = match self.fs.open(&path, OpenMode::ReadWrite) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.fs.open(&path, OpenMode::CreateNew)?
                }
                file => file?,
            };
            file.write_at(&checkpoint.encode(), self.checkpoints.position)?;
            if durable {
                file.sync_data()?;
            }
            Ok::<_, io::Error>(())
        })();
        if written.is_ok() {
            self.checkpoints.position += CHECKPOINT_BYTES as u64;
            self.checkpoints.previous = checkpoint.digest();
            self.checkpoints.offset = checkpoint.offset;
            self.checkpoints.time_us = checkpoint.time_us;
        }
    }

    /// Adds the public key to the list beside the checkpoints.
    fn publish_key(&self) -> io::Result<()> {
        let Some(key) = &self.config.checkpoint_key else {
            return Ok(());
        };
        let path = self.dir.join(checkpoint::KEYS_FILE_NAME);
        let mut list = match crate::file_system::read_all(&*self.fs, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            list => list?,
        };
        let public = key.verifying_key().to_bytes();
        let line: String = public.iter().map(|byte| format!("{byte:02x}")).collect();
        if String::from_utf8_lossy(&list)
            .lines()
            .any(|known| known == line)
        {
            return Ok(());
        }
        list.extend_from_slice(line.as_bytes());
        list.push(b'\n');
        crate::file_system::replace(&*self.fs, &path, &list)
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

/// After a failed sync, pages may be clean in the cache and missing on the disk:
/// what recovery reads must come from the disk.
fn distrust_cache(fs: &dyn FileSystem, dir: &Path, sync: SyncMode) -> io::Result<()> {
    let names = fs.list(dir)?;
    let last = names
        .iter()
        .filter(|name| crate::segment::parse_file_name(name).is_some())
        .max();
    let Some(last) = last else {
        return Ok(());
    };
    let file = fs.open(&dir.join(last), OpenMode::Read)?;
    if sync == SyncMode::Real {
        file.sync_data()?;
    }
    file.drop_cache()
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
