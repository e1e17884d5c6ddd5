//! What of a room a user may read: how they stand to it, and which state is
//! *current* to them. Whether they may see an event is decided elsewhere, for
//! all readers alike: [`crate::query::visibility`].
//!
//! Source: client-server API, *Room history visibility*. Members read on as the
//! room goes on; who left reads up to where they left; who never was a member
//! reads only what is world readable.

use std::sync::Arc;

use log_format::record::output::{Membership, Visibility};
use ruma::{EventId, RoomId, UserId};

use crate::api::Api;
use crate::api::errors::ApiError;
use crate::query::ids::{EventSn, Place, StateId};
use crate::query::relations::Relations;
use crate::query::rooms::{RoomHead, Rooms, StateKey, StateMap, StoredEvent};
use crate::query::unwanted::Unwanted;
use crate::query::visibility::{Stay, Viewer, Viewpoint};

/// How the user stands to the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Joined: reads on as the room goes on.
    Joined,
    /// Was joined, up to this place, with this state behind it.
    Left { at: Place, state: StateId },
    /// Never joined.
    Outside,
}

/// One user's sight of one room, as of one head.
pub struct RoomView<'a> {
    pub head: Arc<RoomHead>,
    pub viewpoint: Viewpoint<'a>,
    pub relations: &'a dyn Relations,
    standing: Standing,
}

impl<'a> RoomView<'a> {
    /// Opens a room for reading.
    ///
    /// Errors: `M_FORBIDDEN` for a room that the user may not read at all, also
    /// for one that does not exist, so that nobody learns which do.
    pub fn open(api: &'a Api, user: &'a UserId, room: &RoomId) -> Result<RoomView<'a>, ApiError> {
        let view = RoomView::of_single_events(api, user, room)?;
        let is_outside = view.standing == Standing::Outside;
        if is_outside && view.head.visibility != Visibility::WorldReadable {
            return Err(NOT_A_MEMBER);
        }
        Ok(view)
    }

    /// Opens a room to read events of which each is asked for by its id: there
    /// the rules for events decide alone, so that an invited user sees what
    /// `invited` shows them. Errors as [`RoomView::open`].
    pub fn of_single_events(
        api: &'a Api,
        user: &'a UserId,
        room: &RoomId,
    ) -> Result<RoomView<'a>, ApiError> {
        let rooms: &dyn Rooms = &*api.rooms;
        let head = rooms.head(room)?.ok_or(NOT_A_MEMBER)?;
        let mut viewpoint = Viewpoint::at_head(rooms, &head, Viewer::User(user))
            .without(Unwanted::of(&*api.users, user));
        let standing = match head.authority.membership(user) {
            Some(Membership::Join) => Standing::Joined,
            None => Standing::Outside,
            // Forgetting gives up what membership once allowed.
            Some(_) if api.users.forgot(user, room) => {
                viewpoint = viewpoint.without_memberships();
                Standing::Outside
            }
            Some(_) => match viewpoint.stay()? {
                Stay::Joined => Standing::Joined,
                Stay::Left { left, state, .. } => Standing::Left {
                    // What ended the stay may stand in no timeline: it was
                    // soft-failed, and a resolution chose it all the same.
                    at: match left {
                        Place::START => head.last_place,
                        left => left,
                    },
                    state,
                },
                Stay::Never => Standing::Outside,
            },
        };
        Ok(RoomView {
            head,
            viewpoint,
            relations: &*api.relations,
            standing,
        })
    }

    pub fn rooms(&self) -> &'a dyn Rooms {
        self.viewpoint.rooms()
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
            Standing::Joined | Standing::Outside => None,
        }
    }

    /// The state that *current* means to the user: that at which they left, for
    /// who did.
    pub fn state_id(&self) -> StateId {
        match self.standing {
            Standing::Left { state, .. } => state,
            Standing::Joined | Standing::Outside => self.head.state_id,
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
        Ok(self.rooms().state(self.room_id(), state)?)
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
            false => self.rooms().state_entry(self.room_id(), state, &key)?,
        };
        match event {
            None => Ok(None),
            Some(event) => Ok(self.events(&[event])?.pop()),
        }
    }

    /// Events by interned id. Says nothing about whether they may be seen.
    pub fn events(&self, events: &[EventSn]) -> Result<Vec<Arc<StoredEvent>>, ApiError> {
        Ok(self.rooms().events(self.room_id(), events)?)
    }

    /// An event that the user may see; none for any other.
    pub fn event(&self, event: &EventId) -> Result<Option<Arc<StoredEvent>>, ApiError> {
        let Some(found) = self.rooms().event(self.room_id(), event)? else {
            return Ok(None);
        };
        Ok(match self.may_see(&found)? {
            true => Some(found),
            false => None,
        })
    }

    /// Whether the user may see an event of the room.
    pub fn may_see(&self, event: &StoredEvent) -> Result<bool, ApiError> {
        Ok(self.viewpoint.may_see(event)?)
    }
}

/// What an outsider is told of a room, whether it exists or not.
pub const NOT_A_MEMBER: ApiError = ApiError::Forbidden("You are not a member of this room");
