//! How users change their rules: where a rule is put, what is no rule, how many
//! there may be, and what is stored of them.

use serde_json::{Value, json};

use super::{ids, predefined, rule, user, with_conditions};
use crate::limits::{PUSH_RULE_BYTES_MAX, PUSH_RULES_MAX};
use crate::matrix::push_rules::{Kind, Position, Rule, RuleError, Ruleset};

#[test]
fn rules_are_put_where_they_are_asked_to_be() {
    let mut rules = predefined();
    let mut put = |id: &str, position: Position, expected: &[&str]| {
        let new = rule(Kind::Override, id, json!(["notify"]));
        rules.put(new, &position).expect("is taken");
        let known = ids(&rules, Kind::Override);
        assert_eq!(known[0], ".m.rule.master");
        assert_eq!(&known[1..=expected.len()], expected);
        assert_eq!(known[expected.len() + 1], ".m.rule.suppress_notices");
    };
    put("a", Position::Unsaid, &["a"]);
    put("b", Position::Unsaid, &["b", "a"]);
    put("c", Position::Before("a".into()), &["b", "c", "a"]);
    put("d", Position::After("a".into()), &["b", "c", "a", "d"]);
    // An update stays, unless it is to move.
    put("c", Position::Unsaid, &["b", "c", "a", "d"]);
    put("d", Position::Before("b".into()), &["d", "b", "c", "a"]);
    put("d", Position::After("c".into()), &["b", "c", "d", "a"]);
}

#[test]
fn what_is_no_rule_is_refused() {
    let mut rules = predefined();
    let known = rule(Kind::Override, "known", json!(["notify"]));
    rules.put(known, &Position::Unsaid).expect("is taken");
    let before = rules.clone();
    let new = |id: &str| rule(Kind::Override, id, json!(["notify"]));
    let long = "x".repeat(PUSH_RULE_BYTES_MAX);
    for (new, position, error) in [
        (new(".mine"), Position::Unsaid, RuleError::Reserved),
        (new(".m.rule.master"), Position::Unsaid, RuleError::Reserved),
        (new(""), Position::Unsaid, RuleError::RuleId),
        (new("a/b"), Position::Unsaid, RuleError::RuleId),
        (new(r"a\b"), Position::Unsaid, RuleError::RuleId),
        (
            rule(Kind::Room, "room", json!([])),
            Position::Unsaid,
            RuleError::Subject("room"),
        ),
        (
            rule(Kind::Sender, "!r:hs", json!([])),
            Position::Unsaid,
            RuleError::Subject("user"),
        ),
        (
            new("a"),
            Position::Before("b".into()),
            RuleError::UnknownNeighbour("b".into()),
        ),
        (
            new("a"),
            Position::After(".m.rule.master".into()),
            RuleError::UnknownNeighbour(".m.rule.master".into()),
        ),
        (
            new("known"),
            Position::After("known".into()),
            RuleError::UnknownNeighbour("known".into()),
        ),
        (
            new(&long),
            Position::Unsaid,
            RuleError::TooLarge {
                max_bytes: PUSH_RULE_BYTES_MAX,
            },
        ),
    ] {
        assert_eq!(rules.put(new, &position), Err(error));
    }
    for actions in [
        json!(["shout"]),
        json!([1]),
        json!([{"sound": "x"}]),
        json!([{"set_tweak": 1}]),
    ] {
        let refused = rules.put(
            rule(Kind::Override, "a", actions.clone()),
            &Position::Unsaid,
        );
        assert!(matches!(refused, Err(RuleError::Form(_))), "{actions}");
    }
    let content = rule(Kind::Content, "a", json!([]));
    assert!(matches!(
        rules.put(content, &Position::Unsaid),
        Err(RuleError::Form(_))
    ));
    assert_eq!(
        rules.remove(Kind::Override, ".m.rule.master"),
        Err(RuleError::Predefined)
    );
    assert_eq!(
        rules.remove(Kind::Content, "known"),
        Err(RuleError::NotFound)
    );
    assert_eq!(
        rules.set_enabled(Kind::Override, "none", true),
        Err(RuleError::NotFound)
    );
    assert_eq!(
        rules.set_actions(Kind::Override, "none", vec![]),
        Err(RuleError::NotFound)
    );
    assert_eq!(rules, before);
}

#[test]
fn rules_have_a_bound_in_number() {
    let mut rules = predefined();
    let own = PUSH_RULES_MAX - rules.iter().count();
    *rules.of_mut(Kind::Sender) = (0..own)
        .map(|number| Rule {
            actions: vec![],
            conditions: None,
            default: false,
            enabled: true,
            pattern: None,
            rule_id: format!("@{number}:hs"),
        })
        .collect();
    let new = rule(Kind::Room, "!r:hs", json!([]));
    let refused = rules.put(new, &Position::Unsaid);
    assert_eq!(
        refused,
        Err(RuleError::TooMany {
            max: PUSH_RULES_MAX
        })
    );
    // One that is there can still be changed.
    rules
        .put(rule(Kind::Sender, "@1:hs", json!([])), &Position::Unsaid)
        .expect("is taken");
}

#[test]
fn what_is_stored_comes_back_with_the_rules_of_today() {
    let mut rules = with_conditions(json!([{ "kind": "org.example.new", "x": [1] }]));
    rules
        .set_enabled(Kind::Override, "mine", false)
        .expect("is there");
    rules
        .set_enabled(Kind::Override, ".m.rule.tombstone", false)
        .expect("is there");
    rules
        .set_actions(Kind::Underride, ".m.rule.message", vec![])
        .expect("is there");
    // An update keeps a rule disabled.
    let again = rule(Kind::Override, "mine", json!(["notify"]));
    rules.put(again, &Position::Unsaid).expect("is taken");
    assert!(
        !rules
            .rule(Kind::Override, "mine")
            .expect("is there")
            .enabled
    );
    let stored = rules.content();
    assert_eq!(Ruleset::of_user(user("me"), Some(&stored)), rules);
    // Written by a version that had other rules.
    let mut other: Value = serde_json::from_str(&stored).expect("is JSON");
    let overrides = other["global"]["override"].as_array_mut().expect("a list");
    overrides.retain(|rule| rule["rule_id"] != ".m.rule.suppress_edits");
    overrides.push(json!({
        "rule_id": ".m.rule.contains_display_name", "default": true, "enabled": true,
        "conditions": [{ "kind": "contains_display_name" }], "actions": ["notify"],
    }));
    assert_eq!(
        Ruleset::of_user(user("me"), Some(&other.to_string())),
        rules
    );
    for content in [
        None,
        Some("[]"),
        Some("{}"),
        Some(r#"{"global":{"room":1}}"#),
    ] {
        assert_eq!(
            Ruleset::of_user(user("me"), content),
            predefined(),
            "{content:?}"
        );
    }
}

#[test]
fn a_room_rule_follows_the_room() {
    let (old, new) = (ruma::room_id!("!old:hs"), ruma::room_id!("!new:hs"));
    let mut rules = predefined();
    assert!(!rules.copy_room_rule(old, new));
    rules
        .put(rule(Kind::Room, "!old:hs", json!([])), &Position::Unsaid)
        .expect("is taken");
    rules
        .set_enabled(Kind::Room, "!old:hs", false)
        .expect("is there");
    assert!(rules.copy_room_rule(old, new));
    assert!(!rules.rule(Kind::Room, "!new:hs").expect("is there").enabled);
    assert!(!rules.copy_room_rule(old, new));
}
