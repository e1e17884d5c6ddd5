//! Rooms that are purged, as readers take them: they drop what they keep of them.
//!
//! Rows that begin with the room go as ranges, whose cost does not grow with the
//! room; rows that begin with a user go with the records that name these users,
//! some hundred each.

use log_format::codec;
use log_format::record::input::PurgeStep;
use log_format::record::output::{Decision, OutputRoomPurged};
use log_format::record::{Envelope, Kind};

use super::run::ReaderError;
use crate::logs::log::LogRecord;

/// What a record of a purge drops; none if it is another record or drops nothing.
pub fn dropped(
    record: &LogRecord,
    envelope: &Envelope<'_>,
) -> Result<Option<OutputRoomPurged>, ReaderError> {
    if envelope.kind != Kind::OutputRoomPurged {
        return Ok(None);
    }
    let offset = record.offset;
    let body: OutputRoomPurged =
        codec::decode(envelope.body).map_err(|source| ReaderError::Body { offset, source })?;
    let drops = body.decision == Decision::Accepted && body.step == PurgeStep::Drop;
    Ok(drops.then_some(body))
}

/// A stretch of records that a reader takes as one.
pub enum Stretch<'r> {
    /// Without any that drops something.
    Plain(&'r [LogRecord]),
    /// One that does, alone: ranges are removed from the store itself, so what
    /// came before must be there, and what follows must not.
    Purge(&'r [LogRecord], OutputRoomPurged),
}

/// Divides a group at the records that drop something.
pub fn stretches(records: &[LogRecord]) -> Result<Vec<Stretch<'_>>, ReaderError> {
    let mut stretches = vec![];
    let mut plain_from = 0;
    for (at, record) in records.iter().enumerate() {
        let offset = record.offset;
        let envelope = record
            .envelope()
            .map_err(|source| ReaderError::Envelope { offset, source })?;
        let Some(body) = dropped(record, &envelope)? else {
            continue;
        };
        let (before, alone) = (records.get(plain_from..at), records.get(at..=at));
        let before = before.filter(|before| !before.is_empty());
        stretches.extend(before.map(Stretch::Plain));
        stretches.extend(alone.map(|alone| Stretch::Purge(alone, body)));
        plain_from = at + 1;
    }
    let rest = records.get(plain_from..).filter(|rest| !rest.is_empty());
    stretches.extend(rest.map(Stretch::Plain));
    Ok(stretches)
}
