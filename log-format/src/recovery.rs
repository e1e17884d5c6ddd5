//! What state a partition is in, and the repair of a torn tail.
//!
//! [`examine`] only looks. [`repair`] cuts what was never acknowledged, and
//! keeps a copy; it never touches what may have been. Source: FORMAT.md,
//! section 10, whose steps are numbered here.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chain;
use crate::checkpoint::{self, Checkpoint};
use crate::error::OpenError;
use crate::file_system::{File, FileSystem, OpenMode, read_all};
use crate::frame::{ALIGNMENT, FrameFault, FrameHeader, HEADER_BYTES, MAGIC};
use crate::partition::Witness;
use crate::scan::{BatchScanner, Check, FrameScanner, Step};
use crate::seal::{self, Seal};
use crate::segment::{self, HEADER_PAGE_BYTES, SegmentHeader};

/// Folder of cut-off bytes below a partition's.
pub const QUARANTINE_DIR: &str = "quarantine";

/// What an opening for writing found and did. Damage is an [`OpenError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing but whole batches.
    Clean { end: u64 },
    /// A tail that was never acknowledged was cut off and kept aside.
    Torn {
        end: u64,
        cut_bytes: u64,
        quarantine: PathBuf,
    },
}

impl Recovery {
    /// Offset behind the last record.
    pub fn end(&self) -> u64 {
        match self {
            Recovery::Clean { end } | Recovery::Torn { end, .. } => *end,
        }
    }
}

/// The state of a partition.
#[derive(Clone, Debug)]
pub enum Verdict {
    Clean,
    /// Bytes follow that were never acknowledged, as far as is known.
    Torn {
        segment: PathBuf,
        /// Position of the first byte that does not count.
        position: u64,
        cut_bytes: u64,
        fault: FrameFault,
    },
    /// Bytes that were acknowledged are damaged or missing.
    Corrupt(Box<Evidence>),
    /// Not a log, or not one that this version can judge.
    Refused {
        path: PathBuf,
        why: String,
    },
}

/// Why a partition counts as corrupt.
#[derive(Clone, Debug)]
pub struct Evidence {
    pub segment: PathBuf,
    /// Position behind the last whole batch.
    pub position: u64,
    /// Offset behind the last record that can be believed.
    pub good_end: u64,
    /// Records from `good_end` up to here were acknowledged, at least.
    pub known_end: u64,
    pub fault: Option<FrameFault>,
    pub proof: Proof,
}

/// What proves that lost bytes were acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A later frame says that the bytes before it had been synced up to here.
    SyncedPosition { frame_at: u64, synced: u64 },
    /// A checkpoint names a later offset.
    Checkpoint { offset: u64 },
    /// The caller knows of a later offset.
    LeastEnd { end: u64 },
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Evidence {
            segment,
            position,
            good_end,
            known_end,
            ..
        } = self;
        write!(
            f,
            "{} at byte {position}: acknowledged records from offset {good_end} to at least {known_end} are damaged or missing",
            segment.display()
        )?;
        if let Some(fault) = &self.fault {
            write!(f, " ({fault})")?;
        }
        match self.proof {
            Proof::SyncedPosition { frame_at, synced } => {
                write!(
                    f,
                    "; the frame at byte {frame_at} was written when {synced} bytes were synced"
                )
            }
            Proof::Checkpoint { offset } => write!(f, "; a checkpoint covers offset {offset}"),
            Proof::LeastEnd { end } => write!(f, "; the state derived from the log is at {end}"),
        }
    }
}

/// A segment that a look at the partition found.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    pub path: PathBuf,
    pub header: SegmentHeader,
    pub bytes: u64,
    /// Where the seal frame stands; `None` for the segment that is written to.
    pub seal: Option<(Seal, u64)>,
}

/// What [`examine`] found.
#[derive(Debug)]
pub struct Examination {
    pub verdict: Verdict,
    /// By rising base.
    pub segments: Vec<SegmentInfo>,
    pub checkpoints: Vec<Checkpoint>,
    /// Bytes of whole checkpoints in their file.
    pub checkpoint_bytes: u64,
    /// Offset of the first record that is there.
    pub begin: u64,
    /// Offset behind the last record that can be believed.
    pub end: u64,
    /// Chain link there; 32 zero bytes in a partition without segments.
    pub link: [u8; 32],
    /// Offset behind the last record that the files say was synced.
    pub synced_end: u64,
    /// Append time of the last record.
    pub time_us: u64,
    /// The unsealed last segment, as far as it can be believed.
    pub(crate) tail: Option<Tail>,
}

