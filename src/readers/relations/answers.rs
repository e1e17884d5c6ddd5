//! What the tables tell: [`Relations`] over this reader's rows.

use std::collections::BTreeSet;

use ruma::{EventId, OwnedUserId, RoomId, UserId};

use super::EventRelations;
use super::rows::{self, RoomKeys, digest};
use crate::logs::log::partition_of;
use crate::query::ids::{EventSn, Place};
use crate::query::relations::{
    Annotation, Child, Children, InRoom, Relations, SentAt, Summary, Thread, Waiting,
};
use crate::query::rooms::{Direction, QueryError, StoredEvent};
use crate::storage::columns::{
    RELATIONS_ANNOTATIONS, RELATIONS_BY_TYPE, RELATIONS_CHILDREN, RELATIONS_EDITS,
    RELATIONS_PARENTS, RELATIONS_REPLIERS, RELATIONS_THREADS, RELATIONS_TIMES, Table,
};
use crate::storage::keys::Key;
use crate::storage::overlay::StoreError;

/// Users that are looked up one by one; for more of them all who replied in
/// the thread are read.
const LOOKED_UP_MAX: usize = 64;
/// Users that are read of a thread. Nobody sees the difference above it: the
/// count is said to be approximate.
const REPLIERS_MAX: usize = 10_000;

impl EventRelations {
    fn keys(&self, room: InRoom<'_>) -> RoomKeys {
        RoomKeys {
            partition: partition_of(room.room_id.as_str(), self.output.partitions()),
            room: room.room,
        }
    }

    fn summary_of(&self, keys: RoomKeys, parent: &EventId) -> Result<Summary, QueryError> {
        let key = keys.event(parent.as_str());
        let row = self
            .store
            .get(RELATIONS_PARENTS, key.as_ref())
            .map_err(failed)?;
        row.map_or(Ok(Summary::default()), |row| {
            rows::summary(&row).map_err(failed)
        })
    }

