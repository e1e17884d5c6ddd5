//! The end of one segment and the beginning of the next.
//!
//! A segment is sealed for good before its successor appears, so that a later
//! segment proves that the earlier one was whole. Source: FORMAT.md, section 6.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::append::{Active, PartitionWriter, is_full};
use crate::chain::Merkle;
use crate::checkpoint;
use crate::file_system::{File, OpenMode, replace};
use crate::index::SparseIndex;
use crate::seal::{SEAL_BYTES, Seal};
use crate::segment::{self, HEADER_PAGE_BYTES, SegmentHeader};

/// Ends the names of files that are no part of the log yet; an opening removes them.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

impl PartitionWriter {
    /// Removes what an interrupted roll left; nothing in it was ever used.
    pub(crate) fn remove_leftovers(&self) -> io::Result<()> {
        for name in self.fs.list(&self.dir)? {
            if name.ends_with(TEMPORARY_SUFFIX) {
                self.fs.remove(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Ends the active segment: seal, trailer, trim, sync. What it holds is
    /// durable afterwards.
    pub(crate) fn seal_active(&mut self) -> io::Result<()> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let seal = Seal {
            first: active.header.base,
            end: self.end,
            records: self.end - active.header.base,
            link: self.link,
            merkle_root: active.merkle.root(),
        };
        let synced = u32::try_from(active.synced).unwrap_or(u32::MAX);
        let end = seal.encode_end(active.position, self.time_us, active.header.salt, synced);
        let file_bytes = active.position + SEAL_BYTES;
        // Until the roll is through, what it wrote is in the way of an append.
        active.litter = true;
        active.file.write_at(&end, active.position)?;
        let finished = active
            .file
            .set_len(file_bytes)
            .and_then(|()| match self.config.sync {
                crate::append::SyncMode::Real => active.file.sync_all(),
                crate::append::SyncMode::Off => Ok(()),
            });
        if let Err(error) = finished {
            // The data of this batch or of one before may be lost: that is no
            // mere refusal, whatever the error says.
            self.poisoned = true;
            return Err(error);
        }
        self.written_bytes += end.len() as u64;
        self.durable_end = self.end;
        active.synced = active.position;
        self.fs.set_read_only(&active.path, true)?;
        let index = active.index.encode(active.header.base, active.header.salt);
        let index_path = segment::index_path(&self.dir, active.header.base);
        // The index is a cache: without it a reader scans.
        if let Err(error) = replace(&*self.fs, &index_path, &index)
            && !is_full(&error)
        {
            return Err(error);
        }
        self.write_checkpoint(true);
        self.previous_seal = Some(seal);
        self.active = None;
        Ok(())
    }

    /// Makes the segment that begins at the end, whole before it gets its name.
    pub(crate) fn start_segment(&mut self) -> io::Result<()> {
        let nonce = self.fs.nonce();
        let signer = self.config.checkpoint_key.as_ref();
        let header = SegmentHeader {
            log_id: self.log_id,
            partition: self.partition,
            base: self.end,
            salt: (nonce ^ (nonce >> 32)) as u32,
            generation: 0,
            created_us: self.fs.now_us(),
            time_before_us: self.time_us,
            link_before: self.link,
            previous_seal: self.previous_seal.as_ref().map_or([0; 32], Seal::digest),
            signer: signer.map_or([0; 8], |key| checkpoint::key_id(&key.verifying_key())),
            features_incompatible: 0,
            features_read_only: 0,
            features_compatible: 0,
        };
        let path = self.dir.join(segment::file_name(self.end));
        let (file, temporary, filled) = self.begin_file(&path, header.encode())?;
        file.sync_all()?;
        self.fs.rename(&temporary, &path)?;
        if let Err(error) = self.fs.sync_dir(&self.dir) {
            self.poisoned = true;
            return Err(error);
        }
        self.segments_begun += 1;
        self.active = Some(Active {
            file,
            path,
            header,
            position: HEADER_PAGE_BYTES as u64,
            synced: HEADER_PAGE_BYTES as u64,
            filled,
            litter: false,
            merkle: Merkle::default(),
            index: SparseIndex::default(),
        });
        Ok(())
    }

    /// A file that begins with a segment's header and goes on with zeroes: the
    /// spare, if there is one, else a new one. Its name is temporary.
    ///
    /// Returns the file, its path, and how far it is filled.
    fn begin_file(
        &mut self,
        path: &Path,
        mut header: Vec<u8>,
    ) -> io::Result<(Arc<dyn File>, PathBuf, u64)> {
        self.written_bytes += header.len() as u64;
        let spare = self.ahead.as_ref().and_then(|ahead| ahead.take());
        if let Some(spare) = spare {
            spare.file.write_at(&header, 0)?;
            return Ok((spare.file, spare.path, spare.filled));
        }
        let temporary = path.with_extension(format!("seg{TEMPORARY_SUFFIX}"));
        match self.fs.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.fs.open(&temporary, OpenMode::CreateNew)?;
        if self.config.zero_fill {
            let filled = self.config.fill_step_bytes.min(self.config.segment_bytes);
            header.resize(header.len().max(filled as usize), 0);
        }
        file.write_at(&header, 0)?;
        Ok((file, temporary, header.len() as u64))
    }
}
