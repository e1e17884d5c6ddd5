//! What anybody is told where the log or the store does not do as asked.

use http::StatusCode;
use log_format::record::output::Reason;

use super::{Answer, BUSY_RETRY, UNAVAILABLE_RETRY, internal};
use crate::query::outcome::OutcomeError;
use crate::query::rooms::QueryError;
use crate::writers::submit::{AppendError, SubmitError};

pub(super) fn submit(error: &SubmitError) -> Answer {
    use StatusCode as S;
    match error {
        SubmitError::Append(error) => append(error),
        SubmitError::Outcome(OutcomeError::Stopped) => stopping(),
        SubmitError::Refused(reason) => match reason {
            Reason::Forbidden => {
                Answer::new(S::FORBIDDEN, "M_FORBIDDEN", "This is not allowed here")
            }
            Reason::UnknownRoom => Answer::new(S::NOT_FOUND, "M_NOT_FOUND", "Unknown room"),
            Reason::NotFound => Answer::new(S::NOT_FOUND, "M_NOT_FOUND", "Not found"),
            Reason::RoomExists | Reason::Taken => {
                Answer::new(S::CONFLICT, "M_UNKNOWN", "This exists already")
            }
            Reason::Rebase | Reason::MissingEvents => {
                Answer::new(S::SERVICE_UNAVAILABLE, "M_UNKNOWN", "Please try again")
                    .retry_after(BUSY_RETRY)
            }
            Reason::None
            | Reason::Malformed
            | Reason::TooMuchWork
            | Reason::MissingAuthEvents
            | Reason::RejectedAuthEvent => {
                Answer::new(S::BAD_REQUEST, "M_UNKNOWN", "The request was refused")
            }
        },
    }
}

pub(super) fn append(error: &AppendError) -> Answer {
    use StatusCode as S;
    match error {
        AppendError::Overloaded => {
            Answer::new(S::SERVICE_UNAVAILABLE, "M_LIMIT_EXCEEDED", "Server is busy")
                .retry_after(BUSY_RETRY)
        }
        // reliability.md R7; the door adds the `admin_contact` that the code asks for.
        AppendError::DiskFull => Answer::new(
            S::SERVICE_UNAVAILABLE,
            "M_RESOURCE_LIMIT_EXCEEDED",
            "The server has no disk space left",
        )
        .retry_after(UNAVAILABLE_RETRY),
        AppendError::TooLarge { .. } => {
            Answer::new(S::PAYLOAD_TOO_LARGE, "M_TOO_LARGE", "Content is too large")
        }
        AppendError::Closed | AppendError::OutcomeUnknown => stopping(),
    }
}

pub(super) fn stopping() -> Answer {
    Answer::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "M_UNKNOWN",
        "The server is shutting down",
    )
    .retry_after(UNAVAILABLE_RETRY)
}

pub(super) fn query(error: &QueryError) -> Answer {
    match error {
        QueryError::Store(_) | QueryError::Log(_) => internal(),
    }
}
