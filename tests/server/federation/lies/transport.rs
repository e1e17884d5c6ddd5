//! Lies of HTTP and JSON, which can be told about whatever is asked for.

use std::io::Error;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderValue, StatusCode, Version};
use serde_json::{Value, json};

use super::super::fake::answer;

/// See the module; each says what is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Nothing, ever.
    Never,
    /// The truth, a byte a second.
    Drip,
    /// Spaces, one a second.
    DripOfSpaces,
    /// A length of 1 GiB, and that much.
    Huge,
    /// A length of 1 GiB, and nothing.
    HugeAndNothing,
    /// Chunks of spaces without an end.
    EndlessSpaces,
    /// Chunks of a list without an end.
    EndlessList,
    /// The truth, and then spaces without an end.
    EndlessTail,
    /// 100 MiB in some hundred KiB.
    GzipBomb,
    RedirectToItself,
    /// To an address that nobody but us should reach.
    RedirectInside,
    RedirectNowhere,
    Truncated,
    /// The connection breaks in the middle.
    Broken,
    Html,
    Empty,
    EmptyObject,
    EmptyList,
    Null,
    Deep,
    HugeNumbers,
    NotUtf8,
    /// Every field is a list.
    OtherShapes,
    /// An error, with 200.
    ErrorAs200,
    NoContent,
    Partial,
    Unauthorized,
    Forbidden,
    NotFound,
    /// Come back in 300 years.
    TooMany,
    /// An error whose text is of 1 MiB, with control characters.
    LongError,
    ServerError,
    Unavailable,
    /// More headers than any server sends.
    Headers,
    // What may as well be the truth.
    WrongType,
    Http10,
    DuplicateKeys,
}

const SPACES: &[u8; 16 << 10] = &[b' '; 16 << 10];

impl Transport {
    pub const ALL: [Transport; 37] = {
        use Transport::*;
        [
            Never,
            Drip,
            DripOfSpaces,
            Huge,
            HugeAndNothing,
            EndlessSpaces,
            EndlessList,
            EndlessTail,
            GzipBomb,
            RedirectToItself,
            RedirectInside,
            RedirectNowhere,
            Truncated,
            Broken,
            Html,
            Empty,
            EmptyObject,
            EmptyList,
            Null,
            Deep,
            HugeNumbers,
            NotUtf8,
            OtherShapes,
            ErrorAs200,
            NoContent,
            Partial,
            Unauthorized,
            Forbidden,
            NotFound,
            TooMany,
            LongError,
            ServerError,
            Unavailable,
            Headers,
            WrongType,
            Http10,
            DuplicateKeys,
        ]
    };

    /// Whether the answer can be used all the same.
    pub fn is_usable(self) -> bool {
        use Transport::*;
        matches!(self, WrongType | Http10 | DuplicateKeys)
    }

