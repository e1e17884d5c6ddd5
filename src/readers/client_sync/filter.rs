//! Sync filters, parsed once (client-server API, *Filtering*).

use ruma::{RoomId, UserId};
use serde::Deserialize;

/// `Filter`. What is absent allows everything; what is not known is ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Filter {
    event_format: EventFormat,
    pub account_data: EventFilter,
    pub room: RoomFilter,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum EventFormat {
    #[default]
    Client,
    Federation,
}

/// `RoomFilter`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RoomFilter {
    rooms: Option<Vec<String>>,
    not_rooms: Vec<String>,
    pub include_leave: bool,
    pub timeline: RoomEventFilter,
    pub state: RoomEventFilter,
    pub account_data: RoomEventFilter,
}

/// `EventFilter`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    pub limit: Option<u32>,
    types: Option<Vec<String>>,
    not_types: Vec<String>,
    senders: Option<Vec<String>>,
    not_senders: Vec<String>,
}

/// `RoomEventFilter`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RoomEventFilter {
    #[serde(flatten)]
    pub events: EventFilter,
    rooms: Option<Vec<String>>,
    not_rooms: Vec<String>,
    contains_url: Option<bool>,
    pub lazy_load_members: bool,
    pub include_redundant_members: bool,
}

impl Filter {
    /// Reads a filter definition.
    pub fn parse(json: &str) -> Result<Filter, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// Whether events are wanted as servers exchange them.
    pub fn federation_format(&self) -> bool {
        self.event_format == EventFormat::Federation
    }
}

impl RoomFilter {
    pub fn allows_room(&self, room: &RoomId) -> bool {
        allows_room(self.rooms.as_deref(), &self.not_rooms, room)
    }
}

impl EventFilter {
    pub fn allows(&self, event_type: &str, sender: &UserId) -> bool {
        let is_sender = |listed: &String| listed == sender.as_str();
        let is_type = |pattern: &String| matches_type(pattern, event_type);
        !self.not_senders.iter().any(is_sender)
            && !self.not_types.iter().any(is_type)
            && self
                .senders
                .as_ref()
                .is_none_or(|listed| listed.iter().any(is_sender))
            && self
                .types
                .as_ref()
                .is_none_or(|listed| listed.iter().any(is_type))
    }
}

impl RoomEventFilter {
    pub fn allows_room(&self, room: &RoomId) -> bool {
        allows_room(self.rooms.as_deref(), &self.not_rooms, room)
    }

    /// `has_url` is asked only if the filter cares.
    pub fn allows(
        &self,
        event_type: &str,
        sender: &UserId,
        has_url: impl FnOnce() -> bool,
    ) -> bool {
        self.events.allows(event_type, sender)
            && self.contains_url.is_none_or(|wanted| wanted == has_url())
    }
}

fn allows_room(rooms: Option<&[String]>, not_rooms: &[String], room: &RoomId) -> bool {
    let is_room = |listed: &String| listed == room.as_str();
    !not_rooms.iter().any(is_room) && rooms.is_none_or(|listed| listed.iter().any(is_room))
}

/// Whether a type fits a pattern, in which `*` stands for any text. Linear in
/// both: on a mismatch only the last `*` takes one character more.
fn matches_type(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == text.get(t) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, fits) in [
            ("m.room.*", "m.room.message", true),
            ("m.room.*", "m.room", false),
            ("*", "", true),
            ("*.message", "m.room.message", true),
            ("m.*.me*e", "m.room.me.message", true),
            ("m.room.message", "m.room.messages", false),
            ("", "m", false),
        ] {
            assert_eq!(matches_type(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn exclusions_win() {
        let filter: EventFilter = serde_json::from_str(
            r#"{"types":["m.*"],"not_types":["m.b"],"not_senders":["@x:s"],"unknown":1}"#,
        )
        .unwrap_or_default();
        let (a, x) = (ruma::user_id!("@a:s"), ruma::user_id!("@x:s"));
        assert!(filter.allows("m.a", a));
        assert!(!filter.allows("m.b", a));
        assert!(!filter.allows("n.a", a));
        assert!(!filter.allows("m.a", x));
    }
}
