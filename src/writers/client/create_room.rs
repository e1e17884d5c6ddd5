//! New rooms: all events of a createRoom are built on one another, checked in
//! a simulated state, and appended as one batch with one outcome.

use std::collections::BTreeSet;
use std::iter;

use futures_util::future::join_all;
use log_format::record::input::Placement;
use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomId, UserId};

use super::acl_checks;
use super::aliases::publish_record;
use super::authorize::NewRoomState;
use super::canonical_alias::{self, CANONICAL_ALIAS};
use super::event_builder::{Draft, Parents, RecordFields};
use super::membership::{Act, check_invitee, member_event, profile};
use super::room_error::RoomWriteError;
use super::room_presets::{Preset, has_privileged_creators, power_levels, text};
use super::room_writer::RoomWriter;
use super::upgrade::TOMBSTONE;
use crate::crypto::random;
use crate::logs::log::NewRecord;
use crate::matrix::build::EventRef;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::matrix::{RoomVersion, ids};

/// Users that one createRoom invites. Each is an event of the batch.
const INVITES_MAX: usize = 250;
/// Events of `initial_state`, for the same reason.
const INITIAL_STATE_MAX: usize = 250;

/// A createRoom request, parsed.
#[derive(Clone, Debug, Default)]
pub struct NewRoom {
    pub version: Option<String>,
    pub creation_content: CanonicalJsonObject,
    pub preset: Option<Preset>,
    /// `visibility`: published in the directory.
    pub public: bool,
    pub alias_localpart: Option<String>,
    pub name: Option<String>,
    pub topic: Option<String>,
    pub invite: Vec<OwnedUserId>,
    pub has_third_party_invites: bool,
    pub is_direct: bool,
    pub initial_state: Vec<InitialState>,
    pub power_level_content_override: CanonicalJsonObject,
}

/// One entry of `initial_state`.
#[derive(Clone, Debug)]
pub struct InitialState {
    pub kind: String,
    pub state_key: String,
    pub content: CanonicalJsonObject,
}

impl NewRoom {
    /// Whom the initial state invites.
    fn invited_by_state(&self) -> Vec<OwnedUserId> {
        let by_state = self.initial_state.iter().filter(|state| {
            let membership = state.content.get("membership");
            state.kind == "m.room.member"
                && membership.and_then(CanonicalJsonValue::as_str) == Some("invite")
        });
        let by_state = by_state.filter_map(|state| UserId::parse(&state.state_key).ok());
        by_state.collect()
    }
}

impl RoomWriter {
    /// Creates a room; it exists with everything that was asked for, or not at all.
    /// Users of other servers are invited once it does: should their servers be
    /// away, then they are not, and the room stands.
    pub async fn create_room(
        &self,
        creator: &UserId,
        request: NewRoom,
    ) -> Result<OwnedRoomId, RoomWriteError> {
        let version = self.version_of(&request)?;
        self.check_request(creator, &request)?;
        let alias = match &request.alias_localpart {
            None => None,
            Some(localpart) => Some(self.alias_of(localpart)?),
        };
        for state in &request.initial_state {
            if state.kind == CANONICAL_ALIAS {
                canonical_alias::check_new(alias.as_ref(), &state.content)?;
            }
            let key = (&*state.kind, &*state.state_key);
            acl_checks::check(self.server_name(), iter::empty(), key, &state.content)?;
        }
        // Held until the room is there, so that nobody takes the alias for one
        // that a crash left over.
        let _reserved = match &alias {
            None => None,
            Some(alias) => Some(self.reserve(alias)?),
        };
        let public = request.public;
        let is_direct = request.is_direct;
        let elsewhere = self.invited_elsewhere(&request);
        let drafts = self.drafts(creator, version, alias.as_ref(), request);
        let room_id = self.new_room_id(version)?;
        let (room_id, mut batch) = self.build_room(version, room_id, &drafts)?;
        if let Some(alias) = &alias {
            self.append_reserved(creator, alias, &room_id).await?;
        }
        if public {
            batch.push(publish_record(creator, &room_id, true));
        }
        let submitted = self.submitter().submit(room_id.as_str(), batch).await;
        match (submitted, &alias) {
            (Ok(_), _) => {
                let act = Act::Invite { is_direct };
                self.invite_all(act, &room_id, creator, &elsewhere).await;
                Ok(room_id)
            }
            (Err(error), None) => Err(error.into()),
            (Err(error), Some(alias)) => {
                // The room's failure is the answer, whatever becomes of this; an
                // alias that stays behind without a room is free for anybody.
                if let Err(left) = self.append_alias_removal(creator, alias).await {
                    tracing::warn!(%alias, error = %left, "alias of a failed room stays behind");
                }
                Err(error.into())
            }
        }
    }