    /// Answers, in place of the truth.
    pub async fn tell(self, truth: &Value, path: &str, inside: SocketAddr) -> Response {
        use Transport::*;
        let ok = |body: Vec<u8>| answer(StatusCode::OK, body);
        let status =
            |status: u16, body: &str| answer(StatusCode::from_u16(status).unwrap(), body.into());
        let honest = truth.to_string().into_bytes();
        match self {
            Never => std::future::pending().await,
            Drip => streamed(drip(honest)),
            DripOfSpaces => streamed(drip(SPACES.to_vec())),
            Huge => with(streamed(endless()), "content-length", "1073741824"),
            HugeAndNothing => {
                let nothing = streamed(stream::pending());
                with(nothing, "content-length", "1073741824")
            }
            EndlessSpaces => streamed(endless()),
            EndlessList => {
                streamed(stream::once(std::future::ready(Ok("[0".into()))).chain(zeros()))
            }
            EndlessTail => {
                streamed(stream::once(std::future::ready(Ok(honest.into()))).chain(endless()))
            }
            GzipBomb => with(ok(bomb()), "content-encoding", "gzip"),
            RedirectToItself => with(status(302, ""), "location", path),
            RedirectInside => {
                let to = format!("https://{inside}{path}");
                with(status(307, ""), "location", &to)
            }
            RedirectNowhere => status(308, "{}"),
            Truncated => ok(honest[..honest.len() / 2].to_vec()),
            Broken => {
                let half = honest[..honest.len() / 2].to_vec();
                let parts = [Ok(half.into()), Err(Error::other("broken"))];
                // The first part goes out before the connection breaks.
                let parts = stream::iter(parts).then(async |part| {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    part
                });
                streamed(parts)
            }
            Html => with(ok(b"<html>".to_vec()), "content-type", "text/html"),
            Empty => ok(Vec::new()),
            EmptyObject => ok(b"{}".to_vec()),
            EmptyList => ok(b"[]".to_vec()),
            Null => ok(b"null".to_vec()),
            Deep => ok([vec![b'['; 100_000], vec![b']'; 100_000]].concat()),
            HugeNumbers => ok(br#"{"a":1e999,"b":[18446744073709551616,-1e-999]}"#.to_vec()),
            NotUtf8 => ok(b"{\"a\":\"\xff\xfe\"}".to_vec()),
            OtherShapes => ok(other_shapes(truth).to_string().into_bytes()),
            ErrorAs200 => ok(br#"{"errcode":"M_FORBIDDEN","error":"No"}"#.to_vec()),
            NoContent => status(204, ""),
            Partial => answer(StatusCode::PARTIAL_CONTENT, honest),
            Unauthorized => status(401, r#"{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}"#),
            Forbidden => status(403, r#"{"errcode":"M_USER_DEACTIVATED","error":"No"}"#),
            NotFound => status(404, r#"{"errcode":"M_NOT_FOUND"}"#),
            TooMany => {
                let body = r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":9467280000000}"#;
                with(status(429, body), "retry-after", "9467280000")
            }
            LongError => {
                let text = "\u{1b}[2J\n".repeat(200_000);
                let body = json!({ "errcode": text, "error": text });
                status(400, &body.to_string())
            }
            ServerError => status(500, &"x".repeat(1 << 20)),
            Unavailable => status(503, ""),
            Headers => {
                let mut response = ok(honest);
                for number in 0..90 {
                    let name: http::HeaderName = format!("x-{number}").parse().unwrap();
                    let value = HeaderValue::from_bytes(&[b'x'; 16 << 10]).unwrap();
                    response.headers_mut().insert(name, value);
                }
                response
            }
            WrongType => with(ok(honest), "content-type", "image/png"),
            Http10 => {
                let mut response = ok(honest);
                *response.version_mut() = Version::HTTP_10;
                response
            }
            DuplicateKeys => ok(twice(truth).into_bytes()),
        }
    }
}

fn with(mut response: Response, header: &'static str, value: &str) -> Response {
    let value = HeaderValue::from_str(value).unwrap();
    response.headers_mut().insert(header, value);
    response
}

fn streamed(parts: impl Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Response {
    Response::new(Body::from_stream(parts))
}

fn drip(bytes: Vec<u8>) -> impl Stream<Item = Result<Bytes, Error>> {
    stream::iter(bytes).then(async |byte| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Bytes::copy_from_slice(&[byte]))
    })
}

fn endless() -> impl Stream<Item = Result<Bytes, Error>> {
    stream::repeat_with(|| Ok(Bytes::from_static(SPACES)))
}

fn zeros() -> impl Stream<Item = Result<Bytes, Error>> {
    let zeros = Bytes::from(",0".repeat(8 << 10));
    stream::repeat_with(move || Ok(zeros.clone()))
}

/// An object, each field of which is what it should not be.
fn other_shapes(truth: &Value) -> Value {
    match truth {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| match value {
                Value::Array(_) => (name.clone(), json!({ "0": 1.5 })),
                Value::Object(_) => (name.clone(), json!([null, true])),
                _ => (name.clone(), json!([[{}]])),
            });
            Value::Object(fields.collect())
        }
        Value::Array(parts) => Value::Array(parts.iter().map(other_shapes).collect()),
        _ => json!([[{}]]),
    }
}

/// An object with each of its fields twice, which JSON leaves open.
fn twice(truth: &Value) -> String {
    let Value::Object(fields) = truth else {
        return truth.to_string();
    };
    let fields = fields.iter().chain(fields);
    let fields = fields.map(|(name, value)| format!("{}:{value}", json!(name)));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

/// 100 MiB of zeros, compressed: one zero, and then the 258 bytes before again
/// and again (RFC 1951, 3.2.6: literal 0, length 285, distance 0).
fn bomb() -> Vec<u8> {
    const REPEATS: usize = (100 << 20) / 258;
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let (mut held, mut count) = (0_u32, 0);
    let mut put = |bits: &str| {
        for bit in bits.bytes() {
            held |= u32::from(bit == b'1') << count;
            count += 1;
            if count == 8 {
                bytes.push(held as u8);
                (held, count) = (0, 0);
            }
        }
    };
    // The last block, of fixed codes, whose number is written backwards.
    put("1");
    put("10");
    put("00110000");
    for _ in 0..REPEATS {
        put("11000101");
        put("00000");
    }
    put("0000000");
    put("0000000");
    bytes
}
