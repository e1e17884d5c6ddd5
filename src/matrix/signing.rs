//! Hashes and signatures of JSON and of events.
//!
//! Whose keys were valid when is the caller's knowledge; here a key is bytes.
//! New events of our own take the faster road of [`super::build`].

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use ruma::room_version_rules::{EventIdFormatVersion, RoomVersionRules};
use sha2::{Digest, Sha256};

use super::canonical_json::{CanonicalJsonObject, CanonicalJsonValue, to_bytes_without};
use super::ids::{OwnedEventId, ServerName, UserId, domain_of};
use super::redaction::redact;
use super::room_version::RoomVersion;
use crate::crypto::ServerKey;
use crate::crypto::signing_key::BASE64;

/// Why an event's signatures do not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("sender is missing or has no domain")]
    NoSender,
    #[error("event id is missing or has no domain")]
    NoEventIdDomain,
    #[error("join_authorised_via_users_server is no user id")]
    BadAuthoriser,
    #[error("no signature of {0} with a known key")]
    Unsigned(Box<str>),
    #[error("signature of {server} with {key_id} is wrong")]
    Wrong { server: Box<str>, key_id: Box<str> },
}

/// What verification found where the signatures hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// The content is what was signed.
    Whole,
    /// The content hash is wrong: only the redacted form may be used
    /// (server-server API, *Validating hashes and signatures*).
    RedactedOnly,
}

/// The content hash of an event (server-server API, *Calculating the content hash*).
pub fn content_hash(event: &CanonicalJsonObject) -> [u8; 32] {
    Sha256::digest(to_bytes_without(
        event,
        &["hashes", "signatures", "unsigned"],
    ))
    .into()
}

/// The reference hash of an event (server-server API, *Calculating the reference hash*).
pub fn reference_hash(rules: &RoomVersionRules, event: &CanonicalJsonObject) -> [u8; 32] {
    let redacted = redact(&rules.redaction, event);
    Sha256::digest(to_bytes_without(&redacted, &["signatures", "unsigned"])).into()
}

/// The event id that a reference hash makes; none in versions 1 and 2, whose
/// events name themselves.
pub fn event_id_of_hash(rules: &RoomVersionRules, hash: &[u8; 32]) -> Option<OwnedEventId> {
    let opaque = match rules.event_id_format {
        EventIdFormatVersion::V1 => return None,
        EventIdFormatVersion::V2 => BASE64.encode(hash),
        _ => URL_SAFE_NO_PAD.encode(hash),
    };
    OwnedEventId::try_from(format!("${opaque}")).ok()
}

/// [`event_id_of_hash`] of an event by what its signatures are over.
pub fn event_id_of_signed(rules: &RoomVersionRules, signed: &[u8]) -> Option<OwnedEventId> {
    event_id_of_hash(rules, &Sha256::digest(signed).into())
}

/// Adds a signature to a JSON object (appendices, *Signing details*).
pub fn sign_json(object: &mut CanonicalJsonObject, entity: &ServerName, key: &ServerKey) {
    let signature = key.sign_base64(&to_bytes_without(object, &["signatures", "unsigned"]));
    insert_signature(object, entity, key.key_id(), signature);
}

/// Whether an object carries a valid signature of `entity` with this key
/// (appendices, *Checking for a signature*).
pub fn verify_json(
    object: &CanonicalJsonObject,
    entity: &str,
    key_id: &str,
    public_key: &[u8],
) -> bool {
    let Some(signature) = signatures_of(object, entity).and_then(|by_key| by_key.get(key_id))
    else {
        return false;
    };
    let bytes = to_bytes_without(object, &["signatures", "unsigned"]);
    signature
        .as_str()
        .is_some_and(|signature| verify_bytes(&bytes, signature, public_key))
}

/// Adds the content hash and a signature to a whole event, keeping signatures
/// that it has (server-server API, *Adding hashes and signatures*).
pub fn hash_and_sign_event(
    version: RoomVersion,
    event: &mut CanonicalJsonObject,
    server: &ServerName,
    key: &ServerKey,
) {
    let hash = CanonicalJsonValue::String(BASE64.encode(content_hash(event)));
    let hashes = CanonicalJsonObject::from([("sha256".to_owned(), hash)]);
    event.insert("hashes".to_owned(), CanonicalJsonValue::Object(hashes));
    sign_event(version, event, server, key);
}

