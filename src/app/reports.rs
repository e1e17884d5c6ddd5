//! What users reported, for an operator: read from the store by a running
//! server or beside a stopped one.

use ruma::{EventId, RoomId};
use serde::{Deserialize, Serialize};

use super::rooms::Desk;
use crate::projectors::userserver::reports::{Report, newest};
use crate::query::rooms::QueryError;

/// Bytes of reports in one answer, well within what the control socket takes.
/// Reasons are bounded, but ten thousand of the longest are more than that.
const LISTED_BYTES_MAX: usize = 8 << 20;
/// What a report costs in an answer beside its reason: ids and names of fields.
const FIELDS_BYTES: usize = 1_600;

/// What is asked: so many of the newest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub limit: u32,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Response {
    Reports {
        reports: Vec<ReportLine>,
        /// See [`super::rooms::RoomReport::unfolded`].
        unfolded: u64,
    },
    Refused {
        why: String,
    },
}

/// A report as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportLine {
    /// Where its record lies in *input*.
    pub partition: u32,
    pub offset: u64,
    /// Milliseconds since the epoch.
    pub received_ms: u64,
    pub reporter: String,
    pub room_id: Option<String>,
    pub event_id: Option<String>,
    /// Who sent that event, if this server knows it.
    pub sender: Option<String>,
    /// The user who is reported.
    pub user_id: Option<String>,
    pub score: Option<i32>,
    pub reason: Option<String>,
}

/// Answers; reads the store as long as it takes.
pub fn answer(desk: &Desk, request: &Request) -> Response {
    match list(desk, request.limit as usize) {
        Ok(reports) => Response::Reports {
            reports,
            unfolded: (desk.unfolded)(),
        },
        Err(error) => Response::Refused {
            why: error.to_string(),
        },
    }
}

fn list(desk: &Desk, limit: usize) -> Result<Vec<ReportLine>, QueryError> {
    let newest = newest(&*desk.store, desk.partitions, limit)
        .map_err(|error| QueryError::Store(error.to_string()))?;
    let mut lines = Vec::with_capacity(newest.len());
    let mut bytes = 0;
    for report in newest {
        bytes += FIELDS_BYTES + report.row.reason.as_ref().map_or(0, String::len);
        if bytes > LISTED_BYTES_MAX {
            break;
        }
        lines.push(line(desk, report)?);
    }
    Ok(lines)
}

fn line(desk: &Desk, report: Report) -> Result<ReportLine, QueryError> {
    let row = report.row;
    let room = row.room_id.as_deref().map(RoomId::parse);
    let event = row.event_id.as_deref().map(EventId::parse);
    let event = match (room, event) {
        (Some(Ok(room)), Some(Ok(event))) => desk.rooms.event(&room, &event)?,
        _ => None,
    };
    Ok(ReportLine {
        partition: report.partition,
        offset: report.offset,
        received_ms: row.received_us / 1000,
        reporter: row.reporter,
        sender: event.map(|event| event.sender.to_string()),
        room_id: row.room_id,
        event_id: row.event_id,
        user_id: row.about,
        score: row.score,
        reason: row.reason,
    })
}
