//! What rules say of events ([`judging`]), and how users change them ([`changing`]):
//! what both build on.

mod changing;
mod judging;

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Kind, NewRule, Position, PushEvent, PushRoom, Reader, Rules, Ruleset, Verdict};
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
