//! Filters of the client-server API (*Filtering*): parsed once, then asked per event.
//!
//! Unknown members are ignored, as clients of later versions send them; known
//! ones must have their type. Lists and the whole definition are bounded.

mod fields;
mod glob;

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

pub use fields::EventFields;
pub use glob::Glob;

use super::ids::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use crate::limits::{FILTER_BYTES_MAX, FILTER_LIST_MAX, PAGE_EVENTS_MAX};

/// Why a definition is no filter; the text is fit to be shown to its author.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("filter has more than {FILTER_BYTES_MAX} bytes")]
    TooLarge,
    #[error("filter is not valid: {0}")]
    Invalid(#[from] serde_json::Error),
}

/// In which format events are returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventFormat {
    #[default]
    Client,
    /// The PDU as it is exchanged between servers.
    Federation,
}

/// A filter for `/sync`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// None: all fields.
    pub event_fields: Option<EventFields>,
    pub event_format: EventFormat,
    #[serde(deserialize_with = "object")]
    pub presence: EventFilter,
    #[serde(deserialize_with = "object")]
    pub account_data: EventFilter,
    #[serde(deserialize_with = "object")]
    pub room: RoomFilter,
}

/// What a filter says of rooms. `rooms` and `not_rooms` come before all below.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RoomFilter {
    #[serde(deserialize_with = "bounded_set")]
    pub not_rooms: BTreeSet<OwnedRoomId>,
    #[serde(deserialize_with = "bounded_option_set")]
    pub rooms: Option<BTreeSet<OwnedRoomId>>,
    #[serde(deserialize_with = "object")]
    pub ephemeral: RoomEventFilter,
    /// Whether rooms that the user left are included.
    pub include_leave: bool,
    #[serde(deserialize_with = "object")]
    pub state: RoomEventFilter,
    #[serde(deserialize_with = "object")]
    pub timeline: RoomEventFilter,
    #[serde(deserialize_with = "object")]
    pub account_data: RoomEventFilter,
}

/// A filter of events that are in no room.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    pub limit: Option<u64>,
    #[serde(deserialize_with = "bounded_set")]
    pub not_senders: BTreeSet<OwnedUserId>,
    #[serde(deserialize_with = "bounded_list")]
    pub not_types: Vec<Glob>,
    #[serde(deserialize_with = "bounded_option_set")]
    pub senders: Option<BTreeSet<OwnedUserId>>,
    #[serde(deserialize_with = "bounded_option_list")]
    pub types: Option<Vec<Glob>>,
}

/// A filter of events in rooms; also the one of `/messages` and `/context`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RoomEventFilter {
    pub limit: Option<u64>,
    #[serde(deserialize_with = "bounded_set")]
    pub not_senders: BTreeSet<OwnedUserId>,
    #[serde(deserialize_with = "bounded_list")]
    pub not_types: Vec<Glob>,
    #[serde(deserialize_with = "bounded_option_set")]
    pub senders: Option<BTreeSet<OwnedUserId>>,
    #[serde(deserialize_with = "bounded_option_list")]
    pub types: Option<Vec<Glob>>,
    pub unread_thread_notifications: bool,
    pub lazy_load_members: bool,
    /// Has a meaning only with `lazy_load_members`.
    pub include_redundant_members: bool,
    #[serde(deserialize_with = "bounded_set")]
    pub not_rooms: BTreeSet<OwnedRoomId>,
    #[serde(deserialize_with = "bounded_option_set")]
    pub rooms: Option<BTreeSet<OwnedRoomId>>,
    /// Whether the content must have, or must not have, a `url`.
    pub contains_url: Option<bool>,
}

impl Filter {
    /// Parses a filter for `/sync`.
    pub fn parse(json: &[u8]) -> Result<Filter, FilterError> {
        parse(json)
    }
}

impl RoomFilter {
    /// Whether anything of a room is to be returned.
    pub fn matches_room(&self, room: &RoomId) -> bool {
        is_included(room, self.rooms.as_ref(), &self.not_rooms)
    }
}

impl EventFilter {
    /// Parses a filter of events that are in no room.
    pub fn parse(json: &[u8]) -> Result<EventFilter, FilterError> {
        parse(json)
    }

    /// Whether any event of a type may be returned.
    pub fn matches_type(&self, kind: &str) -> bool {
        type_is_included(kind, self.types.as_deref(), &self.not_types)
    }

    /// Whether an event is to be returned. Account data has no sender and is
    /// asked for with the user it belongs to.
    pub fn matches(&self, sender: &UserId, kind: &str) -> bool {
        is_included(sender, self.senders.as_ref(), &self.not_senders)
            && type_is_included(kind, self.types.as_deref(), &self.not_types)
    }
}

impl RoomEventFilter {
    /// Parses the filter of `/messages`, `/context` or `/search`.
    pub fn parse(json: &[u8]) -> Result<RoomEventFilter, FilterError> {
        parse(json)
    }

