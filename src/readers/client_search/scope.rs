//! The rooms that a user searches: all in which they have been, as far as the
//! filter of the request goes, and that are not forgotten.

use std::collections::HashMap;

use log_format::record::output::Membership;
use ruma::{OwnedRoomId, OwnedUserId, UserId};

use super::collect::{ByKey, Keys, Reach, Scope};
use super::index::{key_bits, room_key, sender_key};
use super::texts::SearchKey;
use super::{Group, Search};
use crate::query::rooms::{QueryError, Rooms};
use crate::query::unwanted::Unwanted;
use crate::query::users::Users;

/// With so few rooms the index looks only at these; with more it looks at all
/// that match, and asks of each whether its room is among them.
const NARROW_ROOMS_MAX: usize = 32;

/// Where a request searches.
pub struct SearchedRooms {
    pub scope: Scope,
    /// By room key.
    pub names: HashMap<u64, OwnedRoomId>,
    /// Keys of the rooms, where they are few.
    pub narrow: Option<Vec<u64>>,
}

impl SearchedRooms {
    /// The scope of a request, within a group of its results if one is named.
    pub fn of(
        rooms: &dyn Rooms,
        users: &dyn Users,
        search: &Search,
        group: Option<&Group>,
        unwanted: &Unwanted,
    ) -> Result<SearchedRooms, QueryError> {
        let filter = &search.filter;
        let mut names = HashMap::new();
        let mut reaches = ByKey::default();
        for entry in rooms.rooms_of(&search.user)? {
            let room = &*entry.room_id;
            let is_grouped = match group {
                Some(Group::Room(wanted)) => wanted == room,
                Some(Group::Sender(_)) | None => true,
            };
            if !is_grouped || !filter.matches_room(room) {
                continue;
            }
            let is_joined = entry.membership == Membership::Join;
            if !is_joined && users.forgot(&search.user, room) {
                continue;
            }
            let until = (!is_joined).then_some(entry.event.0);
            reaches.insert(room_key(room), Reach { until });
            names.insert(room_key(room), entry.room_id);
        }
        let matches_type = |key: &SearchKey| filter.matches_type(key.event_type());
        let keys = search.keys.iter().copied().filter(matches_type);
        let ignored = unwanted.ignored().into_iter().flatten();
        let narrow = (names.len() <= NARROW_ROOMS_MAX).then(|| names.keys().copied().collect());
        Ok(SearchedRooms {
            scope: Scope {
                rooms: reaches,
                senders: wanted_senders(search, group),
                not_senders: filter.not_senders.iter().map(|id| sender_key(id)).collect(),
                ignored: ignored.map(|id| sender_key(id)).collect(),
                keys: keys.map(key_bits).collect(),
                has_url: filter.contains_url,
            },
            names,
            narrow,
        })
    }

    /// Whether nothing can be found.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() || self.scope.keys.is_empty()
    }
}

fn wanted_senders(search: &Search, group: Option<&Group>) -> Option<Keys> {
    let keys = |ids: &mut dyn Iterator<Item = &UserId>| ids.map(sender_key).collect();
    let wanted = search.filter.senders.as_ref();
    match (group, wanted) {
        (Some(Group::Sender(sender)), Some(wanted)) => {
            let both = wanted.iter().filter(|id| *id == sender);
            Some(keys(&mut both.map(OwnedUserId::as_ref)))
        }
        (Some(Group::Sender(sender)), None) => Some(keys(&mut [&**sender].into_iter())),
        (_, Some(wanted)) => Some(keys(&mut wanted.iter().map(OwnedUserId::as_ref))),
        (_, None) => None,
    }
}
