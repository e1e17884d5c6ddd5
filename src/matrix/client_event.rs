//! Events as clients get them: the federation format without what only servers
//! need, and with `unsigned` made here (client-server API, *Room event format*).
//!
//! Bytes are scanned at the top level alone and copied; the content is never
//! turned into a tree, except in the one case that must insert into it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Membership;
use super::canonical_json::write_string;
use super::ids::{EventId, RoomId};

/// The type of redactions as it stands in JSON.
const QUOTED_REDACTION_TYPE: &str = "\"m.room.redaction\"";

/// An event that is stored is no JSON of an event.
#[derive(Debug, thiserror::Error)]
#[error("event could not be read: {0}")]
pub struct FormatError(#[from] serde_json::Error);

/// The members of a PDU that clients see, borrowed from its JSON.
#[derive(Debug, Deserialize)]
struct PduMembers<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    origin_server_ts: &'a RawValue,
    #[serde(borrow)]
    sender: &'a RawValue,
    #[serde(borrow)]
    state_key: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: &'a RawValue,
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
}

/// What this server adds under `unsigned`, for one event and one reader.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unsigned<'a> {
    /// Milliseconds since the event was sent, by our clock; may be negative.
    pub age: Option<i64>,
    /// Only for the device that sent the event.
    pub transaction_id: Option<&'a str>,
    /// JSON of the content that a state event replaced, if the reader may see it.
    pub prev_content: Option<&'a str>,
    /// The state event that this one replaced.
    pub replaces_state: Option<&'a EventId>,
    /// Client format of the redaction that was applied.
    pub redacted_because: Option<&'a str>,
    /// The redaction's id: not in the specification, but what other servers give
    /// and clients have read since before that.
    pub redacted_by: Option<&'a EventId>,
    /// The reader's membership at the event, changes by it included.
    pub membership: Option<Membership>,
    /// JSON object of aggregations, `m.relations`.
    pub relations: Option<&'a str>,
}

/// How an event is to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Format<'a> {
    pub event_id: &'a EventId,
    /// Present everywhere but in `/sync`, where the room is known.
    pub room_id: Option<&'a RoomId>,
    pub unsigned: Unsigned<'a>,
}

/// Formats a PDU for clients.
///
/// Shape: JSON text of *ClientEvent*, or *ClientEventWithoutRoomID*.
/// A redaction names its target both in `content` and at the top level,
/// whatever its room version does (room version 11, *Moving the redacts property*).
/// Errors: the bytes are no PDU, which for a stored event means damage.
pub fn client_event(pdu: &[u8], format: &Format<'_>) -> Result<Box<RawValue>, FormatError> {
    let members: PduMembers<'_> = serde_json::from_slice(pdu)?;
    let mut out = Vec::with_capacity(pdu.len() + 128);
    out.extend_from_slice(b"{\"content\":");
    let redacts = if members.kind.get() == QUOTED_REDACTION_TYPE {
        let (content, redacts) = redaction_members(&members)?;
        out.extend_from_slice(content.as_bytes());
        redacts
    } else {
        out.extend_from_slice(members.content.get().as_bytes());
        None
    };
    write_text(&mut out, "event_id", format.event_id.as_str());
    write_raw(&mut out, "origin_server_ts", members.origin_server_ts.get());
    if let Some(target) = redacts {
        write_raw(&mut out, "redacts", &target);
    }
    if let Some(room) = format.room_id {
        write_text(&mut out, "room_id", room.as_str());
    }
    write_raw(&mut out, "sender", members.sender.get());
    if let Some(state_key) = members.state_key {
        write_raw(&mut out, "state_key", state_key.get());
    }
    write_raw(&mut out, "type", members.kind.get());
    write_unsigned(&mut out, &format.unsigned);
    out.push(b'}');
    into_raw(out)
}

/// The stripped form of a state event, for invites, knocks and previews
/// (client-server API, *Stripped state*).
pub fn stripped_state(pdu: &[u8]) -> Result<Box<RawValue>, FormatError> {
    let members: PduMembers<'_> = serde_json::from_slice(pdu)?;
    let mut out = Vec::with_capacity(pdu.len());
    out.extend_from_slice(b"{\"content\":");
    out.extend_from_slice(members.content.get().as_bytes());
    write_raw(&mut out, "sender", members.sender.get());
    write_raw(
        &mut out,
        "state_key",
        members.state_key.map_or("\"\"", RawValue::get),
    );
    write_raw(&mut out, "type", members.kind.get());
    out.push(b'}');
    into_raw(out)
}

