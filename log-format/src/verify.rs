//! Checking a whole partition: checksums, the chain, the signatures.
//!
//! Reads in bounded memory and reports the first damage of each segment. Source: FORMAT.md, section 11.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use ed25519_dalek::VerifyingKey;

use crate::checkpoint::{self, CHECKPOINT_BYTES, Checkpoint};
use crate::error::ReadError;
use crate::file_system::{FileSystem, OpenMode, read_all};
use crate::frame::{FrameFault, kind};
use crate::record::{Envelope, EnvelopeError};
use crate::recovery::{self, SegmentInfo};
use crate::scan::{BatchScanner, Check, FrameScanner, Step};

/// How deep to look; each level includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every checksum, offset, batch and seal, as recovery looks at them.
    Crc,
    /// Also every payload's digest, link and Merkle root, computed anew.
    Chain,
    /// Also every checkpoint's place in the chain and its signature.
    Signatures,
}

/// Something that does not check out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    #[error("{} at byte {position}, offset {offset}: {fault}", segment.display())]
    Frame {
        segment: PathBuf,
        position: u64,
        offset: u64,
        fault: FrameFault,
    },
    #[error("{} at byte {position}, offset {offset}: payload does not have the digest that the chain covers", segment.display())]
    Digest {
        segment: PathBuf,
        position: u64,
        offset: u64,
    },
    #[error("{} at byte {position}, offset {offset}: {fault}", segment.display())]
    Envelope {
        segment: PathBuf,
        position: u64,
        offset: u64,
        fault: EnvelopeError,
    },
    #[error("checkpoint {number}: {why}")]
    Checkpoint { number: usize, why: &'static str },
}

/// What a verification saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub records: u64,
    pub bytes: u64,
    pub segments: usize,
    pub checkpoints: usize,
    pub faults: Vec<Fault>,
}

/// Checks a partition whose [`recovery::examine`] was clean or torn, segments
/// side by side on all processors: each header names the link that the one
/// before must end with, which `examine` has held against its seal.
///
/// `keys`: for [`Level::Signatures`], who may have signed. `progress` is called
/// with the bytes read so far.
pub fn verify(
    fs: &dyn FileSystem,
    dir: &Path,
    level: Level,
    keys: &[VerifyingKey],
    mut progress: impl FnMut(u64),
) -> Result<Report, ReadError> {
    let found = recovery::examine(fs, dir, None).map_err(failed(dir))?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let (told, steps) = mpsc::channel();
    let work = |told: mpsc::Sender<u64>| {
        let mut parts = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(info) = found.segments.get(number) else {
                return parts;
            };
            let segment = Segment {
                info,
                level,
                checkpoints: &found.checkpoints,
                tail_position: found.tail.as_ref().map_or(u64::MAX, |tail| tail.position),
            };
            parts.push((number, segment.verify(fs, &told)));
        }
    };
    let mut parts = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(found.segments.len()))
            .map(|_| {
                let (work, told) = (&work, told.clone());
                scope.spawn(move || work(told))
            })
            .collect();
        drop(told);
        let mut bytes = 0;
        for step in steps {
            bytes += step;
            progress(bytes);
        }
        let joined = workers.into_iter().filter_map(|worker| worker.join().ok());
        joined.flatten().collect::<Vec<_>>()
    });
    parts.sort_by_key(|(number, _)| *number);
    if parts.len() != found.segments.len() {
        let source = io::Error::other("a verifying thread panicked");
        return Err(failed(dir)(source));
    }
    let mut report = Report::default();
    for (_, part) in parts {
        let part = part?;
        report.records += part.records;
        report.bytes += part.bytes;
        report.segments += 1;
        report.faults.extend(part.faults);
    }
    if level >= Level::Signatures {
        verify_checkpoints(fs, dir, keys, &found, &mut report).map_err(failed(dir))?;
    }
    Ok(report)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ReadError {
    let path = path.to_owned();
    move |source| ReadError::Io { path, source }
}

/// One segment and what is known about it from outside.
struct Segment<'a> {
    info: &'a SegmentInfo,
    level: Level,
    checkpoints: &'a [Checkpoint],
    /// Of an unsealed segment: where what does not count begins.
    tail_position: u64,
}

/// Bytes after which progress is told.
const TELL_BYTES: u64 = 1 << 20;

