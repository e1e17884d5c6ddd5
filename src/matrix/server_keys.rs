//! The keys that a server publishes (server-server API, *Retrieving server keys*).
//!
//! What comes from elsewhere is checked here once; whoever holds a
//! [`ServerKeys`] knows that the server itself signed it.

use std::collections::BTreeMap;

use base64::Engine;
use ed25519_dalek::VerifyingKey;

use super::canonical_json::{CanonicalJsonObject, CanonicalJsonValue, to_bytes};
use super::ids::{OwnedServerName, ServerName};
use super::signing::{sign_json, verify_json};
use crate::crypto::ServerKey;
use crate::crypto::signing_key::{BASE64, is_published};

/// How long a key counts as valid after it was fetched, whatever its server
/// says: what was stolen must be of no use at last (definition of `valid_until_ts`).
pub const VALID_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;
/// Keys of one answer, old ones included. Ours: the largest known have a dozen.
const KEYS_MAX: usize = 200;
/// Longest key id.
const KEY_ID_BYTES_MAX: usize = 255;

/// A public key as bytes.
pub type PublicKey = [u8; 32];

/// Why an answer with keys is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerKeysError {
    #[error("the answer lacks {0} or has it in another form")]
    Field(&'static str),
    #[error("the keys are those of another server")]
    OtherServer,
    #[error("there are more than {KEYS_MAX} keys")]
    TooMany,
    #[error("none of the keys signed the answer")]
    Unsigned,
    #[error("a signature of the answer is wrong")]
    WrongSignature,
}

/// Until when a key is good, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownKey {
    pub key: PublicKey,
    pub validity: Validity,
}

/// Milliseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// In use, as far as is known until then.
    Until(u64),
    /// Not in use any more: for events of before then only.
    Expired(u64),
}

impl KnownKey {
    /// Whether it proves nothing, since everybody may sign with it.
    pub fn is_published(&self) -> bool {
        is_published(&self.key)
    }

    /// Whether a request that comes now may be signed with it.
    pub fn is_good_for_request(&self, now_ms: u64) -> bool {
        match self.validity {
            Validity::Until(until) => now_ms <= until && !self.is_published(),
            Validity::Expired(_) => false,
        }
    }

    /// Whether an event of that `origin_server_ts` may be signed with it, where
    /// the room version asks (room version 5, *Signing key validity period*).
    pub fn is_good_for_event(&self, origin_server_ts: u64) -> bool {
        match self.validity {
            Validity::Until(end) | Validity::Expired(end) => {
                origin_server_ts <= end && !self.is_published()
            }
        }
    }
}

/// An answer that its server signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerKeys {
    pub server_name: OwnedServerName,
    /// As published; see [`VALID_MS_MAX`].
    pub valid_until_ts: u64,
    /// By key id. Only ed25519 keys: there is no other algorithm.
    pub keys: BTreeMap<String, KnownKey>,
    /// The answer, for a notary to pass on.
    pub json: CanonicalJsonObject,
}

