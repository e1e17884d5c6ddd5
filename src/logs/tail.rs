//! Following a partition's end without polling, and reading up to it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use log_format::file_system::FileSystem;
use log_format::{PartitionReader, ReadError as FormatError, StoredRecord};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::log::{LogRecord, ReadError, Waiting};

/// The readable side of one partition.
pub(super) struct Tail {
    fs: Arc<dyn FileSystem>,
    reader: PartitionReader,
    /// Offset behind the last readable record. Published after what it covers.
    end: AtomicU64,
    /// The same, for those who wait.
    moved: watch::Sender<u64>,
    /// The last ends with the chain link there: who follows the log asks for
    /// just these, and would else have to scan a batch for each.
    links: Mutex<VecDeque<(u64, [u8; 32])>>,
}

/// How many ends are remembered with their links.
const LINKS_MAX: usize = 256;

impl Tail {
    /// Begins with a partition that is readable up to `end`.
    pub fn new(fs: Arc<dyn FileSystem>, reader: PartitionReader, end: u64) -> Tail {
        Tail {
            fs,
            reader,
            end: AtomicU64::new(end),
            moved: watch::Sender::new(end),
            links: Mutex::new(VecDeque::new()),
        }
    }

    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Makes records below `end`, where the chain has `link`, readable and wakes
    /// who waits for them.
    pub fn publish(&self, end: u64, link: [u8; 32]) {
        {
            let mut links = self.links.lock();
            if links.len() == LINKS_MAX {
                links.pop_front();
            }
            links.push_back((end, link));
        }
        self.set_end(end);
    }

    fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
        self.moved.send_replace(end);
    }

    pub fn begin(&self) -> u64 {
        self.reader.begin()
    }

    pub fn read(&self, from: u64, max_bytes: usize) -> Result<Vec<LogRecord>, ReadError> {
        self.check_begin(from)?;
        // "At least one": a budget of nothing still gives a record.
        let records = self.reader.read(from, self.end(), max_bytes.max(1));
        Ok(records
            .map_err(read_error)?
            .into_iter()
            .map(log_record)
            .collect())
    }

    pub fn link_before(&self, offset: u64) -> Result<[u8; 32], ReadError> {
        self.check_begin(offset)?;
        let known = {
            let links = self.links.lock();
            let found = links.iter().rev().find(|(end, _)| *end == offset);
            found.map(|(_, link)| *link)
        };
        known.map_or_else(|| self.reader.link_at(offset).map_err(read_error), Ok)
    }

    pub fn wait_beyond(&self, offset: u64) -> Waiting<'_> {
        let mut moved = self.moved.subscribe();
        Box::pin(async move {
            // The sender lives in `self`, which outlives this future.
            let _ = moved.wait_for(|end| *end > offset).await;
        })
    }

    /// Removes whole segments below `before`, and no unreadable record.
    pub fn trim(&self, before: u64) -> Result<(), ReadError> {
        log_format::trim::trim(&*self.fs, self.reader.dir(), before.min(self.end()))?;
        self.reader.refresh().map_err(read_error)
    }

    /// After records were taken off the end, which only a derived log allows.
    pub fn cut_back(&self, end: u64) -> Result<(), ReadError> {
        self.links.lock().clear();
        self.set_end(end);
        self.reader.forget().map_err(read_error)
    }

    fn check_begin(&self, asked: u64) -> Result<(), ReadError> {
        let begin = self.begin();
        if asked < begin {
            return Err(ReadError::Trimmed { asked, begin });
        }
        Ok(())
    }
}

fn log_record(stored: StoredRecord) -> LogRecord {
    LogRecord {
        offset: stored.offset,
        time_us: stored.time_us,
        payload: stored.payload,
    }
}

fn read_error(error: FormatError) -> ReadError {
    match error {
        FormatError::Trimmed { asked, begin } => ReadError::Trimmed { asked, begin },
        FormatError::Io { source, .. } => ReadError::Io(source),
        damaged @ (FormatError::BeyondEnd { .. }
        | FormatError::Damaged { .. }
        | FormatError::Refused { .. }) => ReadError::Damaged(damaged.to_string()),
    }
}
