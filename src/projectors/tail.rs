//! The output tail: what completes *output* after a crash.
//!
//! The batch that advances the applied offset stores one row for the group's
//! *output* records, removed once *output* is synced past them. A record is
//! mostly a copy of its source record, which *input* still has, so a row holds
//! little more than the bodies.

use std::collections::VecDeque;

use log_format::record::envelope::Part;
use log_format::record::{Envelope, Kind};

use super::output_log::{self, OutputRecord, READ_BYTES};
use crate::logs::log::{Log, LogRecord, NewRecord, ReadError};
use crate::storage::columns::OUTPUT_TAIL;
use crate::storage::keys::{Key, RowReader, RowWriter};
use crate::storage::overlay::{Read, StoreError};

/// A row that could not be made records again.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("input could not be read: {0}")]
    Input(#[from] ReadError),
    #[error("input has no record at offset {0}, from which an output record came")]
    NoSource(u64),
}

/// A record's form in a row.
const COPIED: u8 = 0;
const VERBATIM: u8 = 1;

/// Builds the row of one group.
pub struct TailRow {
    first: u64,
    records: u64,
    row: RowWriter,
}

impl TailRow {
    /// A row for records from output offset `first` on.
    pub fn new(first: u64) -> TailRow {
        TailRow {
            first,
            records: 0,
            row: RowWriter::default(),
        }
    }

    /// Adds the next record.
    pub fn push(&mut self, source: &LogRecord, made: &NewRecord) {
        self.records += 1;
        self.row.varint(source.offset);
        let envelopes = source
            .envelope()
            .ok()
            .zip(Envelope::parse(&made.payload).ok());
        let copied =
            envelopes.and_then(|(source, made)| Some((copied_parts(&source, &made)?, made.body)));
        match copied {
            Some((parts, body)) => {
                self.row.u8(COPIED).varint(u64::from(made.kind.number()));
                self.row.u8(parts).varint(body.len() as u64).bytes(body);
            }
            None => {
                self.row.u8(VERBATIM).varint(u64::from(made.kind.number()));
                self.row.varint(made.payload.len() as u64);
                self.row.bytes(&made.payload);
            }
        }
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Key and value of the row.
    pub fn finish(self, partition: u32) -> (Key, Vec<u8>) {
        let mut row = RowWriter::default();
        row.varint(self.records).bytes(&self.row.finish());
        (tail_key(partition, self.first), row.finish())
    }
}

/// The key of the row whose first record has this *output* offset.
pub fn tail_key(partition: u32, first: u64) -> Key {
    Key::of(partition).bytes(&first.to_be_bytes())
}

/// First and end offset of every row of a partition, in order.
pub fn rows(store: &dyn Read, partition: u32) -> Result<VecDeque<(u64, u64)>, StoreError> {
    let prefix = Key::of(partition);
    let found = store.range(OUTPUT_TAIL, prefix.as_bytes(), None, false, usize::MAX)?;
    let mut rows = VecDeque::with_capacity(found.len());
    for (key, value) in found {
        let mut value = RowReader::new(OUTPUT_TAIL, &value);
        let first = RowReader::new(OUTPUT_TAIL, key.get(2..).unwrap_or_default()).array()?;
        let first = u64::from_be_bytes(first);
        rows.push_back((first, first + value.varint()?));
    }
    Ok(rows)
}

/// Makes the records of one row again.
pub fn records(
    store: &dyn Read,
    input: &dyn Log,
    partition: u32,
    first: u64,
) -> Result<Vec<OutputRecord>, TailError> {
    let Some(value) = store.get(OUTPUT_TAIL, tail_key(partition, first).as_bytes())? else {
        return Ok(Vec::new());
    };
    let mut row = RowReader::new(OUTPUT_TAIL, &value);
    let mut sources = Sources {
        input,
        partition,
        read: Vec::new(),
    };
    let mut records = Vec::new();
    for _ in 0..row.varint()? {
        let source = sources.at(row.varint()?)?;
        let form = row.u8()?;
        let number = row.varint()? as u16;
        let kind = Kind::from_number(number).ok_or_else(|| row.error("kind is not known"))?;
        let record = match form {
            COPIED => {
                let parts = row.u8()?;
                let len = row.varint()? as usize;
                remade(source, kind, parts, row.take(len)?)
            }
            VERBATIM => {
                let len = row.varint()? as usize;
                let payload = row.take(len)?.to_vec();
                let digest = Envelope::parse(&payload).map(|read| read.digest()).ok();
                digest.map(|digest| NewRecord {
                    kind,
                    payload,
                    digest,
                })
            }
            _ => None,
        };
        let record = record.ok_or_else(|| row.error("record cannot be made again"))?;
        records.push(output_log::made(source.time_us, record));
    }
    row.finish()?;
    Ok(records)
}

/// Bit by bit which parts are those of the source; none if anything but kind,
/// body and left out parts differs from it.
fn copied_parts(source: &Envelope<'_>, made: &Envelope<'_>) -> Option<u8> {
    let same = made.source == source.source
        && made.flags == source.flags
        && made.received_us == source.received_us
        && made.origin_ts_ms == source.origin_ts_ms
        && made.idempotency == source.idempotency
        && made.key == source.key
        && made.room_id == source.room_id
        && made.event_id == source.event_id
        && made.sender == source.sender
        && made.event_type == source.event_type
        && made.state_key == source.state_key
        && made.room_version == source.room_version
        && made.origin == source.origin
        && made.trace_id == source.trace_id;
    if !same {
        return None;
    }
    let pairs = [
        (&source.auth_extract, &made.auth_extract),
        (&source.skeleton, &made.skeleton),
        (&source.body_part, &made.body_part),
    ];
    let mut parts = 0;
    for (bit, (source, made)) in pairs.into_iter().enumerate() {
        if *made == Part::Absent {
            continue;
        }
        if made != source {
            return None;
        }
        parts |= 1 << bit;
    }
    if made.body_part != Part::Absent && made.salt != source.salt {
        return None;
    }
    Some(parts)
}

fn remade(source: &LogRecord, kind: Kind, parts: u8, body: &[u8]) -> Option<NewRecord> {
    let source = source.envelope().ok()?;
    let mut envelope = source.to_new();
    envelope.body = body;
    let slots = [
        &mut envelope.auth_extract,
        &mut envelope.skeleton,
        &mut envelope.body_part,
    ];
    for (bit, slot) in slots.into_iter().enumerate() {
        if parts & (1 << bit) == 0 {
            *slot = Part::Absent;
        }
    }
    Some(NewRecord::new(kind, source.source, &envelope))
}

/// Source records, read some at a time.
struct Sources<'a> {
    input: &'a dyn Log,
    partition: u32,
    read: Vec<LogRecord>,
}

impl Sources<'_> {
    fn at(&mut self, offset: u64) -> Result<&LogRecord, TailError> {
        let found = self.read.binary_search_by_key(&offset, |read| read.offset);
        let at = match found {
            Ok(at) => at,
            Err(_) => {
                self.read = self.input.read(self.partition, offset, READ_BYTES)?;
                0
            }
        };
        let record = self.read.get(at).filter(|read| read.offset == offset);
        record.ok_or(TailError::NoSource(offset))
    }
}
