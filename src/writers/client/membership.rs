//! Membership: join, invite, knock, leave, kick, ban, unban, forget.
//!
//! Each decides on the room's newest folded head, with the room's line held, so
//! two requests at once cannot act on the same old membership. The auth rules
//! have the last word; what is checked here is what an endpoint adds to them.

use std::sync::Arc;

use log_format::codec;
use log_format::record::input::InputRoomForgotten;
use log_format::record::output::Membership;
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::{OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;

use super::event_builder::Draft;
use super::joins::{self, admits_guests, is_guest};
use super::room_error::RoomWriteError;
use super::room_state::RoomState;
use super::room_writer::RoomWriter;
use crate::clock;
use crate::logs::log::NewRecord;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::query::rooms::{RoomHead, Rooms, StateKey};
use crate::query::unwanted::blocks_invites;
use crate::query::users::Users;

const MEMBER: &str = "m.room.member";

/// Fields of a member event in which servers state what they have made sure of:
/// the profile, and what lets the user in.
const SAID_BY_SERVERS: [&str; 5] = [
    "membership",
    "displayname",
    "avatar_url",
    "third_party_invite",
    "join_authorised_via_users_server",
];

/// What a user does to a membership, their own or another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Join,
    Knock,
    Leave,
    Invite { is_direct: bool },
    Kick,
    Ban,
    Unban,
}

