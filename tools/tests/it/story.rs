//! A room told as *output* records, one decision at a time.

use std::path::Path;

use log_format::codec;
use log_format::partition::Topic;
use log_format::record::output::{
    Decision, Membership, MembershipChange, Origin, OutputRoomEvent, OutputRoomState, Reason,
    StateChange, StateChangeCause, Timeline, Visibility,
};
use log_format::record::{Kind, NewEnvelope, Part};
use log_format::{PartitionWriter, Pending, WriterConfig};
use serde_json::{Value, json};

use crate::support::{FIRST_TIME_US, SEGMENT_BYTES, pending, writer_of};

/// *Input* records from one decision to the next, so that the two kinds of
/// offset differ.
pub const SOURCES: u64 = 10;

/// An event, and what the room server made of it.
#[derive(Clone)]
pub struct Decided {
    pub id: &'static str,
    pub sender: &'static str,
    pub kind: &'static str,
    pub state_key: Option<&'static str>,
    pub content: Value,
    /// Fields of the content that a redaction keeps.
    pub kept: &'static [&'static str],
    pub redacts: Option<&'static str>,
    pub erased: bool,
    pub decision: Decision,
    /// *Input* offset that it is about; none: the one at which it was decided.
    pub about: Option<u64>,
    pub delta: Vec<StateChange>,
    pub memberships: Vec<MembershipChange>,
    pub extremities: Vec<String>,
}

/// A message that changes nothing.
pub fn message(id: &'static str, sender: &'static str) -> Decided {
    Decided {
        id,
        sender,
        kind: "m.room.message",
        state_key: None,
        content: json!({ "body": "secret words" }),
        kept: &[],
        redacts: None,
        erased: false,
        decision: Decision::Accepted,
        about: None,
        delta: vec![],
        memberships: vec![],
        extremities: vec![id.to_owned()],
    }
}

/// A state event that takes its key over from another event or from none.
pub fn state(
    id: &'static str,
    sender: &'static str,
    kind: &'static str,
    state_key: &'static str,
    content: Value,
    from: Option<&str>,
) -> Decided {
    Decided {
        kind,
        state_key: Some(state_key),
        content,
        delta: vec![change(
            kind,
            state_key,
            from,
            Some(id),
            StateChangeCause::Event,
        )],
        ..message(id, sender)
    }
}

/// A member event.
pub fn member(
    id: &'static str,
    sender: &'static str,
    user: &'static str,
    from: Option<(&str, Membership)>,
    to: Membership,
) -> Decided {
    Decided {
        kept: &["membership"],
        memberships: vec![MembershipChange {
            user_id: user.to_owned(),
            from: from.map(|(_, membership)| membership),
            to,
        }],
        ..state(
            id,
            sender,
            "m.room.member",
            user,
            json!({ "membership": to.as_str(), "displayname": "somebody" }),
            from.map(|(id, _)| id),
        )
    }
}

pub fn change(
    kind: &str,
    state_key: &str,
    from: Option<&str>,
    to: Option<&str>,
    cause: StateChangeCause,
) -> StateChange {
    StateChange {
        kind: kind.to_owned(),
        state_key: state_key.to_owned(),
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
        cause,
    }
}

/// Writes decisions about rooms into one partition of *output*.
pub struct Story {
    output: PartitionWriter,
    pub next: u64,
}

impl Story {
    pub fn begin(log: &Path) -> Story {
        Story::begin_in(log, 0, 1)
    }

    /// In one of several partitions.
    pub fn begin_in(log: &Path, number: u32, partitions: u32) -> Story {
        let config = WriterConfig::output(SEGMENT_BYTES);
        Story {
            output: writer_of(log, Topic::Output, config, number, partitions),
            next: 0,
        }
    }

    pub fn origin(&self, about: Option<u64>) -> Origin {
        Origin {
            src_offset: self.next * SOURCES,
            about: about.unwrap_or(self.next * SOURCES),
            src_sub: 0,
            src_last: true,
            projector_version: 1,
        }
    }

    pub fn append(&mut self, record: Pending) {
        self.output.append(&[record]).unwrap();
        self.next += 1;
    }

    /// Appends a decision; its time is a second behind the one before.
    pub fn decide(&mut self, room: &str, event: &Decided) {
        let record = self.record(room, event);
        self.append(record);
    }

    pub fn record(&self, room: &str, event: &Decided) -> Pending {
        let body = codec::encode(&OutputRoomEvent {
            origin: self.origin(event.about),
            decision: event.decision,
            reason: Reason::None,
            room_sn: 0,
            event_sn: self.next,
            place: [0x80; 16],
            state_before: 3,
            state_after: 4,
            current_state: 4,
            state_delta: event.delta.clone(),
            memberships: event.memberships.clone(),
            extremities: event.extremities.clone(),
            visibility: Visibility::Shared,
            timeline: Timeline::Live,
            redacts: event.redacts.map(str::to_owned),
            thread: None,
            transaction: None,
        });
        let mut redacted = event.content.clone();
        if let Value::Object(fields) = &mut redacted {
            fields.retain(|name, _| event.kept.contains(&name.as_str()));
        }
        let skeleton = json!({ "content": redacted, "type": event.kind }).to_string();
        let whole = json!({ "content": event.content, "type": event.kind }).to_string();
        let envelope = NewEnvelope {
            key: room,
            room_id: Some(room),
            event_id: Some(event.id),
            sender: Some(event.sender),
            event_type: Some(event.kind),
            state_key: event.state_key,
            room_version: Some("11"),
            body: &body,
            skeleton: Part::Present(skeleton.as_bytes()),
            body_part: match event.erased {
                true => Part::Erased([1; 32]),
                false => Part::Present(whole.as_bytes()),
            },
            salt: [7; 32],
            ..NewEnvelope::default()
        };
        pending(Kind::OutputRoomEvent, self.time_us(), &envelope)
    }

    /// Appends a part of a change that the next decision completes.
    pub fn part(
        &mut self,
        room: &str,
        about: u64,
        delta: Vec<StateChange>,
        memberships: Vec<MembershipChange>,
    ) {
        let mut origin = self.origin(Some(about));
        // Of the same fold as the decision that follows.
        origin.src_offset = (self.next + 1) * SOURCES;
        origin.src_last = false;
        let body = codec::encode(&OutputRoomState {
            origin,
            room_sn: 0,
            state_delta: delta,
            memberships,
        });
        let envelope = NewEnvelope {
            key: room,
            room_id: Some(room),
            body: &body,
            ..NewEnvelope::default()
        };
        let record = pending(Kind::OutputRoomState, self.time_us(), &envelope);
        self.append(record);
    }

    pub fn time_us(&self) -> u64 {
        FIRST_TIME_US + self.next * 1_000_000
    }

    pub fn end(mut self) {
        self.output.sync().unwrap();
    }
}
