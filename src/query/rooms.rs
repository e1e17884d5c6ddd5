//! Rooms: heads, events, states, timelines.

use std::sync::Arc;

use bytes::Bytes;
use log_format::record::output::{Decision, Membership, Visibility};
use ruma::{
    EventId, OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId,
    RoomVersionId, ServerName, UserId,
};

use super::ids::{EventSn, InputOffset, Place, RoomSn, StateId};
use super::outside::OutsideMembership;

/// One entry of a room's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateEntry {
    pub event: EventSn,
}

/// The key of a state entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey {
    pub kind: Box<str>,
    pub state_key: Box<str>,
}

impl StateKey {
    pub fn new(kind: &str, state_key: &str) -> StateKey {
        StateKey {
            kind: kind.into(),
            state_key: state_key.into(),
        }
    }
}

/// A whole room state: cheap to clone, shares structure with its neighbours.
pub type StateMap = imbl::OrdMap<Arc<StateKey>, EventSn>;

/// The end of a room's graph that new events build on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extremity {
    pub event_id: OwnedEventId,
    pub event: EventSn,
    pub depth: u64,
    /// The state after the event.
    pub state_after: StateId,
}

/// A room as of the last record folded into it: immutable, replaced as a whole.
#[derive(Clone, Debug)]
pub struct RoomHead {
    pub room_id: OwnedRoomId,
    pub room: RoomSn,
    pub version: RoomVersionId,
    /// Forward extremities, ordered by event id.
    pub extremities: Arc<[Extremity]>,
    /// Of the newest event of the timeline.
    pub last_place: Place,
    /// Current state and its id.
    pub state_id: StateId,
    pub state: StateMap,
    /// What the auth rules read of current state, parsed once.
    pub authority: Arc<super::authority::Authority>,
    pub visibility: Visibility,
    pub joined_members: u64,
    pub invited_members: u64,
    /// Servers that have users joined in the room, and how many of each.
    pub servers: imbl::OrdMap<OwnedServerName, u64>,
}

impl RoomHead {
    /// Whether a server is resident in the room: one of its users is joined.
    pub fn is_resident(&self, server: &ServerName) -> bool {
        self.servers.contains_key(server)
    }
}

/// An event as it may be served: already redacted where it was redacted.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    pub room: RoomSn,
    pub event: EventSn,
    pub event_id: OwnedEventId,
    pub sender: OwnedUserId,
    pub kind: Box<str>,
    pub state_key: Option<Box<str>>,
    pub origin_server_ts: u64,
    pub place: Place,
    pub decision: Decision,
    pub state_before: StateId,
    pub state_after: StateId,
    pub visibility: Visibility,
    /// The event this one replaced in state, if it is a state event.
    pub replaces: Option<EventSn>,
    /// The redaction that was applied.
    pub redacted_by: Option<EventSn>,
    /// Device and transaction id, to be echoed to that device alone.
    pub transaction: Option<(OwnedDeviceId, Box<str>)>,
    /// The PDU as JSON, in its redacted form if `redacted_by` is set.
    pub json: Bytes,
}

/// Which way a timeline is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards newer events.
    Forward,
    /// Towards older events.
    Backward,
}

/// A user's relation to a room, as of current state.
#[derive(Clone, Debug)]
pub struct RoomMembership {
    pub room_id: OwnedRoomId,
    pub membership: Membership,
    pub event: EventSn,
}

/// What a room's records wait for before they are decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomWaits {
    /// *Input* offset of the record at which the whole room began to wait for
    /// work that is done aside.
    pub parked_at: Option<InputOffset>,
    /// Events that wait for others that are missing.
    pub events: u64,
}

/// A room state was asked for that the projector does not hold.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("store could not be read: {0}")]
    Store(String),
    #[error("log could not be read: {0}")]
    Log(String),
}

/// The room server's tables, read-only. Every answer contains all records whose
/// outcome was published. A room or event that is not known is `None`, no error.
/// All methods may block on a disk read for some microseconds.
pub trait Rooms: Send + Sync {
    fn head(&self, room: &RoomId) -> Result<Option<Arc<RoomHead>>, QueryError>;
    fn head_by_sn(&self, partition: u32, room: RoomSn)
    -> Result<Option<Arc<RoomHead>>, QueryError>;
    /// An event that is part of the room's timeline or state; rejected, soft-failed
    /// and outlying ones are found too, see [`StoredEvent::decision`].
    fn event(&self, room: &RoomId, event: &EventId)
    -> Result<Option<Arc<StoredEvent>>, QueryError>;
    /// Events of one room by interned id, in the order asked; those not known are left out.
    fn events(
        &self,
        room: &RoomId,
        events: &[EventSn],
    ) -> Result<Vec<Arc<StoredEvent>>, QueryError>;
    /// The whole state. Cost grows with the room for states that are not current.
    fn state(&self, room: &RoomId, state: StateId) -> Result<StateMap, QueryError>;
    /// One entry of any state, without loading the rest.
    fn state_entry(
        &self,
        room: &RoomId,
        state: StateId,
        key: &StateKey,
    ) -> Result<Option<EventSn>, QueryError>;
    /// Timeline events (accepted only) strictly beyond `from` in the direction given.
    fn timeline(
        &self,
        room: &RoomId,
        from: Place,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(Place, EventSn)>, QueryError>;
    /// The event made by an earlier request with this idempotency key.
    fn transaction(
        &self,
        room: &RoomId,
        idempotency: &[u8; 16],
    ) -> Result<Option<OwnedEventId>, QueryError>;
    /// Rooms in whose state the user has a membership, by room id.
    fn rooms_of(&self, user: &UserId) -> Result<Vec<RoomMembership>, QueryError>;
    /// By the room's state, or seen from outside where that is newer.
    fn membership(&self, room: &RoomId, user: &UserId) -> Result<Option<Membership>, QueryError>;
    /// What the user is to a room that we are not in; none from when the room's own
    /// state says what they are. A row is there, and an end of it too.
    fn outside(
        &self,
        _room: &RoomId,
        _user: &UserId,
    ) -> Result<Option<OutsideMembership>, QueryError> {
        Ok(None)
    }
    /// All that the user is to rooms that we are not in, by room id.
    fn outside_of(&self, _user: &UserId) -> Result<Vec<OutsideMembership>, QueryError> {
        Ok(Vec::new())
    }
    /// What the room waits for; nothing, where rooms never wait.
    fn waits(&self, _room: &RoomId) -> Result<RoomWaits, QueryError> {
        Ok(RoomWaits::default())
    }
    /// Rooms in the published directory, by room id.
    fn published(&self) -> Result<Vec<OwnedRoomId>, QueryError>;
}
