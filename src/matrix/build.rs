//! Makes new events of our own: hash, redacted form, id and signature in one go.
//!
//! The members of an event are known and their order is fixed, so its bytes
//! are written directly, four times over, instead of cloning JSON trees.

use base64::Engine;
use ruma::room_version_rules::EventsReferenceFormatVersion;
use sha2::{Digest, Sha256};

use super::canonical_json::{
    CanonicalJsonObject, CanonicalJsonValue, write_integer, write_object, write_string,
};
use super::ids::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, ServerName, room_id_of_create};
use super::redaction::{auth_extract, redacted_content};
use super::room_version::RoomVersion;
use super::signing::{event_id_of_hash, reference_hash};
use crate::crypto::ServerKey;
use crate::crypto::signing_key::BASE64;
use crate::limits::{
    AUTH_EVENTS_MAX, EVENT_TYPE_BYTES_MAX, ID_BYTES_MAX, INTEGER_MAX, PDU_BYTES_MAX,
    PREV_EVENTS_MAX, STATE_KEY_BYTES_MAX,
};

/// Why an event cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error("{0} is too long")]
    TooLong(&'static str),
    #[error("event has {0} bytes, more than 65536")]
    TooLarge(usize),
    #[error("{0} names too many events")]
    TooManyReferences(&'static str),
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    #[error("room id is missing")]
    NoRoomId,
    #[error("a create event of this version makes its room id")]
    RoomIdOnCreate,
    #[error("events of this version need a random localpart")]
    NoEventLocalpart,
    #[error("event id could not be made")]
    BadEventId,
}

/// A reference to an earlier event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRef {
    pub event_id: OwnedEventId,
    /// Base64 of the event's reference hash, which versions 1 and 2 cite beside
    /// the id; left out there if it is none. Later versions do not look at it.
    pub hash: Option<Box<str>>,
}

impl EventRef {
    /// A reference to an event, whole or redacted, as its version writes it.
    pub fn to(version: RoomVersion, event_id: &EventId, event: &CanonicalJsonObject) -> EventRef {
        let rules = version.rules();
        let pairs = rules.events_reference_format == EventsReferenceFormatVersion::V1;
        EventRef {
            event_id: event_id.to_owned(),
            hash: pairs.then(|| BASE64.encode(reference_hash(rules, event)).into()),
        }
    }
}

/// `prev_events` or `auth_events` as an event of this version has them.
pub fn references(version: RoomVersion, cited: &[EventRef]) -> CanonicalJsonValue {
    let pairs = version.rules().events_reference_format == EventsReferenceFormatVersion::V1;
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let reference = |cited: &EventRef| {
        let id = text(cited.event_id.as_str());
        if !pairs {
            return id;
        }
        let hash = cited.hash.iter();
        let hashes = hash.map(|hash| ("sha256".to_owned(), text(hash))).collect();
        CanonicalJsonValue::Array(vec![id, CanonicalJsonValue::Object(hashes)])
    };
    CanonicalJsonValue::Array(cited.iter().map(reference).collect())
}

impl From<OwnedEventId> for EventRef {
    fn from(event_id: OwnedEventId) -> EventRef {
        EventRef {
            event_id,
            hash: None,
        }
    }
}

/// An event before it has hashes, id and signatures.
#[derive(Clone, Debug)]
pub struct ProtoEvent {
    /// None exactly for the create event of version 12.
    pub room_id: Option<OwnedRoomId>,
    pub sender: OwnedUserId,
    pub kind: Box<str>,
    pub state_key: Option<Box<str>>,
    pub content: CanonicalJsonObject,
    /// What a redaction redacts; put where the version keeps it.
    pub redacts: Option<OwnedEventId>,
    pub prev_events: Vec<EventRef>,
    pub auth_events: Vec<EventRef>,
    pub depth: u64,
    /// Milliseconds since the epoch.
    pub origin_server_ts: u64,
    /// Random part of the event id; used by versions 1 and 2 alone.
    pub event_localpart: Option<Box<str>>,
}

