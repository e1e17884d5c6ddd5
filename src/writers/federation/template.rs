//! Member events of our users that another server proposes. What is signed is
//! never what came: it is built anew, from what we know ourselves and from the
//! few fields that only a resident can tell (server-server API, *make_join*;
//! CVE-2026-24471).

use ruma::room_version_rules::EventsReferenceFormatVersion;
use ruma::{EventId, OwnedEventId, RoomId, ServerName, UserId};

use crate::clock;
use crate::crypto::random;
use crate::limits::{AUTH_EVENTS_MAX, ID_BYTES_MAX, INTEGER_MAX, PREV_EVENTS_MAX};
use crate::matrix::build::{EventRef, ProtoEvent};
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::matrix::{Membership, RoomVersion};
use crate::writers::client::joins::AUTHORISED_BY;

const MEMBER: &str = "m.room.member";

/// Why a template is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is not of the event that was asked for.
    #[error("template has another {0}")]
    Other(&'static str),
    #[error("template's {0} is malformed")]
    Malformed(&'static str),
}

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub version: RoomVersion,
    pub room: &'a RoomId,
    pub user: &'a UserId,
    pub membership: Membership,
    /// Who made the template.
    pub resident: &'a ServerName,
}

/// Builds the event anew. `content` is ours, without the membership.
pub fn rebuild(
    asked: &Asked<'_>,
    template: &CanonicalJsonObject,
    mut content: CanonicalJsonObject,
) -> Result<ProtoEvent, TemplateError> {
    for (field, wanted) in [
        ("type", MEMBER),
        ("room_id", asked.room.as_str()),
        ("sender", asked.user.as_str()),
        ("state_key", asked.user.as_str()),
    ] {
        if text(template, field) != Some(wanted) {
            return Err(TemplateError::Other(field));
        }
    }
    let proposed = template.get("content").and_then(|value| value.as_object());
    let proposed = proposed.ok_or(TemplateError::Malformed("content"))?;
    let membership = asked.membership.as_str();
    if text(proposed, "membership") != Some(membership) {
        return Err(TemplateError::Other("membership"));
    }
    content.insert(
        "membership".into(),
        CanonicalJsonValue::String(membership.into()),
    );
    content.remove(AUTHORISED_BY);
    if let Some(by) = authorised_by(asked, proposed)? {
        content.insert(AUTHORISED_BY.into(), CanonicalJsonValue::String(by));
    }
    let prev_events = references(asked.version, template, "prev_events", PREV_EVENTS_MAX)?;
    let auth_events = references(asked.version, template, "auth_events", AUTH_EVENTS_MAX)?;
    if prev_events.is_empty() || auth_events.is_empty() {
        return Err(TemplateError::Malformed("prev_events"));
    }
    Ok(ProtoEvent {
        room_id: Some(asked.room.to_owned()),
        sender: asked.user.to_owned(),
        kind: MEMBER.into(),
        state_key: Some(asked.user.as_str().into()),
        content,
        redacts: None,
        prev_events,
        auth_events,
        depth: depth(template)?,
        origin_server_ts: clock::now_ms(),
        event_localpart: asked
            .version
            .has_event_id_field()
            .then(|| random::event_localpart().into()),
    })
}

/// Who lets the user into a restricted room: a user of the resident, which then
/// signs for them. Its right to do so is for the auth rules to say.
fn authorised_by(
    asked: &Asked<'_>,
    proposed: &CanonicalJsonObject,
) -> Result<Option<String>, TemplateError> {
    let rules = &asked.version.rules().authorization;
    if asked.membership != Membership::Join || !rules.restricted_join_rule {
        return Ok(None);
    }
    let Some(by) = proposed.get(AUTHORISED_BY) else {
        return Ok(None);
    };
    let by = by.as_str().filter(|by| by.len() <= ID_BYTES_MAX);
    let by = by.and_then(|by| <&UserId>::try_from(by).ok());
    let by = by.ok_or(TemplateError::Malformed(AUTHORISED_BY))?;
    match by.server_name() == asked.resident {
        true => Ok(Some(by.to_string())),
        false => Err(TemplateError::Other(AUTHORISED_BY)),
    }
}

fn depth(template: &CanonicalJsonObject) -> Result<u64, TemplateError> {
    let depth = match template.get("depth") {
        Some(CanonicalJsonValue::Integer(depth)) => u64::try_from(i64::from(*depth)).ok(),
        _ => None,
    };
    let depth = depth.filter(|depth| *depth <= INTEGER_MAX.unsigned_abs());
    depth.ok_or(TemplateError::Malformed("depth"))
}

/// The events that a template names, as its version writes them.
fn references(
    version: RoomVersion,
    template: &CanonicalJsonObject,
    field: &'static str,
    count_max: usize,
) -> Result<Vec<EventRef>, TemplateError> {
    let malformed = || TemplateError::Malformed(field);
    let listed = template.get(field).and_then(|list| list.as_array());
    let listed = listed.ok_or_else(malformed)?;
    if listed.len() > count_max {
        return Err(malformed());
    }
    let pairs = version.rules().events_reference_format == EventsReferenceFormatVersion::V1;
    let mut found: Vec<EventRef> = Vec::with_capacity(listed.len());
    for value in listed {
        let reference = match pairs {
            true => pair(value).ok_or_else(malformed)?,
            false => EventRef {
                event_id: event_id(value).ok_or_else(malformed)?,
                hash: None,
            },
        };
        if found
            .iter()
            .any(|known| known.event_id == reference.event_id)
        {
            return Err(malformed());
        }
        found.push(reference);
    }
    Ok(found)
}

