//! Why a write to a room did not happen. Matrix codes are chosen in `api/errors.rs`.

use ruma::{OwnedRoomAliasId, OwnedUserId};

use super::user_data::UserDataError;
use crate::query::rooms::QueryError;
use crate::writers::federation::policy_servers::PolicyError;
use crate::writers::federation::remote_rooms::RemoteRoomError;
use crate::writers::submit::SubmitError;

/// A refused or failed write to a room. Texts are for the user: short, no internals.
#[derive(Debug, thiserror::Error)]
pub enum RoomWriteError {
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The room is not one of ours (any more), or the user may not know of it.
    #[error("no such room")]
    UnknownRoom,
    /// The auth rules, or a rule of an endpoint, do not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// The room's policy server does not recommend the event.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The room takes no guests.
    #[error("guests may not join this room")]
    GuestForbidden,
    /// The target of the action is not there.
    #[error("{0}")]
    NotFound(String),
    /// The event exceeds what the specification allows (client-server API, *Size limits*).
    #[error("event too large: {0}")]
    TooLarge(String),
    /// A field has the wrong type, or a value that canonical JSON does not have.
    #[error("{0}")]
    BadJson(String),
    /// A parameter is well formed but not acceptable.
    #[error("{0}")]
    InvalidParam(String),
    /// The events that a new room would begin with do not pass the auth rules.
    #[error("initial state is not allowed: {0}")]
    InvalidRoomState(String),
    /// A room version that this server does not create.
    #[error("room version {0} is not supported")]
    UnsupportedRoomVersion(String),
    /// The alias that a new room was to have.
    #[error("alias {0} is taken")]
    AliasTaken(OwnedRoomAliasId),
    /// The alias that an existing room was to get.
    #[error("alias {0} exists already")]
    AliasExists(OwnedRoomAliasId),
    /// Forgetting a room that the user has not left.
    #[error("leave the room before you forget it")]
    StillInRoom,
    /// An alias in `m.room.canonical_alias` does not point at the room.
    #[error("alias {0} does not point to this room")]
    BadAlias(OwnedRoomAliasId),
    /// The user takes no invites (client-server API, *Invite permission*).
    #[error("{0} does not accept invites")]
    InviteBlocked(OwnedUserId),
    /// A thread whose root relates to another event (*Threading*).
    #[error("a thread cannot begin at an event that relates to another one")]
    NestedThread,
    /// The sender annotated the event with the same key before.
    #[error("you have annotated this event so already")]
    DuplicateAnnotation,
    /// Identity servers are not asked.
    #[error("third-party invites are not supported by this server")]
    ThirdPartyInvite,
    /// Others wrote to the room each time that the event was built.
    #[error("room is too busy, try again")]
    Contended,
    /// Signing or hashing failed, which only a broken key can cause.
    #[error("event could not be built: {0}")]
    Build(String),
    /// What the user keeps about the room could not be written.
    #[error(transparent)]
    UserData(#[from] UserDataError),
    /// Through other servers.
    #[error(transparent)]
    Remote(#[from] RemoteRoomError),
    /// A task ended before its work did; the process is stopping.
    #[error("server is stopping")]
    Stopping,
}