/// The unsealed last segment.
#[derive(Debug)]
pub(crate) struct Tail {
    pub file: Arc<dyn File>,
    pub file_bytes: u64,
    pub position: u64,
    pub merkle: chain::Merkle,
    pub index: crate::index::SparseIndex,
    /// A whole seal frame without a trailer: sealing was interrupted.
    pub seal: Option<(Seal, u64)>,
}

impl fmt::Debug for dyn File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("File")
    }
}

/// Looks at a partition without changing it (steps 1 to 5).
///
/// Beside a live writer the verdict may be `Torn` for a batch that is just
/// being written; `FileSystem::is_locked` tells whether there is one.
///
/// Errors: of the file system only; damage is a [`Verdict`].
pub fn examine(
    fs: &dyn FileSystem,
    dir: &Path,
    least_end: Option<Witness>,
) -> io::Result<Examination> {
    let mut found = Examination {
        verdict: Verdict::Clean,
        segments: Vec::new(),
        checkpoints: Vec::new(),
        checkpoint_bytes: 0,
        begin: 0,
        end: 0,
        link: [0; 32],
        synced_end: 0,
        time_us: 0,
        tail: None,
    };
    match read_all(fs, &dir.join(checkpoint::FILE_NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        bytes => {
            let (whole, used) = checkpoint::parse_file(&bytes?);
            found.checkpoints = whole;
            found.checkpoint_bytes = used as u64;
        }
    }
    if let Err(refusal) = walk_segments(fs, dir, &mut found)? {
        found.verdict = Verdict::Refused {
            path: refusal.0,
            why: refusal.1,
        };
        return Ok(found);
    }
    apply_witnesses(dir, &mut found, least_end);
    Ok(found)
}

type Refusal = (PathBuf, String);

/// Steps 1 to 3: the files fit each other, and the last one is scanned.
fn walk_segments(
    fs: &dyn FileSystem,
    dir: &Path,
    found: &mut Examination,
) -> io::Result<Result<(), Refusal>> {
    let names = fs.list(dir)?;
    let mut bases: Vec<u64> = names
        .iter()
        .filter_map(|name| segment::parse_file_name(name))
        .collect();
    bases.sort_unstable();
    for (number, base) in bases.iter().copied().enumerate() {
        let path = dir.join(segment::file_name(base));
        let file = fs.open(&path, OpenMode::Read)?;
        let header = match read_header(&*file)? {
            Ok(header) => header,
            Err(why) => return Ok(Err((path, why))),
        };
        if let Err(why) = fits_predecessor(&header, base, found.segments.last()) {
            return Ok(Err((path, why)));
        }
        let bytes = file.len()?;
        let seal = read_seal(&*file, &header, bytes)?;
        let last = number + 1 == bases.len();
        if seal.is_none() && !last {
            return Ok(Err((
                path,
                "segment is not sealed, or its seal is damaged, yet others follow".to_owned(),
            )));
        }
        if number == 0 {
            found.begin = base;
        }
        let info = SegmentInfo {
            path,
            header,
            bytes,
            seal,
        };
        match &info.seal {
            Some((seal, position)) => {
                found.end = seal.end;
                found.link = seal.link;
                found.synced_end = seal.end;
                if last {
                    found.time_us = seal_time(&*file, *position)?;
                }
            }
            None => scan_tail(file, &info, found)?,
        }
        found.segments.push(info);
        if let Verdict::Refused { path, why } = &found.verdict {
            return Ok(Err((path.clone(), why.clone())));
        }
    }
    Ok(Ok(()))
}

/// A segment's header page. Inner error: why it is refused.
pub(crate) fn read_header(file: &dyn File) -> io::Result<Result<SegmentHeader, String>> {
    let mut page = vec![0; HEADER_PAGE_BYTES];
    let read = file.read_at(&mut page, 0)?;
    Ok(SegmentHeader::decode(&page[..read]).map_err(|fault| fault.to_string()))
}

fn fits_predecessor(
    header: &SegmentHeader,
    base: u64,
    before: Option<&SegmentInfo>,
) -> Result<(), String> {
    if header.base != base {
        return Err(format!(
            "header says base offset {}, the name says {base}",
            header.base
        ));
    }
    let Some(before) = before else {
        let genesis = chain::genesis(header.log_id, header.partition);
        if base == 0 && header.link_before != genesis {
            return Err("first link is not that of the log's id and partition".to_owned());
        }
        return Ok(());
    };
    let same_log =
        before.header.log_id == header.log_id && before.header.partition == header.partition;
    if !same_log {
        return Err("segment belongs to another log or partition than the one before".to_owned());
    }
    let Some((seal, _)) = &before.seal else {
        return Err("segment before is not sealed".to_owned());
    };
    if seal.end != base {
        return Err(format!(
            "segment before ends at offset {}, this one begins at {base}",
            seal.end
        ));
    }
    if seal.link != header.link_before || seal.digest() != header.previous_seal {
        return Err("segment is not the successor of the one before".to_owned());
    }
    Ok(())
}

/// The seal of a finished segment, found through its trailer.
pub(crate) fn read_seal(
    file: &dyn File,
    header: &SegmentHeader,
    bytes: u64,
) -> io::Result<Option<(Seal, u64)>> {
    let mut trailer = [0; seal::TRAILER_BYTES];
    let Some(at) = bytes.checked_sub(seal::TRAILER_BYTES as u64) else {
        return Ok(None);
    };
    if file.read_at(&mut trailer, at)? != trailer.len() {
        return Ok(None);
    }
    let Some(position) = seal::decode_trailer(&trailer, header.salt, bytes) else {
        return Ok(None);
    };
    let mut scanner = FrameScanner::new(file, header.salt, position);
    let Step::Frame(frame) = scanner.step()? else {
        return Ok(None);
    };
    let fits = frame.header.kind == crate::frame::kind::SEAL;
    let seal = fits.then(|| Seal::decode(frame.payload).ok()).flatten();
    let seal = seal.filter(|seal| seal.first == header.base && seal.link == frame.header.hash);
    Ok(seal.map(|seal| (seal, position)))
}

fn seal_time(file: &dyn File, position: u64) -> io::Result<u64> {
    let mut raw = [0; HEADER_BYTES];
    file.read_at(&mut raw, position)?;
    Ok(FrameHeader::decode(&raw).map_or(0, |header| header.time_us))
}

/// Steps 2 to 4 for the unsealed last segment.
fn scan_tail(file: Arc<dyn File>, info: &SegmentInfo, found: &mut Examination) -> io::Result<()> {
    let mut frames = FrameScanner::new(&*file, info.header.salt, HEADER_PAGE_BYTES as u64);
    let mut batches = BatchScanner::new(info.header.clone(), Check::Checksums);
    let fault = loop {
        match frames.step()? {
            Step::End => break None,
            Step::Bad(fault) => break Some(fault),
            Step::Frame(frame) => {
                if let Err(fault) = batches.take(&frame) {
                    break Some(fault);
                }
                if batches.seal.is_some() {
                    break None;
                }
            }
        }
    };
    let position = batches.position;
    let last_written = last_nonzero(&*file, position, info.bytes)?;
    found.end = batches.end;
    found.link = batches.link;
    found.synced_end = batches.synced_end;
    found.time_us = batches.time_us;
    if batches.seal.is_none() && last_written > position {
        // A batch may be whole frames without a commit: then nothing was bad.
        let fault = fault.unwrap_or(FrameFault::BatchOrder);
        found.verdict = judge_tail(&*file, info, &batches, last_written, fault)?;
    }
    found.tail = Some(Tail {
        file_bytes: info.bytes,
        position,
        merkle: batches.merkle,
        index: batches.index,
        seal: batches.seal,
        file,
    });
    Ok(())
}

/// What is read at a time of a range; enough for a header beyond its end.
fn chunk_bytes(from: u64, to: u64) -> usize {
    let range = to.saturating_sub(from).min(256 << 10) as usize;
    (range + HEADER_BYTES).next_multiple_of(ALIGNMENT)
}

/// Position behind the last byte from `from` on that is not zero; `from` if all are.
fn last_nonzero(file: &dyn File, from: u64, to: u64) -> io::Result<u64> {
    let mut buffer = vec![0; chunk_bytes(from, to)];
    let mut last = from;
    let mut at = from;
    while at < to {
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            break;
        }
        if let Some(index) = buffer[..read].iter().rposition(|byte| *byte != 0) {
            last = at + index as u64 + 1;
        }
        at += read as u64;
    }
    Ok(last)
}

