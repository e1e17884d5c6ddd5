//! Conditions (client-server API, *Conditions*): compiled once, then asked of
//! events. What only the user who is asked for can tell is told apart.

use serde_json::Value;

use super::event::{PushEvent, PushRoom};
use super::glob::{Effort, Pattern, Words};
use crate::limits::INTEGER_MAX;
use crate::matrix::ids::UserId;

/// Where a pattern is matched against words instead of the whole.
const BODY: &str = "content.body";

/// A path to a property (appendices, *Dot-separated property paths*).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path(Box<[Box<str>]>);

impl Path {
    /// Dots part names; a backslash before a dot or a backslash takes away its
    /// meaning, and any other stands for itself.
    pub fn parse(path: &str) -> Path {
        let mut names = vec![String::new()];
        let mut letters = path.chars().peekable();
        while let Some(letter) = letters.next() {
            let literal = match letter {
                '.' => None,
                '\\' => Some(
                    letters
                        .next_if(|next| ['.', '\\'].contains(next))
                        .unwrap_or('\\'),
                ),
                letter => Some(letter),
            };
            match (literal, names.last_mut()) {
                (Some(letter), Some(name)) => name.push(letter),
                _ => names.push(String::new()),
            }
        }
        Path(names.into_iter().map(String::into_boxed_str).collect())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }
}

/// A value that is no array and no object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scalar {
    Null,
    Bool(bool),
    Integer(i64),
    Text(Box<str>),
}

impl Scalar {
    /// Reads a value of canonical JSON; none for the others.
    fn read(value: &Value) -> Option<Scalar> {
        match value {
            Value::Null => Some(Scalar::Null),
            Value::Bool(value) => Some(Scalar::Bool(*value)),
            Value::Number(_) => integer(value).map(Scalar::Integer),
            Value::String(text) => Some(Scalar::Text(text.as_str().into())),
            Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// Types are not cast: `1` is not `true`, nor `"1"`.
    fn is(&self, value: &Value) -> bool {
        match self {
            Scalar::Null => value.is_null(),
            Scalar::Bool(expected) => value.as_bool() == Some(*expected),
            Scalar::Integer(expected) => integer(value) == Some(*expected),
            Scalar::Text(expected) => value.as_str() == Some(expected),
        }
    }
}

fn integer(value: &Value) -> Option<i64> {
    let number = value.as_i64()?;
    (-INTEGER_MAX..=INTEGER_MAX)
        .contains(&number)
        .then_some(number)
}

/// How a room's size is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    Equal,
    Less,
    Greater,
    AtLeast,
    AtMost,
}

/// `is` of `room_member_count`.
fn comparison(is: &str) -> Option<(Comparison, u64)> {
    // The longer signs come first: one is the beginning of another.
    let signs = [
        ("==", Comparison::Equal),
        (">=", Comparison::AtLeast),
        ("<=", Comparison::AtMost),
        (">", Comparison::Greater),
        ("<", Comparison::Less),
        ("", Comparison::Equal),
    ];
    let (digits, comparison) = signs
        .into_iter()
        .find_map(|(sign, comparison)| Some((is.strip_prefix(sign)?, comparison)))?;
    let is_decimal = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    let number = is_decimal.then(|| digits.parse().ok())??;
    Some((comparison, number))
}

/// What a condition asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    Matches(Path, Pattern),
    /// The body of the content has such words.
    Says(Words),
    Is(Path, Scalar),
    Contains(Path, Scalar),
    /// The same three with the id of the user who is asked for.
    MatchesMe(Path),
    IsMe(Path),
    ContainsMe(Path),
    /// The body has the name of that user in the room.
    SaysMyName,
    Members(Comparison, u64),
    /// The sender has the power for notifications of this kind.
    SenderMay(Box<str>),
    /// Of a kind that is not known, or not well-formed: matches no event.
    Never,
}

/// What a condition says of an event before it is known for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Holds,
    Fails,
    /// That depends on the user.
    Asks,
}

