//! Patterns of filters: `*` matches any characters, all else itself.

use serde::{Deserialize, Deserializer};

/// An event type with `*` wildcards (client-server API, *EventFilter*). Unlike
/// the general globs of the appendices, `?` is no wildcard here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Box<str>);

impl Glob {
    pub fn new(pattern: &str) -> Glob {
        Glob(pattern.into())
    }

    /// Whether the whole text matches. Linear in pattern times wildcards.
    pub fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            // No wildcard.
            return rest.is_empty();
        };
        // Between wildcards the first place that fits is as good as any other.
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Glob, D::Error> {
        Ok(Glob(Box::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wildcards_match_any_characters() {
        for (pattern, text, expected) in [
            ("m.room.message", "m.room.message", true),
            ("m.room.message", "m.room.messages", false),
            ("m.room.*", "m.room.", true),
            ("m.room.*", "m.roo", false),
            ("*", "", true),
            ("*", "anything", true),
            ("", "", true),
            ("", "x", false),
            ("*.member", "m.room.member", true),
            ("m.*.x*y", "m.a.xby", true),
            ("m.*.x*y", "m.xy", false),
            ("ab*ba", "aba", false),
            ("a**b", "ab", true),
            ("m.?", "m.a", false),
            ("日*", "日本", true),
        ] {
            assert_eq!(
                Glob::new(pattern).matches(text),
                expected,
                "{pattern} {text}"
            );
        }
    }

    fn slow(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|skip| slow(rest, &text[skip..])),
            Some((first, rest)) => text.first() == Some(first) && slow(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*]{0,7}", text in "[ab]{0,8}") {
            let chars: (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(Glob::new(&pattern).matches(&text), slow(&chars.0, &chars.1));
        }
    }
}
