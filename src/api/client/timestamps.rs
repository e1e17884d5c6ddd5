//! `GET /rooms/{roomId}/timestamp_to_event`: the event that was sent next to a
//! time (*Jump to an event by its timestamp*).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use log_format::record::output::Visibility;
use ruma::{OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use super::messages::Dir;
use super::visible::RoomView;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Path, Query, required};
use crate::api::rate_limit::Limit;
use crate::api::{Api, ApiState};
use crate::matrix::history_visibility::{HISTORY_VISIBILITY_TYPE, visibility_of};
use crate::query::ids::Place;
use crate::query::relations::{InRoom, SentAt};
use crate::query::rooms::{Direction, RoomHead, StoredEvent};
use crate::writers::federation::remote_past::Sought;

/// Events that one request looks at, for one that the user may see.
const LOOKED_AT_MAX: usize = 5_000;
/// Events that one request comes by, most of them known to be hidden by where
/// they stand: a third of a second at most.
const WALKED_MAX: usize = 500_000;
/// Rows that are read at a time, after the first.
const STEP_ROWS: usize = 512;
/// Changes of one piece of state that are followed back.
const CHANGES_MAX: usize = 1_000;

#[derive(Deserialize)]
pub struct TimestampQuery {
    ts: Option<i64>,
    dir: Option<Dir>,
}

#[derive(Serialize)]
pub struct Found {
    event_id: OwnedEventId,
    origin_server_ts: u64,
}

/// `GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event`
pub async fn timestamp_to_event(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    Query(query): Query<TimestampQuery>,
) -> Result<Json<Found>, ApiError> {
    let direction = required(query.dir, "dir")?.direction();
    // Nothing was sent before the epoch began.
    let ts = u64::try_from(required(query.ts, "ts")?).unwrap_or(0);
    let mut closest = Closest::of(&api, auth.user_id(), &room_id, (ts, direction)).await?;
    // What is missing of the past may have one that is closer.
    let best = closest.found.as_ref();
    let sought = Sought {
        ts,
        direction,
        found: best.map(|event| (event.origin_server_ts, event.place)),
    };
    let gap = match closest.is_joined {
        true => api.remote.gap_beside(&closest.head, sought),
        false => None,
    };
    if let Some(gap) = gap
        && api
            .rate_limits
            .check(Limit::RemoteLookup, auth.user_id().as_str())
            .is_ok()
        && api.remote.find_closer(&closest.head, gap, sought).await
    {
        closest = Closest::of(&api, auth.user_id(), &room_id, (ts, direction)).await?;
    }
    let found = closest.found.ok_or(ApiError::NotFound(
        "No event was found on that side of the time",
    ))?;
    Ok(Json(Found {
        event_id: found.event_id.clone(),
        origin_server_ts: found.origin_server_ts,
    }))
}

/// What our part of a room's history says.
struct Closest {
    head: Arc<RoomHead>,
    is_joined: bool,
    /// The event next to the time that the user may see.
    found: Option<Arc<StoredEvent>>,
}

impl Closest {
    async fn of(
        api: &Api,
        user: &UserId,
        room: &RoomId,
        (ts, direction): (u64, Direction),
    ) -> Result<Closest, ApiError> {
        api.relations.passed(Some(room)).await;
        let view = RoomView::open(api, user, room)?;
        let in_room = InRoom::of(&view.head);
        let mut after: Option<SentAt> = None;
        let mut hidden: Option<Hidden> = None;
        let (mut step, mut walked, mut looked_at) = (1, 0, 0);
        while walked < WALKED_MAX && looked_at < LOOKED_AT_MAX {
            let found = view
                .relations
                .sent_about(in_room, ts, direction, after, step)?;
            let whole = found.len() < step;
            walked += found.len();
            for sent in found {
                after = Some(sent);
                if hidden
                    .as_ref()
                    .is_some_and(|hidden| hidden.hides(sent.place))
                {
                    continue;
                }
                looked_at += 1;
                for event in view.events(&[sent.event])? {
                    if view.may_see(&event)? {
                        return Ok(Closest::with(&view, Some(event)));
                    }
                }
            }
            if whole {
                break;
            }
            if hidden.is_none() {
                hidden = Some(Hidden::from(&view, user)?);
            }
            step = STEP_ROWS;
            // Others wait for this thread meanwhile.
            tokio::task::yield_now().await;
        }
        Ok(Closest::with(&view, None))
    }

    fn with(view: &RoomView<'_>, found: Option<Arc<StoredEvent>>) -> Closest {
        Closest {
            head: view.head.clone(),
            is_joined: view.is_joined(),
            found,
        }
    }
}

/// Where in a room a user surely sees nothing, told without a look at each
/// event: before they came and after they left, as far as the visibility of the
/// history makes it so. What it does not hide may be hidden all the same.
///
/// Takes the room for a line. An event of a fork may stand where the state is
/// another one, and then another event is found that was sent close to it.
struct Hidden {
    /// From where on which visibility was in force, in the order of the room.
    visibilities: Vec<(Place, Visibility)>,
    /// Before it the user had nothing to do with the room.
    first: Place,
    /// Behind it the user is no longer in the room.
    end: Place,
}

impl Hidden {
    fn from(view: &RoomView<'_>, user: &UserId) -> Result<Hidden, ApiError> {
        let changes = changes(view, HISTORY_VISIBILITY_TYPE, "")?;
        let visibilities = changes
            .iter()
            .rev()
            .map(|change| (change.place, visibility_of(&change.json)));
        Ok(Hidden {
            visibilities: visibilities.collect(),
            first: first_of_member(view, user)?,
            end: view.end().unwrap_or(Place::END),
        })
    }

    fn hides(&self, place: Place) -> bool {
        // A change of the visibility is shown by what was before it, too.
        let behind = self.visibilities.partition_point(|(at, _)| *at < place);
        if self
            .visibilities
            .get(behind)
            .is_some_and(|(at, _)| *at == place)
        {
            return false;
        }
        let in_force = behind
            .checked_sub(1)
            .and_then(|at| self.visibilities.get(at));
        match in_force.map_or(Visibility::Shared, |(_, visibility)| *visibility) {
            Visibility::WorldReadable => false,
            Visibility::Shared => place > self.end,
            Visibility::Invited | Visibility::Joined => place < self.first || place > self.end,
        }
    }
}

/// Place of the first member event of a user, as far as it can be followed back.
fn first_of_member(view: &RoomView<'_>, user: &UserId) -> Result<Place, ApiError> {
    let own = changes(view, "m.room.member", user.as_str())?;
    Ok(match own.last() {
        None => Place::END,
        Some(_) if own.len() == CHANGES_MAX => Place::START,
        Some(first) => first.place,
    })
}

/// The events that held a key of the state, the newest first.
fn changes(
    view: &RoomView<'_>,
    kind: &str,
    state_key: &str,
) -> Result<Vec<Arc<StoredEvent>>, ApiError> {
    let mut changes = Vec::new();
    let mut next = view.state_event(kind, state_key)?;
    while let Some(event) = next {
        next = match event.replaces {
            Some(replaced) => view.events(&[replaced])?.pop(),
            None => None,
        };
        changes.push(event);
        if changes.len() == CHANGES_MAX {
            break;
        }
    }
    Ok(changes)
}
