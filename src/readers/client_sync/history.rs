//! The rows of one room, read as of an offset: timeline, state, memberships.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use ruma::{OwnedRoomId, UserId};

use super::SyncError;
use super::recent::Recent;
use super::rows::{self, Delta, Key, MembershipRow, StateRow, TimelineRow};
use crate::logs::log::PartitionId;
use crate::query::ids::{EventSn, Place, RoomSn, StateId};
use crate::query::rooms::{Rooms, StateKey, StateMap};
use crate::storage::columns::{SYNC_MEMBERS, SYNC_STATE, SYNC_TIMELINE, Table};
use crate::storage::overlay::{Read, StoreError};

/// Rows that one range read takes.
const PAGE_ROWS: usize = 512;
/// State rows that one range read takes: each may have a mebibyte.
const STATE_PAGE_ROWS: usize = 32;

/// Changes of one stretch that are read one by one. Behind a longer absence
/// whole states are compared instead: that costs as much as the room has state,
/// however often it changed.
const CHANGES_MAX: usize = 2_000;
/// Entries that are looked up in a state one by one; for more of them the whole
/// state is read.
const ENTRIES_MAX: usize = 64;

/// Keys of current state that changed in a stretch of the log.
pub type ChangedKeys = BTreeSet<StateKey>;

/// Whether a walk over rows goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    On,
    End,
}

/// One room's history. Bounds are *output* offsets, the upper one exclusive.
pub struct RoomHistory<'a> {
    pub store: &'a dyn Read,
    pub rooms: &'a dyn Rooms,
    pub partition: PartitionId,
    pub room: RoomSn,
    pub room_id: OwnedRoomId,
    pub newest: Newest,
}

/// What memory knows of a room as of the answer's position, so that the rows of
/// a room in which little happened need not be read.
#[derive(Clone, Debug, Default)]
pub struct Newest {
    /// Of the newest row of state; none if there never was one.
    pub state_changed_at: Option<u64>,
    /// Current state from there on; none where a change in parts has not ended,
    /// or the room has no state.
    pub state: Option<StateId>,
    pub timeline: Recent,
}

