//! The record envelope: routing fields, typed body, and the erasable parts.
//!
//! Shape (FORMAT.md, section *Record envelope*):
//!
//! ```text
//! header:  version u16 | kind u16 | flags u32 | received_us u64 | origin_ts_ms u64
//!          | idempotency 16 | source u8 | zero 3 | header_len u32
//!          | key | room_id? | event_id? | sender? | type? | state_key?
//!          | room_version? | origin? | trace_id? | body
//! parts:   auth extract | skeleton | body part
//! ```
//!
//! Strings are `len u32 | bytes`, optional ones have a presence byte before.
//! A part is `state u8` (absent, present, erased) and, if present, `len u32 |
//! bytes`, if erased, the 32-byte digest that the bytes had. The body part
//! begins with a 32-byte random salt, so that its digest, which outlives it,
//! does not give a short message away.

use std::ops::Range;

use super::tags::{Kind, Source};

/// Length of the fixed prefix of a header.
pub const PREFIX_BYTES: usize = 48;
/// Length of the salt before the body part's bytes.
pub const SALT_BYTES: usize = 32;
/// The envelope version that this code writes.
pub const ENVELOPE_VERSION: u16 = 1;
/// Largest payload of a record.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Envelope flags.
pub mod flags {
    /// The content hash did not fit: only the redacted form was accepted.
    pub const CONTENT_HASH_MISMATCH: u32 = 1;
}

/// A payload that is not a record envelope.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvelopeError {
    #[error("payload ends at byte {at} inside {what}")]
    Truncated { what: &'static str, at: usize },
    #[error("envelope version {0} is not known")]
    Version(u16),
    #[error("record kind {0:#06x} is not known")]
    Kind(u16),
    #[error("{what} at byte {at} holds a value that is not allowed")]
    Value { what: &'static str, at: usize },
    #[error("{what} at byte {at} is not UTF-8")]
    Utf8 { what: &'static str, at: usize },
    #[error("{0} bytes follow the envelope")]
    TrailingBytes(usize),
}

/// One of the erasable sections of a payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Part<'a> {
    #[default]
    Absent,
    /// The bytes (of the body part: without the salt).
    Present(&'a [u8]),
    /// Removed by a rewrite; the digest remains.
    Erased([u8; 32]),
}

impl<'a> Part<'a> {
    /// The bytes, if they are there.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Part::Present(bytes) => Some(bytes),
            Part::Absent | Part::Erased(_) => None,
        }
    }
}

/// The fields of a record to be written. Empty by default.
#[derive(Clone, Debug, Default)]
pub struct NewEnvelope<'a> {
    pub flags: u32,
    /// Microseconds since the epoch at which a writer took the record in.
    pub received_us: u64,
    /// `origin_server_ts` in milliseconds; 0 for records that are no events.
    pub origin_ts_ms: u64,
    /// Two records with the same key are one request; zero for none.
    pub idempotency: [u8; 16],
    /// What the partition is chosen by (FORMAT.md, table of kinds).
    pub key: &'a str,
    pub room_id: Option<&'a str>,
    pub event_id: Option<&'a str>,
    pub sender: Option<&'a str>,
    pub event_type: Option<&'a str>,
    pub state_key: Option<&'a str>,
    pub room_version: Option<&'a str>,
    /// Server that handed the record to us; none for our own.
    pub origin: Option<&'a str>,
    pub trace_id: Option<&'a str>,
    /// Encoded body of the kind: [`crate::codec::encode`].
    pub body: &'a [u8],
    /// What the auth rules read beyond the skeleton; erased by a room purge only.
    pub auth_extract: Part<'a>,
    /// The redacted event as canonical JSON.
    pub skeleton: Part<'a>,
    /// The erasable part: bytes exactly as received.
    pub body_part: Part<'a>,
    /// Random bytes that are written before a present body part.
    pub salt: [u8; SALT_BYTES],
}