/// Adds a signature to an event that has its content hash: what the server of
/// an invited or authorising user does.
pub fn sign_event(
    version: RoomVersion,
    event: &mut CanonicalJsonObject,
    server: &ServerName,
    key: &ServerKey,
) {
    let redacted = redact(&version.rules().redaction, event);
    let signature = key.sign_base64(&to_bytes_without(&redacted, &["signatures", "unsigned"]));
    insert_signature(event, server, key.key_id(), signature);
}

fn insert_signature(
    object: &mut CanonicalJsonObject,
    entity: &ServerName,
    key_id: &str,
    signature: String,
) {
    let signatures = object_at(object, "signatures");
    let by_key = object_at(signatures, entity.as_str());
    by_key.insert(key_id.to_owned(), CanonicalJsonValue::String(signature));
}

/// The object at a key, put there (in place of anything else) if it is none.
fn object_at<'a>(object: &'a mut CanonicalJsonObject, key: &str) -> &'a mut CanonicalJsonObject {
    let value = object.entry(key.to_owned()).or_default();
    if value.as_object().is_none() {
        *value = CanonicalJsonValue::Object(CanonicalJsonObject::new());
    }
    value.as_object_mut().expect("made an object above")
}

fn signatures_of<'a>(
    object: &'a CanonicalJsonObject,
    entity: &str,
) -> Option<&'a CanonicalJsonObject> {
    object
        .get("signatures")?
        .as_object()?
        .get(entity)?
        .as_object()
}

/// Whether `signature` (base64) of `bytes` is valid.
pub fn verify_bytes(bytes: &[u8], signature: &str, public_key: &[u8]) -> bool {
    let key: Option<VerifyingKey> = public_key
        .try_into()
        .ok()
        .and_then(|key| VerifyingKey::from_bytes(key).ok());
    let signature = BASE64
        .decode(signature)
        .ok()
        .and_then(|raw| Signature::from_slice(&raw).ok());
    match (key, signature) {
        (Some(key), Some(signature)) => key.verify_strict(bytes, &signature).is_ok(),
        _ => false,
    }
}

/// Servers whose signature an event needs.
///
/// Source: server-server API, *Validating hashes and signatures* (the sender's
/// server, unless the event is a third-party invite; in versions 1 and 2 also
/// that of the event id); room versions 8 and later, authorization rules 4.2.1
/// (5.2.1 in version 12): the server of the authorising user of a join.
pub fn servers_that_must_sign(
    version: RoomVersion,
    event: &CanonicalJsonObject,
) -> Result<BTreeSet<Box<str>>, VerifyError> {
    let rules = &version.rules().signatures;
    let text = |key: &str| event.get(key).and_then(|value| value.as_str());
    let content = event.get("content").and_then(|content| content.as_object());
    let of_content = |key: &str| content.and_then(|content| content.get(key));
    let is_member = text("type") == Some("m.room.member");
    let membership = of_content("membership").and_then(|membership| membership.as_str());

    let mut servers = BTreeSet::new();
    let third_party_invite =
        is_member && membership == Some("invite") && of_content("third_party_invite").is_some();
    if !third_party_invite {
        let sender = text("sender")
            .and_then(domain_of)
            .ok_or(VerifyError::NoSender)?;
        servers.insert(sender.into());
    }
    if rules.check_event_id_server {
        let domain = text("event_id")
            .and_then(domain_of)
            .ok_or(VerifyError::NoEventIdDomain)?;
        servers.insert(domain.into());
    }
    // The rule names the key, not the membership.
    let authoriser = of_content("join_authorised_via_users_server")
        .filter(|_| rules.check_join_authorised_via_users_server && is_member);
    if let Some(authoriser) = authoriser {
        let user = authoriser
            .as_str()
            .and_then(|user| <&UserId>::try_from(user).ok());
        let user = user.ok_or(VerifyError::BadAuthoriser)?;
        servers.insert(user.server_name().as_str().into());
    }
    Ok(servers)
}

