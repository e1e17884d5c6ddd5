//! The one map from what went wrong to a Matrix error code and HTTP status.
//!
//! Matches over lower errors have no wildcard arm: a new variant does not
//! compile until someone chooses its code. The text is for the user, short and
//! without internals; the log gets all the facts.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use log_format::record::output::Reason;
use serde_json::{Map, Value, json};

use super::federation::auth::SignatureError;
use super::uia::Challenge;
use crate::matrix::event::PduError;
use crate::matrix::push_rules::RuleError;
use crate::matrix::x_matrix::CredentialsError;
use crate::query::outcome::OutcomeError;
use crate::query::rooms::QueryError;
use crate::query::shown::ShowError;
use crate::readers::client_search::SearchError;
use crate::readers::client_sync::SyncError;
use crate::writers::client::accounts::AccountError;
use crate::writers::client::room_error::RoomWriteError;
use crate::writers::client::user_data::UserDataError;
use crate::writers::federation::keyring::KeyError;
use crate::writers::federation::pdu_checks::PduRefusal;
use crate::writers::federation::policy_servers::PolicyError;
use crate::writers::federation::queries::RemoteError;
use crate::writers::federation::receiver::{ReceiveError, TransactionError};
use crate::writers::federation::remote_rooms::RemoteRoomError;
use crate::writers::federation::resident::ResidentError;
use crate::writers::submit::{AppendError, SubmitError};

