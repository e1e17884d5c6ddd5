//! Requests into types: bodies, path parts and query parameters, bounded while
//! they are read and checked before a handler sees them.
//!
//! `M_NOT_JSON` is what no JSON parser would take (bad UTF-8 included);
//! `M_BAD_JSON` is JSON of the wrong shape, too deep, or with numbers beyond
//! range; a key that is not there is `M_MISSING_PARAM`; path and query
//! parameters of the wrong form are `M_INVALID_PARAM`.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Request};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::errors::ApiError;
use super::limits::{BODY_BYTES_MAX, BODY_IDLE, BODY_TOTAL};
use crate::limits::{JSON_DEPTH_MAX, JSON_OBJECT_KEYS_MAX, LOGIN_BODY_BYTES_MAX};

/// Bytes of a body that is too large which are read all the same, and how long.
const DISCARDED_BYTES_MAX: usize = 4 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// A JSON body of at most 1 MiB.
pub struct Json<T>(pub T);

/// A JSON body of at most 64 KiB, for endpoints that need no session.
pub struct SmallJson<T>(pub T);

/// A JSON body that may be left out; then it counts as `{}`.
pub struct OptionalJson<T>(pub T);

/// Typed path parts, in path order.
pub struct Path<T>(pub T);

/// Query parameters.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Json<T>, ApiError> {
        let bytes = read_body(request, BODY_BYTES_MAX).await?;
        parse_json(&bytes).map(Json)
    }
}

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for SmallJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<SmallJson<T>, ApiError> {
        let bytes = read_body(request, LOGIN_BODY_BYTES_MAX).await?;
        parse_json(&bytes).map(SmallJson)
    }
}

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<OptionalJson<T>, ApiError> {
        let bytes = read_body(request, BODY_BYTES_MAX).await?;
        let bytes = if bytes.is_empty() { b"{}" } else { &bytes[..] };
        parse_json(bytes).map(OptionalJson)
    }
}

impl<T, S> FromRequestParts<S> for Path<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Path<T>, ApiError> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Path(value)),
            Err(_) => Err(ApiError::InvalidParam("Invalid identifier in path".into())),
        }
    }
}

impl<T, S> FromRequestParts<S> for Query<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Query<T>, ApiError> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Query(value)),
            Err(_) => Err(ApiError::InvalidParam("Invalid query parameter".into())),
        }
    }
}

/// A parameter that the endpoint cannot do without.
pub fn required<T>(value: Option<T>, name: &'static str) -> Result<T, ApiError> {
    value.ok_or(ApiError::MissingParam(name.into()))
}

/// How long a body is waited for.
#[derive(Clone, Copy, Debug)]
pub struct BodyPatience {
    /// How long it may stand still.
    pub idle: Duration,
    /// How long it may take in all, however steadily it comes.
    pub total: Duration,
}

impl Default for BodyPatience {
    fn default() -> BodyPatience {
        BodyPatience {
            idle: BODY_IDLE,
            total: BODY_TOTAL,
        }
    }
}

/// [`read_body_within`] the usual time.
pub async fn read_body(request: Request, max_bytes: usize) -> Result<Bytes, ApiError> {
    read_body_within(request, max_bytes, BodyPatience::default()).await
}

