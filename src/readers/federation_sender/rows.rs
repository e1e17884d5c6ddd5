//! Keys and values of this reader's tables. All of them can be rebuilt from
//! *output* and from what was acknowledged.

use log_format::record::input::Emitted;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};

use crate::logs::log::PartitionId;
use crate::storage::columns::{SENDER_QUEUE, SENDER_SERVERS, SENDER_TIPS, Table};
use crate::storage::keys::{Key, RowReader, RowWriter};
use crate::storage::overlay::StoreError;

/// Raised whenever a row's meaning changes; the tables are then rebuilt.
pub const TABLES_VERSION: u32 = 1;

/// Everything of one partition.
pub fn partition_key(partition: PartitionId) -> Key {
    Key::of(partition)
}

/// The servers of a room.
pub fn servers_key(partition: PartitionId, room: &str) -> Key {
    Key::of(partition).text(room)
}

/// One server of a room.
pub fn server_key(partition: PartitionId, room: &str, server: &ServerName) -> Key {
    servers_key(partition, room).bytes(server.as_bytes())
}

/// The room of a key of [`SENDER_SERVERS`].
pub fn room_of(key: &[u8]) -> Result<&str, StoreError> {
    let mut parts = RowReader::new(SENDER_SERVERS, key);
    parts.take(2)?;
    parts.key_text()
}

/// The server of a key of [`SENDER_SERVERS`].
pub fn server_of(key: &[u8]) -> Result<OwnedServerName, StoreError> {
    let mut parts = RowReader::new(SENDER_SERVERS, key);
    parts.take(2)?;
    parts.key_text()?;
    server_name(SENDER_SERVERS, parts.rest_text()?)
}

/// How many members a server has.
pub fn encode_count(count: u64) -> Vec<u8> {
    let mut row = RowWriter::with_capacity(2);
    row.varint(count);
    row.finish()
}

/// Reads [`encode_count`].
pub fn count(value: &[u8]) -> Result<u64, StoreError> {
    RowReader::new(SENDER_SERVERS, value).varint()
}

/// What waits for one server.
pub fn queue_key(partition: PartitionId, server: &ServerName) -> Key {
    Key::of(partition).text(server.as_str())
}

/// One event that waits.
pub fn queued_key(partition: PartitionId, server: &ServerName, at: Emitted) -> Key {
    queue_key(partition, server)
        .number(at.src_offset)
        .number(u64::from(at.src_sub))
}

/// An event that waits to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    pub at: Emitted,
    pub room_id: OwnedRoomId,
    pub event_id: OwnedEventId,
    /// When it entered *input*, in milliseconds since the epoch.
    pub time_ms: u64,
}

impl Queued {
    /// Value of [`SENDER_QUEUE`].
    pub fn encode(&self) -> Vec<u8> {
        let mut row = RowWriter::with_capacity(96);
        row.text(self.room_id.as_str())
            .text(self.event_id.as_str())
            .varint(self.time_ms);
        row.finish()
    }

    /// Reads a row.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Queued, StoreError> {
        let (_, at) = queued_at(key)?;
        let mut row = RowReader::new(SENDER_QUEUE, value);
        let (room_id, event_id) = (row.text()?, row.text()?);
        let room_id = <&RoomId>::try_from(room_id);
        let queued = Queued {
            at,
            room_id: room_id
                .map_err(|error| damaged(SENDER_QUEUE, &error.to_string()))?
                .to_owned(),
            event_id: OwnedEventId::try_from(event_id)
                .map_err(|error| damaged(SENDER_QUEUE, &error.to_string()))?,
            time_ms: row.varint()?,
        };
        row.finish()?;
        Ok(queued)
    }
}

