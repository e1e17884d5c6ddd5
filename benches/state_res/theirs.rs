//! The room as ruma's resolution reads it, in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engram::matrix::RoomVersion;
use engram::matrix::ids::{EventId, OwnedEventId, OwnedRoomId};
use engram::matrix::state_res::ResolutionEvent;
use ruma::events::{StateEventType, TimelineEventType};
use ruma::state_res::utils::event_id_set::EventIdSet;
use ruma::{MilliSecondsSinceUnixEpoch, UInt};
use serde_json::value::RawValue;

use super::story::{Key, Story};

/// An event as ruma reads it.
struct TheirEvent {
    event: Arc<ResolutionEvent>,
    room_id: OwnedRoomId,
    kind: TimelineEventType,
    content: Box<RawValue>,
    auth_events: Vec<OwnedEventId>,
    prev_events: Vec<OwnedEventId>,
}

impl ruma::state_res::Event for TheirEvent {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event.event_id
    }
    fn room_id(&self) -> Option<&ruma::RoomId> {
        Some(&self.room_id)
    }
    fn sender(&self) -> &ruma::UserId {
        &self.event.sender
    }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::try_from(self.event.origin_server_ts).expect("small"))
    }
    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }
    fn content(&self) -> &RawValue {
        &self.content
    }
    fn state_key(&self) -> Option<&str> {
        Some(&self.event.state_key)
    }
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }
    fn redacts(&self) -> Option<&OwnedEventId> {
        None
    }
    fn rejected(&self) -> bool {
        false
    }
}

/// Everything that ruma asks for, made before its time runs.
pub struct Theirs {
    version: RoomVersion,
    events: HashMap<OwnedEventId, TheirEvent>,
    states: Vec<ruma::state_res::StateMap<OwnedEventId>>,
    chains: Vec<EventIdSet<OwnedEventId>>,
    subgraph: EventIdSet<OwnedEventId>,
}

impl Theirs {
    pub fn new(story: &Story, conflicted: &BTreeSet<u64>) -> Theirs {
        let name = |id: &u64| story.events[*id as usize].event_id.clone();
        let event = |event: &Arc<ResolutionEvent>| {
            let content = engram::matrix::canonical_json::to_bytes(&event.content);
            let content = String::from_utf8(content).expect("is UTF-8");
            let theirs = TheirEvent {
                room_id: story.create.room_id.clone(),
                kind: TimelineEventType::from(&*event.kind),
                content: RawValue::from_string(content).expect("is JSON"),
                auth_events: event.auth_events.iter().map(name).collect(),
                prev_events: match event.prev_events_count {
                    0 => vec![],
                    _ => vec![story.create.event_id.clone()],
                },
                event: event.clone(),
            };
            (event.event_id.clone(), theirs)
        };
        let mut chains = Vec::new();
        let mut states = Vec::new();
        for fork in 0..story.forks.len() {
            let keys = story.base.keys().chain(story.forks[fork].keys());
            let entries: BTreeMap<&Key, u64> = keys
                .filter_map(|key| Some((key, story.entry(fork, key)?)))
                .collect();
            chains.push(
                chain(story, entries.values().copied())
                    .iter()
                    .map(name)
                    .collect(),
            );
            let entry = |(key, id): (&&Key, &u64)| {
                ((StateEventType::from(key.0), key.1.to_string()), name(id))
            };
            states.push(entries.iter().map(entry).collect());
        }
        // An end, or both above and below one.
        let reached = chain(story, conflicted.iter().copied());
        let mut reaches: BTreeSet<u64> = conflicted.clone();
        for (id, event) in story.events.iter().enumerate() {
            if event
                .auth_events
                .iter()
                .any(|cited| reaches.contains(cited))
            {
                reaches.insert(id as u64);
            }
        }
        let between = reached.intersection(&reaches).chain(conflicted);
        Theirs {
            version: story.create.version,
            subgraph: between.map(name).collect(),
            events: story.events.iter().map(event).collect(),
            states,
            chains,
        }
    }

    /// Answers the time, too: what it consumes is copied before.
    pub fn resolve(&self) -> (ruma::state_res::StateMap<OwnedEventId>, Duration) {
        let rules = self.version.rules();
        let (chains, subgraph) = (self.chains.clone(), self.subgraph.clone());
        let begun = Instant::now();
        let resolved = ruma::state_res::resolve(
            &rules.authorization,
            rules.state_res.v2_rules().expect("not version 1"),
            &self.states,
            chains,
            |id: &EventId| self.events.get(id),
            |_| Some(subgraph.clone()),
        );
        (resolved.expect("resolves"), begun.elapsed())
    }
}

fn chain(story: &Story, from: impl Iterator<Item = u64>) -> BTreeSet<u64> {
    let mut todo: Vec<u64> = from
        .flat_map(|id| story.events[id as usize].auth_events.iter().copied())
        .collect();
    let mut chain = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if chain.insert(id) {
            todo.extend(&story.events[id as usize].auth_events);
        }
    }
    chain
}
