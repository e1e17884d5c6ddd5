//! Keys and values of this reader's tables. All of them can be rebuilt from *output*.

use ruma::{EventId, OwnedEventId, OwnedUserId};

use crate::logs::log::PartitionId;
use crate::query::ids::{EventSn, Place, RoomSn};
use crate::query::relations::{Annotation, Child, SentAt, Summary, ThreadSummary};
use crate::storage::columns::{
    RELATIONS_BY_TYPE, RELATIONS_CHILDREN, RELATIONS_EDITS, RELATIONS_OF, RELATIONS_PARENTS,
    RELATIONS_THREADS, RELATIONS_TIMES, Table,
};
use crate::storage::keys::{Key, RowReader, RowWriter};
use crate::storage::overlay::StoreError;

/// Raised whenever a row's meaning changes; the tables are then rebuilt.
pub const TABLES_VERSION: u32 = 1;

/// Bytes of the digest that stands for an annotation.
const DIGEST_BYTES: usize = 16;

/// The keys of one room.
#[derive(Clone, Copy, Debug)]
pub struct RoomKeys {
    pub partition: PartitionId,
    pub room: RoomSn,
}

impl RoomKeys {
    /// Of whatever is kept once a room and place, or listed in one.
    pub fn room(self) -> Key {
        Key::of(self.partition).number(self.room.0)
    }

    /// Of whatever is kept of one event, or listed under it.
    pub fn event(self, event: &str) -> Key {
        self.room().text(event)
    }

    pub fn child(self, parent: &str, place: Place) -> Key {
        self.event(parent).bytes(&place.to_bytes())
    }

    pub fn of_type(self, parent: &str, rel_type: &str) -> Key {
        self.event(parent).text(rel_type)
    }

    pub fn child_of_type(self, parent: &str, rel_type: &str, place: Place) -> Key {
        self.of_type(parent, rel_type).bytes(&place.to_bytes())
    }

    /// All edits of an event that count: by its own sender and of its own type.
    pub fn edits(self, parent: &str, sender: &str, kind: &str) -> Key {
        self.event(parent).text(sender).text(kind)
    }

    /// The most recent edit has the last key.
    pub fn edit(self, child: &ChildRow, event_id: &str) -> Key {
        self.edits(&child.parent, &child.sender, &child.kind)
            .number(child.ts)
            .bytes(event_id.as_bytes())
    }

    pub fn annotations(self, parent: &str, digest: [u8; DIGEST_BYTES]) -> Key {
        self.event(parent).bytes(&digest)
    }

    pub fn annotation(self, parent: &str, digest: [u8; DIGEST_BYTES], place: Place) -> Key {
        self.annotations(parent, digest).bytes(&place.to_bytes())
    }

    pub fn thread(self, latest: Place) -> Key {
        self.room().bytes(&latest.to_bytes())
    }

    pub fn replier(self, root: &str, sender: &str) -> Key {
        self.event(root).bytes(sender.as_bytes())
    }

    pub fn times(self, ts: u64) -> Key {
        self.room().number(ts)
    }

    pub fn time(self, ts: u64, place: Place) -> Key {
        self.times(ts).bytes(&place.to_bytes())
    }
}

/// What makes an annotation the same as another one, in few bytes.
pub fn digest(annotation: Annotation<'_>) -> [u8; DIGEST_BYTES] {
    let mut hasher = blake3::Hasher::new();
    for part in [annotation.sender, annotation.kind, annotation.key] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut digest = [0; DIGEST_BYTES];
    hasher.finalize_xof().fill(&mut digest);
    digest
}

/// All that is known of an event that relates to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildRow {
    pub event: EventSn,
    pub place: Place,
    pub parent: Box<str>,
    pub rel_type: Box<str>,
    pub sender: Box<str>,
    pub kind: Box<str>,
    /// `origin_server_ts`, in milliseconds since the epoch.
    pub ts: u64,
    /// It looks like an edit, whatever it edits.
    pub is_edit: bool,
    /// Of an annotation with a key.
    pub annotation: Option<[u8; DIGEST_BYTES]>,
}