/// JSON text of a PDU's content, borrowed from its bytes.
pub fn content_of(pdu: &[u8]) -> Result<&str, FormatError> {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        content: &'a RawValue,
    }
    let members: Content<'_> = serde_json::from_slice(pdu)?;
    Ok(members.content.get())
}

/// Whether a PDU's content has a `url` that is a string (filters, `contains_url`).
pub fn content_has_url(pdu: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Url<'a> {
        #[serde(borrow)]
        url: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        content: Url<'a>,
    }
    let parsed: Result<Content<'_>, _> = serde_json::from_slice(pdu);
    parsed.is_ok_and(|event| {
        event
            .content
            .url
            .is_some_and(|url| url.get().starts_with('"'))
    })
}

/// A redaction's content with `redacts` in it, and its target for the top level.
fn redaction_members<'a>(
    members: &PduMembers<'a>,
) -> Result<(Cow<'a, str>, Option<Cow<'a, str>>), FormatError> {
    let content = members.content.get();
    let mut object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(content)?;
    if let Some(target) = object.get("redacts") {
        // Version 11 and later keep it in the content.
        let target = target.is_string().then(|| Cow::Owned(target.to_string()));
        return Ok((Cow::Borrowed(content), target));
    }
    let Some(target) = members.redacts else {
        return Ok((Cow::Borrowed(content), None));
    };
    object.insert("redacts".to_owned(), serde_json::from_str(target.get())?);
    Ok((
        Cow::Owned(serde_json::to_string(&object)?),
        Some(Cow::Borrowed(target.get())),
    ))
}

fn into_raw(json: Vec<u8>) -> Result<Box<RawValue>, FormatError> {
    let text = String::from_utf8(json).map_err(<serde_json::Error as serde::de::Error>::custom)?;
    Ok(RawValue::from_string(text)?)
}

fn write_raw(out: &mut Vec<u8>, key: &str, json: &str) {
    if !out.ends_with(b"{") {
        out.push(b',');
    }
    write_string(out, key);
    out.push(b':');
    out.extend_from_slice(json.as_bytes());
}

fn write_text(out: &mut Vec<u8>, key: &str, text: &str) {
    write_raw(out, key, "");
    write_string(out, text);
}

