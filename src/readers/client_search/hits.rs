//! From candidates to results: each is looked up, and shown only if the user
//! may see it and it is the newest text of its message that they may see.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use ruma::{OwnedRoomId, RoomId};
use tantivy::schema::IndexRecordOption;
use tantivy::{DocSet, TERMINATED, Term};

use super::collect::{Candidate, Standing};
use super::fold::is_encrypted;
use super::index::{IndexError, Searching, event_key};
use super::texts::{may_replace, replaced_by};
use super::{Hit, Search, SearchError};
use crate::matrix::client_event::content_has_url;
use crate::query::ids::{EventSn, Place};
use crate::query::rooms::{QueryError, Rooms, StoredEvent};
use crate::query::unwanted::Unwanted;
use crate::query::visibility::{Stay, Viewer, Viewpoint};

/// Replacements of one message that are looked at; of more, those that came last.
const REPLACEMENTS_MAX: usize = 64;

/// One user's sight of one room, kept for a request.
struct Sight<'a> {
    viewpoint: Viewpoint<'a>,
    /// The last place that is searched; none of a room that is not searched.
    end: OnceCell<Option<Place>>,
}

/// Looks candidates up for one request.
pub struct Resolver<'a> {
    rooms: &'a dyn Rooms,
    searching: &'a Searching,
    searcher: &'a tantivy::Searcher,
    search: &'a Search,
    unwanted: &'a Unwanted,
    names: &'a HashMap<u64, OwnedRoomId>,
    sights: HashMap<u64, Sight<'a>>,
    /// What was looked up before: candidates are counted and then shown.
    known: HashMap<Standing, Option<Hit>>,
}

