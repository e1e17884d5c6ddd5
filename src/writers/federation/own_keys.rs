//! The keys that we publish (server-server API, *Publishing Keys*).

use std::sync::Arc;
use std::time::Duration;

use ruma::{OwnedServerName, ServerName};

use crate::crypto::ServerKey;
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::matrix::server_keys::{OldKey, ServerKeys, published};

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

    pub fn is(&self, server: &ServerName) -> bool {
        self.server == server
    }
}