impl NewEnvelope<'_> {
    /// Writes the payload. Units: bytes; may exceed [`PAYLOAD_BYTES_MAX`], which
    /// the append refuses.
    pub fn encode(&self, kind: Kind, source: Source) -> Vec<u8> {
        let optional = [
            self.room_id,
            self.event_id,
            self.sender,
            self.event_type,
            self.state_key,
            self.room_version,
            self.origin,
            self.trace_id,
        ];
        let parts = [&self.auth_extract, &self.skeleton, &self.body_part];
        let strings: usize = optional.iter().flatten().map(|text| text.len() + 4).sum();
        let part_bytes: usize = parts
            .iter()
            .map(|part| part.bytes().map_or(32, <[u8]>::len) + 5)
            .sum();
        let mut out = Vec::with_capacity(
            PREFIX_BYTES
                + 8
                + self.key.len()
                + 8
                + strings
                + self.body.len()
                + part_bytes
                + SALT_BYTES,
        );
        out.extend_from_slice(&ENVELOPE_VERSION.to_le_bytes());
        out.extend_from_slice(&kind.number().to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.received_us.to_le_bytes());
        out.extend_from_slice(&self.origin_ts_ms.to_le_bytes());
        out.extend_from_slice(&self.idempotency);
        out.extend_from_slice(&[source as u8, 0, 0, 0]);
        out.extend_from_slice(&[0; 4]);
        put_bytes(&mut out, self.key.as_bytes());
        for text in optional {
            match text {
                None => out.push(0),
                Some(text) => {
                    out.push(1);
                    put_bytes(&mut out, text.as_bytes());
                }
            }
        }
        put_bytes(&mut out, self.body);
        let header_len = (out.len() as u32).to_le_bytes();
        out[44..48].copy_from_slice(&header_len);
        put_part(&mut out, &[], &self.auth_extract);
        put_part(&mut out, &[], &self.skeleton);
        put_part(&mut out, &self.salt, &self.body_part);
        out
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_part(out: &mut Vec<u8>, salt: &[u8], part: &Part<'_>) {
    match part {
        Part::Absent => out.push(0),
        Part::Present(bytes) => {
            out.push(1);
            out.extend_from_slice(&((salt.len() + bytes.len()) as u32).to_le_bytes());
            out.extend_from_slice(salt);
            out.extend_from_slice(bytes);
        }
        Part::Erased(digest) => {
            out.push(2);
            out.extend_from_slice(digest);
        }
    }
}

/// A payload, read in place. Everything borrows from the payload's bytes.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    pub kind: Kind,
    pub source: Source,
    pub flags: u32,
    pub received_us: u64,
    pub origin_ts_ms: u64,
    pub idempotency: [u8; 16],
    pub key: &'a str,
    pub room_id: Option<&'a str>,
    pub event_id: Option<&'a str>,
    pub sender: Option<&'a str>,
    pub event_type: Option<&'a str>,
    pub state_key: Option<&'a str>,
    pub room_version: Option<&'a str>,
    pub origin: Option<&'a str>,
    pub trace_id: Option<&'a str>,
    /// Encoded body: [`crate::codec::decode`].
    pub body: &'a [u8],
    pub auth_extract: Part<'a>,
    pub skeleton: Part<'a>,
    pub body_part: Part<'a>,
    /// Salt of the body part, if that is present.
    pub salt: Option<[u8; SALT_BYTES]>,
    payload: &'a [u8],
    header: Range<usize>,
}

impl<'a> Envelope<'a> {
    /// Reads a payload.
    ///
    /// Errors: anything that FORMAT.md does not allow, trailing bytes included.
    pub fn parse(payload: &'a [u8]) -> Result<Envelope<'a>, EnvelopeError> {
        let mut cursor = Cursor { payload, at: 0 };
        let version = u16::from_le_bytes(cursor.array("version")?);
        if version != ENVELOPE_VERSION {
            return Err(EnvelopeError::Version(version));
        }
        let number = u16::from_le_bytes(cursor.array("kind")?);
        let kind = Kind::from_number(number).ok_or(EnvelopeError::Kind(number))?;
        let flags = u32::from_le_bytes(cursor.array("flags")?);
        let received_us = u64::from_le_bytes(cursor.array("received time")?);
        let origin_ts_ms = u64::from_le_bytes(cursor.array("origin time")?);
        let idempotency = cursor.array("idempotency key")?;
        let [source, zeros @ ..] = cursor.array::<4>("source")?;
        let source = Source::from_number(source).filter(|_| zeros == [0; 3]);
        let source = source.ok_or(EnvelopeError::Value {
            what: "source",
            at: 40,
        })?;
        let header_len = u32::from_le_bytes(cursor.array("header length")?) as usize;
        let key = cursor.text("key")?;
        let room_id = cursor.optional_text("room id")?;
        let event_id = cursor.optional_text("event id")?;
        let sender = cursor.optional_text("sender")?;
        let event_type = cursor.optional_text("type")?;
        let state_key = cursor.optional_text("state key")?;
        let room_version = cursor.optional_text("room version")?;
        let origin = cursor.optional_text("origin")?;
        let trace_id = cursor.optional_text("trace id")?;
        let body = cursor.bytes("body")?;
        if cursor.at != header_len {
            return Err(EnvelopeError::Value {
                what: "header length",
                at: 44,
            });
        }
        let auth_extract = cursor.part("auth extract")?;
        let skeleton = cursor.part("skeleton")?;
        let salted = cursor.part("body part")?;
        if cursor.at != payload.len() {
            return Err(EnvelopeError::TrailingBytes(payload.len() - cursor.at));
        }
        let (salt, body_part) = match salted {
            Part::Present(bytes) => {
                let Some((salt, bytes)) = bytes.split_first_chunk::<SALT_BYTES>() else {
                    return Err(EnvelopeError::Truncated {
                        what: "salt",
                        at: payload.len(),
                    });
                };
                (Some(*salt), Part::Present(bytes))
            }
            other => (None, other),
        };
        Ok(Envelope {
            kind,
            source,
            flags,
            received_us,
            origin_ts_ms,
            idempotency,
            key,
            room_id,
            event_id,
            sender,
            event_type,
            state_key,
            room_version,
            origin,
            trace_id,
            body,
            auth_extract,
            skeleton,
            body_part,
            salt,
            payload,
            header: 0..header_len,
        })
    }

    /// The header section's bytes, which no rewrite changes.
    pub fn header(&self) -> &'a [u8] {
        &self.payload[self.header.clone()]
    }