impl Answer {
    fn of(holds: bool) -> Answer {
        match holds {
            true => Answer::Holds,
            false => Answer::Fails,
        }
    }

    /// Fails where it fails for every user.
    fn asks_if(possible: bool) -> Answer {
        match possible {
            true => Answer::Asks,
            false => Answer::Fails,
        }
    }
}

impl Condition {
    /// A glob on a property (`event_match`).
    pub fn matches(key: &str, pattern: &str) -> Condition {
        match key {
            BODY => Condition::Says(Words::new(pattern)),
            key => Condition::Matches(Path::parse(key), Pattern::new(pattern)),
        }
    }

    /// The condition of a rule of `user`.
    pub fn compile(condition: &Value, user: &UserId) -> Condition {
        Condition::read(condition, user).unwrap_or(Condition::Never)
    }

    fn read(condition: &Value, me: &UserId) -> Option<Condition> {
        let text = |name: &str| condition.get(name)?.as_str();
        let value = || condition.get("value");
        let is_me = |text: Option<&str>| text == Some(me.as_str());
        Some(match text("kind")? {
            "event_match" => {
                let (key, pattern) = (text("key")?, text("pattern")?);
                match is_me(Some(pattern)) && key != BODY {
                    true => Condition::MatchesMe(Path::parse(key)),
                    false => Condition::matches(key, pattern),
                }
            }
            "event_property_is" => {
                let (path, value) = (Path::parse(text("key")?), value()?);
                match is_me(value.as_str()) {
                    true => Condition::IsMe(path),
                    false => Condition::Is(path, Scalar::read(value)?),
                }
            }
            "event_property_contains" => {
                let (path, value) = (Path::parse(text("key")?), value()?);
                match is_me(value.as_str()) {
                    true => Condition::ContainsMe(path),
                    false => Condition::Contains(path, Scalar::read(value)?),
                }
            }
            "contains_display_name" => Condition::SaysMyName,
            "room_member_count" => {
                let (comparison, number) = comparison(text("is")?)?;
                Condition::Members(comparison, number)
            }
            "sender_notification_permission" => Condition::SenderMay(text("key")?.into()),
            _ => return None,
        })
    }

    /// What it says of an event whoever asks.
    pub fn answer(&self, event: &PushEvent, room: &PushRoom, effort: &Effort) -> Answer {
        match self {
            Condition::Matches(path, pattern) => {
                let text = event.text(path);
                Answer::of(text.is_some_and(|text| pattern.matches(text, effort)))
            }
            Condition::Says(words) => {
                Answer::of(event.body().is_some_and(|body| words.matches(body, effort)))
            }
            Condition::Is(path, value) => Answer::of(
                event
                    .property(path)
                    .is_some_and(|property| value.is(property)),
            ),
            Condition::Contains(path, value) => {
                let items = event.property(path).and_then(Value::as_array);
                Answer::of(items.is_some_and(|items| items.iter().any(|item| value.is(item))))
            }
            Condition::MatchesMe(path) | Condition::IsMe(path) => {
                Answer::asks_if(event.text(path).is_some())
            }
            Condition::ContainsMe(path) => {
                let items = event.property(path).and_then(Value::as_array);
                Answer::asks_if(items.is_some_and(|items| !items.is_empty()))
            }
            Condition::SaysMyName => Answer::asks_if(event.body().is_some()),
            Condition::Members(comparison, number) => {
                let order = room.joined_members.cmp(number);
                Answer::of(match comparison {
                    Comparison::Equal => order.is_eq(),
                    Comparison::Less => order.is_lt(),
                    Comparison::Greater => order.is_gt(),
                    Comparison::AtLeast => order.is_ge(),
                    Comparison::AtMost => order.is_le(),
                })
            }
            Condition::SenderMay(key) => Answer::of(room.may_notify(event.sender(), key)),
            Condition::Never => Answer::Fails,
        }
    }

