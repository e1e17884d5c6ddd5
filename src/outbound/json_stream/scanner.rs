//! The grammar of JSON, followed byte by byte and cut anywhere: where values begin
//! and end, and which bytes are keys. Nothing of them is kept.

use super::StreamError;
use crate::limits::JSON_DEPTH_MAX;

/// What a step came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Nothing,
    /// The first byte of a value.
    Begins,
    /// A value is over, with the bytes of the step or before them.
    Ends,
    /// The quote before a key.
    KeyBegins,
    /// Bytes of a key, as they are written.
    Key,
}

/// Bytes of the input that were looked at.
pub struct Step {
    pub taken: usize,
    pub mark: Mark,
}

/// What may come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Value,
    /// A value, or the end of the list.
    FirstValue,
    /// A key, or the end of the object.
    FirstKey,
    Key,
    Colon,
    /// Another value or key, or the end of what is around it.
    Comma,
    InString {
        is_key: bool,
        escape: Escape,
    },
    InNumber(Number),
    /// The rest of `true`, `false` or `null`.
    InWord(&'static [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    Begun,
    /// Digits of `\uXXXX` that are to come.
    Hex(u8),
}

/// What of a number was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

/// Follows the grammar of JSON.
#[derive(Default)]
pub struct Scanner {
    next: Next,
    /// For each value that is open whether it is an object, the innermost last.
    open: u128,
    depth: usize,
}

const _: () = assert!(JSON_DEPTH_MAX < u128::BITS as usize);

impl Scanner {
    /// How many objects and lists are open.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Whether one value was there, and is over.
    pub fn is_done(&self) -> bool {
        self.depth == 0 && self.next == Next::Comma
    }

