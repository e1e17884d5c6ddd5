//! Answers of others: read within bounds of bytes and time, told apart by what
//! a caller may do about them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::addresses::DeniedAddress;
use super::dns::DnsError;

/// Longest text of another server's error that is kept, in bytes.
const ERROR_TEXT_BYTES_MAX: usize = 512;
/// Bytes of an answer that says no.
const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;

/// Why a request led to no answer that can be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    #[error(transparent)]
    Dns(#[from] DnsError),
    #[error(transparent)]
    Denied(#[from] DeniedAddress),
    /// No connection, or one that broke: the text has the causes.
    #[error("{0}")]
    Connection(Box<str>),
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("the answer comes too slowly")]
    TooSlow,
    #[error("the answer has more than {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error("the answer is not the JSON that it should be")]
    NotJson,
    /// The other server said no.
    #[error("{0}")]
    Refused(Refusal),
}

/// What another server says when it says no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {errcode} {error}")]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// A Matrix error code; empty where it gave none.
    pub errcode: String,
    /// Its words, which are for people; empty where it gave none.
    pub error: String,
    /// The version of the room that it says we do not support.
    pub room_version: Option<String>,
}

impl RequestError {
    /// From what the HTTP client says.
    pub(super) fn of(error: &reqwest::Error, timeout: Duration) -> RequestError {
        // What our own resolver said is somewhere in the chain.
        let mut cause = std::error::Error::source(error);
        let mut text = String::new();
        while let Some(source) = cause {
            if let Some(dns) = source.downcast_ref::<DnsError>() {
                return RequestError::Dns(dns.clone());
            }
            if let Some(denied) = source.downcast_ref::<DeniedAddress>() {
                return RequestError::Denied(*denied);
            }
            text = source.to_string();
            cause = source.source();
        }
        if error.is_timeout() {
            return RequestError::Timeout(timeout);
        }
        // The last cause is the one that says something: the others only say where.
        let text = match text.is_empty() {
            true => error.to_string(),
            false => text,
        };
        RequestError::Connection(text.into())
    }
}

/// Reads a body of at most `max_bytes`, whatever its length is said to be.
pub(super) async fn body(
    mut response: Response,
    max_bytes: usize,
    timeout: Duration,
) -> Result<Bytes, RequestError> {
    let announced = response.content_length().unwrap_or(0);
    if announced > max_bytes as u64 {
        return Err(RequestError::TooLarge { max_bytes });
    }
    let mut whole = BytesMut::new();
    loop {
        let chunk = response.chunk().await;
        let Some(chunk) = chunk.map_err(|error| RequestError::of(&error, timeout))? else {
            return Ok(whole.freeze());
        };
        if whole.len() + chunk.len() > max_bytes {
            return Err(RequestError::TooLarge { max_bytes });
        }
        whole.extend_from_slice(&chunk);
    }
}

/// The body of a 200, or what the other server said instead.
pub(super) async fn accepted(
    response: Response,
    max_bytes: usize,
    timeout: Duration,
) -> Result<Bytes, RequestError> {
    let response = begun(response, timeout).await?;
    body(response, max_bytes, timeout).await
}

/// An answer that is a 200, or what the other server said instead.
pub(super) async fn begun(response: Response, timeout: Duration) -> Result<Response, RequestError> {
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response);
    }
    let body = body(response, ERROR_BODY_BYTES_MAX, timeout).await;
    Err(RequestError::Refused(refusal(
        status.as_u16(),
        &body.unwrap_or_default(),
    )))
}

fn refusal(status: u16, body: &[u8]) -> Refusal {
    #[derive(Default, Deserialize)]
    struct Body {
        #[serde(default)]
        errcode: String,
        #[serde(default)]
        error: String,
        room_version: Option<String>,
    }
    let body: Body = serde_json::from_slice(body).unwrap_or_default();
    Refusal {
        status,
        errcode: shortened(body.errcode),
        error: shortened(body.error),
        room_version: body.room_version.map(shortened),
    }
}

/// Without control characters, which could forge lines of our own log.
fn shortened(text: String) -> String {
    let mut kept = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if kept.len() + c.len_utf8() > ERROR_TEXT_BYTES_MAX {
            break;
        }
        kept.push(c);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_whatever_they_are() {
        let known = refusal(
            403,
            br#"{"errcode":"M_FORBIDDEN","error":"No\n\u001b[31m"}"#,
        );
        assert_eq!(known.errcode, "M_FORBIDDEN");
        assert_eq!(known.error, "No[31m");
        let incompatible = refusal(
            400,
            br#"{"errcode":"M_X","room_version":"org.example\n.9"}"#,
        );
        assert_eq!(incompatible.room_version.as_deref(), Some("org.example.9"));
        for body in [&b""[..], b"<html>", b"[]", br#"{"errcode":1}"#] {
            let empty = refusal(502, body);
            assert_eq!((empty.status, empty.errcode.as_str()), (502, ""));
        }
        let long = format!(r#"{{"error":"{}"}}"#, "ä".repeat(1000));
        assert_eq!(
            refusal(500, long.as_bytes()).error.len(),
            ERROR_TEXT_BYTES_MAX
        );
    }
}
