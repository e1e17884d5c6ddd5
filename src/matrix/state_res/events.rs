//! The events that one resolution has looked at, with what was parsed of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::auth_rules::{CreateInfo, Level, PowerLevels, PowerLevelsView};
use super::super::room_version::RoomVersion;
use super::{ResolutionEvent, ResolveError};

type Fetched<Id> = Option<Arc<ResolutionEvent<Id>>>;

/// Fetches each event once and counts them.
pub(super) struct Events<'a, Id, F> {
    pub version: RoomVersion,
    pub create: &'a CreateInfo,
    events_max: usize,
    fetch: F,
    fetched: BTreeMap<Id, Fetched<Id>>,
    levels: BTreeMap<Id, Option<Arc<PowerLevels>>>,
}

impl<'a, Id, E, F> Events<'a, Id, F>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Fetched<Id>, E>,
{
    pub(super) fn new(
        version: RoomVersion,
        create: &'a CreateInfo,
        events_max: usize,
        fetch: F,
    ) -> Self {
        Events {
            version,
            create,
            events_max,
            fetch,
            fetched: BTreeMap::new(),
            levels: BTreeMap::new(),
        }
    }

    /// An event that may be unknown.
    pub(super) fn find(&mut self, id: Id) -> Result<Fetched<Id>, ResolveError<E>> {
        if let Some(known) = self.fetched.get(&id) {
            return Ok(known.clone());
        }
        if self.fetched.len() >= self.events_max {
            return Err(ResolveError::TooManyEvents(self.events_max));
        }
        let event = (self.fetch)(id).map_err(ResolveError::Read)?;
        self.fetched.insert(id, event.clone());
        Ok(event)
    }

    /// An event that must be known.
    pub(super) fn get(&mut self, id: Id) -> Result<Arc<ResolutionEvent<Id>>, ResolveError<E>> {
        self.find(id)?.ok_or(ResolveError::UnknownEvent)
    }

    /// The parsed power levels of an event; none if it holds none.
    pub(super) fn levels(&mut self, id: Id) -> Result<Option<Arc<PowerLevels>>, ResolveError<E>> {
        if let Some(known) = self.levels.get(&id) {
            return Ok(known.clone());
        }
        let event = self.get(id)?;
        let parsed = PowerLevels::parse(self.version, &event.content)
            .ok()
            .map(Arc::new);
        self.levels.insert(id, parsed.clone());
        Ok(parsed)
    }

    /// The power levels event among an event's auth events.
    pub(super) fn power_levels_cited_by(
        &mut self,
        event: &ResolutionEvent<Id>,
    ) -> Result<Option<Id>, ResolveError<E>> {
        for &id in &event.auth_events {
            let cited = self.find(id)?;
            if cited.is_some_and(|cited| {
                &*cited.kind == "m.room.power_levels" && cited.state_key.is_empty()
            }) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// The level of an event's sender, by the event's own auth events.
    pub(super) fn sender_level(
        &mut self,
        event: &ResolutionEvent<Id>,
    ) -> Result<Level, ResolveError<E>> {
        let levels = match self.power_levels_cited_by(event)? {
            Some(id) => self.levels(id)?,
            None => None,
        };
        Ok(PowerLevelsView::new(self.create, levels.as_deref()).user_level(&event.sender))
    }
}
