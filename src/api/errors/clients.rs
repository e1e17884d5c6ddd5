//! What users are told who write, sync and search here.

use http::StatusCode;

use super::servers::{policy, remote_room};
use super::writing::{query, stopping, submit};
use super::{Answer, BUSY_RETRY, capitalised, internal};
use crate::matrix::push_rules::RuleError;
use crate::query::shown::ShowError;
use crate::readers::client_search::SearchError;
use crate::readers::client_sync::SyncError;
use crate::writers::client::accounts::AccountError;
use crate::writers::client::room_error::RoomWriteError;
use crate::writers::client::user_data::UserDataError;

pub(super) fn account(error: &AccountError) -> Answer {
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
        AccountError::PasswordHash => internal(),
        AccountError::Submit(error) => submit(error),
    }
}

pub(super) fn user_data(error: &UserDataError) -> Answer {
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

pub(super) fn push_rule(error: &RuleError) -> Answer {
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

pub(super) fn sync(error: &SyncError) -> Answer {
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
        | SyncError::Stopped => internal(),
    }
}

pub(super) fn search(error: &SearchError) -> Answer {
    let invalid =
        |text: &'static str| Answer::new(StatusCode::BAD_REQUEST, "M_INVALID_PARAM", text);
    match error {
        SearchError::Term(_) => invalid("search_term is too long"),
        SearchError::Token(_) => invalid("next_batch is no token for this search"),
        SearchError::Query(error) => query(error),
        SearchError::Index(_) => internal(),
    }
}

pub(super) fn room_write(error: &RoomWriteError) -> Answer {
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
        RoomWriteError::Build(_) => internal(),
        RoomWriteError::UserData(error) => user_data(error),
        RoomWriteError::Remote(error) => remote_room(error),
        RoomWriteError::Stopping => stopping(),
    }
}
