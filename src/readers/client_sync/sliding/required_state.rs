//! Which state of a room a client wants (MSC4186, `RequiredStateRequest`).
//!
//! Pure: patterns and what they match. Both spellings are read, that of the
//! proposal and the pairs which clients sent before it was accepted.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};
use ruma::UserId;
use serde::Deserialize;

use crate::query::rooms::StateKey;

const MEMBER: &str = "m.room.member";

/// Patterns of one rule, `include` and `exclude` together; clients send some twenty.
pub const PATTERNS_MAX: usize = 500;

/// Roughly what a pattern takes beside its texts, in bytes.
const PATTERN_BYTES: usize = 64;

/// A pattern of state entries; none matches everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Pattern {
    kind: Option<String>,
    state_key: Option<String>,
}

impl Pattern {
    fn bytes(&self) -> usize {
        let texts = [&self.kind, &self.state_key];
        let texts = texts
            .iter()
            .map(|text| text.as_ref().map_or(0, String::len));
        PATTERN_BYTES + texts.sum::<usize>()
    }

    fn matches(&self, kind: &str, state_key: &str) -> bool {
        self.kind.as_deref().is_none_or(|wanted| wanted == kind)
            && self
                .state_key
                .as_deref()
                .is_none_or(|wanted| wanted == state_key)
    }
}

/// What one rule asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct RequiredState {
    include: BTreeSet<Pattern>,
    exclude: BTreeSet<Pattern>,
    /// Members come as the timeline needs them; patterns that would match all
    /// of them match none.
    lazy_members: bool,
}

impl RequiredState {
    /// Roughly what it takes in memory.
    pub fn bytes(&self) -> usize {
        let patterns = self.include.iter().chain(&self.exclude);
        patterns.map(Pattern::bytes).sum()
    }

    fn matches(&self, kind: &str, state_key: &str) -> bool {
        let includes = |pattern: &Pattern| {
            let is_for_all = pattern.state_key.is_none();
            !(self.lazy_members && kind == MEMBER && is_for_all) && pattern.matches(kind, state_key)
        };
        self.include.iter().any(includes)
            && !self
                .exclude
                .iter()
                .any(|pattern| pattern.matches(kind, state_key))
    }

    fn has_all_members(&self) -> bool {
        let is_for_all = |pattern: &Pattern| {
            pattern.state_key.is_none() && pattern.kind.as_deref().is_none_or(|kind| kind == MEMBER)
        };
        !self.lazy_members && self.exclude.is_empty() && self.include.iter().any(is_for_all)
    }
}

/// What all rules that match a room ask for, together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Wanted {
    rules: BTreeSet<RequiredState>,
    lazy_members: bool,
}

impl Wanted {
    /// The superset of several rules (MSC4186, *Combining required_state*).
    pub fn combine<'a>(rules: impl Iterator<Item = &'a RequiredState>) -> Wanted {
        let rules: BTreeSet<RequiredState> = rules.cloned().collect();
        let lazy_members = rules.iter().any(|rule| rule.lazy_members)
            && !rules.iter().any(RequiredState::has_all_members);
        Wanted {
            rules,
            lazy_members,
        }
    }

    /// Roughly what it takes in memory.
    pub fn bytes(&self) -> usize {
        self.rules.iter().map(RequiredState::bytes).sum()
    }

    /// Whether an entry is wanted whatever the timeline shows.
    pub fn matches(&self, kind: &str, state_key: &str) -> bool {
        self.rules.iter().any(|rule| rule.matches(kind, state_key))
    }

    /// Whether everything that `other` wants is wanted here, as far as their
    /// rules tell without a look at the state.
    pub fn covers(&self, other: &Wanted) -> bool {
        other.rules.is_subset(&self.rules)
    }

    /// Whether members come as the timeline needs them.
    pub fn lazy_members(&self) -> bool {
        self.lazy_members
    }

    /// Where entries that match are to be looked for; none if anywhere.
    pub fn places(&self) -> Option<Places<'_>> {
        let mut places = Places::default();
        for pattern in self.rules.iter().flat_map(|rule| &rule.include) {
            match (pattern.kind.as_deref(), pattern.state_key.as_deref()) {
                (Some(kind), Some(state_key)) => {
                    places.keys.insert(StateKey::new(kind, state_key));
                }
                (Some(kind), None) => {
                    places.kinds.insert(kind);
                }
                (None, _) => return None,
            }
        }
        Some(places)
    }
}

/// See [`Wanted::places`]. Whether what is there matches is another question.
#[derive(Debug, Default)]
pub struct Places<'a> {
    pub keys: BTreeSet<StateKey>,
    /// Types of which any entry may match.
    pub kinds: BTreeSet<&'a str>,
}

/// A rule's `required_state` as it is sent.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Wire {
    /// `[type, state_key]`, with `*`, `$ME` and `$LAZY`.
    Pairs(Vec<(String, String)>),
    Object(WireObject),
}

/// `RequiredStateRequest`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WireObject {
    include: Vec<WireElement>,
    exclude: Vec<WireElement>,
    lazy_members: bool,
}

/// `RequiredStateElement`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireElement {
    #[serde(rename = "type")]
    kind: Option<String>,
    state_key: Option<String>,
}

