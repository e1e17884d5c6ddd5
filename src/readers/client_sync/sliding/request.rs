//! Requests of sliding sync, from JSON into types: once, at the edge.
//!
//! The fields are those of MSC4186; where clients of today spell one as it was
//! before the proposal was accepted (`ranges`, `is_invite`, pairs in
//! `required_state`, parameters in the query), both are read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use log_format::record::input::TokenHash;
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, UserId};
use serde::Deserialize;

use super::required_state::{PATTERNS_MAX, RequiredState, Wire};

/// Lists of a request (MSC4186).
pub const LISTS_MAX: usize = 100;
/// Room subscriptions of a request (MSC4186).
const SUBSCRIPTIONS_MAX: usize = 100;
/// Ranges of one list; the proposal has one.
const RANGES_MAX: usize = 20;
/// What the patterns of state of a request may take in memory, in bytes: a client
/// that subscribes to a hundred rooms sends some 200 KiB.
const PATTERNS_BYTES_MAX: usize = 512 * 1024;
/// Values in one filter of a list.
const FILTER_VALUES_MAX: usize = 100;
/// Longest name of a list or connection in bytes (appendices, *Opaque identifiers*).
const NAME_BYTES_MAX: usize = 255;

/// Why a request cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("more than {max} {what}")]
    TooMany { what: &'static str, max: usize },
    #[error("{0} is longer than {NAME_BYTES_MAX} bytes")]
    NameTooLong(&'static str),
    #[error("a range ends before it begins")]
    Range,
}

/// How answers are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// As clients of the unstable endpoint read them.
    Unstable,
    /// As MSC4186 was accepted.
    Accepted,
}

/// A request's body, as sent.
#[derive(Debug, Deserialize)]
pub struct Body {
    conn_id: Option<String>,
    pub pos: Option<String>,
    /// Milliseconds.
    pub timeout: Option<u64>,
    pub set_presence: Option<String>,
    txn_id: Option<String>,
    #[serde(default)]
    lists: BTreeMap<String, ListBody>,
    #[serde(default)]
    room_subscriptions: BTreeMap<String, RuleBody>,
    #[serde(default)]
    extensions: Extensions,
}

#[derive(Debug, Deserialize)]
struct ListBody {
    ranges: Option<Vec<(u64, u64)>>,
    range: Option<(u64, u64)>,
    #[serde(default)]
    required_state: Wire,
    timeline_limit: u64,
    filters: Option<Filters>,
}

#[derive(Debug, Deserialize)]
struct RuleBody {
    #[serde(default)]
    required_state: Wire,
    timeline_limit: u64,
}

/// `SlidingRoomFilter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Filters {
    pub is_dm: Option<bool>,
    pub spaces: Option<BTreeSet<String>>,
    pub is_encrypted: Option<bool>,
    #[serde(alias = "is_invite")]
    pub is_invited: Option<bool>,
    pub room_types: Option<BTreeSet<Option<String>>>,
    pub not_room_types: BTreeSet<Option<String>>,
    pub tags: Option<BTreeSet<String>>,
    pub not_tags: BTreeSet<String>,
}

impl Filters {
    fn values(&self) -> usize {
        let sizes = [
            self.spaces.as_ref().map_or(0, BTreeSet::len),
            self.room_types.as_ref().map_or(0, BTreeSet::len),
            self.not_room_types.len(),
            self.tags.as_ref().map_or(0, BTreeSet::len),
            self.not_tags.len(),
        ];
        sizes.into_iter().max().unwrap_or(0)
    }

    /// Whether the user's tags decide.
    pub fn asks_tags(&self) -> bool {
        self.tags.is_some() || !self.not_tags.is_empty()
    }
}

/// What to tell of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub required_state: RequiredState,
    /// At most [`super::TIMELINE_LIMIT_MAX`].
    pub timeline_limit: u16,
}

/// A list: rooms by their activity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    pub rule: Rule,
    /// First and last index, both inclusive; none is every room.
    pub ranges: Option<Vec<(u64, u64)>>,
    pub filters: Filters,
}

/// The extensions that are known here, each as sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Extensions {
    pub to_device: ToDevice,
    pub e2ee: Extension,
    pub account_data: Extension,
    pub receipts: Extension,
    pub typing: Extension,
}

