//! `POST /rooms/{roomId}/upgrade` (*Room Upgrades*).

use axum::Json;
use axum::extract::State;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::{Json as Body, Path};
use crate::api::rate_limit::Limit;
use crate::writers::client::upgrade::Upgrade;

#[derive(Deserialize)]
pub struct Request {
    new_version: String,
    additional_creators: Option<Vec<OwnedUserId>>,
}

#[derive(Serialize)]
pub struct Response {
    replacement_room: OwnedRoomId,
}

/// `POST /_matrix/client/v3/rooms/{roomId}/upgrade`
///
/// 404 for rooms that the user is not in, whether they exist or not.
pub async fn upgrade(
    State(api): State<ApiState>,
    auth: Auth,
    Path(room_id): Path<OwnedRoomId>,
    Body(request): Body<Request>,
) -> Result<Json<Response>, ApiError> {
    let user = auth.user_id();
    api.rate_limits.check(Limit::RoomCreation, user.as_str())?;
    let upgrade = Upgrade {
        version: request.new_version,
        additional_creators: request.additional_creators.unwrap_or_default(),
    };
    let replacement_room = api
        .room_writer
        .upgrade_room(user, &room_id, upgrade)
        .await?;
    Ok(Json(Response { replacement_room }))
}
