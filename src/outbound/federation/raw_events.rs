//! Lists of an answer, read without a tree of values: each event stays the
//! bytes that came, and a list that is too long is refused while it is read.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::outbound::answer::RequestError;

/// A list of at most `MAX` elements.
#[derive(Debug)]
pub struct Listed<T, const MAX: usize>(pub Vec<T>);

impl<T: serde::Serialize, const MAX: usize> serde::Serialize for Listed<T, MAX> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<T, const MAX: usize> Default for Listed<T, MAX> {
    fn default() -> Listed<T, MAX> {
        Listed(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Listed<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
            type Value = Listed<T, MAX>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "a list of at most {MAX} elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    if elements.len() == MAX {
                        return Err(A::Error::custom("the list is too long"));
                    }
                    elements.push(element);
                }
                Ok(Listed(elements))
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// Events of an answer, unread; they share the answer's buffer.
pub type Events<'a, const MAX: usize> = Listed<&'a RawValue, MAX>;

impl<const MAX: usize> Events<'_, MAX> {
    /// The events as slices of the answer that they were read from.
    pub fn within(self, answer: &Bytes) -> Vec<Bytes> {
        let events = self.0.into_iter();
        events
            .map(|event| answer.slice_ref(event.get().as_bytes()))
            .collect()
    }
}

/// Reads an answer that may borrow from its bytes.
pub fn read<'a, T: Deserialize<'a>>(answer: &'a Bytes) -> Result<T, RequestError> {
    serde_json::from_slice(answer).map_err(|_| RequestError::NotJson)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow, default)]
        pdus: Events<'a, 3>,
    }

    #[test]
    fn events_are_slices_of_the_answer() {
        let answer = Bytes::from_static(br#"{"x":1,"pdus":[ {"a": 1}, 2]}"#);
        let read: Answer<'_> = read(&answer).expect("reads");
        let events = read.pdus.within(&answer);
        assert_eq!(events, [&br#"{"a": 1}"#[..], b"2"]);
        assert_eq!(events[1].as_ptr(), answer[26..].as_ptr());
    }

    #[test]
    fn a_list_that_is_too_long_is_refused() {
        for (answer, is_read) in [
            ("{}", true),
            (r#"{"pdus":[]}"#, true),
            (r#"{"pdus":[1,2,3]}"#, true),
            (r#"{"pdus":[1,2,3,4]}"#, false),
            (r#"{"pdus":{}}"#, false),
            (r#"{"pdus":[1"#, false),
        ] {
            let answer = Bytes::from_static(answer.as_bytes());
            assert_eq!(read::<Answer<'_>>(&answer).is_ok(), is_read, "{answer:?}");
        }
    }
}