    fn invited_elsewhere(&self, request: &NewRoom) -> BTreeSet<OwnedUserId> {
        let invited = request.invite.iter();
        let elsewhere = invited.filter(|user| user.server_name() != self.server_name());
        elsewhere.cloned().collect()
    }

    async fn invite_all(
        &self,
        act: Act,
        room_id: &RoomId,
        creator: &UserId,
        invited: &BTreeSet<OwnedUserId>,
    ) {
        let invites = invited.iter().map(|user| async move {
            let done = self.change_membership(act, room_id, creator, user, None);
            if let Err(error) = done.await {
                tracing::warn!(%room_id, %user, %error, "a new room's invite failed");
            }
        });
        join_all(invites).await;
    }

    fn version_of(&self, request: &NewRoom) -> Result<RoomVersion, RoomWriteError> {
        let name = match &request.version {
            Some(name) => name.as_str(),
            None => self.default_version().as_str(),
        };
        RoomVersion::parse(name)
            .ok_or_else(|| RoomWriteError::UnsupportedRoomVersion(name.to_owned()))
    }

    fn check_request(&self, creator: &UserId, request: &NewRoom) -> Result<(), RoomWriteError> {
        if request.has_third_party_invites {
            return Err(RoomWriteError::ThirdPartyInvite);
        }
        if request.invite.len() > INVITES_MAX {
            return Err(RoomWriteError::InvalidParam(format!(
                "at most {INVITES_MAX} users are invited at once"
            )));
        }
        if request.initial_state.len() > INITIAL_STATE_MAX {
            return Err(RoomWriteError::InvalidParam(format!(
                "initial_state has more than {INITIAL_STATE_MAX} events"
            )));
        }
        let mut initial = request.initial_state.iter();
        if initial.any(|state| state.kind == "m.room.create") {
            return Err(RoomWriteError::InvalidRoomState(
                "a room is created once".into(),
            ));
        }
        let ours = self.server_name();
        let by_state = request.invited_by_state();
        if by_state.iter().any(|user| user.server_name() != ours) {
            // Its server has to sign an invite, and initial state is signed by us alone.
            return Err(RoomWriteError::InvalidRoomState(
                "users of other servers are invited by `invite`".into(),
            ));
        }
        let mut invited = request.invite.iter().chain(&by_state);
        invited.try_for_each(|user| check_invitee(&**self.users(), creator, user))
    }

    fn alias_of(&self, localpart: &str) -> Result<OwnedRoomAliasId, RoomWriteError> {
        ids::new_room_alias(localpart, self.server_name())
            .map_err(|why| RoomWriteError::InvalidParam(format!("room_alias_name {why}")))
    }