impl ServerKeys {
    /// Checks an answer about `server`, fetched at `fetched_ms`.
    ///
    /// It must name the server, and be signed with at least one of its
    /// `verify_keys`; no signature with one of these may be wrong.
    pub fn check(
        json: CanonicalJsonObject,
        server: &ServerName,
        fetched_ms: u64,
    ) -> Result<ServerKeys, ServerKeysError> {
        let named = text(&json, "server_name").ok_or(ServerKeysError::Field("server_name"))?;
        if named != server.as_str() {
            return Err(ServerKeysError::OtherServer);
        }
        let valid_until_ts =
            time(&json, "valid_until_ts").ok_or(ServerKeysError::Field("valid_until_ts"))?;
        let valid_until = valid_until_ts.min(fetched_ms.saturating_add(VALID_MS_MAX));
        let current = listed(&json, "verify_keys")?.ok_or(ServerKeysError::Field("verify_keys"))?;
        let mut keys = BTreeMap::new();
        for (key_id, value) in &current {
            keys.insert(
                key_id.to_string(),
                KnownKey {
                    key: public_key(value).ok_or(ServerKeysError::Field("verify_keys"))?,
                    validity: Validity::Until(valid_until),
                },
            );
        }
        check_signatures(&json, server, &keys)?;
        for (key_id, value) in listed(&json, "old_verify_keys")?.unwrap_or_default() {
            let (Some(key), Some(expired)) = (public_key(value), time(value, "expired_ts")) else {
                return Err(ServerKeysError::Field("old_verify_keys"));
            };
            // A key that is in use is not an old one, whatever the other list says.
            keys.entry(key_id.to_owned()).or_insert(KnownKey {
                key,
                validity: Validity::Expired(expired),
            });
        }
        Ok(ServerKeys {
            server_name: server.to_owned(),
            valid_until_ts,
            keys,
            json,
        })
    }

    /// The answer with the signature of a notary beside the server's own.
    pub fn notarised(&self, notary: &ServerName, key: &ServerKey) -> CanonicalJsonObject {
        let mut json = self.json.clone();
        sign_json(&mut json, notary, key);
        json
    }

    /// The bytes of the answer.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(&self.json)
    }
}

/// A key of ours that is not used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldKey {
    pub key_id: String,
    /// Unpadded base64.
    pub public: String,
    pub expired_ts: u64,
}

/// What we publish of ourselves, signed with the current key.
pub fn published(
    server: &ServerName,
    key: &ServerKey,
    old: &[OldKey],
    valid_until_ts: u64,
) -> CanonicalJsonObject {
    let string = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let object = |members: Vec<(&str, CanonicalJsonValue)>| {
        let members = members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        CanonicalJsonValue::Object(members.collect())
    };
    let integer = |number: u64| {
        CanonicalJsonValue::Integer(ruma::Int::try_from(number).unwrap_or(ruma::Int::MAX))
    };
    let public = key.public_base64();
    let current = object(vec![(key.key_id(), object(vec![("key", string(&public))]))]);
    let old = old.iter().map(|old| {
        let value = object(vec![
            ("key", string(&old.public)),
            ("expired_ts", integer(old.expired_ts)),
        ]);
        (old.key_id.as_str(), value)
    });
    let mut json = CanonicalJsonObject::from([
        ("server_name".to_owned(), string(server.as_str())),
        ("valid_until_ts".to_owned(), integer(valid_until_ts)),
        ("verify_keys".to_owned(), current),
        ("old_verify_keys".to_owned(), object(old.collect())),
    ]);
    sign_json(&mut json, server, key);
    json
}

fn check_signatures(
    json: &CanonicalJsonObject,
    server: &ServerName,
    keys: &BTreeMap<String, KnownKey>,
) -> Result<(), ServerKeysError> {
    let signatures = json.get("signatures").and_then(|all| all.as_object());
    let own = signatures
        .and_then(|all| all.get(server.as_str()))
        .and_then(|own| own.as_object());
    let mut signed = false;
    for key_id in own.into_iter().flat_map(|own| own.keys()) {
        // Signatures with keys that are not listed say nothing.
        let Some(known) = keys.get(key_id) else {
            continue;
        };
        if !verify_json(json, server.as_str(), key_id, &known.key) {
            return Err(ServerKeysError::WrongSignature);
        }
        signed = true;
    }
    match signed {
        true => Ok(()),
        false => Err(ServerKeysError::Unsigned),
    }
}

type Listed<'a> = Vec<(&'a str, &'a CanonicalJsonObject)>;

