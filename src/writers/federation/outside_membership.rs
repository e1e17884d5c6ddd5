//! Records of membership seen from outside: what one of our users is to a room
//! that we are not in (see [`crate::query::outside`]). They go to *input* under
//! the room's id: `submitter.submit(room_id, vec![record])`.

use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::input::InputOutsideMembership;
use log_format::record::output::Membership;
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::{RoomId, ServerName, UserId};

use crate::clock;
use crate::crypto::random;
use crate::logs::log::NewRecord;
use crate::matrix::canonical_json::{
    CanonicalJsonObject, CanonicalJsonValue, to_bytes, write_object,
};
use crate::matrix::event::Pdu;
use crate::query::stripped::DESCRIBING;

const MEMBER: &str = "m.room.member";

/// Bytes of stripped state that are kept. Ours: a record has room for 1 MiB, and
/// each sync of an invite sends all of it.
const STATE_BYTES_MAX: usize = 256 * 1024;

/// The record of a member event of one of our users in a room that we are not
/// in: an invite or a knock with the state that came with it, or what ended one.
/// The event must have been checked. None if it is no such event.
pub fn record(
    event: &Pdu,
    state: &[CanonicalJsonObject],
    origin: Option<&ServerName>,
) -> Option<NewRecord> {
    let user = <&UserId>::try_from(event.state_key.as_deref()?).ok()?;
    let membership = event.membership()?;
    let json = told(Some(event.object()), &stripped(event, state));
    let skeleton = event.skeleton();
    Some(made(
        membership,
        NewEnvelope {
            origin_ts_ms: event.origin_server_ts,
            room_id: Some(event.room_id.as_str()),
            event_id: Some(event.event_id.as_str()),
            sender: Some(event.sender.as_str()),
            event_type: Some(MEMBER),
            state_key: Some(user.as_str()),
            room_version: Some(event.version.as_str()),
            origin: origin.map(ServerName::as_str),
            skeleton: Part::Present(&skeleton),
            body_part: Part::Present(&json),
            ..NewEnvelope::default()
        },
    ))
}

/// The record of a user who rejected an invite or took back a knock, of which no
/// other server could be told. The event that the user is shown of it is known
/// here alone.
pub fn ended_here(room_id: &RoomId, user: &UserId, mut content: CanonicalJsonObject) -> NewRecord {
    let now = clock::now_ms();
    let event_id = format!("${}:{}", random::event_localpart(), user.server_name());
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    content.insert("membership".to_owned(), text(Membership::Leave.as_str()));
    let event = CanonicalJsonObject::from([
        ("content".to_owned(), CanonicalJsonValue::Object(content)),
        ("origin_server_ts".to_owned(), integer(now)),
        ("room_id".to_owned(), text(room_id.as_str())),
        ("sender".to_owned(), text(user.as_str())),
        ("state_key".to_owned(), text(user.as_str())),
        ("type".to_owned(), text(MEMBER)),
    ]);
    let shown: Vec<_> = strip(&event).into_iter().collect();
    let json = told(Some(&event), &shown);
    made(
        Membership::Leave,
        NewEnvelope {
            origin_ts_ms: now,
            room_id: Some(room_id.as_str()),
            event_id: Some(&event_id),
            sender: Some(user.as_str()),
            event_type: Some(MEMBER),
            state_key: Some(user.as_str()),
            body_part: Part::Present(&json),
            ..NewEnvelope::default()
        },
    )
}

/// Milliseconds, of which JSON has enough for a while.
fn integer(ms: u64) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(ruma::Int::try_from(ms).unwrap_or(ruma::Int::MAX))
}

fn made(membership: Membership, envelope: NewEnvelope<'_>) -> NewRecord {
    let body = codec::encode(&InputOutsideMembership { membership });
    let source = match envelope.origin {
        Some(_) => Source::Federation,
        None => Source::Client,
    };
    let envelope = NewEnvelope {
        received_us: clock::now_us(),
        key: envelope.room_id.unwrap_or_default(),
        body: &body,
        salt: random::bytes(),
        ..envelope
    };
    NewRecord::new(Kind::InputOutsideMembership, source, &envelope)
}

/// The JSON of the body part.
fn told(event: Option<&CanonicalJsonObject>, state: &[CanonicalJsonObject]) -> Vec<u8> {
    let mut out = b"{".to_vec();
    if let Some(event) = event {
        out.extend_from_slice(b"\"event\":");
        write_object(&mut out, event);
        out.push(b',');
    }
    out.extend_from_slice(b"\"state\":[");
    for (index, event) in state.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_object(&mut out, event);
    }
    out.extend_from_slice(b"]}");
    out
}