/// A signed event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltEvent {
    pub event_id: OwnedEventId,
    pub room_id: OwnedRoomId,
    /// Canonical JSON with hashes and signatures.
    pub json: Vec<u8>,
    /// Canonical JSON of the redacted form, with hashes and signatures.
    pub skeleton: Vec<u8>,
    /// What the skeleton lacks and the auth rules read ([`auth_extract`]).
    pub auth_extract: Option<Vec<u8>>,
    /// Base64 of the reference hash, in versions 1 and 2, whose events cite it.
    pub reference_hash: Option<Box<str>>,
}

impl BuiltEvent {
    /// The event as later ones cite it.
    pub fn reference(&self) -> EventRef {
        EventRef {
            event_id: self.event_id.clone(),
            hash: self.reference_hash.clone(),
        }
    }
}

/// Hashes, names and signs an event in the name of `server`.
///
/// Source: server-server API, *Adding hashes and signatures to outgoing events*.
/// Errors: limits of size and shape; the event is not looked at otherwise.
pub fn build_and_sign(
    version: RoomVersion,
    mut proto: ProtoEvent,
    server: &ServerName,
    key: &ServerKey,
) -> Result<BuiltEvent, BuildError> {
    check_limits(version, &proto)?;
    let rules = version.rules();
    let mut top_level_redacts = None;
    if let Some(target) = proto.redacts.take() {
        if rules.redaction.content_field_redacts {
            let target = CanonicalJsonValue::String(target.into());
            proto.content.insert("redacts".to_owned(), target);
        } else {
            top_level_redacts = Some(target);
        }
    }
    let own_id = match (version.has_event_id_field(), &proto.event_localpart) {
        (false, _) => None,
        (true, None) => return Err(BuildError::NoEventLocalpart),
        (true, Some(localpart)) => Some(event_id(&format!("${localpart}:{server}"))?),
    };

    let extract = auth_extract(version, &proto.kind, &proto.content);
    let redacted = object_bytes(&redacted_content(
        &rules.redaction,
        &proto.kind,
        &proto.content,
    ));
    let content = object_bytes(&proto.content);
    let pairs = rules.events_reference_format == EventsReferenceFormatVersion::V1;
    let members = Members {
        auth_events: reference_bytes(&proto.auth_events, pairs),
        prev_events: reference_bytes(&proto.prev_events, pairs),
        event_id: own_id.as_ref(),
        proto: &proto,
    };

    let redacts = top_level_redacts.as_ref();
    let hash = Sha256::digest(members.write(&content, redacts, None, None));
    let hash = BASE64.encode(hash);
    // Redaction strips a top-level `redacts` (all versions).
    let signed = members.write(&redacted, None, Some(&hash), None);
    let reference_hash: [u8; 32] = Sha256::digest(&signed).into();
    let event_id = match own_id {
        Some(ref id) => id.clone(),
        None => event_id_of_hash(rules, &reference_hash).ok_or(BuildError::BadEventId)?,
    };
    let room_id = match &proto.room_id {
        Some(room) => room.clone(),
        None => room_id_of_create(&event_id).map_err(|_| BuildError::BadEventId)?,
    };
    let signature = key.sign_base64(&signed);
    let signature = Some((server.as_str(), key.key_id(), signature.as_str()));
    let json = members.write(&content, redacts, Some(&hash), signature);
    if json.len() > PDU_BYTES_MAX {
        return Err(BuildError::TooLarge(json.len()));
    }
    Ok(BuiltEvent {
        skeleton: members.write(&redacted, None, Some(&hash), signature),
        auth_extract: extract.as_ref().map(object_bytes),
        reference_hash: pairs.then(|| BASE64.encode(reference_hash).into()),
        event_id,
        room_id,
        json,
    })
}

