//! Canonical JSON: a strict, bounded parser and the one serialisation.
//!
//! The parser refuses duplicate keys, deep nesting and wide objects, which a
//! lenient one would let through to be read differently by two servers.

mod odd_number;
mod value;

use std::collections::btree_map::Entry;

pub use odd_number::OddNumber;
use ruma::Int;
pub use value::{CanonicalJsonObject, CanonicalJsonValue};

use crate::limits::{INTEGER_MAX, JSON_DEPTH_MAX, JSON_OBJECT_KEYS_MAX};

/// What is wrong with some JSON, and at which byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {at}")]
pub struct JsonError {
    pub kind: JsonErrorKind,
    pub at: usize,
}

/// What is wrong with some JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonErrorKind {
    #[error("not UTF-8")]
    NotUtf8,
    #[error("not JSON")]
    Syntax,
    #[error("not an object")]
    NotAnObject,
    #[error("number is not an integer")]
    NotAnInteger,
    #[error("integer is out of range")]
    OutOfRange,
    #[error("duplicate key")]
    DuplicateKey,
    #[error("lone surrogate")]
    LoneSurrogate,
    #[error("nested too deep")]
    TooDeep,
    #[error("too many keys in an object")]
    TooManyKeys,
}

impl JsonErrorKind {
    /// Whether the text is no JSON at all (`M_NOT_JSON`), rather than JSON that
    /// is not allowed here (`M_BAD_JSON`).
    pub fn is_syntax(self) -> bool {
        matches!(self, JsonErrorKind::NotUtf8 | JsonErrorKind::Syntax)
    }
}

/// How numbers that are no canonical integers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Refused. For what others signed: a converted number has another hash.
    Strict,
    /// `-0`, `1e3` and `1.0` become the integers that they equal. For what our
    /// clients send, before it is hashed (appendices, *Canonical JSON*, examples).
    Converted,
    /// Kept as they are. For events of room versions 1 to 5, and for what is
    /// stored, which was parsed as its version wants when it came in.
    Kept,
}

/// Parses one JSON object, strictly.
pub fn parse_object(bytes: &[u8]) -> Result<CanonicalJsonObject, JsonError> {
    parse_object_with(bytes, Numbers::Strict)
}

/// Parses one JSON object.
pub fn parse_object_with(bytes: &[u8], numbers: Numbers) -> Result<CanonicalJsonObject, JsonError> {
    match parse_value_with(bytes, numbers)? {
        CanonicalJsonValue::Object(object) => Ok(object),
        _ => Err(JsonError {
            kind: JsonErrorKind::NotAnObject,
            at: 0,
        }),
    }
}

/// Parses one JSON object that was parsed before and stored.
pub fn parse_stored_object(bytes: &[u8]) -> Result<CanonicalJsonObject, JsonError> {
    parse_object_with(bytes, Numbers::Kept)
}

/// Parses one JSON value, strictly.
pub fn parse_value(bytes: &[u8]) -> Result<CanonicalJsonValue, JsonError> {
    parse_value_with(bytes, Numbers::Strict)
}

/// Parses one JSON value with nothing but whitespace around it.
pub fn parse_value_with(bytes: &[u8], numbers: Numbers) -> Result<CanonicalJsonValue, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|error| JsonError {
        kind: JsonErrorKind::NotUtf8,
        at: error.valid_up_to(),
    })?;
    let mut parser = Parser {
        text,
        bytes,
        at: 0,
        numbers,
    };
    let value = parser.value(0)?;
    parser.skip_whitespace();
    if parser.at < bytes.len() {
        return Err(parser.error(JsonErrorKind::Syntax));
    }
    Ok(value)
}

/// The canonical bytes of an object.
pub fn to_bytes(object: &CanonicalJsonObject) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    write_object(&mut out, object);
    out
}

/// The canonical bytes of an object without some of its keys: what hashes and
/// signatures are over.
pub fn to_bytes_without(object: &CanonicalJsonObject, left_out: &[&str]) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let kept = object
        .iter()
        .filter(|(key, _)| !left_out.contains(&key.as_str()));
    write_members(&mut out, kept);
    out
}

/// Appends the canonical bytes of an object.
pub fn write_object(out: &mut Vec<u8>, object: &CanonicalJsonObject) {
    write_members(out, object.iter());
}