/// Whether a server signed an event with this key, also where its signature is
/// not one that the event needs: an invite's from the invited user's server.
pub fn is_signed(
    version: RoomVersion,
    event: &CanonicalJsonObject,
    (server, key_id): (&ServerName, &str),
    public_key: &[u8],
) -> bool {
    let redacted = redact(&version.rules().redaction, event);
    let signed = to_bytes_without(&redacted, &["signatures", "unsigned"]);
    let signatures = signatures_of(event, server.as_str());
    let signature = signatures.and_then(|signatures| signatures.get(key_id)?.as_str());
    signature.is_some_and(|signature| verify_bytes(&signed, signature, public_key))
}

/// Checks an event's signatures and content hash.
///
/// `key_of` answers the public key of a server by key id, if it is known and
/// was valid when the event was made; signatures with other keys are skipped.
/// Each server that must sign needs one valid signature, and none that is wrong.
pub fn verify_event<K: AsRef<[u8]>>(
    version: RoomVersion,
    event: &CanonicalJsonObject,
    key_of: impl Fn(&str, &str) -> Option<K>,
) -> Result<Verified, VerifyError> {
    let redacted = redact(&version.rules().redaction, event);
    let signed = to_bytes_without(&redacted, &["signatures", "unsigned"]);
    verify_signed(version, event, &signed, key_of)
}

