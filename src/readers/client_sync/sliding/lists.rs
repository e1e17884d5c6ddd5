//! Room lists: which rooms of the user are in the ranges of which lists, newest
//! activity first (MSC4186, *Lists*).
//!
//! Computed from memory alone, and anew only where something changed that a
//! list depends on.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::{OwnedRoomId, RoomId};

use super::super::memory::{Memory, RoomIx, RoomSlot, Standing, UserSlot};
use super::connection::{RoomKey, Told};
use super::request::{Filters, List};
use crate::query::ids::StateId;

/// Which lists of a request, by their index, a room is in the ranges of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListSet(u128);

impl ListSet {
    /// The lists of a request whose names are wanted.
    pub fn of(lists: &[(String, List)], is_wanted: impl Fn(&str) -> bool) -> ListSet {
        let mut set = ListSet::default();
        let lists = lists.iter().enumerate();
        let wanted = lists.filter(|(_, (name, _))| is_wanted(name));
        wanted.for_each(|(index, _)| set.insert(index));
        set
    }

    fn insert(&mut self, list: usize) {
        self.0 |= 1 << list;
    }

    pub fn contains(self, list: usize) -> bool {
        self.0 & (1 << list) != 0
    }

    /// Whether a list is in both.
    pub fn meets(self, other: ListSet) -> bool {
        self.0 & other.0 != 0
    }
}

const _: () = assert!(super::request::LISTS_MAX <= 128);

/// What the lists of a request come to.
#[derive(Debug, Default)]
pub struct Windows {
    /// Rooms that match each list's filters.
    pub counts: Vec<u64>,
    /// Rooms in the ranges of any list, newest activity first.
    pub rooms: Vec<(RoomIx, ListSet)>,
}

/// What lists depend on beside the reader's memory, as of one look.
#[derive(Clone, Debug, Default)]
pub struct UserFacts {
    /// Where the reader stood before they were looked up: what came behind may
    /// not be in here.
    pub cursors: Box<[u64]>,
    /// Offset of the newest account data that is in here.
    pub data_at: Option<u64>,
    /// Rooms in `m.direct`.
    pub direct: Arc<HashSet<OwnedRoomId>>,
    /// Tags of rooms, if a list asks.
    pub tags: Option<Arc<HashMap<OwnedRoomId, BTreeSet<String>>>>,
    /// Children of the spaces that lists ask for, with the state that says so.
    pub spaces: HashMap<OwnedRoomId, (StateId, Arc<HashSet<OwnedRoomId>>)>,
    /// Rooms that the user left and forgot, and those of invites that they do not
    /// want to be told of.
    pub hidden: HashSet<OwnedRoomId>,
}

/// What a connection's lists came to last, and from what.
#[derive(Default)]
pub struct ListsCache {
    pub facts: Arc<UserFacts>,
    found: Option<Found>,
}

struct Found {
    /// With their cursors: there is nothing new where the reader still stands there.
    facts: Arc<UserFacts>,
    /// Of all in memory that the order and the filters depend on.
    checksum: u64,
    told_rooms: usize,
    lists: Vec<(String, List)>,
    windows: Arc<Windows>,
}

impl ListsCache {
    /// Whether what was found still holds without a look at any room.
    pub fn is_current(&self, memory: &Memory, lists: &[(String, List)], told: &Told) -> bool {
        self.found.as_ref().is_some_and(|found| {
            found.facts.cursors == memory.cursors
                && found.told_rooms == told.rooms.len()
                && found.lists == lists
        })
    }

    /// The windows as of now.
    pub fn windows(
        &mut self,
        memory: &Memory,
        user: &UserSlot,
        lists: &[(String, List)],
        told: &Told,
    ) -> Arc<Windows> {
        if self.is_current(memory, lists, told)
            && let Some(found) = &self.found
        {
            return found.windows.clone();
        }
        let checksum = checksum(memory, user);
        let same = self.found.take().filter(|found| {
            found.checksum == checksum
                && found.facts.data_at == self.facts.data_at
                && found.facts.hidden == self.facts.hidden
                && found.told_rooms == told.rooms.len()
                && found.lists == lists
        });
        let windows = match same {
            Some(found) => found.windows,
            None => Arc::new(windows(memory, user, lists, told, &self.facts)),
        };
        self.found = Some(Found {
            facts: self.facts.clone(),
            checksum,
            told_rooms: told.rooms.len(),
            lists: lists.to_vec(),
            windows: windows.clone(),
        });
        windows
    }
}

/// A number that changes with the user's rooms, their order and their traits.
fn checksum(memory: &Memory, user: &UserSlot) -> u64 {
    // FNV's prime; an accident of 64 bits delays a list until the next change.
    let mix = |sum: u64, number: u64| {
        (sum ^ number)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23)
    };
    user.rooms
        .iter()
        .fold(user.rooms.len() as u64, |sum, (ix, standing)| {
            let slot = memory.room(*ix);
            let news = match standing.membership {
                Membership::Join => slot.last_change.max(standing.changed_at),
                _ => standing.changed_at,
            };
            mix(mix(sum, slot.room.0), news)
        })
}