fn check_limits(version: RoomVersion, proto: &ProtoEvent) -> Result<(), BuildError> {
    let makes_room_id = &*proto.kind == "m.room.create" && version.room_id_is_create_hash();
    match (&proto.room_id, makes_room_id) {
        (None, false) => return Err(BuildError::NoRoomId),
        (Some(_), true) => return Err(BuildError::RoomIdOnCreate),
        _ => {}
    }
    if proto.kind.len() > EVENT_TYPE_BYTES_MAX {
        return Err(BuildError::TooLong("type"));
    }
    if proto
        .state_key
        .as_ref()
        .is_some_and(|key| key.len() > STATE_KEY_BYTES_MAX)
    {
        return Err(BuildError::TooLong("state_key"));
    }
    if proto.sender.as_str().len() > ID_BYTES_MAX {
        return Err(BuildError::TooLong("sender"));
    }
    if proto.prev_events.len() > PREV_EVENTS_MAX {
        return Err(BuildError::TooManyReferences("prev_events"));
    }
    if proto.auth_events.len() > AUTH_EVENTS_MAX {
        return Err(BuildError::TooManyReferences("auth_events"));
    }
    for (field, value) in [
        ("depth", proto.depth),
        ("origin_server_ts", proto.origin_server_ts),
    ] {
        if value > INTEGER_MAX.unsigned_abs() {
            return Err(BuildError::OutOfRange(field));
        }
    }
    Ok(())
}

fn event_id(text: &str) -> Result<OwnedEventId, BuildError> {
    OwnedEventId::try_from(text).map_err(|_| BuildError::BadEventId)
}

fn object_bytes(object: &CanonicalJsonObject) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    write_object(&mut bytes, object);
    bytes
}

/// `prev_events` or `auth_events` as they stand in the event.
fn reference_bytes(references: &[EventRef], pairs: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + 48 * references.len());
    out.push(b'[');
    for (index, reference) in references.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if !pairs {
            write_string(&mut out, reference.event_id.as_str());
            continue;
        }
        out.push(b'[');
        write_string(&mut out, reference.event_id.as_str());
        out.extend_from_slice(b",{");
        if let Some(hash) = &reference.hash {
            out.extend_from_slice(b"\"sha256\":");
            write_string(&mut out, hash);
        }
        out.extend_from_slice(b"}]");
    }
    out.push(b']');
    out
}

/// The members that are the same in all forms of one event.
struct Members<'a> {
    auth_events: Vec<u8>,
    prev_events: Vec<u8>,
    event_id: Option<&'a OwnedEventId>,
    proto: &'a ProtoEvent,
}

impl Members<'_> {
    /// The event's canonical bytes with this content and these optional members.
    /// Keys are written in the order that canonical JSON asks for.
    fn write(
        &self,
        content: &[u8],
        redacts: Option<&OwnedEventId>,
        hash: Option<&str>,
        signature: Option<(&str, &str, &str)>,
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(
            512 + content.len() + self.auth_events.len() + self.prev_events.len(),
        );
        out.extend_from_slice(b"{\"auth_events\":");
        out.extend_from_slice(&self.auth_events);
        out.extend_from_slice(b",\"content\":");
        out.extend_from_slice(content);
        write_number_member(&mut out, "depth", self.proto.depth);
        if let Some(id) = self.event_id {
            write_member(&mut out, "event_id", id.as_str());
        }
        if let Some(hash) = hash {
            out.extend_from_slice(b",\"hashes\":{\"sha256\":\"");
            out.extend_from_slice(hash.as_bytes());
            out.extend_from_slice(b"\"}");
        }
        write_number_member(&mut out, "origin_server_ts", self.proto.origin_server_ts);
        out.extend_from_slice(b",\"prev_events\":");
        out.extend_from_slice(&self.prev_events);
        if let Some(target) = redacts {
            write_member(&mut out, "redacts", target.as_str());
        }
        if let Some(room) = &self.proto.room_id {
            write_member(&mut out, "room_id", room.as_str());
        }
        write_member(&mut out, "sender", self.proto.sender.as_str());
        if let Some((server, key_id, signature)) = signature {
            out.extend_from_slice(b",\"signatures\":{");
            write_string(&mut out, server);
            out.extend_from_slice(b":{");
            write_string(&mut out, key_id);
            out.push(b':');
            write_string(&mut out, signature);
            out.extend_from_slice(b"}}");
        }
        if let Some(key) = &self.proto.state_key {
            write_member(&mut out, "state_key", key);
        }
        write_member(&mut out, "type", &self.proto.kind);
        out.push(b'}');
        out
    }
}