    fn reserve(&self, alias: &OwnedRoomAliasId) -> Result<Reservation<'_>, RoomWriteError> {
        if !self.reserved_aliases().insert(alias.clone()) {
            return Err(RoomWriteError::AliasTaken(alias.clone()));
        }
        Ok(Reservation {
            writer: self,
            alias: alias.clone(),
        })
    }

    async fn append_reserved(
        &self,
        creator: &UserId,
        alias: &OwnedRoomAliasId,
        room_id: &OwnedRoomId,
    ) -> Result<(), RoomWriteError> {
        if let Some(known) = self.users().alias(alias) {
            if self.rooms().head(&known.room_id)?.is_some() {
                return Err(RoomWriteError::AliasTaken(alias.clone()));
            }
            // Left over by a crash; the reservation keeps others away.
            self.append_alias_removal(creator, alias).await?;
        }
        self.append_alias(creator, alias, room_id).await
    }

    /// The events in the order that the specification prescribes.
    fn drafts(
        &self,
        creator: &UserId,
        version: RoomVersion,
        alias: Option<&OwnedRoomAliasId>,
        request: NewRoom,
    ) -> Vec<Draft> {
        let preset = request.preset.unwrap_or(match request.public {
            true => Preset::PublicChat,
            false => Preset::PrivateChat,
        });
        let mut drafts = Vec::with_capacity(10 + request.initial_state.len());
        let mut set = |kind: &str, content| drafts.push(Draft::state(creator, kind, "", content));

        set(
            "m.room.create",
            creation_content(version, preset, creator, &request),
        );
        let mut joined = profile(&**self.users(), creator);
        joined.extend(text("membership", "join"));
        let levels = power_levels(version, preset, creator, &request.invite);
        let levels = overridden(version, levels, request.power_level_content_override);
        set("m.room.power_levels", levels);
        if let Some(alias) = alias {
            set(CANONICAL_ALIAS, text("alias", alias.as_str()));
        }
        let overridden = |kind: &str| {
            let mut initial = request.initial_state.iter();
            initial.any(|state| state.kind == kind && state.state_key.is_empty())
        };
        for (kind, content) in preset.state() {
            if !overridden(kind) {
                set(kind, content);
            }
        }
        drafts.insert(1, member_event(creator, creator, joined));
        for state in request.initial_state {
            // `name` and `topic` win over what is listed for them.
            let replaced = state.state_key.is_empty()
                && ((state.kind == "m.room.name" && request.name.is_some())
                    || (state.kind == "m.room.topic" && request.topic.is_some()));
            if !replaced {
                let draft = Draft::state(creator, &state.kind, &state.state_key, state.content);
                drafts.push(draft);
            }
        }
        if let Some(name) = &request.name {
            let content = text("name", name);
            drafts.push(Draft::state(creator, "m.room.name", "", content));
        }
        if let Some(topic) = &request.topic {
            let content = topic_content(topic);
            drafts.push(Draft::state(creator, "m.room.topic", "", content));
        }
        let mut invited: Vec<&OwnedUserId> = Vec::new();
        for user in &request.invite {
            let is_ours = user.server_name() == self.server_name();
            if user == creator || !is_ours || invited.contains(&user) {
                continue;
            }
            invited.push(user);
            let mut content = profile(&**self.users(), user);
            content.extend(text("membership", "invite"));
            if request.is_direct {
                content.insert("is_direct".into(), CanonicalJsonValue::Bool(true));
            }
            drafts.push(member_event(creator, user, content));
        }
        drafts
    }

    /// The id of a room to be; none in version 12, where the create event's own
    /// id names it.
    pub(super) fn new_room_id(
        &self,
        version: RoomVersion,
    ) -> Result<Option<OwnedRoomId>, RoomWriteError> {
        if version.room_id_is_create_hash() {
            return Ok(None);
        }
        ids::new_room_id(&random::room_localpart(), self.server_name())
            .map(Some)
            .map_err(|why| RoomWriteError::Build(format!("room id {why}")))
    }

    /// Builds every event on the one before and checks each against the state so far.
    pub(super) fn build_room(
        &self,
        version: RoomVersion,
        mut room_id: Option<OwnedRoomId>,
        drafts: &[Draft],
    ) -> Result<(OwnedRoomId, Vec<NewRecord>), RoomWriteError> {
        let count = drafts.len() as u32;
        let mut state = NewRoomState::new(version);
        let mut batch = Vec::with_capacity(drafts.len() + 1);
        let mut previous: Option<EventRef> = None;
        for (index, draft) in drafts.iter().enumerate() {
            let auth_events = state.auth_events(draft)?;
            let fields = RecordFields {
                room_id: room_id.as_deref(),
                version,
                parents: Parents {
                    prev_events: previous.iter().cloned().collect(),
                    depth: index as u64 + 1,
                },
                auth_events: &auth_events,
                transaction: None,
                placement: Placement::New,
                batch: (index as u32, count),
            };
            let built = self.builder().build(draft, fields)?;
            let parent = previous.as_ref().map(|parent| &*parent.event_id);
            state.check_and_apply(draft, parent, &built)?;
            previous = Some(built.reference);
            room_id = Some(built.room_id);
            batch.push(built.record);
        }
        match room_id {
            Some(room_id) => Ok((room_id, batch)),
            None => Err(RoomWriteError::Build("a room without events".into())),
        }
    }
}