impl Segment<'_> {
    fn verify(&self, fs: &dyn FileSystem, told: &mpsc::Sender<u64>) -> Result<Report, ReadError> {
        let (info, mut report) = (self.info, Report::default());
        let file = fs
            .open(&info.path, OpenMode::Read)
            .map_err(failed(&info.path))?;
        let check = match self.level {
            Level::Crc => Check::Checksums,
            Level::Chain | Level::Signatures => Check::Links,
        };
        let mut batches = BatchScanner::new(info.header.clone(), check);
        let mut frames = FrameScanner::new(&*file, info.header.salt, batches.position);
        // The link before the first record is the end of the segment before,
        // whose checkpoint is looked at there; the very first has none before.
        let first = self
            .checkpoints
            .iter()
            .filter(|one| one.offset <= info.header.base);
        let mut number = first.count();
        while batches.seal.is_none() {
            let position = frames.position();
            let fault = match frames.step().map_err(failed(&info.path))? {
                Step::End if info.seal.is_none() => break,
                Step::Bad(_) if info.seal.is_none() && position >= self.tail_position => break,
                // A sealed segment goes on to its seal.
                Step::End => Some(FrameFault::Truncated),
                Step::Bad(fault) => Some(fault),
                Step::Frame(frame) => {
                    if self.level >= Level::Chain && frame.header.kind == kind::DATA {
                        check_digest(&info.path, &frame, &mut report);
                    }
                    batches.take(&frame).err()
                }
            };
            if let Some(fault) = fault {
                report.faults.push(Fault::Frame {
                    segment: info.path.clone(),
                    position,
                    offset: batches.end,
                    fault,
                });
                break;
            }
            self.check_links(&batches, &mut number, &mut report);
            if frames.position() - report.bytes >= TELL_BYTES {
                let _ = told.send(frames.position() - report.bytes);
                report.bytes = frames.position();
            }
        }
        let _ = told.send(frames.position() - report.bytes);
        report.bytes = frames.position();
        report.records = batches.end - info.header.base;
        Ok(report)
    }

    /// Holds the checkpoints up to here against the chain. Links inside a batch
    /// are not stored; checkpoints stand at the ends of batches.
    fn check_links(&self, batches: &BatchScanner, number: &mut usize, report: &mut Report) {
        while let Some(checkpoint) = self.checkpoints.get(*number)
            && checkpoint.offset <= batches.end
        {
            let fits = (checkpoint.offset, checkpoint.link) == (batches.end, batches.link);
            if self.level >= Level::Signatures && !fits {
                report.faults.push(Fault::Checkpoint {
                    number: *number,
                    why: "it names another link than the chain has there",
                });
            }
            *number += 1;
        }
    }
}

fn check_digest(segment: &Path, frame: &crate::scan::Frame<'_>, report: &mut Report) {
    let (position, offset) = (frame.position, frame.header.offset);
    let segment = segment.to_owned();
    match Envelope::parse(frame.payload) {
        Ok(envelope) if envelope.digest() == frame.header.hash => {}
        Ok(_) => report.faults.push(Fault::Digest {
            segment,
            position,
            offset,
        }),
        // A kind of a later version: its digest cannot be recomputed here.
        Err(EnvelopeError::Kind(_)) => {}
        Err(fault) => report.faults.push(Fault::Envelope {
            segment,
            position,
            offset,
            fault,
        }),
    }
}

fn verify_checkpoints(
    fs: &dyn FileSystem,
    dir: &Path,
    keys: &[VerifyingKey],
    found: &recovery::Examination,
    report: &mut Report,
) -> io::Result<()> {
    let log = found
        .segments
        .first()
        .map(|info| (info.header.log_id, info.header.partition));
    let mut previous = [0; 32];
    for (number, checkpoint) in found.checkpoints.iter().enumerate() {
        report.checkpoints += 1;
        if let Some(why) = judge_checkpoint(checkpoint, &previous, log, keys) {
            report.faults.push(Fault::Checkpoint { number, why });
        }
        previous = checkpoint.digest();
    }
    let bytes = match read_all(fs, &dir.join(checkpoint::FILE_NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        bytes => bytes?,
    };
    // Less than a whole one at the end is a torn write; more is damage.
    if bytes.len() as u64 >= found.checkpoint_bytes + CHECKPOINT_BYTES as u64 {
        report.faults.push(Fault::Checkpoint {
            number: found.checkpoints.len(),
            why: "it is damaged",
        });
    }
    Ok(())
}

fn judge_checkpoint(
    checkpoint: &Checkpoint,
    previous: &[u8; 32],
    log: Option<(crate::LogId, u32)>,
    keys: &[VerifyingKey],
) -> Option<&'static str> {
    if checkpoint.previous != *previous {
        return Some("it does not follow the one before");
    }
    if log != Some((checkpoint.log_id, u32::from(checkpoint.partition))) {
        return Some("it belongs to another log or partition");
    }
    let known = keys
        .iter()
        .find(|key| checkpoint::key_id(key) == checkpoint.key_id);
    match known {
        None => Some("its key is not known"),
        Some(key) if !checkpoint.verify(key) => Some("its signature is not valid"),
        Some(_) => None,
    }
}
