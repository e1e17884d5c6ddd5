//! What the events of a state say, each from its own record.
//!
//! Redactions count whenever they came, also after the moment: what is redacted
//! today is nobody's to read.

use std::collections::{HashMap, HashSet};

use log_format::record::output::StateChangeCause;
use log_format::record::{Envelope, Kind, Part};
use serde_json::{Value, json};

use super::RoomLog;
use super::fold::{Entry, RoomFold, each_of_room};
use super::redactions::Redactions;
use crate::error::ToolError;

/// How much of an event is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Whole,
    /// By the event with this id.
    Redacted(String),
    /// A rewrite of the log removed it.
    Erased,
    /// Only the redacted form was ever accepted.
    Skeleton,
    /// The log holds no record of the event.
    Missing,
}

impl Body {
    /// One word, for people and scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Body::Whole => "whole",
            Body::Redacted(_) => "redacted",
            Body::Erased => "erased",
            Body::Skeleton => "redacted form only",
            Body::Missing => "missing",
        }
    }
}

/// An event of a state.
#[derive(Clone, Debug)]
pub struct Told {
    pub body: Body,
    /// As far as it may be shown.
    pub content: Value,
    pub sender: Option<String>,
    pub origin_ts_ms: u64,
    pub room_version: Option<String>,
}

/// Where the events of a state are, and which of them were redacted.
pub struct Contents<'a> {
    log: &'a RoomLog,
    /// *Output* offsets of the events that a resolution put into the state.
    resolved: HashMap<&'a str, u64>,
    redactions: Redactions,
}

impl<'a> Contents<'a> {
    /// Reads the room's records once more, to the end of the log.
    pub fn find(log: &'a RoomLog, fold: &'a RoomFold) -> Result<Contents<'a>, ToolError> {
        let wanted: HashSet<&str> = fold.state.values().map(|entry| &*entry.event_id).collect();
        let mut resolved: HashMap<&str, u64> = fold
            .state
            .values()
            .filter(|entry| entry.cause == StateChangeCause::Resolution)
            .map(|entry| (&*entry.event_id, u64::MAX))
            .collect();
        let mut redactions = Redactions::default();
        let from = fold.first.unwrap_or(log.end);
        each_of_room(
            &log.reader,
            &log.room_id,
            from,
            log.end,
            |found, envelope| {
                redactions.note(envelope, &wanted);
                let copy =
                    envelope.kind == Kind::OutputRoomEvent && envelope.skeleton != Part::Absent;
                if copy
                    && let Some(event_id) = envelope.event_id
                    && let Some(at) = resolved.get_mut(event_id)
                {
                    *at = found.offset;
                }
            },
        )?;
        Ok(Contents {
            log,
            resolved,
            redactions,
        })
    }

    /// The event that holds a key of the state.
    pub fn of(&self, entry: &Entry) -> Result<Told, ToolError> {
        let at = match entry.cause {
            StateChangeCause::Event => entry.since,
            StateChangeCause::Resolution => match self.resolved.get(&*entry.event_id) {
                Some(&at) if at != u64::MAX => at,
                _ => return Ok(missing()),
            },
        };
        let record = self.log.reader.read_one(at)?;
        match record.envelope() {
            Ok(envelope) if envelope.event_id == Some(&entry.event_id) => {
                Ok(self.told(&envelope, &entry.event_id))
            }
            _ => Ok(missing()),
        }
    }

    fn told(&self, envelope: &Envelope<'_>, event_id: &str) -> Told {
        let redacted_by = envelope
            .sender
            .and_then(|sender| self.redactions.of(event_id, sender));
        let body = match (redacted_by, &envelope.body_part, &envelope.skeleton) {
            (Some(by), ..) => Body::Redacted(by.to_owned()),
            (None, Part::Present(_), _) => Body::Whole,
            (None, Part::Erased(_), _) => Body::Erased,
            (None, Part::Absent, Part::Present(_)) => Body::Skeleton,
            (None, Part::Absent, _) => Body::Missing,
        };
        let shown = match body {
            Body::Whole => &envelope.body_part,
            _ => &envelope.skeleton,
        };
        Told {
            content: content(shown),
            body,
            sender: envelope.sender.map(str::to_owned),
            origin_ts_ms: envelope.origin_ts_ms,
            room_version: envelope.room_version.map(str::to_owned),
        }
    }
}

fn missing() -> Told {
    Told {
        body: Body::Missing,
        content: Value::Null,
        sender: None,
        origin_ts_ms: 0,
        room_version: None,
    }
}

fn content(part: &Part<'_>) -> Value {
    let event: Option<Value> = part
        .bytes()
        .and_then(|bytes| serde_json::from_slice(bytes).ok());
    let content = event.and_then(|mut event| event.get_mut("content").map(Value::take));
    content.unwrap_or_else(|| json!({}))
}
