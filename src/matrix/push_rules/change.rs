//! Changes of a ruleset by its user (client-server API, *Push Rules: API*).

use serde_json::Value;

use super::condition::check_condition;
use super::defaults;
use super::ruleset::{Kind, Rule, Ruleset};
use crate::limits::{PUSH_RULE_BYTES_MAX, PUSH_RULES_MAX};
use crate::matrix::ids::{RoomId, UserId};

/// Actions of earlier versions (*Historical Actions*): kept as they were written,
/// and ignored where rules are applied.
const HISTORICAL_ACTIONS: [&str; 2] = ["dont_notify", "coalesce"];

/// Why rules were not changed. The texts are fit to be shown to the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("rule ids that start with a dot are those of predefined rules")]
    Reserved,
    #[error("rule ids have no slashes or backslashes and are not empty")]
    RuleId,
    #[error("rule id must be the {0} that the rule is about")]
    Subject(&'static str),
    #[error("before/after rule not found: {0}")]
    UnknownNeighbour(String),
    #[error("the push rule was not found")]
    NotFound,
    #[error("predefined rules can be disabled, not deleted")]
    Predefined,
    /// An action or condition that has not the form that its kind has.
    #[error("{0}")]
    Form(&'static str),
    #[error("a push rule has at most {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error("no more than {max} push rules are kept")]
    TooMany { max: usize },
}

/// A rule as its user writes it.
#[derive(Clone, Debug)]
pub struct NewRule {
    pub kind: Kind,
    pub rule_id: String,
    pub actions: Vec<Value>,
    /// Read for override and underride rules only.
    pub conditions: Option<Vec<Value>>,
    /// Read for content rules only.
    pub pattern: Option<String>,
}

/// Where a rule is put among those of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// A new rule becomes the most important one of the user's; one that is
    /// there stays where it is.
    Unsaid,
    /// The next more important one to this rule of the user's.
    Before(String),
    /// The next less important one to it.
    After(String),
}

impl NewRule {
    /// Checks what can be checked without the other rules.
    ///
    /// Errors: `Reserved`, `RuleId`, `Subject`, `Form`, `TooLarge`.
    fn checked(self) -> Result<Rule, RuleError> {
        let id = &self.rule_id;
        if id.starts_with('.') {
            return Err(RuleError::Reserved);
        }
        if id.is_empty() || id.contains(['/', '\\']) {
            return Err(RuleError::RuleId);
        }
        match self.kind {
            Kind::Room if <&RoomId>::try_from(id.as_str()).is_err() => {
                return Err(RuleError::Subject("room"));
            }
            Kind::Sender if <&UserId>::try_from(id.as_str()).is_err() => {
                return Err(RuleError::Subject("user"));
            }
            _ => {}
        }
        let (conditions, pattern) = match self.kind {
            Kind::Override | Kind::Underride => (Some(self.conditions.unwrap_or_default()), None),
            Kind::Content => {
                let pattern = self
                    .pattern
                    .ok_or(RuleError::Form("content rules have a pattern"))?;
                (None, Some(pattern))
            }
            Kind::Room | Kind::Sender => (None, None),
        };
        for condition in conditions.iter().flatten() {
            check_condition(condition).map_err(RuleError::Form)?;
        }
        let rule = Rule {
            actions: checked_actions(self.actions)?,
            conditions,
            default: false,
            enabled: true,
            pattern,
            rule_id: self.rule_id,
        };
        within_size(rule)
    }
}

/// Clients and gateways agree on tweaks among themselves; other actions there are
/// none.
fn checked_actions(actions: Vec<Value>) -> Result<Vec<Value>, RuleError> {
    let is_known = |action: &Value| match action {
        Value::String(action) => {
            action == "notify" || HISTORICAL_ACTIONS.contains(&action.as_str())
        }
        Value::Object(action) => action.get("set_tweak").is_some_and(Value::is_string),
        _ => false,
    };
    match actions.iter().all(is_known) {
        true => Ok(actions),
        false => Err(RuleError::Form("actions are notify and set_tweak")),
    }
}