/// [`verify_event`] where the bytes that its signatures are over are there already.
pub fn verify_signed<K: AsRef<[u8]>>(
    version: RoomVersion,
    event: &CanonicalJsonObject,
    signed: &[u8],
    key_of: impl Fn(&str, &str) -> Option<K>,
) -> Result<Verified, VerifyError> {
    for server in servers_that_must_sign(version, event)? {
        let mut valid = 0;
        for (key_id, signature) in signatures_of(event, &server).into_iter().flatten() {
            let Some(key) = key_of(&server, key_id).filter(|_| key_id.starts_with("ed25519:"))
            else {
                continue;
            };
            let signature = signature.as_str().unwrap_or_default();
            if !verify_bytes(signed, signature, key.as_ref()) {
                return Err(VerifyError::Wrong {
                    server,
                    key_id: key_id.as_str().into(),
                });
            }
            valid += 1;
        }
        if valid == 0 {
            return Err(VerifyError::Unsigned(server));
        }
    }
    let claimed = event
        .get("hashes")
        .and_then(|hashes| hashes.as_object()?.get("sha256")?.as_str())
        .and_then(|hash| BASE64.decode(hash).ok());
    if claimed.as_deref() == Some(&content_hash(event)[..]) {
        Ok(Verified::Whole)
    } else {
        Ok(Verified::RedactedOnly)
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::super::canonical_json::{for_ruma, parse_object};
    use super::*;

    /// Appendices, *Cryptographic Test Vectors*.
    const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1";

    fn key() -> ServerKey {
        let seed = BASE64
            .decode(SEED)
            .expect("base64")
            .try_into()
            .expect("32 bytes");
        ServerKey::from_seed(seed, "1")
    }

    fn object(text: &str) -> CanonicalJsonObject {
        parse_object(text.as_bytes()).expect(text)
    }

    #[test]
    fn json_is_signed_as_in_the_appendices() {
        for (given, signature) in [
            (
                "{}",
                "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
            ),
            (
                r#"{"one":1,"two":"Two"}"#,
                "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
            ),
        ] {
            let mut signed = object(given);
            sign_json(&mut signed, server_name!("domain"), &key());
            let expected = object(&format!(r#"{{"domain":{{"ed25519:1":"{signature}"}}}}"#));
            assert_eq!(signed["signatures"], CanonicalJsonValue::Object(expected));
            let public = key().verifying_key();
            assert!(verify_json(
                &signed,
                "domain",
                "ed25519:1",
                public.as_bytes()
            ));
            assert!(!verify_json(
                &signed,
                "domain",
                "ed25519:2",
                public.as_bytes()
            ));
            signed.insert("three".to_owned(), CanonicalJsonValue::Null);
            assert!(!verify_json(
                &signed,
                "domain",
                "ed25519:1",
                public.as_bytes()
            ));
        }
    }

    #[test]
    fn events_are_hashed_and_signed_as_in_the_appendices() {
        let minimal = r#"{"room_id":"!x:domain","sender":"@a:domain","origin":"domain","origin_server_ts":1000000,
            "signatures":{},"hashes":{},"type":"X","content":{},"prev_events":[],"auth_events":[],"depth":3,
            "unsigned":{"age_ts":1000000}}"#;
        let redactable = r#"{"content":{"body":"Here is the message content"},"event_id":"$0:domain","origin":"domain",
            "origin_server_ts":1000000,"type":"m.room.message","room_id":"!r:domain","sender":"@u:domain",
            "signatures":{},"unsigned":{"age_ts":1000000}}"#;
        for (given, hash, signature) in [
            (
                minimal,
                "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
                "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
            ),
            (
                redactable,
                "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
                "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
            ),
        ] {
            let mut event = object(given);
            hash_and_sign_event(RoomVersion::V1, &mut event, server_name!("domain"), &key());
            assert_eq!(
                event["hashes"],
                CanonicalJsonValue::Object(object(&format!(r#"{{"sha256":"{hash}"}}"#)))
            );
            let expected = object(&format!(r#"{{"domain":{{"ed25519:1":"{signature}"}}}}"#));
            assert_eq!(event["signatures"], CanonicalJsonValue::Object(expected));
            assert!(event.contains_key("unsigned"));
        }
    }

    fn signed_event(version: RoomVersion) -> CanonicalJsonObject {
        let mut event = object(
            r#"{"room_id":"!x:domain","sender":"@a:domain","origin_server_ts":1,"type":"m.room.message",
                "content":{"body":"x"},"prev_events":[],"auth_events":[],"depth":3}"#,
        );
        if version.has_event_id_field() {
            event.insert(
                "event_id".to_owned(),
                CanonicalJsonValue::String("$x:domain".to_owned()),
            );
        }
        hash_and_sign_event(version, &mut event, server_name!("domain"), &key());
        event
    }

    #[test]
    fn an_event_verifies_whole_or_redacted_or_not() {
        let known = |server: &str, key_id: &str| {
            (server == "domain" && key_id == "ed25519:1").then(|| *key().verifying_key().as_bytes())
        };
        for version in RoomVersion::all() {
            let event = signed_event(version);
            assert_eq!(verify_event(version, &event, known), Ok(Verified::Whole));
            let redacted = redact(&version.rules().redaction, &event);
            assert_eq!(
                verify_event(version, &redacted, known),
                Ok(Verified::RedactedOnly)
            );
            assert_eq!(
                reference_hash(version.rules(), &event),
                reference_hash(version.rules(), &redacted)
            );
            let mut changed = event.clone();
            changed.insert("depth".to_owned(), CanonicalJsonValue::Integer(4.into()));
            assert!(matches!(
                verify_event(version, &changed, known),
                Err(VerifyError::Wrong { .. })
            ));
            let none = |_: &str, _: &str| None::<[u8; 32]>;
            assert_eq!(
                verify_event(version, &event, none),
                Err(VerifyError::Unsigned("domain".into()))
            );
        }
    }

    #[test]
    fn required_signatures_agree_with_ruma() {
        let member = |content: &str, event_id: &str| {
            object(&format!(
                r#"{{"type":"m.room.member","sender":"@a:one","state_key":"@b:two","event_id":"{event_id}","content":{content}}}"#
            ))
        };
        for version in RoomVersion::all() {
            for content in [
                r#"{"membership":"join","join_authorised_via_users_server":"@c:three"}"#,
                r#"{"membership":"leave","join_authorised_via_users_server":"@c:three"}"#,
                r#"{"membership":"invite","third_party_invite":{"signed":{}}}"#,
                r#"{"membership":"invite"}"#,
            ] {
                let event = member(content, "$x:four");
                let theirs = ruma::signatures::required_server_signatures_to_verify_event(
                    &for_ruma(&event),
                    &version.rules().signatures,
                )
                .expect("has its fields");
                let theirs: BTreeSet<Box<str>> =
                    theirs.iter().map(|server| server.as_str().into()).collect();
                assert_eq!(
                    servers_that_must_sign(version, &event),
                    Ok(theirs),
                    "{version} {content}"
                );
            }
        }
    }
}
