//! What rules say of events: the predefined ones, each kind in its order, and
//! every condition and tweak.

use serde_json::{Value, json};

use super::{
    HIGHLIGHT, NOTIFY, QUIET, ids, judge, message, predefined, room, rule, state, text, user,
    with_conditions,
};
use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::PowerLevels;
use crate::matrix::push_rules::{Kind, NewRule, Position, Rules, Ruleset, Verdict, condition};

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
            assert_eq!(condition::check_condition(condition), Ok(()), "{kind:?}");
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