/// Step 4: were the bytes behind the last whole batch ever acknowledged?
fn judge_tail(
    file: &dyn File,
    info: &SegmentInfo,
    good: &BatchScanner,
    written_to: u64,
    fault: FrameFault,
) -> io::Result<Verdict> {
    match fault {
        // These checksums held, so the bytes are meant: a later version wrote them.
        FrameFault::Version(_) | FrameFault::Kind(_) | FrameFault::Flags(_) => {
            return Ok(Verdict::Refused {
                path: info.path.clone(),
                why: format!("frame at byte {}: {fault}", good.position),
            });
        }
        _ => {}
    }
    let mut known_end = good.end;
    let mut proof = None;
    let mut buffer = vec![0; chunk_bytes(good.position, written_to)];
    let mut at = good.position;
    while at < written_to {
        let read = file.read_at(&mut buffer, at)?;
        let aligned = (0..read.saturating_sub(HEADER_BYTES - 1)).step_by(ALIGNMENT);
        for start in aligned {
            let bytes = &buffer[start..start + HEADER_BYTES];
            if bytes[..4] != MAGIC.to_le_bytes() {
                continue;
            }
            let Some(header) = bytes
                .first_chunk()
                .and_then(|raw| FrameHeader::decode(raw).ok())
            else {
                continue;
            };
            let synced = u64::from(header.synced);
            if header.salt == info.header.salt && synced > good.position {
                known_end = known_end.max(header.offset);
                proof.get_or_insert(Proof::SyncedPosition {
                    frame_at: at + start as u64,
                    synced,
                });
            }
        }
        if read < buffer.len() {
            break;
        }
        // A header may begin in the last bytes of this chunk.
        at += (read - HEADER_BYTES).next_multiple_of(ALIGNMENT) as u64;
    }
    Ok(match proof {
        Some(proof) => Verdict::Corrupt(Box::new(Evidence {
            segment: info.path.clone(),
            position: good.position,
            good_end: good.end,
            known_end,
            fault: Some(fault),
            proof,
        })),
        None => Verdict::Torn {
            segment: info.path.clone(),
            position: good.position,
            cut_bytes: written_to - good.position,
            fault,
        },
    })
}

