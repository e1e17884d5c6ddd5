//! States of forks become one: what they disagree on is found in the tree of
//! states, and resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log_format::codec;
use log_format::record::Envelope;
use log_format::record::input::InputRoomEvent;
use ruma::OwnedEventId;

use super::accepted_event::AcceptedEvent;
use super::auth_chain;
use super::divergence::{Divergence, chained};
use super::rows::HistoryEntry;
use super::scope::{Scope, Stop};
use super::state::{self, Change, StateNode};
use crate::matrix::auth_rules::CreateInfo;
use crate::matrix::state_res::{
    self, AuthKind, Conflict, ResolutionEvent, ResolveError, Resolved, Work,
};
use crate::query::ids::{EventSn, StateId};
use crate::storage::overlay::StoreError;

/// Units of [`Work`] in one step of effort: with events in memory a step is well
/// below its 5 µs. An event that is read takes a step of its own, since it may
/// come from the disk.
const WORK_PER_STEP: u64 = 64;
/// A resolved state that changes more keys than this of one of the states may be
/// nearer to the current one.
const SMALL_DELTA: usize = 8;

impl Scope<'_, '_> {
    /// The state that resolution makes of several.
    pub(super) fn merged(
        &mut self,
        create: &CreateInfo,
        mut states: Vec<StateId>,
    ) -> Result<StateNode, Stop> {
        states.sort();
        states.dedup();
        let mut nodes = Vec::with_capacity(states.len());
        for state in states {
            let missing = || StoreError::Row {
                table: "state_nodes",
                why: format!("state {} is missing", state.0),
            };
            nodes.push(self.states().node(state)?.ok_or_else(missing)?);
        }
        match nodes.as_slice() {
            [] => Ok(StateNode::EMPTY),
            [only] => Ok(*only),
            _ => self.resolve(create, &nodes),
        }
    }

    /// The changes that lead from one state to another.
    pub(super) fn difference(
        &mut self,
        from: &StateNode,
        to: &StateNode,
    ) -> Result<Vec<Change>, Stop> {
        let mut effort = self.effort.clone();
        let changes = self
            .states()
            .difference(from, to, |steps| effort.charge(steps))?;
        self.effort = effort;
        Ok(changes)
    }

    fn resolve(&mut self, create: &CreateInfo, nodes: &[StateNode]) -> Result<StateNode, Stop> {
        let mut effort = self.effort.clone();
        let divergence: Divergence = self.states().diverge(nodes, |steps| effort.charge(steps))?;
        self.effort = effort;
        // A key for each place in the conflict, and what the base has of it.
        let mut keys: Vec<(u64, Option<HistoryEntry>)> = vec![];
        let mut conflict = Conflict::new(nodes.len());
        for (key, entries) in &divergence.keys {
            let base = match entries.len() == nodes.len() {
                true => None,
                false => self.states().entry_of_key(&divergence.base, *key)?,
            };
            let differing = entries
                .iter()
                .map(|(index, entry)| (*index as u32, entry.event.map(|sn| sn.0)));
            conflict.push(base.and_then(|base| base.event).map(|sn| sn.0), differing);
            keys.push((*key, base));
        }
        let resolved = match conflict.is_agreement() {
            true => Resolved {
                entries: keys
                    .iter()
                    .map(|(key, base)| first_entry(&divergence, *key, *base))
                    .collect(),
                added: vec![],
            },
            false => self.run(create, nodes, &keys, &divergence, &conflict)?,
        };
        self.store_resolved(nodes, &divergence, &keys, &resolved)
    }

    fn run(
        &mut self,
        create: &CreateInfo,
        nodes: &[StateNode],
        keys: &[(u64, Option<HistoryEntry>)],
        divergence: &Divergence,
        conflict: &Conflict,
    ) -> Result<Resolved, Stop> {
        let graph = auth_chain::graph(self)?;
        self.effort.charge(graph.len() as u64 / 64)?;
        let mut work = Work::new(self.effort.left().saturating_mul(WORK_PER_STEP));
        let disputed: BTreeSet<u64> = keys.iter().map(|(key, _)| *key).collect();
        let mut room = ResolvedRoom {
            scope: self,
            create,
            base: divergence.base,
            disputed,
            of_one: nodes[0],
        };
        let resolved = state_res::resolve(create, conflict, &graph, &mut room, &mut work);
        self.effort.charge(work.spent().div_ceil(WORK_PER_STEP))?;
        match resolved {
            Ok(resolved) => Ok(resolved),
            Err(ResolveError::Read(stop)) => Err(stop),
            Err(ResolveError::TooMuchWork) => Err(self.effort.exhausted()),
            Err(ResolveError::UnknownEvent(event)) => {
                Err(super::events::EventError::NotAnEvent(event).into())
            }
        }
    }

