//! What an operator asks first about a state: who is in, who may what.

use std::collections::BTreeMap;

use log_format::record::output::Membership;
use serde_json::{Value, json};

use super::contents::{Contents, Told};
use super::fold::{MEMBER, RoomFold};
use super::redactions::creators_are_above_all;
use crate::error::ToolError;

/// Members that are named one by one; further ones are counted.
pub const NAMED_MAX: usize = 50;

const MEMBERSHIPS: [Membership; 5] = [
    Membership::Join,
    Membership::Invite,
    Membership::Knock,
    Membership::Leave,
    Membership::Ban,
];

/// Users with one membership.
#[derive(Default)]
pub struct Members {
    pub count: u64,
    /// The first by user id, at most [`NAMED_MAX`].
    pub first: Vec<String>,
}

/// The facts of a state. A fact that no event states is `None`.
pub struct Summary {
    pub room_version: Option<String>,
    pub creator: Option<String>,
    /// By the specification's word; `unknown` where the log does not tell.
    pub members: BTreeMap<&'static str, Members>,
    /// Users above every level: the creators, from room version 12 on.
    pub unlimited: Vec<String>,
    /// Content of the power levels event.
    pub power_levels: Option<Value>,
    pub join_rule: Option<String>,
    pub history_visibility: Option<String>,
    pub name: Option<String>,
    pub topic: Option<String>,
}

impl Summary {
    /// Reads the few events that it takes.
    pub fn of(fold: &RoomFold, contents: &Contents<'_>) -> Result<Summary, ToolError> {
        let event = |kind: &str| -> Result<Option<Told>, ToolError> {
            let entry = fold.state.get(&(kind.into(), "".into()));
            entry.map(|entry| contents.of(entry)).transpose()
        };
        let text = |kind: &str, field: &str| -> Result<Option<String>, ToolError> {
            let told = event(kind)?;
            Ok(told.and_then(|told| told.content[field].as_str().map(str::to_owned)))
        };
        let create = event("m.room.create")?;
        let room_version = create.as_ref().map(|told| {
            let version = told.content["room_version"].as_str();
            // A create event that does not say is of the first version.
            let version = version.or(told.room_version.as_deref());
            version.unwrap_or("1").to_owned()
        });
        let unlimited = match (&create, &room_version) {
            (Some(create), Some(version)) if creators_are_above_all(version) => {
                let more = create.content["additional_creators"].as_array();
                let more = more.into_iter().flatten().filter_map(Value::as_str);
                let first = create.sender.as_deref();
                first.into_iter().chain(more).map(str::to_owned).collect()
            }
            _ => vec![],
        };
        Ok(Summary {
            room_version,
            unlimited,
            members: members(fold),
            power_levels: event("m.room.power_levels")?.map(|told| told.content),
            join_rule: text("m.room.join_rules", "join_rule")?,
            history_visibility: text("m.room.history_visibility", "history_visibility")?,
            name: text("m.room.name", "name")?,
            topic: text("m.room.topic", "topic")?,
            creator: create.and_then(|told| told.sender),
        })
    }

    /// The summary's fields of `state --json`.
    pub fn to_json(&self) -> Value {
        let members: serde_json::Map<String, Value> = self
            .members
            .iter()
            .map(|(word, members)| {
                let value = json!({ "count": members.count, "first": members.first });
                ((*word).to_owned(), value)
            })
            .collect();
        json!({
            "room_version": self.room_version,
            "creator": self.creator,
            "unlimited_power": self.unlimited,
            "members": members,
            "power_levels": self.power_levels,
            "join_rule": self.join_rule,
            "history_visibility": self.history_visibility,
            "name": self.name,
            "topic": self.topic,
        })
    }
}

fn members(fold: &RoomFold) -> BTreeMap<&'static str, Members> {
    let mut members: BTreeMap<&'static str, Members> = BTreeMap::new();
    let range = (MEMBER.into(), "".into())..;
    let entries = fold.state.range(range);
    for (key, entry) in entries.take_while(|(key, _)| &*key.0 == MEMBER) {
        let word = entry.membership.map_or("unknown", Membership::as_str);
        let found = members.entry(word).or_default();
        found.count += 1;
        if found.first.len() < NAMED_MAX {
            found.first.push(key.1.to_string());
        }
    }
    members
}

/// The words in the order in which people ask for them, `unknown` last.
pub fn words() -> impl Iterator<Item = &'static str> {
    let known = MEMBERSHIPS.into_iter().map(Membership::as_str);
    known.chain(["unknown"])
}