/// Step 4, the witnesses outside the segment: checkpoints, and what the caller knows.
fn apply_witnesses(dir: &Path, found: &mut Examination, least_end: Option<Witness>) {
    if matches!(found.verdict, Verdict::Corrupt(_) | Verdict::Refused { .. }) {
        return;
    }
    let checkpoint = found
        .checkpoints
        .iter()
        .map(|checkpoint| checkpoint.offset)
        .max();
    let checkpoint = checkpoint.map(|offset| (offset, Proof::Checkpoint { offset }));
    let caller = least_end.map(|witness| (witness.end, Proof::LeastEnd { end: witness.end }));
    let largest = [checkpoint, caller]
        .into_iter()
        .flatten()
        .max_by_key(|(end, _)| *end);
    let Some((known_end, proof)) = largest.filter(|(end, _)| *end > found.end) else {
        return;
    };
    let fault = match &found.verdict {
        Verdict::Torn { fault, .. } => Some(fault.clone()),
        _ => None,
    };
    let last = found.segments.last();
    found.verdict = Verdict::Corrupt(Box::new(Evidence {
        segment: last.map_or_else(|| dir.to_owned(), |info| info.path.clone()),
        position: found
            .tail
            .as_ref()
            .map_or_else(|| last.map_or(0, |info| info.bytes), |tail| tail.position),
        good_end: found.end,
        known_end,
        fault,
        proof,
    }));
}

/// Cuts a torn tail: copies it to `quarantine/` with a note, then takes it out of
/// the segment (step 6).
///
/// Shape: zeroes in place where the file was zero-filled ahead, a shorter file
/// otherwise. Returns the path of the copy.
pub(crate) fn repair(
    fs: &dyn FileSystem,
    dir: &Path,
    segment: &Path,
    position: u64,
    cut_bytes: u64,
    fault: &FrameFault,
) -> Result<PathBuf, OpenError> {
    let failed = |path: &Path, source: io::Error| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    let quarantine = dir.join(QUARANTINE_DIR);
    let stem = segment
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    // The nonce keeps copies apart though the clock may stand still or jump.
    let name = format!(
        "{}-{position}-{:016x}",
        stem.unwrap_or_default(),
        fs.nonce()
    );
    let copy = quarantine.join(format!("{name}.bin"));
    let note = format!(
        "{{\"segment\":\"{}\",\"position\":{position},\"bytes\":{cut_bytes},\"fault\":\"{fault}\",\"time_us\":{}}}\n",
        segment
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        fs.now_us(),
    );
    (|| {
        fs.create_dir_all(&quarantine)?;
        fs.sync_dir(dir)?;
        let from = fs.open(segment, OpenMode::ReadWrite)?;
        let mut bytes = vec![0; usize::try_from(cut_bytes).unwrap_or(usize::MAX)];
        let read = from.read_at(&mut bytes, position)?;
        bytes.truncate(read);
        let to = fs.open(&copy, OpenMode::CreateNew)?;
        to.write_at(&bytes, 0)?;
        to.sync_all()?;
        let to = fs.open(
            &quarantine.join(format!("{name}.json")),
            OpenMode::CreateNew,
        )?;
        to.write_at(note.as_bytes(), 0)?;
        to.sync_all()?;
        fs.sync_dir(&quarantine)?;
        if from.len()? > position + cut_bytes {
            from.write_at(&vec![0; bytes.len()], position)?;
        } else {
            from.set_len(position)?;
        }
        from.sync_all()
    })()
    .map_err(|source| failed(segment, source))?;
    Ok(copy)
}