fn write_members<'a>(
    out: &mut Vec<u8>,
    members: impl Iterator<Item = (&'a String, &'a CanonicalJsonValue)>,
) {
    out.push(b'{');
    for (index, (key, value)) in members.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, key);
        out.push(b':');
        write_value(out, value);
    }
    out.push(b'}');
}

/// Appends the canonical bytes of a value.
pub fn write_value(out: &mut Vec<u8>, value: &CanonicalJsonValue) {
    match value {
        CanonicalJsonValue::Null => out.extend_from_slice(b"null"),
        CanonicalJsonValue::Bool(true) => out.extend_from_slice(b"true"),
        CanonicalJsonValue::Bool(false) => out.extend_from_slice(b"false"),
        CanonicalJsonValue::Integer(integer) => write_integer(out, i64::from(*integer)),
        CanonicalJsonValue::Number(number) => out.extend_from_slice(number.as_str().as_bytes()),
        CanonicalJsonValue::String(string) => write_string(out, string),
        CanonicalJsonValue::Array(values) => {
            out.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(out, value);
            }
            out.push(b']');
        }
        CanonicalJsonValue::Object(object) => write_object(out, object),
    }
}

/// Appends an integer in decimal.
pub fn write_integer(out: &mut Vec<u8>, integer: i64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = integer.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if integer < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a string with quotes, escaping only what must be escaped.
pub fn write_string(out: &mut Vec<u8>, string: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = string.as_bytes();
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

/// The same object as ruma's type, and back, where its functions are the second
/// opinion of a test.
#[cfg(test)]
pub(crate) fn for_ruma(object: &CanonicalJsonObject) -> ruma::CanonicalJsonObject {
    serde_json::from_slice(&to_bytes(object)).expect("is canonical JSON")
}

#[cfg(test)]
pub(crate) fn from_ruma(object: &ruma::CanonicalJsonObject) -> CanonicalJsonObject {
    parse_object(&serde_json::to_vec(object).expect("serialises")).expect("is JSON")
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    numbers: Numbers,
}

impl Parser<'_> {
    fn error(&self, kind: JsonErrorKind) -> JsonError {
        JsonError { kind, at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.peek() != Some(byte) {
            return Err(self.error(JsonErrorKind::Syntax));
        }
        self.at += 1;
        Ok(())
    }

    fn literal(
        &mut self,
        literal: &str,
        value: CanonicalJsonValue,
    ) -> Result<CanonicalJsonValue, JsonError> {
        if !self.bytes[self.at..].starts_with(literal.as_bytes()) {
            return Err(self.error(JsonErrorKind::Syntax));
        }
        self.at += literal.len();
        Ok(value)
    }

    fn value(&mut self, depth: usize) -> Result<CanonicalJsonValue, JsonError> {
        self.skip_whitespace();
        match self.peek() {
            Some(b'{') => self.object(depth + 1).map(CanonicalJsonValue::Object),
            Some(b'[') => self.array(depth + 1).map(CanonicalJsonValue::Array),
            Some(b'"') => self.string().map(CanonicalJsonValue::String),
            Some(b't') => self.literal("true", CanonicalJsonValue::Bool(true)),
            Some(b'f') => self.literal("false", CanonicalJsonValue::Bool(false)),
            Some(b'n') => self.literal("null", CanonicalJsonValue::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.error(JsonErrorKind::Syntax)),
        }
    }

    fn object(&mut self, depth: usize) -> Result<CanonicalJsonObject, JsonError> {
        if depth > JSON_DEPTH_MAX {
            return Err(self.error(JsonErrorKind::TooDeep));
        }
        self.expect(b'{')?;
        let mut object = CanonicalJsonObject::new();
        self.skip_whitespace();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(object);
        }
        loop {
            self.skip_whitespace();
            let key_at = self.at;
            let key = self.string()?;
            self.skip_whitespace();
            self.expect(b':')?;
            let value = self.value(depth)?;
            match object.entry(key) {
                Entry::Vacant(entry) => entry.insert(value),
                Entry::Occupied(_) => {
                    return Err(JsonError {
                        kind: JsonErrorKind::DuplicateKey,
                        at: key_at,
                    });
                }
            };
            if object.len() > JSON_OBJECT_KEYS_MAX {
                return Err(self.error(JsonErrorKind::TooManyKeys));
            }
            self.skip_whitespace();
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => break,
            }
        }
        self.expect(b'}')?;
        Ok(object)
    }

    fn array(&mut self, depth: usize) -> Result<Vec<CanonicalJsonValue>, JsonError> {
        if depth > JSON_DEPTH_MAX {
            return Err(self.error(JsonErrorKind::TooDeep));
        }
        self.expect(b'[')?;
        let mut values = Vec::new();
        self.skip_whitespace();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(values);
        }
        loop {
            values.push(self.value(depth)?);
            self.skip_whitespace();
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => break,
            }
        }
        self.expect(b']')?;
        Ok(values)
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.expect(b'"')?;
        let mut string = String::new();
        let mut copied = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    string.push_str(&self.text[copied..self.at]);
                    self.at += 1;
                    return Ok(string);
                }
                Some(b'\\') => {
                    string.push_str(&self.text[copied..self.at]);
                    self.at += 1;
                    string.push(self.escape()?);
                    copied = self.at;
                }
                Some(0..=0x1f) | None => return Err(self.error(JsonErrorKind::Syntax)),
                Some(_) => self.at += 1,
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<char, JsonError> {
        let escaped = self
            .peek()
            .ok_or_else(|| self.error(JsonErrorKind::Syntax))?;
        self.at += 1;
        Ok(match escaped {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => {
                self.at -= 1;
                return Err(self.error(JsonErrorKind::Syntax));
            }
        })
    }

    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let first = self.hex4()?;
        let code = match first {
            0xd800..=0xdbff => {
                if !self.bytes[self.at..].starts_with(b"\\u") {
                    return Err(self.error(JsonErrorKind::LoneSurrogate));
                }
                self.at += 2;
                let second = self.hex4()?;
                if !(0xdc00..=0xdfff).contains(&second) {
                    return Err(self.error(JsonErrorKind::LoneSurrogate));
                }
                0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            code => code,
        };
        // The only numbers left that are no characters are low surrogates.
        char::from_u32(code).ok_or_else(|| self.error(JsonErrorKind::LoneSurrogate))
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.error(JsonErrorKind::Syntax));
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    fn digits(&mut self) -> Result<&str, JsonError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if start == self.at {
            return Err(self.error(JsonErrorKind::Syntax));
        }
        Ok(&self.text[start..self.at])
    }

    fn number(&mut self) -> Result<CanonicalJsonValue, JsonError> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        if negative {
            self.at += 1;
        }
        let int_at = self.at;
        let int_len = self.digits()?.len();
        if int_len > 1 && self.bytes[int_at] == b'0' {
            self.at = int_at + 1;
            return Err(self.error(JsonErrorKind::Syntax));
        }
        let mut integral = true;
        if self.peek() == Some(b'.') {
            integral = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integral = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        let error = |kind| JsonError { kind, at: start };
        let out_of_range = || error(JsonErrorKind::OutOfRange);
        let not_an_integer = || error(JsonErrorKind::NotAnInteger);
        let value = match self.numbers {
            Numbers::Kept => return kept_number(text, integral).ok_or_else(out_of_range),
            _ if integral && text != "-0" => text.parse::<i64>().map_err(|_| out_of_range())?,
            Numbers::Strict => return Err(not_an_integer()),
            Numbers::Converted => {
                let float: f64 = text.parse().map_err(|_| not_an_integer())?;
                if float.fract() != 0.0 {
                    return Err(not_an_integer());
                }
                // Exact below 2^53; what is larger, saturated or not, is refused next.
                float as i64
            }
        };
        if value.unsigned_abs() > INTEGER_MAX.unsigned_abs() {
            return Err(out_of_range());
        }
        let integer = Int::new(value).ok_or_else(out_of_range)?;
        Ok(CanonicalJsonValue::Integer(integer))
    }
}

/// A number of which nothing is lost; none for what is infinite in binary64.
fn kept_number(text: &str, integral: bool) -> Option<CanonicalJsonValue> {
    if !integral {
        let value: f64 = text.parse().ok()?;
        let number = value.is_finite().then(|| OddNumber::float(value))?;
        return Some(CanonicalJsonValue::Number(number));
    }
    // `-0` is 0, an integer.
    let small = text.parse::<i64>().ok().and_then(Int::new);
    Some(match small {
        Some(integer) => CanonicalJsonValue::Integer(integer),
        None => CanonicalJsonValue::Number(OddNumber::integer(text)),
    })
}

#[cfg(test)]
mod tests;
