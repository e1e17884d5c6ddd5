//! The state section: what a client must apply before (or, as `state_after`,
//! instead of) the state events of the timeline to know current state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ruma::UserId;

use super::SyncError;
use super::history::{Changes, RoomHistory};
use super::lazy::KnownMembers;
use super::timeline::Timeline;
use crate::matrix::client_event::content_has_url;
use crate::matrix::filter::RoomEventFilter;
use crate::query::ids::EventSn;
use crate::query::rooms::{StateKey, StoredEvent};

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
    /// The events of the section, in the order in which they came, and with
    /// lazy loading notes in `known` what is sent.
    pub fn events(&self, known: &mut KnownMembers<'_>) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
        if !self.filter.matches_room(&self.history.room_id) {
            return Ok(Vec::new());
        }
        // A timeline that goes on behind the stretch is that of a room left.
        let start = self.timeline.start(self.to).min(self.to);
        let end = if self.after { self.to } else { start };
        let mut found: BTreeMap<EventSn, Arc<StoredEvent>> = BTreeMap::new();
        let mut add = |event: Arc<StoredEvent>| {
            if self
                .filter
                .matches(&event.sender, &event.kind, || content_has_url(&event.json))
            {
                found.insert(event.event, event);
            }
        };
        let overrides = match self.after {
            true => BTreeMap::new(),
            false => self.unseen_changes(start)?,
        };
        match self.known_at {
            None => {
                let state = self.history.state_at(end)?;
                let relevant = self.relevant_members(true);
                let outdated = self.outdated_members(end)?;
                let is_wanted = |key: &StateKey| {
                    !self.filter.lazy_load_members
                        || &*key.kind != MEMBER
                        || relevant.contains(&*key.state_key)
                        || outdated.contains_key(key)
                };
                let wanted: Vec<EventSn> = state
                    .iter()
                    .filter(|(key, _)| !overrides.contains_key(*key) && is_wanted(key))
                    .map(|(_, event)| *event)
                    .collect();
                self.load(&wanted)?.into_iter().for_each(&mut add);
            }
            Some(since) => {
                let mut changes = self.history.changes(since, end)?;
                changes.retain(|key, _| !overrides.contains_key(key));
                self.load_changes(&changes)?.into_iter().for_each(&mut add);
                let due = self.due_members(known);
                if !due.is_empty() {
                    let state = self.history.state_id_at(end)?;
                    let mut wanted = Vec::with_capacity(due.len());
                    for key in due.iter().filter(|key| !overrides.contains_key(key)) {
                        let (rooms, room) = (self.history.rooms, &self.history.room_id);
                        wanted.extend(rooms.state_entry(room, state, key)?);
                    }
                    self.load(&wanted)?.into_iter().for_each(&mut add);
                }
            }
        }
        self.load_changes(&overrides)?
            .into_iter()
            .for_each(&mut add);
        let events: Vec<_> = found.into_values().collect();
        if self.filter.lazy_load_members {
            let told = self.timeline.shown.iter().map(|shown| &shown.event);
            for event in told.chain(&events) {
                if let (MEMBER, Some(member)) = (&*event.kind, &event.state_key) {
                    known.insert(&self.history.room_id, member);
                }
            }
        }
        Ok(events)
    }

    /// Changes of current state within the timeline's stretch that the client
    /// does not learn from the timeline: state resolution made them, or the
    /// filter hides the event.
    fn unseen_changes(&self, start: u64) -> Result<Changes, SyncError> {
        let shown: BTreeSet<&str> = self
            .timeline
            .shown
            .iter()
            .map(|shown| shown.event.event_id.as_str())
            .collect();
        let mut changes = self.history.changes(start, self.to)?;
        changes.retain(|_, to| to.as_deref().is_none_or(|to| !shown.contains(to)));
        Ok(changes)
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
        if !self.filter.lazy_load_members {
            return Vec::new();
        }
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
    fn outdated_members(&self, end: u64) -> Result<Changes, SyncError> {
        let Some(held_at) = self.held_at.filter(|_| self.filter.lazy_load_members) else {
            return Ok(Changes::new());
        };
        let mut changes = self.history.changes(held_at, end)?;
        changes.retain(|key, _| &*key.kind == MEMBER);
        Ok(changes)
    }

    fn load(&self, events: &[EventSn]) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
        Ok(self.history.rooms.events(&self.history.room_id, events)?)
    }

    /// The events that hold the changed keys now. A key that holds nothing any
    /// more cannot be told: the format of `/sync` has no word for it.
    fn load_changes(&self, changes: &Changes) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
        let mut found = Vec::with_capacity(changes.len());
        for to in changes.values().flatten() {
            let Ok(event_id) = <&ruma::EventId>::try_from(to.as_str()) else {
                continue;
            };
            found.extend(self.history.rooms.event(&self.history.room_id, event_id)?);
        }
        Ok(found)
    }
}
