//! What of a room a user may read: one answer for every endpoint that reads.
//!
//! Source: client-server API, *Room history visibility*. Members read what the
//! visibility at each event allows; who left reads up to where they left; who
//! never was a member reads only what is world readable.

use std::cell::Cell;
use std::sync::Arc;

use log_format::record::output::{Decision, Membership, Visibility};
use ruma::{EventId, RoomId, UserId};
use serde::Deserialize;

use crate::api::Api;
use crate::api::errors::ApiError;
use crate::query::ids::{EventSn, Place, StateId};
use crate::query::rooms::{RoomHead, Rooms, StateKey, StateMap, StoredEvent};

/// Memberships that are looked back through to find where a user left.
const MEMBERSHIPS_MAX: usize = 256;

/// How the user stands to the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Joined: reads on as the room goes on.
    Joined,
    /// Was joined, up to this place, with this state behind it.
    Left { at: Place, state: StateId },
    /// Never joined; the room is world readable.
    Peeking,
}

/// One user's sight of one room, as of one head.
pub struct RoomView<'a> {
    rooms: &'a dyn Rooms,
    user: &'a UserId,
    pub head: Arc<RoomHead>,
    standing: Standing,
    /// The user's membership at the state looked at last; neighbours share it.
    membership_at: Cell<Option<(StateId, Option<Membership>)>>,
}

