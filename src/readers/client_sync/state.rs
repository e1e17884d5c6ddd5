//! The state section: what a client must apply before (or, as `state_after`,
//! instead of) the state events of the timeline to know current state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ruma::UserId;

use super::SyncError;
use super::history::{ChangedKeys, RoomHistory};
use super::lazy::KnownMembers;
use super::timeline::Timeline;
use crate::matrix::client_event::content_has_url;
use crate::matrix::filter::RoomEventFilter;
use crate::query::ids::EventSn;
use crate::query::rooms::{StateKey, StateMap, StoredEvent};

const MEMBER: &str = "m.room.member";

/// What the state section of one room is made from.
pub struct StateQuery<'a> {
    pub history: &'a RoomHistory<'a>,
    pub timeline: &'a Timeline,
    pub filter: &'a RoomEventFilter,
    pub user: &'a UserId,
    /// Offset as of which the client knows the room's state; none if it does not.
    pub known_at: Option<u64>,
    /// Offset as of which a client that is told all the state anew may hold
    /// some of it: it was in the room before, or asks for the full state.
    pub held_at: Option<u64>,
    /// Offset up to which the answer tells.
    pub to: u64,
    /// State at the end of the timeline instead of at its start.
    pub after: bool,
    /// Users whose membership the client needs to name the room.
    pub heroes: &'a [String],
}

