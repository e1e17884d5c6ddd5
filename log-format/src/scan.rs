//! Walking a segment: frame by frame, and batch by batch.
//!
//! [`FrameScanner`] checks each frame on its own; [`BatchScanner`] checks that
//! frames fit each other, and believes a record only once its batch's commit
//! frame holds. Neither decides what damage means: that is `recovery.rs`.

use std::collections::VecDeque;
use std::io;

use crate::chain::{self, Merkle};
use crate::file_system::File;
use crate::frame::{FrameFault, FrameHeader, HEADER_BYTES, SKIPPABLE, kind};
use crate::index::SparseIndex;
use crate::seal::Seal;
use crate::segment::{HEADER_PAGE_BYTES, SegmentHeader};

/// What stands at a position.
#[derive(Debug)]
pub enum Step<'a> {
    Frame(Frame<'a>),
    /// Zeroes or the end of the file: nothing was written here yet.
    End,
    /// Neither a frame nor nothing.
    Bad(FrameFault),
}

/// A frame whose checksums hold.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Position of its header in the file.
    pub position: u64,
    pub header: FrameHeader,
    /// The header's 80 bytes.
    pub raw_header: [u8; HEADER_BYTES],
    pub payload: &'a [u8],
}

/// Reads frames one after the other, in chunks that grow.
pub struct FrameScanner<'a> {
    file: &'a dyn File,
    salt: u32,
    position: u64,
    buffer: Vec<u8>,
    /// Position of the buffer's first byte.
    buffer_at: u64,
    chunk_bytes: usize,
    /// Bytes that are still wanted; beyond them chunks are small again.
    wanted_bytes: usize,
}

const CHUNK_BYTES_MIN: usize = 8 << 10;
/// Small enough to stay in a processor's cache between the read and the checks.
const CHUNK_BYTES_MAX: usize = 128 << 10;

impl<'a> FrameScanner<'a> {
    /// Begins at a position that is a frame's, or where none is yet.
    pub fn new(file: &'a dyn File, salt: u32, position: u64) -> FrameScanner<'a> {
        FrameScanner {
            file,
            salt,
            position,
            buffer: Vec::new(),
            buffer_at: position,
            chunk_bytes: CHUNK_BYTES_MIN,
            wanted_bytes: usize::MAX,
        }
    }

    /// Expects that about so many bytes are wanted, and reads little beyond.
    pub fn expecting(mut self, bytes: usize) -> FrameScanner<'a> {
        self.wanted_bytes = bytes;
        self
    }

    /// Where the next frame is looked for.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next frame. After `End` or `Bad` the position stays.
    pub fn step(&mut self) -> io::Result<Step<'_>> {
        self.fill(HEADER_BYTES)?;
        let Some(raw_header) = self.window().first_chunk::<HEADER_BYTES>().copied() else {
            let nothing = self.window().iter().all(|byte| *byte == 0);
            return Ok(if nothing {
                Step::End
            } else {
                Step::Bad(FrameFault::Truncated)
            });
        };
        if raw_header == [0; HEADER_BYTES] {
            return Ok(Step::End);
        }
        let header = match FrameHeader::decode(&raw_header) {
            Ok(header) if header.salt != self.salt => return Ok(Step::Bad(FrameFault::Salt)),
            Ok(header) => header,
            Err(fault) => return Ok(Step::Bad(fault)),
        };
        let frame_bytes = header.frame_bytes();
        self.fill(frame_bytes)?;
        let start = (self.position - self.buffer_at) as usize;
        let Some(body) = self.buffer.get(start + HEADER_BYTES..start + frame_bytes) else {
            return Ok(Step::Bad(FrameFault::Truncated));
        };
        let payload = &body[..header.payload_len as usize];
        // A commit's checksum covers headers; only its batch can check it.
        if header.kind != kind::COMMIT && crc32c::crc32c(body) != header.body_crc {
            return Ok(Step::Bad(FrameFault::PayloadChecksum));
        }
        if header.kind == kind::COMMIT && header.payload_len != 0 {
            return Ok(Step::Bad(FrameFault::Length(header.payload_len)));
        }
        let position = self.position;
        self.position += frame_bytes as u64;
        Ok(Step::Frame(Frame {
            position,
            header,
            raw_header,
            payload,
        }))
    }

    fn window(&self) -> &[u8] {
        self.buffer
            .get((self.position - self.buffer_at) as usize..)
            .unwrap_or_default()
    }

    /// Has `bytes` from the position on in the buffer, if the file has them.
    fn fill(&mut self, bytes: usize) -> io::Result<()> {
        if self.window().len() >= bytes {
            return Ok(());
        }
        let chunk = self.chunk_bytes.min(self.wanted_bytes.max(CHUNK_BYTES_MIN));
        let wanted = chunk.max(bytes);
        self.wanted_bytes = self.wanted_bytes.saturating_sub(wanted);
        self.chunk_bytes = (self.chunk_bytes * 4).min(CHUNK_BYTES_MAX);
        self.buffer.resize(wanted, 0);
        let read = self.file.read_at(&mut self.buffer, self.position)?;
        self.buffer.truncate(read);
        self.buffer_at = self.position;
        Ok(())
    }
}

/// A record of a committed batch, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    pub offset: u64,
    pub position: u64,
    pub time_us: u64,
    pub record_kind: u16,
    pub digest: [u8; 32],
}

/// How much of a batch is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Checksums, offsets, order. Accidents show; links are taken as they stand.
    Checksums,
    /// Also every link and Merkle root, computed anew. Edits show.
    Links,
}

