//! A window of which a test knows a part.

use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, UserId};

use super::ids::{EventSn, Place, RoomSn, StateId};
use super::rooms::{
    Direction, QueryError, RoomHead, RoomMembership, Rooms, StateKey, StateMap, StoredEvent,
};

type Found<T> = Result<Option<T>, QueryError>;

/// [`Rooms`] of which only what a test needs is answered: the rest is not known
/// or empty.
pub trait FewRooms: Send + Sync {
    fn head(&self, _: &RoomId) -> Found<Arc<RoomHead>> {
        Ok(None)
    }
    fn head_by_sn(&self, _: u32, _: RoomSn) -> Found<Arc<RoomHead>> {
        Ok(None)
    }
    fn event(&self, _: &RoomId, _: &EventId) -> Found<Arc<StoredEvent>> {
        Ok(None)
    }
    fn events(&self, _: &RoomId, _: &[EventSn]) -> Result<Vec<Arc<StoredEvent>>, QueryError> {
        Ok(Vec::new())
    }
    fn state(&self, _: &RoomId, _: StateId) -> Result<StateMap, QueryError> {
        Ok(StateMap::new())
    }
    fn state_entry(&self, _: &RoomId, _: StateId, _: &StateKey) -> Found<EventSn> {
        Ok(None)
    }
    fn timeline(
        &self,
        _: &RoomId,
        _: Place,
        _: Direction,
        _: usize,
    ) -> Result<Vec<(Place, EventSn)>, QueryError> {
        Ok(Vec::new())
    }
    fn transaction(&self, _: &RoomId, _: &[u8; 16]) -> Found<OwnedEventId> {
        Ok(None)
    }
    fn rooms_of(&self, _: &UserId) -> Result<Vec<RoomMembership>, QueryError> {
        Ok(Vec::new())
    }
    fn membership(&self, _: &RoomId, _: &UserId) -> Found<Membership> {
        Ok(None)
    }
}

impl<T: FewRooms> Rooms for T {
    fn head(&self, room: &RoomId) -> Found<Arc<RoomHead>> {
        FewRooms::head(self, room)
    }
    fn head_by_sn(&self, partition: u32, room: RoomSn) -> Found<Arc<RoomHead>> {
        FewRooms::head_by_sn(self, partition, room)
    }
    fn event(&self, room: &RoomId, event: &EventId) -> Found<Arc<StoredEvent>> {
        FewRooms::event(self, room, event)
    }
    fn events(
        &self,
        room: &RoomId,
        events: &[EventSn],
    ) -> Result<Vec<Arc<StoredEvent>>, QueryError> {
        FewRooms::events(self, room, events)
    }
    fn state(&self, room: &RoomId, state: StateId) -> Result<StateMap, QueryError> {
        FewRooms::state(self, room, state)
    }
    fn state_entry(&self, room: &RoomId, state: StateId, key: &StateKey) -> Found<EventSn> {
        FewRooms::state_entry(self, room, state, key)
    }
    fn timeline(
        &self,
        room: &RoomId,
        from: Place,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(Place, EventSn)>, QueryError> {
        FewRooms::timeline(self, room, from, direction, limit)
    }
    fn transaction(&self, room: &RoomId, idempotency: &[u8; 16]) -> Found<OwnedEventId> {
        FewRooms::transaction(self, room, idempotency)
    }
    fn rooms_of(&self, user: &UserId) -> Result<Vec<RoomMembership>, QueryError> {
        FewRooms::rooms_of(self, user)
    }
    fn membership(&self, room: &RoomId, user: &UserId) -> Found<Membership> {
        FewRooms::membership(self, room, user)
    }
    fn published(&self) -> Result<Vec<OwnedRoomId>, QueryError> {
        Ok(Vec::new())
    }
}