    /// How many events to return: what the filter says, or the default, at most
    /// [`PAGE_EVENTS_MAX`].
    pub fn limit(&self, default: usize) -> usize {
        let limit = self.limit.map_or(default, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        limit.min(PAGE_EVENTS_MAX)
    }

    /// Whether any event of a room may be returned.
    pub fn matches_room(&self, room: &RoomId) -> bool {
        is_included(room, self.rooms.as_ref(), &self.not_rooms)
    }

    /// Whether an event of a room that matches is to be returned.
    /// `has_url` is called only if the filter asks for it.
    pub fn matches(&self, sender: &UserId, kind: &str, has_url: impl FnOnce() -> bool) -> bool {
        is_included(sender, self.senders.as_ref(), &self.not_senders)
            && type_is_included(kind, self.types.as_deref(), &self.not_types)
            && self.contains_url.is_none_or(|wanted| wanted == has_url())
    }

    /// Whether any event of a type may be returned.
    pub fn matches_type(&self, kind: &str) -> bool {
        type_is_included(kind, self.types.as_deref(), &self.not_types)
    }

    /// Whether an event that has no sender, as receipts and typing, is to be
    /// returned: a list of wanted senders leaves it out.
    pub fn matches_without_sender(&self, kind: &str) -> bool {
        self.senders.is_none() && type_is_included(kind, self.types.as_deref(), &self.not_types)
    }

    /// Whether every event of every room matches, so that none need be asked.
    pub fn matches_everything(&self) -> bool {
        self.types.is_none()
            && self.not_types.is_empty()
            && self.senders.is_none()
            && self.not_senders.is_empty()
            && self.rooms.is_none()
            && self.not_rooms.is_empty()
            && self.contains_url.is_none()
    }
}

fn parse<'a, F: Deserialize<'a>>(json: &'a [u8]) -> Result<F, FilterError> {
    if json.len() > FILTER_BYTES_MAX {
        return Err(FilterError::TooLarge);
    }
    // The first byte that is no whitespace: derived code would read `[]` as an
    // object without members.
    match json.trim_ascii_start().first() {
        None | Some(b'{') => Ok(serde_json::from_slice(json)?),
        Some(_) => Err(FilterError::Invalid(serde::de::Error::custom(
            "not an object",
        ))),
    }
}

/// An object inside a definition; see [`parse`] for why this is said at all.
fn object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let raw: Box<RawValue> = Box::deserialize(deserializer)?;
    if !raw.get().starts_with('{') {
        return Err(serde::de::Error::custom("not an object"));
    }
    serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)
}

/// Exclusion wins over inclusion; an absent list includes all.
fn is_included<Q: Ord + ?Sized, O: Ord + std::borrow::Borrow<Q>>(
    id: &Q,
    included: Option<&BTreeSet<O>>,
    excluded: &BTreeSet<O>,
) -> bool {
    !excluded.contains(id) && included.is_none_or(|list| list.contains(id))
}

fn type_is_included(kind: &str, included: Option<&[Glob]>, excluded: &[Glob]) -> bool {
    !excluded.iter().any(|glob| glob.matches(kind))
        && included.is_none_or(|list| list.iter().any(|glob| glob.matches(kind)))
}

/// `null` stands for an absent list: clients send it.
fn bounded_option_list<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list: Option<Vec<T>> = Option::deserialize(deserializer)?;
    match list {
        Some(list) if list.len() > FILTER_LIST_MAX => Err(serde::de::Error::custom(format_args!(
            "a list has more than {FILTER_LIST_MAX} entries"
        ))),
        list => Ok(list),
    }
}

fn bounded_list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(bounded_option_list(deserializer)?.unwrap_or_default())
}

fn bounded_option_set<'de, D, T>(deserializer: D) -> Result<Option<BTreeSet<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Ord,
{
    let list: Option<Vec<T>> = bounded_option_list(deserializer)?;
    Ok(list.map(BTreeSet::from_iter))
}

