//! Redaction: what remains of an event, where a redaction names its target,
//! and whether it takes effect.

use ruma::room_version_rules::RedactionRules;

use super::auth_rules::PowerLevelsView;
use super::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use super::ids::UserId;
use super::room_version::RoomVersion;

/// Type of a redaction event.
pub const REDACTION_TYPE: &str = "m.room.redaction";

/// Whether redaction keeps a top-level key of an event
/// (room versions, *Redactions*).
pub fn keeps_top_level(rules: &RedactionRules, key: &str) -> bool {
    match key {
        "event_id" | "type" | "room_id" | "sender" | "state_key" | "content" | "hashes"
        | "signatures" | "depth" | "prev_events" | "auth_events" | "origin_server_ts" => true,
        // Up to version 10.
        "origin" | "membership" | "prev_state" => rules.keep_origin_membership_prev_state,
        _ => false,
    }
}

/// The content of an event as redaction leaves it.
pub fn redacted_content(
    rules: &RedactionRules,
    kind: &str,
    content: &CanonicalJsonObject,
) -> CanonicalJsonObject {
    if kind == "m.room.create" && rules.keep_room_create_content {
        return content.clone();
    }
    let mut kept = CanonicalJsonObject::new();
    for (key, value) in content {
        let value = match (kind, key.as_str()) {
            ("m.room.member", "third_party_invite") => signed_part(rules, value),
            _ if keeps_content_key(rules, kind, key) => Some(value.clone()),
            _ => None,
        };
        if let Some(value) = value {
            kept.insert(key.clone(), value);
        }
    }
    kept
}

fn keeps_content_key(rules: &RedactionRules, kind: &str, key: &str) -> bool {
    match kind {
        "m.room.member" => match key {
            "membership" => true,
            "join_authorised_via_users_server" => {
                rules.keep_room_member_join_authorised_via_users_server
            }
            _ => false,
        },
        "m.room.create" => key == "creator",
        "m.room.join_rules" => match key {
            "join_rule" => true,
            "allow" => rules.keep_room_join_rules_allow,
            _ => false,
        },
        "m.room.power_levels" => match key {
            "ban" | "events" | "events_default" | "kick" | "redact" | "state_default" | "users"
            | "users_default" => true,
            "invite" => rules.keep_room_power_levels_invite,
            _ => false,
        },
        "m.room.aliases" => key == "aliases" && rules.keep_room_aliases_aliases,
        "m.room.history_visibility" => key == "history_visibility",
        "m.room.redaction" => key == "redacts" && rules.keep_room_redaction_redacts,
        _ => false,
    }
}

/// From version 11, `third_party_invite` keeps its `signed` key alone.
fn signed_part(rules: &RedactionRules, invite: &CanonicalJsonValue) -> Option<CanonicalJsonValue> {
    if !rules.keep_room_member_third_party_invite_signed {
        return None;
    }
    let signed = invite.as_object()?.get("signed")?.clone();
    let kept = CanonicalJsonObject::from([("signed".to_owned(), signed)]);
    Some(CanonicalJsonValue::Object(kept))
}

/// The whole event as redaction leaves it. `unsigned` goes too.
pub fn redact(rules: &RedactionRules, event: &CanonicalJsonObject) -> CanonicalJsonObject {
    let kind = event
        .get("type")
        .and_then(|kind| kind.as_str())
        .unwrap_or_default();
    let mut redacted = CanonicalJsonObject::new();
    for (key, value) in event {
        if !keeps_top_level(rules, key) {
            continue;
        }
        let value = match (key.as_str(), value) {
            ("content", CanonicalJsonValue::Object(content)) => {
                CanonicalJsonValue::Object(redacted_content(rules, kind, content))
            }
            _ => value.clone(),
        };
        redacted.insert(key.clone(), value);
    }
    redacted
}

/// What auth rules of this version read of an event's content but redaction
/// removes; none if nothing is lost. Kept beside the skeleton for ever, so that
/// an erased log folds to the same states (architecture, *Erasure*).
pub fn auth_extract(
    version: RoomVersion,
    kind: &str,
    content: &CanonicalJsonObject,
) -> Option<CanonicalJsonObject> {
    let rules = version.rules();
    let read: &[&str] = match kind {
        "m.room.create" => &[
            "creator",
            "room_version",
            "m.federate",
            "additional_creators",
        ],
        "m.room.join_rules" => &["join_rule"],
        "m.room.power_levels" => &[
            "ban",
            "events",
            "events_default",
            "invite",
            "kick",
            "notifications",
            "redact",
            "state_default",
            "users",
            "users_default",
        ],
        "m.room.member" => &[
            "membership",
            "join_authorised_via_users_server",
            "third_party_invite",
        ],
        "m.room.third_party_invite" => &["public_key", "public_keys"],
        // No auth rule reads it, but the fold does: an event that its server does
        // not recommend is soft-failed.
        super::policy::POLICY_TYPE => &["via", "public_keys"],
        _ => return None,
    };
    let kept = redacted_content(&rules.redaction, kind, content);
    let mut extract = CanonicalJsonObject::new();
    for &key in read {
        let reads_key = match key {
            "notifications" => rules.authorization.limit_notifications_power_levels,
            "join_authorised_via_users_server" => rules.authorization.restricted_join_rule,
            "additional_creators" => rules.authorization.additional_room_creators,
            _ => true,
        };
        let Some(value) = content.get(key).filter(|_| reads_key) else {
            continue;
        };
        if key == "third_party_invite" {
            // The rules ask for `signed` alone, and for the key's presence.
            let lacks_signed = CanonicalJsonValue::Object(CanonicalJsonObject::new());
            let all = RedactionRules::V11;
            let read = signed_part(&all, value).unwrap_or(lacks_signed);
            if kept.get(key) != Some(&read) {
                extract.insert(key.to_owned(), read);
            }
        } else if !kept.contains_key(key) {
            extract.insert(key.to_owned(), value.clone());
        }
    }
    (!extract.is_empty()).then_some(extract)
}

