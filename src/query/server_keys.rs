//! The signing keys that other servers published, as far as they were ever fetched.

use std::collections::BTreeMap;

use ruma::ServerName;

use super::rooms::QueryError;
use crate::matrix::server_keys::KnownKey;

/// What is known of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKeys {
    /// When the newest answer was fetched, in milliseconds since the epoch.
    pub fetched_ms: u64,
    /// By key id; also those that only earlier answers named.
    pub keys: BTreeMap<String, KnownKey>,
    /// The newest answer, as canonical JSON with the server's signature.
    pub json: Vec<u8>,
    /// Earlier ones that name keys which those after them do not, the newest first.
    pub older: Vec<Vec<u8>>,
}

/// The key server's table, read-only.
pub trait StoredServerKeys: Send + Sync {
    fn keys_of(&self, server: &ServerName) -> Result<Option<StoredKeys>, QueryError>;
}
