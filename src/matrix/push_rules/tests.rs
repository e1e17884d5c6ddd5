//! What the predefined rules and those of users say of events, and how users
//! change them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Kind, NewRule, Position, PushEvent, PushRoom, Reader, RuleError, Rules, Ruleset};
use super::{Rule, Verdict};
use crate::limits::{PUSH_RULE_BYTES_MAX, PUSH_RULES_MAX};
use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::{CreateInfo, PowerLevels};
use crate::matrix::canonical_json::parse_object;
use crate::matrix::ids::{EventId, RoomId, UserId};

const QUIET: Verdict = Verdict {
    notify: false,
    highlight: false,
};
const NOTIFY: Verdict = Verdict {
    notify: true,
    highlight: false,
};
const HIGHLIGHT: Verdict = Verdict {
    notify: true,
    highlight: true,
};

fn user(name: &str) -> &'static UserId {
    match name {
        "me" => ruma::user_id!("@me:hs"),
        "admin" => ruma::user_id!("@admin:hs"),
        _ => ruma::user_id!("@other:hs"),
    }
}

fn room_id() -> &'static RoomId {
    ruma::room_id!("!r:hs")
}

fn room(version: RoomVersion, joined_members: u64, levels: Option<PowerLevels>) -> PushRoom {
    let content = parse_object(br#"{"creator":"@admin:hs"}"#).expect("parses");
    let create = CreateInfo::parse(
        version,
        ruma::event_id!("$c").to_owned(),
        room_id().to_owned(),
        user("admin").to_owned(),
        &content,
    );
    PushRoom {
        joined_members,
        create: Arc::new(create.expect("parses")),
        levels: levels.map(Arc::new),
    }
}

fn event(sender: &str, pdu: &Value) -> PushEvent {
    let event_id: &EventId = ruma::event_id!("$e");
    let pdu = pdu.to_string();
    PushEvent::parse(pdu.as_bytes(), event_id, room_id(), user(sender)).expect("parses")
}

fn message(content: Value) -> Value {
    json!({ "type": "m.room.message", "content": content })
}

fn text(body: &str) -> Value {
    message(json!({ "msgtype": "m.text", "body": body }))
}

fn state(kind: &str, key: &str, content: Value) -> Value {
    json!({ "type": kind, "state_key": key, "content": content })
}

/// What an event means to me, who am called "Me Myself", with these rules.
fn judge(rules: &Ruleset, room: &PushRoom, sender: &str, pdu: &Value) -> Verdict {
    let rules = Rules::compile(rules, user("me"));
    let event = event(sender, pdu);
    let reader = Reader {
        user: user("me"),
        display_name: &|| "Me Myself".to_owned(),
    };
    rules.verdict(&rules.plan(&event, room), &event, &reader)
}

fn predefined() -> Ruleset {
    Ruleset::predefined(user("me"))
}

fn rule(kind: Kind, rule_id: &str, actions: Value) -> NewRule {
    NewRule {
        kind,
        rule_id: rule_id.to_owned(),
        actions: actions.as_array().expect("a list").clone(),
        conditions: None,
        pattern: None,
    }
}

/// The predefined rules and one override with these conditions, which highlights.
fn with_conditions(conditions: Value) -> Ruleset {
    let mut rules = predefined();
    let new = NewRule {
        conditions: Some(conditions.as_array().expect("a list").clone()),
        ..rule(
            Kind::Override,
            "mine",
            json!(["notify", {"set_tweak": "highlight"}]),
        )
    };
    rules.put(new, &Position::Unsaid).expect("is taken");
    rules
}

fn ids(rules: &Ruleset, kind: Kind) -> Vec<&str> {
    rules
        .of(kind)
        .iter()
        .map(|rule| rule.rule_id.as_str())
        .collect()
}

#[test]
fn the_predefined_rules_are_those_of_the_specification() {
    let rules = predefined();
    assert_eq!(
        ids(&rules, Kind::Override),
        [
            ".m.rule.master",
            ".m.rule.suppress_notices",
            ".m.rule.invite_for_me",
            ".m.rule.member_event",
            ".m.rule.is_user_mention",
            ".m.rule.is_room_mention",
            ".m.rule.tombstone",
            ".m.rule.reaction",
            ".m.rule.room.server_acl",
            ".m.rule.suppress_edits",
        ]
    );
    assert_eq!(
        ids(&rules, Kind::Underride),
        [
            ".m.rule.call",
            ".m.rule.encrypted_room_one_to_one",
            ".m.rule.room_one_to_one",
            ".m.rule.message",
            ".m.rule.encrypted",
        ]
    );
    for (kind, rule) in rules.iter() {
        assert!(rule.default && rule.enabled != (rule.rule_id == ".m.rule.master"));
        // They have the form that is asked of users, too.
        for condition in rule.conditions.iter().flatten() {
            assert_eq!(
                super::condition::check_condition(condition),
                Ok(()),
                "{kind:?}"
            );
        }
    }
    let content: Value = serde_json::from_str(&rules.content()).expect("is JSON");
    for kind in Kind::ALL {
        assert!(content["global"][kind.as_str()].is_array(), "{kind:?}");
    }
    let master = json!({
        "rule_id": ".m.rule.master", "default": true, "enabled": false,
        "conditions": [], "actions": [],
    });
    assert_eq!(content["global"]["override"][0], master);
    let mention = json!({
        "rule_id": ".m.rule.is_user_mention", "default": true, "enabled": true,
        "conditions": [{
            "kind": "event_property_contains",
            "key": "content.m\\.mentions.user_ids",
            "value": "@me:hs",
        }],
        "actions": ["notify", {"set_tweak": "sound", "value": "default"}, {"set_tweak": "highlight"}],
    });
    assert_eq!(content["global"]["override"][4], mention);
}

/// Each predefined rule, with an event that it is about and one that it is not:
/// told from the other rules by switching it off.
#[test]
fn each_predefined_rule_has_its_say() {
    let notice = |msgtype: &str| message(json!({ "msgtype": msgtype, "body": "x" }));
    let mention =
        |of: Value| message(json!({ "msgtype": "m.text", "body": "x", "m.mentions": of }));
    let member = |of: &str, membership: &str| {
        state("m.room.member", of, json!({ "membership": membership }))
    };
    let edit = |rel_type: &str| {
        let relation = json!({ "rel_type": rel_type, "event_id": "$x" });
        message(json!({ "msgtype": "m.text", "body": "x", "m.relates_to": relation }))
    };
    let of_type = |kind: &str| json!({ "type": kind, "content": {} });
    // Rule, room size, sender, what it is about, its verdict, and that without it.
    let about = [
        (
            "override",
            ".m.rule.suppress_notices",
            5,
            "other",
            notice("m.notice"),
            QUIET,
            NOTIFY,
        ),
        (
            "override",
            ".m.rule.invite_for_me",
            5,
            "other",
            member("@me:hs", "invite"),
            NOTIFY,
            QUIET,
        ),
        (
            "override",
            ".m.rule.is_user_mention",
            5,
            "other",
            mention(json!({"user_ids": ["@x:hs", "@me:hs"]})),
            HIGHLIGHT,
            NOTIFY,
        ),
        (
            "override",
            ".m.rule.is_room_mention",
            5,
            "admin",
            mention(json!({"room": true})),
            HIGHLIGHT,
            NOTIFY,
        ),
        (
            "override",
            ".m.rule.tombstone",
            5,
            "other",
            state("m.room.tombstone", "", json!({})),
            HIGHLIGHT,
            QUIET,
        ),
        (
            "override",
            ".m.rule.suppress_edits",
            5,
            "other",
            edit("m.replace"),
            QUIET,
            NOTIFY,
        ),
        (
            "underride",
            ".m.rule.call",
            5,
            "other",
            of_type("m.call.invite"),
            NOTIFY,
            QUIET,
        ),
        (
            "underride",
            ".m.rule.message",
            5,
            "other",
            text("x"),
            NOTIFY,
            QUIET,
        ),
        (
            "underride",
            ".m.rule.encrypted",
            5,
            "other",
            of_type("m.room.encrypted"),
            NOTIFY,
            QUIET,
        ),
    ];
    for (kind, id, members, sender, pdu, expected, without) in about {
        let kind = Kind::parse(kind).expect("a kind");
        let room = room(RoomVersion::V11, members, None);
        let mut rules = predefined();
        assert_eq!(judge(&rules, &room, sender, &pdu), expected, "{id}");
        rules.set_enabled(kind, id, false).expect("is there");
        assert_eq!(judge(&rules, &room, sender, &pdu), without, "without {id}");
    }
    // What they are not about.
    let other = [
        (5, "other", notice("m.text"), NOTIFY),
        (5, "other", member("@you:hs", "invite"), QUIET),
        (5, "other", member("@me:hs", "join"), QUIET),
        (5, "other", mention(json!({"user_ids": ["@x:hs"]})), NOTIFY),
        (5, "other", mention(json!({"user_ids": "@me:hs"})), NOTIFY),
        (5, "other", mention(json!({"room": true})), NOTIFY),
        (5, "admin", mention(json!({"room": "true"})), NOTIFY),
        (5, "other", state("m.room.tombstone", "x", json!({})), QUIET),
        (5, "other", of_type("m.room.tombstone"), QUIET),
        (5, "other", of_type("m.reaction"), QUIET),
        (5, "other", state("m.room.server_acl", "", json!({})), QUIET),
        (5, "other", edit("m.thread"), NOTIFY),
        (
            5,
            "other",
            state("m.room.topic", "", json!({ "topic": "x" })),
            QUIET,
        ),
        // 1.17: names in the body do not count any more.
        (5, "other", text("Me Myself, @me:hs, me, @room"), NOTIFY),
        (5, "me", text("x"), QUIET),
    ];
    for (members, sender, pdu, expected) in other {
        let room = room(RoomVersion::V11, members, None);
        assert_eq!(judge(&predefined(), &room, sender, &pdu), expected, "{pdu}");
    }
}

/// Rules that keep quiet about what nothing else speaks of are told by a rule
/// of the user's that comes behind them.
#[test]
fn quiet_rules_come_before_those_that_notify_of_all() {
    let reaction = json!({ "type": "m.reaction", "content": {} });
    let acl = state("m.room.server_acl", "", json!({}));
    let member = state("m.room.member", "@you:hs", json!({ "membership": "join" }));
    let of_all = NewRule {
        conditions: Some(vec![]),
        ..rule(Kind::Underride, "all", json!(["notify"]))
    };
    for (id, pdu) in [
        (".m.rule.reaction", reaction),
        (".m.rule.room.server_acl", acl),
        (".m.rule.member_event", member),
    ] {
        let room = room(RoomVersion::V11, 5, None);
        let mut rules = predefined();
        rules
            .put(of_all.clone(), &Position::Unsaid)
            .expect("is taken");
        assert_eq!(judge(&rules, &room, "other", &pdu), QUIET, "{id}");
        rules
            .set_enabled(Kind::Override, id, false)
            .expect("is there");
        assert_eq!(judge(&rules, &room, "other", &pdu), NOTIFY, "without {id}");
    }
}

#[test]
fn two_in_a_room_have_rules_of_their_own() {
    for (id, kind) in [
        (".m.rule.encrypted_room_one_to_one", "m.room.encrypted"),
        (".m.rule.room_one_to_one", "m.room.message"),
    ] {
        let mut rules = predefined();
        let sound = json!(["notify", {"set_tweak": "highlight", "value": true}]);
        let sound = sound.as_array().expect("a list").clone();
        rules
            .set_actions(Kind::Underride, id, sound)
            .expect("is there");
        let pdu = json!({ "type": kind, "content": {} });
        for (members, expected) in [(1, NOTIFY), (2, HIGHLIGHT), (3, NOTIFY)] {
            let room = room(RoomVersion::V11, members, None);
            assert_eq!(
                judge(&rules, &room, "other", &pdu),
                expected,
                "{id} {members}"
            );
        }
    }
}

#[test]
fn the_master_rule_silences_all_the_others() {
    let mut rules = with_conditions(json!([]));
    let room = room(RoomVersion::V11, 5, None);
    assert_eq!(judge(&rules, &room, "other", &text("x")), HIGHLIGHT);
    rules
        .set_enabled(Kind::Override, ".m.rule.master", true)
        .expect("is there");
    assert_eq!(judge(&rules, &room, "other", &text("x")), QUIET);
}

#[test]
fn kinds_are_asked_in_their_order() {
    let room = room(RoomVersion::V11, 5, None);
    let mut rules = predefined();
    let mut put = |new: NewRule, expected: Verdict| {
        rules.put(new, &Position::Unsaid).expect("is taken");
        assert_eq!(judge(&rules, &room, "other", &text("some cake")), expected);
    };
    let loud = json!(["notify", {"set_tweak": "highlight"}]);
    put(rule(Kind::Sender, "@other:hs", json!([])), QUIET);
    put(rule(Kind::Sender, "@third:hs", loud.clone()), QUIET);
    put(rule(Kind::Room, "!r:hs", loud.clone()), HIGHLIGHT);
    put(rule(Kind::Room, "!other:hs", json!([])), HIGHLIGHT);
    let word = |pattern: &str, actions: Value| NewRule {
        pattern: Some(pattern.to_owned()),
        ..rule(Kind::Content, pattern, actions)
    };
    put(word("cakes", json!([])), HIGHLIGHT);
    put(word("ca?e", json!(["notify"])), NOTIFY);
    put(word("cake", json!([])), QUIET);
    let over = NewRule {
        conditions: Some(vec![]),
        ..rule(Kind::Override, "over", loud)
    };
    put(over, HIGHLIGHT);
}

#[test]
fn conditions_say_what_the_specification_says() {
    let is = |key: &str, value: Value| json!([{ "kind": "event_property_is", "key": key, "value": value }]);
    let contains = |key: &str, value: Value| json!([{ "kind": "event_property_contains", "key": key, "value": value }]);
    let matches = |key: &str, pattern: &str| json!([{ "kind": "event_match", "key": key, "pattern": pattern }]);
    let create = state(
        "m.room.create",
        "",
        json!({ "m.federate": true, "n": 1, "o": null, "a\\b": "x" }),
    );
    let aliases = state(
        "m.room.canonical_alias",
        "",
        json!({ "alt_aliases": ["#a:hs", 7, null, {}] }),
    );
    let topic = |topic: Value| state("m.room.topic", "", json!({ "topic": topic }));
    for (conditions, pdu, holds) in [
        (is(r"content.m\.federate", json!(true)), &create, true),
        (is(r"content.m\.federate", json!("true")), &create, false),
        (is(r"content.m\.federate", json!(1)), &create, false),
        (is(r"content.m.federate", json!(true)), &create, false),
        (is("content.n", json!(1)), &create, true),
        (is("content.n", json!(true)), &create, false),
        (is("content.o", json!(null)), &create, true),
        (is("content.missing", json!(null)), &create, false),
        (is(r"content.a\\b", json!("x")), &create, true),
        (is("content", json!(null)), &create, false),
        (is("room_id", json!("!r:hs")), &create, true),
        (is("event_id", json!("$e")), &create, true),
        (
            contains("content.alt_aliases", json!("#a:hs")),
            &aliases,
            true,
        ),
        (
            contains("content.alt_aliases", json!(":hs")),
            &aliases,
            false,
        ),
        (contains("content.alt_aliases", json!(7)), &aliases, true),
        (contains("content.alt_aliases", json!(null)), &aliases, true),
        (
            contains("type", json!("m.room.canonical_alias")),
            &aliases,
            false,
        ),
        (
            matches("content.topic", "lunc?*"),
            &topic(json!("Lunch plans")),
            true,
        ),
        (
            matches("content.topic", "lunc?*"),
            &topic(json!(" lunch")),
            false,
        ),
        (matches("content.topic", "*"), &topic(json!(null)), false),
        (matches("content.missing", "*"), &topic(json!("x")), false),
        (matches("sender", "@other:*"), &topic(json!("x")), true),
        (
            matches("content.body", "ex*ple"),
            &text("An exciting triple-whammy"),
            true,
        ),
        (matches("content.body", "ample"), &text("An example"), false),
        (
            json!([{ "kind": "contains_display_name" }]),
            &text("for me myself!"),
            true,
        ),
        (
            json!([{ "kind": "contains_display_name" }]),
            &text("for me"),
            false,
        ),
        (
            json!([{ "kind": "room_member_count", "is": ">=5" }]),
            &text("x"),
            true,
        ),
        (
            json!([{ "kind": "room_member_count", "is": "<5" }]),
            &text("x"),
            false,
        ),
        (
            json!([{ "kind": "org.example.unknown" }]),
            &text("x"),
            false,
        ),
        (
            matches("state_key", "@me:hs"),
            &state("m.x", "@ME:hs", json!({})),
            true,
        ),
        (matches("state_key", "@me:hs"), &text("x"), false),
        (
            is("state_key", json!("@me:hs")),
            &state("m.x", "@ME:hs", json!({})),
            false,
        ),
    ] {
        let room = room(RoomVersion::V11, 5, None);
        let verdict = judge(&with_conditions(conditions.clone()), &room, "other", pdu);
        assert_eq!(verdict == HIGHLIGHT, holds, "{conditions} {pdu}");
    }
}

#[test]
fn power_decides_who_may_notify_the_room() {
    let call = message(json!({ "msgtype": "m.text", "body": "x", "m.mentions": { "room": true } }));
    let levels = |of_room: Option<i64>, of_other: i64| PowerLevels {
        users: [(user("other").to_owned(), of_other)].into(),
        notifications: of_room
            .into_iter()
            .map(|level| ("room".into(), level))
            .collect(),
        ..PowerLevels::default()
    };
    for (version, levels, sender, expected) in [
        // The creator has 100 while there are no power levels.
        (RoomVersion::V11, None, "admin", HIGHLIGHT),
        (RoomVersion::V11, None, "other", NOTIFY),
        // 50 are needed where the room does not say.
        (RoomVersion::V11, Some(levels(None, 50)), "other", HIGHLIGHT),
        (RoomVersion::V11, Some(levels(None, 49)), "other", NOTIFY),
        (
            RoomVersion::V11,
            Some(levels(Some(10), 10)),
            "other",
            HIGHLIGHT,
        ),
        (
            RoomVersion::V11,
            Some(levels(Some(99), 50)),
            "other",
            NOTIFY,
        ),
        // From version 12 on creators are above all levels.
        (RoomVersion::V11, Some(levels(Some(10), 0)), "admin", NOTIFY),
        (
            RoomVersion::V12,
            Some(levels(Some(1_000), 0)),
            "admin",
            HIGHLIGHT,
        ),
    ] {
        let room = room(version, 5, levels.clone());
        let verdict = judge(&predefined(), &room, sender, &call);
        assert_eq!(verdict, expected, "{version} {levels:?} {sender}");
    }
}

#[test]
fn tweaks_highlight_as_they_say() {
    for (actions, expected) in [
        (json!(["notify", {"set_tweak": "highlight"}]), HIGHLIGHT),
        (
            json!(["notify", {"set_tweak": "highlight", "value": true}]),
            HIGHLIGHT,
        ),
        (
            json!(["notify", {"set_tweak": "highlight", "value": false}]),
            NOTIFY,
        ),
        (
            json!(["notify", {"set_tweak": "org.example.light", "value": {"a": 1}}]),
            NOTIFY,
        ),
        (json!([{"set_tweak": "highlight"}]), QUIET),
        (json!(["dont_notify"]), QUIET),
        (json!(["coalesce"]), QUIET),
        (json!([]), QUIET),
    ] {
        let mut rules = predefined();
        let new = rule(Kind::Room, "!r:hs", actions.clone());
        rules.put(new, &Position::Unsaid).expect("is taken");
        let room = room(RoomVersion::V11, 5, None);
        assert_eq!(
            judge(&rules, &room, "other", &text("x")),
            expected,
            "{actions}"
        );
    }
}

#[test]
fn users_share_rules_that_differ_in_their_ids_alone() {
    let compiled = |name: &str| {
        let user = user(name);
        Rules::compile(&Ruleset::predefined(user), user)
    };
    assert_eq!(compiled("me"), compiled("other"));
    let mut changed = Ruleset::predefined(user("me"));
    changed
        .set_enabled(Kind::Underride, ".m.rule.message", false)
        .expect("is there");
    assert_ne!(Rules::compile(&changed, user("me")), compiled("other"));
}

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