/// An extension with the rooms that it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Extension {
    pub enabled: Option<bool>,
    /// None is all lists.
    pub lists: Option<Vec<String>>,
    /// None is all subscriptions, as is `*`.
    pub rooms: Option<Vec<String>>,
}

/// The to-device extension.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ToDevice {
    pub enabled: Option<bool>,
    pub since: Option<String>,
}

impl Extension {
    pub fn is_enabled(&self) -> bool {
        self.enabled == Some(true)
    }

    /// Whether it is for a list.
    pub fn is_for_list(&self, name: &str) -> bool {
        let lists = self.lists.as_ref();
        lists.is_none_or(|lists| lists.iter().any(|list| list == name || list == "*"))
    }

    /// Whether it is for a subscribed room.
    pub fn is_for_room(&self, room: &str) -> bool {
        let rooms = self.rooms.as_ref();
        rooms.is_none_or(|rooms| rooms.iter().any(|wanted| wanted == room || wanted == "*"))
    }
}

/// A request, parsed.
#[derive(Clone, Debug)]
pub struct SlidingRequest {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    /// The session that asks: the request ends when it does. None in tests.
    pub access: Option<TokenHash>,
    pub conn_id: String,
    /// None: the client knows nothing yet.
    pub pos: Option<String>,
    /// At most [`super::super::TIMEOUT_MAX`] is waited.
    pub timeout: Duration,
    pub txn_id: Option<String>,
    pub lists: Vec<(String, List)>,
    pub subscriptions: BTreeMap<OwnedRoomId, Rule>,
    pub extensions: Extensions,
    pub dialect: Dialect,
    /// Whether removed state is told: by entries without content, which only
    /// clients of the accepted proposal understand.
    pub tells_removed: bool,
}

impl SlidingRequest {
    /// Checks what was sent. Rooms whose id is none are not there to subscribe to.
    pub fn new(
        user: &UserId,
        device: &ruma::DeviceId,
        dialect: Dialect,
        body: Body,
    ) -> Result<SlidingRequest, RequestError> {
        bounded("lists", body.lists.len(), LISTS_MAX)?;
        bounded(
            "room subscriptions",
            body.room_subscriptions.len(),
            SUBSCRIPTIONS_MAX,
        )?;
        let conn_id = body.conn_id.unwrap_or_default();
        if conn_id.len() > NAME_BYTES_MAX {
            return Err(RequestError::NameTooLong("conn_id"));
        }
        let rules = body.lists.values().map(|list| &list.required_state);
        let rules = rules.chain(
            body.room_subscriptions
                .values()
                .map(|rule| &rule.required_state),
        );
        let tells_removed = dialect == Dialect::Accepted || rules.clone().any(Wire::is_object);
        for rule in rules {
            bounded("patterns of state", rule.len(), PATTERNS_MAX)?;
        }
        let mut lists = Vec::with_capacity(body.lists.len());
        for (name, list) in body.lists {
            if name.len() > NAME_BYTES_MAX {
                return Err(RequestError::NameTooLong("the name of a list"));
            }
            lists.push((name, list_of(list, user)?));
        }
        let mut subscriptions = BTreeMap::new();
        for (room, rule) in body.room_subscriptions {
            if let Ok(room) = OwnedRoomId::try_from(room) {
                let rule = rule_of(rule.required_state, rule.timeline_limit, user);
                subscriptions.insert(room, rule);
            }
        }
        let rules = lists.iter().map(|(_, list)| &list.rule);
        let rules = rules.chain(subscriptions.values());
        let bytes = rules.map(|rule| rule.required_state.bytes()).sum();
        bounded("bytes of patterns of state", bytes, PATTERNS_BYTES_MAX)?;
        Ok(SlidingRequest {
            user: user.to_owned(),
            device: device.to_owned(),
            access: None,
            conn_id,
            pos: body.pos,
            timeout: Duration::from_millis(body.timeout.unwrap_or(0)),
            txn_id: body.txn_id,
            lists,
            subscriptions,
            extensions: body.extensions,
            dialect,
            tells_removed,
        })
    }
}

fn bounded(what: &'static str, found: usize, max: usize) -> Result<(), RequestError> {
    match found <= max {
        true => Ok(()),
        false => Err(RequestError::TooMany { what, max }),
    }
}