impl RoomHistory<'_> {
    /// Timeline rows in `[from, to)`, newest first, at most `limit`.
    pub fn timeline_before(
        &self,
        from: u64,
        to: u64,
        limit: usize,
    ) -> Result<Vec<TimelineRow>, SyncError> {
        if let Some(known) = self.newest.timeline.before(from, to, limit) {
            return Ok(known);
        }
        let mut found = Vec::new();
        self.newest_first(SYNC_TIMELINE, from, to, limit, |key, value| {
            found.push(TimelineRow::decode(SYNC_TIMELINE, key, value)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// The newest timeline row in `[from, to)` whose event stands at `place` or
    /// before it. Rows of a room have rising places.
    pub fn newest_up_to(
        &self,
        place: Place,
        from: u64,
        to: u64,
    ) -> Result<Option<TimelineRow>, SyncError> {
        let (mut low, mut high) = (from, to);
        let mut found = None;
        // Most ask for what is the newest; the others are found by halves.
        let mut middle = high.saturating_sub(1);
        while low < high {
            let row = self.timeline_before(low, middle + 1, 1)?.pop();
            match row {
                Some(row) if row.place > place => high = row.offset,
                row => {
                    found = row.or(found);
                    low = middle + 1;
                }
            }
            middle = low + high.saturating_sub(low) / 2;
        }
        Ok(found)
    }

    /// Timeline rows in `[from, to)`, oldest first, at most `limit`.
    pub fn timeline_after(
        &self,
        from: u64,
        to: u64,
        limit: usize,
    ) -> Result<Vec<TimelineRow>, SyncError> {
        let prefix = Key::new(self.partition).room(self.room);
        let start = Key::new(self.partition).room(self.room).number(from);
        let (prefix, start) = (prefix.bytes(), Some(start.bytes()));
        let mut found = Vec::new();
        for (key, value) in self
            .store
            .range(SYNC_TIMELINE, prefix, start, false, limit)?
        {
            let row = TimelineRow::decode(SYNC_TIMELINE, &key, &value)?;
            if row.offset >= to {
                break;
            }
            found.push(row);
        }
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

    /// Hands out state rows in `[from, to)` in the order of the log, until told
    /// to end.
    fn each_state_row(
        &self,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(u64, StateRow) -> Result<Walk, SyncError>,
    ) -> Result<Walk, SyncError> {
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
                    return Ok(Walk::On);
                }
                if each(offset, rows::decode(SYNC_STATE, value)?)? == Walk::End {
                    return Ok(Walk::End);
                }
                next = offset + 1;
            }
            if page.len() < STATE_PAGE_ROWS {
                break;
            }
        }
        Ok(Walk::On)
    }

    /// Which keys of current state changed in `[from, to)`. A change in parts
    /// stands where it ends.
    pub fn changed(&self, from: u64, to: u64) -> Result<ChangedKeys, SyncError> {
        if self.newest.state_changed_at.is_none_or(|at| at < from) {
            return Ok(ChangedKeys::new());
        }
        match self.changed_by_rows(from, to)? {
            Some(changed) => Ok(changed),
            None => self.changed_by_states(from, to),
        }
    }

    /// None where there are more than [`CHANGES_MAX`].
    fn changed_by_rows(&self, from: u64, to: u64) -> Result<Option<ChangedKeys>, SyncError> {
        let mut changed = ChangedKeys::new();
        let mut read = 0;
        let mut add = |deltas: Vec<Delta>| {
            read += deltas.len();
            let keys = deltas
                .iter()
                .map(|delta| StateKey::new(&delta.kind, &delta.state_key));
            changed.extend(keys);
            match read > CHANGES_MAX {
                true => Walk::End,
                false => Walk::On,
            }
        };
        let ended = self.each_state_row(from, to, &mut |offset, row| {
            let StateRow::Change { first, deltas, .. } = row else {
                return Ok(Walk::On);
            };
            if let Some(first) = first {
                let ended = self.each_state_row(first, offset, &mut |_, part| match part {
                    StateRow::Part { deltas, .. } => Ok(add(deltas)),
                    StateRow::Change { .. } => Ok(Walk::On),
                })?;
                if ended == Walk::End {
                    return Ok(Walk::End);
                }
            }
            Ok(add(deltas))
        })?;
        Ok((ended == Walk::On).then_some(changed))
    }

    fn changed_by_states(&self, from: u64, to: u64) -> Result<ChangedKeys, SyncError> {
        let (before, after) = (self.state_at(from)?, self.state_at(to)?);
        let changed = before.diff(&after).map(|item| match item {
            DiffItem::Add(key, _) | DiffItem::Remove(key, _) => (**key).clone(),
            DiffItem::Update { new: (key, _), .. } => (**key).clone(),
        });
        Ok(changed.collect())
    }

    /// The event that holds each of the keys in a state, in their order.
    pub fn holders(
        &self,
        state: StateId,
        keys: &ChangedKeys,
    ) -> Result<Vec<Option<EventSn>>, SyncError> {
        if state == StateId::EMPTY {
            return Ok(vec![None; keys.len()]);
        }
        if keys.len() > ENTRIES_MAX {
            let whole = self.state_of(state)?;
            return Ok(keys.iter().map(|key| whole.get(key).copied()).collect());
        }
        let held = keys
            .iter()
            .map(|key| self.rooms.state_entry(&self.room_id, state, key));
        Ok(held.collect::<Result<_, _>>()?)
    }

    /// Id of current state as it was when the cursor stood at `to`.
    pub fn state_id_at(&self, to: u64) -> Result<StateId, SyncError> {
        if let Newest {
            state_changed_at: Some(at),
            state: Some(state),
            ..
        } = self.newest
            && at < to
        {
            return Ok(state);
        }
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
        self.state_of(self.state_id_at(to)?)
    }

    /// A whole state. The current one is kept in memory with the room's head, to
    /// which a room that was at rest is brought back first.
    pub fn state_of(&self, state: StateId) -> Result<StateMap, SyncError> {
        if state == StateId::EMPTY {
            return Ok(StateMap::new());
        }
        match self.rooms.head(&self.room_id)? {
            Some(head) if head.state_id == state => Ok(head.state.clone()),
            _ => Ok(self.rooms.state(&self.room_id, state)?),
        }
    }

    /// Current state as it was at `at`, made from `later`, current state as it
    /// was at `to`: costs as much as changed between the two, where an old state
    /// costs as much as the room has history.
    pub fn state_before(
        &self,
        at: u64,
        to: u64,
        mut later: StateMap,
    ) -> Result<StateMap, SyncError> {
        let changed = self.changed(at, to)?;
        if changed.is_empty() {
            return Ok(later);
        }
        let held = self.holders(self.state_id_at(at)?, &changed)?;
        for (key, event) in changed.into_iter().zip(held) {
            match event {
                Some(event) => later.insert(Arc::new(key), event),
                None => later.remove(&key),
            };
        }
        Ok(later)
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