/// The ed25519 keys of a list; none where there is no list.
fn listed<'a>(
    json: &'a CanonicalJsonObject,
    name: &'static str,
) -> Result<Option<Listed<'a>>, ServerKeysError> {
    let Some(list) = json.get(name) else {
        return Ok(None);
    };
    let list = list.as_object().ok_or(ServerKeysError::Field(name))?;
    if list.len() > KEYS_MAX {
        return Err(ServerKeysError::TooMany);
    }
    let keys = list.iter().filter(|(key_id, _)| is_key_id(key_id));
    let keys = keys.map(|(key_id, value)| {
        let value = value.as_object().ok_or(ServerKeysError::Field(name))?;
        Ok((key_id.as_str(), value))
    });
    keys.collect::<Result<_, _>>().map(Some)
}

/// Whether this names an ed25519 key: `ed25519:` and `[a-zA-Z0-9_]`. Hyphens are
/// read as well, since old servers have published keys with them.
pub fn is_key_id(key_id: &str) -> bool {
    let version = key_id.strip_prefix("ed25519:").unwrap_or_default();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !version.is_empty() && key_id.len() <= KEY_ID_BYTES_MAX && version.bytes().all(allowed)
}

fn public_key(value: &CanonicalJsonObject) -> Option<PublicKey> {
    let bytes = BASE64.decode(text(value, "key")?).ok()?;
    let key: PublicKey = bytes.try_into().ok()?;
    // A point that is none on the curve verifies nothing; better told here.
    VerifyingKey::from_bytes(&key).ok().map(|_| key)
}

fn text<'a>(object: &'a CanonicalJsonObject, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}