/// How a room is found in the tables of connections.
pub fn key_of(slot: &RoomSlot) -> RoomKey {
    RoomKey {
        partition: slot.partition,
        room: slot.room,
    }
}

/// Whether a room is on the list that the server keeps for a user: a room that
/// they left is only of interest to a client that was told of it, but that they
/// were removed from one they have to learn.
pub fn is_listed(standing: &Standing, slot: &RoomSlot, told: &Told) -> bool {
    match standing.membership {
        Membership::Join | Membership::Invite | Membership::Knock => true,
        Membership::Leave | Membership::Ban => {
            (standing.has_joined && !standing.by_self) || told.rooms.contains_key(&key_of(slot))
        }
    }
}

/// Rooms that would be listed, unless the user hides them: those that they are
/// invited to, and those that they are gone from.
pub fn rooms_outside(
    memory: &Memory,
    user: &UserSlot,
    told: &Told,
) -> Vec<(OwnedRoomId, Standing)> {
    let is_outside =
        |standing: &Standing| !matches!(standing.membership, Membership::Join | Membership::Knock);
    let rooms = user
        .rooms
        .iter()
        .filter(|(_, standing)| is_outside(standing));
    let rooms = rooms.map(|(ix, standing)| (memory.room(*ix), standing));
    let listed = rooms.filter(|(slot, standing)| is_listed(standing, slot, told));
    listed
        .map(|(slot, standing)| (slot.room_id.clone(), *standing))
        .collect()
}

/// When something last happened in a room, for this user: nothing of what came
/// after they left.
fn active_us(standing: &Standing, slot: &RoomSlot) -> u64 {
    match standing.membership {
        Membership::Join => slot.traits.active_us,
        _ => standing.changed_us,
    }
}

impl Windows {
    /// Of so many lists of a user who is in no room.
    pub fn none(lists: usize) -> Windows {
        Windows {
            counts: vec![0; lists],
            rooms: Vec::new(),
        }
    }
}

fn windows(
    memory: &Memory,
    user: &UserSlot,
    lists: &[(String, List)],
    told: &Told,
    facts: &UserFacts,
) -> Windows {
    let mut order: Vec<(u64, RoomIx, Standing)> = user
        .rooms
        .iter()
        .map(|(ix, standing)| (memory.room(*ix), *ix, *standing))
        .filter(|(slot, _, standing)| is_listed(standing, slot, told))
        .filter(|(slot, ..)| !facts.hidden.contains(&slot.room_id))
        .map(|(slot, ix, standing)| (active_us(&standing, slot), ix, standing))
        .collect();
    order.sort_unstable_by_key(|(active, ix, _)| (std::cmp::Reverse(*active), *ix));
    let mut counts = vec![0; lists.len()];
    let mut rooms = Vec::new();
    for (_, ix, standing) in order {
        let room = ListedRoom::new(memory.room(ix), &standing, facts);
        let mut inside = ListSet::default();
        for (index, (_, list)) in lists.iter().enumerate() {
            if !room.passes(&list.filters) {
                continue;
            }
            let Some(count) = counts.get_mut(index) else {
                continue;
            };
            if is_within(list.ranges.as_deref(), *count) {
                inside.insert(index);
            }
            *count += 1;
        }
        if inside != ListSet::default() {
            rooms.push((ix, inside));
        }
    }
    Windows { counts, rooms }
}

fn is_within(ranges: Option<&[(u64, u64)]>, index: u64) -> bool {
    let within = |ranges: &[(u64, u64)]| {
        let mut ranges = ranges.iter();
        ranges.any(|(first, last)| (*first..=*last).contains(&index))
    };
    ranges.is_none_or(within)
}

/// A room as filters see it.
struct ListedRoom<'a> {
    room_id: &'a RoomId,
    is_invited: bool,
    is_encrypted: bool,
    room_type: Option<&'a str>,
    facts: &'a UserFacts,
}

