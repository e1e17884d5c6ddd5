//! The predefined rules (client-server API, *Predefined Rules*), in the order of
//! the specification. Version 1.17 took out those that looked for mentions in
//! the body.

use serde_json::{Value, json};

use super::ruleset::{Kind, Rule};
use crate::matrix::ids::UserId;

/// The rule that comes before all others, also those of the user.
pub const MASTER: &str = ".m.rule.master";

/// The predefined rules of a user, all enabled but the master rule.
pub fn rules(user: &UserId) -> Vec<(Kind, Rule)> {
    let matches =
        |key: &str, pattern: &str| json!({ "kind": "event_match", "key": key, "pattern": pattern });
    let of_type = |event_type: &str| matches("type", event_type);
    let state_event = |event_type: &str| vec![of_type(event_type), matches("state_key", "")];
    let pair = || json!({ "kind": "room_member_count", "is": "2" });
    let notify = || json!("notify");
    let sound = |name: &str| json!({ "set_tweak": "sound", "value": name });
    let highlight = || json!({ "set_tweak": "highlight" });
    let quiet = Vec::<Value>::new;

    let invite_for_me = vec![
        of_type("m.room.member"),
        matches("content.membership", "invite"),
        matches("state_key", user.as_str()),
    ];
    let user_mention = json!({
        "kind": "event_property_contains",
        "key": r"content.m\.mentions.user_ids",
        "value": user,
    });
    let room_mention = vec![
        json!({ "kind": "event_property_is", "key": r"content.m\.mentions.room", "value": true }),
        json!({ "kind": "sender_notification_permission", "key": "room" }),
    ];
    let edit = json!({
        "kind": "event_property_is",
        "key": r"content.m\.relates_to.rel_type",
        "value": "m.replace",
    });

    let override_rules = [
        (MASTER, vec![], quiet()),
        (
            ".m.rule.suppress_notices",
            vec![matches("content.msgtype", "m.notice")],
            quiet(),
        ),
        (
            ".m.rule.invite_for_me",
            invite_for_me,
            vec![notify(), sound("default")],
        ),
        (
            ".m.rule.member_event",
            vec![of_type("m.room.member")],
            quiet(),
        ),
        (
            ".m.rule.is_user_mention",
            vec![user_mention],
            vec![notify(), sound("default"), highlight()],
        ),
        (
            ".m.rule.is_room_mention",
            room_mention,
            vec![notify(), highlight()],
        ),
        (
            ".m.rule.tombstone",
            state_event("m.room.tombstone"),
            vec![notify(), highlight()],
        ),
        (".m.rule.reaction", vec![of_type("m.reaction")], quiet()),
        (
            ".m.rule.room.server_acl",
            state_event("m.room.server_acl"),
            quiet(),
        ),
        (".m.rule.suppress_edits", vec![edit], quiet()),
    ];
    let underride_rules = [
        (
            ".m.rule.call",
            vec![of_type("m.call.invite")],
            vec![notify(), sound("ring")],
        ),
        (
            ".m.rule.encrypted_room_one_to_one",
            vec![pair(), of_type("m.room.encrypted")],
            vec![notify(), sound("default")],
        ),
        (
            ".m.rule.room_one_to_one",
            vec![pair(), of_type("m.room.message")],
            vec![notify(), sound("default")],
        ),
        (
            ".m.rule.message",
            vec![of_type("m.room.message")],
            vec![notify()],
        ),
        (
            ".m.rule.encrypted",
            vec![of_type("m.room.encrypted")],
            vec![notify()],
        ),
    ];
    let of_kind = |kind: Kind| {
        move |(rule_id, conditions, actions): (&str, Vec<Value>, Vec<Value>)| {
            let rule = Rule {
                actions,
                conditions: Some(conditions),
                default: true,
                enabled: rule_id != MASTER,
                pattern: None,
                rule_id: rule_id.to_owned(),
            };
            (kind, rule)
        }
    };
    let overrides = override_rules.into_iter().map(of_kind(Kind::Override));
    let underrides = underride_rules.into_iter().map(of_kind(Kind::Underride));
    overrides.chain(underrides).collect()
}
