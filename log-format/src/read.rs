//! Reading a partition: by offset, from the front, and at its growing end.
//!
//! A reader shares nothing with the writer but the files, so it works beside a
//! live one, in this process or another. What of the end may be shown is the
//! caller's knowledge ([`PartitionReader::read`], `below`) or found in the files
//! ([`PartitionReader::find_end`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use bytes::Bytes;

use crate::chain;
use crate::error::ReadError;
use crate::file_system::{File, FileSystem, OpenMode, RealFileSystem, read_all};
use crate::frame::{FrameFault, FrameHeader, HEADER_BYTES, flags, kind};
use crate::index::SparseIndex;
use crate::record::{Envelope, EnvelopeError, Kind};
use crate::recovery;
use crate::scan::{BatchScanner, Check, Frame, FrameScanner, Step};
use crate::seal::Seal;
use crate::segment::{self, HEADER_PAGE_BYTES, SegmentHeader};

/// A record as it is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    pub offset: u64,
    /// Microseconds since the epoch.
    pub time_us: u64,
    /// Number of the record's kind, which a later version may have added.
    pub kind_number: u16,
    /// The digest that the chain covers, as the frame carries it.
    pub digest: [u8; 32],
    /// Whether a rewrite removed the erasable part.
    pub erased: bool,
    pub payload: Bytes,
}

impl StoredRecord {
    /// The record's kind, if this version knows it.
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_number(self.kind_number)
    }

    /// The payload, read in place.
    pub fn envelope(&self) -> Result<Envelope<'_>, EnvelopeError> {
        Envelope::parse(&self.payload)
    }
}

/// Where a partition ends, as far as its files say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Offset behind the last record of a whole batch.
    pub written: u64,
    /// Offset behind the last record whose sync is known to have returned.
    pub synced: u64,
}

/// Reads one partition. Cheap to share: every method takes `&self`.
pub struct PartitionReader {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    /// By rising base.
    segments: RwLock<Arc<Vec<Arc<Segment>>>>,
}

/// One file, opened when it is first needed.
struct Segment {
    base: u64,
    path: PathBuf,
    opened: OnceLock<Opened>,
    place: Mutex<Places>,
}

struct Opened {
    file: Arc<dyn File>,
    header: SegmentHeader,
    seal: Option<(Seal, u64)>,
}

/// What earlier reads found out about where records stand.
#[derive(Default)]
struct Places {
    index: SparseIndex,
    /// Offset behind the furthest record read, and the position there.
    frontier: Option<(u64, u64)>,
}

/// How a walk through frames goes on.
enum Walk {
    /// The frame was used; go on.
    On,
    /// The frame was used; it is the last one wanted.
    Last,
    /// The frame is not wanted, and may not even be a record yet.
    Stop,
}

/// Why a walk ended.
#[derive(PartialEq, Eq)]
enum Walked {
    Stopped,
    /// Nothing more is written.
    End,
    /// The segment is sealed here; another one follows.
    Sealed,
}

impl PartitionReader {
    /// Opens a partition's folder of the machine's own files.
    pub fn open(dir: &Path) -> Result<PartitionReader, ReadError> {
        PartitionReader::open_in(Arc::new(RealFileSystem), dir)
    }

