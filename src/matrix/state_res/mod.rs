//! State resolution: one state out of the states after several events.
//!
//! Version 1 (room version 1), 2 (2 to 11) and 2.1 (12), straight from the room
//! version specifications. Generic over how the caller names events, so that
//! interned ids do. Pure and deterministic: ordered maps, no I/O but through
//! the accessor, and a bound on the events looked at.

mod auth_state;
mod events;
mod graph;
mod sha1;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use std::collections::BTreeMap;
use std::sync::Arc;

use ruma::CanonicalJsonObject;
use ruma::room_version_rules::StateResolutionVersion;

use super::auth_rules::CreateInfo;
use super::ids::{OwnedEventId, OwnedRoomId, OwnedUserId};
use super::room_version::RoomVersion;
use events::Events;

/// Type and state key of a state entry.
pub type Key = (Box<str>, Box<str>);
/// A room state: which event holds each key.
pub type StateMap<Id> = BTreeMap<Key, Id>;

/// Most states that are resolved at once: an event has at most 20 `prev_events`.
const STATES_MAX: usize = 64;

/// A state event as resolution reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolutionEvent<Id> {
    pub event_id: OwnedEventId,
    pub room_id: OwnedRoomId,
    pub sender: OwnedUserId,
    pub kind: Box<str>,
    pub state_key: Box<str>,
    /// As it was accepted: the auth extract included.
    pub content: CanonicalJsonObject,
    pub origin_server_ts: u64,
    pub depth: u64,
    pub auth_events: Vec<Id>,
    pub prev_events_count: usize,
    pub first_prev_event: Option<OwnedEventId>,
    /// Whether it was rejected when it was received.
    pub rejected: bool,
}

/// Why states cannot be resolved. None of these is an event's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError<E> {
    #[error("event could not be read: {0}")]
    Read(E),
    #[error("an event of a state is not known")]
    UnknownEvent,
    #[error("more than {0} events to look at")]
    TooManyEvents(usize),
    #[error("{0} states to resolve")]
    TooManyStates(usize),
}

/// Resolves states of one room.
///
/// `fetch` answers an event by id, none if it is not known (an auth event of an
/// old rejected one, say); each is asked for once. At most `events_max` events
/// are looked at, counted and not timed, so that every replay gives up alike.
/// States that agree are answered without looking at any.
pub fn resolve<Id: Copy + Ord, E>(
    version: RoomVersion,
    create: &CreateInfo,
    states: &[StateMap<Id>],
    events_max: usize,
    fetch: impl FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
) -> Result<StateMap<Id>, ResolveError<E>> {
    let [first, rest @ ..] = states else {
        return Ok(StateMap::new());
    };
    if rest.iter().all(|state| state == first) {
        return Ok(first.clone());
    }
    if states.len() > STATES_MAX {
        return Err(ResolveError::TooManyStates(states.len()));
    }
    let mut events = Events::new(version, create, events_max, fetch);
    match version.rules().state_res {
        StateResolutionVersion::V1 => v1::resolve(&mut events, states),
        StateResolutionVersion::V2(rules) => v2::resolve(&mut events, &rules, states),
        // ruma's type is open; a version added there has no row in our table.
        _ => unreachable!("rules of room versions 1 to 12 name no other algorithm"),
    }
}