/// How far a segment could be believed.
#[derive(Debug)]
pub struct BatchScanner {
    header: SegmentHeader,
    check: Check,
    /// Position behind the last whole batch.
    pub position: u64,
    /// Offset behind the last record of a whole batch.
    pub end: u64,
    /// Chain link there.
    pub link: [u8; 32],
    /// Append time of the last record.
    pub time_us: u64,
    /// Largest synced position that any believed frame carries.
    pub synced: u64,
    /// Offset behind the last record that `synced` covers.
    pub synced_end: u64,
    /// Position and end behind each batch that `synced` does not cover yet.
    unsynced: VecDeque<(u64, u64)>,
    pub merkle: Merkle,
    pub index: SparseIndex,
    /// The seal, if the segment has one, and its position.
    pub seal: Option<(Seal, u64)>,
    /// Records since the last commit frame, not believed yet.
    pending: Vec<RecordPlace>,
    pending_crc: u32,
}

impl BatchScanner {
    /// Begins at the first frame of a segment.
    pub fn new(header: SegmentHeader, check: Check) -> BatchScanner {
        BatchScanner {
            check,
            position: HEADER_PAGE_BYTES as u64,
            end: header.base,
            link: header.link_before,
            time_us: header.time_before_us,
            synced: 0,
            synced_end: header.base,
            unsynced: VecDeque::new(),
            merkle: Merkle::default(),
            index: SparseIndex::default(),
            seal: None,
            pending: Vec::new(),
            pending_crc: 0,
            header,
        }
    }

    /// Forgets records without a commit frame, to begin anew at the position.
    pub fn forget_pending(&mut self) {
        self.pending.clear();
        self.pending_crc = 0;
    }

    /// Takes the next frame. Returns the records that it made believable, if it
    /// is a commit frame.
    ///
    /// Errors: the frame does not belong here; nothing changes, and everything
    /// up to [`BatchScanner::position`] stays believed.
    pub fn take(&mut self, frame: &Frame<'_>) -> Result<Vec<RecordPlace>, FrameFault> {
        if self.seal.is_some() {
            return Err(FrameFault::Seal);
        }
        let next = self.end + self.pending.len() as u64;
        if frame.header.offset != next && frame.header.kind < SKIPPABLE {
            return Err(FrameFault::Offset {
                expected: next,
                found: frame.header.offset,
            });
        }
        match frame.header.kind {
            kind::DATA => self.take_data(frame).map(|()| Vec::new()),
            kind::COMMIT => self.take_commit(frame),
            kind::SEAL => self.take_seal(frame).map(|()| Vec::new()),
            _ if !self.pending.is_empty() => Err(FrameFault::BatchOrder),
            _ => {
                self.believe(frame);
                Ok(Vec::new())
            }
        }
    }

    fn take_data(&mut self, frame: &Frame<'_>) -> Result<(), FrameFault> {
        let header = &frame.header;
        if usize::from(header.batch_index()) != self.pending.len() {
            return Err(FrameFault::BatchOrder);
        }
        let before = self
            .pending
            .last()
            .map_or(self.time_us, |last| last.time_us);
        if header.time_us < before {
            return Err(FrameFault::Time);
        }
        self.pending_crc = crc32c::crc32c_append(self.pending_crc, &frame.raw_header);
        self.pending.push(RecordPlace {
            offset: header.offset,
            position: frame.position,
            time_us: header.time_us,
            record_kind: header.record_kind(),
            digest: header.hash,
        });
        Ok(())
    }

    fn take_commit(&mut self, frame: &Frame<'_>) -> Result<Vec<RecordPlace>, FrameFault> {
        let header = &frame.header;
        if header.tail as usize != self.pending.len() || header.body_crc != self.pending_crc {
            return Err(FrameFault::Batch);
        }
        if self.check == Check::Links && self.pending_link() != header.hash {
            return Err(FrameFault::Link);
        }
        let records = std::mem::take(&mut self.pending);
        for record in &records {
            self.merkle.push_later(&record.digest);
            let relative = record.offset - self.header.base;
            self.index.note(relative, record.position, record.time_us);
        }
        self.time_us = records.last().map_or(self.time_us, |last| last.time_us);
        self.pending_crc = 0;
        self.link = header.hash;
        self.end = header.offset;
        self.believe(frame);
        Ok(records)
    }

    /// The link behind the records that wait for their commit frame.
    fn pending_link(&self) -> [u8; 32] {
        self.pending.iter().fold(self.link, |link, record| {
            let RecordPlace {
                offset,
                time_us,
                record_kind,
                digest,
                ..
            } = record;
            chain::link(&link, *offset, *time_us, *record_kind, digest)
        })
    }

    fn take_seal(&mut self, frame: &Frame<'_>) -> Result<(), FrameFault> {
        let seal = Seal::decode(frame.payload)?;
        let fits = self.pending.is_empty()
            && seal.first == self.header.base
            && seal.end == self.end
            && seal.link == self.link
            && (self.check == Check::Checksums || seal.merkle_root == self.merkle.root())
            && frame.header.hash == self.link;
        if !fits {
            return Err(FrameFault::Seal);
        }
        self.believe(frame);
        self.synced_end = self.end;
        self.seal = Some((seal, frame.position));
        Ok(())
    }

    fn believe(&mut self, frame: &Frame<'_>) {
        self.position = frame.position + frame.header.frame_bytes() as u64;
        self.synced = self.synced.max(u64::from(frame.header.synced));
        while let Some((position, end)) = self.unsynced.front().copied()
            && position <= self.synced
        {
            self.synced_end = end;
            self.unsynced.pop_front();
        }
        self.unsynced.push_back((self.position, self.end));
    }
}