    /// Stores the resolved state as what it changes of that one of the states
    /// which has the fewest branches below it, or of current state.
    fn store_resolved(
        &mut self,
        nodes: &[StateNode],
        divergence: &Divergence,
        keys: &[(u64, Option<HistoryEntry>)],
        resolved: &Resolved,
    ) -> Result<StateNode, Stop> {
        let mut parent = (u64::MAX, 0);
        for (index, node) in nodes.iter().enumerate() {
            let depth = self.states().depth(node)?;
            // Of those, the newest.
            if depth <= parent.0 {
                parent = (depth, index);
            }
        }
        let index = parent.1;
        let mut changes = vec![];
        for ((key, base), to) in keys.iter().zip(&resolved.entries) {
            let entries = divergence.keys.get(key);
            let own = entries.and_then(|entries| entries.get(&index)).copied();
            let from = own.or(*base).and_then(|entry| entry.event);
            let to = to.map(EventSn);
            if from != to {
                changes.push(self.change(*key, from, to)?);
            }
        }
        for added in &resolved.added {
            let sn = EventSn(*added);
            let named = self.shared.events.state_key(self.partition, sn)?;
            let (partition, room) = (self.partition, self.room);
            let named = (named.kind.as_ref(), named.state_key.as_ref());
            let key = state::intern_key(self.tables, partition, room, named, sn)?;
            changes.push(self.change(key, None, Some(sn))?);
        }
        let mut parent = nodes[index];
        if changes.len() > SMALL_DELTA && self.node.id != StateId::EMPTY {
            // With many forks the state differs much from that of each, and
            // little from the current one, which was resolved from most of them.
            let current = self.node;
            let between = self.difference(&current, &parent)?;
            let chained = chained(between, &changes);
            if chained.len() < changes.len() {
                (parent, changes) = (current, chained);
            }
        }
        let (partition, room) = (self.partition, self.room);
        let node = state::apply(
            self.tables,
            partition,
            room,
            &self.shared.digest_key,
            &parent,
            &changes,
            self.ids,
        )?;
        Ok(node)
    }

    fn change(&self, key: u64, from: Option<EventSn>, to: Option<EventSn>) -> Result<Change, Stop> {
        let membership = match to {
            Some(sn) => self.shared.events.membership(self.partition, sn)?,
            None => None,
        };
        Ok(Change {
            key,
            from,
            to,
            membership,
        })
    }
}

/// What the first state has of a key.
fn first_entry(divergence: &Divergence, key: u64, base: Option<HistoryEntry>) -> Option<u64> {
    let entries = divergence.keys.get(&key);
    let own = entries.and_then(|entries| entries.get(&0)).copied();
    own.or(base).and_then(|entry| entry.event).map(|sn| sn.0)
}

/// The room as a resolution reads it.
struct ResolvedRoom<'r, 's, 't> {
    scope: &'r mut Scope<'s, 't>,
    create: &'r CreateInfo,
    base: StateNode,
    /// Interned keys of the conflict.
    disputed: BTreeSet<u64>,
    /// One of the states.
    of_one: StateNode,
}

impl state_res::Room for ResolvedRoom<'_, '_, '_> {
    type Error = Stop;

    fn event(&mut self, id: u64) -> Result<Option<Arc<ResolutionEvent>>, Stop> {
        self.scope.effort.charge(1)?;
        let at = (self.scope.partition, EventSn(id));
        if let Some(known) = self.scope.graphs.event(at) {
            return Ok(Some(known));
        }
        let event = Arc::new(read_event(self.scope, self.create, EventSn(id))?);
        self.scope.graphs.keep_event(at, event.clone());
        Ok(Some(event))
    }

    fn agreed(&mut self, kind: &str, state_key: &str) -> Result<Option<u64>, Stop> {
        let states = self.scope.states();
        let Some(key) = states.find_key(kind, state_key)? else {
            return Ok(None);
        };
        // A key of the conflict that is asked for is one that no state has; the
        // base, where they come from, may still have it.
        if self.disputed.contains(&key) {
            return Ok(None);
        }
        let entry = states.entry_of_key(&self.base, key)?;
        Ok(entry.and_then(|entry| entry.event).map(|sn| sn.0))
    }

    fn each_agreed(&mut self, each: &mut dyn FnMut(u64)) -> Result<(), Stop> {
        // Current state is in memory; what of it is not agreed is skipped, and
        // what the states agree on otherwise is told from one of them.
        let of_one = self.of_one;
        let current = self.scope.node;
        let changes = self.scope.difference(&current, &of_one)?;
        // Entries are told apart by their events: keys are long to compare, and
        // there are as many as the room has members.
        let mut skipped: BTreeSet<EventSn> = BTreeSet::new();
        for key in &self.disputed {
            let key = self.scope.state_key(*key)?;
            skipped.extend(self.scope.state.get(&key));
        }
        for change in &changes {
            if self.disputed.contains(&change.key) {
                continue;
            }
            skipped.extend(change.from);
            if let Some(sn) = change.to {
                each(sn.0);
            }
        }
        for sn in self.scope.state.values() {
            if !skipped.contains(sn) {
                each(sn.0);
            }
        }
        Ok(())
    }
}

/// An event as resolution reads it: content only of the types that authorise.
fn read_event(
    scope: &mut Scope<'_, '_>,
    create: &CreateInfo,
    sn: EventSn,
) -> Result<ResolutionEvent, Stop> {
    let auth_events = auth_chain::auth_events(scope, sn)?;
    let create_id = create.event_id.as_str();
    scope.read(sn, |envelope| {
        let body: InputRoomEvent = codec::decode(envelope.body).ok()?;
        let kind = envelope.event_type?;
        let first_prev = body.prev_events.first().map(String::as_str);
        Some(ResolutionEvent {
            event_id: OwnedEventId::try_from(envelope.event_id?).ok()?,
            sender: ruma::OwnedUserId::try_from(envelope.sender?).ok()?,
            kind: kind.into(),
            state_key: envelope.state_key?.into(),
            content: content(envelope)?,
            origin_server_ts: envelope.origin_ts_ms,
            depth: body.depth,
            auth_events: auth_events.iter().map(|sn| sn.0).collect(),
            prev_events_count: body.prev_events.len(),
            first_prev_is_create: first_prev == Some(create_id),
            redacts: body.redacts.as_deref().map(Into::into),
            rejected: false,
        })
    })
}

fn content(envelope: &Envelope<'_>) -> Option<crate::matrix::canonical_json::CanonicalJsonObject> {
    match AuthKind::of(envelope.event_type?, envelope.state_key?) {
        AuthKind::Other => Some(BTreeMap::new()),
        _ => Some(AcceptedEvent::read(envelope)?.content),
    }
}