fn time(object: &CanonicalJsonObject, name: &str) -> Option<u64> {
    match object.get(name)? {
        CanonicalJsonValue::Integer(integer) => u64::try_from(i64::from(*integer)).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::matrix::canonical_json::parse_object;

    const NOW: u64 = 1_700_000_000_000;

    fn key() -> ServerKey {
        ServerKey::from_seed([7; 32], "a_1")
    }

    fn ours(valid_until: u64) -> CanonicalJsonObject {
        let old = OldKey {
            key_id: "ed25519:old".to_owned(),
            public: ServerKey::from_seed([8; 32], "old").public_base64(),
            expired_ts: NOW - 1,
        };
        published(server_name!("hs"), &key(), &[old], valid_until)
    }

    /// An object of ours, changed and signed again.
    fn changed(change: impl FnOnce(&mut CanonicalJsonObject)) -> CanonicalJsonObject {
        let mut json = ours(NOW + 1000);
        json.remove("signatures");
        change(&mut json);
        sign_json(&mut json, server_name!("hs"), &key());
        json
    }

    #[test]
    fn cve_2024_6299_what_we_publish_is_what_others_accept() {
        let keys = ServerKeys::check(ours(NOW + 1000), server_name!("hs"), NOW).expect("ours");
        assert_eq!(keys.valid_until_ts, NOW + 1000);
        let current = keys.keys["ed25519:a_1"];
        assert_eq!(current.key, *key().verifying_key().as_bytes());
        assert!(current.is_good_for_request(NOW + 1000));
        assert!(!current.is_good_for_request(NOW + 1001));
        assert!(!current.is_good_for_event(NOW + 1001));
        let old = keys.keys["ed25519:old"];
        assert!(!old.is_good_for_request(0));
        assert!(old.is_good_for_event(NOW - 1));
        assert!(!old.is_good_for_event(NOW));
        // What was kept reads back.
        let again = parse_object(&keys.to_bytes()).expect("parses");
        assert_eq!(
            ServerKeys::check(again, server_name!("hs"), NOW),
            Ok(keys.clone())
        );
        let notarised = keys.notarised(server_name!("notary"), &ServerKey::from_seed([9; 32], "n"));
        assert!(ServerKeys::check(notarised, server_name!("hs"), NOW).is_ok());
    }

    #[test]
    fn cve_2024_6299_no_key_is_valid_for_more_than_a_week() {
        let keys = ServerKeys::check(ours(NOW * 2), server_name!("hs"), NOW).expect("ours");
        let current = keys.keys["ed25519:a_1"];
        assert_eq!(current.validity, Validity::Until(NOW + VALID_MS_MAX));
    }

    #[test]
    fn cve_2024_6299_answers_that_do_not_hold_are_refused() {
        let check = |json| ServerKeys::check(json, server_name!("hs"), NOW).map(|_| ());
        assert_eq!(
            ServerKeys::check(ours(NOW), server_name!("other"), NOW).map(|_| ()),
            Err(ServerKeysError::OtherServer)
        );
        let mut unsigned = ours(NOW);
        unsigned.remove("signatures");
        assert_eq!(check(unsigned), Err(ServerKeysError::Unsigned));
        let mut altered = ours(NOW);
        altered.insert(
            "valid_until_ts".to_owned(),
            CanonicalJsonValue::Integer(1.into()),
        );
        assert_eq!(check(altered), Err(ServerKeysError::WrongSignature));
        // Signed with an old key alone.
        let mut by_old = ours(NOW);
        by_old.remove("signatures");
        let old = ServerKey::from_seed([8; 32], "old");
        sign_json(&mut by_old, server_name!("hs"), &old);
        assert_eq!(check(by_old), Err(ServerKeysError::Unsigned));
        for field in ["server_name", "valid_until_ts", "verify_keys"] {
            let without = changed(|json| drop(json.remove(field)));
            assert_eq!(check(without), Err(ServerKeysError::Field(field)));
        }
        let bad = changed(|json| {
            let keys = parse_object(br#"{"ed25519:x":{"key":"AAAA"}}"#).expect("parses");
            json.insert(
                "old_verify_keys".to_owned(),
                CanonicalJsonValue::Object(keys),
            );
        });
        assert_eq!(check(bad), Err(ServerKeysError::Field("old_verify_keys")));
        let many = changed(|json| {
            let key = json["verify_keys"].as_object().expect("object")["ed25519:a_1"].clone();
            let keys = (0..=KEYS_MAX).map(|n| (format!("ed25519:{n}"), key.clone()));
            json.insert(
                "old_verify_keys".to_owned(),
                CanonicalJsonValue::Object(keys.collect()),
            );
        });
        assert_eq!(check(many), Err(ServerKeysError::TooMany));
    }

    /// The seed of the specification's own examples signs for nobody.
    #[test]
    fn cve_2026_24044_a_key_that_everybody_has_is_good_for_nothing() {
        use base64::Engine;

        let seed = BASE64.decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1");
        let seed = seed.expect("base64").try_into().expect("32 bytes");
        let theirs = ServerKey::from_seed(seed, "1");
        let json = published(server_name!("hs"), &theirs, &[], NOW + 1000);
        let keys = ServerKeys::check(json, server_name!("hs"), NOW).expect("signed");
        let known = keys.keys["ed25519:1"];
        assert!(!known.is_good_for_request(NOW) && !known.is_good_for_event(NOW));
        let old = KnownKey {
            validity: Validity::Expired(NOW),
            ..known
        };
        assert!(!old.is_good_for_event(1));
    }

    #[test]
    fn key_ids_of_other_algorithms_are_left_out() {
        for good in ["ed25519:a", "ed25519:0_Z", "ed25519:a-b"] {
            assert!(is_key_id(good), "{good}");
        }
        for bad in [
            "",
            "ed25519",
            "ed25519:",
            "curve25519:a",
            "ed25519:a.b",
            "ed25519:ä",
        ] {
            assert!(!is_key_id(bad), "{bad}");
        }
        let other = changed(|json| {
            let keys = json
                .get_mut("verify_keys")
                .and_then(|keys| keys.as_object_mut());
            let keys = keys.expect("object");
            keys.insert("rsa:1".to_owned(), CanonicalJsonValue::Null);
        });
        let keys = ServerKeys::check(other, server_name!("hs"), NOW).expect("fine");
        assert!(!keys.keys.contains_key("rsa:1"));
    }
}
