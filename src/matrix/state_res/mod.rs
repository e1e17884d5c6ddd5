//! State resolution: one state out of the states after several events.
//!
//! Version 1 (room version 1), 2 (2 to 11) and 2.1 (12), straight from the room
//! version specifications, over interned ids. The caller says only what the
//! states disagree on ([`Conflict`]) and keeps the room's [`AuthGraph`]; the
//! rest is asked of it ([`Room`]) when a step needs it. Pure and deterministic:
//! no I/O but through [`Room`], and the [`Work`] done is counted, not timed.

mod auth_checks;
mod auth_graph;
mod conflict;
mod events;
mod keys;
mod order;
mod reach;
#[cfg(test)]
mod tests;
mod v1;
mod v2;
mod work;

use std::sync::Arc;

use crate::matrix::canonical_json::CanonicalJsonObject;
use ruma::room_version_rules::StateResolutionVersion;

pub use auth_graph::{AuthGraph, AuthKind};
pub use conflict::Conflict;
pub use work::{OutOfWork, Work};

use super::auth_rules::CreateInfo;
use super::ids::{OwnedEventId, OwnedUserId};
use events::Events;

/// A state event as resolution reads it. It is of the room that is resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolutionEvent {
    pub event_id: OwnedEventId,
    pub sender: OwnedUserId,
    pub kind: Box<str>,
    pub state_key: Box<str>,
    /// As it was accepted, the auth extract included. Only that of the types in
    /// [`AuthKind`] is read; for others it may be empty.
    pub content: CanonicalJsonObject,
    pub origin_server_ts: u64,
    pub depth: u64,
    /// Interned, in the event's order.
    pub auth_events: Vec<u64>,
    pub prev_events_count: usize,
    /// Whether the room's create event is its first `prev_events` entry.
    pub first_prev_is_create: bool,
    /// What a redaction with a state key names: read in versions 1 and 2.
    pub redacts: Option<Box<str>>,
    /// Whether it was rejected when it was received.
    pub rejected: bool,
}

/// The room that a resolution reads. Each question is asked once for each id or
/// key, and answers must not change in between.
pub trait Room {
    type Error;

    /// An event; none if it is not known.
    fn event(&mut self, id: u64) -> Result<Option<Arc<ResolutionEvent>>, Self::Error>;

    /// The entry of a key that is not in the conflict, so that all states agree
    /// on it; none if none has one.
    fn agreed(&mut self, kind: &str, state_key: &str) -> Result<Option<u64>, Self::Error>;

    /// Calls `each` with every entry whose key is not in the conflict, in any
    /// order. Asked at most once, and only if the auth chains of the conflicted
    /// entries differ; never in room version 1.
    fn each_agreed(&mut self, each: &mut dyn FnMut(u64)) -> Result<(), Self::Error>;
}

/// The resolved state, as far as the states disagreed on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// For each key of the conflict, in its order: the event; none if the
    /// resolved state has none.
    pub entries: Vec<Option<u64>>,
    /// Events under keys that no state had, ascending: the auth difference can
    /// bring them in.
    pub added: Vec<u64>,
}

/// Why states cannot be resolved. None of these is an event's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError<E> {
    #[error("event could not be read: {0}")]
    Read(E),
    #[error("event {0} of a state is not known")]
    UnknownEvent(u64),
    #[error("more work than is allowed at once")]
    TooMuchWork,
}

impl<E> From<OutOfWork> for ResolveError<E> {
    fn from(_: OutOfWork) -> ResolveError<E> {
        ResolveError::TooMuchWork
    }
}

/// Resolves states of one room, whose version is that of `create`.
///
/// Source: room versions 1, 2 and 12, *State resolution*. A conflict in which
/// all states agree is answered without looking at any event. What `graph`
/// lacks is read from `room`, so that it may know too little, but nothing wrong.
/// The answer does not depend on the order of states, on how events are
/// numbered, or on which of the keys that agree are in `conflict`. The work
/// spent does not depend on the numbers either, but on how the conflict is told.
///
/// Errors: `TooMuchWork` leaves `work` at what was spent; nothing else changed.
pub fn resolve<R: Room>(
    create: &CreateInfo,
    conflict: &Conflict,
    graph: &AuthGraph,
    room: &mut R,
    work: &mut Work,
) -> Result<Resolved, ResolveError<R::Error>> {
    if conflict.is_agreement() {
        return Ok(Resolved {
            entries: conflict.iter().map(|entry| entry.first()).collect(),
            added: Vec::new(),
        });
    }
    work.check(work::least(create.version, conflict))?;
    let mut events = Events::new(create, graph, room, work);
    events.add_conflict(conflict)?;
    match create.version.rules().state_res {
        StateResolutionVersion::V1 => v1::resolve(&mut events, conflict),
        StateResolutionVersion::V2(rules) => v2::resolve(&mut events, &rules, conflict),
        // ruma's type is open; a version added there has no row in our table.
        _ => unreachable!("rules of room versions 1 to 12 name no other algorithm"),
    }
}
