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
                let members = self.lazy_members(known, &state, true);
                let wanted: Vec<EventSn> = state
                    .iter()
                    .filter(|(key, _)| !overrides.contains_key(*key))
                    .filter(|(key, _)| match &members {
                        Some(members) if &*key.kind == MEMBER => members.contains(&*key.state_key),
                        _ => true,
                    })
                    .map(|(_, event)| *event)
                    .collect();
                self.load(&wanted)?.into_iter().for_each(&mut add);
            }
            Some(since) => {
                let mut changes = self.history.changes(since, end)?;
                changes.retain(|key, _| !overrides.contains_key(key));
                self.load_changes(&changes)?.into_iter().for_each(&mut add);
                if self.needs_members(known) {
                    let state = self.history.state_at(end)?;
                    let members = self.lazy_members(known, &state, false).unwrap_or_default();
                    let wanted: Vec<EventSn> = members
                        .iter()
                        .map(|member| StateKey::new(MEMBER, member))
                        .filter(|key| !overrides.contains_key(key))
                        .filter_map(|key| state.get(&key).copied())
                        .collect();
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

    /// Whether lazy loading asks for anybody at all.
    fn needs_members(&self, known: &KnownMembers<'_>) -> bool {
        self.filter.lazy_load_members
            && self
                .relevant_members(false)
                .iter()
                .any(|member| self.is_due(known, member))
    }

    fn is_due(&self, known: &KnownMembers<'_>, member: &str) -> bool {
        self.filter.include_redundant_members || !known.contains(&self.history.room_id, member)
    }

    /// Members to be sent; none if all of them are, because nothing is lazy.
    fn lazy_members(
        &self,
        known: &KnownMembers<'_>,
        state: &StateMap,
        fresh: bool,
    ) -> Option<BTreeSet<&str>> {
        if !self.filter.lazy_load_members {
            return None;
        }
        let mut members = self.relevant_members(fresh);
        members.retain(|member| {
            // What was told before a stay says nothing about its beginning.
            (fresh || self.is_due(known, member))
                && state.contains_key(&StateKey::new(MEMBER, member))
        });
        Some(members)
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