    /// Rows under `prefix` whose keys continue with a place strictly beyond
    /// `from`, read each by `read`.
    fn by_place<T>(
        &self,
        table: Table,
        prefix: &Key,
        from: Place,
        direction: Direction,
        limit: usize,
        read: impl Fn(&[u8], &[u8]) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, QueryError> {
        let (start, reverse) = match direction {
            Direction::Forward => (from.0.checked_add(1), false),
            Direction::Backward => (from.0.checked_sub(1), true),
        };
        let Some(start) = start else {
            return Ok(Vec::new());
        };
        let start = prefix.clone().bytes(&Place(start).to_bytes());
        let found = self
            .store
            .range(table, prefix.as_ref(), Some(start.as_ref()), reverse, limit);
        let found = found.map_err(failed)?;
        let found = found.iter().map(|(key, value)| read(key, value));
        found.collect::<Result<_, _>>().map_err(failed)
    }
}

impl Relations for EventRelations {
    fn passed<'a>(&'a self, room: Option<&RoomId>) -> Waiting<'a> {
        let partitions = self.output.partitions();
        let asked = match room {
            None => 0..partitions,
            Some(room) => {
                let partition = partition_of(room.as_str(), partitions);
                partition..partition + 1
            }
        };
        Box::pin(self.catch_up(asked))
    }

    fn bundled(&self, room: InRoom<'_>, parents: &[&EventId]) -> Result<Vec<Summary>, QueryError> {
        let keys = self.keys(room);
        let found = parents.iter().map(|parent| {
            let presence = &self.presence;
            match presence.may_have(keys.partition, keys.room, parent.as_str()) {
                true => self.summary_of(keys, parent),
                false => Ok(Summary::default()),
            }
        });
        found.collect()
    }

    fn summary(&self, room: InRoom<'_>, parent: &EventId) -> Result<Summary, QueryError> {
        self.summary_of(self.keys(room), parent)
    }

    fn children(&self, room: InRoom<'_>, wanted: Children<'_>) -> Result<Vec<Child>, QueryError> {
        let keys = self.keys(room);
        let parent = wanted.parent.as_str();
        let (table, prefix) = match wanted.rel_type {
            None => (RELATIONS_CHILDREN, keys.event(parent)),
            Some(rel_type) => (RELATIONS_BY_TYPE, keys.of_type(parent, rel_type)),
        };
        self.by_place(
            table,
            &prefix,
            wanted.from,
            wanted.direction,
            wanted.limit,
            |key, value| rows::listed(table, key, value),
        )
    }

    fn edits(
        &self,
        room: InRoom<'_>,
        original: &StoredEvent,
        limit: usize,
    ) -> Result<Vec<EventSn>, QueryError> {
        let keys = self.keys(room);
        let edits = keys.edits(
            original.event_id.as_str(),
            original.sender.as_str(),
            &original.kind,
        );
        let found = self
            .store
            .range(RELATIONS_EDITS, edits.as_ref(), None, true, limit);
        let found = found.map_err(failed)?;
        let found = found.iter().map(|(_, value)| rows::edit(value));
        found.collect::<Result<_, _>>().map_err(failed)
    }

    fn replies_by(
        &self,
        room: InRoom<'_>,
        root: &EventId,
        users: &BTreeSet<OwnedUserId>,
    ) -> Result<u64, QueryError> {
        let keys = self.keys(room);
        let count = |value: &[u8]| rows::number(RELATIONS_REPLIERS, value);
        let mut replies = 0;
        if users.len() <= LOOKED_UP_MAX {
            for user in users {
                let key = keys.replier(root.as_str(), user.as_str());
                let row = self.store.get(RELATIONS_REPLIERS, key.as_ref());
                if let Some(value) = row.map_err(failed)? {
                    replies += count(&value).map_err(failed)?;
                }
            }
            return Ok(replies);
        }
        let prefix = keys.event(root.as_str());
        let all = self.store.range(
            RELATIONS_REPLIERS,
            prefix.as_ref(),
            None,
            false,
            REPLIERS_MAX,
        );
        for (key, value) in all.map_err(failed)? {
            let sender = key.get(prefix.as_ref().len()..).unwrap_or_default();
            let sender = std::str::from_utf8(sender).unwrap_or_default();
            if <&UserId>::try_from(sender).is_ok_and(|sender| users.contains(sender)) {
                replies += count(&value).map_err(failed)?;
            }
        }
        Ok(replies)
    }

    fn has_replied(
        &self,
        room: InRoom<'_>,
        root: &EventId,
        user: &UserId,
    ) -> Result<bool, QueryError> {
        let key = self.keys(room).replier(root.as_str(), user.as_str());
        let row = self.store.get(RELATIONS_REPLIERS, key.as_ref());
        Ok(row.map_err(failed)?.is_some())
    }

    fn threads(
        &self,
        room: InRoom<'_>,
        before: Place,
        limit: usize,
    ) -> Result<Vec<Thread>, QueryError> {
        let prefix = self.keys(room).room();
        self.by_place(
            RELATIONS_THREADS,
            &prefix,
            before,
            Direction::Backward,
            limit,
            |key, value| {
                Ok(Thread {
                    latest: rows::last_place(RELATIONS_THREADS, key)?,
                    root: rows::root(value)?,
                })
            },
        )
    }

    fn is_annotated(
        &self,
        room: InRoom<'_>,
        parent: &EventId,
        annotation: Annotation<'_>,
    ) -> Result<bool, QueryError> {
        let keys = self.keys(room);
        let prefix = keys.annotations(parent.as_str(), digest(annotation));
        let found = self
            .store
            .range(RELATIONS_ANNOTATIONS, prefix.as_ref(), None, false, 1);
        Ok(!found.map_err(failed)?.is_empty())
    }

    fn sent_about(
        &self,
        room: InRoom<'_>,
        ts: u64,
        direction: Direction,
        after: Option<SentAt>,
        limit: usize,
    ) -> Result<Vec<SentAt>, QueryError> {
        let keys = self.keys(room);
        let reverse = direction == Direction::Backward;
        // A place is neither of the two ends, so that the next one to it is one.
        let start = match (after, direction) {
            (None, Direction::Forward) => keys.times(ts),
            (None, Direction::Backward) => keys.time(ts, Place::END),
            (Some(at), Direction::Forward) => keys.time(at.ts, Place(at.place.0.saturating_add(1))),
            (Some(at), Direction::Backward) => {
                keys.time(at.ts, Place(at.place.0.saturating_sub(1)))
            }
        };
        let (prefix, start) = (keys.room(), Some(start.as_ref()));
        let found = self
            .store
            .range(RELATIONS_TIMES, prefix.as_ref(), start, reverse, limit);
        let found = found.map_err(failed)?;
        let found = found.iter().map(|(key, value)| rows::sent_at(key, value));
        found.collect::<Result<_, _>>().map_err(failed)
    }
}

fn failed(error: StoreError) -> QueryError {
    QueryError::Store(error.to_string())
}
