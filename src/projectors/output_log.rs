//! The port through which the merge stage writes *output*: synchronously, on
//! the partition's own thread, flushed lazily.

use std::io;

use log_format::record::Envelope;

use crate::logs::log::{AppendError, Log, NewRecord, ReadError};

/// An *output* record with the time of its source record.
#[derive(Debug)]
pub struct OutputRecord {
    pub time_us: u64,
    pub record: NewRecord,
}

/// *Output* as its one writer sees it. Partition `i` is written only from
/// partition `i` of *input*, by one thread.
pub trait OutputLog: Log {
    /// Appends behind the end, all or nothing, readable when it returns, not synced.
    ///
    /// Errors: after `DiskFull` nothing was written and the same may be tried
    /// again; any other error is final.
    fn append(&self, partition: u32, batch: &[OutputRecord]) -> Result<(), AppendError>;

    /// Makes what was appended durable; the offset behind it.
    fn sync(&self, partition: u32) -> Result<u64, AppendError>;

    /// Offset behind the last durable record.
    fn synced_end(&self, partition: u32) -> u64;

    /// Takes the records from `end` on off the log. Before readers start.
    fn cut(&self, partition: u32, end: u64) -> io::Result<()>;
}

/// The first record in which what is in *output* differs from what the fold made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub partition: u32,
    pub output_offset: u64,
    pub what: String,
}

/// Compares records that the fold made with those that *output* holds from
/// offset `from` on, as far as it goes. How many were compared, or the first difference.
pub fn compare(
    output: &dyn Log,
    partition: u32,
    from: u64,
    made: &[OutputRecord],
) -> Result<Result<usize, Difference>, ReadError> {
    let mut compared = 0;
    while compared < made.len() {
        let at = from + compared as u64;
        let there = output.read(partition, at, READ_BYTES)?;
        if there.is_empty() {
            break;
        }
        for (there, made) in there.iter().zip(made.get(compared..).unwrap_or_default()) {
            let different = |what: String| Difference {
                partition,
                output_offset: there.offset,
                what,
            };
            let digest = Envelope::parse(&there.payload).map(|read| read.digest());
            let what = match digest {
                Err(error) => format!("the record on disk is no envelope: {error}"),
                Ok(digest) if digest != made.record.digest => "payload digests differ".to_owned(),
                Ok(_) if there.time_us != made.time_us => "times differ".to_owned(),
                Ok(_) => {
                    compared += 1;
                    continue;
                }
            };
            return Ok(Err(different(what)));
        }
    }
    Ok(Ok(compared))
}

/// How much of a log is read at once.
pub const READ_BYTES: usize = 1 << 20;

/// The link behind a record (log.md, settled rule 1).
pub fn link(
    previous: &[u8; 32],
    offset: u64,
    time_us: u64,
    kind: u16,
    digest: &[u8; 32],
) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"log-v1 link");
    hasher.update(previous);
    hasher.update(&offset.to_le_bytes());
    hasher.update(&time_us.to_le_bytes());
    hasher.update(&kind.to_le_bytes());
    hasher.update(digest);
    *hasher.finalize().as_bytes()
}
