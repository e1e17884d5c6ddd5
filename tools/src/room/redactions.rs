//! Which redactions took effect: *output* holds every accepted one, also those
//! of users who may not redact the event.
//!
//! The room server asks the state before the redaction. *Output* does not hold
//! that at forks, so both the power levels in force and those that the redaction
//! names among its auth events are asked, and either suffices: in doubt, content
//! is withheld.
//!
//! Source: room version 3, *Handling redactions*. In versions 1 and 2 the auth
//! rules decide, and what they allowed takes effect.

use std::collections::{HashMap, HashSet};

use log_format::codec;
use log_format::record::output::{Decision, OutputRoomEvent, OutputRoomState, StateChange};
use log_format::record::{Envelope, Kind};
use serde_json::Value;

const POWER_LEVELS: &str = "m.room.power_levels";
const CREATE: &str = "m.room.create";
const REDACT_DEFAULT: i64 = 50;
/// From this room version on creators stand above every level.
const CREATORS_RULE_FROM: u32 = 12;

/// An accepted redaction of an event of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Redaction {
    event_id: String,
    sender: String,
    /// Whether its sender could redact the events of others at that point.
    has_power: bool,
}

/// Gathers redactions while a room's records pass by, oldest first.
#[derive(Default)]
pub struct Redactions {
    by_target: HashMap<String, Vec<Redaction>>,
    /// What power levels events say, by event id: the skeleton's content, which
    /// keeps all that counts here.
    levels: HashMap<String, Value>,
    /// Event id of the power levels in force.
    in_force: Option<String>,
    creators: Vec<String>,
}

impl Redactions {
    /// Takes note of a record; `wanted` are the events whose redactions matter.
    pub fn note(&mut self, envelope: &Envelope<'_>, wanted: &HashSet<&str>) {
        match envelope.kind {
            Kind::OutputRoomState => {
                if let Ok(part) = codec::decode::<OutputRoomState>(envelope.body) {
                    self.follow(&part.state_delta);
                }
            }
            Kind::OutputRoomEvent => {
                if let Ok(decision) = codec::decode::<OutputRoomEvent>(envelope.body) {
                    self.note_event(envelope, &decision, wanted);
                    self.follow(&decision.state_delta);
                }
            }
            _ => {}
        }
    }

    fn follow(&mut self, delta: &[StateChange]) {
        let found = delta
            .iter()
            .find(|change| change.kind == POWER_LEVELS && change.state_key.is_empty());
        if let Some(change) = found {
            self.in_force = change.to.clone();
        }
    }

    fn note_event(
        &mut self,
        envelope: &Envelope<'_>,
        decision: &OutputRoomEvent,
        wanted: &HashSet<&str>,
    ) {
        let (Some(event_id), Some(sender)) = (envelope.event_id, envelope.sender) else {
            return;
        };
        let event = || -> Option<Value> { serde_json::from_slice(envelope.skeleton.bytes()?).ok() };
        let content = || event()?.get("content").cloned();
        match (envelope.event_type, envelope.state_key) {
            (Some(POWER_LEVELS), Some("")) => {
                self.levels
                    .extend(content().map(|content| (event_id.to_owned(), content)));
            }
            (Some(CREATE), Some("")) => {
                let more = content().unwrap_or_default();
                let more = more["additional_creators"].as_array();
                let more = more.into_iter().flatten().filter_map(Value::as_str);
                self.creators = std::iter::once(sender)
                    .chain(more)
                    .map(str::to_owned)
                    .collect();
            }
            _ => {}
        }
        let target = decision.redacts.as_deref().filter(|_| {
            decision.decision == Decision::Accepted
                && envelope.event_type == Some("m.room.redaction")
        });
        if let Some(target) = target.filter(|target| wanted.contains(target)) {
            let version = envelope.room_version.unwrap_or("1");
            let event = event().unwrap_or_default();
            let named = event["auth_events"].as_array();
            let named = named.into_iter().flatten().filter_map(Value::as_str);
            let mut levels = self.in_force.as_deref().into_iter().chain(named);
            let redaction = Redaction {
                event_id: event_id.to_owned(),
                sender: sender.to_owned(),
                has_power: self.may_anyway(sender, version)
                    || levels.any(|levels| self.may_under(sender, levels)),
            };
            let known = self.by_target.entry(target.to_owned()).or_default();
            known.push(redaction);
        }
    }

    /// Whether a user may redact the events of others under a power levels event.
    fn may_under(&self, user: &str, event_id: &str) -> bool {
        let Some(levels) = self.levels.get(event_id) else {
            return false;
        };
        let own = level(&levels["users"][user]).or_else(|| level(&levels["users_default"]));
        own.unwrap_or(0) >= level(&levels["redact"]).unwrap_or(REDACT_DEFAULT)
    }

    /// Whether a user may redact the events of others whatever the power levels
    /// say, or because there are none.
    fn may_anyway(&self, user: &str, version: &str) -> bool {
        let creator = self.creators.iter().position(|creator| creator == user);
        let is_above_all = creator.is_some() && creators_are_above_all(version);
        // Without power levels the creator has 100, and a redaction needs 50.
        let is_alone = creator == Some(0) && self.in_force.is_none();
        matches!(version, "1" | "2") || is_above_all || is_alone
    }

    /// The redaction that took effect on an event of this sender, if one did.
    pub fn of(&self, event_id: &str, sender: &str) -> Option<&str> {
        let all = self.by_target.get(event_id)?;
        let found = all
            .iter()
            .find(|one| one.has_power || server(&one.sender) == server(sender));
        found.map(|redaction| redaction.event_id.as_str())
    }
}

/// Whether creators stand above every power level in a room version.
pub fn creators_are_above_all(version: &str) -> bool {
    version
        .parse::<u32>()
        .is_ok_and(|number| number >= CREATORS_RULE_FROM)
}

/// A level as power levels write it; before version 10 also as text.
fn level(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_str()?.trim().parse().ok())
}

fn server(user: &str) -> Option<&str> {
    user.split_once(':').map(|(_, server)| server)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with_levels(levels: Option<Value>) -> Redactions {
        let mut redactions = Redactions {
            creators: vec!["@a:x".to_owned(), "@b:x".to_owned()],
            ..Redactions::default()
        };
        if let Some(levels) = levels {
            redactions.levels.insert("$levels".to_owned(), levels);
            redactions.in_force = Some("$levels".to_owned());
        }
        redactions
    }

    #[test]
    fn who_may_redact_others() {
        let none = with_levels(None);
        assert!(none.may_anyway("@a:x", "11"));
        assert!(!none.may_anyway("@b:x", "11"), "only version 12 knows more");
        assert!(none.may_anyway("@b:x", "12"));
        assert!(none.may_anyway("@c:x", "2"), "the auth rules decided");
        let levels = json!({ "users": { "@c:x": 60, "@d:x": "70" }, "users_default": 10 });
        let levels = with_levels(Some(levels));
        assert!(levels.may_under("@c:x", "$levels"));
        assert!(levels.may_under("@d:x", "$levels"), "a level as text");
        assert!(!levels.may_under("@c:x", "$other"));
        assert!(!levels.may_under("@a:x", "$levels"));
        assert!(!levels.may_anyway("@a:x", "11"), "levels bind the creator");
        let open = with_levels(Some(json!({ "users_default": 10, "redact": 10 })));
        assert!(open.may_under("@anybody:x", "$levels"));
    }
}
