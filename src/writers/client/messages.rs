//! Messages, redactions and state set by clients.

use log_format::record::input::Transaction;
use log_format::record::output::Membership;
use ruma::{DeviceId, EventId, OwnedEventId, OwnedUserId, RoomId, RoomVersionId, UserId};

use super::acl_checks;
use super::canonical_alias::{self, CANONICAL_ALIAS};
use super::event_builder::Draft;
use super::joins;
use super::membership::check_invite;
use super::relation_checks::Check;
use super::room_error::RoomWriteError;
use super::room_state::RoomState;
use super::room_writer::RoomWriter;
use super::sequencer::ClientTransaction;
use super::upgrade::TOMBSTONE;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::query::authority::Power;
use crate::query::rooms::{RoomHead, Rooms};
use crate::query::visibility::{Viewer, Viewpoint};

/// Who asks, and with which transaction id.
#[derive(Clone, Copy, Debug)]
pub struct FromDevice<'a> {
    pub user_id: &'a UserId,
    pub device_id: &'a DeviceId,
    /// None where the client names none; then a repeat sends another event.
    pub txn_id: Option<&'a str>,
}

impl FromDevice<'_> {
    /// A request is a repeat if the same device names the same transaction on
    /// the same path (client-server API, *Transaction identifiers*). The room
    /// is part of the table that the key is looked up in.
    fn transaction(&self, endpoint: &str, path: &str) -> Option<ClientTransaction> {
        let txn_id = self.txn_id?;
        let mut hasher = blake3::Hasher::new();
        for part in [
            "engram client transaction",
            self.user_id.as_str(),
            self.device_id.as_str(),
            endpoint,
            path,
            txn_id,
        ] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let mut idempotency = [0; 16];
        hasher.finalize_xof().fill(&mut idempotency);
        Some(ClientTransaction {
            idempotency,
            echo: Transaction {
                device_id: self.device_id.as_str().to_owned(),
                txn_id: txn_id.to_owned(),
            },
        })
    }
}

impl RoomWriter {
    /// Sends a message-like event. A repeat gives the first one's event id.
    pub async fn send_message(
        &self,
        from: FromDevice<'_>,
        room_id: &RoomId,
        kind: &str,
        content: CanonicalJsonObject,
    ) -> Result<OwnedEventId, RoomWriteError> {
        if kind == "m.room.redaction" {
            // The other way to redact, with the target in the content
            // (room version 11, *Redactions*).
            let target = match content.get("redacts") {
                Some(CanonicalJsonValue::String(target)) => EventId::parse(target.as_str()),
                _ => return Err(RoomWriteError::BadJson("redacts is missing".into())),
            };
            let Ok(target) = target else {
                return Err(RoomWriteError::BadJson("redacts is no event id".into()));
            };
            let transaction = from.transaction("send", kind);
            return self
                .redact_with(
                    from.user_id,
                    room_id,
                    &target,
                    content,
                    transaction.as_ref(),
                )
                .await;
        }
        check_tombstone(room_id, kind, &content)?;
        let transaction = from.transaction("send", kind);
        let check = Check::of(&content);
        let draft = Draft::message(from.user_id, kind, content);
        self.send_checked(check, room_id, &draft, transaction.as_ref())
            .await
    }

    /// Redacts an event, one's own or with the power for it.
    pub async fn redact(
        &self,
        from: FromDevice<'_>,
        room_id: &RoomId,
        target: &EventId,
        reason: Option<String>,
    ) -> Result<OwnedEventId, RoomWriteError> {
        let mut content = CanonicalJsonObject::new();
        if let Some(reason) = reason {
            content.insert("reason".into(), CanonicalJsonValue::String(reason));
        }
        let transaction = from.transaction("redact", target.as_str());
        self.redact_with(from.user_id, room_id, target, content, transaction.as_ref())
            .await
    }

    async fn redact_with(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &EventId,
        mut content: CanonicalJsonObject,
        transaction: Option<&ClientTransaction>,
    ) -> Result<OwnedEventId, RoomWriteError> {
        let head = self.rooms().head(room_id)?;
        let head = head.ok_or_else(|| hide_unknown_room(RoomWriteError::UnknownRoom))?;
        if !head.authority.is_joined(sender) {
            return Err(hide_unknown_room(RoomWriteError::UnknownRoom));
        }
        let Some(redacted) = self.rooms().event(room_id, target)? else {
            return Err(no_such_event());
        };
        if redacted.sender != sender {
            let authority = &head.authority;
            if authority.power(sender) < Power::Level(authority.levels.redact) {
                let rooms: &dyn Rooms = &**self.rooms();
                let viewpoint = Viewpoint::at_head(rooms, &head, Viewer::User(sender));
                if !viewpoint.may_see(&redacted)? {
                    return Err(no_such_event());
                }
                return Err(RoomWriteError::Forbidden(
                    "you may not redact events of others in this room".into(),
                ));
            }
        }
        let in_content = redacts_in_content(&head.version);
        if in_content {
            let target = CanonicalJsonValue::String(target.as_str().to_owned());
            content.insert("redacts".into(), target);
        }
        let mut draft = Draft::message(sender, "m.room.redaction", content);
        draft.redacts = Some(target.to_owned());
        let sent = self.sequencer().send(room_id, &draft, transaction);
        sent.await.map_err(hide_unknown_room)
    }