impl From<WireElement> for Pattern {
    fn from(element: WireElement) -> Pattern {
        Pattern {
            kind: element.kind,
            state_key: element.state_key,
        }
    }
}

impl Default for Wire {
    fn default() -> Wire {
        Wire::Pairs(Vec::new())
    }
}

impl Wire {
    /// How many patterns there are.
    pub fn len(&self) -> usize {
        match self {
            Wire::Pairs(pairs) => pairs.len(),
            Wire::Object(object) => object.include.len() + object.exclude.len(),
        }
    }

    /// Whether it is spelled as the accepted proposal has it, so that the client
    /// knows what a removed entry looks like.
    pub fn is_object(&self) -> bool {
        matches!(self, Wire::Object(_))
    }

    /// The patterns, as asked by this user.
    pub fn parse(self, user: &UserId) -> RequiredState {
        match self {
            Wire::Object(object) => RequiredState {
                include: object.include.into_iter().map(Pattern::from).collect(),
                exclude: object.exclude.into_iter().map(Pattern::from).collect(),
                lazy_members: object.lazy_members,
            },
            Wire::Pairs(pairs) => from_pairs(pairs, user),
        }
    }
}

fn from_pairs(pairs: Vec<(String, String)>, user: &UserId) -> RequiredState {
    let mut required = RequiredState::default();
    let (mut lazy, mut all_members) = (false, false);
    for (kind, state_key) in pairs {
        let is_member = kind == MEMBER;
        if is_member && state_key == "$LAZY" {
            lazy = true;
            continue;
        }
        let pattern = Pattern {
            kind: (kind != "*").then_some(kind),
            state_key: match &*state_key {
                "*" => None,
                "$ME" => Some(user.to_string()),
                _ => Some(state_key),
            },
        };
        all_members |= is_member && pattern.state_key.is_none();
        required.include.insert(pattern);
    }
    required.lazy_members = lazy && !all_members;
    required
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ME: &str = "@me:here";

    fn parse(json: Value) -> RequiredState {
        let wire: Wire = serde_json::from_value(json).expect("a required_state");
        wire.parse(<&UserId>::try_from(ME).expect("a user id"))
    }

    fn wanted(json: Value) -> Wanted {
        Wanted::combine([parse(json)].iter())
    }

    #[test]
    fn pairs_match_exactly_or_by_their_special_values() {
        let some = wanted(json!([
            ["m.room.name", ""],
            ["m.space.child", "*"],
            ["*", "x"]
        ]));
        assert!(some.matches("m.room.name", ""));
        assert!(!some.matches("m.room.name", "a"));
        assert!(some.matches("m.space.child", "!any:here"));
        assert!(some.matches("x.any", "x"));
        assert!(!some.lazy_members());
        assert!(some.places().is_none());
        let own = wanted(json!([
            ["m.room.member", "$ME"],
            ["m.room.member", "$LAZY"]
        ]));
        assert!(own.matches(MEMBER, ME));
        assert!(!own.matches(MEMBER, "@you:here"));
        assert!(own.lazy_members());
        let places = own.places().expect("types are named");
        assert_eq!(places.keys, BTreeSet::from([StateKey::new(MEMBER, ME)]));
        assert!(places.kinds.is_empty());
        // All members are all members.
        let all = wanted(json!([["m.room.member", "*"], ["m.room.member", "$LAZY"]]));
        assert!(all.matches(MEMBER, "@you:here") && !all.lazy_members());
    }

    #[test]
    fn objects_include_and_exclude() {
        let all_but_one = wanted(json!({
            "include": [{}], "exclude": [{"type": "m.room.create", "state_key": ""}],
        }));
        assert!(all_but_one.matches("m.room.name", ""));
        assert!(!all_but_one.matches("m.room.create", ""));
        assert!(all_but_one.matches(MEMBER, "@you:here"));
        let lazy = wanted(json!({
            "include": [{}, {"type": MEMBER, "state_key": ME}], "lazy_members": true,
        }));
        assert!(lazy.matches("m.room.name", "") && lazy.matches(MEMBER, ME));
        assert!(!lazy.matches(MEMBER, "@you:here"));
        let by_key = wanted(json!({"include": [{"state_key": "a"}]}));
        assert!(by_key.matches("x.any", "a") && !by_key.matches("x.any", "b"));
        assert!(!wanted(json!({})).matches("m.room.name", ""));
    }

    #[test]
    fn rules_combine_to_their_superset() {
        let lazy = parse(json!({"include": [{}], "lazy_members": true}));
        let name = parse(json!([["m.room.name", ""]]));
        let both = Wanted::combine([&lazy, &name].into_iter());
        assert!(both.lazy_members() && both.matches("m.room.topic", ""));
        let all = parse(json!({"include": [{"type": MEMBER}]}));
        let with_all = Wanted::combine([&lazy, &all].into_iter());
        assert!(!with_all.lazy_members() && with_all.matches(MEMBER, "@you:here"));
        // What one rule leaves out another may bring in.
        let but_name = parse(json!({"include": [{}], "exclude": [{"type": "m.room.name"}]}));
        assert!(!Wanted::combine([&but_name].into_iter()).matches("m.room.name", ""));
        assert!(Wanted::combine([&but_name, &name].into_iter()).matches("m.room.name", ""));
    }
}