impl<'a> RoomView<'a> {
    /// Opens a room for reading.
    ///
    /// Errors: `M_FORBIDDEN` for a room that the user may not read at all, also
    /// for one that does not exist, so that nobody learns which do.
    pub fn open(api: &'a Api, user: &'a UserId, room: &RoomId) -> Result<RoomView<'a>, ApiError> {
        let rooms: &dyn Rooms = &*api.rooms;
        let head = rooms.head(room)?.ok_or(NOT_A_MEMBER)?;
        let standing = match head.authority.membership(user) {
            Some(Membership::Join) => Standing::Joined,
            other => {
                let left = match other {
                    None => None,
                    Some(_) if api.users.forgot(user, room) => None,
                    Some(_) => left_at(rooms, &head, user)?,
                };
                match left {
                    Some((at, state)) => Standing::Left { at, state },
                    None if head.visibility == Visibility::WorldReadable => Standing::Peeking,
                    None => return Err(NOT_A_MEMBER),
                }
            }
        };
        Ok(RoomView {
            rooms,
            user,
            head,
            standing,
            membership_at: Cell::new(None),
        })
    }

    pub fn rooms(&self) -> &'a dyn Rooms {
        self.rooms
    }

    pub fn user(&self) -> &'a UserId {
        self.user
    }

    pub fn room_id(&self) -> &RoomId {
        &self.head.room_id
    }

    pub fn is_joined(&self) -> bool {
        self.standing == Standing::Joined
    }

    /// The last place that the user may read, if not the room's end.
    pub fn end(&self) -> Option<Place> {
        match self.standing {
            Standing::Left { at, .. } => Some(at),
            Standing::Joined | Standing::Peeking => None,
        }
    }

    /// The state that *current* means to the user: that at which they left, for
    /// who did.
    pub fn state_id(&self) -> StateId {
        match self.standing {
            Standing::Left { state, .. } => state,
            Standing::Joined | Standing::Peeking => self.head.state_id,
        }
    }

    /// The whole of [`RoomView::state_id`].
    pub fn state(&self) -> Result<StateMap, ApiError> {
        self.state_at(self.state_id())
    }

    /// The whole of any state.
    pub fn state_at(&self, state: StateId) -> Result<StateMap, ApiError> {
        if state == self.head.state_id {
            return Ok(self.head.state.clone());
        }
        Ok(self.rooms.state(self.room_id(), state)?)
    }

    /// One entry of [`RoomView::state_id`].
    pub fn state_event(
        &self,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, ApiError> {
        self.state_event_at(self.state_id(), kind, state_key)
    }

    /// One entry of any state.
    pub fn state_event_at(
        &self,
        state: StateId,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, ApiError> {
        let key = StateKey::new(kind, state_key);
        let event = match state == self.head.state_id {
            true => self.head.state.get(&key).copied(),
            false => self.rooms.state_entry(self.room_id(), state, &key)?,
        };
        match event {
            None => Ok(None),
            Some(event) => Ok(self.events(&[event])?.pop()),
        }
    }

    /// Events by interned id. Says nothing about whether they may be seen.
    pub fn events(&self, events: &[EventSn]) -> Result<Vec<Arc<StoredEvent>>, ApiError> {
        Ok(self.rooms.events(self.room_id(), events)?)
    }

    /// An event that the user may see; none for any other.
    pub fn event(&self, event: &EventId) -> Result<Option<Arc<StoredEvent>>, ApiError> {
        let Some(found) = self.rooms.event(self.room_id(), event)? else {
            return Ok(None);
        };
        Ok(match self.may_see(&found)? {
            true => Some(found),
            false => None,
        })
    }

    /// Whether the user may see an event of the room.
    pub fn may_see(&self, event: &StoredEvent) -> Result<bool, ApiError> {
        if event.decision != Decision::Accepted {
            return Ok(false);
        }
        if event.visibility == Visibility::WorldReadable {
            return Ok(true);
        }
        match self.standing {
            Standing::Peeking => return Ok(false),
            Standing::Left { at, .. } if event.place > at => return Ok(false),
            Standing::Left { .. } | Standing::Joined => {}
        }
        if event.visibility == Visibility::Shared {
            // Joined now or later than the event: places beyond the last join
            // of who left were refused above.
            return Ok(true);
        }
        if self.allows(event.visibility, event.state_before)? {
            return Ok(true);
        }
        // One's own membership and a change of the visibility count with what
        // holds behind them, too.
        let own = &*event.kind == "m.room.member"
            && event.state_key.as_deref() == Some(self.user.as_str());
        let changes_visibility = &*event.kind == "m.room.history_visibility";
        Ok((own || changes_visibility) && self.allows(event.visibility, event.state_after)?)
    }

    /// The user's membership behind an event, for `unsigned.membership`.
    pub fn membership_after(&self, event: &StoredEvent) -> Result<Option<Membership>, ApiError> {
        self.membership_in(event.state_after)
    }

    fn allows(&self, visibility: Visibility, state: StateId) -> Result<bool, ApiError> {
        let membership = self.membership_in(state)?;
        Ok(match visibility {
            Visibility::WorldReadable | Visibility::Shared => true,
            Visibility::Invited => {
                matches!(membership, Some(Membership::Join | Membership::Invite))
            }
            Visibility::Joined => membership == Some(Membership::Join),
        })
    }

    fn membership_in(&self, state: StateId) -> Result<Option<Membership>, ApiError> {
        if let Some((known, membership)) = self.membership_at.get()
            && known == state
        {
            return Ok(membership);
        }
        let event = self.state_event_at(state, "m.room.member", self.user.as_str())?;
        let membership = event.and_then(|event| membership_of(&event));
        self.membership_at.set(Some((state, membership)));
        Ok(membership)
    }
}

/// What an outsider is told of a room, whether it exists or not.
pub const NOT_A_MEMBER: ApiError = ApiError::Forbidden("You are not a member of this room");

/// Where the user's last stay ended, and the state behind that; none if they
/// never were joined.
fn left_at(
    rooms: &dyn Rooms,
    head: &RoomHead,
    user: &UserId,
) -> Result<Option<(Place, StateId)>, ApiError> {
    let key = StateKey::new("m.room.member", user.as_str());
    let mut next = head.state.get(&key).copied();
    let mut ended_by: Option<Arc<StoredEvent>> = None;
    for _ in 0..MEMBERSHIPS_MAX {
        let Some(event) = next else {
            return Ok(None);
        };
        let Some(event) = rooms.events(&head.room_id, &[event])?.pop() else {
            return Ok(None);
        };
        if membership_of(&event) == Some(Membership::Join) {
            return Ok(ended_by.map(|ended| (ended.place, ended.state_after)));
        }
        next = event.replaces;
        ended_by = Some(event);
    }
    Ok(None)
}

/// `content.membership` of a member event.
pub fn membership_of(event: &StoredEvent) -> Option<Membership> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        content: Content<'a>,
    }
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        membership: std::borrow::Cow<'a, str>,
    }
    let event: Event<'_> = serde_json::from_slice(&event.json).ok()?;
    Membership::parse(&event.content.membership)
}
