//! What of an event is searched (client-server API, *Server Side Search*,
//! *Event replacements*).

use ruma::{EventId, OwnedEventId};
use serde_json::Value;

use crate::matrix::client_event::content_of;
use crate::query::rooms::StoredEvent;

/// A key of content that can be searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SearchKey {
    /// `content.body` of `m.room.message`.
    Body,
    /// `content.name` of `m.room.name`.
    Name,
    /// `content.topic` of `m.room.topic`, and what `m.topic` says in plain text.
    Topic,
}

impl SearchKey {
    pub const ALL: [SearchKey; 3] = [SearchKey::Body, SearchKey::Name, SearchKey::Topic];

    /// The key that events of a type are searched by.
    pub fn of_type(kind: &str) -> Option<SearchKey> {
        SearchKey::ALL
            .into_iter()
            .find(|key| key.event_type() == kind)
    }

    /// Reads the specification's name.
    pub fn parse(name: &str) -> Option<SearchKey> {
        match name {
            "content.body" => Some(SearchKey::Body),
            "content.name" => Some(SearchKey::Name),
            "content.topic" => Some(SearchKey::Topic),
            _ => None,
        }
    }

    pub fn event_type(self) -> &'static str {
        match self {
            SearchKey::Body => "m.room.message",
            SearchKey::Name => "m.room.name",
            SearchKey::Topic => "m.room.topic",
        }
    }
}

/// The text of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Searched {
    pub key: SearchKey,
    /// May be empty in a replacement, which then takes the text away.
    pub text: String,
    /// The message that the event says to replace; whether it may is asked
    /// when it is found.
    pub replaces: Option<OwnedEventId>,
    /// Whether the content has a `url`.
    pub has_url: bool,
}

/// The text by which an event is found; none if it has none.
pub fn searched(event: &StoredEvent) -> Option<Searched> {
    let key = SearchKey::of_type(&event.kind)?;
    let content: Value = serde_json::from_str(content_of(&event.json).ok()?).ok()?;
    let replacement = match key {
        SearchKey::Body if event.state_key.is_none() => replacement(&content),
        _ => None,
    };
    let text = match key {
        SearchKey::Body => {
            let newest = replacement.map_or(&content, |(_, newest)| newest);
            text_at(newest, "body")
        }
        SearchKey::Name => text_at(&content, "name"),
        SearchKey::Topic => topic(&content),
    };
    let replaces = replacement.map(|(original, _)| original.to_owned());
    (replaces.is_some() || !text.trim().is_empty()).then(|| Searched {
        key,
        text,
        replaces,
        has_url: content.get("url").is_some_and(Value::is_string),
    })
}

/// The message that an event says to replace, and the new content.
pub fn replacement(content: &Value) -> Option<(&EventId, &Value)> {
    let newest = content.get("m.new_content").filter(|new| new.is_object())?;
    let relation = content.get("m.relates_to")?;
    let is_replacement = relation.get("rel_type")? == "m.replace";
    let original = relation.get("event_id")?.as_str()?;
    let original = <&EventId>::try_from(original).ok()?;
    is_replacement.then_some((original, newest))
}

/// The message that a stored event says to replace.
pub fn replaced_by(event: &StoredEvent) -> Option<OwnedEventId> {
    searched(event)?.replaces
}

/// Whether one event is a valid replacement of another
/// (*Validity of replacement events*). Both are of one room.
pub fn may_replace(newer: &StoredEvent, original: &StoredEvent) -> bool {
    newer.sender == original.sender
        && newer.kind == original.kind
        && newer.state_key.is_none()
        && original.state_key.is_none()
        && replaced_by(original).is_none()
}

fn text_at(content: &Value, key: &str) -> String {
    let text = content.get(key).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

/// The topic, and its plain text where that says something else.
fn topic(content: &Value) -> String {
    let mut text = text_at(content, "topic");
    let parts = content.get("m.topic").and_then(|topic| topic.get("m.text"));
    let parts = parts.and_then(Value::as_array).into_iter().flatten();
    let plain = parts.filter(|part| {
        part.get("mimetype")
            .is_none_or(|mimetype| mimetype == "text/plain")
    });
    for part in plain {
        let body = text_at(part, "body");
        if body != text {
            text.push('\n');
            text.push_str(&body);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn replacements_name_a_message_and_new_content() {
        let edit = |new: Value, rel: &str| {
            json!({
                "body": "* new",
                "m.new_content": new,
                "m.relates_to": { "rel_type": rel, "event_id": "$a" },
            })
        };
        let content = edit(json!({ "body": "new" }), "m.replace");
        let (original, newest) = replacement(&content).unwrap();
        assert_eq!((original.as_str(), &newest["body"]), ("$a", &json!("new")));
        assert!(replacement(&edit(json!("new"), "m.replace")).is_none());
        assert!(replacement(&edit(json!({}), "m.thread")).is_none());
        assert!(replacement(&json!({ "m.new_content": {} })).is_none());
    }

    #[test]
    fn topics_are_found_by_both_of_their_texts() {
        let rich = json!({ "m.text": [
            { "body": "<b>html</b>", "mimetype": "text/html" },
            { "body": "plain" },
        ] });
        assert_eq!(
            topic(&json!({ "topic": "old", "m.topic": rich })),
            "old\nplain"
        );
        assert_eq!(
            topic(&json!({ "topic": "plain", "m.topic": rich })),
            "plain"
        );
        assert_eq!(topic(&json!({ "topic": 1 })), "");
    }
}
