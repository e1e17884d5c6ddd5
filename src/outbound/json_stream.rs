//! Reads one JSON object while it comes, piece by piece: the elements of some long
//! lists and some small fields, each as the bytes that came. All the rest is
//! passed over and kept nowhere, but is JSON all the same, or nothing is read.
//!
//! The state of it is a few bytes, whatever is sent: no value is built, and how
//! deep values are nested is a number of bits.

use bytes::Bytes;

use crate::limits::JSON_DEPTH_MAX;

/// Bytes of a key of the object that are kept: those that are asked for are shorter.
const KEY_BYTES_MAX: usize = 64;

/// What is wrong with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("not JSON")]
    Syntax,
    #[error("nested too deep")]
    TooDeep,
    /// What came is not of the form that is read, or a list is none.
    #[error("not what was asked for")]
    Shape,
    /// Of two fields of one name different servers would read different ones.
    #[error("{0} is there twice")]
    Repeated(&'static str),
    #[error("{0} is too long")]
    TooLong(&'static str),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("it ends too early")]
    Truncated,
}

/// In what the object is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In nothing.
    Bare,
    /// `[200, {...}]`: version 1 of some endpoints of the server-server API.
    Pair,
}

/// What is read of an object.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Lists whose elements are told one by one; they have to be there.
    pub lists: &'static [&'static str],
    /// The most elements of each list.
    pub elements_max: usize,
    /// Fields that are told whole, where they are there.
    pub fields: &'static [&'static str],
    /// The most bytes of an element or a field. Of what is larger nothing is kept:
    /// it is told as no bytes at all.
    pub piece_bytes_max: usize,
}

/// An element of a list, or a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The name of the list or the field.
    pub of: &'static str,
    /// One JSON value; empty if that was too large.
    pub json: Bytes,
}