/// Reads a whole body of at most `max_bytes`, without a copy if it came in one piece.
///
/// Errors: `TooLarge` as soon as the bound is passed or announced to be,
/// `BodyTimeout`, `BodyBroken`.
pub async fn read_body_within(
    request: Request,
    max_bytes: usize,
    patience: BodyPatience,
) -> Result<Bytes, ApiError> {
    let announced = request.headers().get(CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let body = request.into_body();
    if announced.is_some_and(|bytes| bytes > max_bytes as u64) {
        discard(&mut body.into_data_stream()).await;
        return Err(ApiError::TooLarge { max_bytes });
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    match tokio::time::timeout(patience.total, collect(body, max_bytes, patience.idle)).await {
        Ok(read) => read,
        Err(_) => Err(ApiError::BodyTimeout),
    }
}

async fn collect(body: Body, max_bytes: usize, idle: Duration) -> Result<Bytes, ApiError> {
    let mut chunks = body.into_data_stream();
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let next = tokio::time::timeout(idle, chunks.next()).await;
        let Some(chunk) = next.map_err(|_| ApiError::BodyTimeout)? else {
            break;
        };
        let chunk = chunk.map_err(|_| ApiError::BodyBroken)?;
        if first.len() + rest.len() + chunk.len() > max_bytes {
            drop((first, rest));
            discard(&mut chunks).await;
            return Err(ApiError::TooLarge { max_bytes });
        }
        if first.is_empty() {
            first = chunk;
        } else {
            rest.extend_from_slice(&chunk);
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}

/// Passes over some of what follows in a body that is refused: a connection that
/// is closed while the other side still writes may cost it the answer.
async fn discard(chunks: &mut BodyDataStream) {
    let mut left = DISCARDED_BYTES_MAX;
    let passed_over = async {
        while let Some(Ok(chunk)) = chunks.next().await {
            match left.checked_sub(chunk.len()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Whoever takes longer is cut off.
    let _ = tokio::time::timeout(DISCARD_TIME, passed_over).await;
}

/// Parses JSON within the bounds of [`crate::limits`].
///
/// Errors: `NotJson` if no JSON parser would take it, else `BadJson`.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(ApiError::NotJson);
    };
    // The parser stops at the first thing that it does not like, which may come
    // before the text stops being JSON, and calls numbers beyond range syntax
    // errors: what can be skipped as JSON is JSON.
    let is_json = || serde_json::from_str::<IgnoredAny>(text).is_ok();
    if let Err(bound) = check_bounds(bytes) {
        return Err(if is_json() { bound } else { ApiError::NotJson });
    }
    serde_json::from_str(text).map_err(|error| {
        if is_json() {
            misfit(&error)
        } else {
            ApiError::NotJson
        }
    })
}

/// What does not fit, without quoting what was sent.
fn misfit(error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    // The name comes from our own type.
    let missing = text.strip_prefix("missing field `");
    if let Some((name, _)) = missing.and_then(|rest| rest.split_once('`')) {
        return ApiError::MissingParam(name.to_owned().into());
    }
    let (line, column) = (error.line(), error.column());
    ApiError::BadJson(format!("Unexpected content at line {line} column {column}").into())
}

/// Refuses JSON that is nested deeper or has more keys than a request may.
fn check_bounds(bytes: &[u8]) -> Result<(), ApiError> {
    // Both bounds need at least this many openers or colons, which are counted
    // at memory speed; only few bodies take the careful road below.
    let openers = bytes.iter().filter(|b| matches!(b, b'{' | b'[')).count();
    if openers <= JSON_DEPTH_MAX {
        let colons = bytes.iter().filter(|b| **b == b':').count();
        if colons <= JSON_OBJECT_KEYS_MAX {
            return Ok(());
        }
    }
    count_nesting(bytes)
}

fn count_nesting(bytes: &[u8]) -> Result<(), ApiError> {
    let mut keys = [0usize; JSON_DEPTH_MAX + 1];
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in bytes {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                let Some(level) = keys.get_mut(depth) else {
                    return Err(ApiError::BadJson("JSON is nested too deeply".into()));
                };
                *level = 0;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b':' => {
                let Some(level) = keys.get_mut(depth) else {
                    continue;
                };
                *level += 1;
                if *level > JSON_OBJECT_KEYS_MAX {
                    return Err(ApiError::BadJson("JSON object has too many keys".into()));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value};

    fn code(body: &[u8]) -> &'static str {
        match parse_json::<Map<String, Value>>(body) {
            Ok(_) => "ok",
            Err(ApiError::NotJson) => "M_NOT_JSON",
            Err(ApiError::BadJson(_)) => "M_BAD_JSON",
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn json_and_what_only_looks_like_it() {
        let deep = |n: usize| format!("{}{}", "{\"a\":".repeat(n), "{}") + &"}".repeat(n);
        assert_eq!(code(b"{}"), "ok");
        assert_eq!(code(b""), "M_NOT_JSON");
        assert_eq!(code(b"{"), "M_NOT_JSON");
        assert_eq!(code(b"{\"a\":\"\xff\"}"), "M_NOT_JSON");
        assert_eq!(code(b"{} {}"), "M_NOT_JSON");
        assert_eq!(code(b"[]"), "M_BAD_JSON");
        assert_eq!(code(b"{\"a\":1e999}"), "M_BAD_JSON");
        assert_eq!(code(deep(JSON_DEPTH_MAX - 1).as_bytes()), "ok");
        assert_eq!(code(deep(JSON_DEPTH_MAX).as_bytes()), "M_BAD_JSON");
        assert_eq!(code(deep(100_000).as_bytes()), "M_BAD_JSON");
        assert_eq!(code("[".repeat(100_000).as_bytes()), "M_NOT_JSON");
    }

    #[tokio::test]
    async fn a_body_that_stands_still_times_out() {
        let stuck = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let read = collect(Body::from_stream(stuck), 1, Duration::from_millis(1)).await;
        assert!(matches!(read, Err(ApiError::BodyTimeout)));
    }

    #[test]
    fn brackets_in_strings_do_not_count() {
        let text = format!("{{\"a\":\"{}\\\"[\"}}", "[{:".repeat(20_000));
        assert_eq!(code(text.as_bytes()), "ok");
    }

    #[test]
    fn keys_of_one_object_are_bounded() {
        let object = |n: usize| {
            let fields: Vec<_> = (0..n).map(|i| format!("\"k{i}\":0")).collect();
            format!("{{{}}}", fields.join(","))
        };
        assert_eq!(code(object(JSON_OBJECT_KEYS_MAX).as_bytes()), "ok");
        assert_eq!(
            code(object(JSON_OBJECT_KEYS_MAX + 1).as_bytes()),
            "M_BAD_JSON"
        );
        let many = format!("{{\"a\":[{},{}]}}", object(6_000), object(6_000));
        assert_eq!(code(many.as_bytes()), "ok");
    }
}
