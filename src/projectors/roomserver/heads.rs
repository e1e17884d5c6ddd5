//! Room heads: what the newest fold of each room left, in memory for active
//! rooms and read back from the tables for others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use log_format::record::output::Membership;
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId};

use super::auth;
use super::events::{EventError, Events};
use super::parked::Parked;
use super::rows::{self, RoomRow, RoomRowRef};
use super::state::{RoomStates, StateNode};
use crate::matrix::RoomVersion;
use crate::query::authority::Member;
use crate::query::ids::{EventSn, RoomSn};
use crate::query::rooms::{Extremity, RoomHead, StateKey, StateMap};
use crate::storage::columns::{ROOM_IDS, ROOMS};
use crate::storage::overlay::{Overlay, Read};

/// Heads that stay however large they are, so that one room beyond the budget
/// is not read back for each of its events.
const HEADS_MIN: usize = 16;
/// What a head takes without its state, and what each state entry adds, in bytes.
const HEAD_BYTES: usize = 2048;
const ENTRY_BYTES: usize = 220;

/// A head with what only the fold needs.
#[derive(Clone, Debug)]
pub struct Head {
    pub shown: RoomHead,
    /// The node of the current state.
    pub node: StateNode,
    pub early_redactions: u64,
    /// Rows of events that wait for others, and of states given for events:
    /// where there is none, a fold spares the look-up.
    pub waiting: u64,
    pub given_states: u64,
    /// Since which record the room waits for work that is done aside.
    pub parked: Option<Parked>,
}

impl Head {
    /// Writes the room's row, over what an earlier fold of the group wrote.
    pub fn store(&self, tables: &mut Overlay<'_>, partition: u32) {
        let row = RoomRowRef {
            room_id: self.shown.room_id.as_str(),
            version: self.shown.version.as_str(),
            state_id: self.shown.state_id,
            last_place: self.shown.last_place,
            visibility: self.shown.visibility,
            joined_members: self.shown.joined_members,
            invited_members: self.shown.invited_members,
            early_redactions: self.early_redactions,
            waiting: self.waiting,
            given_states: self.given_states,
            extremities: &self.shown.extremities,
        };
        let key = rows::room_key(partition, self.shown.room);
        tables.put(ROOMS, key.as_ref(), row.encode());
    }

    fn weight(&self) -> usize {
        HEAD_BYTES + ENTRY_BYTES * self.shown.state.len()
    }
}

/// The interned id of a room; none if it is not known.
pub fn find_room(
    tables: &dyn Read,
    partition: u32,
    room_id: &RoomId,
) -> Result<Option<RoomSn>, EventError> {
    let key = rows::room_id_key(partition, room_id.as_str());
    Ok(rows::find_number(tables, ROOM_IDS, &key)?.map(RoomSn))
}

/// Reads a head back from the tables; none if the room is not known.
pub fn load(
    tables: &dyn Read,
    events: &Events,
    partition: u32,
    room: RoomSn,
) -> Result<Option<Head>, EventError> {
    let Some(row) = RoomRow::load(tables, partition, room)? else {
        return Ok(None);
    };
    let broken = || EventError::NotAnEvent(room.0);
    let states = RoomStates {
        tables,
        partition,
        room,
    };
    let node = states.node(row.state_id)?.ok_or_else(broken)?;
    let mut state = StateMap::new();
    let mut members = imbl::OrdMap::new();
    let mut servers = imbl::OrdMap::new();
    states.load(row.state_id, |key, event, membership| {
        if let Some((user, member)) = member_entry(&key, membership, event) {
            if member.membership == Membership::Join {
                *servers.entry(user.server_name().to_owned()).or_insert(0) += 1;
            }
            members.insert(user, member);
        }
        state.insert(key, event);
    })?;
    let version = RoomVersion::parse(&row.version).ok_or_else(broken)?;
    // A room begins with its create event, after which it is named.
    let create = EventSn(room.0);
    let authority = auth::authority(events, partition, version, create, &state, members)?;
    let mut extremities = Vec::with_capacity(row.extremities.len());
    for extremity in &row.extremities {
        let event_id = OwnedEventId::try_from(extremity.event_id.as_ref());
        extremities.push(Extremity {
            event_id: event_id.map_err(|_| broken())?,
            event: extremity.event,
            depth: extremity.depth,
            state_after: extremity.state_after,
        });
    }
    let shown = RoomHead {
        room_id: OwnedRoomId::try_from(row.room_id.as_ref()).map_err(|_| broken())?,
        room,
        version: version.id(),
        extremities: extremities.into(),
        last_place: row.last_place,
        state_id: row.state_id,
        state,
        authority: Arc::new(authority),
        visibility: row.visibility,
        joined_members: row.joined_members,
        invited_members: row.invited_members,
        servers,
    };
    Ok(Some(Head {
        shown,
        node,
        early_redactions: row.early_redactions,
        waiting: row.waiting,
        given_states: row.given_states,
        parked: Parked::load(tables, partition, room)?,
    }))
}