    /// Sets a piece of state.
    pub async fn put_state(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        kind: &str,
        state_key: &str,
        content: CanonicalJsonObject,
    ) -> Result<OwnedEventId, RoomWriteError> {
        check_tombstone(room_id, kind, &content)?;
        let head = self.rooms().head(room_id)?;
        let servers = head.iter().flat_map(|head| head.servers.keys());
        let servers = servers.map(|server| &**server);
        acl_checks::check(self.server_name(), servers, (kind, state_key), &content)?;
        let invited = invited_by(kind, state_key, &content);
        let is_ours = |user: &OwnedUserId| user.server_name() == self.server_name();
        let invited_elsewhere = invited.clone().filter(|user| !is_ours(user));
        let joins = is_membership(kind, &content, "join") && state_key == sender.as_str();
        let draft = Draft::state(sender, kind, state_key, content);
        let (rooms, users) = (self.rooms().clone(), self.users().clone());
        let choose = Box::new(move |head: &RoomHead| {
            let state = RoomState::new(&*rooms, head);
            if &*draft.kind == CANONICAL_ALIAS {
                canonical_alias::check(&state, &*users, &draft.content)?;
            }
            if let Some(invited) = &invited {
                check_invite(&*users, head, &draft.sender, invited)?;
            }
            let mut draft = draft.clone();
            if joins {
                joins::complete(&*users, &state, &draft.sender, &mut draft.content)?;
            }
            Ok(Some(draft))
        });
        let before = match joins {
            true => self.rooms().membership(room_id, sender)?,
            false => None,
        };
        let elsewhere = invited_elsewhere.as_deref();
        let written = match elsewhere {
            Some(target) => self.set_invite(room_id, target, choose).await,
            None => self.sequencer().set_state(room_id, choose).await,
        };
        let written = written.map_err(hide_unknown_room)?;
        if joins && before != Some(Membership::Join) {
            self.after_join(room_id, sender).await;
        }
        written.ok_or(RoomWriteError::Contended)
    }
}

/// Whom a state event invites.
fn invited_by(kind: &str, state_key: &str, content: &CanonicalJsonObject) -> Option<OwnedUserId> {
    let invited = UserId::parse(state_key).ok()?;
    is_membership(kind, content, "invite").then_some(invited)
}

/// Whether an event gives somebody this membership.
fn is_membership(kind: &str, content: &CanonicalJsonObject, word: &str) -> bool {
    let membership = content.get("membership");
    kind == "m.room.member" && membership.and_then(CanonicalJsonValue::as_str) == Some(word)
}

/// A room cannot be its own successor: clients would go in circles.
fn check_tombstone(
    room_id: &RoomId,
    kind: &str,
    content: &CanonicalJsonObject,
) -> Result<(), RoomWriteError> {
    let named = content.get("replacement_room");
    let named = named.and_then(CanonicalJsonValue::as_str);
    match kind == TOMBSTONE && named == Some(room_id.as_str()) {
        true => Err(RoomWriteError::InvalidParam(
            "a room cannot be replaced by itself".into(),
        )),
        false => Ok(()),
    }
}

/// Whether `redacts` is in the content (room version 11 and later).
fn redacts_in_content(version: &RoomVersionId) -> bool {
    crate::matrix::RoomVersion::try_from(version)
        .is_ok_and(|version| version.rules().redaction.content_field_redacts)
}

/// The same for an event of another room and for one that the user may not see,
/// so that nobody learns of it.
fn no_such_event() -> RoomWriteError {
    RoomWriteError::InvalidParam("there is no such event in this room".into())
}

/// To who is not in it, a room that does not exist looks like any other.
pub(super) fn hide_unknown_room(error: RoomWriteError) -> RoomWriteError {
    match error {
        RoomWriteError::UnknownRoom => RoomWriteError::Forbidden("you are not in this room".into()),
        other => other,
    }
}