    /// The fields again, to write a record that carries the same parts.
    pub fn to_new(&self) -> NewEnvelope<'a> {
        NewEnvelope {
            flags: self.flags,
            received_us: self.received_us,
            origin_ts_ms: self.origin_ts_ms,
            idempotency: self.idempotency,
            key: self.key,
            room_id: self.room_id,
            event_id: self.event_id,
            sender: self.sender,
            event_type: self.event_type,
            state_key: self.state_key,
            room_version: self.room_version,
            origin: self.origin,
            trace_id: self.trace_id,
            body: self.body,
            auth_extract: self.auth_extract.clone(),
            skeleton: self.skeleton.clone(),
            body_part: self.body_part.clone(),
            salt: self.salt.unwrap_or_default(),
        }
    }

    /// The digest that the hash chain covers; the same before and after an erasure.
    ///
    /// blake3("log-v1 payload" ‖ blake3(header) ‖ digest of each part), where a
    /// part's digest is the BLAKE3 of its bytes (salt included), and 32 zero
    /// bytes for an absent part.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"log-v1 payload");
        hasher.update(blake3::hash(self.header()).as_bytes());
        hasher.update(&part_digest(None, &self.auth_extract));
        hasher.update(&part_digest(None, &self.skeleton));
        hasher.update(&part_digest(self.salt.as_ref(), &self.body_part));
        *hasher.finalize().as_bytes()
    }
}

fn part_digest(salt: Option<&[u8; SALT_BYTES]>, part: &Part<'_>) -> [u8; 32] {
    match part {
        Part::Absent => [0; 32],
        Part::Erased(digest) => *digest,
        Part::Present(bytes) => {
            let mut hasher = blake3::Hasher::new();
            hasher.update(salt.map_or(&[], |salt| salt));
            hasher.update(bytes);
            *hasher.finalize().as_bytes()
        }
    }
}

struct Cursor<'a> {
    payload: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], EnvelopeError> {
        let end = self
            .at
            .checked_add(len)
            .filter(|end| *end <= self.payload.len());
        let bytes = end.and_then(|end| self.payload.get(self.at..end));
        let bytes = bytes.ok_or(EnvelopeError::Truncated { what, at: self.at })?;
        self.at += len;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], EnvelopeError> {
        let at = self.at;
        let bytes = self.take(what, N)?;
        bytes
            .try_into()
            .map_err(|_| EnvelopeError::Truncated { what, at })
    }

    fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], EnvelopeError> {
        let len = u32::from_le_bytes(self.array(what)?) as usize;
        self.take(what, len)
    }

    fn text(&mut self, what: &'static str) -> Result<&'a str, EnvelopeError> {
        let at = self.at;
        std::str::from_utf8(self.bytes(what)?).map_err(|_| EnvelopeError::Utf8 { what, at })
    }

    fn optional_text(&mut self, what: &'static str) -> Result<Option<&'a str>, EnvelopeError> {
        let at = self.at;
        match self.array::<1>(what)? {
            [0] => Ok(None),
            [1] => self.text(what).map(Some),
            _ => Err(EnvelopeError::Value { what, at }),
        }
    }

    fn part(&mut self, what: &'static str) -> Result<Part<'a>, EnvelopeError> {
        let at = self.at;
        match self.array::<1>(what)? {
            [0] => Ok(Part::Absent),
            [1] => self.bytes(what).map(Part::Present),
            [2] => self.array(what).map(Part::Erased),
            _ => Err(EnvelopeError::Value { what, at }),
        }
    }
}
