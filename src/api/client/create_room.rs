//! `POST /createRoom` (*Creation*).

use axum::Json;
use axum::extract::State;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::content::ContentField;
use crate::api::ApiState;
use crate::api::auth::Auth;
use crate::api::errors::ApiError;
use crate::api::extract::OptionalJson as Body;
use crate::api::rate_limit::Limit;
use crate::writers::client::create_room::{InitialState, NewRoom};
use crate::writers::client::room_presets::Preset;

/// Body of the request; what is null counts as left out.
#[derive(Deserialize)]
pub struct Request {
    visibility: Option<Visibility>,
    room_alias_name: Option<String>,
    name: Option<String>,
    topic: Option<String>,
    invite: Option<Vec<OwnedUserId>>,
    invite_3pid: Option<Vec<serde_json::Value>>,
    room_version: Option<String>,
    creation_content: Option<ContentField>,
    initial_state: Option<Vec<StateEvent>>,
    preset: Option<PresetName>,
    is_direct: Option<bool>,
    power_level_content_override: Option<ContentField>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Visibility {
    Public,
    Private,
}

struct PresetName(Preset);

impl<'de> Deserialize<'de> for PresetName {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<PresetName, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(from)?;
        let preset = Preset::parse(&name);
        preset
            .map(PresetName)
            .ok_or_else(|| serde::de::Error::custom("unknown preset"))
    }
}

#[derive(Deserialize)]
struct StateEvent {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    state_key: Option<String>,
    content: ContentField,
}

#[derive(Serialize)]
pub struct Response {
    room_id: OwnedRoomId,
}

/// `POST /_matrix/client/v3/createRoom`
pub async fn create_room(
    State(api): State<ApiState>,
    auth: Auth,
    Body(request): Body<Request>,
) -> Result<Json<Response>, ApiError> {
    api.rate_limits
        .check(Limit::RoomCreation, auth.user_id().as_str())?;
    let initial_state = request.initial_state.unwrap_or_default().into_iter();
    let new_room = NewRoom {
        version: request.room_version,
        creation_content: request.creation_content.unwrap_or_default().0,
        preset: request.preset.map(|preset| preset.0),
        public: matches!(request.visibility, Some(Visibility::Public)),
        alias_localpart: request.room_alias_name,
        name: request.name,
        topic: request.topic,
        invite: request.invite.unwrap_or_default(),
        has_third_party_invites: request.invite_3pid.is_some_and(|list| !list.is_empty()),
        is_direct: request.is_direct.unwrap_or(false),
        initial_state: initial_state
            .map(|state| InitialState {
                kind: state.kind,
                state_key: state.state_key.unwrap_or_default(),
                content: state.content.0,
            })
            .collect(),
        power_level_content_override: request.power_level_content_override.unwrap_or_default().0,
    };
    let room_id = api
        .room_writer
        .create_room(auth.user_id(), new_room)
        .await?;
    Ok(Json(Response { room_id }))
}
