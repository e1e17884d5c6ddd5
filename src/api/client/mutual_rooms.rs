//! `GET /mutual_rooms`: rooms that the user shares with another (*Mutual Rooms*).

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use log_format::record::output::Membership;
use ruma::{OwnedRoomId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Query, required};

/// Rooms on a page. Ours.
const PAGE_ROOMS: usize = 100;

/// Query of `GET /mutual_rooms`.
#[derive(Deserialize)]
pub struct MutualQuery {
    user_id: Option<String>,
    from: Option<String>,
}

#[derive(Serialize)]
pub struct MutualRooms {
    joined: Vec<OwnedRoomId>,
    count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// `GET /_matrix/client/v1/mutual_rooms`
///
/// A page goes on behind the last room of the page before, by room id, so that
/// its token never expires.
pub async fn mutual_rooms(
    State(api): State<ApiState>,
    auth: Auth,
    Query(query): Query<MutualQuery>,
) -> Result<Json<MutualRooms>, ApiError> {
    let invalid = |text: &'static str| ApiError::InvalidParam(text.into());
    let other = UserId::parse(required(query.user_id, "user_id")?)
        .ok()
        .filter(|user| user.validate_strict().is_ok())
        .ok_or(invalid("The user ID provided was invalid"))?;
    if other == auth.user_id() {
        return Err(invalid("This is your own user ID"));
    }
    let after = query.from.map(|from| read_token(&from));
    let after = after
        .map(|room| room.ok_or(invalid("from is no token of this endpoint")))
        .transpose()?;
    let theirs: BTreeSet<OwnedRoomId> = joined_by(&api, &other)?.into_iter().collect();
    let mut shared = joined_by(&api, auth.user_id())?;
    shared.retain(|room| theirs.contains(room));
    shared.sort();
    let count = shared.len();
    let mut joined: Vec<OwnedRoomId> = shared
        .into_iter()
        .filter(|room| after.as_ref().is_none_or(|after| room > after))
        .collect();
    let more = joined.len() > PAGE_ROOMS;
    joined.truncate(PAGE_ROOMS);
    let last = joined.last().filter(|_| more);
    Ok(Json(MutualRooms {
        next_batch: last.map(|last| URL_SAFE_NO_PAD.encode(last.as_str())),
        joined,
        count,
    }))
}

fn joined_by(api: &ApiState, user: &UserId) -> Result<Vec<OwnedRoomId>, ApiError> {
    let rooms = api.rooms.rooms_of(user)?.into_iter();
    Ok(rooms
        .filter(|room| room.membership == Membership::Join)
        .map(|room| room.room_id)
        .collect())
}

fn read_token(token: &str) -> Option<OwnedRoomId> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    RoomId::parse(std::str::from_utf8(&bytes).ok()?).ok()
}