/// Why a request is not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("body is not JSON")]
    NotJson,
    /// JSON, but not what the endpoint takes; the text says what.
    #[error("body does not fit: {0}")]
    BadJson(Cow<'static, str>),
    /// A parameter, or a key of the body.
    #[error("parameter {0} is missing")]
    MissingParam(Cow<'static, str>),
    #[error("invalid parameter: {0}")]
    InvalidParam(Cow<'static, str>),
    #[error("body exceeds {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error("body took too long")]
    BodyTimeout,
    #[error("body ended early")]
    BodyBroken,
    #[error("no access token")]
    MissingToken,
    /// `soft_logout`: the client may keep its keys and refresh or log in again.
    #[error("access token is not known")]
    UnknownToken { soft_logout: bool },
    #[error("path is not known")]
    UnknownPath,
    #[error("path does not take this method")]
    WrongMethod,
    #[error("rate limit, free again in {retry_after:?}")]
    LimitExceeded { retry_after: Duration },
    #[error("too many requests in flight")]
    Overloaded,
    #[error("forbidden: {0}")]
    Forbidden(&'static str),
    #[error("closed to guests")]
    GuestForbidden,
    #[error("not found: {0}")]
    NotFound(&'static str),
    /// `m.fully_read`, `m.push_rules`: set through endpoints of their own.
    #[error("account data type is controlled by the server")]
    ServerControlled,
    #[error("login type is not offered")]
    UnknownLoginType,
    #[error("profile key is too long")]
    KeyTooLarge,
    #[error("more user-interactive authentication is due")]
    InteractiveAuth(Box<Challenge>),
    #[error("a handler panicked")]
    Panicked,
    #[error("request of a server: {0}")]
    Signature(#[from] SignatureError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("transaction of a server: {0}")]
    Receive(#[from] ReceiveError),
    /// Another server names a room version that there is none of here.
    #[error("room version {0:?} is not known")]
    UnknownRoomVersion(String),
    #[error(transparent)]
    Resident(#[from] ResidentError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    UserData(#[from] UserDataError),
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Sync(#[from] SyncError),
    #[error(transparent)]
    Search(#[from] SearchError),
    #[error(transparent)]
    RoomWrite(#[from] RoomWriteError),
    /// An event of ours cannot be read, which only a damaged store explains.
    #[error("stored event cannot be read: {0}")]
    Stored(String),
}

impl From<ShowError> for ApiError {
    fn from(error: ShowError) -> ApiError {
        match error {
            ShowError::Query(error) => ApiError::Query(error),
            ShowError::Format(error) => ApiError::Stored(error.to_string()),
        }
    }
}

/// An error as it leaves the house.
struct Answer {
    status: StatusCode,
    code: &'static str,
    text: Cow<'static, str>,
    retry_after: Option<Duration>,
}

impl Answer {
    fn new(status: StatusCode, code: &'static str, text: impl Into<Cow<'static, str>>) -> Answer {
        Answer {
            status,
            code,
            text: text.into(),
            retry_after: None,
        }
    }

    fn retry_after(mut self, after: Duration) -> Answer {
        self.retry_after = Some(after);
        self
    }
}

/// Set on responses that want the `admin_contact`, which only the door knows.
#[derive(Clone, Copy)]
pub(super) struct AdminContactDue;

/// When to come again after the server was too busy.
const BUSY_RETRY: Duration = Duration::from_secs(1);
/// When to come again after the server cannot write.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(10);

impl ApiError {
    fn answer(&self) -> Answer {
        use StatusCode as S;
        match self {
            ApiError::NotJson => Answer::new(S::BAD_REQUEST, "M_NOT_JSON", "Content is not JSON"),
            ApiError::BadJson(text) => Answer::new(S::BAD_REQUEST, "M_BAD_JSON", text.clone()),
            ApiError::MissingParam(name) => Answer::new(
                S::BAD_REQUEST,
                "M_MISSING_PARAM",
                format!("Missing parameter: {name}"),
            ),
            ApiError::InvalidParam(text) => {
                Answer::new(S::BAD_REQUEST, "M_INVALID_PARAM", text.clone())
            }
            ApiError::TooLarge { max_bytes } => Answer::new(
                S::PAYLOAD_TOO_LARGE,
                "M_TOO_LARGE",
                format!("Request body is larger than {max_bytes} bytes"),
            ),
            ApiError::BodyTimeout => Answer::new(
                S::REQUEST_TIMEOUT,
                "M_UNKNOWN",
                "Request body took too long",
            ),
            ApiError::BodyBroken => {
                Answer::new(S::BAD_REQUEST, "M_UNKNOWN", "Request body ended early")
            }
            ApiError::MissingToken => {
                Answer::new(S::UNAUTHORIZED, "M_MISSING_TOKEN", "Missing access token")
            }
            ApiError::UnknownToken { soft_logout } => Answer::new(
                S::UNAUTHORIZED,
                "M_UNKNOWN_TOKEN",
                if *soft_logout {
                    "Access token has expired"
                } else {
                    "Unrecognised access token"
                },
            ),
            ApiError::UnknownPath => {
                Answer::new(S::NOT_FOUND, "M_UNRECOGNIZED", "Unrecognized request")
            }
            ApiError::WrongMethod => Answer::new(
                S::METHOD_NOT_ALLOWED,
                "M_UNRECOGNIZED",
                "Unrecognized request method",
            ),
            ApiError::LimitExceeded { retry_after } => Answer::new(
                S::TOO_MANY_REQUESTS,
                "M_LIMIT_EXCEEDED",
                "Too many requests",
            )
            .retry_after(*retry_after),
            ApiError::Overloaded => {
                Answer::new(S::SERVICE_UNAVAILABLE, "M_LIMIT_EXCEEDED", "Server is busy")
                    .retry_after(BUSY_RETRY)
            }
            ApiError::Forbidden(text) => Answer::new(S::FORBIDDEN, "M_FORBIDDEN", *text),
            ApiError::GuestForbidden => Answer::new(
                S::FORBIDDEN,
                "M_GUEST_ACCESS_FORBIDDEN",
                "Guests may not do this",
            ),
            ApiError::NotFound(text) => Answer::new(S::NOT_FOUND, "M_NOT_FOUND", *text),
            // Client-server API, account data: 405 with M_BAD_JSON.
            ApiError::ServerControlled => Answer::new(
                S::METHOD_NOT_ALLOWED,
                "M_BAD_JSON",
                "This type of account data cannot be set through this API",
            ),
            // Client-server API, login: the example of a 400.
            ApiError::UnknownLoginType => {
                Answer::new(S::BAD_REQUEST, "M_UNKNOWN", "Bad login type")
            }
            ApiError::KeyTooLarge => {
                Answer::new(S::BAD_REQUEST, "M_KEY_TOO_LARGE", "Profile key is too long")
            }
            ApiError::InteractiveAuth(challenge) => {
                let (code, text) = challenge.failure.unwrap_or(("M_UNAUTHORIZED", ""));
                Answer::new(S::UNAUTHORIZED, code, text)
            }
            ApiError::Panicked => Answer::new(
                S::INTERNAL_SERVER_ERROR,
                "M_UNKNOWN",
                "Internal server error",
            ),
            ApiError::Signature(error) => signature(error),
            ApiError::Remote(error) => remote(error),
            ApiError::UnknownRoomVersion(_) => Answer::new(
                S::BAD_REQUEST,
                "M_INCOMPATIBLE_ROOM_VERSION",
                "This server does not support the room's version",
            ),
            ApiError::Resident(error) => resident(error),
            ApiError::Receive(error) => receive(error),
            ApiError::Account(error) => account(error),
            ApiError::UserData(error) => user_data(error),
            ApiError::Submit(error) => submit(error),
            ApiError::Query(error) => query(error),
            ApiError::Sync(error) => sync(error),
            ApiError::Search(error) => search(error),
            ApiError::RoomWrite(error) => room_write(error),
            ApiError::Stored(_) => Answer::new(
                S::INTERNAL_SERVER_ERROR,
                "M_UNKNOWN",
                "Internal server error",
            ),
        }
    }

    /// Fields beside `errcode` and `error`.
    fn extra(&self) -> Map<String, Value> {
        match self {
            ApiError::UnknownToken { soft_logout: true } => soft_logout(),
            ApiError::Account(AccountError::UnknownRefreshToken) => soft_logout(),
            ApiError::InteractiveAuth(challenge) => challenge.to_json(),
            ApiError::UnknownRoomVersion(version) => {
                Map::from_iter([("room_version".to_owned(), json!(version))])
            }
            ApiError::Resident(ResidentError::IncompatibleVersion(version)) => {
                Map::from_iter([("room_version".to_owned(), json!(version.as_str()))])
            }
            _ => Map::new(),
        }
    }
}

fn soft_logout() -> Map<String, Value> {
    Map::from_iter([("soft_logout".to_owned(), Value::Bool(true))])
}

/// Server-server API, *Request Authentication*.
fn signature(error: &SignatureError) -> Answer {
    use StatusCode as S;
    let unauthorized = |text: &'static str| Answer::new(S::UNAUTHORIZED, "M_UNAUTHORIZED", text);
    match error {
        SignatureError::Missing => unauthorized("Missing Authorization header"),
        SignatureError::Credentials(CredentialsError::Malformed) => {
            unauthorized("Authorization header is no X-Matrix header")
        }
        SignatureError::Credentials(CredentialsError::OtherDestination) => {
            unauthorized("Request is meant for another server")
        }
        SignatureError::FromUs => unauthorized("Request claims to come from this server"),
        SignatureError::Wrong => unauthorized("Invalid signature"),
        SignatureError::Key(error) => match error {
            KeyError::NotPublished(_) => unauthorized("The server publishes no such key"),
            KeyError::Fetch { .. }
            | KeyError::Refused { .. }
            | KeyError::Replaced(_)
            | KeyError::Pausing(_) => unauthorized("The server's keys could not be had"),
            KeyError::Busy => {
                Answer::new(S::SERVICE_UNAVAILABLE, "M_LIMIT_EXCEEDED", "Server is busy")
                    .retry_after(BUSY_RETRY)
            }
            KeyError::Query(error) => query(error),
            KeyError::Submit(error) => submit(error),
        },
    }
}

/// What a client is told of another server's answer: that there is none, and no
/// more. Its words are not ours to pass on.
fn remote(error: &RemoteError) -> Answer {
    use StatusCode as S;
    match error {
        RemoteError::NotFound => Answer::new(
            S::NOT_FOUND,
            "M_NOT_FOUND",
            "The other server knows no such thing",
        ),
        RemoteError::Forbidden(_) => Answer::new(
            S::FORBIDDEN,
            "M_FORBIDDEN",
            "The other server does not tell",
        ),
        RemoteError::Unreachable(_) => Answer::new(
            S::BAD_GATEWAY,
            "M_UNKNOWN",
            "The other server could not be asked",
        ),
    }
}

/// What another server is told that wants to be helped into a room, or out of it
/// (server-server API, *Joining Rooms*, *Restricted rooms*).
fn resident(error: &ResidentError) -> Answer {
    use StatusCode as S;
    let answer = |status, code| Answer::new(status, code, capitalised(error));
    match error {
        ResidentError::Query(error) => query(error),
        ResidentError::Submit(error) => submit(error),
        ResidentError::Draft(error) => room_write(error),
        ResidentError::UnknownRoom => answer(S::NOT_FOUND, "M_NOT_FOUND"),
        ResidentError::ServerDenied
        | ResidentError::NotOfOrigin
        | ResidentError::Forbidden
        | ResidentError::ConditionsFailed => answer(S::FORBIDDEN, "M_FORBIDDEN"),
        ResidentError::IncompatibleVersion(_) => {
            answer(S::BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION")
        }
        ResidentError::InviteBlocked => answer(S::FORBIDDEN, "M_INVITE_BLOCKED"),
        ResidentError::SenderElsewhere | ResidentError::Misfit(_) => {
            answer(S::BAD_REQUEST, "M_INVALID_PARAM")
        }
        ResidentError::Pdu(refusal) => match refusal {
            PduRefusal::Format(PduError::Json(_) | PduError::Number) => {
                answer(S::BAD_REQUEST, "M_BAD_JSON")
            }
            PduRefusal::Format(_) => answer(S::BAD_REQUEST, "M_INVALID_PARAM"),
            PduRefusal::Signature(_) | PduRefusal::Keys(_) => answer(S::FORBIDDEN, "M_FORBIDDEN"),
            PduRefusal::Panicked => Answer::new(
                S::INTERNAL_SERVER_ERROR,
                "M_UNKNOWN",
                "Internal server error",
            ),
        },
        ResidentError::UnknownPast => answer(S::BAD_REQUEST, "M_UNKNOWN"),
        ResidentError::UnableToAuthorise => answer(S::BAD_REQUEST, "M_UNABLE_TO_AUTHORISE_JOIN"),
        ResidentError::UnableToGrant => answer(S::BAD_REQUEST, "M_UNABLE_TO_GRANT_JOIN"),
        ResidentError::Busy => answer(S::SERVICE_UNAVAILABLE, "M_UNKNOWN").retry_after(BUSY_RETRY),
    }
}

fn receive(error: &ReceiveError) -> Answer {
    use StatusCode as S;
    match error {
        ReceiveError::Transaction(error) => match error {
            TransactionError::OtherOrigin => Answer::new(
                S::BAD_REQUEST,
                "M_INVALID_PARAM",
                "origin is not the server that signed the request",
            ),
            TransactionError::NotAnArray(_) | TransactionError::TooMany { .. } => {
                Answer::new(S::BAD_REQUEST, "M_BAD_JSON", capitalised(error))
            }
        },
        ReceiveError::Busy => Answer::new(
            S::TOO_MANY_REQUESTS,
            "M_LIMIT_EXCEEDED",
            "Too much is received at a time",
        )
        .retry_after(BUSY_RETRY),
        ReceiveError::Broken => Answer::new(
            S::INTERNAL_SERVER_ERROR,
            "M_UNKNOWN",
            "Internal server error",
        ),
        ReceiveError::Submit(error) => submit(error),
        ReceiveError::Query(error) => query(error),
    }
}

/// What another server says to our users. Its codes are passed on where the
/// specification has them for this, and no others: `M_UNKNOWN_TOKEN` would log
/// our user out.
fn remote_room(error: &RemoteRoomError) -> Answer {
    use StatusCode as S;
    let answer = |status, code| Answer::new(status, code, capitalised(error));
    match error {
        RemoteRoomError::NoServer => answer(S::NOT_FOUND, "M_NOT_FOUND"),
        RemoteRoomError::Version(_) => answer(S::BAD_REQUEST, "M_UNSUPPORTED_ROOM_VERSION"),
        RemoteRoomError::Refused(refusal) => match (refusal.status, refusal.errcode.as_str()) {
            (403, _) => answer(S::FORBIDDEN, "M_FORBIDDEN"),
            (404, _) => answer(S::NOT_FOUND, "M_NOT_FOUND"),
            (400, "M_INCOMPATIBLE_ROOM_VERSION") => {
                answer(S::BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION")
            }
            (400, "M_UNABLE_TO_AUTHORISE_JOIN") => {
                answer(S::BAD_REQUEST, "M_UNABLE_TO_AUTHORISE_JOIN")
            }
            (400, "M_UNABLE_TO_GRANT_JOIN") => answer(S::BAD_REQUEST, "M_UNABLE_TO_GRANT_JOIN"),
            _ => answer(S::BAD_GATEWAY, "M_UNKNOWN"),
        },
        RemoteRoomError::Unreachable(_)
        | RemoteRoomError::Template(_)
        | RemoteRoomError::BadAnswer(_) => answer(S::BAD_GATEWAY, "M_UNKNOWN"),
        RemoteRoomError::Build(_) => Answer::new(
            S::INTERNAL_SERVER_ERROR,
            "M_UNKNOWN",
            "Internal server error",
        ),
        RemoteRoomError::Submit(SubmitError::Refused(_)) => answer(S::FORBIDDEN, "M_FORBIDDEN"),
        RemoteRoomError::Submit(error) => submit(error),
        RemoteRoomError::Query(error) => query(error),
        RemoteRoomError::Stopping => stopping(),
    }
}

fn account(error: &AccountError) -> Answer {
    use StatusCode as S;
    match error {
        AccountError::UserInUse => Answer::new(
            S::BAD_REQUEST,
            "M_USER_IN_USE",
            "Desired user ID is already taken",
        ),
        AccountError::InvalidUsername => Answer::new(
            S::BAD_REQUEST,
            "M_INVALID_USERNAME",
            "Desired user ID is not a valid user name",
        ),
        AccountError::WeakPassword { min } => Answer::new(
            S::BAD_REQUEST,
            "M_WEAK_PASSWORD",
            format!("Password must have at least {min} characters"),
        ),
        AccountError::PasswordTooLong { max } => Answer::new(
            S::BAD_REQUEST,
            "M_INVALID_PARAM",
            format!("Password must have at most {max} characters"),
        ),
        AccountError::InvalidDeviceId => Answer::new(
            S::BAD_REQUEST,
            "M_INVALID_PARAM",
            "Device ID is empty, too long or holds control characters",
        ),
        AccountError::DisplayNameTooLong { max_bytes } => Answer::new(
            S::BAD_REQUEST,
            "M_INVALID_PARAM",
            format!("Device display name must have at most {max_bytes} bytes"),
        ),
        AccountError::WrongCredentials => {
            Answer::new(S::FORBIDDEN, "M_FORBIDDEN", "Invalid username or password")
        }
        AccountError::Deactivated => Answer::new(
            S::FORBIDDEN,
            "M_USER_DEACTIVATED",
            "This account has been deactivated",
        ),
        AccountError::UnknownDevice => {
            Answer::new(S::NOT_FOUND, "M_NOT_FOUND", "No device with this ID")
        }
        AccountError::UnknownRefreshToken => Answer::new(
            S::UNAUTHORIZED,
            "M_UNKNOWN_TOKEN",
            "Unrecognised refresh token",
        ),
        AccountError::PasswordHash => Answer::new(
            S::INTERNAL_SERVER_ERROR,
            "M_UNKNOWN",
            "Internal server error",
        ),
        AccountError::Submit(error) => submit(error),
    }
}

fn user_data(error: &UserDataError) -> Answer {
    use StatusCode as S;
    match error {
        UserDataError::ProfileTooLarge { max_bytes } => Answer::new(
            S::BAD_REQUEST,
            "M_PROFILE_TOO_LARGE",
            format!("Profile would exceed {max_bytes} bytes"),
        ),
        UserDataError::TooLarge { max_bytes } => Answer::new(
            S::PAYLOAD_TOO_LARGE,
            "M_TOO_LARGE",
            format!("Content must have at most {max_bytes} bytes"),
        ),
        UserDataError::TooMany { what, max } => Answer::new(
            S::BAD_REQUEST,
            "M_TOO_LARGE",
            format!("No more than {max} {what} are kept"),
        ),
        UserDataError::PushRule(error) => push_rule(error),
        UserDataError::Submit(error) => submit(error),
    }
}

fn push_rule(error: &RuleError) -> Answer {
    use StatusCode as S;
    let answer = |status, code| Answer::new(status, code, capitalised(error));
    match error {
        RuleError::Reserved | RuleError::RuleId | RuleError::Subject(_) | RuleError::Predefined => {
            answer(S::BAD_REQUEST, "M_INVALID_PARAM")
        }
        RuleError::Form(_) => answer(S::BAD_REQUEST, "M_BAD_JSON"),
        // Client-server API, *PUT pushrules*: the example of a 400.
        RuleError::UnknownNeighbour(_) => answer(S::BAD_REQUEST, "M_UNKNOWN"),
        RuleError::NotFound => answer(S::NOT_FOUND, "M_NOT_FOUND"),
        RuleError::TooLarge { .. } => answer(S::PAYLOAD_TOO_LARGE, "M_TOO_LARGE"),
        RuleError::TooMany { .. } => answer(S::BAD_REQUEST, "M_TOO_LARGE"),
    }
}

fn sync(error: &SyncError) -> Answer {
    match error {
        SyncError::Token(_) => Answer::new(
            StatusCode::BAD_REQUEST,
            "M_INVALID_PARAM",
            "Unknown since token",
        ),
        SyncError::LoggedOut => Answer::new(
            StatusCode::UNAUTHORIZED,
            "M_UNKNOWN_TOKEN",
            "The device was logged out",
        ),
        SyncError::UnknownPosition => Answer::new(
            StatusCode::BAD_REQUEST,
            "M_UNKNOWN_POS",
            "Unknown position, start over",
        ),
        SyncError::TooManyRules => Answer::new(
            StatusCode::BAD_REQUEST,
            "M_INVALID_PARAM",
            "Too many different required_state in one request",
        ),
        SyncError::Query(error) => query(error),
        SyncError::Show(ShowError::Query(error)) => query(error),
        SyncError::Store(_)
        | SyncError::Event(_)
        | SyncError::Show(ShowError::Format(_))
        | SyncError::Answer(_)
        | SyncError::Stopped => Answer::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "M_UNKNOWN",
            "Internal server error",
        ),
    }
}

fn search(error: &SearchError) -> Answer {
    let invalid =
        |text: &'static str| Answer::new(StatusCode::BAD_REQUEST, "M_INVALID_PARAM", text);
    match error {
        SearchError::Term(_) => invalid("search_term is too long"),
        SearchError::Token(_) => invalid("next_batch is no token for this search"),
        SearchError::Query(error) => query(error),
        SearchError::Index(_) => Answer::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "M_UNKNOWN",
            "Internal server error",
        ),
    }
}

fn room_write(error: &RoomWriteError) -> Answer {
    use StatusCode as S;
    let answer = |status, code| Answer::new(status, code, capitalised(error));
    match error {
        RoomWriteError::Submit(error) => submit(error),
        RoomWriteError::Query(error) => query(error),
        RoomWriteError::Policy(error) => policy(error),
        RoomWriteError::UnknownRoom | RoomWriteError::NotFound(_) => {
            answer(S::NOT_FOUND, "M_NOT_FOUND")
        }
        RoomWriteError::Forbidden(_) | RoomWriteError::ThirdPartyInvite => {
            answer(S::FORBIDDEN, "M_FORBIDDEN")
        }
        RoomWriteError::InviteBlocked(_) => answer(S::FORBIDDEN, "M_INVITE_BLOCKED"),
        RoomWriteError::GuestForbidden => answer(S::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN"),
        RoomWriteError::TooLarge(_) => answer(S::PAYLOAD_TOO_LARGE, "M_TOO_LARGE"),
        RoomWriteError::BadJson(_) => answer(S::BAD_REQUEST, "M_BAD_JSON"),
        RoomWriteError::InvalidParam(_) => answer(S::BAD_REQUEST, "M_INVALID_PARAM"),
        RoomWriteError::InvalidRoomState(_) => answer(S::BAD_REQUEST, "M_INVALID_ROOM_STATE"),
        RoomWriteError::UnsupportedRoomVersion(_) => {
            answer(S::BAD_REQUEST, "M_UNSUPPORTED_ROOM_VERSION")
        }
        RoomWriteError::AliasTaken(_) => answer(S::BAD_REQUEST, "M_ROOM_IN_USE"),
        // Client-server API, *PUT directory/room*: 409 with M_UNKNOWN.
        RoomWriteError::AliasExists(_) => answer(S::CONFLICT, "M_UNKNOWN"),
        // Client-server API, *POST forget*: 400 with M_UNKNOWN.
        RoomWriteError::StillInRoom => answer(S::BAD_REQUEST, "M_UNKNOWN"),
        // Client-server API, *Validation of m.thread relationships*: no code of its own.
        RoomWriteError::NestedThread => answer(S::BAD_REQUEST, "M_UNKNOWN"),
        RoomWriteError::DuplicateAnnotation => answer(S::BAD_REQUEST, "M_DUPLICATE_ANNOTATION"),
        RoomWriteError::BadAlias(_) => answer(S::BAD_REQUEST, "M_BAD_ALIAS"),
        RoomWriteError::Contended => {
            answer(S::SERVICE_UNAVAILABLE, "M_UNKNOWN").retry_after(BUSY_RETRY)
        }
        RoomWriteError::Build(_) => Answer::new(
            S::INTERNAL_SERVER_ERROR,
            "M_UNKNOWN",
            "Internal server error",
        ),
        RoomWriteError::UserData(error) => user_data(error),
        RoomWriteError::Remote(error) => remote_room(error),
        RoomWriteError::Stopping => stopping(),
    }
}

/// What a user is told whose event the room's policy server does not recommend:
/// its own words, where it has some.
fn policy(error: &PolicyError) -> Answer {
    use StatusCode as S;
    match error {
        PolicyError::Refused(refusal) => {
            let text = match refusal.error.is_empty() {
                true => "The room's policy server refuses this".to_owned(),
                false => refusal.error.clone(),
            };
            match refusal.status {
                429 => Answer::new(S::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", text)
                    .retry_after(BUSY_RETRY),
                _ => Answer::new(S::FORBIDDEN, "M_FORBIDDEN", text),
            }
        }
        PolicyError::Unsigned => Answer::new(S::FORBIDDEN, "M_FORBIDDEN", capitalised(error)),
        PolicyError::Unreachable(_) | PolicyError::Pausing => Answer::new(
            S::BAD_GATEWAY,
            "M_UNKNOWN",
            "The room's policy server does not answer",
        ),
        PolicyError::Query(error) => query(error),
    }
}

/// Error texts are lower case; people read sentences.
fn capitalised(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => text,
    }
}

fn submit(error: &SubmitError) -> Answer {
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

fn append(error: &AppendError) -> Answer {
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

fn stopping() -> Answer {
    Answer::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "M_UNKNOWN",
        "The server is shutting down",
    )
    .retry_after(UNAVAILABLE_RETRY)
}

fn query(error: &QueryError) -> Answer {
    match error {
        QueryError::Store(_) | QueryError::Log(_) => Answer::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "M_UNKNOWN",
            "Internal server error",
        ),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let answer = self.answer();
        if answer.status.is_server_error() {
            tracing::warn!(error = %self, status = answer.status.as_u16(), "request failed");
        }
        let mut body = self.extra();
        // A first challenge is no error and has no code (client-server API,
        // *User-interactive API in the REST API*).
        let plain = matches!(&self, ApiError::InteractiveAuth(c) if c.failure.is_none());
        if !plain {
            body.insert("errcode".to_owned(), json!(answer.code));
            body.insert("error".to_owned(), json!(answer.text));
        }
        if let (Some(after), "M_LIMIT_EXCEEDED") = (answer.retry_after, answer.code) {
            let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            body.insert("retry_after_ms".to_owned(), json!(after_ms.max(1)));
        }
        let mut response = Response::new(Body::from(Value::Object(body).to_string()));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = answer.retry_after {
            // Whole seconds, rounded up: coming earlier would be refused again.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if matches!(&self, ApiError::TooLarge { .. } | ApiError::BodyTimeout) {
            // The rest of the body is not read, so the connection ends here. Unless
            // told, a client would send its next request into it.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if answer.code == "M_RESOURCE_LIMIT_EXCEEDED" {
            response.extensions_mut().insert(AdminContactDue);
        }
        response
    }
}
