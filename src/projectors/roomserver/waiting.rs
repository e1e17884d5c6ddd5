//! Events that wait for others: for a `prev_event` whose state is not known, or
//! for an auth event that is missing or was rejected. When that one comes, they
//! are judged again.
//!
//! The same table remembers which missing events an accepted one builds on, so
//! that none of them becomes a forward extremity when it comes late.

use std::collections::{BTreeMap, BTreeSet};

use log_format::record::output::Decision;

use super::heads::Head;
use super::judge::{Case, Event};
use super::rows::{self, EventRow};
use super::scope::{Prior, Scope, Stop};
use crate::query::ids::RoomSn;
use crate::storage::columns::WAITING;
use crate::storage::keys::{Key, RowReader};
use crate::storage::overlay::{Read, StoreError};

/// Rows read at a time.
const PAGE_ROWS: usize = 1024;

/// What a record waits for, or knows of, an event that it names; bits.
const FOR_STATE: u8 = 1;
const FOR_AUTHORITY: u8 = 2;
const BUILT_ON: u8 = 4;

/// Who waits for one event: offset of the record, and for what.
pub(super) type Waiters = Vec<(u64, u8)>;

fn key(scope_key: (u32, RoomSn), event_id: &str) -> Key {
    let (partition, room) = scope_key;
    rows::room_key(partition, room).text(event_id)
}

/// How many records of a room wait for events.
pub(super) fn count(tables: &dyn Read, partition: u32, room: RoomSn) -> Result<u64, StoreError> {
    let prefix = rows::room_key(partition, room);
    let prefix = prefix.as_ref();
    let mut waiting = BTreeSet::new();
    let mut from: Option<Vec<u8>> = None;
    loop {
        let page = tables.range(WAITING, prefix, from.as_deref(), false, PAGE_ROWS)?;
        for (key, value) in &page {
            let rest = key.get(prefix.len()..).unwrap_or_default();
            let mut key = RowReader::new(WAITING, rest);
            key.key_text()?;
            if RowReader::new(WAITING, value).u8()? & (FOR_STATE | FOR_AUTHORITY) != 0 {
                waiting.insert(key.number()?);
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE_ROWS => {
                from = Some([last.as_ref(), &[0]].concat());
            }
            _ => return Ok(waiting.len() as u64),
        }
    }
}

impl Event<'_> {
    /// Who waits for this event.
    pub(super) fn waiters(&self, head: &Head, scope: &mut Scope<'_, '_>) -> Result<Waiters, Stop> {
        let mut waiters = vec![];
        // Nobody knows of an event before this server made it.
        if head.waiting == 0 || self.is_local() {
            return Ok(waiters);
        }
        let prefix = key((self.partition, scope.room), self.event_id.as_str());
        let prefix = prefix.as_ref();
        let mut from: Option<Vec<u8>> = None;
        loop {
            let page = scope
                .tables
                .range(WAITING, prefix, from.as_deref(), false, PAGE_ROWS)?;
            scope.effort.charge(page.len() as u64)?;
            for (key, value) in &page {
                let rest = key.get(prefix.len()..).unwrap_or_default();
                let offset = RowReader::new(WAITING, rest).number()?;
                waiters.push((offset, RowReader::new(WAITING, value).u8()?));
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE_ROWS => {
                    from = Some([last.as_ref(), &[0]].concat());
                }
                _ => return Ok(waiters),
            }
        }
    }

    /// Whether an accepted event builds on this one.
    pub(super) fn is_built_on(&self, case: &Case<'_>) -> bool {
        case.prior.as_ref().is_some_and(|row| row.built_on)
            || case.waiters.iter().any(|(_, what)| what & BUILT_ON != 0)
    }

    /// Lets those go who waited for what this event now has; their offsets.
    pub(super) fn release(
        &self,
        head: &mut Head,
        case: &Case<'_>,
        decision: Decision,
        has_state: bool,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Vec<u64>, Stop> {
        let mut released = vec![];
        for (offset, what) in &case.waiters {
            let authorises = decision != Decision::Rejected;
            let ends =
                what & FOR_STATE != 0 && has_state || what & FOR_AUTHORITY != 0 && authorises;
            if ends {
                released.push(*offset);
            }
            // That it is built on is in the event's own row from now on.
            let waits = what & (FOR_STATE | FOR_AUTHORITY) != 0;
            if ends || !waits {
                let prefix = key((self.partition, scope.room), self.event_id.as_str());
                scope
                    .tables
                    .delete(WAITING, prefix.number(*offset).as_ref());
                head.waiting = head.waiting.saturating_sub(1);
            }
        }
        Ok(released)
    }

    /// Notes what this event waits for: authority that is missing or rejected,
    /// and `prev_events` without a state.
    pub(super) fn wait_for(
        &self,
        head: &mut Head,
        case: &Case<'_>,
        missing: &[String],
        scope: &mut Scope<'_, '_>,
    ) -> Result<(), Stop> {
        let mut wanted: BTreeMap<&str, u8> = BTreeMap::new();
        for id in case.cited.missing.iter().chain(&case.cited.rejected) {
            *wanted.entry(id).or_default() |= FOR_AUTHORITY;
        }
        for id in missing {
            *wanted.entry(id).or_default() |= FOR_STATE;
        }
        for (id, what) in wanted {
            self.note(head, id, what, scope)?;
        }
        Ok(())
    }

    /// Notes that this event builds on one that is no part of the timeline (yet):
    /// it and what it builds on cease to be what new events would build on.
    /// Returns the ids of accepted events that are reached so.
    pub(super) fn build_on(
        &self,
        head: &mut Head,
        id: &str,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Vec<String>, Stop> {
        let mut reached = vec![];
        let mut todo = vec![id.to_owned()];
        while let Some(id) = todo.pop() {
            scope.effort.charge(1)?;
            match scope.prior(&id)? {
                Prior::Accepted(_) => reached.push(id),
                Prior::Unknown => self.note(head, &id, BUILT_ON, scope)?,
                Prior::Other(sn, row) if !row.built_on => {
                    let row = EventRow {
                        built_on: true,
                        ..row
                    };
                    row.store(scope.tables, self.partition, sn);
                    todo.extend(scope.read(sn, super::events::prev_events)?);
                }
                Prior::Other(..) => {}
            }
        }
        Ok(reached)
    }

    fn note(
        &self,
        head: &mut Head,
        id: &str,
        what: u8,
        scope: &mut Scope<'_, '_>,
    ) -> Result<(), Stop> {
        let key = key((self.partition, scope.room), id).number(self.offset);
        let known = scope.tables.get(WAITING, key.as_ref())?;
        head.waiting += u64::from(known.is_none());
        let before = known.and_then(|row| row.first().copied()).unwrap_or(0);
        scope.tables.put(WAITING, key.as_ref(), vec![before | what]);
        Ok(())
    }
}
