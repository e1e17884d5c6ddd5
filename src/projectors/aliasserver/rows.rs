//! Keys and rows of the alias server's tables, and how they answer.

use bincode::{Decode, Encode};
use log_format::codec;
use ruma::{OwnedRoomAliasId, OwnedServerName, RoomAliasId, RoomId, UserId};

use crate::query::users::Alias;
use crate::storage::columns::{ALIASES, ROOM_ALIASES, Table};
use crate::storage::keys::Key;
use crate::storage::overlay::{Read, StoreError};

/// Row of [`ALIASES`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AliasRow {
    pub room_id: String,
    pub creator: String,
    pub servers: Vec<String>,
}

/// Key of an alias.
pub fn alias_key(partition: u32, alias: &str) -> Key {
    Key::of(partition).bytes(alias.as_bytes())
}

/// Prefix of a room's aliases.
pub fn room_prefix(partition: u32, room_id: &str) -> Key {
    Key::of(partition).text(room_id)
}

fn bad(table: Table, why: impl ToString) -> StoreError {
    StoreError::Row {
        table: table.name,
        why: why.to_string(),
    }
}

/// The row of an alias.
pub fn read_row(
    tables: &dyn Read,
    partition: u32,
    alias: &str,
) -> Result<Option<AliasRow>, StoreError> {
    let row = tables.get(ALIASES, alias_key(partition, alias).as_bytes())?;
    row.map(|row| codec::decode(&row).map_err(|error| bad(ALIASES, error)))
        .transpose()
}

/// An alias as the query window shows it.
pub fn read(
    tables: &dyn Read,
    partition: u32,
    alias: &RoomAliasId,
) -> Result<Option<Alias>, StoreError> {
    let Some(row) = read_row(tables, partition, alias.as_str())? else {
        return Ok(None);
    };
    let servers = row.servers.into_iter().map(OwnedServerName::try_from);
    Ok(Some(Alias {
        alias: alias.to_owned(),
        room_id: RoomId::parse(&row.room_id).map_err(|error| bad(ALIASES, error))?,
        creator: UserId::parse(&row.creator).map_err(|error| bad(ALIASES, error))?,
        servers: servers
            .collect::<Result<_, _>>()
            .map_err(|error| bad(ALIASES, error))?,
    }))
}

/// All aliases of a room, by alias. They lie in the partitions of the aliases.
pub fn of_room(
    tables: &dyn Read,
    partitions: u32,
    room: &RoomId,
) -> Result<Vec<OwnedRoomAliasId>, StoreError> {
    let mut aliases = Vec::new();
    for partition in 0..partitions {
        let prefix = room_prefix(partition, room.as_str());
        let found = tables.range(ROOM_ALIASES, prefix.as_bytes(), None, false, usize::MAX)?;
        for (key, _) in found {
            let alias = key.get(prefix.as_bytes().len()..).unwrap_or_default();
            let alias = std::str::from_utf8(alias).map_err(|error| bad(ROOM_ALIASES, error))?;
            aliases.push(RoomAliasId::parse(alias).map_err(|error| bad(ROOM_ALIASES, error))?);
        }
    }
    aliases.sort();
    Ok(aliases)
}