    /// Looks at some of the bytes, at least one unless a number ends before it.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, StreamError> {
        let Some(&byte) = bytes.first() else {
            return Ok(one(Mark::Nothing));
        };
        if let Next::InString { is_key, escape } = self.next {
            return self.in_string(bytes, is_key, escape);
        }
        if let Next::InNumber(number) = self.next {
            return self.in_number(byte, number);
        }
        if let Next::InWord(rest) = self.next {
            return self.in_word(byte, rest);
        }
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return Ok(one(Mark::Nothing));
        }
        match (self.next, byte) {
            (Next::FirstValue, b']') => self.close(false),
            (Next::FirstKey, b'}') => self.close(true),
            (Next::Value | Next::FirstValue, _) => self.value(byte),
            (Next::FirstKey | Next::Key, b'"') => {
                self.next = in_string(true);
                Ok(one(Mark::KeyBegins))
            }
            (Next::Colon, b':') => {
                self.next = Next::Value;
                Ok(one(Mark::Nothing))
            }
            (Next::Comma, b']') if self.depth > 0 => self.close(false),
            (Next::Comma, b'}') if self.depth > 0 => self.close(true),
            (Next::Comma, b',') if self.depth > 0 => {
                self.next = match self.is_in_object() {
                    true => Next::Key,
                    false => Next::Value,
                };
                Ok(one(Mark::Nothing))
            }
            _ => Err(StreamError::Syntax),
        }
    }

    fn value(&mut self, byte: u8) -> Result<Step, StreamError> {
        self.next = match byte {
            b'{' | b'[' => {
                if self.depth == JSON_DEPTH_MAX {
                    return Err(StreamError::TooDeep);
                }
                self.open = (self.open << 1) | u128::from(byte == b'{');
                self.depth += 1;
                match byte {
                    b'{' => Next::FirstKey,
                    _ => Next::FirstValue,
                }
            }
            b'"' => in_string(false),
            b'-' => Next::InNumber(Number::Minus),
            b'0' => Next::InNumber(Number::Zero),
            b'1'..=b'9' => Next::InNumber(Number::Digits),
            b't' => Next::InWord(b"rue"),
            b'f' => Next::InWord(b"alse"),
            b'n' => Next::InWord(b"ull"),
            _ => return Err(StreamError::Syntax),
        };
        Ok(one(Mark::Begins))
    }

    fn close(&mut self, is_object: bool) -> Result<Step, StreamError> {
        if self.depth == 0 || self.is_in_object() != is_object {
            return Err(StreamError::Syntax);
        }
        self.open >>= 1;
        self.depth -= 1;
        self.next = Next::Comma;
        Ok(one(Mark::Ends))
    }

    fn is_in_object(&self) -> bool {
        self.open & 1 == 1
    }

    fn in_string(
        &mut self,
        bytes: &[u8],
        is_key: bool,
        escape: Escape,
    ) -> Result<Step, StreamError> {
        let inside = match is_key {
            true => Mark::Key,
            false => Mark::Nothing,
        };
        let first = bytes.first().copied().unwrap_or_default();
        let next_escape = match (escape, first) {
            (Escape::None, b'"') => {
                self.next = match is_key {
                    true => Next::Colon,
                    false => Next::Comma,
                };
                return Ok(one(match is_key {
                    true => Mark::Nothing,
                    false => Mark::Ends,
                }));
            }
            (Escape::None, b'\\') => Escape::Begun,
            (Escape::None, 0..=0x1f) => return Err(StreamError::Syntax),
            (Escape::None, _) => {
                let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
                let taken = bytes.iter().position(is_special).unwrap_or(bytes.len());
                return Ok(Step {
                    taken,
                    mark: inside,
                });
            }
            (Escape::Begun, b'u') => Escape::Hex(4),
            (Escape::Begun, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Escape::None,
            (Escape::Hex(left), digit) if digit.is_ascii_hexdigit() => match left {
                0 | 1 => Escape::None,
                left => Escape::Hex(left - 1),
            },
            (Escape::Begun | Escape::Hex(_), _) => return Err(StreamError::Syntax),
        };
        self.next = Next::InString {
            is_key,
            escape: next_escape,
        };
        Ok(one(inside))
    }

    fn in_number(&mut self, byte: u8, number: Number) -> Result<Step, StreamError> {
        use Number as N;
        let next = match (number, byte) {
            (N::Minus, b'0') => N::Zero,
            (N::Minus | N::Digits, b'0'..=b'9') => N::Digits,
            (N::Zero | N::Digits, b'.') => N::Point,
            (N::Point | N::Fraction, b'0'..=b'9') => N::Fraction,
            (N::Zero | N::Digits | N::Fraction, b'e' | b'E') => N::Exponent,
            (N::Exponent, b'+' | b'-') => N::ExponentSign,
            (N::Exponent | N::ExponentSign | N::ExponentDigits, b'0'..=b'9') => N::ExponentDigits,
            (N::Minus | N::Point | N::Exponent | N::ExponentSign, _) => {
                return Err(StreamError::Syntax);
            }
            // The byte behind it belongs to something else.
            (N::Zero | N::Digits | N::Fraction | N::ExponentDigits, _) => {
                self.next = Next::Comma;
                return Ok(Step {
                    taken: 0,
                    mark: Mark::Ends,
                });
            }
        };
        self.next = Next::InNumber(next);
        Ok(one(Mark::Nothing))
    }

    fn in_word(&mut self, byte: u8, rest: &'static [u8]) -> Result<Step, StreamError> {
        match rest.split_first() {
            Some((expected, [])) if *expected == byte => {
                self.next = Next::Comma;
                Ok(one(Mark::Ends))
            }
            Some((expected, rest)) if *expected == byte => {
                self.next = Next::InWord(rest);
                Ok(one(Mark::Nothing))
            }
            _ => Err(StreamError::Syntax),
        }
    }
}

fn in_string(is_key: bool) -> Next {
    Next::InString {
        is_key,
        escape: Escape::None,
    }
}

fn one(mark: Mark) -> Step {
    Step { taken: 1, mark }
}
