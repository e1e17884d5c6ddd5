//! The rows of one room, read as of an offset: timeline, state, memberships.

use std::collections::BTreeMap;
use std::sync::Arc;

use ruma::{OwnedRoomId, UserId};

use super::SyncError;
use super::rows::{self, Key, MembershipRow, StateRow, TimelineRow};
use crate::logs::log::PartitionId;
use crate::query::ids::{EventSn, RoomSn, StateId};
use crate::query::rooms::{Rooms, StateKey, StateMap};
use crate::storage::columns::{SYNC_MEMBERS, SYNC_STATE, SYNC_TIMELINE, Table};
use crate::storage::overlay::{Read, StoreError};

/// Rows that one range read takes.
const PAGE_ROWS: usize = 512;

/// Which event holds a key after a stretch of the log; none where it was removed.
pub type Changes = BTreeMap<StateKey, Option<String>>;

/// One room's history. Bounds are *output* offsets, the upper one exclusive.
pub struct RoomHistory<'a> {
    pub store: &'a dyn Read,
    pub rooms: &'a dyn Rooms,
    pub partition: PartitionId,
    pub room: RoomSn,
    pub room_id: OwnedRoomId,
}

impl RoomHistory<'_> {
    /// Timeline rows in `[from, to)`, newest first, at most `limit`.
    pub fn timeline_before(
        &self,
        from: u64,
        to: u64,
        limit: usize,
    ) -> Result<Vec<TimelineRow>, SyncError> {
        let mut found = Vec::new();
        self.newest_first(SYNC_TIMELINE, from, to, limit, |key, value| {
            found.push(TimelineRow::decode(SYNC_TIMELINE, key, value)?);
            Ok(())
        })?;
        Ok(found)
    }

    fn newest_first(
        &self,
        table: Table,
        from: u64,
        to: u64,
        limit: usize,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), SyncError> {
        let Some(last) = to.checked_sub(1).filter(|last| *last >= from) else {
            return Ok(());
        };
        let prefix = Key::new(self.partition).room(self.room);
        let start = Key::new(self.partition).room(self.room).number(last);
        let (prefix, start) = (prefix.bytes(), Some(start.bytes()));
        for (key, value) in self.store.range(table, prefix, start, true, limit)? {
            if rows::last_number(table, &key)? < from {
                break;
            }
            each(&key, &value)?;
        }
        Ok(())
    }

    /// State rows in `[from, to)` in the order of the log.
    fn state_rows(&self, from: u64, to: u64) -> Result<Vec<(u64, StateRow)>, SyncError> {
        let prefix = Key::new(self.partition).room(self.room);
        let mut found = Vec::new();
        let mut next = from;
        while next < to {
            let start = Key::new(self.partition).room(self.room).number(next);
            let start = Some(start.bytes());
            let page = self
                .store
                .range(SYNC_STATE, prefix.bytes(), start, false, PAGE_ROWS)?;
            for (key, value) in &page {
                let offset = rows::last_number(SYNC_STATE, key)?;
                if offset >= to {
                    return Ok(found);
                }
                found.push((offset, rows::decode(SYNC_STATE, value)?));
                next = offset + 1;
            }
            if page.len() < PAGE_ROWS {
                break;
            }
        }
        Ok(found)
    }

    /// How current state changed in `[from, to)`.
    pub fn changes(&self, from: u64, to: u64) -> Result<Changes, SyncError> {
        let mut changes = Changes::new();
        for (_, row) in self.state_rows(from, to)? {
            for delta in row.deltas {
                let key = StateKey::new(&delta.kind, &delta.state_key);
                changes.insert(key, delta.to);
            }
        }
        Ok(changes)
    }

    /// Current state as it was when the cursor stood at `to`.
    pub fn state_at(&self, to: u64) -> Result<StateMap, SyncError> {
        let mut newest = None;
        self.newest_first(SYNC_STATE, 0, to, 1, |_, value| {
            newest = Some(rows::decode::<StateRow>(SYNC_STATE, value)?);
            Ok(())
        })?;
        let Some(newest) = newest else {
            return Ok(StateMap::new());
        };
        if newest.exact {
            let state = StateId(newest.state_after);
            return Ok(self.rooms.state(&self.room_id, state)?);
        }
        // The room is forked: the last state that was current by itself, and
        // what changed since.
        let behind = newest.base.map_or(0, |base| base + 1);
        let mut state = match newest.base {
            None => StateMap::new(),
            Some(base) => match self.state_rows(base, base + 1)?.pop() {
                Some((_, row)) => {
                    let state = StateId(row.state_after);
                    self.rooms.state(&self.room_id, state)?
                }
                None => StateMap::new(),
            },
        };
        for (key, to) in self.changes(behind, to)? {
            match to.and_then(|id| self.event_sn(&id).transpose()) {
                Some(event) => state.insert(Arc::new(key), event?),
                None => state.remove(&key),
            };
        }
        Ok(state)
    }

    /// Interned id of an event.
    pub fn event_sn(&self, event_id: &str) -> Result<Option<EventSn>, SyncError> {
        let Ok(event_id) = <&ruma::EventId>::try_from(event_id) else {
            return Ok(None);
        };
        let event = self.rooms.event(&self.room_id, event_id)?;
        Ok(event.map(|event| event.event))
    }

    /// A local user's memberships in `[from, to)`, in the order of the log.
    pub fn memberships(
        &self,
        user: &UserId,
        from: u64,
        to: u64,
    ) -> Result<Vec<(u64, MembershipRow)>, SyncError> {
        let of_room = || Key::new(self.partition).text(user.as_str()).room(self.room);
        let mut found = Vec::new();
        let mut next = from;
        while next < to {
            let start = of_room().number(next);
            let (prefix, start) = (of_room(), Some(start.bytes()));
            let page = self
                .store
                .range(SYNC_MEMBERS, prefix.bytes(), start, false, PAGE_ROWS)?;
            for (key, value) in &page {
                let offset = rows::last_number(SYNC_MEMBERS, key)?;
                if offset >= to {
                    return Ok(found);
                }
                found.push((offset, rows::decode(SYNC_MEMBERS, value)?));
                next = offset + 1;
            }
            if page.len() < PAGE_ROWS {
                break;
            }
        }
        Ok(found)
    }
}
