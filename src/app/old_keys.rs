//! `keys/old_keys.json`: public keys that signed for this server once and do so
//! no more. They are published, so that old events can be verified.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::data_dir::{self, DataDir};
use super::exit::Exit;
use crate::clock;
use crate::crypto::signing_key::ServerKey;
use crate::matrix::server_keys::OldKey;

/// As in the file: an array of these.
#[derive(Deserialize, Serialize)]
struct Entry {
    key_id: String,
    /// Unpadded base64.
    key: String,
    /// Milliseconds since the epoch.
    expired_ts: u64,
}

/// Reads the file; none is an empty one.
pub fn load(path: &Path) -> Result<Vec<OldKey>, Exit> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Exit::failed(format!("{}: {error}", path.display()))),
    };
    let entries: Vec<Entry> = serde_json::from_slice(&text)
        .map_err(|error| Exit::failed(format!("{}: {error}", path.display())))?;
    let keys = entries.into_iter().map(|entry| OldKey {
        key_id: entry.key_id,
        public: entry.key,
        expired_ts: entry.expired_ts,
    });
    Ok(keys.collect())
}

/// Replaces the signing key of a folder that the caller has locked, and answers
/// the ids of the old and the new one. The old one is listed before it goes:
/// a crash in between leaves it in use.
pub fn rotate(data_dir: &DataDir) -> Result<(String, String), Exit> {
    let failed = |error: &dyn std::fmt::Display| Exit::failed(error.to_string());
    let path = data_dir.signing_key();
    let current = ServerKey::load(&path).map_err(|error| failed(&error))?;
    let mut entries: Vec<Entry> = load(&data_dir.old_keys())?
        .into_iter()
        .filter(|old| old.key_id != current.key_id())
        .map(|old| Entry {
            key_id: old.key_id,
            key: old.public,
            expired_ts: old.expired_ts,
        })
        .collect();
    entries.push(Entry {
        key_id: current.key_id().to_owned(),
        key: current.public_base64(),
        expired_ts: clock::now_ms(),
    });
    let text = serde_json::to_vec_pretty(&entries).map_err(|error| failed(&error))?;
    data_dir::replace(&data_dir.old_keys(), &text).map_err(|error| failed(&error))?;
    let fresh = ServerKey::generate();
    fresh.replace(&path).map_err(|error| failed(&error))?;
    Ok((current.key_id().to_owned(), fresh.key_id().to_owned()))
}
