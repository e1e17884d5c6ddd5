//! The keys that we publish (server-server API, *Publishing Keys*).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use ruma::{OwnedServerName, ServerName};

use crate::crypto::ServerKey;
use crate::crypto::signing_key::BASE64;
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::matrix::server_keys::{KnownKey, OldKey, ServerKeys, Validity, published};

/// How long others may rely on what we publish. A key that was stolen and
/// replaced is believed for as long at most.
const VALID: Duration = Duration::from_secs(24 * 60 * 60);

/// Our name and keys.
pub struct OwnKeys {
    pub server: OwnedServerName,
    pub current: Arc<ServerKey>,
    /// Those that are used no more, so that old events can be verified.
    pub old: Vec<OldKey>,
}

impl OwnKeys {
    /// What `/_matrix/key/v2/server` answers.
    pub fn published(&self, now_ms: u64) -> CanonicalJsonObject {
        let valid_until = now_ms + VALID.as_millis() as u64;
        published(&self.server, &self.current, &self.old, valid_until)
    }

    /// The answer of a notary (us) about some keys.
    pub fn notarise(&self, keys: &ServerKeys) -> CanonicalJsonObject {
        keys.notarised(&self.server, &self.current)
    }

    /// Our keys as others know them: the current one good for any event, old
    /// ones for those of before they expired.
    pub fn keys(&self) -> BTreeMap<String, KnownKey> {
        let current = KnownKey {
            key: self.current.verifying_key().to_bytes(),
            validity: Validity::Until(u64::MAX),
        };
        let old = self.old.iter().filter_map(|old| {
            let key = BASE64.decode(&old.public).ok()?.try_into().ok()?;
            let validity = Validity::Expired(old.expired_ts);
            Some((old.key_id.clone(), KnownKey { key, validity }))
        });
        let mut keys: BTreeMap<String, KnownKey> = old.collect();
        keys.insert(self.current.key_id().to_owned(), current);
        keys
    }

    pub fn is(&self, server: &ServerName) -> bool {
        self.server == server
    }
}
