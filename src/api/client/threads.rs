//! `GET /rooms/{roomId}/threads`: the threads of a room, that with the newest
//! reply first (*Querying threads in a room*).

use std::collections::BinaryHeap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use ruma::{OwnedRoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::pages::token;
use super::render::show;
use super::visible::RoomView;
use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query};
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::{parse_stored_object, to_bytes};
use crate::matrix::redaction::redact;
use crate::matrix::relation::Relation;
use crate::query::ids::Place;
use crate::query::relations::{InRoom, Thread};
use crate::query::rooms::{Direction, StoredEvent};
use crate::query::shown::{newest_reply, participates};
use crate::query::tokens::TimelineToken;

/// Threads on a page where the client names no number.
const THREADS_DEFAULT: usize = 20;
/// Most threads on a page: each is shown with its newest reply.
const THREADS_MAX: usize = 100;
/// Threads that one request comes by. A page that finds nothing to show in so
/// many ends early, with a token to go on from.
const WALKED_MAX: usize = 2_000;
/// Rows that are read at a time.
const STEP_ROWS: usize = 64;

#[derive(Deserialize)]
pub struct ThreadsQuery {
    from: Option<String>,
    include: Option<Include>,
    limit: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Include {
    All,
    Participated,
}

#[derive(Serialize)]
pub struct Threads {
    chunk: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// `GET /_matrix/client/v1/rooms/{roomId}/threads`
pub async fn threads(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    Query(query): Query<ThreadsQuery>,
) -> Result<Json<Threads>, ApiError> {
    let limit = match query.limit {
        None => THREADS_DEFAULT,
        Some(limit) if limit < 1 => {
            return Err(ApiError::InvalidParam("limit is not positive".into()));
        }
        Some(limit) => usize::try_from(limit)
            .unwrap_or(usize::MAX)
            .min(THREADS_MAX),
    };
    let unknown = |_| ApiError::InvalidParam("from is no token of this server".into());
    let from = match &query.from {
        None => Place::END,
        Some(given) => {
            let position = TimelineToken::decode(given).map_err(unknown)?;
            position.start(Direction::Backward)
        }
    };
    api.relations.passed(Some(&room_id)).await;
    let view = RoomView::open(&api, auth.user_id(), &room_id)?;
    let listing = Listing {
        view: &view,
        room: InRoom::of(&view.head),
        user: auth.user_id(),
        include: query.include.unwrap_or(Include::All),
        from,
    };
    let (listed, next) = listing.page(limit)?;
    let roots = listed.into_iter().map(|listed| listed.root);
    let roots = roots.map(|root| unless_ignored(&view, root));
    let roots: Vec<Arc<StoredEvent>> = roots.collect::<Result<_, _>>()?;
    Ok(Json(Threads {
        chunk: show(&view, &auth).timeline(&roots)?,
        next_batch: next.map(|place| token(place, false)),
    }))
}

/// The threads of a room as one user sees them.
struct Listing<'a> {
    view: &'a RoomView<'a>,
    room: InRoom<'a>,
    user: &'a UserId,
    include: Include,
    /// Only threads whose newest reply, as the user sees it, stands before this.
    from: Place,
}

/// A thread of the list. Ordered by where its newest reply stands.
struct Listed {
    newest: Place,
    root: Arc<StoredEvent>,
}

impl PartialEq for Listed {
    fn eq(&self, other: &Listed) -> bool {
        self.newest == other.newest
    }
}

impl Eq for Listed {}

impl PartialOrd for Listed {
    fn partial_cmp(&self, other: &Listed) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Listed {
    fn cmp(&self, other: &Listed) -> std::cmp::Ordering {
        self.newest.cmp(&other.newest)
    }
}

impl Listing<'_> {
    /// One page, and the place from which the next goes on, if there may be one.
    ///
    /// Threads are kept where their newest reply stands. To this user it may
    /// stand earlier, as they ignore who sent it or left before it, and never
    /// later: so a thread found there waits until all are found that could come
    /// before it.
    fn page(&self, limit: usize) -> Result<(Vec<Listed>, Option<Place>), ApiError> {
        let mut page = Vec::with_capacity(limit);
        let mut waiting: BinaryHeap<Listed> = BinaryHeap::new();
        let stands_as_kept = self.stands_as_kept();
        let mut cursor = match stands_as_kept {
            true => self.from,
            false => Place::END,
        };
        let mut walked = 0;
        let mut all_found = false;
        while page.len() <= limit && walked < WALKED_MAX && !all_found {
            let found = self.view.relations.threads(self.room, cursor, STEP_ROWS)?;
            all_found = found.len() < STEP_ROWS;
            for thread in found {
                walked += 1;
                cursor = thread.latest;
                while waiting.peek().is_some_and(|first| first.newest >= cursor) {
                    page.extend(waiting.pop());
                }
                waiting.extend(self.listed(&thread)?);
                if page.len() > limit {
                    break;
                }
            }
        }
        page.extend(std::iter::from_fn(|| waiting.pop()));
        if page.len() > limit {
            page.truncate(limit);
            let next = page.last().map(|last| last.newest);
            return Ok((page, next));
        }
        // Who begins at the end each time would not come further than this.
        let goes_on = !all_found && stands_as_kept;
        Ok((page, goes_on.then_some(cursor)))
    }

    /// Whether threads stand to the user where they are kept, so that a page
    /// may begin where the last one ended.
    fn stands_as_kept(&self) -> bool {
        self.view.is_joined() && self.view.viewpoint.unwanted().ignored().is_none()
    }

    /// A thread as the user sees it; none if they do not.
    fn listed(&self, thread: &Thread) -> Result<Option<Listed>, ApiError> {
        let rooms = self.view.rooms();
        let Some(root) = rooms.event(self.room.room_id, &thread.root)? else {
            return Ok(None);
        };
        // State events get no bundles, and threads do not nest (*Threading*).
        if root.state_key.is_some()
            || Relation::of_event(&root.json).is_some()
            || !self.view.viewpoint.may_read_at(&root)?
        {
            return Ok(None);
        }
        let relations = self.view.relations;
        if self.include == Include::Participated
            && !participates(self.user, relations, self.room, &root)?
        {
            return Ok(None);
        }
        let newest = newest_reply(&self.view.viewpoint, relations, self.room, &thread.root)?;
        let newest = newest.filter(|newest| newest.place < self.from);
        Ok(newest.map(|newest| Listed {
            newest: newest.place,
            root,
        }))
    }
}

/// A root as the list shows it: redacted if the user ignores its sender.
fn unless_ignored(
    view: &RoomView<'_>,
    root: Arc<StoredEvent>,
) -> Result<Arc<StoredEvent>, ApiError> {
    if root.redacted_by.is_some() || !view.viewpoint.unwanted().event(&root) {
        return Ok(root);
    }
    let stored = |what: String| ApiError::Stored(what);
    let version = RoomVersion::parse(view.head.version.as_str());
    let version = version.ok_or_else(|| stored(format!("room version {}", view.head.version)))?;
    let event = parse_stored_object(&root.json).map_err(|error| stored(error.to_string()))?;
    let redacted = redact(&version.rules().redaction, &event);
    Ok(Arc::new(StoredEvent {
        json: to_bytes(&redacted).into(),
        ..(*root).clone()
    }))
}
