//! What users reported, for the people who run the server (client-server API,
//! *Reporting Content*): kept in the order of the log, told to nobody else.

use bincode::{Decode, Encode};
use log_format::codec;
use log_format::record::input::InputReport;
use log_format::record::output::Reason;

use super::accounts;
use super::fold::{UserFold, Verdict};
use super::rows;
use crate::storage::columns::REPORTS;
use crate::storage::keys::{Key, RowReader};
use crate::storage::overlay::{Read, StoreError};

/// Row of [`REPORTS`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReportRow {
    /// When the report came, in microseconds since the epoch.
    pub received_us: u64,
    pub reporter: String,
    pub room_id: Option<String>,
    pub event_id: Option<String>,
    /// The user who is reported.
    pub about: Option<String>,
    pub score: Option<i32>,
    /// None: none was given, or it was erased from the log.
    pub reason: Option<String>,
}

/// A report, and where its record lies in *input*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub partition: u32,
    pub offset: u64,
    pub row: ReportRow,
}

/// Takes a report in. That what it names exists is not asked: the reporter may
/// have met it elsewhere.
pub(super) fn reported(fold: &mut UserFold<'_, '_>) -> Result<Verdict, StoreError> {
    let envelope = fold.record.envelope;
    let Some(body) = fold.body::<InputReport>() else {
        return Ok(Verdict::rejected(Reason::Malformed));
    };
    let reason = envelope.body_part.bytes().map(std::str::from_utf8);
    let Ok(reason) = reason.transpose() else {
        return Ok(Verdict::rejected(Reason::Malformed));
    };
    if envelope.room_id.is_none() && body.about.is_none() {
        return Ok(Verdict::rejected(Reason::Malformed));
    }
    if accounts::active(fold)?.is_none() {
        return Ok(Verdict::rejected(Reason::NotFound));
    }
    let row = ReportRow {
        received_us: envelope.received_us,
        reporter: fold.user.to_string(),
        room_id: envelope.room_id.map(str::to_owned),
        event_id: envelope.event_id.map(str::to_owned),
        about: body.about,
        score: body.score,
        reason: reason.map(str::to_owned),
    };
    let key = Key::of(fold.record.partition).number(fold.record.offset);
    fold.tables
        .put(REPORTS, key.as_bytes(), codec::encode(&row));
    Ok(Verdict::accepted())
}

/// The newest reports of all partitions, the newest first.
pub fn newest(store: &dyn Read, partitions: u32, limit: usize) -> Result<Vec<Report>, StoreError> {
    let mut reports = Vec::new();
    for partition in 0..partitions {
        let prefix = Key::of(partition);
        for (key, row) in store.range(REPORTS, prefix.as_bytes(), None, true, limit)? {
            let behind = key.get(prefix.as_bytes().len()..).unwrap_or_default();
            reports.push(Report {
                partition,
                offset: RowReader::new(REPORTS, behind).number()?,
                row: rows::decode_row(REPORTS, &row)?,
            });
        }
    }
    reports.sort_by_key(|report| {
        let at = (report.row.received_us, report.partition, report.offset);
        std::cmp::Reverse(at)
    });
    reports.truncate(limit);
    Ok(reports)
}
