//! The *output* record of a decision: the source record's routing fields and
//! parts, and what the fold worked out.

use log_format::codec;
use log_format::record::input::InputRoomEvent;
use log_format::record::output::{
    Decision, MembershipChange, Origin, OutputRoomEvent, OutputRoomGap, OutputRoomPublished,
    OutputRoomPurged, OutputRoomState, Reason, StateChange, Timeline, Visibility,
};
use log_format::record::{Envelope, Kind, Part};

use super::heads::Head;
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

/// What an event builds on and is not known.
#[derive(Clone, Debug)]
pub struct Gap {
    pub prev_events: Vec<String>,
    pub auth_events: Vec<String>,
}

/// A change of current state that takes more bytes than this is told in parts:
/// a record holds at most 1 MiB, an event's own parts among it.
const DELTA_BYTES_MAX: usize = 512 << 10;
/// Forward extremities that *output* names; a room under attack may have more.
const EXTREMITIES_MAX: usize = 1_000;

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

    /// A decision after which the room is as its head says.
    pub fn of(head: &Head, decision: Decision, reason: Reason, event: EventSn) -> Annotation {
        let extremities = head.shown.extremities.iter().take(EXTREMITIES_MAX);
        Annotation {
            current_state: head.node.id,
            extremities: extremities.map(|tip| tip.event_id.to_string()).collect(),
            ..Annotation::unplaced(decision, reason, head.shown.room, event)
        }
    }

    /// The records, but for the origin of each. Parts are copied with their
    /// salt, so that an erasure later finds the same digests in both copies; a
    /// refused event is not copied.
    pub fn records(
        mut self,
        source: &Envelope<'_>,
        body: InputRoomEvent,
        gap: Option<Gap>,
        mut origin: impl FnMut() -> Origin,
    ) -> Vec<NewRecord> {
        let mut records = vec![];
        let copies = !matches!(self.decision, Decision::Rejected | Decision::Duplicate);
        for (state_delta, memberships) in self.split_delta() {
            let part = codec::encode(&OutputRoomState {
                origin: origin(),
                room_sn: self.room.0,
                state_delta,
                memberships,
            });
            records.push(made(source, Kind::OutputRoomState, &part, false));
        }
        let annotated = codec::encode(&OutputRoomEvent {
            origin: origin(),
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
            thread: None,
            transaction: body.transaction,
        });
        records.push(made(source, Kind::OutputRoomEvent, &annotated, copies));
        if let Some(gap) = gap {
            records.push(self::gap(source, self.room, gap, origin()));
        }
        records
    }

    /// How many records [`Annotation::records`] makes.
    pub fn count(&self, gap: Option<&Gap>) -> u32 {
        let parts = self.parts().count() as u32;
        parts + u32::from(gap.is_some())
    }

    /// The ends of the parts in which the change is told, the last one included.
    fn parts(&self) -> impl Iterator<Item = usize> {
        let mut ends = vec![];
        let mut bytes = 0;
        for (index, change) in self.state_delta.iter().enumerate() {
            let of = |id: &Option<String>| id.as_ref().map_or(0, String::len);
            // Its texts, their lengths, and what it says of a membership.
            let takes = 2 * (change.kind.len() + change.state_key.len() + 64)
                + of(&change.from)
                + of(&change.to);
            if bytes + takes > DELTA_BYTES_MAX {
                ends.push(index);
                bytes = 0;
            }
            bytes += takes;
        }
        ends.push(self.state_delta.len());
        ends.into_iter()
    }

    /// Takes all parts but the last out of the delta. Memberships go with the
    /// parts in the same proportion, for their size.
    fn split_delta(&mut self) -> Vec<(Vec<StateChange>, Vec<MembershipChange>)> {
        let ends: Vec<usize> = self.parts().collect();
        let mut parts = vec![];
        let mut begin = 0;
        for end in ends.iter().take(ends.len() - 1) {
            let changes: Vec<_> = self.state_delta.drain(..end - begin).collect();
            let members = changes
                .iter()
                .filter(|change| change.kind == "m.room.member");
            let members = members.count().min(self.memberships.len());
            parts.push((changes, self.memberships.drain(..members).collect()));
            begin = *end;
        }
        parts
    }
}

/// The record about events of a given state that are not known.
pub fn gap(source: &Envelope<'_>, room: RoomSn, gap: Gap, origin: Origin) -> NewRecord {
    let body = codec::encode(&OutputRoomGap {
        origin,
        room_sn: room.0,
        prev_events: gap.prev_events,
        auth_events: gap.auth_events,
    });
    made(source, Kind::OutputRoomGap, &body, false)
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

/// The record about a room that is purged.
pub fn purged(source: &Envelope<'_>, body: &OutputRoomPurged) -> NewRecord {
    made(source, Kind::OutputRoomPurged, &codec::encode(body), false)
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
