//! What the reader keeps in memory: who is in which room, and what changed last.
//!
//! It answers *did anything change for this user* without touching the store.
//! Everything here is found again from the rows at start. Only local users are
//! kept; members of other servers exist in room state alone.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use log_format::record::output::Membership;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use super::history::Newest;
use super::rows::RoomTraits;
use super::waiters::News;
use crate::logs::log::PartitionId;
use crate::query::ids::{EventSn, RoomSn};

/// Joins that are remembered of a room, of 16 bytes each; for more of them since
/// an answer all members are looked at.
const JOINS_MAX: usize = 32;

/// Index of a room in [`Memory`], unique within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomIx(u32);

/// Index of a local user in [`Memory`], unique within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserIx(u32);

/// A room that has appeared in *output*.
#[derive(Debug)]
pub struct RoomSlot {
    pub room_id: OwnedRoomId,
    pub partition: PartitionId,
    pub room: RoomSn,
    /// Offset of the last record that changed what members see.
    pub last_change: u64,
    pub traits: RoomTraits,
    /// Offset of the newest receipt that everybody in the room is shown.
    pub receipts_at: Option<u64>,
    /// Offset of the first part of a change of state whose end is not here yet;
    /// see [`super::rows::StateRow::Part`].
    pub parts_from: Option<u64>,
    /// See [`Newest`].
    pub newest: Newest,
    /// Local users who are joined: those whom a change concerns.
    pub joined: HashSet<UserIx>,
    /// The newest joins of local users by their offsets: all from `joins_from` on.
    joins: VecDeque<(u64, UserIx)>,
    joins_from: u64,
}

/// A local user's relation to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub membership: Membership,
    /// The `m.room.member` event.
    pub event: Option<EventSn>,
    /// Offset of the newest change of the membership event, the profile's included.
    pub changed_at: u64,
    /// Offset since which the membership has been `join` without a break.
    pub joined_at: Option<u64>,
    /// When that change came, in microseconds since the epoch.
    pub changed_us: u64,
    /// The user did it themselves: no invite, kick or ban.
    pub by_self: bool,
    /// The room was encrypted then.
    pub encrypted: bool,
    /// The user is or was in the room.
    pub has_joined: bool,
    /// Seen from outside: what is known of it is in [`crate::query::outside`].
    pub outside: bool,
}

/// A change of a local user's membership.
#[derive(Clone, Copy, Debug)]
pub struct MembershipNews {
    pub membership: Membership,
    /// The `m.room.member` event.
    pub event: Option<EventSn>,
    /// Offset of the record that changed it, and its time in microseconds.
    pub offset: u64,
    pub at_us: u64,
    /// See [`Standing`].
    pub by_self: bool,
    pub encrypted: bool,
    pub outside: bool,
}

/// A local user.
#[derive(Debug)]
pub struct UserSlot {
    pub user_id: OwnedUserId,
    pub rooms: BTreeMap<RoomIx, Standing>,
    /// Offset of the newest receipt that the user alone is shown, by room.
    pub own_receipts: BTreeMap<RoomIx, u64>,
    /// Offset of the newest change of account data, in the user's partition.
    pub account_data_at: Option<u64>,
    /// Offset of the newest purge of a room of theirs, by partition.
    pub purged_at: BTreeMap<PartitionId, u64>,
}

/// See the module's header.
#[derive(Debug)]
pub struct Memory {
    /// Offset of the next record to fold, by partition. Rows and the rest of
    /// this structure contain exactly what lies below.
    pub cursors: Box<[u64]>,
    rooms: Vec<RoomSlot>,
    by_room: HashMap<OwnedRoomId, RoomIx>,
    users: Vec<UserSlot>,
    by_user: HashMap<OwnedUserId, UserIx>,
    /// Whom the group that is being folded concerns.
    pub news: News,
}

impl Memory {
    pub fn new(partitions: u32) -> Memory {
        Memory {
            cursors: vec![0; partitions as usize].into_boxed_slice(),
            rooms: Vec::new(),
            by_room: HashMap::new(),
            users: Vec::new(),
            by_user: HashMap::new(),
            news: News::default(),
        }
    }

    pub fn room_ix(&self, room: &RoomId) -> Option<RoomIx> {
        self.by_room.get(room).copied()
    }

    /// The room's index; a room that is new here gets one.
    pub fn intern_room(
        &mut self,
        room_id: &RoomId,
        partition: PartitionId,
        room: RoomSn,
    ) -> RoomIx {
        if let Some(known) = self.by_room.get(room_id) {
            return *known;
        }
        let ix = RoomIx(self.rooms.len() as u32);
        self.rooms.push(RoomSlot {
            room_id: room_id.to_owned(),
            partition,
            room,
            last_change: 0,
            traits: RoomTraits::default(),
            receipts_at: None,
            parts_from: None,
            newest: Newest::default(),
            joined: HashSet::new(),
            joins: VecDeque::new(),
            joins_from: 0,
        });
        self.by_room.insert(room_id.to_owned(), ix);
        ix
    }

