//! A PDU as it was received: parsed, checked for shape and size, with its id.
//!
//! Checks here are those that need nothing but the event and its room version
//! (server-server API, *Checks performed on receipt of a PDU*, step 1).
//! Signatures are checked in [`super::signing`], authority in [`super::auth_rules`].

use ruma::room_version_rules::EventsReferenceFormatVersion;

use super::build::EventRef;
use super::canonical_json::{self, CanonicalJsonObject, CanonicalJsonValue, JsonError, Numbers};
use super::ids::{OwnedEventId, OwnedRoomId, OwnedUserId, room_id_of_create};
use super::redaction::{self, redact, redacts};
use super::room_version::RoomVersion;
use super::signing::{event_id_of_hash, event_id_of_signed, reference_hash};
use crate::limits::{
    AUTH_EVENTS_MAX, EVENT_TYPE_BYTES_MAX, ID_BYTES_MAX, PDU_BYTES_MAX, PREV_EVENTS_MAX,
    STATE_KEY_BYTES_MAX,
};

/// Why some JSON is no event of its room version. Such a PDU is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PduError {
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Whoever parsed the JSON did not know its room version yet.
    #[error("a number is none of canonical JSON")]
    Number,
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} has the wrong type")]
    WrongType(&'static str),
    #[error("{0} is malformed")]
    Malformed(&'static str),
    #[error("{0} is too long")]
    TooLong(&'static str),
    #[error("event has {0} bytes, more than 65536")]
    TooLarge(usize),
    #[error("{field} names {count} events, too many")]
    TooManyReferences { field: &'static str, count: usize },
    #[error("{0} names an event twice")]
    DuplicateReference(&'static str),
    #[error("room_id is present on a create event that makes its room id")]
    RoomIdOnCreate,
}

/// A persistent data unit. `unsigned` is dropped: nothing of it is signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Pdu {
    pub version: RoomVersion,
    pub event_id: OwnedEventId,
    pub room_id: OwnedRoomId,
    pub sender: OwnedUserId,
    pub kind: Box<str>,
    /// Present exactly on state events.
    pub state_key: Option<Box<str>>,
    pub prev_events: Vec<OwnedEventId>,
    pub auth_events: Vec<OwnedEventId>,
    pub depth: u64,
    /// Milliseconds since the epoch, as its server claims.
    pub origin_server_ts: u64,
    /// What a redaction names, from wherever its version keeps it.
    pub redacts: Option<OwnedEventId>,
    object: CanonicalJsonObject,
}

/// What is written of an event to check it, and to name it.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Canonical bytes, with hashes and signatures.
    pub json: Vec<u8>,
    /// The redacted form, with hashes and signatures.
    pub redacted: CanonicalJsonObject,
    /// What its signatures and its reference hash are over.
    pub signed: Vec<u8>,
}

/// The id of what came as an event, whatever else is wrong with it.
pub fn id_of(version: RoomVersion, object: &CanonicalJsonObject) -> Option<OwnedEventId> {
    match version.has_event_id_field() {
        true => OwnedEventId::try_from(object.get("event_id")?.as_str()?).ok(),
        false => {
            let rules = version.rules();
            event_id_of_hash(rules, &reference_hash(rules, object))
        }
    }
}

impl Pdu {
    /// Parses a PDU in the federation format.
    pub fn parse(version: RoomVersion, bytes: &[u8]) -> Result<Pdu, PduError> {
        let numbers = match version.rules().authorization.strict_canonical_json {
            true => Numbers::Strict,
            false => Numbers::Kept,
        };
        Pdu::from_object(version, canonical_json::parse_object_with(bytes, numbers)?)
    }

    /// Checks a PDU in the federation format that was parsed already.
    pub fn from_object(version: RoomVersion, object: CanonicalJsonObject) -> Result<Pdu, PduError> {
        let read = Pdu::read(version, object);
        read.map(|(pdu, _)| pdu).map_err(|(error, _)| error)
    }

    /// [`Pdu::from_object`], with what is written of the event on the way.
    ///
    /// Errors: with the object that is no event.
    pub fn read(
        version: RoomVersion,
        mut object: CanonicalJsonObject,
    ) -> Result<(Pdu, Written), (PduError, CanonicalJsonObject)> {
        object.remove("unsigned");
        match Pdu::parts(version, &object) {
            Ok((mut pdu, written)) => {
                pdu.object = object;
                Ok((pdu, written))
            }
            Err(error) => Err((error, object)),
        }
    }

    /// All of an event but its object.
    fn parts(
        version: RoomVersion,
        object: &CanonicalJsonObject,
    ) -> Result<(Pdu, Written), PduError> {
        let json = canonical_json::to_bytes(object);
        if json.len() > PDU_BYTES_MAX {
            return Err(PduError::TooLarge(json.len()));
        }
        let rules = version.rules();
        let is_strict = rules.authorization.strict_canonical_json;
        if is_strict && !object.values().all(CanonicalJsonValue::is_canonical) {
            return Err(PduError::Number);
        }
        let kind = text(object, "type")?;
        if kind.len() > EVENT_TYPE_BYTES_MAX {
            return Err(PduError::TooLong("type"));
        }
        let state_key = match object.get("state_key") {
            None => None,
            Some(CanonicalJsonValue::String(key)) if key.len() > STATE_KEY_BYTES_MAX => {
                return Err(PduError::TooLong("state_key"));
            }
            Some(CanonicalJsonValue::String(key)) => Some(key.as_str().into()),
            Some(_) => return Err(PduError::WrongType("state_key")),
        };
        let sender = id(object, "sender")?;
        for (field, value) in [
            ("content", "content"),
            ("hashes", "hashes"),
            ("signatures", "signatures"),
        ] {
            match object.get(value) {
                None => return Err(PduError::Missing(field)),
                Some(CanonicalJsonValue::Object(_)) => {}
                Some(_) => return Err(PduError::WrongType(field)),
            }
        }
        let redacted = redact(&rules.redaction, object);
        let signed = canonical_json::to_bytes_without(&redacted, &["signatures", "unsigned"]);
        let event_id = match version.has_event_id_field() {
            true => id(object, "event_id")?,
            false => event_id_of_signed(rules, &signed).ok_or(PduError::Malformed("event_id"))?,
        };
        let room_id = if kind == "m.room.create" && version.room_id_is_create_hash() {
            // Version 12, authorization rule 1.2.
            if object.contains_key("room_id") {
                return Err(PduError::RoomIdOnCreate);
            }
            room_id_of_create(&event_id).map_err(|_| PduError::Malformed("room_id"))?
        } else {
            id(object, "room_id")?
        };
        let redacts = match redacts(&rules.redaction, object) {
            Some(target) if kind == redaction::REDACTION_TYPE => {
                Some(OwnedEventId::try_from(target).map_err(|_| PduError::Malformed("redacts"))?)
            }
            _ => None,
        };
        let pdu = Pdu {
            version,
            event_id,
            room_id,
            sender,
            kind: kind.into(),
            state_key,
            prev_events: references(version, object, "prev_events", PREV_EVENTS_MAX)?,
            auth_events: references(version, object, "auth_events", AUTH_EVENTS_MAX)?,
            depth: unsigned_integer(object, "depth")?,
            origin_server_ts: unsigned_integer(object, "origin_server_ts")?,
            redacts,
            object: CanonicalJsonObject::new(),
        };
        let written = Written {
            json,
            redacted,
            signed,
        };
        Ok((pdu, written))
    }

    /// The whole event, without `unsigned`.
    pub fn object(&self) -> &CanonicalJsonObject {
        &self.object
    }

    /// The event's content.
    pub fn content(&self) -> &CanonicalJsonObject {
        match self.object.get("content") {
            Some(CanonicalJsonValue::Object(content)) => content,
            // `from_object` lets no other through.
            _ => unreachable!("content was checked to be an object"),
        }
    }

    /// A string of the content.
    pub fn content_str(&self, key: &str) -> Option<&str> {
        self.content().get(key)?.as_str()
    }

    /// `content.membership` of a member event.
    pub fn membership(&self) -> Option<super::Membership> {
        if &*self.kind != "m.room.member" {
            return None;
        }
        super::Membership::parse(self.content_str("membership")?)
    }

    /// Whether the event changes room state.
    pub fn is_state(&self) -> bool {
        self.state_key.is_some()
    }

    /// The event as later ones cite it: in versions 1 and 2 with its hash.
    pub fn reference(&self) -> EventRef {
        EventRef::to(self.version, &self.event_id, &self.object)
    }

    /// The canonical bytes, with hashes and signatures.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical_json::to_bytes(&self.object)
    }

    /// The canonical bytes of the redacted form, with hashes and signatures.
    pub fn skeleton(&self) -> Vec<u8> {
        canonical_json::to_bytes(&redact(&self.version.rules().redaction, &self.object))
    }

    /// What the skeleton lacks and the auth rules read, as canonical bytes.
    pub fn auth_extract(&self) -> Option<Vec<u8>> {
        redaction::auth_extract(self.version, &self.kind, self.content())
            .map(|extract| canonical_json::to_bytes(&extract))
    }

    /// The same event in its redacted form. The id stays: it is over that form.
    pub fn redacted(&self) -> Pdu {
        let object = redact(&self.version.rules().redaction, &self.object);
        let redacts = self
            .redacts
            .clone()
            .filter(|_| redacts(&self.version.rules().redaction, &object).is_some());
        Pdu {
            object,
            redacts,
            ..self.clone()
        }
    }
}

fn text<'a>(object: &'a CanonicalJsonObject, field: &'static str) -> Result<&'a str, PduError> {
    match object.get(field) {
        None => Err(PduError::Missing(field)),
        Some(CanonicalJsonValue::String(text)) => Ok(text),
        Some(_) => Err(PduError::WrongType(field)),
    }
}

fn id<I: for<'a> TryFrom<&'a str>>(
    object: &CanonicalJsonObject,
    field: &'static str,
) -> Result<I, PduError> {
    let text = text(object, field)?;
    if text.len() > ID_BYTES_MAX {
        return Err(PduError::TooLong(field));
    }
    I::try_from(text).map_err(|_| PduError::Malformed(field))
}

fn unsigned_integer(object: &CanonicalJsonObject, field: &'static str) -> Result<u64, PduError> {
    match object.get(field) {
        None => Err(PduError::Missing(field)),
        Some(CanonicalJsonValue::Integer(integer)) => {
            u64::try_from(i64::from(*integer)).map_err(|_| PduError::Malformed(field))
        }
        // Only versions up to 5 get this far, whose integers have 64 bits.
        Some(CanonicalJsonValue::Number(number)) => {
            let integer = number
                .as_i64()
                .and_then(|integer| u64::try_from(integer).ok());
            integer.ok_or(PduError::Malformed(field))
        }
        Some(_) => Err(PduError::WrongType(field)),
    }
}

/// The events named in `prev_events` or `auth_events`: ids, or in versions 1
/// and 2 pairs of id and hashes.
fn references(
    version: RoomVersion,
    object: &CanonicalJsonObject,
    field: &'static str,
    count_max: usize,
) -> Result<Vec<OwnedEventId>, PduError> {
    let values = match object.get(field) {
        None => return Err(PduError::Missing(field)),
        Some(CanonicalJsonValue::Array(values)) => values,
        Some(_) => return Err(PduError::WrongType(field)),
    };
    if values.len() > count_max {
        return Err(PduError::TooManyReferences {
            field,
            count: values.len(),
        });
    }
    let pairs = version.rules().events_reference_format == EventsReferenceFormatVersion::V1;
    let mut ids: Vec<OwnedEventId> = Vec::with_capacity(values.len());
    for value in values {
        let text = match value {
            CanonicalJsonValue::Array(pair) if pairs => pair.first().and_then(|id| id.as_str()),
            CanonicalJsonValue::String(id) if !pairs => Some(id.as_str()),
            _ => None,
        };
        let text = text.ok_or(PduError::WrongType(field))?;
        if text.len() > ID_BYTES_MAX {
            return Err(PduError::TooLong(field));
        }
        let id = OwnedEventId::try_from(text).map_err(|_| PduError::Malformed(field))?;
        if ids.contains(&id) {
            return Err(PduError::DuplicateReference(field));
        }
        ids.push(id);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(change: impl FnOnce(&mut CanonicalJsonObject)) -> CanonicalJsonObject {
        let mut object = canonical_json::parse_object(
            br#"{"room_id":"!x:hs","sender":"@a:hs","type":"m.room.message","content":{"body":"x"},"depth":3,
                "origin_server_ts":5,"prev_events":["$p"],"auth_events":["$c","$d"],
                "hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},
                "signatures":{"hs":{"ed25519:1":"x"}},"unsigned":{"age":1}}"#,
        )
        .expect("parses");
        change(&mut object);
        object
    }

    fn set(key: &'static str, json: &str) -> impl FnOnce(&mut CanonicalJsonObject) {
        let value = canonical_json::parse_value(json.as_bytes()).expect("parses");
        move |object| {
            object.insert(key.to_owned(), value);
        }
    }

    fn refused(change: impl FnOnce(&mut CanonicalJsonObject)) -> PduError {
        Pdu::from_object(RoomVersion::V10, event(change)).expect_err("refused")
    }

    #[test]
    fn a_pdu_has_its_parts_and_the_id_of_its_hash() {
        let pdu = Pdu::from_object(RoomVersion::V10, event(|_| {})).expect("valid");
        assert_eq!(pdu.sender, "@a:hs");
        assert_eq!(pdu.prev_events, ["$p"]);
        assert_eq!(pdu.auth_events, ["$c", "$d"]);
        assert_eq!((pdu.depth, pdu.origin_server_ts), (3, 5));
        assert_eq!(pdu.content_str("body"), Some("x"));
        assert!(!pdu.is_state() && !pdu.object().contains_key("unsigned"));
        let theirs = ruma::signatures::reference_hash(
            &canonical_json::for_ruma(&event(|_| {})),
            RoomVersion::V10.rules(),
        )
        .expect("hashes");
        assert_eq!(pdu.event_id, format!("${theirs}"));
        let redacted = pdu.redacted();
        assert!(redacted.content().is_empty());
        assert_eq!(
            Pdu::parse(RoomVersion::V10, &pdu.skeleton()).expect("valid"),
            redacted
        );
        assert_eq!(redacted.event_id, pdu.event_id);
    }

    #[test]
    fn what_is_no_pdu_is_refused() {
        for key in [
            "room_id",
            "sender",
            "type",
            "content",
            "depth",
            "hashes",
            "signatures",
            "origin_server_ts",
            "prev_events",
            "auth_events",
        ] {
            let missing = refused(|object| {
                object.remove(key);
            });
            assert_eq!(missing, PduError::Missing(key));
            if key != "depth" && key != "origin_server_ts" {
                assert_eq!(refused(set(key, "1")), PduError::WrongType(key));
            }
        }
        assert_eq!(refused(set("depth", "-1")), PduError::Malformed("depth"));
        assert_eq!(
            refused(set("state_key", "null")),
            PduError::WrongType("state_key")
        );
        assert_eq!(
            refused(set("sender", "\"a\"")),
            PduError::Malformed("sender")
        );
        assert_eq!(
            refused(set("prev_events", "[\"$a\",\"$a\"]")),
            PduError::DuplicateReference("prev_events")
        );
        assert_eq!(
            refused(set("prev_events", "[[\"$a\",{}]]")),
            PduError::WrongType("prev_events")
        );
    }

    /// Requests of servers are parsed before anybody knows which room versions
    /// the events in them are of.
    #[test]
    fn cve_2020_26890_numbers_are_those_of_the_room_version_however_they_were_parsed() {
        for number in ["1.5", "1e3", "9007199254740992", "[{\"a\":-1e-9}]"] {
            let content = format!("{{\"n\":{number}}}");
            let mut object = event(|_| {});
            let content = canonical_json::parse_value_with(content.as_bytes(), Numbers::Kept);
            object.insert("content".to_owned(), content.expect("parses"));
            for version in RoomVersion::all() {
                let strict = version.rules().authorization.strict_canonical_json;
                let parsed = Pdu::from_object(version, object.clone());
                assert_eq!(
                    parsed.err() == Some(PduError::Number),
                    strict,
                    "{version} {number}"
                );
            }
        }
    }

    #[test]
    fn sizes_are_limited_in_bytes_and_the_limit_is_allowed() {
        let quoted = |unit: &str, count: usize| format!("\"{}\"", unit.repeat(count));
        assert!(Pdu::from_object(RoomVersion::V10, event(set("type", &quoted("a", 255)))).is_ok());
        assert_eq!(
            refused(set("type", &quoted("a", 256))),
            PduError::TooLong("type")
        );
        assert_eq!(
            refused(set("state_key", &quoted("ä", 128))),
            PduError::TooLong("state_key")
        );
        let sender = format!("\"@{}:hs\"", "ä".repeat(126));
        assert_eq!(refused(set("sender", &sender)), PduError::TooLong("sender"));
        let ids = |count: usize| {
            let ids: Vec<String> = (0..count).map(|id| format!("\"${id}\"")).collect();
            format!("[{}]", ids.join(","))
        };
        assert!(Pdu::from_object(RoomVersion::V10, event(set("prev_events", &ids(20)))).is_ok());
        assert!(matches!(
            refused(set("prev_events", &ids(21))),
            PduError::TooManyReferences { count: 21, .. }
        ));
        assert!(matches!(
            refused(set("auth_events", &ids(11))),
            PduError::TooManyReferences { count: 11, .. }
        ));

        let bare = canonical_json::to_bytes(&event(|object| {
            object.remove("unsigned");
        }))
        .len();
        let body = |size: usize| format!("{{\"body\":\"{}\"}}", "x".repeat(size - bare + 1));
        assert!(Pdu::from_object(RoomVersion::V10, event(set("content", &body(65_536)))).is_ok());
        assert_eq!(
            refused(set("content", &body(65_537))),
            PduError::TooLarge(65_537)
        );
    }

    #[test]
    fn versions_1_and_2_name_their_events() {
        let old = || {
            event(|object| {
                set("event_id", "\"$e:hs\"")(object);
                set("prev_events", "[[\"$p:hs\",{\"sha256\":\"x\"}]]")(object);
                set("auth_events", "[]")(object);
            })
        };
        let pdu = Pdu::from_object(RoomVersion::V2, old()).expect("valid");
        assert_eq!(pdu.event_id, "$e:hs");
        assert_eq!(pdu.prev_events, ["$p:hs"]);
        assert_eq!(
            Pdu::from_object(RoomVersion::V3, old()),
            Err(PduError::WrongType("prev_events"))
        );
    }

    #[test]
    fn version_12_makes_the_room_id_from_the_create_event() {
        let create = |object: &mut CanonicalJsonObject| {
            set("type", "\"m.room.create\"")(object);
            set("state_key", "\"\"")(object);
        };
        assert_eq!(
            Pdu::from_object(RoomVersion::V12, event(create)),
            Err(PduError::RoomIdOnCreate)
        );
        let pdu = Pdu::from_object(
            RoomVersion::V12,
            event(|object| {
                create(object);
                object.remove("room_id");
            }),
        )
        .expect("valid");
        assert_eq!(pdu.room_id.as_str()[1..], pdu.event_id.as_str()[1..]);
    }

    #[test]
    fn what_is_no_event_has_an_id_all_the_same() {
        let parse = |text: &str| canonical_json::parse_object(text.as_bytes()).expect("parses");
        let broken = parse(r#"{"type":7,"event_id":"$x:hs"}"#);
        let id = id_of(RoomVersion::V1, &broken).expect("is named");
        assert_eq!(id, "$x:hs");
        for version in RoomVersion::all().filter(|version| !version.has_event_id_field()) {
            let id = id_of(version, &broken).expect("has a hash");
            assert_ne!(id, "$x:hs");
        }
        assert_eq!(id_of(RoomVersion::V2, &parse("{}")), None);
    }
}
