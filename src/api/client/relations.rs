//! `GET /rooms/{roomId}/relations/{eventId}[/{relType}[/{eventType}]]`: the
//! events that relate to one (*Relationships API*).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use ruma::{EventId, OwnedEventId, OwnedRoomId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::messages::Dir;
use super::pages::{self, is_beyond, read_token, token};
use super::render::show;
use super::visible::RoomView;
use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query};
use crate::matrix::filter::RoomEventFilter;
use crate::query::ids::Place;
use crate::query::relations::{Child, Children, InRoom};
use crate::query::rooms::{Direction, StoredEvent};

/// How far below the event its relations are followed, if the client asks for
/// that; three is the least that the specification wants.
const DEPTH_MAX: u32 = 3;
/// Events that one request comes by below the event, if it follows relations.
/// What lies beyond is not found: a page begins its walk at the event.
const DESCENDANTS_MAX: usize = 10_000;
/// Events that one request walks past otherwise. A page that finds nothing to
/// show in so many ends early, with a token to go on from.
const WALKED_MAX: usize = 5_000;
/// Rows that are read at a time.
const STEP_ROWS: usize = 256;

#[derive(Deserialize)]
pub struct RelationsQuery {
    dir: Option<Dir>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<i64>,
    /// Also by the name under which clients ask for it whose server does not
    /// speak version 1.10 (MSC3981).
    #[serde(alias = "org.matrix.msc3981.recurse")]
    recurse: Option<bool>,
}

#[derive(Serialize)]
pub struct RelationsPage {
    chunk: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recursion_depth: Option<u32>,
}

/// Which relations are asked for. With `recurse`, of every event on the way.
struct Wanted {
    parent: OwnedEventId,
    rel_type: Option<String>,
    kind: Option<String>,
}

