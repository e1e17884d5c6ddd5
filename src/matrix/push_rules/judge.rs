//! What rules say of an event: once for all who have the same, then for each.

use serde_json::Value;

use super::compile::Rules;
use super::condition::Answer;
use super::event::{PushEvent, PushRoom};
use super::glob::Effort;
use crate::matrix::ids::UserId;

/// What an event means to one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// Counts as a notification, and is pushed.
    pub notify: bool,
    /// Counts as a highlight too. Only what notifies does.
    pub highlight: bool,
}

impl Verdict {
    /// By the actions of the rule that applies.
    pub(super) fn of(actions: &[Value]) -> Verdict {
        let notify = actions.iter().any(|action| action == "notify");
        let is_highlight = |action: &Value| {
            action
                .get("set_tweak")
                .is_some_and(|tweak| tweak == "highlight")
                && action.get("value").is_none_or(|value| *value == true)
        };
        Verdict {
            notify,
            highlight: notify && actions.iter().any(is_highlight),
        }
    }
}

/// For whom rules are asked.
pub struct Reader<'a> {
    pub user: &'a UserId,
    /// Their name in the room; asked for only where a rule is about it.
    pub display_name: &'a dyn Fn() -> String,
}

/// What a set of rules says of one event, as far as it is the same for all: the
/// rules that may apply, with the conditions that depend on the user. The last
/// of them has none, or none applies.
#[derive(Debug)]
pub struct Plan {
    steps: Box<[Step]>,
}

#[derive(Debug)]
struct Step {
    /// Index of the rule.
    rule: usize,
    /// Indices of its conditions that ask for the user.
    asks: Box<[usize]>,
}

impl Rules {
    /// Asks all conditions that are the same for all users.
    pub fn plan(&self, event: &PushEvent, room: &PushRoom) -> Plan {
        let effort = Effort::default();
        let mut steps = Vec::new();
        'rules: for (rule, compiled) in self.rules.iter().enumerate() {
            let mut asks = Vec::new();
            for (index, condition) in compiled.conditions.iter().enumerate() {
                match condition.answer(event, room, &effort) {
                    Answer::Holds => {}
                    Answer::Fails => continue 'rules,
                    Answer::Asks => asks.push(index),
                }
            }
            let is_last = asks.is_empty();
            steps.push(Step {
                rule,
                asks: asks.into(),
            });
            if is_last {
                break;
            }
        }
        Plan {
            steps: steps.into(),
        }
    }

    /// What an event means to a user with these rules, by the plan that they made
    /// for it. A user's own events mean nothing to them.
    pub fn verdict(&self, plan: &Plan, event: &PushEvent, reader: &Reader<'_>) -> Verdict {
        let applies = self.applies(plan, event, reader);
        let rule = applies.and_then(|rule| self.rules.get(rule));
        rule.map(|rule| rule.verdict).unwrap_or_default()
    }

    /// The actions of the rule that applies, as JSON; none if none does.
    pub fn actions(&self, plan: &Plan, event: &PushEvent, reader: &Reader<'_>) -> Option<&str> {
        let rule = self.rules.get(self.applies(plan, event, reader)?)?;
        Some(&rule.actions)
    }

    fn applies(&self, plan: &Plan, event: &PushEvent, reader: &Reader<'_>) -> Option<usize> {
        if event.sender() == reader.user {
            return None;
        }
        let holds = |step: &&Step| {
            let conditions = self.rules.get(step.rule).map(|rule| &rule.conditions);
            step.asks.iter().all(|index| {
                let condition = conditions.and_then(|conditions| conditions.get(*index));
                condition.is_some_and(|condition| {
                    condition.holds_for(event, reader.user, reader.display_name)
                })
            })
        };
        plan.steps.iter().find(holds).map(|step| step.rule)
    }
}
