//! Keys and values of this reader's tables. All of them can be rebuilt from *output*.

use bincode::{Decode, Encode};
use log_format::codec;
use ruma::UserId;

use crate::logs::log::PartitionId;
use crate::query::ids::RoomSn;
use crate::storage::columns::Table;
use crate::storage::overlay::StoreError;

/// Raised whenever a row's meaning changes; the tables are then rebuilt.
pub const TABLES_VERSION: u32 = 2;

/// Ends a text within a key. No word and no user id has it.
const END: u8 = 0;

/// Value of [`crate::storage::columns::DIRECTORY_NAMES`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct NameRow {
    pub display_name: Option<String>,
}

/// Value of [`crate::storage::columns::DIRECTORY_MEMBERS`]: what somebody of
/// another server is called in a room; nothing for users of this server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct MemberRow {
    pub display_name: Option<String>,
    pub avatar_url: Option<String>,
}

/// Value of [`crate::storage::columns::DIRECTORY_OPEN`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct OpenRow {
    /// The join rule is `public`.
    pub is_public: bool,
    /// The history visibility is `world_readable`.
    pub is_readable: bool,
    /// Users of this server who are in it.
    pub local_members: u64,
}

impl OpenRow {
    /// Whether anybody may look into the room, and we know who is in it: after the
    /// last of our users left, others come and go unseen.
    pub fn is_open(self) -> bool {
        (self.is_public || self.is_readable) && self.local_members > 0
    }
}

/// Every key begins with its partition.
pub fn partition_key(partition: PartitionId) -> Vec<u8> {
    (partition as u16).to_be_bytes().to_vec()
}

/// The beginning of keys of words that begin with `word`.
pub fn words_prefix(partition: PartitionId, word: &str) -> Vec<u8> {
    let mut key = partition_key(partition);
    key.extend_from_slice(word.as_bytes());
    key
}

pub fn word_key(partition: PartitionId, word: &str, user: &UserId) -> Vec<u8> {
    let mut key = words_prefix(partition, word);
    key.push(END);
    key.extend_from_slice(user.as_bytes());
    key
}

/// The user of a [`word_key`].
pub fn user_of_word(table: Table, key: &[u8]) -> Result<&UserId, StoreError> {
    let user = key.rsplit(|byte| *byte == END).next();
    let user = user.and_then(|user| std::str::from_utf8(user).ok());
    let user = user.and_then(|user| <&UserId>::try_from(user).ok());
    user.ok_or_else(|| damaged(table, "key holds no user id"))
}

/// Key of a user's own row, and the beginning of those by room.
pub fn user_key(partition: PartitionId, user: &UserId) -> Vec<u8> {
    let mut key = partition_key(partition);
    key.extend_from_slice(user.as_bytes());
    key.push(END);
    key
}

pub fn member_key(partition: PartitionId, user: &UserId, room: RoomSn) -> Vec<u8> {
    let mut key = user_key(partition, user);
    key.extend_from_slice(&room.0.to_be_bytes());
    key
}

pub fn room_key(partition: PartitionId, room: RoomSn) -> Vec<u8> {
    let mut key = partition_key(partition);
    key.extend_from_slice(&room.0.to_be_bytes());
    key
}

/// The room that a key ends with.
pub fn room_of(table: Table, key: &[u8]) -> Result<RoomSn, StoreError> {
    let bytes = key.last_chunk::<8>();
    let bytes = bytes.ok_or_else(|| damaged(table, "key is too short"))?;
    Ok(RoomSn(u64::from_be_bytes(*bytes)))
}

pub fn decode<T: Decode<()>>(table: Table, value: &[u8]) -> Result<T, StoreError> {
    codec::decode(value).map_err(|error| damaged(table, error))
}

fn damaged(table: Table, why: impl ToString) -> StoreError {
    StoreError::Row {
        table: table.name,
        why: why.to_string(),
    }
}