fn bounded_set<'de, D, T>(deserializer: D) -> Result<BTreeSet<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Ord,
{
    Ok(bounded_option_set(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;

    fn events(json: &str) -> RoomEventFilter {
        RoomEventFilter::parse(json.as_bytes()).expect(json)
    }

    #[test]
    fn an_empty_filter_lets_all_through() {
        let filter = Filter::parse(b"{}").expect("parses");
        assert_eq!(filter, Filter::default());
        assert!(filter.room.timeline.matches_everything());
        assert!(filter.room.matches_room(room_id!("!r:hs")));
        assert!(
            filter
                .room
                .timeline
                .matches(user_id!("@a:hs"), "m.x", || unreachable!("not asked"))
        );
        assert_eq!(filter.event_format, EventFormat::Client);
        assert_eq!(
            Filter::parse(br#"{"room":{"timeline":{"types":null}},"new":1}"#).expect("parses"),
            filter
        );
    }

    #[test]
    fn lists_include_and_exclude() {
        let filter = events(
            r#"{"types":["m.room.*","org.x"],"not_types":["*.member"],"senders":["@a:hs","@b:hs"],"not_senders":["@b:hs"]}"#,
        );
        let matches = |sender, kind| filter.matches(sender, kind, || false);
        assert!(matches(user_id!("@a:hs"), "m.room.message"));
        assert!(matches(user_id!("@a:hs"), "org.x"));
        assert!(!matches(user_id!("@a:hs"), "org.xy"));
        assert!(!matches(user_id!("@a:hs"), "m.room.member"));
        assert!(!matches(user_id!("@b:hs"), "m.room.message"));
        assert!(!matches(user_id!("@c:hs"), "m.room.message"));
        assert!(!events(r#"{"types":[]}"#).matches(user_id!("@a:hs"), "m.x", || false));
        assert!(!filter.matches_everything());
        let rooms = events(r#"{"rooms":["!a:hs","!b:hs"],"not_rooms":["!b:hs"]}"#);
        assert!(rooms.matches_room(room_id!("!a:hs")));
        assert!(!rooms.matches_room(room_id!("!b:hs")));
        assert!(!rooms.matches_room(room_id!("!c:hs")));
    }

    #[test]
    fn urls_are_looked_for_only_when_asked() {
        for (json, with, without) in [
            (r#"{"contains_url":true}"#, true, false),
            (r#"{"contains_url":false}"#, false, true),
        ] {
            let filter = events(json);
            assert_eq!(filter.matches(user_id!("@a:hs"), "m.x", || true), with);
            assert_eq!(filter.matches(user_id!("@a:hs"), "m.x", || false), without);
        }
    }

    #[test]
    fn limits_are_clamped() {
        assert_eq!(events("{}").limit(10), 10);
        assert_eq!(events(r#"{"limit":3}"#).limit(10), 3);
        assert_eq!(events(r#"{"limit":100000}"#).limit(10), PAGE_EVENTS_MAX);
        assert_eq!(
            events(r#"{"limit":18446744073709551615}"#).limit(10),
            PAGE_EVENTS_MAX
        );
    }

    #[test]
    fn wrong_types_are_refused() {
        for json in [
            "",
            "[]",
            "1",
            r#"{"room":[]}"#,
            r#"{"room":{"timeline":{"limit":-1}}}"#,
            r#"{"room":{"timeline":{"limit":"10"}}}"#,
            r#"{"room":{"timeline":{"types":"m.x"}}}"#,
            r#"{"room":{"timeline":{"types":[1]}}}"#,
            r#"{"room":{"state":{"senders":["alice"]}}}"#,
            r#"{"room":{"rooms":["r:hs"]}}"#,
            r#"{"event_format":"odd"}"#,
            r#"{"event_fields":"x"}"#,
            r#"{"room":{"state":{"lazy_load_members":"true"}}}"#,
            r#"{"room":{"state":{"contains_url":1}}}"#,
        ] {
            assert!(
                matches!(Filter::parse(json.as_bytes()), Err(FilterError::Invalid(_))),
                "{json}"
            );
        }
        let many = format!(
            "{{\"types\":[{}]}}",
            vec!["\"x\""; FILTER_LIST_MAX + 1].join(",")
        );
        assert!(RoomEventFilter::parse(many.as_bytes()).is_err());
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(FILTER_BYTES_MAX));
        assert!(matches!(
            Filter::parse(large.as_bytes()),
            Err(FilterError::TooLarge)
        ));
    }

    #[test]
    fn a_whole_definition_is_read() {
        let filter = Filter::parse(
            br#"{"event_fields":["type","content","sender"],"event_format":"federation",
                "presence":{"types":["m.presence"],"not_senders":["@alice:example.com"]},
                "room":{"ephemeral":{"types":["m.receipt","m.typing"],"not_rooms":["!726s6s6q:example.com"]},
                "state":{"types":["m.room.*"],"lazy_load_members":true,"include_redundant_members":true},
                "timeline":{"limit":10,"unread_thread_notifications":true},"include_leave":true}}"#,
        )
        .expect("parses");
        assert_eq!(filter.event_format, EventFormat::Federation);
        assert!(filter.room.state.lazy_load_members && filter.room.state.include_redundant_members);
        assert!(filter.room.include_leave && filter.room.timeline.unread_thread_notifications);
        assert!(
            !filter
                .presence
                .matches(user_id!("@alice:example.com"), "m.presence")
        );
        assert!(
            filter
                .presence
                .matches(user_id!("@bob:example.com"), "m.presence")
        );
        assert!(
            !filter
                .room
                .ephemeral
                .matches_room(room_id!("!726s6s6q:example.com"))
        );
        assert!(filter.event_fields.is_some());
    }
}