/// The event that a redaction names: top level up to version 10, content from 11.
pub fn redacts<'a>(rules: &RedactionRules, event: &'a CanonicalJsonObject) -> Option<&'a str> {
    let holder = if rules.content_field_redacts {
        event.get("content")?.as_object()?
    } else {
        event
    };
    holder.get("redacts")?.as_str()
}

/// Whether the sender of a redaction may redact the events of any server, by the
/// power levels at the redaction.
///
/// Source: room version 3 and later, *Handling redactions*, condition 1. In
/// versions 1 and 2 the auth rules (rule 11) decide by the event ids, before the
/// target is known; whatever they allowed may be redacted.
pub fn may_redact_any(version: RoomVersion, sender: &UserId, levels: &PowerLevelsView<'_>) -> bool {
    version.rules().authorization.special_case_room_redaction || levels.can_redact_others(sender)
}

/// Whether a redaction that the auth rules allowed takes effect, by the power
/// levels at it. Both events must be in the same room and accepted, which the
/// caller knows.
///
/// Source: room version 3 and later, *Handling redactions*: the sender may redact
/// any event ([`may_redact_any`]), or is of the server of the event's sender.
pub fn takes_effect(
    version: RoomVersion,
    redaction_sender: &UserId,
    target_sender: &UserId,
    levels: &PowerLevelsView<'_>,
) -> bool {
    may_redact_any(version, redaction_sender, levels)
        || redaction_sender.server_name() == target_sender.server_name()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::canonical_json::{for_ruma, from_ruma, parse_object, to_bytes};
    use super::*;

    fn object(text: &str) -> CanonicalJsonObject {
        parse_object(text.as_bytes()).expect(text)
    }

    fn text(object: &CanonicalJsonObject) -> String {
        String::from_utf8(to_bytes(object)).expect("is UTF-8")
    }

    const KINDS: [&str; 9] = [
        "m.room.member",
        "m.room.create",
        "m.room.join_rules",
        "m.room.power_levels",
        "m.room.aliases",
        "m.room.history_visibility",
        "m.room.redaction",
        "m.room.message",
        "m.room.third_party_invite",
    ];
    const CONTENT_KEYS: [&str; 24] = [
        "membership",
        "join_authorised_via_users_server",
        "third_party_invite",
        "creator",
        "room_version",
        "join_rule",
        "allow",
        "ban",
        "events",
        "events_default",
        "invite",
        "kick",
        "redact",
        "state_default",
        "users",
        "users_default",
        "notifications",
        "aliases",
        "history_visibility",
        "redacts",
        "body",
        "public_key",
        "m.federate",
        "additional_creators",
    ];
    const TOP_KEYS: [&str; 18] = [
        "event_id",
        "room_id",
        "sender",
        "state_key",
        "hashes",
        "signatures",
        "depth",
        "prev_events",
        "auth_events",
        "origin_server_ts",
        "origin",
        "membership",
        "prev_state",
        "redacts",
        "unsigned",
        "age",
        "replaces_state",
        "x",
    ];

    proptest! {
        /// Two independent readings of the specification agree.
        #[test]
        fn agrees_with_ruma(
            version in 1_u8..=12,
            kind in 0..KINDS.len(),
            content in proptest::collection::vec(any::<bool>(), CONTENT_KEYS.len()),
            top in proptest::collection::vec(any::<bool>(), TOP_KEYS.len()),
            signed: bool,
        ) {
            let version = RoomVersion::parse(&version.to_string()).expect("known");
            let rules = &version.rules().redaction;
            let mut members = Vec::new();
            for (key, _) in CONTENT_KEYS.iter().zip(content).filter(|(_, present)| *present) {
                members.push(if *key == "third_party_invite" {
                    let inner = if signed { r#""signed":{"token":"t"},"# } else { "" };
                    format!("\"{key}\":{{{inner}\"display_name\":\"x\"}}")
                } else {
                    format!("\"{key}\":{{\"a\":1}}")
                });
            }
            let mut event = object(&format!("{{\"content\":{{{}}},\"type\":\"{}\"}}", members.join(","), KINDS[kind]));
            for (key, _) in TOP_KEYS.iter().zip(top).filter(|(_, present)| *present) {
                event.insert((*key).to_owned(), CanonicalJsonValue::Object(CanonicalJsonObject::new()));
            }
            let theirs = ruma::canonical_json::redact(for_ruma(&event), rules, None).expect("redacts");
            let theirs = from_ruma(&theirs);
            // One known difference: an invite without `signed` has nothing to keep.
            let mut ours = redact(rules, &event);
            let mut theirs_without = theirs.clone();
            for side in [&mut ours, &mut theirs_without] {
                let Some(CanonicalJsonValue::Object(content)) = side.get_mut("content") else { continue };
                if KINDS[kind] == "m.room.member"
                    && content.get("third_party_invite").and_then(|v| v.as_object()).is_some_and(|o| o.is_empty())
                {
                    content.remove("third_party_invite");
                }
            }
            prop_assert_eq!(text(&ours), text(&theirs_without));
        }
    }

    #[test]
    fn the_extract_is_what_rules_read_and_redaction_removes() {
        let extract = |version: RoomVersion, kind: &str, content: &str| {
            auth_extract(version, kind, &object(content)).map(|extract| text(&extract))
        };
        let some = |text: &str| Some(text.to_owned());
        let levels = r#"{"invite":50,"ban":50,"notifications":{"room":50},"other":1}"#;
        assert_eq!(
            extract(RoomVersion::V1, "m.room.power_levels", levels),
            some(r#"{"invite":50}"#)
        );
        assert_eq!(
            extract(RoomVersion::V10, "m.room.power_levels", levels),
            some(r#"{"invite":50,"notifications":{"room":50}}"#)
        );
        assert_eq!(
            extract(RoomVersion::V11, "m.room.power_levels", levels),
            some(r#"{"notifications":{"room":50}}"#)
        );
        let join =
            r#"{"membership":"join","join_authorised_via_users_server":"@a:b","displayname":"x"}"#;
        assert_eq!(extract(RoomVersion::V7, "m.room.member", join), None);
        assert_eq!(
            extract(RoomVersion::V8, "m.room.member", join),
            some(r#"{"join_authorised_via_users_server":"@a:b"}"#)
        );
        assert_eq!(extract(RoomVersion::V9, "m.room.member", join), None);
        let invite = r#"{"membership":"invite","third_party_invite":{"display_name":"x","signed":{"token":"t"}}}"#;
        assert_eq!(
            extract(RoomVersion::V10, "m.room.member", invite),
            some(r#"{"third_party_invite":{"signed":{"token":"t"}}}"#)
        );
        assert_eq!(extract(RoomVersion::V11, "m.room.member", invite), None);
        let create = r#"{"creator":"@a:b","room_version":"6","m.federate":false,"type":"m.space"}"#;
        assert_eq!(
            extract(RoomVersion::V6, "m.room.create", create),
            some(r#"{"m.federate":false,"room_version":"6"}"#)
        );
        assert_eq!(extract(RoomVersion::V11, "m.room.create", create), None);
        assert_eq!(
            extract(
                RoomVersion::V12,
                "m.room.third_party_invite",
                r#"{"public_key":"k","display_name":"x"}"#
            ),
            some(r#"{"public_key":"k"}"#)
        );
        assert_eq!(
            extract(RoomVersion::V12, "m.room.message", r#"{"body":"x"}"#),
            None
        );
    }

    #[test]
    fn a_redaction_takes_effect_by_level_or_by_server() {
        use super::super::auth_rules::tests::{room, user};
        for version in RoomVersion::all() {
            let room = room(version);
            let create = room.create.as_ref().expect("is there");
            let levels = PowerLevelsView::new(create, room.levels.as_ref());
            let works = |sender: &str, target: &str| {
                takes_effect(version, &user(sender), &user(target), &levels)
            };
            let by_rule = version <= RoomVersion::V2;
            // Level 50 redacts anything, and any server its own.
            assert!(works("@mod:hs", "@bob:other"));
            assert!(works("@alice:hs", "@mod:hs"));
            assert!(works("@bob:other", "@eve:other"));
            assert_eq!(works("@alice:hs", "@bob:other"), by_rule, "{version}");
            // Creators of version 12 are above every level.
            assert!(works("@admin:hs", "@bob:other"));
            assert!(may_redact_any(version, &user("@admin:hs"), &levels));
            assert_eq!(
                may_redact_any(version, &user("@alice:hs"), &levels),
                by_rule
            );
        }
    }

    #[test]
    fn redactions_name_their_target_by_version() {
        let event = object(r#"{"redacts":"$top","content":{"redacts":"$content"}}"#);
        assert_eq!(
            redacts(&RoomVersion::V10.rules().redaction, &event),
            Some("$top")
        );
        assert_eq!(
            redacts(&RoomVersion::V11.rules().redaction, &event),
            Some("$content")
        );
        let neither = object(r#"{"redacts":1,"content":{}}"#);
        assert_eq!(redacts(&RoomVersion::V10.rules().redaction, &neither), None);
        assert_eq!(redacts(&RoomVersion::V11.rules().redaction, &neither), None);
    }
}
