//! What we do, as one that is in a room, for servers that are not: templates of
//! member events for their users, and those events once they have signed them.
//!
//! Source: server-server API, *Joining Rooms*, *Leaving Rooms*, *Knocking upon a
//! room*, *Inviting to a room*.

mod error;
pub mod handed;
pub mod invites;
pub mod template;

use std::sync::Arc;

use ruma::{OwnedUserId, RoomId, ServerName, UserId};

pub use self::error::ResidentError;
use super::keyring::Keyring;
use super::pdu_checks::PduChecks;
use super::policy_servers::PolicyServers;
use crate::matrix::{Membership, RoomVersion};
use crate::query::joining::{Conditions, conditions, is_restricted};
use crate::query::rooms::{RoomHead, Rooms};
use crate::query::server_acls::ServerAcls;
use crate::query::users::Users;
use crate::writers::submit::Submitter;

/// What it is made from.
pub struct Parts {
    pub rooms: Arc<dyn Rooms>,
    pub users: Arc<dyn Users>,
    pub acls: ServerAcls,
    pub keyring: Arc<Keyring>,
    pub policies: PolicyServers,
    pub submitter: Submitter,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Resident {
    parts: Arc<Parts>,
    checks: PduChecks,
}

/// What a user of another server does with our help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    Join,
    /// Also rejects an invite, and takes back a knock.
    Leave,
    Knock,
}

impl Handshake {
    pub fn membership(self) -> Membership {
        match self {
            Handshake::Join => Membership::Join,
            Handshake::Leave => Membership::Leave,
            Handshake::Knock => Membership::Knock,
        }
    }
}

impl Resident {
    pub fn new(parts: Parts) -> Resident {
        Resident {
            checks: PduChecks::new(parts.keyring.clone()),
            parts: Arc::new(parts),
        }
    }

    fn rooms(&self) -> &dyn Rooms {
        &*self.parts.rooms
    }

    fn own_name(&self) -> &ServerName {
        &self.parts.keyring.own().server
    }

    /// A room that we are in, for a server that may take part in it.
    fn open(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<(Arc<RoomHead>, RoomVersion), ResidentError> {
        let head = self.rooms().head(room_id)?;
        // What we know of a room that we have left is how it was then.
        let head = head.filter(|head| head.is_resident(self.own_name()));
        let head = head.ok_or(ResidentError::UnknownRoom)?;
        if !self.parts.acls.allows(&head, server)? {
            return Err(ResidentError::ServerDenied);
        }
        let version = head.authority.create_info.version;
        Ok((head, version))
    }

    /// Who of ours lets a user into a restricted room; none where nobody need.
    ///
    /// Source: server-server API, *Restricted rooms*.
    fn authoriser(
        &self,
        head: &RoomHead,
        user: &UserId,
    ) -> Result<Option<OwnedUserId>, ResidentError> {
        if !is_restricted(head) {
            return Ok(None);
        }
        match head.authority.membership(user) {
            // These may come in, or may not, whoever vouches for them.
            Some(Membership::Join | Membership::Invite | Membership::Ban) => return Ok(None),
            Some(Membership::Knock | Membership::Leave) | None => {}
        }
        match conditions(self.rooms(), head, user, self.own_name())? {
            Conditions::Met => {}
            Conditions::Failed => return Err(ResidentError::ConditionsFailed),
            Conditions::Unknown => return Err(ResidentError::UnableToAuthorise),
        }
        let inviter = head.authority.inviter_of(self.own_name());
        match inviter {
            Some(inviter) => Ok(Some(inviter.clone())),
            None => Err(ResidentError::UnableToGrant),
        }
    }
}
