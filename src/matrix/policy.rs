//! Policy servers: whom a room lets recommend its events, and whether they did
//! (server-server API, *Policy Servers*).

use ruma::OwnedServerName;

use super::canonical_json::{CanonicalJsonObject, CanonicalJsonValue, to_bytes_without};
use super::redaction::redact;
use super::room_version::RoomVersion;
use super::signing::verify_bytes;
use crate::crypto::signing_key::BASE64;
use base64::Engine;

/// The state event that names a room's policy server.
pub const POLICY_TYPE: &str = "m.room.policy";
/// The id of the key with which it signs, whatever it is called elsewhere.
pub const POLICY_KEY_ID: &str = "ed25519:policy_server";

/// Whom a room asks. That it is in the room is for the caller to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyServer {
    pub via: OwnedServerName,
    /// Unpadded base64; a key that is none verifies nothing.
    key: Box<str>,
}

impl PolicyServer {
    /// Reads the content of the state event; none if it names no server.
    pub fn parse(content: &CanonicalJsonObject) -> Option<PolicyServer> {
        let via = content.get("via")?.as_str()?;
        let keys = content.get("public_keys")?.as_object()?;
        Some(PolicyServer {
            // What is no server's name has nobody in the room.
            via: OwnedServerName::try_from(via).ok()?,
            key: keys.get("ed25519")?.as_str()?.into(),
        })
    }

    /// Whether an event, whole or redacted, has its valid signature.
    pub fn recommends(&self, version: RoomVersion, event: &CanonicalJsonObject) -> bool {
        let signatures = event
            .get("signatures")
            .and_then(CanonicalJsonValue::as_object);
        let own = signatures
            .and_then(|all| all.get(self.via.as_str()))
            .and_then(CanonicalJsonValue::as_object);
        let signature = own.and_then(|own| own.get(POLICY_KEY_ID)?.as_str());
        let Some(signature) = signature else {
            return false;
        };
        let redacted = redact(&version.rules().redaction, event);
        let signed = to_bytes_without(&redacted, &["signatures", "unsigned"]);
        let key = BASE64.decode(&*self.key).unwrap_or_default();
        verify_bytes(&signed, signature, &key)
    }

    /// Adds its signature to an event, beside those that are there.
    pub fn add(&self, event: &mut CanonicalJsonObject, signature: &str) {
        let object = || CanonicalJsonValue::Object(CanonicalJsonObject::new());
        let all = event.entry("signatures".to_owned()).or_insert_with(object);
        let Some(all) = all.as_object_mut() else {
            return;
        };
        let own = all.entry(self.via.to_string()).or_insert_with(object);
        if let Some(own) = own.as_object_mut() {
            let signature = CanonicalJsonValue::String(signature.to_owned());
            own.insert(POLICY_KEY_ID.to_owned(), signature);
        }
    }
}

/// Whether an event is one that a policy server is asked about: all but the ones
/// that name it.
pub fn is_asked_about(kind: &str, state_key: Option<&str>) -> bool {
    (kind, state_key) != (POLICY_TYPE, Some(""))
}

#[cfg(test)]
mod tests {
    use super::super::canonical_json::parse_object;
    use super::super::signing::sign_json;
    use super::*;
    use crate::crypto::ServerKey;

    fn object(text: &str) -> CanonicalJsonObject {
        parse_object(text.as_bytes()).expect("parses")
    }

    fn content(key: &ServerKey) -> CanonicalJsonObject {
        let key = key.public_base64();
        object(&format!(
            r#"{{"via":"policy.test","public_keys":{{"ed25519":"{key}","other":"x"}}}}"#
        ))
    }

    /// An event with that server's signature, as it would make it.
    fn signed(key: &ServerKey) -> (CanonicalJsonObject, String) {
        let event = object(
            r#"{"type":"m.room.message","content":{"body":"x"},"sender":"@a:hs","hashes":{},
            "signatures":{"hs":{"ed25519:1":"x"}},"unsigned":{"age":1}}"#,
        );
        let mut redacted = redact(&RoomVersion::V11.rules().redaction, &event);
        sign_json(&mut redacted, ruma::server_name!("policy.test"), key);
        let signature = redacted["signatures"].as_object().expect("signed")["policy.test"]
            .as_object()
            .expect("signed")[POLICY_KEY_ID]
            .as_str()
            .expect("signed")
            .to_owned();
        (event, signature)
    }

    #[test]
    fn a_signature_with_the_rooms_key_recommends() {
        let key = ServerKey::from_seed([5; 32], "policy_server");
        let policy = PolicyServer::parse(&content(&key)).expect("names a server");
        let (mut event, signature) = signed(&key);
        assert!(!policy.recommends(RoomVersion::V11, &event), "unsigned");
        policy.add(&mut event, &signature);
        assert!(policy.recommends(RoomVersion::V11, &event));
        let redacted = redact(&RoomVersion::V11.rules().redaction, &event);
        assert!(policy.recommends(RoomVersion::V11, &redacted));
        // What was signed by the server itself stays.
        let all = event["signatures"].as_object().expect("signed");
        assert!(all.contains_key("hs"));

        let other = ServerKey::from_seed([6; 32], "policy_server");
        let other = PolicyServer::parse(&content(&other)).expect("names a server");
        assert!(!other.recommends(RoomVersion::V11, &event), "another key");
        event.insert(
            "sender".to_owned(),
            CanonicalJsonValue::String("@b:hs".into()),
        );
        assert!(
            !policy.recommends(RoomVersion::V11, &event),
            "another event"
        );
    }

    #[test]
    fn content_without_server_or_key_names_nobody() {
        for content in [
            "{}",
            r#"{"via":"a.test"}"#,
            r#"{"via":"a.test","public_keys":{}}"#,
            r#"{"via":"a.test","public_keys":{"ed25519":7}}"#,
            r#"{"via":7,"public_keys":{"ed25519":"x"}}"#,
            r#"{"via":"no server","public_keys":{"ed25519":"x"}}"#,
            r#"{"public_keys":{"ed25519":"x"}}"#,
        ] {
            assert_eq!(PolicyServer::parse(&object(content)), None, "{content}");
        }
        // A key that is none recommends nothing, and the room is guarded all the same.
        let broken = object(r#"{"via":"policy.test","public_keys":{"ed25519":"x"}}"#);
        let broken = PolicyServer::parse(&broken).expect("names a server");
        let (mut event, signature) = signed(&ServerKey::from_seed([5; 32], "policy_server"));
        broken.add(&mut event, &signature);
        assert!(!broken.recommends(RoomVersion::V11, &event));
    }

    #[test]
    fn only_what_names_it_is_not_asked_about() {
        assert!(!is_asked_about(POLICY_TYPE, Some("")));
        assert!(is_asked_about(POLICY_TYPE, None));
        assert!(is_asked_about(POLICY_TYPE, Some("x")));
        assert!(is_asked_about("m.room.member", Some("")));
    }
}