/// The member that a state entry speaks of, if it is a member event of a
/// well-formed user.
pub fn member_entry(
    key: &StateKey,
    membership: Option<Membership>,
    event: EventSn,
) -> Option<(OwnedUserId, Member)> {
    if key.kind.as_ref() != "m.room.member" {
        return None;
    }
    let user = OwnedUserId::try_from(key.state_key.as_ref()).ok()?;
    let membership = membership?;
    Some((user, Member { membership, event }))
}

/// The heads that the query window shows.
pub struct HeadCache {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    heads: HashMap<OwnedRoomId, Entry>,
    /// Rooms by the time of their last use, oldest first.
    uses: BTreeMap<u64, OwnedRoomId>,
    clock: u64,
    bytes: usize,
    /// Rises with every publish: what was read from the tables before one must
    /// not stand in for what came with it.
    epoch: u64,
}

struct Entry {
    head: Arc<Head>,
    shown: Arc<RoomHead>,
    used: u64,
    bytes: usize,
}

impl HeadCache {
    /// A cache that keeps about so many bytes, and always some heads.
    pub fn new(bytes_max: usize) -> HeadCache {
        HeadCache {
            bytes_max,
            inner: Mutex::new(Inner::default()),
        }
    }

    /// The head in memory, or the present epoch for [`HeadCache::offer`].
    pub fn get(&self, room: &RoomId) -> Result<(Arc<Head>, Arc<RoomHead>), u64> {
        let mut inner = self.inner.lock();
        inner.clock += 1;
        let clock = inner.clock;
        let epoch = inner.epoch;
        let inner = &mut *inner;
        let Some(entry) = inner.heads.get_mut(room) else {
            return Err(epoch);
        };
        if let Some(id) = inner.uses.remove(&entry.used) {
            inner.uses.insert(clock, id);
        }
        entry.used = clock;
        Ok((entry.head.clone(), entry.shown.clone()))
    }

    /// Keeps a head that was read from the tables at `epoch`, if nothing was
    /// published since. Returns it as it is shown.
    pub fn offer(&self, epoch: u64, head: Head) -> (Arc<Head>, Arc<RoomHead>) {
        let shown = Arc::new(head.shown.clone());
        let head = Arc::new(head);
        let mut inner = self.inner.lock();
        if inner.epoch == epoch {
            inner.insert(head.clone(), shown.clone(), self.bytes_max);
        }
        (head, shown)
    }

    /// Shows new heads, all at once, and no longer those of rooms that are gone:
    /// such a room may have come to be again, and then has a new one.
    pub fn publish(&self, gone: &BTreeSet<OwnedRoomId>, heads: impl IntoIterator<Item = Head>) {
        let heads: Vec<_> = heads
            .into_iter()
            .map(|head| (Arc::new(head.shown.clone()), Arc::new(head)))
            .collect();
        let mut inner = self.inner.lock();
        inner.epoch += 1;
        for room in gone {
            inner.remove(room);
        }
        for (shown, head) in heads {
            inner.insert(head, shown, self.bytes_max);
        }
    }
}

impl Inner {
    fn remove(&mut self, room: &RoomId) {
        if let Some(gone) = self.heads.remove(room) {
            self.uses.remove(&gone.used);
            self.bytes -= gone.bytes;
        }
    }

    fn insert(&mut self, head: Arc<Head>, shown: Arc<RoomHead>, bytes_max: usize) {
        self.clock += 1;
        let bytes = head.weight();
        let room_id = shown.room_id.clone();
        let entry = Entry {
            head,
            shown,
            used: self.clock,
            bytes,
        };
        self.bytes += bytes;
        if let Some(old) = self.heads.insert(room_id.clone(), entry) {
            self.uses.remove(&old.used);
            self.bytes -= old.bytes;
        }
        self.uses.insert(self.clock, room_id);
        while self.bytes > bytes_max && self.heads.len() > HEADS_MIN {
            let Some((_, oldest)) = self.uses.pop_first() else {
                break;
            };
            if let Some(gone) = self.heads.remove(&oldest) {
                self.bytes -= gone.bytes;
            }
        }
    }
}
