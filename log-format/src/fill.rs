//! Room for the next batch: zeroes ahead of the writer, so that a sync writes
//! data only, and a spare file that is full of them before it is a segment.
//!
//! Who calls [`Filler::step`], on a thread of its own, has most zeroes written
//! beside the appends; whatever is missing when it is needed, the writer writes
//! itself. Nothing of a file is ever used twice: stale frames could be believed.
//! Source: FORMAT.md, section 4.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::append::{PartitionWriter, SyncMode, is_full};
use crate::error::AppendError;
use crate::file_system::{File, FileSystem, OpenMode};
use crate::roll::TEMPORARY_SUFFIX;
use crate::seal::SEAL_BYTES;
use crate::segment::HEADER_PAGE_BYTES;

/// What a writer and its filler share.
pub(crate) struct Ahead {
    /// Bytes of the spare that are wanted by now.
    wanted: AtomicU64,
    /// A step failed; nothing more is tried before the next segment.
    gave_up: AtomicBool,
    /// The spare, while nobody works on it.
    spare: Mutex<Option<Spare>>,
}

/// A file that holds nothing but zeroes, all of them durable.
pub(crate) struct Spare {
    pub file: Arc<dyn File>,
    pub path: PathBuf,
    pub filled: u64,
}

/// Fills the spare of one partition, step by step.
pub struct Filler {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    /// Spares begun so far. Each has a name of its own: the writer may be about
    /// to rename the one before.
    begun: AtomicU64,
    segment_bytes: u64,
    step_bytes: u64,
    sync: SyncMode,
    ahead: Arc<Ahead>,
}

impl Ahead {
    fn spare(&self) -> MutexGuard<'_, Option<Spare>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spare, if it is there and large enough to begin a segment with.
    pub fn take(&self) -> Option<Spare> {
        // Until the segment is half full, nothing is wanted; and a failure may
        // have been that of a disk which has room again.
        self.wanted.store(0, Ordering::Release);
        self.gave_up.store(false, Ordering::Release);
        let mut spare = self.spare();
        let is_enough = |spare: &mut Spare| spare.filled >= HEADER_PAGE_BYTES as u64;
        spare.take_if(is_enough)
    }
}

impl Filler {
    /// Whether [`Filler::step`] has something to do. Cheap.
    pub fn is_wanted(&self) -> bool {
        let wanted = self.ahead.wanted.load(Ordering::Acquire);
        let filled = self.ahead.spare().as_ref().map_or(0, |spare| spare.filled);
        filled < wanted && !self.ahead.gave_up.load(Ordering::Acquire)
    }

    /// Bytes that one step writes at most.
    pub fn step_bytes(&self) -> u64 {
        self.step_bytes
    }

    /// Writes some zeroes and makes them durable, if wanted. Returns whether
    /// more is wanted. Blocks for a disk flush; never holds up the writer.
    ///
    /// Errors: the spare is given up until the next segment begins. That harms
    /// nothing: it held no record.
    pub fn step(&self) -> io::Result<bool> {
        if !self.is_wanted() {
            return Ok(false);
        }
        // Taken out, so that the writer never waits for it; a roll meanwhile
        // makes its own file, and this one stays for the next.
        let spare = self.ahead.spare().take();
        match self.grow(spare) {
            Ok(spare) => {
                *self.ahead.spare() = Some(spare);
                Ok(self.is_wanted())
            }
            Err(error) => {
                self.ahead.gave_up.store(true, Ordering::Release);
                Err(error)
            }
        }
    }

    fn grow(&self, spare: Option<Spare>) -> io::Result<Spare> {
        let mut spare = match spare {
            Some(spare) => spare,
            None => self.begin()?,
        };
        match self.fill(&mut spare) {
            Ok(()) => Ok(spare),
            Err(error) => {
                // If it cannot be removed now, the next start does it.
                let _ = self.fs.remove(&spare.path);
                Err(error)
            }
        }
    }

    fn begin(&self) -> io::Result<Spare> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("spare-{number}{TEMPORARY_SUFFIX}"));
        Ok(Spare {
            file: self.fs.open(&path, OpenMode::CreateNew)?,
            path,
            filled: 0,
        })
    }

    fn fill(&self, spare: &mut Spare) -> io::Result<()> {
        let to = (spare.filled + self.step_bytes).min(self.segment_bytes);
        let zeroes = vec![0; to.saturating_sub(spare.filled) as usize];
        spare.file.write_at(&zeroes, spare.filled)?;
        if self.sync == SyncMode::Real {
            spare.file.sync_data()?;
        }
        spare.filled = to;
        Ok(())
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        if let Some(spare) = self.ahead.spare().take() {
            // Else the next start removes it.
            let _ = self.fs.remove(&spare.path);
        }
    }
}

impl PartitionWriter {
    /// The one filler of this partition's spares; to be stepped beside the
    /// writer, and dropped before another writer opens the partition. None where
    /// nothing is filled ahead, or if it was taken before.
    pub fn filler(&mut self) -> Option<Filler> {
        if !self.config.zero_fill || self.ahead.is_some() {
            return None;
        }
        let ahead = Arc::new(Ahead {
            wanted: AtomicU64::new(0),
            gave_up: AtomicBool::new(false),
            spare: Mutex::new(None),
        });
        self.ahead = Some(ahead.clone());
        Some(Filler {
            fs: self.fs.clone(),
            dir: self.dir.clone(),
            begun: AtomicU64::new(0),
            segment_bytes: self.config.segment_bytes,
            step_bytes: self.config.fill_step_bytes,
            sync: self.config.sync,
            ahead,
        })
    }

    /// Wants a spare from the middle of a segment on, so fast that it is whole
    /// before the segment is: as many bytes as were appended since, and a half.
    pub(crate) fn want_spare(&self) {
        let Some(ahead) = &self.ahead else { return };
        let half = self.config.segment_bytes / 2;
        let beyond = self.position().saturating_sub(half);
        let wanted = (beyond.saturating_mul(5) / 2).min(self.config.segment_bytes);
        ahead.wanted.store(wanted, Ordering::Release);
    }

    /// Rolls and fills until `bytes` can be written at the position.
    pub(crate) fn make_room(&mut self, bytes: usize) -> Result<(), AppendError> {
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
    pub(crate) fn fill_ahead(&mut self, bytes: usize) -> Result<(), AppendError> {
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
}
