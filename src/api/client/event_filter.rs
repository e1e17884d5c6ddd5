//! `RoomEventFilter`, as `/messages` and `/context` take it in their query
//! (client-server API, *Filtering*).

use ruma::RoomId;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::errors::ApiError;
use crate::limits::FILTER_BYTES_MAX;
use crate::query::rooms::StoredEvent;

/// What is absent lets everything through; what is not known is ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RoomEventFilter {
    pub limit: Option<i64>,
    types: Option<Vec<String>>,
    not_types: Vec<String>,
    senders: Option<Vec<String>>,
    not_senders: Vec<String>,
    rooms: Option<Vec<String>>,
    not_rooms: Vec<String>,
    contains_url: Option<bool>,
    pub lazy_load_members: bool,
    pub include_redundant_members: bool,
}

impl RoomEventFilter {
    /// Reads the `filter` parameter.
    pub fn parse(parameter: Option<&str>) -> Result<RoomEventFilter, ApiError> {
        let wrong = |_| ApiError::InvalidParam("filter is no RoomEventFilter".into());
        match parameter {
            None => Ok(RoomEventFilter::default()),
            Some(json) if json.len() > FILTER_BYTES_MAX => {
                Err(ApiError::InvalidParam("filter is too long".into()))
            }
            Some(json) => serde_json::from_str(json).map_err(wrong),
        }
    }

    /// Whether the filter lets anything of a room through.
    pub fn allows_room(&self, room: &RoomId) -> bool {
        let names = |list: &[String]| list.iter().any(|name| name == room.as_str());
        !names(&self.not_rooms) && self.rooms.as_deref().is_none_or(names)
    }

    /// Whether the filter lets an event through.
    pub fn matches(&self, event: &StoredEvent) -> bool {
        let is_type = |list: &[String]| list.iter().any(|glob| fits(glob, &event.kind));
        let is_sender = |list: &[String]| list.iter().any(|id| id == event.sender.as_str());
        !is_type(&self.not_types)
            && !is_sender(&self.not_senders)
            && self.types.as_deref().is_none_or(is_type)
            && self.senders.as_deref().is_none_or(is_sender)
            && self
                .contains_url
                .is_none_or(|wanted| has_url(event) == wanted)
    }
}

/// Whether a type fits a pattern in which `*` stands for any characters.
fn fits(glob: &str, kind: &str) -> bool {
    let mut parts = glob.split('*');
    // `split` gives at least one part.
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = kind.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// Whether the content has a `url` that is text.
fn has_url(event: &StoredEvent) -> bool {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        content: Content<'a>,
    }
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        url: Option<&'a RawValue>,
    }
    let event: Result<Event<'_>, _> = serde_json::from_slice(&event.json);
    let url = event.ok().and_then(|event| event.content.url);
    url.is_some_and(|url| url.get().starts_with('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_types() {
        for (glob, kind) in [
            ("m.room.message", "m.room.message"),
            ("m.room.*", "m.room.message"),
            ("*", ""),
            ("*.message", "m.room.message"),
            ("m.*.me*e", "m.room.message"),
            ("a*a", "aa"),
        ] {
            assert!(fits(glob, kind), "{glob} {kind}");
        }
        for (glob, kind) in [
            ("m.room", "m.room.message"),
            ("m.room.*", "m.rooms"),
            ("a*a", "a"),
            ("*x", "xy"),
            ("", "a"),
        ] {
            assert!(!fits(glob, kind), "{glob} {kind}");
        }
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        assert!(RoomEventFilter::parse(None).is_ok());
        assert!(RoomEventFilter::parse(Some(r#"{"types":["a"],"x":1}"#)).is_ok());
        for wrong in ["", "1", "{\"types\":1}", "66696p746572"] {
            assert!(RoomEventFilter::parse(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
