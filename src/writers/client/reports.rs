//! Reports to the people who run the server (client-server API, *Reporting
//! Content*).

use log_format::record::input::InputReport;
use log_format::record::{Kind, NewEnvelope};
use ruma::{EventId, RoomId, UserId};

use super::user_data::{UserData, UserDataError, user_record};
use crate::limits::REPORT_REASON_BYTES_MAX;

/// What is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    Room(&'a RoomId),
    Event(&'a RoomId, &'a EventId),
    User(&'a UserId),
}

impl UserData {
    /// Keeps a report. Nothing is asked about its subject, so that an answer
    /// tells nothing about it, by what it says or by how long it takes.
    ///
    /// Errors: `TooLarge` for a reason beyond [`REPORT_REASON_BYTES_MAX`].
    pub async fn report(
        &self,
        reporter: &UserId,
        subject: Subject<'_>,
        reason: Option<&str>,
    ) -> Result<(), UserDataError> {
        if reason.is_some_and(|reason| reason.len() > REPORT_REASON_BYTES_MAX) {
            return Err(UserDataError::TooLarge {
                max_bytes: REPORT_REASON_BYTES_MAX,
            });
        }
        let (room, event, about) = match subject {
            Subject::Room(room) => (Some(room), None, None),
            Subject::Event(room, event) => (Some(room), Some(event), None),
            Subject::User(user) => (None, None, Some(user)),
        };
        let body = InputReport {
            about: about.map(UserId::to_string),
            // Not part of the specification any more (version 1.18).
            score: None,
        };
        let record = user_record(Kind::InputReport, reporter, &body, reason, |envelope| {
            NewEnvelope {
                room_id: room.map(RoomId::as_str),
                event_id: event.map(EventId::as_str),
                ..envelope
            }
        });
        self.submit(reporter, record)
            .await
            .map_err(UserDataError::from)
    }
}