fn write_unsigned(out: &mut Vec<u8>, unsigned: &Unsigned<'_>) {
    let before = out.len();
    out.extend_from_slice(b",\"unsigned\":{");
    let start = out.len();
    if let Some(age) = unsigned.age {
        write_raw(out, "age", &age.to_string());
    }
    if let Some(membership) = unsigned.membership {
        write_text(out, "membership", membership.as_str());
    }
    for (key, json) in [
        ("m.relations", unsigned.relations),
        ("prev_content", unsigned.prev_content),
        ("redacted_because", unsigned.redacted_because),
    ] {
        if let Some(json) = json {
            write_raw(out, key, json);
        }
    }
    if let Some(redaction) = unsigned.redacted_by {
        write_text(out, "redacted_by", redaction.as_str());
    }
    if let Some(replaced) = unsigned.replaces_state {
        write_text(out, "replaces_state", replaced.as_str());
    }
    if let Some(transaction) = unsigned.transaction_id {
        write_text(out, "transaction_id", transaction);
    }
    if out.len() == start {
        out.truncate(before);
    } else {
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, room_id};
    use serde_json::{Value, json};

    use super::*;

    const PDU: &str = r#"{"auth_events":["$a"],"content":{"body":"x \"y\"","url":"mxc://a/b"},"depth":3,"hashes":{"sha256":"h"},"origin":"hs","origin_server_ts":5,"prev_events":["$p"],"room_id":"!r:hs","sender":"@a:hs","signatures":{"hs":{"ed25519:1":"s"}},"type":"m.room.message","unsigned":{"age":1,"evil":1}}"#;

    fn shown(pdu: &str, room: bool, unsigned: Unsigned<'_>) -> Value {
        let format = Format {
            event_id: event_id!("$e"),
            room_id: room.then_some(room_id!("!r:hs")),
            unsigned,
        };
        let raw = client_event(pdu.as_bytes(), &format).expect("formats");
        serde_json::from_str(raw.get()).expect("is JSON")
    }

    #[test]
    fn clients_see_what_concerns_them() {
        let expected = json!({
            "content": {"body": "x \"y\"", "url": "mxc://a/b"},
            "event_id": "$e", "origin_server_ts": 5, "sender": "@a:hs", "type": "m.room.message",
        });
        assert_eq!(shown(PDU, false, Unsigned::default()), expected);
        let mut with_room = expected.clone();
        with_room["room_id"] = json!("!r:hs");
        assert_eq!(shown(PDU, true, Unsigned::default()), with_room);
    }

    #[test]
    fn unsigned_is_ours_alone() {
        let unsigned = Unsigned {
            age: Some(-7),
            transaction_id: Some("t\"1"),
            prev_content: Some(r#"{"membership":"invite"}"#),
            replaces_state: Some(event_id!("$old")),
            redacted_because: Some(r#"{"type":"m.room.redaction"}"#),
            redacted_by: Some(event_id!("$redaction")),
            membership: Some(Membership::Join),
            relations: Some(r#"{"m.thread":{"count":1}}"#),
        };
        let expected = json!({
            "age": -7, "transaction_id": "t\"1", "prev_content": {"membership": "invite"},
            "replaces_state": "$old", "redacted_because": {"type": "m.room.redaction"}, "redacted_by": "$redaction",
            "membership": "join", "m.relations": {"m.thread": {"count": 1}},
        });
        assert_eq!(shown(PDU, false, unsigned)["unsigned"], expected);
        let one = Unsigned {
            membership: Some(Membership::Leave),
            ..Unsigned::default()
        };
        assert_eq!(
            shown(PDU, false, one)["unsigned"],
            json!({"membership": "leave"})
        );
    }

    #[test]
    fn state_events_keep_their_key() {
        let state = PDU.replace("\"type\"", "\"state_key\":\"\",\"type\"");
        assert_eq!(
            shown(&state, false, Unsigned::default())["state_key"],
            json!("")
        );
        let stripped = stripped_state(state.as_bytes()).expect("formats");
        let stripped: Value = serde_json::from_str(stripped.get()).expect("is JSON");
        let keys: Vec<&String> = stripped.as_object().expect("object").keys().collect();
        assert_eq!(keys, ["content", "sender", "state_key", "type"]);
    }

    #[test]
    fn redactions_name_their_target_in_both_places() {
        let base = |content: &str, extra: &str| {
            format!(
                r#"{{"content":{content},{extra}"origin_server_ts":5,"sender":"@a:hs","type":"m.room.redaction"}}"#
            )
        };
        for pdu in [
            base(r#"{"reason":"spam"}"#, r#""redacts":"$t","#),
            base(r#"{"reason":"spam","redacts":"$t"}"#, ""),
        ] {
            let event = shown(&pdu, false, Unsigned::default());
            assert_eq!(event["redacts"], json!("$t"));
            assert_eq!(event["content"], json!({"reason": "spam", "redacts": "$t"}));
        }
        // A redacted redaction of an old version names nothing any more.
        let event = shown(&base("{}", ""), false, Unsigned::default());
        assert!(event.get("redacts").is_none());
        // `redacts` of other events is none of the specification's.
        let message = PDU.replace("\"room_id\"", "\"redacts\":\"$t\",\"room_id\"");
        assert!(
            shown(&message, false, Unsigned::default())
                .get("redacts")
                .is_none()
        );
    }

    #[test]
    fn parts_can_be_read_alone() {
        assert_eq!(
            content_of(PDU.as_bytes()).expect("reads"),
            r#"{"body":"x \"y\"","url":"mxc://a/b"}"#
        );
        assert!(content_has_url(PDU.as_bytes()));
        assert!(!content_has_url(
            PDU.replace("\"url\":\"mxc://a/b\"", "\"url\":1").as_bytes()
        ));
        assert!(!content_has_url(
            PDU.replace("\"url\"", "\"uri\"").as_bytes()
        ));
        assert!(content_of(b"{}").is_err());
    }
}
