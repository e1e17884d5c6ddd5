//! The answer of ruma's independent implementation (room versions 2 to 12).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ruma::MilliSecondsSinceUnixEpoch;
use ruma::UInt;
use ruma::events::{StateEventType, TimelineEventType};
use ruma::state_res::utils::event_id_set::EventIdSet;
use serde_json::value::RawValue;

use super::super::*;
use super::room::{Key, StateMap, TestRoom, key};
use crate::matrix::canonical_json::to_bytes;
use crate::matrix::ids::{EventId, OwnedRoomId};

/// An event as ruma wants to see it.
struct Theirs {
    event: Arc<ResolutionEvent>,
    room_id: OwnedRoomId,
    kind: TimelineEventType,
    content: Box<RawValue>,
    auth_events: Vec<OwnedEventId>,
    prev_events: Vec<OwnedEventId>,
    redacts: Option<OwnedEventId>,
}

impl ruma::state_res::Event for Theirs {
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
        self.redacts.as_ref()
    }
    fn rejected(&self) -> bool {
        self.event.rejected
    }
}

impl Theirs {
    fn new(room: &TestRoom, event: &Arc<ResolutionEvent>) -> Theirs {
        let content = String::from_utf8(to_bytes(&event.content)).expect("is UTF-8");
        let name = |at: usize| match (at, event.first_prev_is_create) {
            (0, true) => room.create.event_id.clone(),
            _ => OwnedEventId::try_from(format!("$before{at}:hs")).expect("valid"),
        };
        let cited = event.auth_events.iter();
        Theirs {
            room_id: room.create.room_id.clone(),
            kind: TimelineEventType::from(&*event.kind),
            content: RawValue::from_string(content).expect("is JSON"),
            auth_events: cited.map(|id| room.events[id].event_id.clone()).collect(),
            prev_events: (0..event.prev_events_count).map(name).collect(),
            redacts: event
                .redacts
                .as_deref()
                .map(|id| OwnedEventId::try_from(id).expect("valid")),
            event: event.clone(),
        }
    }
}

/// For each event all that can be reached from it along auth edges, itself
/// left out.
fn chains(room: &TestRoom) -> BTreeMap<u64, BTreeSet<u64>> {
    let mut chains: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    // Cited events have smaller numbers here.
    for (id, event) in &room.events {
        let mut chain = BTreeSet::new();
        for cited in &event.auth_events {
            chain.insert(*cited);
            chain.extend(&chains[cited]);
        }
        chains.insert(*id, chain);
    }
    chains
}

/// ruma's answer for the same states.
pub fn resolve(room: &TestRoom, states: &[&StateMap]) -> BTreeMap<Key, OwnedEventId> {
    let chains = chains(room);
    let id_of = |id: &u64| room.events[id].event_id.clone();
    let theirs: BTreeMap<OwnedEventId, Theirs> = room
        .events
        .values()
        .map(|event| (event.event_id.clone(), Theirs::new(room, event)))
        .collect();
    let map = |state: &&StateMap| -> ruma::state_res::StateMap<OwnedEventId> {
        let entry = |(key, id): (&Key, &u64)| {
            let kind = StateEventType::from(&*key.0);
            ((kind, key.1.to_string()), id_of(id))
        };
        state.iter().map(entry).collect()
    };
    let full_chain = |state: &&StateMap| -> EventIdSet<OwnedEventId> {
        let ids: BTreeSet<&u64> = state.values().flat_map(|id| &chains[id]).collect();
        ids.into_iter().map(id_of).collect()
    };
    let maps: Vec<_> = states.iter().map(map).collect();
    let full_chains = states.iter().map(full_chain).collect();
    // By the definition: between two conflicting events lies what one reaches
    // and what reaches the other.
    let subgraph = |conflicted: &ruma::state_res::StateMap<Vec<OwnedEventId>>| {
        let named: BTreeSet<&OwnedEventId> = conflicted.values().flatten().collect();
        let is_end = |id: &u64| named.contains(&room.events[id].event_id);
        let ends = room.events.keys().filter(|id| is_end(id));
        let reached: BTreeSet<u64> = ends.flat_map(|id| chains[id].iter().copied()).collect();
        let between = room
            .events
            .keys()
            .filter(|id| is_end(id) || (reached.contains(id) && chains[id].iter().any(is_end)));
        Some(between.map(id_of).collect())
    };
    let rules = room.version().rules();
    let resolved = ruma::state_res::resolve(
        &rules.authorization,
        rules.state_res.v2_rules().expect("not version 1"),
        &maps,
        full_chains,
        |id: &EventId| theirs.get(id),
        subgraph,
    )
    .expect("resolves");
    resolved
        .into_iter()
        .map(|((kind, state_key), id)| (key(&kind.to_string(), &state_key), id))
        .collect()
}