impl<'a> ListedRoom<'a> {
    fn new(slot: &'a RoomSlot, standing: &Standing, facts: &'a UserFacts) -> ListedRoom<'a> {
        ListedRoom {
            room_id: &slot.room_id,
            is_invited: standing.membership == Membership::Invite,
            is_encrypted: match standing.membership {
                Membership::Join => slot.traits.encrypted,
                _ => standing.encrypted,
            },
            room_type: slot.traits.room_type.as_deref(),
            facts,
        }
    }

    /// Whether it matches a list's filters (MSC4186, `SlidingRoomFilter`).
    fn passes(&self, filters: &Filters) -> bool {
        let is = |wanted: Option<bool>, found: bool| wanted.is_none_or(|wanted| wanted == found);
        is(filters.is_invited, self.is_invited)
            && is(filters.is_encrypted, self.is_encrypted)
            && (filters.is_dm.is_none()
                || is(filters.is_dm, self.facts.direct.contains(self.room_id)))
            && self.is_of_type(filters)
            && (!filters.asks_tags() || self.is_tagged(filters))
            && filters
                .spaces
                .as_ref()
                .is_none_or(|spaces| self.is_in(spaces))
    }

    fn is_of_type(&self, filters: &Filters) -> bool {
        let is_one_of = |types: &BTreeSet<Option<String>>| {
            types
                .iter()
                .any(|wanted| wanted.as_deref() == self.room_type)
        };
        filters.room_types.as_ref().is_none_or(is_one_of) && !is_one_of(&filters.not_room_types)
    }

    fn is_tagged(&self, filters: &Filters) -> bool {
        let none = BTreeSet::new();
        let tags = self.facts.tags.as_ref();
        let tags = tags
            .and_then(|tags| tags.get(self.room_id))
            .unwrap_or(&none);
        filters
            .tags
            .as_ref()
            .is_none_or(|wanted| !wanted.is_disjoint(tags))
            && filters.not_tags.is_disjoint(tags)
    }

    fn is_in(&self, spaces: &BTreeSet<String>) -> bool {
        let mut children = self.facts.spaces.iter();
        children.any(|(space, (_, children))| {
            spaces.contains(space.as_str()) && children.contains(self.room_id)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn passes(room: &ListedRoom<'_>, filters: Value) -> bool {
        room.passes(&serde_json::from_value(filters).expect("filters"))
    }

    fn facts() -> UserFacts {
        let room = |name: &str| OwnedRoomId::try_from(name).expect("a room id");
        let set = |names: &[&str]| Arc::new(names.iter().map(|name| room(name)).collect());
        let tags = [(
            room("!a:here"),
            BTreeSet::from(["m.favourite".to_owned(), "u.x".to_owned()]),
        )];
        UserFacts {
            direct: set(&["!a:here"]),
            tags: Some(Arc::new(tags.into_iter().collect())),
            spaces: [(room("!s:here"), (StateId(1), set(&["!a:here"])))].into(),
            ..UserFacts::default()
        }
    }

    #[test]
    fn filters_narrow_a_list() {
        let facts = facts();
        let room = |room_id, room_type| ListedRoom {
            room_id,
            is_invited: false,
            is_encrypted: true,
            room_type,
            facts: &facts,
        };
        let a = room(ruma::room_id!("!a:here"), None);
        let b = room(ruma::room_id!("!b:here"), Some("m.space"));
        for (filters, a_passes, b_passes) in [
            (json!({}), true, true),
            (json!({"is_dm": true}), true, false),
            (json!({"is_dm": false}), false, true),
            (json!({"is_encrypted": false}), false, false),
            (json!({"is_invite": true}), false, false),
            (json!({"is_invited": false}), true, true),
            (json!({"room_types": [null]}), true, false),
            (json!({"room_types": ["m.space"]}), false, true),
            (json!({"room_types": []}), false, false),
            (json!({"not_room_types": ["m.space"]}), true, false),
            (
                json!({"room_types": ["m.space"], "not_room_types": ["m.space"]}),
                false,
                false,
            ),
            (json!({"tags": ["m.favourite", "z"]}), true, false),
            (json!({"not_tags": ["u.x"]}), false, true),
            (
                json!({"tags": ["m.favourite"], "not_tags": ["u.x"]}),
                false,
                false,
            ),
            (json!({"spaces": ["!s:here", "!t:here"]}), true, false),
            (json!({"spaces": ["!t:here"]}), false, false),
        ] {
            assert_eq!(passes(&a, filters.clone()), a_passes, "{filters}");
            assert_eq!(passes(&b, filters.clone()), b_passes, "{filters}");
        }
    }

    /// A record that is folded between the look at what lists depend on and that
    /// at memory is not taken for one that was looked at.
    #[test]
    fn what_came_between_two_looks_is_looked_at_again() {
        let mut memory = Memory::new(1);
        memory.intern_user(ruma::user_id!("@a:here"));
        let told = Told::default();
        let mut cache = ListsCache::default();
        let facts = |memory: &Memory| {
            Arc::new(UserFacts {
                cursors: memory.cursors.clone(),
                ..UserFacts::default()
            })
        };
        cache.facts = facts(&memory);
        memory.cursors[0] += 1;
        cache.windows(
            &memory,
            memory.user(ruma::user_id!("@a:here")).expect("a user"),
            &[],
            &told,
        );
        assert!(!cache.is_current(&memory, &[], &told));
        cache.facts = facts(&memory);
        cache.windows(
            &memory,
            memory.user(ruma::user_id!("@a:here")).expect("a user"),
            &[],
            &told,
        );
        assert!(cache.is_current(&memory, &[], &told));
    }

    #[test]
    fn ranges_are_inclusive_and_may_be_several() {
        let ranges = [(0, 1), (4, 4)];
        let within: Vec<u64> = (0..6)
            .filter(|index| is_within(Some(&ranges), *index))
            .collect();
        assert_eq!(within, [0, 1, 4]);
        assert!(is_within(None, 1_000));
        assert!(!is_within(Some(&[]), 0));
    }
}
