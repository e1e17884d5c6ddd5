//! Why another server is not helped. Matrix codes are chosen in `api/errors.rs`.

use log_format::record::output::Reason;

use crate::matrix::RoomVersion;
use crate::query::rooms::QueryError;
use crate::writers::client::room_error::RoomWriteError;
use crate::writers::federation::pdu_checks::PduRefusal;
use crate::writers::submit::SubmitError;

/// A refused or failed request. Texts are for the other server's operator.
#[derive(Debug, thiserror::Error)]
pub enum ResidentError {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// No event could be made for the user.
    #[error(transparent)]
    Draft(#[from] RoomWriteError),
    /// We do not know the room, or have left it.
    #[error("this server is not in the room")]
    UnknownRoom,
    /// `m.room.server_acl` keeps the server out.
    #[error("the server is excluded from the room")]
    ServerDenied,
    #[error("the user is not of the server that asks")]
    NotOfOrigin,
    /// The other server does not know the room's version.
    #[error("the room is of version {0}, which the server that asks does not support")]
    IncompatibleVersion(RoomVersion),
    /// The event is not by a user of the server that hands it to us.
    #[error("the sender is of another server")]
    SenderElsewhere,
    /// The event is not what the endpoint takes.
    #[error("{0}")]
    Misfit(&'static str),
    /// The event has a wrong form or signature.
    #[error("{0}")]
    Pdu(#[from] PduRefusal),
    /// The room, as it is or as the event sees it, does not allow the event.
    #[error("the room does not allow this event")]
    Forbidden,
    /// The event builds on others that we do not have.
    #[error("the event builds on events that are not known here")]
    UnknownPast,
    /// The user is in none of the rooms whose members may join.
    #[error("the user is in none of the rooms whose members may join")]
    ConditionsFailed,
    /// We are not in the rooms whose members may join.
    #[error("this server cannot tell whether the user may join")]
    UnableToAuthorise,
    /// None of our users may invite.
    #[error("no user of this server may let the user in")]
    UnableToGrant,
    /// The user takes no invites (client-server API, *Invite permission*).
    #[error("the user does not accept invites")]
    InviteBlocked,
    /// The room waits for work that takes long.
    #[error("the room is busy")]
    Busy,
}

impl ResidentError {
    /// Why an event that was checked did not become part of the room.
    pub(super) fn of_submit(error: SubmitError) -> ResidentError {
        let SubmitError::Refused(reason) = error else {
            return error.into();
        };
        match reason {
            Reason::Rebase | Reason::MissingEvents | Reason::MissingAuthEvents => {
                ResidentError::UnknownPast
            }
            Reason::UnknownRoom => ResidentError::UnknownRoom,
            Reason::Malformed => ResidentError::Misfit("the event has the wrong form"),
            Reason::TooMuchWork => ResidentError::Busy,
            Reason::None
            | Reason::Forbidden
            | Reason::RoomExists
            | Reason::Taken
            | Reason::NotFound
            | Reason::RejectedAuthEvent => ResidentError::Forbidden,
        }
    }
}
