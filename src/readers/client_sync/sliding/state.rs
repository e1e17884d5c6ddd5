//! The state of a room that an answer tells: what the client asked for and does
//! not have, as it is at the end of the answer (MSC4186, `required_state`).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::SyncError;
use super::super::history::{ChangedKeys, RoomHistory};
use super::super::timeline::Timeline;
use super::required_state::Wanted;
use crate::query::ids::{EventSn, StateId};
use crate::query::rooms::{StateKey, StoredEvent};

const MEMBER: &str = "m.room.member";
/// Members who changed in a gap of the timeline and are told nevertheless; of
/// more the client is told as it needs them (MSC4186, *Lazy loaded memberships*).
const MEMBERS_IN_GAP_MAX: usize = 100;

/// What the client had of the room's state before.
pub struct Before<'a> {
    /// Offset as of which it is up to date with `wanted`.
    pub to: u64,
    pub wanted: &'a Wanted,
    /// See [`super::connection::RoomSent::narrowed_at`].
    pub narrowed_at: Option<u64>,
}

/// What is asked of a room's state.
pub struct RequiredStateQuery<'a> {
    pub history: &'a RoomHistory<'a>,
    pub wanted: &'a Wanted,
    /// None: the client has nothing.
    pub before: Option<Before<'a>>,
    /// Offset up to which the answer tells.
    pub to: u64,
    pub timeline: &'a Timeline,
}

/// State to be told.
#[derive(Default)]
pub struct RequiredState {
    /// In the order in which they came.
    pub events: Vec<Arc<StoredEvent>>,
    /// Entries that hold nothing any more.
    pub removed: Vec<StateKey>,
    /// Entries that changed since the client was told, wanted or not.
    pub changed: ChangedKeys,
}

impl RequiredStateQuery<'_> {
    /// Finds it. `is_known` says of which members lazy loading told already.
    pub fn load(&self, is_known: impl Fn(&str) -> bool) -> Result<RequiredState, SyncError> {
        let state = self.history.state_id_at(self.to)?;
        let mut told = RequiredState::default();
        let mut wanted: BTreeSet<EventSn> = BTreeSet::new();
        match &self.before {
            None => wanted.extend(self.matching(state, None)?),
            Some(before) => {
                told.changed = self.history.changed(before.to, self.to)?;
                let all_members = self.tells_members(&told.changed);
                let is_wanted = |key: &&StateKey| {
                    self.wanted.matches(&key.kind, &key.state_key)
                        || (all_members && &*key.kind == MEMBER)
                };
                let keys: ChangedKeys = told.changed.iter().filter(is_wanted).cloned().collect();
                let held = self.history.holders(state, &keys)?;
                for (key, event) in keys.into_iter().zip(held) {
                    match event {
                        Some(event) => drop(wanted.insert(event)),
                        None => told.removed.push(key),
                    }
                }
                if before.wanted != self.wanted {
                    wanted.extend(self.matching(state, Some(before.wanted))?);
                    let removed = self.removed_unseen(state, before)?;
                    told.removed.extend(removed);
                }
            }
        }
        if self.wanted.lazy_members() {
            for member in self.members_shown() {
                if self.wanted.matches(MEMBER, member) || is_known(member) {
                    continue;
                }
                wanted.extend(self.entry(state, &StateKey::new(MEMBER, member))?);
            }
        }
        let wanted: Vec<EventSn> = wanted.into_iter().collect();
        told.events = self.history.rooms.events(&self.history.room_id, &wanted)?;
        Ok(told)
    }

    /// Entries that the client may hold from when it wanted them before, and that
    /// were removed while it did not.
    fn removed_unseen(
        &self,
        state: StateId,
        before: &Before<'_>,
    ) -> Result<Vec<StateKey>, SyncError> {
        let Some(from) = before.narrowed_at.filter(|from| *from < before.to) else {
            return Ok(Vec::new());
        };
        let mut changed = self.history.changed(from, before.to)?;
        changed.retain(|key| {
            self.wanted.matches(&key.kind, &key.state_key)
                && !before.wanted.matches(&key.kind, &key.state_key)
        });
        let held = self.history.holders(state, &changed)?;
        let entries = changed.into_iter().zip(held);
        let removed = entries.filter_map(|(key, event)| event.is_none().then_some(key));
        Ok(removed.collect())
    }

    /// Whether all members who changed are told, as lazy loading asks.
    fn tells_members(&self, changed: &ChangedKeys) -> bool {
        let members = changed.iter().filter(|key| &*key.kind == MEMBER);
        self.wanted.lazy_members()
            && (!self.timeline.limited || members.count() <= MEMBERS_IN_GAP_MAX)
    }

    /// Entries of a state that are wanted now and were not before.
    fn matching(&self, state: StateId, before: Option<&Wanted>) -> Result<Vec<EventSn>, SyncError> {
        let is_new =
            |key: &StateKey| before.is_none_or(|before| !before.matches(&key.kind, &key.state_key));
        let is_matching =
            |key: &StateKey| self.wanted.matches(&key.kind, &key.state_key) && is_new(key);
        let Some(places) = self.wanted.places() else {
            let whole = self.history.state_at(self.to)?;
            let matching = whole.iter().filter(|(key, _)| is_matching(key));
            return Ok(matching.map(|(_, event)| *event).collect());
        };
        let mut found = Vec::new();
        for key in places.keys.iter().filter(|key| is_matching(key)) {
            found.extend(self.entry(state, key)?);
        }
        if places.kinds.is_empty() {
            return Ok(found);
        }
        // However many members there are, only types that are wanted are looked at.
        let whole = self.history.state_at(self.to)?;
        for kind in places.kinds {
            let entries = whole.range(StateKey::new(kind, "")..);
            let entries = entries.take_while(|(key, _)| &*key.kind == kind);
            let matching = entries.filter(|(key, _)| is_matching(key));
            found.extend(matching.map(|(_, event)| *event));
        }
        Ok(found)
    }

    /// Users whom the timeline shows: senders, and whom membership events are about.
    fn members_shown(&self) -> BTreeSet<&str> {
        let mut members = BTreeSet::new();
        for event in self.timeline.events() {
            members.insert(event.sender.as_str());
            if let (MEMBER, Some(member)) = (&*event.kind, &event.state_key) {
                members.insert(member);
            }
        }
        members
    }

    fn entry(&self, state: StateId, key: &StateKey) -> Result<Option<EventSn>, SyncError> {
        let (rooms, room) = (self.history.rooms, &self.history.room_id);
        Ok(rooms.state_entry(room, state, key)?)
    }
}