impl RoomWriter {
    /// Changes `target`'s membership. Own acts (join, knock, leave) have the
    /// sender as target.
    ///
    /// What is so already is no error and writes nothing.
    pub async fn change_membership(
        &self,
        act: Act,
        room_id: &RoomId,
        sender: &UserId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<(), RoomWriteError> {
        if act == Act::Leave
            && self
                .leave_elsewhere(room_id, sender, reason.as_deref())
                .await?
        {
            return Ok(());
        }
        let change = Change {
            rooms: self.rooms().clone(),
            users: self.users().clone(),
            act,
            sender: sender.to_owned(),
            target: target.to_owned(),
            reason,
            beside: CanonicalJsonObject::new(),
        };
        self.change(room_id, change).await
    }

    /// Knocks for a user; through one of `servers` if the room lives elsewhere.
    pub async fn knock(
        &self,
        room_id: &RoomId,
        user: &UserId,
        reason: Option<String>,
        servers: &[OwnedServerName],
    ) -> Result<(), RoomWriteError> {
        let elsewhere = (reason.as_deref(), servers);
        if self.knock_elsewhere(room_id, user, elsewhere).await? {
            return Ok(());
        }
        self.change_membership(Act::Knock, room_id, user, user, reason)
            .await
    }

    /// Joins a user to a room; through one of `servers` if it lives elsewhere. What
    /// is `beside` becomes part of the member event, but for what servers say in it.
    pub async fn join(
        &self,
        room_id: &RoomId,
        user: &UserId,
        reason: Option<String>,
        mut beside: CanonicalJsonObject,
        servers: Vec<OwnedServerName>,
    ) -> Result<(), RoomWriteError> {
        beside.retain(|field, _| !SAID_BY_SERVERS.contains(&field.as_str()));
        let elsewhere = (reason.as_deref(), &beside, servers);
        if self.join_elsewhere(room_id, user, elsewhere).await? {
            return Ok(());
        }
        let change = Change {
            rooms: self.rooms().clone(),
            users: self.users().clone(),
            act: Act::Join,
            sender: user.to_owned(),
            target: user.to_owned(),
            reason: reason.clone(),
            beside: beside.clone(),
        };
        let done = self.change(room_id, change).await;
        let by_others = (reason.as_deref(), &beside);
        match done {
            Err(RoomWriteError::Forbidden(_))
                if self.join_vouched(room_id, user, by_others).await? =>
            {
                self.after_join(room_id, user).await;
                Ok(())
            }
            done => done,
        }
    }

    async fn change(&self, room_id: &RoomId, change: Change) -> Result<(), RoomWriteError> {
        let (act, target) = (change.act, change.target.clone());
        let choose = Box::new(move |head: &RoomHead| change.draft(head));
        let invites_elsewhere =
            matches!(act, Act::Invite { .. }) && target.server_name() != self.server_name();
        let done = match invites_elsewhere {
            true => self.set_invite(room_id, &target, choose).await,
            false => self.sequencer().set_state(room_id, choose).await,
        };
        if let (Act::Join, Ok(Some(_))) = (act, &done) {
            self.after_join(room_id, &target).await;
        }
        match (act, done) {
            // A room that we do not know could only be joined through another server.
            (Act::Join | Act::Knock, done) => done.map(drop),
            (_, Err(RoomWriteError::UnknownRoom)) => {
                Err(RoomWriteError::Forbidden("you are not in this room".into()))
            }
            (_, done) => done.map(drop),
        }
    }

    /// What a join brings with it. The join stands, whatever becomes of this.
    pub(super) async fn after_join(&self, room_id: &RoomId, user: &UserId) {
        if let Err(error) = self.carry_over(user, room_id).await {
            tracing::warn!(%user, %room_id, %error, "settings were not carried into the new room");
        }
    }

    /// Forgets a room that the user has left, so that it is no longer listed
    /// and its history no longer given.
    pub async fn forget(&self, room_id: &RoomId, user: &UserId) -> Result<(), RoomWriteError> {
        match self.rooms().membership(room_id, user)? {
            Some(Membership::Leave | Membership::Ban) => {}
            Some(Membership::Join | Membership::Invite | Membership::Knock) => {
                return Err(RoomWriteError::StillInRoom);
            }
            None => {
                return Err(RoomWriteError::NotFound(
                    "you were never in this room".into(),
                ));
            }
        }
        if self.users().forgot(user, room_id) {
            return Ok(());
        }
        // Names the membership that is forgotten: a later one is not.
        let member = StateKey::new(MEMBER, user.as_str());
        let head = self.rooms().head(room_id)?;
        let left = head.and_then(|head| head.state.get(&member).copied());
        let left = match left {
            Some(event) => self.rooms().events(room_id, &[event])?.pop(),
            None => None,
        };
        let body = codec::encode(&InputRoomForgotten {});
        let envelope = NewEnvelope {
            received_us: clock::now_us(),
            key: user.as_str(),
            room_id: Some(room_id.as_str()),
            event_id: left.as_ref().map(|left| left.event_id.as_str()),
            sender: Some(user.as_str()),
            body: &body,
            ..NewEnvelope::default()
        };
        let record = NewRecord::new(Kind::InputRoomForgotten, Source::Client, &envelope);
        self.submitter().submit(user.as_str(), vec![record]).await?;
        Ok(())
    }

    /// Has the guests of this server leave a room that admits none (any more).
    ///
    /// What fails is for the caller to do again: whoever left is not asked twice.
    pub async fn remove_guests(&self, room_id: &RoomId) -> Result<(), RoomWriteError> {
        let (rooms, users) = (self.rooms().clone(), self.users().clone());
        let (room, server) = (room_id.to_owned(), self.server_name().to_owned());
        // One look-up for each local member.
        let guests = spawn_blocking(move || guests_to_remove(&*rooms, &*users, &room, &server));
        for guest in guests.await.map_err(|_| RoomWriteError::Stopping)?? {
            let left = self.change_membership(Act::Leave, room_id, &guest, &guest, None);
            match left.await {
                Ok(()) | Err(RoomWriteError::Forbidden(_) | RoomWriteError::UnknownRoom) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Carries a changed profile into the user's rooms: a new member event in
    /// each joined room whose copy differs (client-server API, *Profiles*).
    ///
    /// A room that refuses is skipped; the profile itself is not at stake.
    pub async fn propagate_profile(&self, user: &UserId) -> Result<(), RoomWriteError> {
        for room in self.rooms().rooms_of(user)? {
            if room.membership != Membership::Join {
                continue;
            }
            let (rooms, users) = (self.rooms().clone(), self.users().clone());
            let owned = user.to_owned();
            let choose =
                Box::new(move |head: &RoomHead| profile_draft(&*rooms, &*users, head, &owned));
            match self.sequencer().set_state(&room.room_id, choose).await {
                Ok(_) | Err(RoomWriteError::Forbidden(_) | RoomWriteError::UnknownRoom) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }
}

/// Refuses an invite of who takes none, and of a user of this server who is not
/// there. To who is not in the room, which could not invite anybody, that is not
/// told.
pub(super) fn check_invite(
    users: &dyn Users,
    head: &RoomHead,
    sender: &UserId,
    target: &UserId,
) -> Result<(), RoomWriteError> {
    match head.authority.is_joined(sender) {
        true => check_invitee(users, sender, target),
        false => Ok(()),
    }
}

/// The same of somebody who may invite. `sender` is of this server.
pub(super) fn check_invitee(
    users: &dyn Users,
    sender: &UserId,
    target: &UserId,
) -> Result<(), RoomWriteError> {
    let is_ours = target.server_name() == sender.server_name();
    let account = users.account(target);
    if is_ours && account.is_none_or(|account| account.deactivated) {
        return Err(RoomWriteError::NotFound(format!("there is no {target}")));
    }
    match blocks_invites(users, target) {
        true => Err(RoomWriteError::InviteBlocked(target.to_owned())),
        false => Ok(()),
    }
}

struct Change {
    rooms: Arc<dyn Rooms>,
    users: Arc<dyn Users>,
    act: Act,
    sender: OwnedUserId,
    target: OwnedUserId,
    reason: Option<String>,
    /// What else the member event is to hold.
    beside: CanonicalJsonObject,
}

impl Change {
    fn draft(&self, head: &RoomHead) -> Result<Option<Draft>, RoomWriteError> {
        let state = RoomState::new(&*self.rooms, head);
        let now = head.authority.membership(&self.target);
        if !self.is_due(now)? {
            return Ok(None);
        }
        if let Act::Invite { .. } = self.act {
            check_invite(&*self.users, head, &self.sender, &self.target)?;
        }
        let mut content = self.beside.clone();
        if let Act::Join | Act::Knock | Act::Invite { .. } = self.act {
            content.extend(profile(&*self.users, &self.target));
        }
        put(&mut content, "membership", self.membership().as_str());
        if let Some(reason) = &self.reason {
            put(&mut content, "reason", reason);
        }
        if self.act == (Act::Invite { is_direct: true }) {
            content.insert("is_direct".into(), CanonicalJsonValue::Bool(true));
        }
        if self.act == Act::Join {
            joins::complete(&*self.users, &state, &self.target, &mut content)?;
        }
        Ok(Some(member_event(&self.sender, &self.target, content)))
    }

    fn membership(&self) -> Membership {
        match self.act {
            Act::Join => Membership::Join,
            Act::Knock => Membership::Knock,
            Act::Invite { .. } => Membership::Invite,
            Act::Leave | Act::Kick | Act::Unban => Membership::Leave,
            Act::Ban => Membership::Ban,
        }
    }

    /// What the endpoint itself demands of the membership so far. False if
    /// nothing is left to do.
    fn is_due(&self, now: Option<Membership>) -> Result<bool, RoomWriteError> {
        use Membership as M;
        let refuse = |text: &str| Err(RoomWriteError::Forbidden(text.into()));
        match (self.act, now) {
            (Act::Join, Some(M::Join)) | (Act::Knock, Some(M::Knock)) => Ok(false),
            (Act::Leave, Some(M::Leave)) => Ok(false),
            (Act::Leave, None) => refuse("you are not in this room"),
            (Act::Leave, Some(M::Ban)) => refuse("you are banned from this room"),
            (Act::Kick, None | Some(M::Leave | M::Ban)) => refuse("the user is not in this room"),
            (Act::Unban, None | Some(M::Join | M::Invite | M::Knock | M::Leave)) => {
                refuse("the user is not banned from this room")
            }
            (Act::Invite { .. }, Some(M::Join)) => refuse("the user is in this room already"),
            _ => Ok(true),
        }
    }
}

fn guests_to_remove(
    rooms: &dyn Rooms,
    users: &dyn Users,
    room: &RoomId,
    server: &ServerName,
) -> Result<Vec<OwnedUserId>, RoomWriteError> {
    let Some(head) = rooms.head(room)? else {
        return Ok(Vec::new());
    };
    if admits_guests(&RoomState::new(rooms, &head))? {
        return Ok(Vec::new());
    }
    let members = head.authority.members.iter();
    let here = members.filter(|(user, member)| {
        member.membership == Membership::Join && user.server_name() == server
    });
    let guests = here.filter(|(user, _)| is_guest(users, user));
    Ok(guests.map(|(user, _)| user.clone()).collect())
}

/// The member event that shows the user's current profile; none if it does already.
fn profile_draft(
    rooms: &dyn Rooms,
    users: &dyn Users,
    head: &RoomHead,
    user: &UserId,
) -> Result<Option<Draft>, RoomWriteError> {
    let state = RoomState::new(rooms, head);
    if !head.authority.is_joined(user) {
        return Ok(None);
    }
    let Some(shown) = state.content(MEMBER, user.as_str())? else {
        return Ok(None);
    };
    let mut content = profile(users, user);
    if same(&shown, &content, "displayname") && same(&shown, &content, "avatar_url") {
        return Ok(None);
    }
    put(&mut content, "membership", Membership::Join.as_str());
    joins::complete(users, &state, user, &mut content)?;
    Ok(Some(member_event(user, user, content)))
}

fn same(shown: &Map<String, Value>, content: &CanonicalJsonObject, field: &str) -> bool {
    let shown = shown.get(field).and_then(Value::as_str);
    let due = match content.get(field) {
        Some(CanonicalJsonValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    shown == due
}

/// `displayname` and `avatar_url` as member events carry them. Only local users
/// have them here.
pub(super) fn profile(users: &dyn Users, user: &UserId) -> CanonicalJsonObject {
    let mut content = CanonicalJsonObject::new();
    let fields = users.profile(user);
    for field in ["displayname", "avatar_url"] {
        let text = fields.get(field).map(|json| serde_json::from_str(json));
        if let Some(Ok(Value::String(text))) = text
            && !text.is_empty()
        {
            put(&mut content, field, &text);
        }
    }
    content
}

/// A member event's draft.
pub(super) fn member_event(
    sender: &UserId,
    target: &UserId,
    content: CanonicalJsonObject,
) -> Draft {
    Draft::state(sender, MEMBER, target.as_str(), content)
}

pub(super) fn put(content: &mut CanonicalJsonObject, field: &str, text: &str) {
    content.insert(field.into(), CanonicalJsonValue::String(text.into()));
}
