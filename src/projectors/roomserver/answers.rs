//! What the query window shows of rooms: the published heads, and the tables
//! behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, UserId};
use tokio::sync::watch;

use super::auth_chain;
use super::events::{EventError, Events};
use super::heads::{self, Head, HeadCache};
use super::outside;
use super::parked::{Parked, ParkedRooms};
use super::rows::{self, RoomRow};
use super::state::{DigestKey, RoomStates};
use super::waiting;
use crate::limits::{PURGED_ROWS_MAX, ROOM_WORK_INLINE_MAX};
use crate::logs::log::{Log, partition_of};
use crate::projectors::fold::PROJECTOR_VERSION;
use crate::query::begun_states::{BegunState, BegunStates};
use crate::query::graph::{RoomGraph, StateDifference};
use crate::query::ids::{EventSn, InputOffset, Place, RoomSn, StateId};
use crate::query::outside::OutsideMembership;
use crate::query::parked::{ParkedRoom, ParkedWork, WorkDone};
use crate::query::purges::{PurgeStage, RoomPurges as _};
use crate::query::rooms::{
    Direction, QueryError, RoomHead, RoomMembership, RoomWaits, Rooms, StateKey, StateMap,
    StoredEvent,
};
use crate::storage::columns::{
    EVENT_IDS, GIVEN_STATES, IDEMPOTENCY, OUTSIDE, PUBLISHED, ROOM_IDS, TIMELINE, USER_ROOMS,
};
use crate::storage::keys::{Key, RowReader};
use crate::storage::open::Store;
use crate::storage::overlay::{Read, StoreError};

/// Rows of one page where an answer has no limit of its own.
const PAGE_ROWS: usize = 1024;

/// Memory budgets of the room server, in bytes.
#[derive(Clone, Debug)]
pub struct RoomServerOptions {
    /// Heads of active rooms with their state.
    pub heads_bytes: usize,
    /// Events as they are served.
    pub events_bytes: usize,
    /// Events as the auth rules read them.
    pub auth_events_bytes: usize,
    /// Work that an event may cost while other rooms wait. Part of what makes
    /// replays equal: only tests change it.
    pub inline_work: u64,
    /// Rows of a purged room that one record drops. The same is true of it.
    pub purged_rows: usize,
}

impl Default for RoomServerOptions {
    fn default() -> RoomServerOptions {
        RoomServerOptions {
            heads_bytes: 64 << 20,
            events_bytes: 32 << 20,
            auth_events_bytes: 8 << 20,
            inline_work: ROOM_WORK_INLINE_MAX,
            purged_rows: PURGED_ROWS_MAX,
        }
    }
}

/// What the lanes of the room server share, and its side of the query window.
pub struct RoomTables {
    store: Arc<Store>,
    partitions: u32,
    pub(super) events: Events,
    pub(super) heads: HeadCache,
    pub(super) digest_key: DigestKey,
    pub(super) parked: ParkedRooms,
    pub(super) inline_work: u64,
    pub(super) purged_rows: usize,
    /// A purge began.
    pub(super) purge_begun: watch::Sender<()>,
}

impl From<EventError> for QueryError {
    fn from(error: EventError) -> QueryError {
        match error {
            EventError::Store(error) => QueryError::Store(error.to_string()),
            EventError::Log(error) => QueryError::Log(error.to_string()),
            EventError::NotAnEvent(_) => QueryError::Log(error.to_string()),
        }
    }
}

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> QueryError {
        QueryError::Store(error.to_string())
    }
}

impl RoomTables {
    /// Over a store and the *input* log it was projected from. `log_id` is that
    /// log's: the digests that tell equal states depend on it.
    pub fn new(
        store: Arc<Store>,
        input: Arc<dyn Log>,
        log_id: &[u8; 16],
        options: &RoomServerOptions,
    ) -> Arc<RoomTables> {
        Arc::new(RoomTables {
            store,
            partitions: input.partitions(),
            events: Events::new(input, options.events_bytes, options.auth_events_bytes),
            heads: HeadCache::new(options.heads_bytes),
            digest_key: DigestKey::of_log(log_id),
            parked: ParkedRooms::default(),
            inline_work: options.inline_work,
            // None would never come to an end.
            purged_rows: options.purged_rows.max(1),
            purge_begun: watch::channel(()).0,
        })
    }

