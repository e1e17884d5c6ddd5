//! Rules as clients see them, and the content of `m.push_rules`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::defaults;
use crate::matrix::ids::UserId;

/// The kinds of rules, in the order in which they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Override,
    Content,
    Room,
    Sender,
    Underride,
}

impl Kind {
    pub const ALL: [Kind; 5] = [
        Kind::Override,
        Kind::Content,
        Kind::Room,
        Kind::Sender,
        Kind::Underride,
    ];

    /// Reads the `kind` of a path.
    pub fn parse(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Override => "override",
            Kind::Content => "content",
            Kind::Room => "room",
            Kind::Sender => "sender",
            Kind::Underride => "underride",
        }
    }
}

/// A rule (`PushRule`). Actions and conditions are kept as they were sent, so
/// that what later versions invent comes back to the clients that know it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    pub actions: Vec<Value>,
    /// Of override and underride rules only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Value>>,
    pub default: bool,
    pub enabled: bool,
    /// Of content rules only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    pub rule_id: String,
}

/// All rules of a user, each kind with the most important one first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ruleset {
    #[serde(rename = "override")]
    override_: Vec<Rule>,
    content: Vec<Rule>,
    room: Vec<Rule>,
    sender: Vec<Rule>,
    underride: Vec<Rule>,
}

/// The content of `m.push_rules`.
#[derive(Serialize, Deserialize)]
struct Content<R> {
    global: R,
}

impl Ruleset {
    /// The rules of a user who changed none (*Predefined Rules*).
    pub fn predefined(user: &UserId) -> Ruleset {
        let mut rules = Ruleset::default();
        for (kind, rule) in defaults::rules(user) {
            rules.of_mut(kind).push(rule);
        }
        rules
    }

    /// The rules of a user by the content of their `m.push_rules`, if there is
    /// one. The predefined rules are those of this version, in their places;
    /// what the user changed of them is kept. A content that cannot be read,
    /// which no writer of ours leaves behind, counts as none.
    pub fn of_user(user: &UserId, content: Option<&str>) -> Ruleset {
        let content = content.and_then(|content| serde_json::from_str(content).ok());
        let Some(Content { global: stored }) = content else {
            return Ruleset::predefined(user);
        };
        let mut rules: Ruleset = stored;
        let mut kept = Vec::new();
        for kind in Kind::ALL {
            let of_kind = std::mem::take(rules.of_mut(kind));
            let (old, own): (Vec<Rule>, Vec<Rule>) =
                of_kind.into_iter().partition(|rule| rule.default);
            *rules.of_mut(kind) = own;
            kept.extend(old);
        }
        for (kind, mut rule) in defaults::rules(user) {
            if let Some(old) = kept.iter().find(|old| old.rule_id == rule.rule_id) {
                rule.enabled = old.enabled;
                rule.actions.clone_from(&old.actions);
            }
            let rules = rules.of_mut(kind);
            match rule.rule_id == defaults::MASTER {
                true => rules.insert(0, rule),
                false => rules.push(rule),
            }
        }
        rules
    }

    /// The content of `m.push_rules`, as JSON.
    pub fn content(&self) -> String {
        // Strings, booleans and JSON values have no way to fail.
        serde_json::to_string(&Content { global: self }).unwrap_or_else(|_| "{}".to_owned())
    }

    /// The rules of a kind, the most important one first.
    pub fn of(&self, kind: Kind) -> &[Rule] {
        match kind {
            Kind::Override => &self.override_,
            Kind::Content => &self.content,
            Kind::Room => &self.room,
            Kind::Sender => &self.sender,
            Kind::Underride => &self.underride,
        }
    }

    pub(super) fn of_mut(&mut self, kind: Kind) -> &mut Vec<Rule> {
        match kind {
            Kind::Override => &mut self.override_,
            Kind::Content => &mut self.content,
            Kind::Room => &mut self.room,
            Kind::Sender => &mut self.sender,
            Kind::Underride => &mut self.underride,
        }
    }

    /// All rules in the order in which they are checked.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &Rule)> {
        Kind::ALL
            .into_iter()
            .flat_map(|kind| self.of(kind).iter().map(move |rule| (kind, rule)))
    }

    /// A rule by its kind and id.
    pub fn rule(&self, kind: Kind, rule_id: &str) -> Option<&Rule> {
        self.of(kind).iter().find(|rule| rule.rule_id == rule_id)
    }
}