fn write_member(out: &mut Vec<u8>, key: &str, value: &str) {
    out.push(b',');
    write_string(out, key);
    out.push(b':');
    write_string(out, value);
}

fn write_number_member(out: &mut Vec<u8>, key: &str, value: u64) {
    out.push(b',');
    write_string(out, key);
    out.push(b':');
    // `check_limits` bounds both numbers to 2^53 - 1.
    write_integer(out, i64::try_from(value).unwrap_or(INTEGER_MAX));
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, server_name, user_id};

    use super::super::canonical_json::{for_ruma, parse_object, to_bytes};
    use super::super::event::Pdu;
    use super::super::redaction::redact;
    use super::super::signing::{Verified, hash_and_sign_event, verify_event};
    use super::*;

    fn key() -> ServerKey {
        ServerKey::from_seed([7; 32], "a_1")
    }

    fn proto(
        version: RoomVersion,
        kind: &str,
        state_key: Option<&str>,
        content: &str,
    ) -> ProtoEvent {
        let create = kind == "m.room.create";
        let reference = |id: &str| EventRef {
            event_id: OwnedEventId::try_from(id).expect("valid"),
            hash: Some("aGFzaA".into()),
        };
        ProtoEvent {
            room_id: (!(create && version.room_id_is_create_hash()))
                .then(|| room_id!("!r:hs").to_owned()),
            sender: user_id!("@alice:hs").to_owned(),
            kind: kind.into(),
            state_key: state_key.map(Into::into),
            content: parse_object(content.as_bytes()).expect("parses"),
            redacts: (kind == "m.room.redaction")
                .then(|| OwnedEventId::try_from("$target").expect("valid")),
            prev_events: if create {
                vec![]
            } else {
                vec![reference("$p1"), reference("$p2")]
            },
            auth_events: if create {
                vec![]
            } else {
                vec![reference("$a1")]
            },
            depth: 12,
            origin_server_ts: 1_700_000_000_000,
            event_localpart: Some("Abc".into()),
        }
    }

    const SAMPLES: [(&str, Option<&str>, &str); 6] = [
        (
            "m.room.message",
            None,
            r#"{"body":"hi \"there\"\n","msgtype":"m.text"}"#,
        ),
        (
            "m.room.create",
            Some(""),
            r#"{"creator":"@alice:hs","room_version":"x","m.federate":true}"#,
        ),
        (
            "m.room.member",
            Some("@alice:hs"),
            r#"{"membership":"join","displayname":"Älice","join_authorised_via_users_server":"@b:hs"}"#,
        ),
        (
            "m.room.power_levels",
            Some(""),
            r#"{"users":{"@alice:hs":100},"invite":50,"notifications":{"room":20}}"#,
        ),
        ("m.room.redaction", None, r#"{"reason":"spam"}"#),
        ("org.example.\u{1}odd", Some("ke\"y"), "{}"),
    ];

    /// The fast road and the general one, written independently, agree byte by byte.
    #[test]
    fn a_built_event_is_what_the_general_road_makes() {
        for version in RoomVersion::all() {
            for (kind, state_key, content) in SAMPLES {
                let built = build_and_sign(
                    version,
                    proto(version, kind, state_key, content),
                    server_name!("hs"),
                    &key(),
                )
                .expect("builds");
                let object = parse_object(&built.json).expect("is JSON");
                assert_eq!(to_bytes(&object), built.json, "canonical");
                let mut again = object.clone();
                again.remove("hashes");
                again.remove("signatures");
                hash_and_sign_event(version, &mut again, server_name!("hs"), &key());
                assert_eq!(to_bytes(&again), built.json, "{version} {kind}");

                let redacted = redact(&version.rules().redaction, &object);
                assert_eq!(to_bytes(&redacted), built.skeleton, "{version} {kind}");
                let pdu = Pdu::parse(version, &built.json).expect("valid");
                assert_eq!(pdu.event_id, built.event_id);
                assert_eq!(pdu.room_id, built.room_id);
                assert_eq!(pdu.redacts.is_some(), kind == "m.room.redaction");
                assert_eq!(pdu.auth_extract(), built.auth_extract);
                let public = *key().verifying_key().as_bytes();
                assert_eq!(
                    verify_event(version, &object, |_, _| Some(public)),
                    Ok(Verified::Whole)
                );
            }
        }
    }

    #[test]
    fn ruma_accepts_our_hashes_and_signatures() {
        use ruma::signatures::{PublicKeyMap, PublicKeySet};
        for version in RoomVersion::all() {
            for (kind, state_key, content) in SAMPLES {
                let built = build_and_sign(
                    version,
                    proto(version, kind, state_key, content),
                    server_name!("hs"),
                    &key(),
                )
                .expect("builds");
                let public = ruma::serde::Base64::new(key().verifying_key().as_bytes().to_vec());
                let set = PublicKeySet::from([("ed25519:a_1".to_owned(), public)]);
                let keys = PublicKeyMap::from([("hs".to_owned(), set)]);
                let object = parse_object(&built.json).expect("is JSON");
                let verified =
                    ruma::signatures::verify_event(&keys, &for_ruma(&object), version.rules())
                        .expect("verifies");
                assert_eq!(
                    verified,
                    ruma::signatures::Verified::All,
                    "{version} {kind}"
                );
            }
        }
    }

    /// Versions 1 and 2 cite events with their hashes, which anybody can check.
    #[test]
    fn events_are_cited_as_their_version_writes_it() {
        for version in RoomVersion::all() {
            let build = |proto| build_and_sign(version, proto, server_name!("hs"), &key());
            let first = build(proto(version, "m.x", None, "{}")).expect("builds");
            let mut next = proto(version, "m.x", None, r#"{"b":1}"#);
            next.prev_events = vec![first.reference()];
            next.auth_events = vec![first.reference()];
            let next = parse_object(&build(next).expect("builds").json).expect("is JSON");
            let id = first.event_id.as_str();
            let cited = if version <= RoomVersion::V2 {
                let pdu = Pdu::parse(version, &first.json).expect("valid");
                assert_eq!(pdu.reference(), first.reference());
                let object = parse_object(&first.skeleton).expect("is JSON");
                assert_eq!(
                    EventRef::to(version, &first.event_id, &object),
                    first.reference()
                );
                let theirs =
                    ruma::signatures::reference_hash(&for_ruma(pdu.object()), version.rules());
                let hash = theirs.expect("hashes");
                format!(r#"{{"e":[["{id}",{{"sha256":"{hash}"}}]]}}"#)
            } else {
                format!(r#"{{"e":["{id}"]}}"#)
            };
            let cited = parse_object(cited.as_bytes()).expect("is JSON");
            assert_eq!(next["prev_events"], cited["e"], "{version}");
            assert_eq!(next["auth_events"], cited["e"], "{version}");
        }
    }

    #[test]
    fn limits_are_kept_and_the_largest_event_is_allowed() {
        let version = RoomVersion::V11;
        let build = |proto| build_and_sign(version, proto, server_name!("hs"), &key());
        let with_body = |size: usize| {
            proto(
                version,
                "m.x",
                None,
                &format!("{{\"b\":\"{}\"}}", "x".repeat(size)),
            )
        };
        let bare = build(with_body(0)).expect("builds").json.len();
        assert_eq!(
            build(with_body(PDU_BYTES_MAX - bare))
                .expect("builds")
                .json
                .len(),
            PDU_BYTES_MAX
        );
        assert_eq!(
            build(with_body(PDU_BYTES_MAX - bare + 1)),
            Err(BuildError::TooLarge(PDU_BYTES_MAX + 1))
        );
        assert_eq!(
            build(proto(version, &"x".repeat(256), None, "{}")),
            Err(BuildError::TooLong("type"))
        );
        assert_eq!(
            build(proto(version, "m.x", Some(&"ä".repeat(128)), "{}")),
            Err(BuildError::TooLong("state_key"))
        );
        let mut nowhere = proto(version, "m.x", None, "{}");
        nowhere.room_id = None;
        assert_eq!(build(nowhere), Err(BuildError::NoRoomId));
    }
}