    pub(super) fn partitions(&self) -> u32 {
        self.partitions
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Shows whether a room waits, as of a head that is published.
    pub(super) fn show_parked(&self, head: &Head) {
        if head.parked.is_some() {
            self.parked.waits();
        }
    }

    fn partition(&self, room: &RoomId) -> u32 {
        partition_of(room.as_str(), self.partitions)
    }

    fn find(&self, room: &RoomId) -> Result<Option<(u32, RoomSn)>, QueryError> {
        let partition = self.partition(room);
        if let Ok((_, head)) = self.heads.get(room) {
            return Ok(Some((partition, head.room)));
        }
        let found = heads::find_room(&*self.store, partition, room)?;
        Ok(found.map(|room| (partition, room)))
    }

    /// The head if it is in memory: only then is a state answered from it.
    fn head_in_memory(&self, room: &RoomId) -> Option<Arc<RoomHead>> {
        self.heads.get(room).ok().map(|(_, shown)| shown)
    }

    /// All rows of a prefix, page by page.
    pub(super) fn each_row(
        &self,
        table: crate::storage::columns::Table,
        prefix: &Key,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let mut from: Option<Vec<u8>> = None;
        loop {
            let (prefix, after) = (prefix.as_ref(), from.as_deref());
            let page = self.store.range(table, prefix, after, false, PAGE_ROWS)?;
            for (key, value) in &page {
                each(key.get(prefix.len()..).unwrap_or_default(), value)?;
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE_ROWS => {
                    from = Some([last.as_ref(), &[0]].concat());
                }
                _ => return Ok(()),
            }
        }
    }
}

/// The room id that ends a key.
fn room_id_of(rest: &[u8]) -> Result<OwnedRoomId, QueryError> {
    let text = std::str::from_utf8(rest).ok();
    let id = text.and_then(|text| OwnedRoomId::try_from(text).ok());
    id.ok_or_else(|| QueryError::Store("a row's key holds no room id".to_owned()))
}

impl ParkedWork for Arc<RoomTables> {
    fn parked(&self) -> Result<Vec<ParkedRoom>, QueryError> {
        Ok(self.parked_rooms()?)
    }

    fn parked_changed(&self) -> watch::Receiver<()> {
        self.parked.changed()
    }