/// `[event id, {"sha256": hash}]`
fn pair(value: &CanonicalJsonValue) -> Option<EventRef> {
    let [id, hashes] = value.as_array()? else {
        return None;
    };
    let hash = match hashes.as_object()?.get("sha256") {
        None => None,
        Some(hash) => Some(hash.as_str().filter(|hash| hash.len() <= ID_BYTES_MAX)?),
    };
    Some(EventRef {
        event_id: event_id(id)?,
        hash: hash.map(Into::into),
    })
}

fn event_id(value: &CanonicalJsonValue) -> Option<OwnedEventId> {
    let id = value.as_str().filter(|id| id.len() <= ID_BYTES_MAX)?;
    Some(<&EventId>::try_from(id).ok()?.to_owned())
}

fn text<'a>(object: &'a CanonicalJsonObject, field: &str) -> Option<&'a str> {
    object.get(field)?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::matrix::canonical_json::{parse_object, to_bytes};

    fn asked(version: RoomVersion) -> Asked<'static> {
        Asked {
            version,
            room: ruma::room_id!("!r:b"),
            user: ruma::user_id!("@me:a"),
            membership: Membership::Join,
            resident: ruma::server_name!("b"),
        }
    }

    fn template(version: RoomVersion) -> Value {
        let reference = |id: &str| match version.has_event_id_field() {
            true => json!([id, {"sha256": "aGFzaA"}]),
            false => json!(id),
        };
        json!({
            "type": MEMBER, "room_id": "!r:b", "sender": "@me:a", "state_key": "@me:a",
            "content": {"membership": "join"}, "depth": 7, "origin": "b", "origin_server_ts": 1,
            "prev_events": [reference("$p")], "auth_events": [reference("$c"), reference("$d")],
        })
    }

    fn built(version: RoomVersion, template: &Value) -> Result<ProtoEvent, TemplateError> {
        let template = parse_object(template.to_string().as_bytes()).expect("an object");
        let mut ours = CanonicalJsonObject::new();
        ours.insert(
            "displayname".into(),
            CanonicalJsonValue::String("Me".into()),
        );
        rebuild(&asked(version), &template, ours)
    }

    #[test]
    fn a_sound_template_becomes_our_event() {
        for version in RoomVersion::all() {
            let event = built(version, &template(version)).expect("sound");
            assert_eq!((&*event.kind, event.depth), (MEMBER, 7));
            assert_eq!(event.state_key.as_deref(), Some("@me:a"));
            assert_eq!(event.auth_events.len(), 2);
            assert_eq!(
                event.auth_events[0].hash.is_some(),
                version.has_event_id_field()
            );
            assert_eq!(
                to_bytes(&event.content),
                br#"{"displayname":"Me","membership":"join"}"#
            );
            assert!(event.origin_server_ts > 1);
        }
    }

    /// CVE-2026-24471: servers signed whatever event a template held. Each lie is
    /// refused, or what is signed does not have it.
    #[test]
    fn cve_2026_24471_no_template_has_other_events_signed() {
        let refused = [
            ("/type", json!("m.room.power_levels")),
            ("/type", json!("m.room.message")),
            ("/type", Value::Null),
            ("/room_id", json!("!other:b")),
            ("/sender", json!("@other:a")),
            ("/state_key", json!("@other:a")),
            ("/state_key", json!("")),
            ("/content", json!([])),
            ("/content/membership", json!("ban")),
            ("/content/membership", json!("invite")),
            ("/content/membership", Value::Null),
            ("/depth", json!(-1)),
            ("/depth", json!("7")),
            ("/depth", Value::Null),
            ("/prev_events", json!([])),
            ("/prev_events", json!(["no id"])),
            ("/prev_events", json!(["$p", "$p"])),
            ("/prev_events", json!([["$p", {}]])),
            ("/prev_events", json!({"$p": 1})),
            (
                "/prev_events",
                json!((0..21).map(|n| format!("$p{n}")).collect::<Vec<_>>()),
            ),
            (
                "/auth_events",
                json!((0..11).map(|n| format!("$p{n}")).collect::<Vec<_>>()),
            ),
            ("/auth_events", json!([format!("${}", "x".repeat(300))])),
        ];
        let version = RoomVersion::V11;
        for (field, lie) in refused {
            let mut template = template(version);
            *template.pointer_mut(field).expect("is there") = lie.clone();
            assert!(built(version, &template).is_err(), "{field} = {lie}");
        }
        let mut more = template(version);
        for (key, value) in [
            ("redacts", json!("$x")),
            ("evil", json!(1)),
            ("event_id", json!("$x")),
        ] {
            more[key] = value;
        }
        more["content"]["displayname"] = json!("Somebody else");
        more["content"]["third_party_invite"] = json!({});
        more["unsigned"] = json!({"x": 1});
        let event = built(version, &more).expect("the rest is left out");
        assert_eq!(
            to_bytes(&event.content),
            br#"{"displayname":"Me","membership":"join"}"#
        );
        assert!(event.redacts.is_none());
    }

    #[test]
    fn a_resident_authorises_by_its_own_users_alone() {
        let by = |version: RoomVersion, by: Value| {
            let mut template = template(version);
            template["content"][AUTHORISED_BY] = by;
            built(version, &template).map(|event| event.content.contains_key(AUTHORISED_BY))
        };
        assert_eq!(by(RoomVersion::V10, json!("@x:b")), Ok(true));
        // Versions without restricted rooms do not know the field.
        assert_eq!(by(RoomVersion::V6, json!("@x:b")), Ok(false));
        for lie in [json!("@x:c"), json!("@me:a"), json!("x"), json!(1)] {
            assert!(by(RoomVersion::V10, lie).is_err());
        }
    }
}