fn within_size(rule: Rule) -> Result<Rule, RuleError> {
    let max_bytes = PUSH_RULE_BYTES_MAX;
    match serde_json::to_string(&rule) {
        Ok(json) if json.len() <= max_bytes => Ok(rule),
        _ => Err(RuleError::TooLarge { max_bytes }),
    }
}

impl Ruleset {
    /// Adds a rule, or gives the one with its kind and id other parameters; that
    /// one stays enabled or disabled as it is.
    ///
    /// Errors: all but `NotFound` and `Predefined`. Changes nothing then.
    pub fn put(&mut self, new: NewRule, position: &Position) -> Result<(), RuleError> {
        let kind = new.kind;
        let mut rule = new.checked()?;
        let old = self
            .of(kind)
            .iter()
            .position(|old| old.rule_id == rule.rule_id);
        if old.is_none() && self.iter().count() >= PUSH_RULES_MAX {
            return Err(RuleError::TooMany {
                max: PUSH_RULES_MAX,
            });
        }
        let neighbour = match position {
            Position::Unsaid => None,
            Position::Before(id) => Some((id, 0)),
            Position::After(id) => Some((id, 1)),
        };
        if let Some((id, _)) = neighbour {
            let found = self.rule(kind, id).filter(|found| !found.default);
            if found.is_none() || *id == rule.rule_id {
                return Err(RuleError::UnknownNeighbour(id.clone()));
            }
        }
        let rules = self.of_mut(kind);
        if let Some(old) = old {
            rule.enabled = rules.remove(old).enabled;
        }
        let beside = |(id, behind): (&String, usize)| {
            let at = rules.iter().position(|rule| rule.rule_id == *id)?;
            Some(at + behind)
        };
        // The master rule comes before those of the user.
        let first = rules
            .iter()
            .take_while(|rule| rule.rule_id == defaults::MASTER)
            .count();
        let at = neighbour.and_then(beside).or(old).unwrap_or(first);
        rules.insert(at, rule);
        Ok(())
    }

    /// Takes a rule of the user's away.
    ///
    /// Errors: `NotFound`, `Predefined`.
    pub fn remove(&mut self, kind: Kind, rule_id: &str) -> Result<(), RuleError> {
        let found = self.rule(kind, rule_id).ok_or(RuleError::NotFound)?;
        if found.default {
            return Err(RuleError::Predefined);
        }
        self.of_mut(kind).retain(|rule| rule.rule_id != rule_id);
        Ok(())
    }

    /// Enables or disables a rule. Errors: `NotFound`.
    pub fn set_enabled(&mut self, kind: Kind, id: &str, enabled: bool) -> Result<(), RuleError> {
        let rule = self.of_mut(kind).iter_mut().find(|rule| rule.rule_id == id);
        rule.ok_or(RuleError::NotFound)?.enabled = enabled;
        Ok(())
    }

    /// Gives a rule, predefined or not, other actions.
    ///
    /// Errors: `NotFound`, `Form`, `TooLarge`.
    pub fn set_actions(
        &mut self,
        kind: Kind,
        id: &str,
        actions: Vec<Value>,
    ) -> Result<(), RuleError> {
        let rule = self.of_mut(kind).iter_mut().find(|rule| rule.rule_id == id);
        let rule = rule.ok_or(RuleError::NotFound)?;
        *rule = within_size(Rule {
            actions: checked_actions(actions)?,
            ..rule.clone()
        })?;
        Ok(())
    }

    /// Copies the rule about one room to another, unless that has one already;
    /// whether it did.
    pub fn copy_room_rule(&mut self, old: &RoomId, new: &RoomId) -> bool {
        let rules = self.of_mut(Kind::Room);
        let known = |room: &RoomId| rules.iter().position(|rule| rule.rule_id == room.as_str());
        let (Some(at), None) = (known(old), known(new)) else {
            return false;
        };
        if rules.len() >= PUSH_RULES_MAX {
            return false;
        }
        let copy = rules.get(at).cloned().map(|rule| Rule {
            rule_id: new.to_string(),
            ..rule
        });
        rules.splice(at..at, copy);
        true
    }
}
