//! Keys and rows of the user server's tables.

use bincode::{Decode, Encode};
use log_format::codec;
use log_format::record::input::{TokenHash, Tokens};

use crate::storage::columns::Table;
use crate::storage::keys::Key;
use crate::storage::overlay::{Read, StoreError};

/// Row of [`crate::storage::columns::ACCOUNTS`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AccountRow {
    pub password_hash: Option<String>,
    pub guest: bool,
    pub admin: bool,
    pub deactivated: bool,
    /// The user wants what they said to be forgotten.
    pub erased: bool,
}

/// Row of [`crate::storage::columns::DEVICES`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeviceRow {
    pub display_name: Option<String>,
    pub tokens: Tokens,
    /// The refresh token before the last refresh. It stays valid until one of
    /// the new tokens is used, so that a client that lost the answer can ask
    /// again (client-server API, *Refreshing access tokens*).
    pub previous_refresh: Option<TokenHash>,
}

/// Row of [`crate::storage::columns::FORGOTTEN`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ForgottenRow {
    /// The membership event that the writer saw; another one that is current
    /// later means that the user has been in the room again.
    pub membership_event: Option<String>,
}

/// Row of [`crate::storage::columns::REFUSED_ACCOUNTS`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RefusedAccountRow {
    /// Of the registration; never zero.
    pub idempotency: [u8; 16],
}

/// Longest text that a key takes; longer ones are refused as malformed.
pub const KEY_TEXT_BYTES_MAX: usize = u16::MAX as usize;

/// Key of a row that a user has one of.
pub fn user_key(partition: u32, user: &str) -> Key {
    Key::of(partition).text(user)
}

/// Key of a row that a user has one of for each `name`.
pub fn named_key(partition: u32, user: &str, name: &str) -> Key {
    user_key(partition, user).bytes(name.as_bytes())
}

/// Prefix of a user's account data: global without a room.
pub fn account_data_prefix(partition: u32, user: &str, room: Option<&str>) -> Key {
    user_key(partition, user).text(room.unwrap_or_default())
}

/// The part of a key behind a prefix, as text.
pub fn name_in(table: Table, key: &[u8], prefix: &Key) -> Result<String, StoreError> {
    let name = key.get(prefix.as_bytes().len()..).unwrap_or_default();
    String::from_utf8(name.to_vec()).map_err(|_| StoreError::Row {
        table: table.name,
        why: "key is not UTF-8".to_owned(),
    })
}

/// Reads and decodes a row.
pub fn read_row<T: Decode<()>>(
    tables: &dyn Read,
    table: Table,
    key: &Key,
) -> Result<Option<T>, StoreError> {
    let row = tables.get(table, key.as_bytes())?;
    row.map(|row| decode_row(table, &row)).transpose()
}

/// Decodes a row.
pub fn decode_row<T: Decode<()>>(table: Table, row: &[u8]) -> Result<T, StoreError> {
    codec::decode(row).map_err(|error| StoreError::Row {
        table: table.name,
        why: error.to_string(),
    })
}