/// For whom, and where, a key of [`SENDER_QUEUE`] stands.
pub fn queued_at(key: &[u8]) -> Result<(&str, Emitted), StoreError> {
    let mut parts = RowReader::new(SENDER_QUEUE, key);
    parts.take(2)?;
    let server = parts.key_text()?;
    let src_offset = parts.number()?;
    let src_sub = u32::try_from(parts.number()?);
    let src_sub = src_sub.map_err(|_| damaged(SENDER_QUEUE, "sub-number is too large"))?;
    let at = Emitted {
        src_offset,
        src_sub,
    };
    Ok((server, at))
}

/// The tips of a room.
pub fn tips_key(partition: PartitionId, room: &str) -> Key {
    Key::of(partition).bytes(room.as_bytes())
}

/// One of our events that none of our later ones in the room builds on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    pub at: Emitted,
    pub event_id: Box<str>,
}

/// Value of [`SENDER_TIPS`].
pub fn encode_tips(tips: &[Tip]) -> Vec<u8> {
    let mut row = RowWriter::with_capacity(64 * tips.len());
    for tip in tips {
        row.varint(tip.at.src_offset)
            .varint(u64::from(tip.at.src_sub))
            .text(&tip.event_id);
    }
    row.finish()
}

/// Reads [`encode_tips`].
pub fn tips(value: &[u8]) -> Result<Vec<Tip>, StoreError> {
    let mut row = RowReader::new(SENDER_TIPS, value);
    let mut tips = Vec::new();
    while !row.is_empty() {
        let src_offset = row.varint()?;
        let src_sub = u32::try_from(row.varint()?);
        let src_sub = src_sub.map_err(|_| damaged(SENDER_TIPS, "sub-number is too large"))?;
        tips.push(Tip {
            at: Emitted {
                src_offset,
                src_sub,
            },
            event_id: row.text()?.into(),
        });
    }
    Ok(tips)
}

/// A server's name, as it stands in a key.
pub fn server_name(table: Table, text: &str) -> Result<OwnedServerName, StoreError> {
    let name = <&ServerName>::try_from(text);
    let name = name.map_err(|error| damaged(table, &error.to_string()))?;
    Ok(name.to_owned())
}

fn damaged(table: Table, why: &str) -> StoreError {
    StoreError::Row {
        table: table.name,
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{event_id, room_id, server_name};

    use super::*;

    proptest! {
        #[test]
        fn rows_read_back_in_their_order(
            (a, b) in any::<((u64, u32), (u64, u32))>(), time_ms: u64, count_of: u64,
        ) {
            let at = |(src_offset, src_sub)| Emitted { src_offset, src_sub };
            let server = server_name!("b.test:8448");
            let key = |of| queued_key(3, server, of);
            prop_assert_eq!(key(at(a)).as_bytes().cmp(key(at(b)).as_bytes()), at(a).cmp(&at(b)));
            let queued = Queued {
                at: at(a), time_ms,
                room_id: room_id!("!room:a.test").to_owned(),
                event_id: event_id!("$event").to_owned(),
            };
            let key = key(queued.at);
            prop_assert_eq!(queued_at(key.as_bytes()).unwrap(), (server.as_str(), queued.at));
            let read = Queued::decode(key.as_bytes(), &queued.encode()).unwrap();
            prop_assert_eq!(read, queued);
            let all = [a, b].map(|of| Tip { at: at(of), event_id: "$e".into() });
            prop_assert_eq!(tips(&encode_tips(&all)).unwrap(), all);
            prop_assert_eq!(count(&encode_count(count_of)).unwrap(), count_of);
            let key = server_key(3, "!room:a.test", server);
            prop_assert_eq!(room_of(key.as_bytes()).unwrap(), "!room:a.test");
            prop_assert_eq!(server_of(key.as_bytes()).unwrap(), server);
        }

        #[test]
        fn no_bytes_make_a_row_panic(key: Vec<u8>, value: Vec<u8>) {
            let _ = Queued::decode(&key, &value);
            let _ = tips(&value);
            let _ = server_of(&key);
            let _ = room_of(&key);
        }
    }
}
