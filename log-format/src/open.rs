//! Opening a partition for writing: lock, recovery, the end to go on from.
//!
//! What recovery finds and repairs is `recovery.rs`. Source: FORMAT.md, section 10.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::append::{Active, LOCK_NAME, PartitionWriter, SyncMode, WriterConfig};
use crate::chain;
use crate::checkpoint_writer::Checkpoints;
use crate::error::OpenError;
use crate::file_system::{FileSystem, OpenMode};
use crate::partition::{LogId, Witness};
use crate::recovery::{self, Recovery, Tail, Verdict};
use crate::segment;

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
            checkpoints: Checkpoints::after(found.checkpoint_bytes, found.checkpoints.last()),
            ahead: None,
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
}

/// After a failed sync, pages may be clean in the cache and missing on the disk:
/// what recovery reads must come from the disk.
fn distrust_cache(fs: &dyn FileSystem, dir: &Path, sync: SyncMode) -> io::Result<()> {
    let names = fs.list(dir)?;
    let last = names
        .iter()
        .filter(|name| segment::parse_file_name(name).is_some())
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