    /// Forgets a room that was purged: one that comes to be again under its id is
    /// another. Returns who had anything to do with it; looks at all users.
    pub fn remove_room(&mut self, ix: RoomIx) -> Vec<UserIx> {
        let slot = &mut self.rooms[ix.0 as usize];
        slot.newest = Newest::default();
        slot.receipts_at = None;
        slot.parts_from = None;
        slot.joined = HashSet::new();
        slot.joins = VecDeque::new();
        self.by_room.remove(&slot.room_id);
        let mut concerned = vec![];
        for (number, user) in self.users.iter_mut().enumerate() {
            user.own_receipts.remove(&ix);
            if user.rooms.remove(&ix).is_some() {
                concerned.push(UserIx(number as u32));
            }
        }
        concerned
    }

    /// The user's index; a user that is new here gets one.
    pub fn intern_user(&mut self, user: &UserId) -> UserIx {
        if let Some(known) = self.by_user.get(user) {
            return *known;
        }
        let ix = UserIx(self.users.len() as u32);
        self.users.push(UserSlot {
            user_id: user.to_owned(),
            rooms: BTreeMap::new(),
            own_receipts: BTreeMap::new(),
            account_data_at: None,
            purged_at: BTreeMap::new(),
        });
        self.by_user.insert(user.to_owned(), ix);
        ix
    }

    pub fn room(&self, ix: RoomIx) -> &RoomSlot {
        &self.rooms[ix.0 as usize]
    }

    pub fn room_mut(&mut self, ix: RoomIx) -> &mut RoomSlot {
        &mut self.rooms[ix.0 as usize]
    }

    pub fn user(&self, user: &UserId) -> Option<&UserSlot> {
        let ix = self.by_user.get(user)?;
        self.users.get(ix.0 as usize)
    }

    pub fn user_mut(&mut self, ix: UserIx) -> &mut UserSlot {
        &mut self.users[ix.0 as usize]
    }

    /// A local user's membership changed.
    pub fn set_membership(&mut self, user: UserIx, room: RoomIx, news: MembershipNews) {
        let joined = news.membership == Membership::Join;
        let rooms = &mut self.users[user.0 as usize].rooms;
        let before = rooms.get(&room);
        let joined_at = before.and_then(|before| before.joined_at);
        let has_joined = joined || before.is_some_and(|before| before.has_joined);
        rooms.insert(
            room,
            Standing {
                membership: news.membership,
                event: news.event,
                changed_at: news.offset,
                joined_at: joined.then(|| joined_at.unwrap_or(news.offset)),
                changed_us: news.at_us,
                by_self: news.by_self,
                encrypted: news.encrypted,
                has_joined,
                outside: news.outside,
            },
        );
        let slot = &mut self.rooms[room.0 as usize];
        if !joined {
            slot.joined.remove(&user);
        } else if slot.joined.insert(user) {
            slot.joins.push_back((news.offset, user));
            if slot.joins.len() > JOINS_MAX
                && let Some((offset, _)) = slot.joins.pop_front()
            {
                slot.joins_from = offset + 1;
            }
        }
        self.news.users.insert(user);
    }

    /// Local users who stand in some relation to a room.
    pub fn related_to(&self, room: RoomIx) -> Vec<OwnedUserId> {
        let related = self.users.iter();
        let related = related.filter(|user| user.rooms.contains_key(&room));
        related.map(|user| user.user_id.clone()).collect()
    }

    /// Forgets in which order users joined, after memberships were loaded in
    /// another one.
    pub fn forget_joins(&mut self) {
        for slot in &mut self.rooms {
            slot.joins.clear();
            slot.joins_from = self.cursors[slot.partition as usize];
        }
    }

    /// Local users who joined a room at or behind an offset, and are in it.
    pub fn joined_since(&self, room: RoomIx, offset: u64) -> Vec<UserIx> {
        let slot = self.room(room);
        if offset >= slot.joins_from {
            let joins = slot.joins.iter().rev();
            let joins = joins.take_while(|(joined_at, _)| *joined_at >= offset);
            let users = joins.map(|(_, user)| *user);
            return users.filter(|user| slot.joined.contains(user)).collect();
        }
        let is_new = |user: &&UserIx| {
            let standing = self.users[user.0 as usize].rooms.get(&room);
            standing.and_then(|standing| standing.joined_at) >= Some(offset)
        };
        slot.joined.iter().filter(is_new).copied().collect()
    }

    /// Whether two local users are joined to the same room. Costs as much as the
    /// one has rooms who has fewer.
    pub fn share_a_room(&self, one: UserIx, other: UserIx) -> bool {
        let (one, other) = (self.user_at(one), self.user_at(other));
        let (fewer, more) = match one.rooms.len() <= other.rooms.len() {
            true => (one, other),
            false => (other, one),
        };
        let is_joined = |standing: &Standing| standing.membership == Membership::Join;
        fewer.rooms.iter().any(|(room, standing)| {
            is_joined(standing) && more.rooms.get(room).is_some_and(is_joined)
        })
    }

    pub fn user_at(&self, ix: UserIx) -> &UserSlot {
        &self.users[ix.0 as usize]
    }

    pub fn user_ix(&self, user: &UserId) -> Option<UserIx> {
        self.by_user.get(user).copied()
    }
}