    /// What it says for one user, where it asks. `name` is their name in the room.
    pub fn holds_for(&self, event: &PushEvent, me: &UserId, name: impl FnOnce() -> String) -> bool {
        match self {
            // As a pattern it makes no difference between upper and lower case.
            Condition::MatchesMe(path) => {
                let text = event.text(path);
                text.is_some_and(|text| text.eq_ignore_ascii_case(me.as_str()))
            }
            Condition::IsMe(path) => event.text(path) == Some(me.as_str()),
            Condition::ContainsMe(path) => {
                let items = event.property(path).and_then(Value::as_array);
                items.is_some_and(|items| items.iter().any(|item| item == me.as_str()))
            }
            Condition::SaysMyName => {
                let words = Words::plain(&name());
                let body = event.body();
                body.is_some_and(|body| words.matches(body, &Effort::default()))
            }
            // The others do not ask.
            _ => false,
        }
    }
}

/// Checks that a condition is an object with a kind, and has what its kind asks
/// for. Kinds that are not known are let through.
pub fn check_condition(condition: &Value) -> Result<(), &'static str> {
    let Some(kind) = condition.get("kind").and_then(Value::as_str) else {
        return Err("conditions are objects with a kind");
    };
    let text = |name: &str| condition.get(name).and_then(Value::as_str);
    let scalar = || condition.get("value").and_then(Scalar::read);
    let complete = match kind {
        "event_match" => text("key").and(text("pattern")).is_some(),
        "event_property_is" | "event_property_contains" => {
            text("key").is_some() && scalar().is_some()
        }
        "room_member_count" => text("is").and_then(comparison).is_some(),
        "sender_notification_permission" => text("key").is_some(),
        _ => true,
    };
    match complete {
        true => Ok(()),
        false => Err("a condition lacks what its kind asks for"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_part_at_dots_that_are_not_escaped() {
        for (path, names) in [
            ("content.body", vec!["content", "body"]),
            (
                r"content.m\.relates_to.rel_type",
                vec!["content", "m.relates_to", "rel_type"],
            ),
            (r"content.m\\foo", vec!["content", r"m\foo"]),
            (r"content.\x", vec!["content", r"\x"]),
            (r"a\", vec![r"a\"]),
            ("", vec![""]),
            ("a..b", vec!["a", "", "b"]),
        ] {
            assert_eq!(
                Path::parse(path).names().collect::<Vec<_>>(),
                names,
                "{path}"
            );
        }
    }

    #[test]
    fn sizes_are_compared_as_they_say() {
        for (is, expected) in [
            ("2", Some((Comparison::Equal, 2))),
            ("==2", Some((Comparison::Equal, 2))),
            ("<10", Some((Comparison::Less, 10))),
            ("<=10", Some((Comparison::AtMost, 10))),
            (">=10", Some((Comparison::AtLeast, 10))),
            (">0", Some((Comparison::Greater, 0))),
            ("", None),
            ("=2", None),
            ("+2", None),
            ("2 ", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(comparison(is), expected, "{is}");
        }
    }

    #[test]
    fn only_well_formed_conditions_are_taken() {
        for (condition, taken) in [
            (
                json!({"kind": "event_match", "key": "a", "pattern": "b"}),
                true,
            ),
            (json!({"kind": "event_match", "key": "a"}), false),
            (
                json!({"kind": "event_property_is", "key": "a", "value": null}),
                true,
            ),
            (json!({"kind": "event_property_is", "key": "a"}), false),
            (
                json!({"kind": "event_property_contains", "key": "a", "value": [1]}),
                false,
            ),
            (
                json!({"kind": "event_property_contains", "key": "a", "value": 1.5}),
                false,
            ),
            (json!({"kind": "room_member_count", "is": "many"}), false),
            (json!({"kind": "sender_notification_permission"}), false),
            (json!({"kind": "contains_display_name"}), true),
            (json!({"kind": "org.example.new"}), true),
            (json!({"key": "a"}), false),
            (json!("event_match"), false),
        ] {
            assert_eq!(check_condition(&condition).is_ok(), taken, "{condition}");
        }
    }
}