impl ChildRow {
    /// Value of [`RELATIONS_OF`].
    pub fn encode(&self) -> Vec<u8> {
        let mut row = RowWriter::with_capacity(192);
        row.varint(self.event.0)
            .bytes(&self.place.to_bytes())
            .text(&self.parent)
            .text(&self.rel_type)
            .text(&self.sender)
            .text(&self.kind)
            .varint(self.ts)
            .u8(u8::from(self.is_edit));
        match &self.annotation {
            None => row.u8(0),
            Some(digest) => row.u8(1).bytes(digest),
        };
        row.finish()
    }

    pub fn decode(value: &[u8]) -> Result<ChildRow, StoreError> {
        let mut row = RowReader::new(RELATIONS_OF, value);
        let child = ChildRow {
            event: EventSn(row.varint()?),
            place: Place::from_bytes(row.array()?),
            parent: row.text()?.into(),
            rel_type: row.text()?.into(),
            sender: row.text()?.into(),
            kind: row.text()?.into(),
            ts: row.varint()?,
            is_edit: row.u8()? != 0,
            annotation: match row.u8()? {
                0 => None,
                _ => Some(row.array()?),
            },
        };
        row.finish()?;
        Ok(child)
    }

    /// Value of [`RELATIONS_CHILDREN`] and [`RELATIONS_BY_TYPE`].
    pub fn encode_listed(&self, event_id: &str) -> Vec<u8> {
        let mut row = RowWriter::with_capacity(160);
        row.varint(self.event.0)
            .text(event_id)
            .text(&self.sender)
            .text(&self.rel_type)
            .text(&self.kind);
        row.finish()
    }
}

/// Reads a row of [`RELATIONS_CHILDREN`] or [`RELATIONS_BY_TYPE`].
pub fn listed(table: Table, key: &[u8], value: &[u8]) -> Result<Child, StoreError> {
    debug_assert!(table == RELATIONS_CHILDREN || table == RELATIONS_BY_TYPE);
    let mut row = RowReader::new(table, value);
    let child = Child {
        event: EventSn(row.varint()?),
        place: last_place(table, key)?,
        event_id: event_id(table, row.text()?)?,
        sender: OwnedUserId::try_from(row.text()?)
            .map_err(|error| damaged(table, &error.to_string()))?,
        rel_type: row.text()?.into(),
        kind: row.text()?.into(),
    };
    row.finish()?;
    Ok(child)
}

/// Value of [`RELATIONS_PARENTS`].
pub fn encode_summary(summary: &Summary) -> Vec<u8> {
    let mut row = RowWriter::with_capacity(24);
    row.varint(summary.children)
        .varint(summary.edits)
        .varint(summary.references)
        .varint(summary.thread.replies)
        .varint(summary.thread.senders)
        .bytes(&summary.thread.latest.to_bytes());
    row.finish()
}

pub fn summary(value: &[u8]) -> Result<Summary, StoreError> {
    let mut row = RowReader::new(RELATIONS_PARENTS, value);
    let summary = Summary {
        children: row.varint()?,
        edits: row.varint()?,
        references: row.varint()?,
        thread: ThreadSummary {
            replies: row.varint()?,
            senders: row.varint()?,
            latest: Place::from_bytes(row.array()?),
        },
    };
    row.finish()?;
    Ok(summary)
}

/// A value that is one number.
pub fn encode_number(number: u64) -> Vec<u8> {
    let mut row = RowWriter::with_capacity(10);
    row.varint(number);
    row.finish()
}

pub fn number(table: Table, value: &[u8]) -> Result<u64, StoreError> {
    let mut row = RowReader::new(table, value);
    let number = row.varint()?;
    row.finish()?;
    Ok(number)
}