    /// Opens a partition's folder. It may still be empty.
    pub fn open_in(fs: Arc<dyn FileSystem>, dir: &Path) -> Result<PartitionReader, ReadError> {
        let reader = PartitionReader {
            fs,
            dir: dir.to_owned(),
            segments: RwLock::new(Arc::new(Vec::new())),
        };
        reader.refresh()?;
        Ok(reader)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Looks for segments that came or went since the last look.
    pub fn refresh(&self) -> Result<(), ReadError> {
        let names = self
            .fs
            .list(&self.dir)
            .map_err(|source| self.io(&self.dir, source))?;
        let mut bases: Vec<u64> = names
            .iter()
            .filter_map(|name| segment::parse_file_name(name))
            .collect();
        bases.sort_unstable();
        let known = self.segments();
        let segments = bases.into_iter().map(|base| {
            let same = known.binary_search_by_key(&base, |segment| segment.base);
            same.map_or_else(
                |_| Arc::new(Segment::new(&self.dir, base)),
                |at| known[at].clone(),
            )
        });
        let segments = Arc::new(segments.collect());
        *self
            .segments
            .write()
            .unwrap_or_else(PoisonError::into_inner) = segments;
        Ok(())
    }

    /// Forgets open files and places, for when a file was cut or replaced.
    pub fn forget(&self) -> Result<(), ReadError> {
        *self
            .segments
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::default();
        self.refresh()
    }

    /// Offset of the first record that is there.
    pub fn begin(&self) -> u64 {
        self.segments().first().map_or(0, |segment| segment.base)
    }

    /// The records from offset `from` on and below offset `below`, as many as
    /// fit `max_bytes` of payload, at least one if there is one.
    ///
    /// `below` must not exceed the writer's end; nothing at or beyond it is
    /// looked at. Errors: damage names segment, byte and offset.
    pub fn read(
        &self,
        from: u64,
        below: u64,
        max_bytes: usize,
    ) -> Result<Vec<StoredRecord>, ReadError> {
        let mut out = Vec::new();
        let mut budget = max_bytes;
        let mut next = from;
        while next < below && budget > 0 {
            let before = out.len();
            self.walk_from(next, budget, |frame| {
                let cost = frame.payload.len();
                if frame.header.offset >= below {
                    return Walk::Stop;
                }
                if !out.is_empty() && cost > budget {
                    budget = 0;
                    return Walk::Stop;
                }
                budget = budget.saturating_sub(cost);
                out.push(stored(frame));
                if budget == 0 || frame.header.offset + 1 == below {
                    return Walk::Last;
                }
                Walk::On
            })?;
            if out.len() == before && budget > 0 {
                return Err(ReadError::BeyondEnd {
                    asked: next,
                    end: next,
                });
            }
            next += (out.len() - before) as u64;
        }
        Ok(out)
    }

    /// The record at an offset below the writer's end.
    pub fn read_one(&self, offset: u64) -> Result<StoredRecord, ReadError> {
        let mut found = None;
        self.walk_from(offset, 1, |frame| {
            found = Some(stored(frame));
            Walk::Last
        })?;
        found.ok_or(ReadError::BeyondEnd {
            asked: offset,
            end: offset,
        })
    }

    /// The chain link before the record at `offset`: it names everything below.
    /// `offset` may be the end.
    pub fn link_at(&self, offset: u64) -> Result<[u8; 32], ReadError> {
        // The segment of the record before knows the link behind it.
        let holder = offset.saturating_sub(1).max(self.begin());
        if let Some(link) = self.link_in(&*self.segment_of(holder)?, offset)? {
            return Ok(link);
        }
        // The last segment known was sealed since.
        self.refresh()?;
        let link = self.link_in(&*self.segment_of(holder)?, offset)?;
        link.ok_or(ReadError::BeyondEnd {
            asked: offset,
            end: offset,
        })
    }

    fn link_in(&self, segment: &Segment, offset: u64) -> Result<Option<[u8; 32]>, ReadError> {
        let opened = self.opened(segment)?;
        if offset == opened.header.base {
            return Ok(Some(opened.header.link_before));
        }
        if let Some((seal, _)) = &opened.seal
            && seal.end == offset
        {
            return Ok(Some(seal.link));
        }
        if offset < opened.header.base {
            return Err(ReadError::Trimmed {
                asked: offset,
                begin: opened.header.base,
            });
        }
        let ((mut next, position), mut link) = self.batch_start(segment, offset)?;
        let mut scanner = FrameScanner::new(&*opened.file, opened.header.salt, position);
        while next < offset {
            let step = scanner
                .step()
                .map_err(|source| self.io(&segment.path, source))?;
            match step {
                Step::Frame(frame) if frame.header.kind == kind::DATA => {
                    let header = &frame.header;
                    let kind_number = header.record_kind();
                    link = chain::link(&link, next, header.time_us, kind_number, &header.hash);
                    next += 1;
                }
                Step::Frame(frame) if frame.header.kind == kind::SEAL => return Ok(None),
                Step::Frame(_) => {}
                Step::End => return Ok(None),
                Step::Bad(fault) => return Err(damaged(segment, scanner.position(), next, fault)),
            }
        }
        Ok(Some(link))
    }

    /// The first offset whose record was appended at or after `time_us`; the
    /// end if there is none.
    pub fn offset_at_time(&self, time_us: u64, below: u64) -> Result<u64, ReadError> {
        let segments = self.segments();
        let mut holder = None;
        for segment in segments.iter() {
            if self.opened(segment)?.header.time_before_us >= time_us && holder.is_some() {
                break;
            }
            holder = Some(segment.clone());
        }
        let Some(segment) = holder else {
            return Ok(0);
        };
        let entry = self.places(&segment).index.before_time(time_us);
        let from = entry.map_or(segment.base, |entry| {
            segment.base + u64::from(entry.relative)
        });
        let mut offset = from;
        while offset < below {
            let before = offset;
            self.walk_from(offset, usize::MAX, |frame| {
                if frame.header.time_us >= time_us || frame.header.offset >= below {
                    return Walk::Stop;
                }
                offset = frame.header.offset + 1;
                // What follows the last one may be half written.
                if offset == below {
                    Walk::Last
                } else {
                    Walk::On
                }
            })?;
            if offset == before {
                break;
            }
        }
        Ok(offset.min(below))
    }

    /// Where the partition ends, from the files alone: for tools, which have no
    /// writer to ask. Scans the last segment; later calls go on from there.
    ///
    /// A batch that is being written counts as not there.
    pub fn find_end(&self, scan: &mut EndScan) -> Result<End, ReadError> {
        self.refresh()?;
        let segments = self.segments();
        let Some(last) = segments.last() else {
            return Ok(End {
                written: 0,
                synced: 0,
            });
        };
        let opened = self.opened(last)?;
        if let Some((seal, _)) = &opened.seal {
            return Ok(End {
                written: seal.end,
                synced: seal.end,
            });
        }
        let batches = match &mut scan.batches {
            Some((base, batches)) if *base == last.base => batches,
            stale => {
                let fresh = BatchScanner::new(opened.header.clone(), Check::Checksums);
                &mut stale.insert((last.base, fresh)).1
            }
        };
        batches.forget_pending();
        let mut frames = FrameScanner::new(&*opened.file, opened.header.salt, batches.position);
        while let Step::Frame(frame) = frames
            .step()
            .map_err(|source| self.io(&last.path, source))?
        {
            if batches.take(&frame).is_err() {
                break;
            }
        }
        Ok(End {
            written: batches.end,
            synced: batches.synced_end,
        })
    }

    /// Walks the segment that holds `from`, wherever it is by now. About `bytes`
    /// of payload will be used.
    fn walk_from(
        &self,
        from: u64,
        bytes: usize,
        mut each: impl FnMut(&Frame<'_>) -> Walk,
    ) -> Result<(), ReadError> {
        let segment = self.segment_of(from)?;
        let mut any = false;
        let walked = self.walk(&segment, from, bytes, |frame| {
            any = true;
            each(frame)
        })?;
        if walked != Walked::Sealed || any {
            return Ok(());
        }
        // The last segment known was sealed since; the record is in a later one.
        self.refresh()?;
        let segment = self.segment_of(from)?;
        self.walk(&segment, from, bytes, each).map(|_| ())
    }

    /// Calls `each` for the frames of data from `from` on, until it stops or
    /// the segment has no more.
    fn walk(
        &self,
        segment: &Segment,
        from: u64,
        bytes: usize,
        mut each: impl FnMut(&Frame<'_>) -> Walk,
    ) -> Result<Walked, ReadError> {
        let opened = self.opened(segment)?;
        let (mut next, position) = self.places(segment).nearest(segment.base, from);
        // Payloads, and an eighth for headers and what lies before `from`.
        let expected = bytes.saturating_add(bytes / 8);
        let mut scanner =
            FrameScanner::new(&*opened.file, opened.header.salt, position).expecting(expected);
        let mut passed = Vec::new();
        let walked = loop {
            let step = scanner
                .step()
                .map_err(|source| self.io(&segment.path, source))?;
            let frame = match step {
                Step::Frame(frame) => frame,
                Step::End => break Ok(Walked::End),
                Step::Bad(fault) => break Err(damaged(segment, scanner.position(), next, fault)),
            };
            match frame.header.kind {
                kind::DATA => {}
                kind::SEAL => break Ok(Walked::Sealed),
                _ => continue,
            }
            if frame.header.offset != next {
                let fault = FrameFault::Offset {
                    expected: next,
                    found: frame.header.offset,
                };
                break Err(damaged(segment, frame.position, next, fault));
            }
            let on = if next < from { Walk::On } else { each(&frame) };
            if let Walk::Stop = on {
                break Ok(Walked::Stopped);
            }
            passed.push(Passed {
                offset: next,
                position: frame.position,
                behind: frame.position + frame.header.frame_bytes() as u64,
                time_us: frame.header.time_us,
            });
            next += 1;
            if let Walk::Last = on {
                break Ok(Walked::Stopped);
            }
        };
        self.places(segment).learn(segment.base, &passed);
        walked
    }

    /// Offset and position of the first record of the batch that holds `offset`
    /// (or of one before), and the link before it.
    fn batch_start(
        &self,
        segment: &Segment,
        offset: u64,
    ) -> Result<((u64, u64), [u8; 32]), ReadError> {
        let opened = self.opened(segment)?;
        let first = (
            (opened.header.base, HEADER_PAGE_BYTES as u64),
            opened.header.link_before,
        );
        let entries: Vec<_> = {
            let places = self.places(segment);
            let relative = offset - segment.base;
            let entries = places.index.entries().iter();
            entries
                .take_while(|entry| u64::from(entry.relative) <= relative)
                .copied()
                .collect()
        };
        for entry in entries.iter().rev() {
            let position = u64::from(entry.position);
            let mut raw = [0; 2 * HEADER_BYTES];
            let Some(at) = position.checked_sub(HEADER_BYTES as u64) else {
                continue;
            };
            let read = opened
                .file
                .read_at(&mut raw, at)
                .map_err(|source| self.io(&segment.path, source))?;
            let (commit, data) = raw.split_at(HEADER_BYTES);
            let decode = |raw: &[u8]| {
                raw.first_chunk()
                    .and_then(|raw| FrameHeader::decode(raw).ok())
            };
            let (Some(commit), Some(data), true) =
                (decode(commit), decode(data), read == raw.len())
            else {
                continue;
            };
            // Index 0 in its batch: what stands before is a commit frame, not a payload.
            let starts =
                data.kind == kind::DATA && data.batch_index() == 0 && commit.kind == kind::COMMIT;
            if starts && data.offset == commit.offset && data.offset <= offset {
                return Ok(((data.offset, position), commit.hash));
            }
        }
        Ok(first)
    }

    /// The segment that holds an offset, as far as segments are known.
    fn segment_of(&self, offset: u64) -> Result<Arc<Segment>, ReadError> {
        let find = |segments: &[Arc<Segment>]| {
            let count = segments.partition_point(|segment| segment.base <= offset);
            segments.get(count.checked_sub(1)?).cloned()
        };
        if let Some(segment) = find(&self.segments()) {
            return Ok(segment);
        }
        self.refresh()?;
        find(&self.segments()).ok_or_else(|| ReadError::Trimmed {
            asked: offset,
            begin: self.begin(),
        })
    }

    fn opened<'s>(&self, segment: &'s Segment) -> Result<&'s Opened, ReadError> {
        if let Some(opened) = segment.opened.get() {
            return Ok(opened);
        }
        let failed = |source| self.io(&segment.path, source);
        let file = self
            .fs
            .open(&segment.path, OpenMode::Read)
            .map_err(failed)?;
        let refused = |why: String| ReadError::Refused {
            path: segment.path.clone(),
            why,
        };
        let header = recovery::read_header(&*file)
            .map_err(failed)?
            .map_err(refused)?;
        if header.base != segment.base {
            return Err(refused(format!("header says base offset {}", header.base)));
        }
        let bytes = file.len().map_err(failed)?;
        let seal = recovery::read_seal(&*file, &header, bytes).map_err(failed)?;
        if seal.is_some() {
            let path = segment::index_path(&self.dir, segment.base);
            let index = read_all(&*self.fs, &path).ok();
            let index =
                index.and_then(|bytes| SparseIndex::decode(&bytes, header.base, header.salt));
            let last = index
                .as_ref()
                .and_then(|index| index.entries().last().copied());
            let inside = last.is_none_or(|last| u64::from(last.position) < bytes);
            if let Some(index) = index.filter(|_| inside) {
                self.places(segment).index = index;
            }
        }
        Ok(segment.opened.get_or_init(|| Opened { file, header, seal }))
    }

    fn places<'s>(&self, segment: &'s Segment) -> MutexGuard<'s, Places> {
        segment.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        self.segments
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn io(&self, path: &Path, source: io::Error) -> ReadError {
        ReadError::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// What [`PartitionReader::find_end`] remembers between calls.
#[derive(Default)]
pub struct EndScan {
    /// Base of the last segment, and how far it was believed.
    batches: Option<(u64, BatchScanner)>,
}

/// A record that a walk has passed.
struct Passed {
    offset: u64,
    position: u64,
    /// Position of what follows.
    behind: u64,
    time_us: u64,
}

impl Segment {
    fn new(dir: &Path, base: u64) -> Segment {
        Segment {
            base,
            path: dir.join(segment::file_name(base)),
            opened: OnceLock::new(),
            place: Mutex::default(),
        }
    }
}

impl Places {
    /// Offset and position of a frame at or before `offset`.
    fn nearest(&self, base: u64, offset: u64) -> (u64, u64) {
        if let Some(frontier) = self.frontier
            && frontier.0 == offset
        {
            return frontier;
        }
        let entry = self.index.at_or_before(offset - base);
        entry.map_or((base, HEADER_PAGE_BYTES as u64), |entry| {
            (base + u64::from(entry.relative), u64::from(entry.position))
        })
    }

    /// Takes note of records, by rising offset.
    fn learn(&mut self, base: u64, passed: &[Passed]) {
        for record in passed {
            let last = self.index.entries().last();
            if last.is_none_or(|last| record.offset - base > u64::from(last.relative)) {
                self.index
                    .note(record.offset - base, record.position, record.time_us);
            }
        }
        if let Some(last) = passed.last()
            && self
                .frontier
                .is_none_or(|(frontier, _)| last.offset >= frontier)
        {
            self.frontier = Some((last.offset + 1, last.behind));
        }
    }
}

fn stored(frame: &Frame<'_>) -> StoredRecord {
    StoredRecord {
        offset: frame.header.offset,
        time_us: frame.header.time_us,
        kind_number: frame.header.record_kind(),
        digest: frame.header.hash,
        erased: frame.header.flags & flags::ERASED != 0,
        payload: Bytes::copy_from_slice(frame.payload),
    }
}

fn damaged(segment: &Segment, position: u64, offset: u64, fault: FrameFault) -> ReadError {
    ReadError::Damaged {
        segment: segment.path.clone(),
        position,
        offset,
        fault,
    }
}