/// What is kept of the state: whom the event is from, what describes the room,
/// and the event itself, as clients are shown them.
fn stripped(event: &Pdu, state: &[CanonicalJsonObject]) -> Vec<CanonicalJsonObject> {
    // Whatever else was sent, and each once.
    let mut wanted: Vec<(&str, &str)> = DESCRIBING.map(|kind| (kind, "")).to_vec();
    if event.state_key.as_deref() != Some(event.sender.as_str()) {
        wanted.push((MEMBER, event.sender.as_str()));
    }
    let own = strip(event.object());
    let mut bytes = 0;
    let mut kept = Vec::with_capacity(wanted.len() + 1);
    for (kind, state_key) in wanted {
        let found = state.iter().find(|event| {
            text(event, "type") == Some(kind) && text(event, "state_key") == Some(state_key)
        });
        let Some(event) = found.and_then(strip) else {
            continue;
        };
        bytes += to_bytes(&event).len();
        if bytes > STATE_BYTES_MAX {
            break;
        }
        kept.push(event);
    }
    kept.extend(own);
    kept
}

/// The four fields that stripped state has; none if one is missing.
fn strip(event: &CanonicalJsonObject) -> Option<CanonicalJsonObject> {
    let mut stripped = CanonicalJsonObject::new();
    for field in ["type", "state_key", "sender", "content"] {
        stripped.insert(field.to_owned(), event.get(field)?.clone());
    }
    text(event, "sender")?;
    event.get("content")?.as_object()?;
    Some(stripped)
}

fn text<'a>(event: &'a CanonicalJsonObject, field: &str) -> Option<&'a str> {
    event.get(field).and_then(CanonicalJsonValue::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::matrix::RoomVersion;
    use crate::matrix::canonical_json::parse_object;

    fn object(json: &Value) -> CanonicalJsonObject {
        parse_object(json.to_string().as_bytes()).expect("an object")
    }

    fn invite() -> Pdu {
        let event = json!({
            "type": MEMBER, "room_id": "!r:b", "sender": "@b:b", "state_key": "@a:a",
            "content": {"membership": "invite"}, "depth": 3, "origin_server_ts": 5,
            "prev_events": ["$p"], "auth_events": ["$c"],
            "hashes": {"sha256": "x"}, "signatures": {"b": {"ed25519:1": "x"}},
        });
        Pdu::from_object(RoomVersion::V11, object(&event)).expect("an event")
    }

    fn kept(state: &[Value]) -> Vec<Value> {
        let state: Vec<_> = state.iter().map(object).collect();
        let record = record(&invite(), &state, None).expect("a member event");
        let envelope = log_format::record::Envelope::parse(&record.payload).expect("an envelope");
        let told: Value =
            serde_json::from_slice(envelope.body_part.bytes().expect("a body")).expect("JSON");
        assert_eq!(told["event"]["sender"], "@b:b");
        told["state"].as_array().expect("a list").clone()
    }

    /// Row *Ignored users, knock, invite* of the security page: stripped state
    /// holds only what is recommended, in its four fields.
    #[test]
    fn nothing_is_kept_but_what_describes_the_room() {
        let event = |kind: &str, key: &str, more: &str| {
            json!({"type": kind, "state_key": key, "sender": "@b:b",
                   "content": {"said": more}, "unsigned": {"x": 1}, "event_id": "$x"})
        };
        let state = kept(&[
            event("m.room.name", "", "first"),
            event("m.room.name", "", "second"),
            event("m.room.name", "other", "third"),
            event(MEMBER, "@b:b", "inviter"),
            event(MEMBER, "@c:b", "bystander"),
            event("org.example.secret", "", "no"),
            json!({"type": "m.room.topic", "state_key": "", "content": {}}),
            json!({"type": "m.room.avatar", "state_key": "", "sender": "@b:b", "content": 5}),
        ]);
        let said: Vec<_> = state
            .iter()
            .map(|event| &event["content"]["said"])
            .collect();
        assert_eq!(said, [&json!("first"), &json!("inviter"), &Value::Null]);
        assert_eq!(state[2]["content"]["membership"], "invite");
        assert!(
            state
                .iter()
                .all(|event| event.as_object().unwrap().len() == 4)
        );
        let huge = "x".repeat(STATE_BYTES_MAX);
        assert_eq!(kept(&[event("m.room.name", "", &huge)]).len(), 1);
    }
}
