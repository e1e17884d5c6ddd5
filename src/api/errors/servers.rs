//! What other servers are told, and what users are told of other servers.

use http::StatusCode;

use super::clients::room_write;
use super::writing::{query, stopping, submit};
use super::{Answer, BUSY_RETRY, UNAVAILABLE_RETRY, capitalised, internal};
use crate::api::federation::auth::SignatureError;
use crate::matrix::event::PduError;
use crate::matrix::x_matrix::CredentialsError;
use crate::writers::federation::keyring::KeyError;
use crate::writers::federation::pdu_checks::PduRefusal;
use crate::writers::federation::policy_servers::PolicyError;
use crate::writers::federation::queries::RemoteError;
use crate::writers::federation::receiver::{ReceiveError, TransactionError};
use crate::writers::federation::remote_rooms::RemoteRoomError;
use crate::writers::federation::resident::ResidentError;
use crate::writers::submit::SubmitError;

/// Server-server API, *Request Authentication*.
pub(super) fn signature(error: &SignatureError) -> Answer {
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
pub(super) fn remote(error: &RemoteError) -> Answer {
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
pub(super) fn resident(error: &ResidentError) -> Answer {
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
            PduRefusal::Panicked => internal(),
        },
        ResidentError::UnknownPast => answer(S::BAD_REQUEST, "M_UNKNOWN"),
        ResidentError::UnableToAuthorise => answer(S::BAD_REQUEST, "M_UNABLE_TO_AUTHORISE_JOIN"),
        ResidentError::UnableToGrant => answer(S::BAD_REQUEST, "M_UNABLE_TO_GRANT_JOIN"),
        ResidentError::Busy => answer(S::SERVICE_UNAVAILABLE, "M_UNKNOWN").retry_after(BUSY_RETRY),
    }
}

pub(super) fn receive(error: &ReceiveError) -> Answer {
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
        ReceiveError::Broken => internal(),
        ReceiveError::Submit(error) => submit(error),
        ReceiveError::Query(error) => query(error),
    }
}

/// What another server says to our users.
///
/// Source: server-server API, *make_join*, *send_join* and the like; client-server
/// API, *Common error codes*.
pub(super) fn remote_room(error: &RemoteRoomError) -> Answer {
    use StatusCode as S;
    let answer = |status, code: &'static str| Answer::new(status, code, capitalised(error));
    match error {
        RemoteRoomError::NoServer => answer(S::NOT_FOUND, "M_NOT_FOUND"),
        RemoteRoomError::Version(_) => answer(S::BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION"),
        RemoteRoomError::Refused(refusal) => match (refusal.status, refusal.errcode.as_str()) {
            (403, _) => answer(S::FORBIDDEN, "M_FORBIDDEN"),
            (404, _) => answer(S::NOT_FOUND, "M_NOT_FOUND"),
            (429, _) => {
                answer(S::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED").retry_after(UNAVAILABLE_RETRY)
            }
            (400, code) if is_for_users(code) => {
                Answer::new(S::BAD_REQUEST, code.to_owned(), capitalised(error))
            }
            _ => answer(S::BAD_GATEWAY, "M_UNKNOWN"),
        },
        RemoteRoomError::Unreachable(_)
        | RemoteRoomError::Template(_)
        | RemoteRoomError::BadAnswer(_) => answer(S::BAD_GATEWAY, "M_UNKNOWN"),
        RemoteRoomError::Build(_) => internal(),
        RemoteRoomError::Submit(SubmitError::Refused(_)) => answer(S::FORBIDDEN, "M_FORBIDDEN"),
        RemoteRoomError::Submit(error) => submit(error),
        RemoteRoomError::Query(error) => query(error),
        RemoteRoomError::Stopping => stopping(),
    }
}

/// Whether a code with which another server refuses says something to our user,
/// like `M_INCOMPATIBLE_ROOM_VERSION` or a code of its own. Others are between the
/// servers, or would mean the user's session or account with us: `M_UNKNOWN_TOKEN`
/// logs them out.
fn is_for_users(code: &str) -> bool {
    let is_code = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_';
    let of_servers = [
        "M_UNKNOWN",
        "M_UNRECOGNIZED",
        "M_NOT_JSON",
        "M_BAD_JSON",
        "M_MISSING_PARAM",
        "M_INVALID_PARAM",
        "M_TOO_LARGE",
        "M_BAD_STATE",
    ];
    let of_sessions = [
        "M_UNAUTHORIZED",
        "M_UNKNOWN_TOKEN",
        "M_MISSING_TOKEN",
        "M_LIMIT_EXCEEDED",
        "M_RESOURCE_LIMIT_EXCEEDED",
    ];
    // Of accounts, of their keys, of agreements that they lack.
    let of_accounts = [
        "M_USER_",
        "M_CONSENT_",
        "M_CANNOT_",
        "M_WRONG_",
        "M_CAPTCHA_",
    ];
    code.starts_with("M_")
        && code.bytes().all(is_code)
        && !of_servers.contains(&code)
        && !of_sessions.contains(&code)
        && !of_accounts.iter().any(|start| code.starts_with(start))
}

/// What a user is told whose event the room's policy server does not recommend:
/// its own words, where it has some.
pub(super) fn policy(error: &PolicyError) -> Answer {
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
