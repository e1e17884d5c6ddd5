//! Rulesets, compiled: what of them can match, in order, without the user's id.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use serde_json::Value;

use super::condition::{Condition, Path, Scalar};
use super::glob::Words;
use super::judge::Verdict;
use super::ruleset::{Kind, Rule, Ruleset};
use crate::matrix::ids::UserId;

/// The enabled rules of a user in the order in which they are checked. Two
/// users with the same rules have equal ones, as far as rules name their users.
#[derive(Debug, PartialEq, Eq)]
pub struct Rules {
    pub(super) rules: Box<[CompiledRule]>,
    /// Of the rules, so that sets of rules are told apart at a look.
    hash: u64,
}

impl Hash for Rules {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct CompiledRule {
    pub conditions: Box<[Condition]>,
    pub verdict: Verdict,
    /// As JSON.
    pub actions: Box<str>,
}

impl Rules {
    pub fn compile(ruleset: &Ruleset, user: &UserId) -> Rules {
        let enabled = ruleset.iter().filter(|(_, rule)| rule.enabled);
        let rules: Box<[CompiledRule]> = enabled
            .map(|(kind, rule)| CompiledRule::compile(kind, rule, user))
            .collect();
        let mut hasher = DefaultHasher::new();
        rules.hash(&mut hasher);
        Rules {
            rules,
            hash: hasher.finish(),
        }
    }
}

impl CompiledRule {
    fn compile(kind: Kind, rule: &Rule, user: &UserId) -> CompiledRule {
        let property_is_id = |key: &str| {
            let id = Scalar::Text(rule.rule_id.as_str().into());
            vec![Condition::Is(Path::parse(key), id)]
        };
        let conditions = match kind {
            Kind::Override | Kind::Underride => {
                let conditions = rule.conditions.iter().flatten();
                conditions
                    .map(|condition| Condition::compile(condition, user))
                    .collect()
            }
            Kind::Content => match &rule.pattern {
                Some(pattern) => vec![Condition::Says(Words::new(pattern))],
                None => vec![Condition::Never],
            },
            Kind::Room => property_is_id("room_id"),
            Kind::Sender => property_is_id("sender"),
        };
        CompiledRule {
            conditions: conditions.into(),
            verdict: Verdict::of(&rule.actions),
            actions: Value::from(rule.actions.clone()).to_string().into(),
        }
    }
}
