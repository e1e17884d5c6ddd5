//! The row of a server, and how it answers.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use log_format::codec;

use crate::matrix::server_keys::{KnownKey, Validity};
use crate::query::server_keys::StoredKeys;
use crate::storage::columns::SERVER_KEYS;
use crate::storage::keys::Key;
use crate::storage::overlay::{Read, StoreError};

/// Row of [`SERVER_KEYS`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ServerRow {
    /// When the newest answer was fetched.
    pub fetched_ms: u64,
    /// The newest answer, as canonical JSON.
    pub json: Vec<u8>,
    /// All keys that the server ever published, by id.
    pub keys: BTreeMap<String, KeyRow>,
    /// Earlier answers, the newest first, which name keys that those after them
    /// do not: a notary has them from nowhere else.
    pub older: Vec<Vec<u8>>,
}

/// A key of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeyRow {
    pub key: [u8; 32],
    /// Milliseconds since the epoch: until when it is valid, or was used.
    pub end_ms: u64,
    /// For events of before then only.
    pub expired: bool,
}

impl KeyRow {
    pub fn of(known: KnownKey) -> KeyRow {
        let (end_ms, expired) = match known.validity {
            Validity::Until(until) => (until, false),
            Validity::Expired(expired) => (expired, true),
        };
        KeyRow {
            key: known.key,
            end_ms,
            expired,
        }
    }

    fn known(self) -> KnownKey {
        let validity = match self.expired {
            true => Validity::Expired(self.end_ms),
            false => Validity::Until(self.end_ms),
        };
        KnownKey {
            key: self.key,
            validity,
        }
    }
}

/// Key of a server's row.
pub fn key(partition: u32, server: &str) -> Key {
    Key::of(partition).bytes(server.as_bytes())
}

/// The row of a server.
pub fn read_row(
    tables: &dyn Read,
    partition: u32,
    server: &str,
) -> Result<Option<ServerRow>, StoreError> {
    let row = tables.get(SERVER_KEYS, key(partition, server).as_bytes())?;
    let decode = |row: bytes::Bytes| {
        codec::decode(&row).map_err(|error| StoreError::Row {
            table: SERVER_KEYS.name,
            why: error.to_string(),
        })
    };
    row.map(decode).transpose()
}

/// A row as the query window shows it.
pub fn stored(row: ServerRow) -> StoredKeys {
    let keys = row.keys.into_iter().map(|(id, key)| (id, key.known()));
    StoredKeys {
        fetched_ms: row.fetched_ms,
        keys: keys.collect(),
        json: row.json,
        older: row.older,
    }
}