impl Wanted {
    fn has(&self, child: &Child) -> bool {
        self.kind.as_deref().is_none_or(|kind| &*child.kind == kind)
    }
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}`
pub async fn any(
    state: State<ApiState>,
    auth: Auth,
    Path((room_id, parent)): Path<(OwnedRoomId, OwnedEventId)>,
    query: Query<RelationsQuery>,
) -> Result<Json<RelationsPage>, ApiError> {
    let wanted = Wanted {
        parent,
        rel_type: None,
        kind: None,
    };
    page(state, auth, room_id, wanted, query).await
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}`
pub async fn of_type(
    state: State<ApiState>,
    auth: Auth,
    Path((room_id, parent, rel_type)): Path<(OwnedRoomId, OwnedEventId, String)>,
    query: Query<RelationsQuery>,
) -> Result<Json<RelationsPage>, ApiError> {
    let wanted = Wanted {
        parent,
        rel_type: Some(rel_type),
        kind: None,
    };
    page(state, auth, room_id, wanted, query).await
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}`
pub async fn of_type_and_kind(
    state: State<ApiState>,
    auth: Auth,
    Path((room_id, parent, rel_type, kind)): Path<(OwnedRoomId, OwnedEventId, String, String)>,
    query: Query<RelationsQuery>,
) -> Result<Json<RelationsPage>, ApiError> {
    let wanted = Wanted {
        parent,
        rel_type: Some(rel_type),
        kind: Some(kind),
    };
    page(state, auth, room_id, wanted, query).await
}

async fn page(
    State(api): State<ApiState>,
    auth: Auth,
    room_id: OwnedRoomId,
    wanted: Wanted,
    Query(query): Query<RelationsQuery>,
) -> Result<Json<RelationsPage>, ApiError> {
    api.relations.passed(Some(&room_id)).await;
    let not_found = || ApiError::NotFound("Event not found");
    let view = match RoomView::of_single_events(&api, auth.user_id(), &room_id) {
        Err(ApiError::Forbidden(_)) => return Err(not_found()),
        opened => opened?,
    };
    if view.event(&wanted.parent)?.is_none() {
        return Err(not_found());
    }
    let direction = query.dir.map_or(Direction::Backward, Dir::direction);
    let from = match &query.from {
        Some(given) => read_token(&api, &view, given, "from")?.start(direction),
        None => match direction {
            Direction::Backward => Place::END,
            Direction::Forward => Place::START,
        },
    };
    let to = match &query.to {
        Some(given) => Some(read_token(&api, &view, given, "to")?.before),
        None => None,
    };
    let limit = pages::limit(query.limit, &RoomEventFilter::default())?;
    let walk = Walk {
        view: &view,
        room: InRoom::of(&view.head),
        wanted: &wanted,
        direction,
        from,
        to,
        limit,
    };
    let recurse = query.recurse == Some(true);
    let found = match recurse {
        true => walk.below()?,
        false => walk.beside()?,
    };
    let behind = direction == Direction::Forward;
    let next_batch = match (found.more, found.last) {
        (false, _) => None,
        (true, Some(last)) => Some(token(last, behind)),
        (true, None) => query.from.clone(),
    };
    Ok(Json(RelationsPage {
        chunk: show(&view, &auth).timeline(&found.events)?,
        next_batch,
        prev_batch: query.from,
        recursion_depth: query.recurse.map(|_| if recurse { DEPTH_MAX } else { 0 }),
    }))
}

/// One page of children, or of all that lies below an event.
struct Walk<'a> {
    view: &'a RoomView<'a>,
    room: InRoom<'a>,
    wanted: &'a Wanted,
    direction: Direction,
    from: Place,
    to: Option<Place>,
    limit: usize,
}

/// What it found.
struct Found {
    events: Vec<Arc<StoredEvent>>,
    /// The last place that was walked past; none if nothing was.
    last: Option<Place>,
    /// Whether there may be more beyond.
    more: bool,
}

impl Walk<'_> {
    /// What relates to the event itself.
    fn beside(&self) -> Result<Found, ApiError> {
        let mut found = self.nothing_yet();
        let mut cursor = self.from;
        let mut walked = 0;
        while found.more && walked < WALKED_MAX {
            let step = STEP_ROWS.min(self.limit + 1);
            let children = self.children(&self.wanted.parent, cursor, step)?;
            walked += children.len();
            let whole = children.len() < step;
            if let Some(last) = children.last() {
                cursor = last.place;
            }
            if self.take(&mut found, children)? {
                return Ok(found);
            }
            found.more = !whole;
        }
        Ok(found)
    }

    /// What relates to the event, to that, and so on.
    fn below(&self) -> Result<Found, ApiError> {
        let mut found = self.nothing_yet();
        let mut below: BTreeMap<Place, Child> = BTreeMap::new();
        let mut level = BTreeSet::from([self.wanted.parent.clone()]);
        for _ in 0..DEPTH_MAX {
            let mut next = BTreeSet::new();
            for parent in &level {
                self.descend(parent, &mut below, &mut next)?;
            }
            level = next;
        }
        let is_ahead = |child: &Child| match self.direction {
            Direction::Forward => child.place > self.from,
            Direction::Backward => child.place < self.from,
        };
        let mut ahead: Vec<Child> = below.into_values().filter(is_ahead).collect();
        if self.direction == Direction::Backward {
            ahead.reverse();
        }
        if !self.take(&mut found, ahead)? {
            found.more = false;
        }
        Ok(found)
    }

    /// Adds the children of one event to what lies below the one asked about,
    /// and those that may have children to the next level.
    fn descend(
        &self,
        parent: &EventId,
        below: &mut BTreeMap<Place, Child>,
        next: &mut BTreeSet<OwnedEventId>,
    ) -> Result<(), ApiError> {
        if self.view.relations.summary(self.room, parent)?.children == 0 {
            return Ok(());
        }
        // From that end on which the page stands, should there be too many.
        let mut cursor = match self.direction {
            Direction::Forward => Place::START,
            Direction::Backward => Place::END,
        };
        while below.len() < DESCENDANTS_MAX {
            let children = self.children(parent, cursor, STEP_ROWS)?;
            let whole = children.len() < STEP_ROWS;
            for child in children {
                cursor = child.place;
                // No event is below itself, but one in a loop of old events.
                if self.wanted.has(&child) && !below.contains_key(&child.place) {
                    next.insert(child.event_id.clone());
                    below.insert(child.place, child);
                }
            }
            if whole {
                break;
            }
        }
        Ok(())
    }

    fn children(
        &self,
        parent: &EventId,
        from: Place,
        limit: usize,
    ) -> Result<Vec<Child>, ApiError> {
        let wanted = Children {
            parent,
            rel_type: self.wanted.rel_type.as_deref(),
            from,
            direction: self.direction,
            limit,
        };
        Ok(self.view.relations.children(self.room, wanted)?)
    }

    fn nothing_yet(&self) -> Found {
        Found {
            events: Vec::new(),
            last: None,
            more: true,
        }
    }

    /// Takes those of the children, in the order of the walk, that are wanted
    /// and may be seen. True if that ends the walk.
    fn take(&self, found: &mut Found, children: Vec<Child>) -> Result<bool, ApiError> {
        for child in children {
            if is_beyond(child.place, self.to, self.direction) {
                found.more = false;
                return Ok(true);
            }
            if found.events.len() == self.limit {
                return Ok(true);
            }
            found.last = Some(child.place);
            if !self.wanted.has(&child) {
                continue;
            }
            for event in self.view.events(&[child.event])? {
                if event.redacted_by.is_none() && self.view.may_see(&event)? {
                    found.events.push(event);
                }
            }
        }
        Ok(false)
    }
}
