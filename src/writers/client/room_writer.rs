//! The writer of rooms for local users: what its parts share.
//!
//! Messages and state are in `messages.rs`, members in `membership.rs`, new
//! rooms in `create_room.rs`, aliases and the directory in `aliases.rs`.

use std::sync::Arc;

use dashmap::DashSet;
use ruma::{OwnedRoomAliasId, OwnedServerName, RoomVersionId, ServerName};

use super::event_builder::EventBuilder;
use super::relation_checks::Annotating;
use super::sequencer::Sequencer;
use super::user_data::UserData;
use crate::crypto::signing_key::ServerKey;
use crate::query::relations::Relations;
use crate::query::rooms::Rooms;
use crate::query::users::Users;
use crate::writers::federation::policy_servers::PolicyServers;
use crate::writers::federation::remote_rooms::RemoteRooms;
use crate::writers::submit::Submitter;

/// Writes to rooms. Cheap to clone.
#[derive(Clone)]
pub struct RoomWriter {
    inner: Arc<Inner>,
}

struct Inner {
    server_name: OwnedServerName,
    default_version: RoomVersionId,
    rooms: Arc<dyn Rooms>,
    users: Arc<dyn Users>,
    relations: Arc<dyn Relations>,
    user_data: UserData,
    submitter: Submitter,
    builder: Arc<EventBuilder>,
    sequencer: Sequencer,
    /// Aliases that are being given to a room which is not there yet.
    reserved_aliases: DashSet<OwnedRoomAliasId>,
    annotating: Annotating,
    remote: RemoteRooms,
}

/// What the writer is made from.
pub struct Parts {
    pub server_name: OwnedServerName,
    pub key: Arc<ServerKey>,
    pub default_version: RoomVersionId,
    pub rooms: Arc<dyn Rooms>,
    pub users: Arc<dyn Users>,
    pub relations: Arc<dyn Relations>,
    pub submitter: Submitter,
    /// Rooms that live elsewhere.
    pub remote: RemoteRooms,
    pub policies: PolicyServers,
}

impl RoomWriter {
    pub fn new(parts: Parts) -> RoomWriter {
        let Parts {
            server_name,
            key,
            default_version,
            rooms,
            users,
            relations,
            submitter,
            remote,
            policies,
        } = parts;
        let user_data = UserData::new(users.clone(), submitter.clone());
        let builder = Arc::new(EventBuilder::new(server_name.clone(), key));
        let sequencer = Sequencer::new(submitter.clone(), rooms.clone(), builder.clone(), policies);
        RoomWriter {
            inner: Arc::new(Inner {
                server_name,
                default_version,
                rooms,
                users,
                relations,
                user_data,
                submitter,
                builder,
                sequencer,
                reserved_aliases: DashSet::new(),
                annotating: Annotating::default(),
                remote,
            }),
        }
    }

    pub(super) fn server_name(&self) -> &ServerName {
        &self.inner.server_name
    }

    pub(super) fn default_version(&self) -> &RoomVersionId {
        &self.inner.default_version
    }

    pub(super) fn rooms(&self) -> &Arc<dyn Rooms> {
        &self.inner.rooms
    }

    pub(super) fn users(&self) -> &Arc<dyn Users> {
        &self.inner.users
    }

    pub(super) fn relations(&self) -> &Arc<dyn Relations> {
        &self.inner.relations
    }

    pub(super) fn annotating(&self) -> &Annotating {
        &self.inner.annotating
    }

    pub(super) fn remote(&self) -> &RemoteRooms {
        &self.inner.remote
    }

    /// The writer that all changes of users' data go through: it takes turns.
    pub fn user_data(&self) -> &UserData {
        &self.inner.user_data
    }

    pub(super) fn submitter(&self) -> &Submitter {
        &self.inner.submitter
    }

    pub(super) fn builder(&self) -> &EventBuilder {
        &self.inner.builder
    }

    pub(super) fn sequencer(&self) -> &Sequencer {
        &self.inner.sequencer
    }

    pub(super) fn reserved_aliases(&self) -> &DashSet<OwnedRoomAliasId> {
        &self.inner.reserved_aliases
    }
}