impl StateQuery<'_> {
    /// The events of the section, in the order in which they came; with lazy
    /// loading it is noted in `known` what is sent.
    pub fn events(
        &self,
        known: Option<&mut KnownMembers<'_>>,
    ) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
        if !self.filter.matches_room(&self.history.room_id) {
            return Ok(Vec::new());
        }
        // A timeline that goes on behind the stretch is that of a room left.
        let start = self.timeline.start(self.to).min(self.to);
        let unseen = match self.after {
            true => BTreeMap::new(),
            false => self.unseen_changes(start)?,
        };
        let end = if self.after { self.to } else { start };
        let mut wanted: Vec<EventSn> = match self.known_at {
            None => self.whole_state(end, &unseen)?,
            Some(since) => self.news(since, end, &unseen, known.as_deref())?,
        };
        wanted.extend(unseen.into_values().flatten());
        // In the order in which they came.
        wanted.sort_unstable();
        wanted.dedup();
        let rooms = self.history.rooms;
        let mut events = rooms.events(&self.history.room_id, &wanted)?;
        events.retain(|event| {
            self.filter
                .matches(&event.sender, &event.kind, || content_has_url(&event.json))
        });
        if let Some(known) = known {
            let told = self.timeline.shown.iter().map(|shown| &shown.event);
            for event in told.chain(&events) {
                if let (MEMBER, Some(member)) = (&*event.kind, &event.state_key) {
                    known.insert(&self.history.room_id, member);
                }
            }
        }
        Ok(events)
    }

    /// The state at `end` for a client that does not know the room.
    fn whole_state(
        &self,
        end: u64,
        unseen: &BTreeMap<StateKey, Option<EventSn>>,
    ) -> Result<Vec<EventSn>, SyncError> {
        let state = self.history.state_at(self.to)?;
        let state = self.history.state_before(end, self.to, state)?;
        let mut wanted = Vec::new();
        let mut add = |key: &StateKey, event: EventSn| {
            if !unseen.contains_key(key) {
                wanted.push(event);
            }
        };
        if !self.filter.lazy_load_members {
            state.iter().for_each(|(key, event)| add(key, *event));
            return Ok(wanted);
        }
        // However many members there are, only those wanted are looked at.
        but_members(&state).for_each(|(key, event)| add(key, event));
        let relevant = self.relevant_members(true).into_iter();
        let mut members: ChangedKeys = relevant.map(|user| StateKey::new(MEMBER, user)).collect();
        members.extend(self.outdated_members(end)?);
        for key in &members {
            if let Some(event) = state.get(key) {
                add(key, *event);
            }
        }
        Ok(wanted)
    }

    /// What changed up to `end` for a client that knows the state at `since`,
    /// and members whom lazy loading has kept from it until now.
    fn news(
        &self,
        since: u64,
        end: u64,
        unseen: &BTreeMap<StateKey, Option<EventSn>>,
        known: Option<&KnownMembers<'_>>,
    ) -> Result<Vec<EventSn>, SyncError> {
        let mut keys = self.history.changed(since, end)?;
        if let Some(known) = known {
            keys.extend(self.due_members(known));
        }
        keys.retain(|key| !unseen.contains_key(key));
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let state = self.history.state_id_at(end)?;
        let held = self.history.holders(state, &keys)?;
        Ok(held.into_iter().flatten().collect())
    }

    /// Changes of current state within the timeline's stretch that the client
    /// does not learn from the timeline: state resolution made them, or the
    /// filter hides the event. A key that holds nothing any more cannot be told:
    /// the format of `/sync` has no word for it.
    fn unseen_changes(&self, start: u64) -> Result<BTreeMap<StateKey, Option<EventSn>>, SyncError> {
        let changed = self.history.changed(start, self.to)?;
        if changed.is_empty() {
            return Ok(BTreeMap::new());
        }
        let shown = self.timeline.shown.iter().map(|shown| shown.event.event);
        let shown: BTreeSet<EventSn> = shown.collect();
        let state = self.history.state_id_at(self.to)?;
        let held = self.history.holders(state, &changed)?;
        let held = changed.into_iter().zip(held);
        let unseen = held.filter(|(_, event)| event.is_none_or(|event| !shown.contains(&event)));
        Ok(unseen.collect())
    }

    /// Users whose membership the client wants for what it is shown: senders of
    /// the timeline (but for those whose membership comes first in it), heroes,
    /// and the user, when the room is new to the client.
    fn relevant_members(&self, fresh: bool) -> BTreeSet<&str> {
        let mut relevant = BTreeSet::new();
        let mut introduced = BTreeSet::new();
        for shown in &self.timeline.shown {
            let event = &shown.event;
            if let (MEMBER, Some(member), false) = (&*event.kind, &event.state_key, self.after) {
                introduced.insert(&**member);
            }
            if !introduced.contains(event.sender.as_str()) {
                relevant.insert(event.sender.as_str());
            }
        }
        relevant.extend(self.heroes.iter().map(String::as_str));
        if fresh {
            relevant.insert(self.user.as_str());
        }
        relevant
    }

    /// Members whom lazy loading tells a client that knows the room.
    fn due_members(&self, known: &KnownMembers<'_>) -> Vec<StateKey> {
        let is_due = |member: &str| {
            self.filter.include_redundant_members || !known.contains(&self.history.room_id, member)
        };
        let relevant = self.relevant_members(false).into_iter();
        relevant
            .filter(|member| is_due(member))
            .map(|member| StateKey::new(MEMBER, member))
            .collect()
    }

    /// Members who changed since a client was told of them in an earlier stay:
    /// lazy loading may leave members out, but none may stay wrong.
    fn outdated_members(&self, end: u64) -> Result<ChangedKeys, SyncError> {
        let Some(held_at) = self.held_at else {
            return Ok(ChangedKeys::new());
        };
        let mut changed = self.history.changed(held_at, end)?;
        changed.retain(|key| &*key.kind == MEMBER);
        Ok(changed)
    }
}

/// The entries of a state that are no members.
fn but_members(state: &StateMap) -> impl Iterator<Item = (&StateKey, EventSn)> {
    let first = StateKey::new(MEMBER, "");
    // Nothing sorts between a text and the same text with a NUL behind it.
    let behind = StateKey::new(&format!("{MEMBER}\0"), "");
    let all = state.range(..first).chain(state.range(behind..));
    all.map(|(key, event)| (&**key, *event))
}