    fn prepare(&self, room: &RoomId, cause: u64) -> Result<Option<WorkDone>, QueryError> {
        let prepared = self.prepare_aside(self.partition(room), room, cause);
        let digest = prepared.map_err(|error| QueryError::Store(error.to_string()))?;
        Ok(digest.map(|digest| WorkDone {
            digest,
            projector_version: PROJECTOR_VERSION,
        }))
    }
}

impl BegunStates for RoomTables {
    fn begun_states(&self) -> Result<Vec<BegunState>, QueryError> {
        let mut begun = vec![];
        for partition in 0..self.partitions {
            self.each_row(GIVEN_STATES, &Key::of(partition), |rest, _| {
                let mut key = RowReader::new(GIVEN_STATES, rest);
                let (room, given) = (RoomSn(key.number()?), key.array()?);
                // What more there is in the key names a chunk.
                if key.is_empty()
                    && let Some(head) = self.head_by_sn(partition, room)?
                {
                    let room_id = head.room_id.clone();
                    begun.push(BegunState { room_id, given });
                }
                Ok(())
            })?;
        }
        Ok(begun)
    }
}

impl RoomGraph for RoomTables {
    fn rooms_with(&self, event: &EventId) -> Result<Vec<OwnedRoomId>, QueryError> {
        let mut found = vec![];
        for partition in 0..self.partitions {
            self.each_row(ROOM_IDS, &Key::of(partition), |rest, value| {
                let room = RoomSn(rows::read_number(ROOM_IDS, value)?);
                let key = rows::room_text_key(partition, room, event.as_str());
                if self.store.get(EVENT_IDS, key.as_ref())?.is_some() {
                    found.push(room_id_of(rest)?);
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    fn auth_chain(&self, room: &RoomId, of: &[EventSn]) -> Result<BTreeSet<EventSn>, QueryError> {
        let Some((partition, room)) = self.find(room)? else {
            return Ok(BTreeSet::new());
        };
        Ok(auth_chain::auth_chain(&*self.store, partition, room, of)?)
    }

    fn state_difference(
        &self,
        room: &RoomId,
        from: StateId,
        to: StateId,
    ) -> Result<Option<Vec<StateDifference>>, QueryError> {
        let Some((partition, room)) = self.find(room)? else {
            return Ok(None);
        };
        let states = RoomStates {
            tables: &*self.store,
            partition,
            room,
        };
        let (Some(from), Some(to)) = (states.node(from)?, states.node(to)?) else {
            return Ok(None);
        };
        let changes = states.difference(&from, &to, |_| Ok::<(), StoreError>(()))?;
        let mut differences = Vec::with_capacity(changes.len());
        for change in changes {
            differences.push(StateDifference {
                key: self.events.state_key(partition, EventSn(change.key))?,
                from: change.from,
                to: change.to,
            });
        }
        differences.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Some(differences))
    }
}

impl Rooms for RoomTables {
    fn head(&self, room: &RoomId) -> Result<Option<Arc<RoomHead>>, QueryError> {
        let epoch = match self.heads.get(room) {
            Ok((_, shown)) => return Ok(Some(shown)),
            Err(epoch) => epoch,
        };
        let partition = self.partition(room);
        let Some(sn) = heads::find_room(&*self.store, partition, room)? else {
            return Ok(None);
        };
        let head = heads::load(&*self.store, &self.events, partition, sn)?;
        Ok(head.map(|head| self.heads.offer(epoch, head).1))
    }

    fn head_by_sn(
        &self,
        partition: u32,
        room: RoomSn,
    ) -> Result<Option<Arc<RoomHead>>, QueryError> {
        let Some(row) = RoomRow::load(&*self.store, partition, room)? else {
            return Ok(None);
        };
        self.head(&room_id_of(row.room_id.as_bytes())?)
    }

    fn event(
        &self,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Option<Arc<StoredEvent>>, QueryError> {
        let Some((partition, room)) = self.find(room)? else {
            return Ok(None);
        };
        let key = rows::room_text_key(partition, room, event.as_str());
        match rows::find_number(&*self.store, EVENT_IDS, &key)? {
            None => Ok(None),
            Some(sn) => Ok(self.events.stored(&*self.store, partition, EventSn(sn))?),
        }
    }

    fn events(
        &self,
        room: &RoomId,
        events: &[EventSn],
    ) -> Result<Vec<Arc<StoredEvent>>, QueryError> {
        let Some((partition, room)) = self.find(room)? else {
            return Ok(vec![]);
        };
        let mut found = Vec::with_capacity(events.len());
        for sn in events {
            let event = self.events.stored(&*self.store, partition, *sn)?;
            found.extend(event.filter(|event| event.room == room));
        }
        Ok(found)
    }

    fn state(&self, room: &RoomId, state: StateId) -> Result<StateMap, QueryError> {
        if let Some(head) = self.head_in_memory(room)
            && head.state_id == state
        {
            return Ok(head.state.clone());
        }
        let Some((partition, room)) = self.find(room)? else {
            return Ok(StateMap::new());
        };
        let states = RoomStates {
            tables: &*self.store,
            partition,
            room,
        };
        Ok(states.map(state)?)
    }

    fn state_entry(
        &self,
        room: &RoomId,
        state: StateId,
        key: &StateKey,
    ) -> Result<Option<EventSn>, QueryError> {
        if let Some(head) = self.head_in_memory(room)
            && head.state_id == state
        {
            return Ok(head.state.get(key).copied());
        }
        let Some((partition, room)) = self.find(room)? else {
            return Ok(None);
        };
        let states = RoomStates {
            tables: &*self.store,
            partition,
            room,
        };
        let entry = states.entry(state, &key.kind, &key.state_key)?;
        Ok(entry.and_then(|entry| entry.event))
    }

    fn timeline(
        &self,
        room: &RoomId,
        from: Place,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(Place, EventSn)>, QueryError> {
        let Some((partition, room)) = self.find(room)? else {
            return Ok(vec![]);
        };
        let reverse = direction == Direction::Backward;
        let start = match reverse {
            true => from.0.checked_sub(1),
            false => from.0.checked_add(1),
        };
        let Some(start) = start else {
            return Ok(vec![]);
        };
        let prefix = rows::room_key(partition, room);
        let start = rows::timeline_key(partition, room, Place(start));
        let (prefix, start) = (prefix.as_ref(), start.as_ref());
        let rows = self
            .store
            .range(TIMELINE, prefix, Some(start), reverse, limit)?;
        let mut found = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            let place = key
                .get(prefix.len()..)
                .and_then(|rest| rest.try_into().ok());
            let Some(place) = place.map(Place::from_bytes) else {
                return Err(QueryError::Store(
                    "a timeline key holds no place".to_owned(),
                ));
            };
            found.push((place, EventSn(rows::read_number(TIMELINE, &value)?)));
        }
        Ok(found)
    }

    fn transaction(
        &self,
        room: &RoomId,
        idempotency: &[u8; 16],
    ) -> Result<Option<OwnedEventId>, QueryError> {
        let Some((partition, room)) = self.find(room)? else {
            return Ok(None);
        };
        let key = rows::idempotency_key(partition, room, idempotency);
        match rows::find_number(&*self.store, IDEMPOTENCY, &key)? {
            None => Ok(None),
            Some(sn) => Ok(Some(self.events.event_id(partition, EventSn(sn))?)),
        }
    }

    fn rooms_of(&self, user: &UserId) -> Result<Vec<RoomMembership>, QueryError> {
        let mut found = BTreeMap::new();
        for partition in 0..self.partitions {
            let prefix = rows::user_rooms_prefix(partition, user.as_str());
            self.each_row(USER_ROOMS, &prefix, |rest, value| {
                let room_id = room_id_of(rest)?;
                let (membership, event) = rows::read_user_room(value)?;
                let entry = RoomMembership {
                    room_id: room_id.clone(),
                    membership,
                    event,
                };
                found.insert(room_id, entry);
                Ok(())
            })?;
        }
        // What is still kept of rooms that are gone is nobody's room.
        for purge in self.purges()? {
            if purge.stage == PurgeStage::Dropping {
                found.remove(&purge.room_id);
            }
        }
        Ok(found.into_values().collect())
    }

    fn membership(&self, room: &RoomId, user: &UserId) -> Result<Option<Membership>, QueryError> {
        let key = rows::user_room_key(self.partition(room), user.as_str(), room.as_str());
        let inside = self.head_in_memory(room);
        let inside = inside.and_then(|head| head.authority.membership(user));
        if inside == Some(Membership::Join) {
            return Ok(inside);
        }
        if let Some(outside) = self.outside(room, user)? {
            return Ok(Some(outside.membership));
        }
        if self.is_being_dropped(room)? {
            return Ok(None);
        }
        let row = self.store.get(USER_ROOMS, key.as_ref())?;
        let row = row.map(|row| rows::read_user_room(&row)).transpose()?;
        Ok(row.map(|(membership, _)| membership))
    }

    fn outside(
        &self,
        room: &RoomId,
        user: &UserId,
    ) -> Result<Option<OutsideMembership>, QueryError> {
        let key = rows::user_room_key(self.partition(room), user.as_str(), room.as_str());
        let row = self.store.get(OUTSIDE, key.as_ref())?;
        let row = row.map(|row| outside::read(room.to_owned(), &row));
        Ok(row.transpose()?)
    }

    fn outside_of(&self, user: &UserId) -> Result<Vec<OutsideMembership>, QueryError> {
        let mut found = BTreeMap::new();
        for partition in 0..self.partitions {
            let prefix = rows::user_rooms_prefix(partition, user.as_str());
            self.each_row(OUTSIDE, &prefix, |rest, value| {
                let room_id = room_id_of(rest)?;
                found.insert(room_id.clone(), outside::read(room_id, value)?);
                Ok(())
            })?;
        }
        Ok(found.into_values().collect())
    }

    fn waits(&self, room: &RoomId) -> Result<RoomWaits, QueryError> {
        let Some((partition, room)) = self.find(room)? else {
            return Ok(RoomWaits::default());
        };
        let parked = Parked::load(&*self.store, partition, room)?;
        Ok(RoomWaits {
            parked_at: parked.map(|parked| InputOffset(parked.cause)),
            events: waiting::count(&*self.store, partition, room)?,
        })
    }

    fn published(&self) -> Result<Vec<OwnedRoomId>, QueryError> {
        let mut found = vec![];
        for partition in 0..self.partitions {
            self.each_row(PUBLISHED, &Key::of(partition), |rest, _| {
                found.push(room_id_of(rest)?);
                Ok(())
            })?;
        }
        found.sort();
        Ok(found)
    }
}
