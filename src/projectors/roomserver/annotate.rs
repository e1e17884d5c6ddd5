//! The *output* record of a decision: the source record's routing fields and
//! parts, and what the fold worked out.

use log_format::codec;
use log_format::record::input::InputRoomEvent;
use log_format::record::output::{
    Decision, MembershipChange, Origin, OutputRoomEvent, OutputRoomPublished, Reason, StateChange,
    Timeline, Visibility,
};
use log_format::record::{Envelope, Kind, Part};

use crate::logs::log::NewRecord;
use crate::query::ids::{EventSn, Place, RoomSn, StateId};

/// What the fold worked out about an event.
#[derive(Clone, Debug)]
pub struct Annotation {
    pub decision: Decision,
    pub reason: Reason,
    pub room: RoomSn,
    pub event: EventSn,
    pub place: Place,
    pub state_before: StateId,
    pub state_after: StateId,
    pub current_state: StateId,
    pub state_delta: Vec<StateChange>,
    pub memberships: Vec<MembershipChange>,
    pub extremities: Vec<String>,
    pub visibility: Visibility,
    pub timeline: Timeline,
}

impl Annotation {
    /// A decision that leaves the room as it is.
    pub fn unplaced(
        decision: Decision,
        reason: Reason,
        room: RoomSn,
        event: EventSn,
    ) -> Annotation {
        Annotation {
            decision,
            reason,
            room,
            event,
            place: Place::START,
            state_before: StateId::EMPTY,
            state_after: StateId::EMPTY,
            current_state: StateId::EMPTY,
            state_delta: vec![],
            memberships: vec![],
            extremities: vec![],
            visibility: Visibility::Shared,
            timeline: Timeline::Outside,
        }
    }

    /// The record. Parts are copied with their salt, so that an erasure later
    /// finds the same digests in both copies; a refused event is not copied.
    pub fn record(self, source: &Envelope<'_>, body: InputRoomEvent, origin: Origin) -> NewRecord {
        let copies = !matches!(self.decision, Decision::Rejected | Decision::Duplicate);
        let annotated = codec::encode(&OutputRoomEvent {
            origin,
            decision: self.decision,
            reason: self.reason,
            room_sn: self.room.0,
            event_sn: self.event.0,
            place: self.place.to_bytes(),
            state_before: self.state_before.0,
            state_after: self.state_after.0,
            current_state: self.current_state.0,
            state_delta: self.state_delta,
            memberships: self.memberships,
            extremities: self.extremities,
            visibility: self.visibility,
            timeline: self.timeline,
            redacts: body.redacts,
            transaction: body.transaction,
        });
        made(source, Kind::OutputRoomEvent, &annotated, copies)
    }
}

/// The record about a room that entered or left the directory.
pub fn published(source: &Envelope<'_>, body: &OutputRoomPublished) -> NewRecord {
    made(
        source,
        Kind::OutputRoomPublished,
        &codec::encode(body),
        true,
    )
}

fn made(source: &Envelope<'_>, kind: Kind, body: &[u8], copies: bool) -> NewRecord {
    let mut envelope = source.to_new();
    envelope.body = body;
    if !copies {
        envelope.auth_extract = Part::Absent;
        envelope.skeleton = Part::Absent;
        envelope.body_part = Part::Absent;
    }
    NewRecord::new(kind, source.source, &envelope)
}