/// See the module.
pub struct ObjectReader {
    wanted: Wanted,
    form: Form,
    scanner: Scanner,
    /// Of a pair: the values that have begun.
    outer_values: usize,
    /// The key whose value comes, as far as it is kept.
    key: Vec<u8>,
    /// What the value of the object is that comes or is here.
    target: Target,
    /// Names that were met.
    met: Vec<&'static str>,
    /// Elements of the list that is read.
    elements: usize,
    /// The piece that is here in part.
    piece: Option<Partial>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Nothing,
    List(&'static str),
    Field(&'static str),
}

struct Partial {
    of: &'static str,
    /// How deep the value stands.
    depth: usize,
    json: Vec<u8>,
    is_too_large: bool,
}

impl ObjectReader {
    pub fn new(wanted: Wanted, form: Form) -> ObjectReader {
        ObjectReader {
            wanted,
            form,
            scanner: Scanner::default(),
            outer_values: 0,
            key: Vec::new(),
            target: Target::Nothing,
            met: Vec::new(),
            elements: 0,
            piece: None,
        }
    }

    /// Takes what has come, and tells the pieces that are whole now.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        mut tell: impl FnMut(Piece),
    ) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            let step = self.scanner.step(bytes)?;
            let (taken, rest) = bytes.split_at(step.taken.min(bytes.len()));
            match step.mark {
                Mark::Begins => self.begins(taken)?,
                Mark::Key if self.scanner.depth() == self.depth() => self.extend_key(taken),
                Mark::KeyBegins if self.scanner.depth() == self.depth() => self.key.clear(),
                Mark::Key | Mark::KeyBegins | Mark::Nothing | Mark::Ends => self.keep(taken),
            }
            if step.mark == Mark::Ends {
                self.ends(&mut tell);
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Says that nothing more comes.
    pub fn finish(&self) -> Result<(), StreamError> {
        if !self.scanner.is_done() {
            return Err(StreamError::Truncated);
        }
        let missing = |list: &&&'static str| !self.met.contains(*list);
        match self.wanted.lists.iter().find(missing) {
            Some(list) => Err(StreamError::Missing(list)),
            None => Ok(()),
        }
    }

    /// How deep the values of the object stand.
    fn depth(&self) -> usize {
        match self.form {
            Form::Bare => 1,
            Form::Pair => 2,
        }
    }

    /// A value begins, with its first byte.
    fn begins(&mut self, first: &[u8]) -> Result<(), StreamError> {
        // What opens is counted as open by now.
        let opens = matches!(first, b"{" | b"[");
        let depth = self.scanner.depth() - usize::from(opens);
        let own = self.depth();
        if depth < own {
            return self.outer_begins(depth, first);
        }
        if depth == own {
            self.target = self.target_of_key()?;
            match self.target {
                Target::List(_) if first != b"[" => return Err(StreamError::Shape),
                Target::List(_) => self.elements = 0,
                Target::Field(of) => self.piece = Some(Partial::new(of, depth)),
                Target::Nothing => {}
            }
        } else if let (true, Target::List(of)) = (depth == own + 1, self.target) {
            if self.elements == self.wanted.elements_max {
                return Err(StreamError::TooLong(of));
            }
            self.elements += 1;
            self.piece = Some(Partial::new(of, depth));
        }
        self.keep(first);
        Ok(())
    }

    /// A value begins that is around the object, or is the object.
    fn outer_begins(&mut self, depth: usize, first: &[u8]) -> Result<(), StreamError> {
        let is_fitting = match (self.form, depth, self.outer_values) {
            (Form::Bare, ..) => first == b"{",
            (Form::Pair, 0, _) => first == b"[",
            (Form::Pair, _, 0) => first.iter().all(u8::is_ascii_digit),
            (Form::Pair, _, 1) => first == b"{",
            (Form::Pair, ..) => false,
        };
        self.outer_values += depth;
        match is_fitting {
            true => Ok(()),
            false => Err(StreamError::Shape),
        }
    }

    fn target_of_key(&mut self) -> Result<Target, StreamError> {
        let named = |names: &'static [&'static str]| {
            let found = names.iter().find(|name| name.as_bytes() == self.key);
            found.copied()
        };
        let target = match (named(self.wanted.lists), named(self.wanted.fields)) {
            (Some(list), _) => Target::List(list),
            (None, Some(field)) => Target::Field(field),
            (None, None) => return Ok(Target::Nothing),
        };
        let (Target::List(name) | Target::Field(name)) = target else {
            return Ok(target);
        };
        if self.met.contains(&name) {
            return Err(StreamError::Repeated(name));
        }
        self.met.push(name);
        Ok(target)
    }

    fn extend_key(&mut self, bytes: &[u8]) {
        let left = (KEY_BYTES_MAX + 1).saturating_sub(self.key.len());
        self.key.extend(bytes.iter().take(left));
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(piece) = &mut self.piece {
            piece.keep(bytes, self.wanted.piece_bytes_max);
        }
    }

    /// A value has ended.
    fn ends(&mut self, tell: &mut impl FnMut(Piece)) {
        let depth = self.scanner.depth();
        if let Some(piece) = self.piece.take_if(|piece| piece.depth == depth) {
            tell(Piece {
                of: piece.of,
                json: piece.json.into(),
            });
        }
        if depth == self.depth() {
            self.target = Target::Nothing;
        }
    }
}

impl Partial {
    fn new(of: &'static str, depth: usize) -> Partial {
        Partial {
            of,
            depth,
            json: Vec::new(),
            is_too_large: false,
        }
    }

    fn keep(&mut self, bytes: &[u8], max: usize) {
        if self.is_too_large || self.json.len() + bytes.len() > max {
            self.is_too_large = true;
            self.json = Vec::new();
        } else {
            self.json.extend_from_slice(bytes);
        }
    }
}

/// What a step came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
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
struct Step {
    taken: usize,
    mark: Mark,
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
struct Scanner {
    next: Next,
    /// For each value that is open whether it is an object, the innermost last.
    open: u128,
    depth: usize,
}

const _: () = assert!(JSON_DEPTH_MAX < u128::BITS as usize);

impl Scanner {
    fn depth(&self) -> usize {
        self.depth
    }

    fn is_done(&self) -> bool {
        self.depth == 0 && self.next == Next::Comma
    }

    /// Looks at some of the bytes, at least one unless a number ends before it.
    fn step(&mut self, bytes: &[u8]) -> Result<Step, StreamError> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const WANTED: Wanted = Wanted {
        lists: &["state", "chain"],
        elements_max: 3,
        fields: &["event", "flag"],
        piece_bytes_max: 40,
    };