/// An alias that is held for a room in the making.
struct Reservation<'a> {
    writer: &'a RoomWriter,
    alias: OwnedRoomAliasId,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.writer.reserved_aliases().remove(&self.alias);
    }
}

/// `m.room.create`: what the client gave, with the server's own keys over it.
fn creation_content(
    version: RoomVersion,
    preset: Preset,
    creator: &UserId,
    request: &NewRoom,
) -> CanonicalJsonObject {
    let mut content = request.creation_content.clone();
    content.extend(text("room_version", version.as_str()));
    content.remove("creator");
    if !version.rules().authorization.use_room_create_sender {
        content.extend(text("creator", creator.as_str()));
    }
    if has_privileged_creators(version) && preset == Preset::TrustedPrivateChat {
        add_creators(&mut content, creator, &request.invite);
    }
    content
}

/// The client's levels over the default ones, field by field. From version 12 on
/// an upgrade takes more than setting any state, unless the client says otherwise
/// in so many words.
fn overridden(
    version: RoomVersion,
    mut levels: CanonicalJsonObject,
    by: CanonicalJsonObject,
) -> CanonicalJsonObject {
    let events = levels.get("events").and_then(|events| events.as_object());
    let tombstone = events.and_then(|events| events.get(TOMBSTONE).cloned());
    levels.extend(by);
    if let (true, Some(tombstone), Some(CanonicalJsonValue::Object(events))) = (
        has_privileged_creators(version),
        tombstone,
        levels.get_mut("events"),
    ) {
        events.entry(TOMBSTONE.into()).or_insert(tombstone);
    }
    levels
}

/// Combines `additional_creators` with the invited, each once. What is no list
/// stays as it is for the auth rules to refuse.
fn add_creators(content: &mut CanonicalJsonObject, creator: &UserId, invited: &[OwnedUserId]) {
    let named = content
        .entry("additional_creators".into())
        .or_insert_with(|| CanonicalJsonValue::Array(Vec::new()));
    let CanonicalJsonValue::Array(named) = named else {
        return;
    };
    let mut all: Vec<CanonicalJsonValue> = Vec::with_capacity(named.len() + invited.len());
    let invited = invited
        .iter()
        .map(|user| CanonicalJsonValue::String(user.to_string()));
    for user in std::mem::take(named).into_iter().chain(invited) {
        let is_creator = matches!(&user, CanonicalJsonValue::String(id) if id == creator.as_str());
        if !is_creator && !all.contains(&user) {
            all.push(user);
        }
    }
    if all.is_empty() {
        content.remove("additional_creators");
    } else {
        content.insert("additional_creators".into(), CanonicalJsonValue::Array(all));
    }
}

/// `m.room.topic` with its plain text form (client-server API, *m.room.topic*).
fn topic_content(topic: &str) -> CanonicalJsonObject {
    let mut plain = text("body", topic);
    plain.extend(text("mimetype", "text/plain"));
    let block = CanonicalJsonObject::from([(
        "m.text".to_owned(),
        CanonicalJsonValue::Array(vec![CanonicalJsonValue::Object(plain)]),
    )]);
    let mut content = text("topic", topic);
    content.insert("m.topic".into(), CanonicalJsonValue::Object(block));
    content
}