impl<'a> Resolver<'a> {
    pub fn new(
        rooms: &'a dyn Rooms,
        searching: &'a Searching,
        searcher: &'a tantivy::Searcher,
        search: &'a Search,
        unwanted: &'a Unwanted,
        names: &'a HashMap<u64, OwnedRoomId>,
    ) -> Resolver<'a> {
        Resolver {
            rooms,
            searching,
            searcher,
            search,
            unwanted,
            names,
            sights: HashMap::new(),
            known: HashMap::new(),
        }
    }

    /// The result that a candidate stands for; none if the user may not see it,
    /// or if it is not the newest text of its message.
    pub fn resolve(&mut self, candidate: &Candidate) -> Result<Option<Hit>, SearchError> {
        if let Some(hit) = self.known.get(&candidate.standing) {
            return Ok(hit.clone());
        }
        let hit = self.look_up(candidate)?;
        self.known.insert(candidate.standing, hit.clone());
        Ok(hit)
    }

    fn look_up(&mut self, candidate: &Candidate) -> Result<Option<Hit>, SearchError> {
        let Some(room) = self.names.get(&candidate.room) else {
            return Ok(None);
        };
        let found = self.rooms.events(room, &[EventSn(candidate.sn)])?.pop();
        let Some(found) = found else {
            return Ok(None);
        };
        self.open_sight(candidate.room, room)?;
        let Some(sight) = self.sights.get(&candidate.room) else {
            return Ok(None);
        };
        if !sight.shows(&found)? {
            return Ok(None);
        }
        let original = match candidate.replaces {
            true => self.original(room, &found)?,
            false => None,
        };
        let shown = match original {
            // What replaces nothing that may be replaced stands for itself, so
            // that nobody hides a message by what it says about another.
            None => found.clone(),
            Some(original) if original.redacted_by.is_some() => return Ok(None),
            Some(original) if !sight.shows(&original)? => found.clone(),
            Some(original) => original,
        };
        let is_whole = shown.event != found.event || !candidate.replaces;
        if is_whole && self.newest(room, sight, &shown)? != found.event {
            return Ok(None);
        }
        let has_url = || content_has_url(&shown.json);
        if !self
            .search
            .filter
            .matches(&shown.sender, &shown.kind, has_url)
        {
            return Ok(None);
        }
        Ok(Some(Hit {
            room_id: room.clone(),
            event: shown,
            rank: f32::from_bits(candidate.score_bits),
            standing: candidate.standing,
        }))
    }

    fn open_sight(&mut self, key: u64, room: &RoomId) -> Result<(), QueryError> {
        if !self.sights.contains_key(&key) {
            let viewer = Viewer::User(&self.search.user);
            let viewpoint = Viewpoint::new(self.rooms, room, viewer);
            let sight = Sight {
                viewpoint: viewpoint.without(self.unwanted.clone()),
                end: match is_encrypted(self.rooms, room)? {
                    true => OnceCell::from(None),
                    false => OnceCell::new(),
                },
            };
            self.sights.insert(key, sight);
        }
        Ok(())
    }

    /// The message that an event validly replaces.
    fn original(
        &self,
        room: &RoomId,
        newer: &StoredEvent,
    ) -> Result<Option<Arc<StoredEvent>>, QueryError> {
        let Some(original) = replaced_by(newer) else {
            return Ok(None);
        };
        let original = self.rooms.event(room, &original)?;
        Ok(original.filter(|original| may_replace(newer, original)))
    }

    /// The event that has the newest text of a message that the user may see:
    /// its last replacement, or itself.
    fn newest(
        &self,
        room: &RoomId,
        sight: &Sight<'_>,
        original: &StoredEvent,
    ) -> Result<EventSn, SearchError> {
        let replacements = self.replacements(event_key(room, &original.event_id))?;
        if replacements.is_empty() {
            return Ok(original.event);
        }
        let mut newest: Option<Arc<StoredEvent>> = None;
        for event in self.rooms.events(room, &replacements)? {
            let age = |event: &StoredEvent| (event.origin_server_ts, event.event_id.clone());
            let is_newer = newest.as_deref().is_none_or(|last| age(last) < age(&event));
            if is_newer && may_replace(&event, original) && sight.shows(&event)? {
                newest = Some(event);
            }
        }
        Ok(newest.map_or(original.event, |newest| newest.event))
    }

    /// What says to replace an event, the last that came first.
    fn replacements(&self, event: u64) -> Result<Vec<EventSn>, IndexError> {
        let field = self.searching.fields.target;
        let term = Term::from_field_u64(field, event);
        let mut found = Vec::new();
        for segment in self.searcher.segment_readers() {
            let index = segment.inverted_index(field)?;
            let postings = index.read_postings(&term, IndexRecordOption::Basic);
            let Some(mut postings) = postings? else {
                continue;
            };
            let sn = segment.fast_fields().u64("sn")?;
            let mut doc = postings.doc();
            while doc != TERMINATED {
                if !segment.is_deleted(doc) {
                    found.extend(sn.first(doc).map(EventSn));
                }
                doc = postings.advance();
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        found.truncate(REPLACEMENTS_MAX);
        Ok(found)
    }
}

impl Sight<'_> {
    /// Whether an event may be a result: not redacted or erased for the user, seen by them, and not
    /// behind where they left (*Server Side Search*).
    fn shows(&self, event: &StoredEvent) -> Result<bool, QueryError> {
        if event.redacted_by.is_some() || self.viewpoint.is_erased(event)? {
            return Ok(false);
        }
        let end = match self.end.get() {
            Some(end) => *end,
            None => {
                let end = match self.viewpoint.stay()? {
                    Stay::Joined => Some(Place::END),
                    // What ended the stay may stand in no timeline.
                    Stay::Left {
                        left: Place::START, ..
                    } => Some(Place::END),
                    Stay::Left { left, .. } => Some(left),
                    Stay::Never => None,
                };
                *self.end.get_or_init(|| end)
            }
        };
        Ok(end.is_some_and(|end| event.place <= end) && self.viewpoint.may_see(event)?)
    }
}