    type Told = Vec<(&'static str, String)>;

    /// What is told of a text that comes in parts of some size.
    fn read(text: &[u8], form: Form, part: usize) -> Result<Told, StreamError> {
        let mut reader = ObjectReader::new(WANTED, form);
        let mut told = Vec::new();
        for part in text.chunks(part) {
            reader.push(part, |piece| {
                let json = String::from_utf8(piece.json.to_vec()).expect("UTF-8");
                told.push((piece.of, json));
            })?;
        }
        reader.finish().map(|()| told)
    }

    /// The same, however it is cut.
    fn whole(text: &str, form: Form) -> Result<Told, StreamError> {
        let told = read(text.as_bytes(), form, usize::MAX);
        for part in 1..8 {
            assert_eq!(read(text.as_bytes(), form, part), told, "{text} by {part}");
        }
        told
    }

    fn bare(text: &str) -> Result<Told, StreamError> {
        whole(text, Form::Bare)
    }

    #[test]
    fn elements_and_fields_are_told_as_they_came() {
        let text = r#" {"x":{"state":[1]},"state":[ {"a": "]}\""} , [2,[3]],-1.5e+7 ],
            "flag" :true,"event":{"b":{}}, "y":"\u00e4", "chain":[ ] } "#;
        let expected = [
            ("state", r#"{"a": "]}\""}"#),
            ("state", "[2,[3]]"),
            ("state", "-1.5e+7"),
            ("flag", "true"),
            ("event", r#"{"b":{}}"#),
        ];
        let expected: Told = expected.map(|(of, json)| (of, json.to_owned())).to_vec();
        assert_eq!(bare(text), Ok(expected.clone()));
        assert_eq!(whole(&format!("[200,{text}]"), Form::Pair), Ok(expected));
    }

    #[test]
    fn what_is_not_of_the_form_is_refused() {
        use StreamError as E;
        let rest = r#""chain":[]"#;
        for (text, why) in [
            ("", E::Truncated),
            ("{", E::Truncated),
            ("[]", E::Shape),
            ("1", E::Shape),
            ("{}", E::Missing("state")),
            (r#"{"state":[]}"#, E::Missing("chain")),
            (r#"{"state":{},"chain":[]}"#, E::Shape),
            (r#"{"state":null,"chain":[]}"#, E::Shape),
            (r#"{"state":[],"state":[],"#, E::Repeated("state")),
            (r#"{"flag":1,"flag":1,"#, E::Repeated("flag")),
            (r#"{"state":[1,2,3,4],"#, E::TooLong("state")),
            (r#"{"state":[1,],"#, E::Syntax),
            (r#"{"state":[1 2],"#, E::Syntax),
            (r#"{"state":[}"#, E::Syntax),
            (r#"{"state":[1}"#, E::Syntax),
            (r#"{"state":[01]"#, E::Syntax),
            (r#"{"state":[1.]"#, E::Syntax),
            (r#"{"state":[nul]"#, E::Syntax),
            (r#"{"x":"\x""#, E::Syntax),
            (r#"{"x":"\u12g""#, E::Syntax),
            ("{\"x\":\"\n\"", E::Syntax),
            (r#"{,"#, E::Syntax),
            (r#"{"x"}"#, E::Syntax),
            (r#"{1:2}"#, E::Syntax),
            (r#"{"state":[],"chain":[]"#, E::Truncated),
            (r#"{"state":["#, E::Truncated),
        ] {
            assert_eq!(bare(text), Err(why), "{text}");
        }
        let behind = format!(r#"{{"state":[],{rest}}}x"#);
        assert_eq!(bare(&behind), Err(E::Syntax));
        let twice = format!(r#"{{"state":[],{rest}}}{{}}"#);
        assert_eq!(bare(&twice), Err(E::Syntax));
        for pair in ["{}", "[{}", r#"["x""#, "[200,200", "[200,[", "[-1"] {
            let refused = whole(pair, Form::Pair);
            assert_eq!(refused, Err(E::Shape), "{pair}");
        }
        let more = format!(r#"[200,{{"state":[],{rest}}},1]"#);
        assert_eq!(whole(&more, Form::Pair), Err(E::Shape));
    }

    #[test]
    fn nesting_and_sizes_have_bounds() {
        let nested = |depth: usize| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            format!(r#"{{"x":{open}{close},"state":[],"chain":[]}}"#)
        };
        assert_eq!(bare(&nested(JSON_DEPTH_MAX - 1)), Ok(vec![]));
        assert_eq!(bare(&nested(JSON_DEPTH_MAX)), Err(StreamError::TooDeep));
        let endless = "[".repeat(1_000_000);
        assert_eq!(
            read(
                format!(r#"{{"x":{endless}"#).as_bytes(),
                Form::Bare,
                1 << 16
            ),
            Err(StreamError::TooDeep)
        );
        // A key or a value of any length that nobody asked for is not kept.
        let long = "k".repeat(1_000_000);
        let text = format!(r#"{{"{long}":"{long}","state":["{long}",1],"chain":[]}}"#);
        let mut reader = ObjectReader::new(WANTED, Form::Bare);
        let mut told = Vec::new();
        for part in text.as_bytes().chunks(1_000) {
            reader
                .push(part, |piece| told.push(piece.json))
                .expect("reads");
            assert!(reader.key.capacity() <= 2 * KEY_BYTES_MAX);
            let kept = reader.piece.as_ref().map_or(0, |piece| piece.json.len());
            assert!(kept <= WANTED.piece_bytes_max);
        }
        assert_eq!(reader.finish(), Ok(()));
        // What was too large counts, and is no JSON.
        assert_eq!(told, [&b""[..], b"1"]);
    }

    /// Values of all kinds, small ones.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9..1e9_f64).prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// What serde_json reads is read alike, and what it refuses is refused.
        #[test]
        fn it_reads_what_serde_json_reads(
            state in prop::collection::vec(values(), 0..=3),
            other in values(),
            part in 1_usize..20,
            change in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let whole = json!({ "other": other, "state": state, "chain": [], "flag": other });
            let mut text = whole.to_string().into_bytes();
            if let Some((at, byte)) = change {
                let at = at.index(text.len());
                text[at] = byte;
            }
            let mut reader = ObjectReader::new(
                Wanted { piece_bytes_max: 1 << 20, ..WANTED },
                Form::Bare,
            );
            let mut told: Vec<(&str, Bytes)> = Vec::new();
            let pushed: Result<(), StreamError> = text.chunks(part).try_for_each(|part| {
                reader.push(part, |piece| told.push((piece.of, piece.json)))
            });
            let read = pushed.and_then(|()| reader.finish());
            let known: Result<Value, _> = serde_json::from_slice(&text);
            match (read, known) {
                (Ok(()), Ok(known)) => {
                    let of = |name: &str| -> Vec<Value> {
                        let named = told.iter().filter(|(of, _)| *of == name);
                        named
                            .map(|(_, json)| serde_json::from_slice(json).expect("JSON"))
                            .collect()
                    };
                    prop_assert_eq!(&Value::from(of("state")), &known["state"]);
                    prop_assert_eq!(of("flag").pop(), known.get("flag").cloned());
                }
                // That strings are Unicode is for whoever reads a piece.
                (Ok(()), Err(_)) => prop_assert!(
                    std::str::from_utf8(&text).is_err() || has_lone_surrogate(&text)
                        || has_huge_number(&text)
                ),
                // A changed name, or one that is there twice now.
                (Err(why), Ok(_)) => prop_assert!(matches!(
                    why,
                    StreamError::Missing(_) | StreamError::Repeated(_) | StreamError::Shape
                        | StreamError::TooLong(_)
                ), "{why}"),
                (Err(_), Err(_)) => {}
            }
        }

        /// Nothing makes it panic, and where it is cut makes no difference.
        #[test]
        fn any_bytes_are_read_or_refused(
            text in prop::collection::vec(
                prop::sample::select(&b"{}[]\",:\\u0019.-+eE tfnrueals\"state\"\x00\xff"[..]),
                0..60,
            ),
            part in 1_usize..9,
        ) {
            let whole = read_lossy(&text, usize::MAX);
            prop_assert_eq!(read_lossy(&text, part), whole);
        }
    }

    fn read_lossy(text: &[u8], part: usize) -> Result<Vec<Piece>, StreamError> {
        let mut reader = ObjectReader::new(WANTED, Form::Bare);
        let mut told = Vec::new();
        for part in text.chunks(part) {
            reader.push(part, |piece| told.push(piece))?;
        }
        reader.finish().map(|()| told)
    }

    fn has_lone_surrogate(text: &[u8]) -> bool {
        String::from_utf8_lossy(text)
            .to_lowercase()
            .contains("\\ud")
    }

    /// `1e999` is JSON, but no number that serde_json takes.
    fn has_huge_number(text: &[u8]) -> bool {
        text.iter().any(|byte| matches!(byte, b'e' | b'E'))
    }
}