/// Reads a row of [`RELATIONS_EDITS`].
pub fn edit(value: &[u8]) -> Result<EventSn, StoreError> {
    Ok(EventSn(number(RELATIONS_EDITS, value)?))
}

/// Reads a row of [`RELATIONS_TIMES`].
pub fn sent_at(key: &[u8], value: &[u8]) -> Result<SentAt, StoreError> {
    // Behind the partition: room, time, place.
    let after = key.get(2..);
    let after = after.ok_or_else(|| damaged(RELATIONS_TIMES, "key is too short"))?;
    let mut parts = RowReader::new(RELATIONS_TIMES, after);
    parts.number()?;
    let sent = SentAt {
        ts: parts.number()?,
        place: Place::from_bytes(parts.array()?),
        event: EventSn(number(RELATIONS_TIMES, value)?),
    };
    parts.finish()?;
    Ok(sent)
}

/// Reads the root in a row of [`RELATIONS_THREADS`].
pub fn root(value: &[u8]) -> Result<OwnedEventId, StoreError> {
    let text = std::str::from_utf8(value);
    let text = text.map_err(|error| damaged(RELATIONS_THREADS, &error.to_string()))?;
    event_id(RELATIONS_THREADS, text)
}

/// The place that a key ends with.
pub fn last_place(table: Table, key: &[u8]) -> Result<Place, StoreError> {
    let bytes = key.last_chunk::<16>();
    let bytes = bytes.ok_or_else(|| damaged(table, "key is too short"))?;
    Ok(Place::from_bytes(*bytes))
}

fn event_id(table: Table, text: &str) -> Result<OwnedEventId, StoreError> {
    let id = <&EventId>::try_from(text).map_err(|error| damaged(table, &error.to_string()))?;
    Ok(id.to_owned())
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

    use super::*;

    proptest! {
        #[test]
        fn rows_read_back(
            (event, place, ts) in any::<(u64, u128, u64)>(),
            [parent, rel_type, sender, kind] in any::<[String; 4]>(),
            (is_edit, annotation) in any::<(bool, Option<[u8; DIGEST_BYTES]>)>(),
        ) {
            let child = ChildRow {
                event: EventSn(event), place: Place(place), parent: parent.into(),
                rel_type: rel_type.into(), sender: sender.into(), kind: kind.into(),
                ts, is_edit, annotation,
            };
            prop_assert_eq!(&ChildRow::decode(&child.encode()).unwrap(), &child);
            let keys = RoomKeys { partition: 3, room: RoomSn(event / 2) };
            let key = keys.time(ts, child.place);
            let sent = sent_at(key.as_ref(), &encode_number(event)).unwrap();
            prop_assert_eq!(sent, SentAt { ts, place: child.place, event: child.event });
        }

        #[test]
        fn summaries_read_back(
            (children, edits, references) in any::<(u64, u64, u64)>(),
            (replies, senders, latest) in any::<(u64, u64, u128)>(),
        ) {
            let whole = Summary {
                children, edits, references,
                thread: ThreadSummary { replies, senders, latest: Place(latest) },
            };
            prop_assert_eq!(summary(&encode_summary(&whole)).unwrap(), whole);
        }

        #[test]
        fn no_bytes_make_a_row_panic(key: Vec<u8>, value: Vec<u8>) {
            let _ = ChildRow::decode(&value);
            let _ = summary(&value);
            let _ = listed(RELATIONS_CHILDREN, &key, &value);
            let _ = sent_at(&key, &value);
            let _ = root(&value);
        }
    }

    #[test]
    fn the_same_annotation_has_the_same_digest() {
        let of = |sender, kind, key| digest(Annotation { sender, kind, key });
        assert_eq!(
            of("@a:hs", "m.reaction", "x"),
            of("@a:hs", "m.reaction", "x")
        );
        assert_ne!(
            of("@a:hs", "m.reaction", "x"),
            of("@a:hs", "m.reactionx", "")
        );
    }
}
