//! Memberships that take another server: of rooms that live elsewhere, and of
//! users of other servers whom ours invite.

use log_format::record::output::Membership;
use ruma::{OwnedEventId, OwnedServerName, OwnedUserId, RoomId, UserId};

use super::joins::{admits_guests, is_guest};
use super::membership::{profile, put};
use super::room_error::RoomWriteError;
use super::room_state::RoomState;
use super::room_writer::RoomWriter;
use super::sequencer::{Countersign, StateChoice};
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::query::joining::meets_a_condition;
use crate::writers::federation::remote_join::{JoinOutcome, JoinRequest};
use crate::writers::federation::remote_rooms::RemoteRoomError;

impl RoomWriter {
    /// Joins a room that lives elsewhere; false if it lives here.
    pub(super) async fn join_elsewhere(
        &self,
        room: &RoomId,
        user: &UserId,
        (reason, beside, servers): (Option<&str>, &CanonicalJsonObject, Vec<OwnedServerName>),
    ) -> Result<bool, RoomWriteError> {
        if self.remote().is_here(room)? {
            return Ok(false);
        }
        let mut content = beside.clone();
        content.extend(self.said_of(user, reason));
        let request = JoinRequest {
            room: room.to_owned(),
            user: user.to_owned(),
            servers,
            content,
            needs_voucher: false,
        };
        match self.remote().join(request).await {
            Ok(JoinOutcome::Here) => Ok(false),
            Ok(JoinOutcome::Joined) => {
                self.turn_away_guest(room, user).await?;
                self.after_join(room, user).await;
                Ok(true)
            }
            Err(error) => Err(nobody_knows(error)),
        }
    }

    /// Whether a room of others admits guests is known only from inside: one who is
    /// not admitted leaves it again at once.
    async fn turn_away_guest(&self, room: &RoomId, user: &UserId) -> Result<(), RoomWriteError> {
        if !is_guest(&**self.users(), user) {
            return Ok(());
        }
        let rooms = &**self.rooms();
        let head = rooms.head(room)?.ok_or(RoomWriteError::UnknownRoom)?;
        if admits_guests(&RoomState::new(rooms, &head))? {
            return Ok(());
        }
        self.remove_guests(room).await?;
        Err(RoomWriteError::GuestForbidden)
    }

    /// Joins a restricted room that we are in, but into which none of our users may
    /// let anybody, with the help of another server that is in it; false if that
    /// is not why the user may not join.
    ///
    /// Source: server-server API, *Restricted rooms*.
    pub(super) async fn join_vouched(
        &self,
        room: &RoomId,
        user: &UserId,
        (reason, beside): (Option<&str>, &CanonicalJsonObject),
    ) -> Result<bool, RoomWriteError> {
        let Some(head) = self.rooms().head(room)? else {
            return Ok(false);
        };
        let is_ours_to_grant = head.authority.inviter_of(self.server_name()).is_some();
        let may_ask = match head.authority.membership(user) {
            None | Some(Membership::Leave | Membership::Knock) => true,
            Some(Membership::Join | Membership::Invite | Membership::Ban) => false,
        };
        if is_ours_to_grant || !may_ask || !meets_a_condition(&**self.rooms(), &head, user)? {
            return Ok(false);
        }
        let mut content = beside.clone();
        content.extend(self.said_of(user, reason));
        let request = JoinRequest {
            room: room.to_owned(),
            user: user.to_owned(),
            servers: head.servers.keys().cloned().collect(),
            content,
            needs_voucher: true,
        };
        self.remote().join(request).await?;
        Ok(true)
    }

    /// Knocks on a room that lives elsewhere; false if it lives here.
    pub(super) async fn knock_elsewhere(
        &self,
        room: &RoomId,
        user: &UserId,
        (reason, servers): (Option<&str>, &[OwnedServerName]),
    ) -> Result<bool, RoomWriteError> {
        if self.remote().is_here(room)? {
            return Ok(false);
        }
        let content = self.said_of(user, reason);
        let knocked = self.remote().knock(room, user, servers, content).await;
        knocked.map(|()| true).map_err(nobody_knows)
    }

    /// Rejects an invite, or takes back a knock, that is seen from outside; false
    /// if there is none.
    pub(super) async fn leave_elsewhere(
        &self,
        room: &RoomId,
        user: &UserId,
        reason: Option<&str>,
    ) -> Result<bool, RoomWriteError> {
        let mut content = CanonicalJsonObject::new();
        if let Some(reason) = reason {
            put(&mut content, "reason", reason);
        }
        Ok(self.remote().leave(room, user, content).await?)
    }

    /// Writes the invite of a user of another server once that has signed it.
    pub(super) async fn set_invite(
        &self,
        room: &RoomId,
        target: &UserId,
        choose: StateChoice,
    ) -> Result<Option<OwnedEventId>, RoomWriteError> {
        let (remote, target) = (self.remote().clone(), target.to_owned());
        let countersign: Countersign = Box::new(move |head, event_id, json| {
            let (remote, target) = (remote.clone(), target.clone());
            Box::pin(async move {
                let server = target.server_name();
                let signed = remote.invite(server, &head, (&event_id, &json)).await;
                signed.map_err(|error| invite_failed(error, target))
            })
        });
        let sequencer = self.sequencer();
        sequencer.set_state_signed(room, choose, countersign).await
    }

    /// What a member event says of its user: the profile, and why.
    fn said_of(&self, user: &UserId, reason: Option<&str>) -> CanonicalJsonObject {
        let mut content = profile(&**self.users(), user);
        if let Some(reason) = reason {
            put(&mut content, "reason", reason);
        }
        content
    }
}

/// A room of which nobody is known is one that is not known.
fn nobody_knows(error: RemoteRoomError) -> RoomWriteError {
    match error {
        RemoteRoomError::NoServer => RoomWriteError::UnknownRoom,
        error => error.into(),
    }
}

/// Source: client-server API, *POST invite*, and server-server API, *PUT invite*.
fn invite_failed(error: RemoteRoomError, target: OwnedUserId) -> RoomWriteError {
    match &error {
        RemoteRoomError::Refused(refusal) => match refusal.errcode.as_str() {
            "M_INVITE_BLOCKED" => RoomWriteError::InviteBlocked(target),
            "M_INCOMPATIBLE_ROOM_VERSION" | "M_UNSUPPORTED_ROOM_VERSION" => {
                RoomWriteError::UnsupportedRoomVersion(format!("of this room by {target}'s server"))
            }
            // That is between the servers.
            "M_MISSING_PARAM" | "M_INVALID_PARAM" => {
                RemoteRoomError::BadAnswer("the invite was not understood").into()
            }
            _ => error.into(),
        },
        _ => error.into(),
    }
}
