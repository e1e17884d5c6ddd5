//! Reads one JSON object while it comes, piece by piece: the elements of some long
//! lists and some small fields, each as the bytes that came. All the rest is
//! passed over and kept nowhere, but is JSON all the same, or nothing is read.
//!
//! The state of it is a few bytes, whatever is sent: no value is built, and how
//! deep values are nested is a number of bits.

mod scanner;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use self::scanner::{Mark, Scanner};

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
