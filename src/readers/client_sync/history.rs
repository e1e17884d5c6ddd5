//! The rows of one room, read as of an offset: timeline, state, memberships.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, UserId};

use super::SyncError;
use super::rows::{self, Delta, Key, MembershipRow, StateRow, TimelineRow};
use crate::logs::log::PartitionId;
use crate::query::ids::{RoomSn, StateId};
use crate::query::rooms::{Rooms, StateKey, StateMap};
use crate::storage::columns::{SYNC_MEMBERS, SYNC_STATE, SYNC_TIMELINE, Table};
use crate::storage::overlay::{Read, StoreError};

/// Rows that one range read takes.
const PAGE_ROWS: usize = 512;
/// State rows that one range read takes: each may have a mebibyte.
const STATE_PAGE_ROWS: usize = 32;

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

    /// Hands out state rows in `[from, to)` in the order of the log.
    fn each_state_row(
        &self,
        from: u64,
        to: u64,
        mut each: impl FnMut(u64, StateRow) -> Result<(), SyncError>,
    ) -> Result<(), SyncError> {
        let prefix = Key::new(self.partition).room(self.room);
        let mut next = from;
        while next < to {
            let start = Key::new(self.partition).room(self.room).number(next);
            let start = Some(start.bytes());
            let page =
                self.store
                    .range(SYNC_STATE, prefix.bytes(), start, false, STATE_PAGE_ROWS)?;
            for (key, value) in &page {
                let offset = rows::last_number(SYNC_STATE, key)?;
                if offset >= to {
                    return Ok(());
                }
                each(offset, rows::decode(SYNC_STATE, value)?)?;
                next = offset + 1;
            }
            if page.len() < STATE_PAGE_ROWS {
                break;
            }
        }
        Ok(())
    }

    /// How current state changed in `[from, to)`. A change in parts stands where
    /// it ends.
    pub fn changes(&self, from: u64, to: u64) -> Result<Changes, SyncError> {
        let mut changes = Changes::new();
        self.each_state_row(from, to, |offset, row| {
            let StateRow::Change { first, deltas, .. } = row else {
                return Ok(());
            };
            if let Some(first) = first {
                self.each_state_row(first, offset, |_, part| {
                    if let StateRow::Part { deltas, .. } = part {
                        add(&mut changes, deltas);
                    }
                    Ok(())
                })?;
            }
            add(&mut changes, deltas);
            Ok(())
        })?;
        Ok(changes)
    }

    /// Id of current state as it was when the cursor stood at `to`.
    pub fn state_id_at(&self, to: u64) -> Result<StateId, SyncError> {
        let newest = |to| -> Result<Option<StateRow>, SyncError> {
            let mut newest = None;
            self.newest_first(SYNC_STATE, 0, to, 1, |_, value| {
                newest = Some(rows::decode(SYNC_STATE, value)?);
                Ok(())
            })?;
            Ok(newest)
        };
        let mut found = newest(to)?;
        if let Some(StateRow::Part { first, .. }) = found {
            // The change has not ended: what was before it is current.
            found = newest(first)?;
        }
        Ok(match found {
            Some(StateRow::Change { state, .. }) => StateId(state),
            Some(StateRow::Part { .. }) | None => StateId::EMPTY,
        })
    }

    /// Current state as it was when the cursor stood at `to`.
    pub fn state_at(&self, to: u64) -> Result<StateMap, SyncError> {
        match self.state_id_at(to)? {
            StateId::EMPTY => Ok(StateMap::new()),
            state => Ok(self.rooms.state(&self.room_id, state)?),
        }
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

fn add(changes: &mut Changes, deltas: Vec<Delta>) {
    for delta in deltas {
        changes.insert(StateKey::new(&delta.kind, &delta.state_key), delta.to);
    }
}
