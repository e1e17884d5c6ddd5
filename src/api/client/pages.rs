//! Pages of a room's timeline: tokens into positions, and walking to one side
//! past what the user may not see and what a filter leaves out.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::visible::RoomView;
use crate::api::ApiState;
use crate::api::errors::ApiError;
use crate::limits::{PAGE_EVENTS_DEFAULT, PAGE_EVENTS_MAX};
use crate::matrix::client_event::content_has_url;
use crate::matrix::filter::RoomEventFilter;
use crate::query::ids::{Place, StateId};
use crate::query::rooms::{Direction, StoredEvent};
use crate::query::shown::Show;
use crate::query::tokens::{PositionError, SlidingToken, SyncToken, TimelineToken};

/// Events that one request walks past. A page that finds nothing to show in so
/// many ends early, with a token to go on from.
const WALKED_MAX: usize = 5_000;
/// Events that are read at a time.
const STEP_EVENTS: usize = 128;

/// Reads a token of `/messages`, `/context` or `/sync`.
///
/// A `next_batch` or `pos` says how far *output* was given; its position in the room is
/// behind the newest event that was.
pub fn read_token(
    api: &ApiState,
    view: &RoomView<'_>,
    token: &str,
    name: &'static str,
) -> Result<TimelineToken, ApiError> {
    if let Ok(position) = TimelineToken::decode(token) {
        return Ok(position);
    }
    let unknown = || ApiError::InvalidParam(format!("{name} is no token of this server").into());
    let sliding = SlidingToken::decode(token).map(|token| token.sync);
    let sync = sliding.or_else(|_| SyncToken::decode(token));
    let sync = sync.map_err(|_| unknown())?;
    let place = api.sync_positions.place_of(view.room_id(), &sync);
    let place = place.map_err(|error| match error {
        PositionError::Token(_) => unknown(),
        PositionError::Query(error) => error.into(),
    })?;
    Ok(match place {
        Some(place) => TimelineToken::after(place, &[]),
        None => TimelineToken::before(Place::START, &[]),
    })
}

/// The token just before or behind a place.
pub fn token(place: Place, behind: bool) -> String {
    match behind {
        true => TimelineToken::after(place, &[]).encode(),
        false => TimelineToken::before(place, &[]).encode(),
    }
}

/// Reads the `filter` parameter of `/messages` and `/context`.
pub fn filter(parameter: Option<&str>) -> Result<RoomEventFilter, ApiError> {
    let wrong = |_| ApiError::InvalidParam("filter is no RoomEventFilter".into());
    match parameter {
        None => Ok(RoomEventFilter::default()),
        Some(json) => RoomEventFilter::parse(json.as_bytes()).map_err(wrong),
    }
}

/// Whether a filter lets an event through.
pub fn passes(filter: &RoomEventFilter, event: &StoredEvent) -> bool {
    filter.matches(&event.sender, &event.kind, || content_has_url(&event.json))
}

/// How many events a request asks for, by its own parameter before that of its
/// filter, within what is given at once.
pub fn limit(asked: Option<i64>, filter: &RoomEventFilter) -> Result<usize, ApiError> {
    match asked {
        None => Ok(filter.limit(PAGE_EVENTS_DEFAULT)),
        Some(asked) if asked < 0 => Err(ApiError::InvalidParam("limit is negative".into())),
        Some(asked) => Ok(usize::try_from(asked)
            .unwrap_or(usize::MAX)
            .min(PAGE_EVENTS_MAX)),
    }
}

/// What a walk found.
pub struct Page {
    /// In the direction of the walk.
    pub events: Vec<Arc<StoredEvent>>,
    /// The last place that was walked past; none if nothing was.
    pub last: Option<Place>,
    pub rest: Rest,
}

/// What there is beyond a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// There may be more.
    More,
    /// Nothing yet: the page ends with the newest event, and others will follow.
    ToCome,
    /// Nothing for this user: the room's start, the end that was asked for, or
    /// where they left.
    Nothing,
}

/// Walks from `from` until `limit` events are found, `to` is reached, or the
/// timeline ends for this user.
pub fn walk(
    view: &RoomView<'_>,
    from: Place,
    to: Option<&TimelineToken>,
    direction: Direction,
    limit: usize,
    filter: &RoomEventFilter,
) -> Result<Page, ApiError> {
    let mut page = Page {
        events: Vec::new(),
        last: None,
        rest: Rest::More,
    };
    if limit == 0 {
        return Ok(page);
    }
    if !filter.matches_room(view.room_id()) {
        page.rest = Rest::Nothing;
        return Ok(page);
    }
    // Forward, `to` is the first place beyond; backward, the last place within.
    let to = to.map(|to| to.before);
    let mut cursor = bounded(view, from, direction);
    let mut walked = 0;
    while page.events.len() < limit && walked < WALKED_MAX {
        let step = STEP_EVENTS.min(limit * 2 + 1);
        let found = view
            .rooms()
            .timeline(view.room_id(), cursor, direction, step)?;
        let ids: Vec<_> = found.iter().map(|(_, event)| *event).collect();
        for event in view.events(&ids)? {
            let beyond_end = view.end().is_some_and(|end| event.place > end);
            if is_beyond(event.place, to, direction)
                || (direction == Direction::Forward && beyond_end && !view.may_see(&event)?)
            {
                page.rest = Rest::Nothing;
                return Ok(page);
            }
            if page.events.len() == limit {
                return Ok(page);
            }
            walked += 1;
            cursor = event.place;
            page.last = Some(cursor);
            if passes(filter, &event) && view.may_see(&event)? {
                page.events.push(event);
            }
        }
        if found.len() < step {
            page.rest = match direction {
                Direction::Forward if view.end().is_none() => Rest::ToCome,
                Direction::Forward | Direction::Backward => Rest::Nothing,
            };
            return Ok(page);
        }
        // Whatever was found but is not known any more is walked past too.
        if let Some((place, _)) = found.last() {
            cursor = *place;
        }
    }
    Ok(page)
}

/// Walking back begins no later than where the user left.
fn bounded(view: &RoomView<'_>, from: Place, direction: Direction) -> Place {
    match (direction, view.end()) {
        (Direction::Backward, Some(end)) => from.min(Place(end.0.saturating_add(1))),
        _ => from,
    }
}

/// Whether a place lies behind the end that a request names.
pub fn is_beyond(place: Place, to: Option<Place>, direction: Direction) -> bool {
    match (to, direction) {
        (None, _) => false,
        (Some(to), Direction::Forward) => place >= to,
        (Some(to), Direction::Backward) => place < to,
    }
}

/// The member events of those who sent `events`, as of `state`: what a client
/// that loads members lazily needs to show them.
pub fn senders(
    view: &RoomView<'_>,
    show: &Show<'_>,
    state: StateId,
    events: &[Arc<StoredEvent>],
) -> Result<Vec<Box<RawValue>>, ApiError> {
    let senders: BTreeSet<_> = events.iter().map(|event| &event.sender).collect();
    let mut members = Vec::with_capacity(senders.len());
    for sender in senders {
        members.extend(view.state_event_at(state, "m.room.member", sender.as_str())?);
    }
    Ok(show.state(&members)?)
}
