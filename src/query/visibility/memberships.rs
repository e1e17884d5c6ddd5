//! What a viewer was in the states of one room, and until when it was joined.
//! Each state and each member event is read once.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::{OwnedRoomId, RoomId, UserId};

use super::{Stay, Viewer};
use crate::matrix::history_visibility::{Standing, membership_of};
use crate::query::ids::{EventSn, Place, StateId};
use crate::query::rooms::{QueryError, RoomHead, Rooms, StateKey};

const MEMBER: &str = "m.room.member";

/// Member events of a user that are looked back through for the last join.
const LINE_EVENTS_MAX: usize = 256;
/// Users of a server whose line is followed, where none of them is joined now.
const LINES_MAX: usize = 1_024;
/// Users of a server that are asked of an old state one by one. For more of
/// them the whole state is read, once.
const ENTRIES_MAX: usize = 512;
/// Users of a server whose member events are read together. The first who is
/// joined ends the search.
const STEP_USERS: usize = 32;

/// The memberships of a viewer's users in one state.
#[derive(Clone, Copy, Default)]
struct Found {
    standing: Standing,
    /// Of the last user looked at: *the* user, if the viewer is one.
    membership: Option<Membership>,
}

pub(super) struct Memberships<'a> {
    rooms: &'a dyn Rooms,
    room_id: OwnedRoomId,
    viewer: Viewer<'a>,
    /// The state keys of the viewer's users.
    keys: OnceCell<Vec<StateKey>>,
    /// See [`Memberships::joined_until`].
    joined_until: OnceCell<Option<Place>>,
    in_state: RefCell<HashMap<StateId, Found>>,
    /// By member event.
    by_event: RefCell<HashMap<EventSn, Option<Membership>>>,
}

type Head<'h> = Option<&'h Arc<RoomHead>>;

impl<'a> Memberships<'a> {
    pub fn new(rooms: &'a dyn Rooms, room: &RoomId, viewer: Viewer<'a>) -> Memberships<'a> {
        Memberships {
            rooms,
            room_id: room.to_owned(),
            viewer,
            keys: OnceCell::new(),
            joined_until: OnceCell::new(),
            in_state: RefCell::default(),
            by_event: RefCell::default(),
        }
    }

    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// What the viewer is in a state. A server's users are found by the head.
    pub fn standing(&self, state: StateId, head: Head<'_>) -> Result<Standing, QueryError> {
        Ok(self.found(state, head)?.standing)
    }

    /// The membership of the user in a state; none of a server.
    pub fn of_user(&self, state: StateId) -> Result<Option<Membership>, QueryError> {
        match self.viewer {
            Viewer::User(_) => Ok(self.found(state, None)?.membership),
            Viewer::Server(_) => Ok(None),
        }
    }

    /// The place up to which the viewer was joined last, [`Place::END`] while it
    /// is; none if it never was.
    pub fn joined_until(&self, head: Head<'_>) -> Result<Option<Place>, QueryError> {
        if let Some(until) = self.joined_until.get() {
            return Ok(*until);
        }
        let until = match self.viewer {
            Viewer::User(user) => joined_until(self.stay(user, head)?),
            Viewer::Server(_) => self.server_joined_until(head)?,
        };
        Ok(*self.joined_until.get_or_init(|| until))
    }

    fn server_joined_until(&self, head: Head<'_>) -> Result<Option<Place>, QueryError> {
        let Some(head) = head else {
            return Ok(None);
        };
        let keys = self.keys(Some(head));
        let users = || {
            keys.iter()
                .filter_map(|key| <&UserId>::try_from(&*key.state_key).ok())
        };
        if users().any(|user| head.authority.is_joined(user)) {
            return Ok(Some(Place::END));
        }
        let mut until = None;
        for user in users().take(LINES_MAX) {
            until = until.max(joined_until(self.stay(user, Some(head))?));
        }
        Ok(until)
    }

    /// How the last stay of a user stands; see [`Stay`].
    pub fn stay(&self, user: &UserId, head: Head<'_>) -> Result<Stay, QueryError> {
        let current = head.and_then(|head| head.authority.members.get(user));
        let Some(current) = current else {
            return Ok(Stay::Never);
        };
        if current.membership == Membership::Join {
            return Ok(Stay::Joined);
        }
        let mut next = Some(current.event);
        let mut ended = None;
        for _ in 0..LINE_EVENTS_MAX {
            let Some(event) = next else { break };
            let Some(event) = self.rooms.events(&self.room_id, &[event])?.pop() else {
                break;
            };
            if membership_of(&event.json) == Some(Membership::Join) {
                return Ok(match ended {
                    None => Stay::Never,
                    Some((left, state)) => Stay::Left {
                        joined: event.place,
                        left,
                        state,
                    },
                });
            }
            next = event.replaces;
            ended = Some((event.place, event.state_after));
        }
        Ok(Stay::Never)
    }

    fn found(&self, state: StateId, head: Head<'_>) -> Result<Found, QueryError> {
        if let Some(found) = self.in_state.borrow().get(&state) {
            return Ok(*found);
        }
        let keys = self.keys(head);
        let whole = match keys.len() > ENTRIES_MAX {
            true => Some(self.rooms.state(&self.room_id, state)?),
            false => None,
        };
        let mut found = Found::default();
        for keys in keys.chunks(STEP_USERS) {
            let mut entries = Vec::with_capacity(keys.len());
            for key in keys {
                entries.extend(match &whole {
                    Some(whole) => whole.get(key).copied(),
                    None => self.rooms.state_entry(&self.room_id, state, key)?,
                });
            }
            for membership in self.of_events(&entries)? {
                found.membership = membership;
                found.standing = found.standing.or(Standing::of(membership));
            }
            if found.standing.joined {
                break;
            }
        }
        self.in_state.borrow_mut().insert(state, found);
        Ok(found)
    }

    /// What member events say, in the order given.
    fn of_events(&self, events: &[EventSn]) -> Result<Vec<Option<Membership>>, QueryError> {
        let mut known = self.by_event.borrow_mut();
        let new: Vec<EventSn> = events
            .iter()
            .copied()
            .filter(|event| !known.contains_key(event))
            .collect();
        if !new.is_empty() {
            for event in self.rooms.events(&self.room_id, &new)? {
                known.insert(event.event, membership_of(&event.json));
            }
        }
        let said = events.iter();
        Ok(said
            .map(|event| known.get(event).copied().flatten())
            .collect())
    }

    /// The keys under which the viewer's users stand in states. A server's users
    /// are those with an entry in current state; whom a resolution left without
    /// one does not count.
    fn keys(&self, head: Head<'_>) -> &[StateKey] {
        self.keys.get_or_init(|| match self.viewer {
            Viewer::User(user) => vec![StateKey::new(MEMBER, user.as_str())],
            Viewer::Server(server) => {
                let members = head.into_iter().flat_map(|head| &head.authority.members);
                let mut known = self.by_event.borrow_mut();
                members
                    .filter(|(user, _)| user.server_name() == server)
                    .map(|(user, member)| {
                        // Most of them are the same in older states.
                        known.insert(member.event, Some(member.membership));
                        StateKey::new(MEMBER, user.as_str())
                    })
                    .collect()
            }
        })
    }
}

fn joined_until(stay: Stay) -> Option<Place> {
    match stay {
        Stay::Joined => Some(Place::END),
        // An event that stands within the stay may build on what was before it.
        Stay::Left { joined, left, .. } => Some(joined.max(left)),
        Stay::Never => None,
    }
}
