//! How an event says that it relates to another: `m.relates_to` in its content
//! (client-server API, *Forming relationships between events*).
//!
//! What does not match the schema is no relationship, and no error. Rich
//! replies have no `rel_type` and are none either.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::ids::EventId;
use crate::limits::ID_BYTES_MAX;

/// `rel_type` of edits (*Event replacements*).
pub const REPLACE: &str = "m.replace";
/// `rel_type` of threads (*Threading*).
pub const THREAD: &str = "m.thread";
/// `rel_type` of reactions (*Event annotations and reactions*).
pub const ANNOTATION: &str = "m.annotation";
/// `rel_type` of references (*Reference relations*).
pub const REFERENCE: &str = "m.reference";

/// Type of encrypted events, whose `m.new_content` no server sees.
const ENCRYPTED: &str = "m.room.encrypted";

/// What an event says of its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    pub rel_type: Cow<'a, str>,
    pub parent: Cow<'a, str>,
    /// What an annotation says.
    pub key: Option<Cow<'a, str>>,
    /// Whether the content has an `m.new_content` that is an object.
    pub has_new_content: bool,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow, rename = "m.relates_to")]
    relates_to: Option<&'a RawValue>,
    #[serde(borrow, rename = "m.new_content")]
    new_content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RelatesTo<'a> {
    #[serde(borrow)]
    rel_type: Cow<'a, str>,
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
}

impl Relation<'_> {
    /// Reads the relation of a PDU; none if it has none that is well formed.
    pub fn of_event(pdu: &[u8]) -> Option<Relation<'_>> {
        #[derive(Deserialize)]
        struct Pdu<'a> {
            #[serde(borrow)]
            content: &'a RawValue,
        }
        let pdu: Pdu<'_> = serde_json::from_slice(pdu).ok()?;
        Relation::of_content(pdu.content.get())
    }

    /// The same, of a content alone.
    pub fn of_content(content: &str) -> Option<Relation<'_>> {
        let content: Content<'_> = serde_json::from_str(content).ok()?;
        let relates_to: RelatesTo<'_> = serde_json::from_str(content.relates_to?.get()).ok()?;
        let RelatesTo {
            rel_type, event_id, ..
        } = relates_to;
        let is_type = !rel_type.is_empty() && rel_type.len() <= ID_BYTES_MAX;
        if !is_type || <&EventId>::try_from(&*event_id).is_err() {
            return None;
        }
        let key = relates_to.key.map(RawValue::get);
        Some(Relation {
            rel_type,
            parent: event_id,
            key: key
                .and_then(|key| serde_json::from_str(key).ok())
                .map(Text::into),
            has_new_content: content
                .new_content
                .is_some_and(|content| content.get().starts_with('{')),
        })
    }

    /// Whether an event of this type, and with or without a state key, replaces
    /// its parent as far as it can be told without that.
    ///
    /// Source: client-server API, *Validity of replacement events*.
    pub fn replaces(&self, kind: &str, has_state_key: bool) -> bool {
        self.rel_type == REPLACE && !has_state_key && (self.has_new_content || kind == ENCRYPTED)
    }
}

/// A text, borrowed where it can be: a bare `Cow` is always copied.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> From<Text<'a>> for Cow<'a, str> {
    fn from(text: Text<'a>) -> Cow<'a, str> {
        text.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(content: Value) -> Option<(String, String, Option<String>, bool)> {
        let pdu = json!({ "type": "m.x", "content": content }).to_string();
        let relation = Relation::of_event(pdu.as_bytes())?;
        Some((
            relation.rel_type.into_owned(),
            relation.parent.into_owned(),
            relation.key.map(Cow::into_owned),
            relation.has_new_content,
        ))
    }

    #[test]
    fn relations_are_read() {
        let thread = json!({ "m.relates_to": { "rel_type": "m.thread", "event_id": "$a",
            "is_falling_back": true, "m.in_reply_to": { "event_id": "$b" } } });
        let expected = ("m.thread".to_owned(), "$a".to_owned(), None, false);
        assert_eq!(read(thread), Some(expected));
        let annotation = json!({ "m.relates_to": {
            "rel_type": "m.annotation", "event_id": "$a:hs", "key": "\u{1F44D}\n" } });
        let (_, parent, key, _) = read(annotation).unwrap();
        assert_eq!((&*parent, key.as_deref()), ("$a:hs", Some("\u{1F44D}\n")));
        let edit = json!({ "m.new_content": {},
            "m.relates_to": { "rel_type": "m.replace", "event_id": "$a" } });
        assert!(read(edit).unwrap().3);
    }

    #[test]
    fn what_does_not_match_the_schema_relates_to_nothing() {
        let long = "x".repeat(ID_BYTES_MAX + 1);
        for relates_to in [
            json!({ "m.in_reply_to": { "event_id": "$b" } }),
            json!({ "rel_type": "m.thread" }),
            json!({ "event_id": "$a" }),
            json!({ "rel_type": "", "event_id": "$a" }),
            json!({ "rel_type": long, "event_id": "$a" }),
            json!({ "rel_type": ["m.thread"], "event_id": "$a" }),
            json!({ "rel_type": "m.thread", "event_id": "a" }),
            json!({ "rel_type": "m.thread", "event_id": 1 }),
            json!([]),
            json!("$a"),
            Value::Null,
        ] {
            assert_eq!(
                read(json!({ "m.relates_to": relates_to })),
                None,
                "{relates_to}"
            );
        }
        assert_eq!(read(json!({ "body": "x" })), None);
        assert_eq!(Relation::of_event(b"[]"), None);
    }

    #[test]
    fn an_odd_key_is_no_key() {
        for key in [json!(1), json!(["x"]), Value::Null] {
            let content = json!({ "m.relates_to": {
                "rel_type": "m.annotation", "event_id": "$a", "key": key } });
            assert_eq!(read(content).unwrap().2, None);
        }
    }

    #[test]
    fn edits_need_new_content_that_can_be_seen() {
        let edit = |content: Value| content.to_string();
        let relates_to = json!({ "rel_type": "m.replace", "event_id": "$a" });
        let whole = edit(json!({ "m.new_content": {}, "m.relates_to": relates_to }));
        let bare = edit(json!({ "m.new_content": "x", "m.relates_to": relates_to }));
        let whole = Relation::of_content(&whole).unwrap();
        let bare = Relation::of_content(&bare).unwrap();
        assert!(whole.replaces("m.room.message", false));
        assert!(!whole.replaces("m.room.topic", true));
        assert!(!bare.replaces("m.room.message", false));
        assert!(bare.replaces("m.room.encrypted", false));
    }

    #[test]
    fn escapes_hide_nothing() {
        let pdu = br#"{"content":{"m.relates\u005fto":{"rel_type":"m.th\u0072ead","event_id":"\u0024a"}}}"#;
        let relation = Relation::of_event(pdu).unwrap();
        assert_eq!((&*relation.rel_type, &*relation.parent), (THREAD, "$a"));
    }
}
