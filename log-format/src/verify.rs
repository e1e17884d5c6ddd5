//! Checking a whole partition: checksums, the chain, the signatures.
//!
//! Reads in bounded memory, segment after segment, and reports the first
//! damage of each. Source: FORMAT.md, section 11.

use std::io;
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;

use crate::checkpoint::{self, CHECKPOINT_BYTES, Checkpoint};
use crate::error::ReadError;
use crate::file_system::{FileSystem, OpenMode, read_all};
use crate::frame::{FrameFault, kind};
use crate::record::{Envelope, EnvelopeError};
use crate::recovery;
use crate::scan::{BatchScanner, FrameScanner, Step};

/// How deep to look; each level includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every checksum, offset, batch, link and seal.
    Crc,
    /// Also every payload's digest, recomputed from the payload.
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

/// Checks a partition whose [`recovery::examine`] was clean or torn.
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
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ReadError::Io { path, source }
    };
    let found = recovery::examine(fs, dir, None).map_err(failed(dir))?;
    let mut report = Report::default();
    let mut checkpoints = found.checkpoints.iter().enumerate().peekable();
    for info in &found.segments {
        let file = fs
            .open(&info.path, OpenMode::Read)
            .map_err(failed(&info.path))?;
        let mut batches = BatchScanner::new(info.header.clone());
        let mut frames = FrameScanner::new(&*file, info.header.salt, batches.position);
        let scanned_before = report.bytes;
        // Links inside a batch are not stored, so checkpoints, which stand at
        // batch ends, are held against the link there.
        loop {
            while let Some((number, checkpoint)) =
                checkpoints.next_if(|(_, checkpoint)| checkpoint.offset <= batches.end)
            {
                if level < Level::Signatures || checkpoint.offset < found.begin {
                    continue;
                }
                if (checkpoint.offset, checkpoint.link) != (batches.end, batches.link) {
                    report.faults.push(Fault::Checkpoint {
                        number,
                        why: "it names another link than the chain has there",
                    });
                }
            }
            let position = frames.position();
            let step = frames.step().map_err(failed(&info.path))?;
            let fault = match step {
                Step::End => break,
                Step::Bad(_) if info.seal.is_none() && position >= tail_position(&found) => break,
                Step::Bad(fault) => Some(fault),
                Step::Frame(frame) => {
                    if level >= Level::Chain && frame.header.kind == kind::DATA {
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
            report.bytes = scanned_before + frames.position();
            progress(report.bytes);
            if batches.seal.is_some() {
                break;
            }
        }
        report.records += batches.end - info.header.base;
        report.segments += 1;
    }
    if level >= Level::Signatures {
        verify_checkpoints(fs, dir, keys, &found, &mut report).map_err(failed(dir))?;
    }
    Ok(report)
}

fn tail_position(found: &recovery::Examination) -> u64 {
    found.tail.as_ref().map_or(u64::MAX, |tail| tail.position)
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
