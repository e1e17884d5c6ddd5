//! The one map from what went wrong to a Matrix error code and HTTP status.
//!
//! Matches over lower errors have no wildcard arm: a new variant does not
//! compile until someone chooses its code. The text is for the user, short and
//! without internals; the log gets all the facts. Whoever is told stands in a
//! file each: users in [`clients`], servers in [`servers`], anybody in [`writing`].

mod clients;
mod servers;
mod writing;

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use self::clients::{account, room_write, search, sync, user_data};
use self::servers::{receive, remote, resident, signature};
use self::writing::{query, submit};
use super::federation::auth::SignatureError;
use super::uia::Challenge;
use crate::query::rooms::QueryError;
use crate::query::shown::ShowError;
use crate::readers::client_search::SearchError;
use crate::readers::client_sync::SyncError;
use crate::writers::client::accounts::AccountError;
use crate::writers::client::room_error::RoomWriteError;
use crate::writers::client::user_data::UserDataError;
use crate::writers::federation::queries::RemoteError;
use crate::writers::federation::receiver::ReceiveError;
use crate::writers::federation::resident::ResidentError;
use crate::writers::submit::SubmitError;

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
    code: Cow<'static, str>,
    text: Cow<'static, str>,
    retry_after: Option<Duration>,
}

impl Answer {
    fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        text: impl Into<Cow<'static, str>>,
    ) -> Answer {
        Answer {
            status,
            code: code.into(),
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
            ApiError::Panicked => internal(),
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
            ApiError::Stored(_) => internal(),
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
            ApiError::RoomWrite(RoomWriteError::Remote(error)) => match error.room_version() {
                Some(version) => Map::from_iter([("room_version".to_owned(), json!(version))]),
                None => Map::new(),
            },
            _ => Map::new(),
        }
    }
}

fn soft_logout() -> Map<String, Value> {
    Map::from_iter([("soft_logout".to_owned(), Value::Bool(true))])
}

/// What went wrong is in the log, and nothing for the user.
fn internal() -> Answer {
    Answer::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "M_UNKNOWN",
        "Internal server error",
    )
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
        if let (Some(after), "M_LIMIT_EXCEEDED") = (answer.retry_after, &*answer.code) {
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
