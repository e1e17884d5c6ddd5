//! Taking records off the end of a derived log.
//!
//! For *output* only, where a record that its source no longer leads to was
//! never a fact. *Input* is never cut by anything but recovery, which keeps a
//! copy. Source: FORMAT.md, section 10, *Cutting output*.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::append::{PartitionWriter, Pending, WriterConfig};
use crate::error::{AppendError, OpenError, ReadError};
use crate::file_system::{FileSystem, OpenMode};
use crate::frame::kind;
use crate::partition::LogId;
use crate::read::{PartitionReader, StoredRecord};
use crate::recovery::{self, Recovery};
use crate::scan::{BatchScanner, Check, FrameScanner, Step};
use crate::segment;

impl PartitionWriter {
    /// Opens a derived partition and takes off every record from `end` on.
    ///
    /// Records in the batch that the cut divides are written again, so the
    /// links below `end` stay as they were.
    /// Errors: as [`PartitionWriter::open`]; `Refused` if `end` lies before the
    /// first record that is there.
    pub fn open_cut(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        config: WriterConfig,
        log_id: LogId,
        partition: u32,
        end: u64,
    ) -> Result<(PartitionWriter, Recovery), OpenError> {
        let open =
            || PartitionWriter::open(fs.clone(), dir, config.clone(), log_id, partition, None);
        let (mut writer, recovery) = open()?;
        if writer.end() <= end {
            return Ok((writer, recovery));
        }
        let failed = |source: io::Error| OpenError::Io {
            path: dir.to_owned(),
            source,
        };
        writer
            .sync()
            .map_err(|error| failed(io::Error::other(error)))?;
        let kept = cut_files(&mut writer, end).map_err(|error| match error {
            ReadError::Io { path, source } => OpenError::Io { path, source },
            other => OpenError::Refused {
                path: dir.to_owned(),
                why: other.to_string(),
            },
        })?;
        // Gives the lock back before it is taken again.
        drop(writer);
        let (mut writer, _) = open()?;
        let again = |error: AppendError| failed(io::Error::other(error));
        writer.append(&kept).map_err(again)?;
        writer.sync().map_err(again)?;
        Ok((writer, recovery))
    }
}

/// Removes later segments, last one first, and shortens the one that holds
/// `end` to its last whole batch before. Returns the records between.
fn cut_files(writer: &mut PartitionWriter, end: u64) -> Result<Vec<Pending>, ReadError> {
    let fs = writer.fs.clone();
    let dir = writer.dir.clone();
    let failed = |source: io::Error| ReadError::Io {
        path: dir.clone(),
        source,
    };
    let found = recovery::examine(&*fs, &dir, None).map_err(failed)?;
    if end < found.begin {
        return Err(ReadError::Trimmed {
            asked: end,
            begin: found.begin,
        });
    }
    let holder = found
        .segments
        .iter()
        .rposition(|info| info.header.base <= end);
    let Some(holder) = holder else {
        return Ok(Vec::new());
    };
    let info = &found.segments[holder];
    let (position, batch_end) = batch_before(&*fs, info, end).map_err(failed)?;
    let reader = PartitionReader::open_in(fs.clone(), &dir)?;
    let kept = reader.read(batch_end, end, usize::MAX)?;
    let again = |record: StoredRecord| {
        let kind = record.kind().ok_or_else(|| ReadError::Refused {
            path: info.path.clone(),
            why: format!("record kind {:#06x} is not known", record.kind_number),
        })?;
        Ok(Pending {
            kind,
            time_us: record.time_us,
            payload: record.payload.to_vec(),
            digest: record.digest,
        })
    };
    let kept: Vec<Pending> = kept
        .into_iter()
        .map(again)
        .collect::<Result<_, ReadError>>()?;
    (|| {
        // Checkpoints are for logs that are never cut; one of a later offset
        // would now witness against this one.
        match fs.remove(&dir.join(crate::checkpoint::FILE_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for later in found.segments[holder + 1..].iter().rev() {
            fs.remove(&later.path)?;
            fs.sync_dir(&dir)?;
        }
        for base in found.segments[holder..].iter().map(|info| info.header.base) {
            match fs.remove(&segment::index_path(&dir, base)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs.set_read_only(&info.path, false)?;
        let file = fs.open(&info.path, OpenMode::ReadWrite)?;
        file.set_len(position)?;
        file.sync_all()?;
        fs.sync_dir(&dir)
    })()
    .map_err(failed)?;
    Ok(kept)
}

/// Position and offset behind the last batch that ends at or before `end`.
fn batch_before(
    fs: &dyn FileSystem,
    info: &recovery::SegmentInfo,
    end: u64,
) -> io::Result<(u64, u64)> {
    let file = fs.open(&info.path, OpenMode::Read)?;
    let mut batches = BatchScanner::new(info.header.clone(), Check::Checksums);
    let mut frames = FrameScanner::new(&*file, info.header.salt, batches.position);
    let mut last = (batches.position, batches.end);
    while let Step::Frame(frame) = frames.step()? {
        if frame.header.kind == kind::SEAL || batches.take(&frame).is_err() || batches.end > end {
            break;
        }
        last = (batches.position, batches.end);
    }
    Ok(last)
}