fn rule_of(required_state: Wire, timeline_limit: u64, user: &UserId) -> Rule {
    let limit = u16::try_from(timeline_limit).unwrap_or(u16::MAX);
    Rule {
        required_state: required_state.parse(user),
        timeline_limit: limit.min(super::TIMELINE_LIMIT_MAX),
    }
}

fn list_of(list: ListBody, user: &UserId) -> Result<List, RequestError> {
    let ranges = list.ranges.or(list.range.map(|range| vec![range]));
    bounded("ranges", ranges.as_ref().map_or(0, Vec::len), RANGES_MAX)?;
    if ranges.iter().flatten().any(|(first, last)| last < first) {
        return Err(RequestError::Range);
    }
    let filters = list.filters.unwrap_or_default();
    bounded("values in a filter", filters.values(), FILTER_VALUES_MAX)?;
    Ok(List {
        rule: rule_of(list.required_state, list.timeline_limit, user),
        ranges,
        filters,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(body: Value) -> Result<SlidingRequest, RequestError> {
        let body: Body = serde_json::from_value(body).expect("a body");
        let user = ruma::user_id!("@me:here");
        SlidingRequest::new(user, "DEVICE".into(), Dialect::Unstable, body)
    }

    #[test]
    fn both_spellings_are_read() {
        let old = parse(json!({
            "conn_id": "a", "txn_id": "t", "unknown": 1,
            "lists": {"all": {
                "ranges": [[0, 19]], "timeline_limit": 1, "required_state": [["m.room.name", ""]],
                "filters": {"is_invite": true, "not_room_types": ["m.space"], "room_types": [null]},
                "include_heroes": true,
            }},
            "room_subscriptions": {"!r:here": {"timeline_limit": 20}, "nonsense": {"timeline_limit": 1}},
            "extensions": {"typing": {"enabled": true, "lists": ["all"], "rooms": ["*"]}, "x": {}},
        }))
        .expect("fine");
        let new = parse(json!({
            "lists": {"all": {
                "range": [0, 19], "timeline_limit": 1,
                "required_state": {"include": [{"type": "m.room.name", "state_key": ""}]},
                "filters": {"is_invited": true, "not_room_types": ["m.space"], "room_types": [null]},
            }},
        }))
        .expect("fine");
        assert_eq!(old.lists, new.lists);
        assert!(!old.tells_removed && new.tells_removed);
        assert_eq!(old.subscriptions.len(), 1);
        let typing = &old.extensions.typing;
        assert!(typing.is_enabled() && typing.is_for_list("all") && !typing.is_for_list("x"));
        assert!(typing.is_for_room("!any:here"));
        assert!(!old.extensions.receipts.is_enabled());
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let list = json!({"timeline_limit": 1});
        let lists: BTreeMap<String, Value> =
            (0..101).map(|n| (n.to_string(), list.clone())).collect();
        let too_many = |what, max| Some(RequestError::TooMany { what, max });
        assert_eq!(parse(json!({"lists": lists})).err(), too_many("lists", 100));
        let rooms: BTreeMap<String, Value> = (0..101)
            .map(|n| (format!("!{n}:here"), list.clone()))
            .collect();
        let found = parse(json!({"room_subscriptions": rooms})).err();
        assert_eq!(found, too_many("room subscriptions", 100));
        let backward = json!({"lists": {"a": {"ranges": [[5, 4]], "timeline_limit": 1}}});
        assert_eq!(parse(backward).err(), Some(RequestError::Range));
        let long = json!({"conn_id": "x".repeat(256)});
        assert_eq!(
            parse(long).err(),
            Some(RequestError::NameTooLong("conn_id"))
        );
        let rooms: BTreeMap<String, Value> = (0..100)
            .map(|n| {
                let long = "x".repeat(10_000);
                let state = json!([[long, ""]]);
                (
                    format!("!{n}:here"),
                    json!({"timeline_limit": 1, "required_state": state}),
                )
            })
            .collect();
        let found = parse(json!({"room_subscriptions": rooms})).err();
        let too_long = too_many("bytes of patterns of state", PATTERNS_BYTES_MAX);
        assert_eq!(found, too_long);
        let huge = parse(json!({"lists": {"a": {"timeline_limit": 1_000_000}}})).expect("fine");
        assert_eq!(
            huge.lists[0].1.rule.timeline_limit,
            super::super::TIMELINE_LIMIT_MAX
        );
    }
}
