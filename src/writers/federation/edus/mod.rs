//! What other servers tell of their users that is no event: who types, who read
//! what, who is there (server-server API, *EDUs*).
//!
//! A server speaks for its own users, in rooms that they are in and that let it
//! take part. Whatever does not fit is dropped, alone, and counted.

mod presence;
mod receipts;

use std::sync::Arc;

use log_format::record::Source;
use log_format::record::output::Membership;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};

pub use self::presence::RemotePresence;

use crate::limits::EDU_BYTES_MAX;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue, write_value};
use crate::query::rooms::{QueryError, RoomHead, Rooms};
use crate::query::server_acls::ServerAcls;
use crate::telemetry::names;
use crate::writers::client::receipt_setter::ReceiptSetter;
use crate::writers::client::typing_setter::{self, TypingSetter};
use crate::writers::federation::remote_rooms::RemoteRooms;

/// Why an EDU, or a part of one, is dropped; the words are a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dropped {
    TooLarge,
    Malformed,
    /// Devices and keys, until there is encryption.
    NotYet,
    UnknownType,
    /// A user of another server than the one that tells.
    OtherServer,
    /// Not in the room, or in none that we are in.
    NotThere,
    /// The room does not let the server take part.
    Acl,
    /// It could not be written, and is not worth being tried again.
    NotWritten,
}

impl Dropped {
    fn label(self) -> &'static str {
        match self {
            Dropped::TooLarge => "too_large",
            Dropped::Malformed => "malformed",
            Dropped::NotYet => "not_yet",
            Dropped::UnknownType => "unknown_type",
            Dropped::OtherServer => "other_server",
            Dropped::NotThere => "not_there",
            Dropped::Acl => "acl",
            Dropped::NotWritten => "not_written",
        }
    }

    fn count(self) {
        metrics::counter!(names::EDUS_DROPPED, "reason" => self.label()).increment(1);
    }
}

impl From<QueryError> for Dropped {
    fn from(error: QueryError) -> Dropped {
        tracing::warn!(%error, "an EDU is dropped");
        Dropped::NotWritten
    }
}

/// What EDUs need.
pub struct Parts {
    /// Our own name.
    pub own: OwnedServerName,
    pub rooms: Arc<dyn Rooms>,
    pub acls: ServerAcls,
    pub typing: TypingSetter,
    pub receipts: ReceiptSetter,
    pub remote: RemoteRooms,
    /// None where the operator has no presence.
    pub presence: Option<RemotePresence>,
}

/// Takes EDUs in.
pub struct Edus {
    parts: Parts,
}

impl Edus {
    pub fn new(parts: Parts) -> Edus {
        Edus { parts }
    }

    /// Takes in what `origin` tells, one after the other; none stops the next.
    pub async fn receive(&self, origin: &ServerName, edus: Vec<CanonicalJsonValue>) {
        for edu in &edus {
            metrics::counter!(names::EDUS_RECEIVED).increment(1);
            if let Err(dropped) = self.receive_one(origin, edu).await {
                dropped.count();
            }
            // Most of the work is look-ups in memory, which never give way.
            tokio::task::yield_now().await;
        }
    }

    async fn receive_one(
        &self,
        origin: &ServerName,
        edu: &CanonicalJsonValue,
    ) -> Result<(), Dropped> {
        let edu = bounded(edu)?;
        let content = edu.get("content").and_then(CanonicalJsonValue::as_object);
        let content = content.ok_or(Dropped::Malformed)?;
        match text(edu, "edu_type")? {
            "m.typing" => self.typing(origin, content).await,
            "m.receipt" => self.receipts(origin, content).await,
            "m.presence" => self.presence(origin, content).await,
            "m.direct_to_device" | "m.device_list_update" | "m.signing_key_update" => {
                Err(Dropped::NotYet)
            }
            _ => Err(Dropped::UnknownType),
        }
    }

    /// Server-server API, *Typing Notifications*. It ends by itself if its server
    /// does not say so.
    async fn typing(
        &self,
        origin: &ServerName,
        content: &CanonicalJsonObject,
    ) -> Result<(), Dropped> {
        let user = user_of(origin, text(content, "user_id")?)?;
        let room = room_id(text(content, "room_id")?)?;
        let typing = content.get("typing").and_then(CanonicalJsonValue::as_bool);
        let typing = typing.ok_or(Dropped::Malformed)?;
        let head = self.open_room(origin, &room)?;
        if typing && !head.authority.is_joined(&user) {
            return Err(Dropped::NotThere);
        }
        let timeout = typing.then_some(typing_setter::TIMEOUT_DEFAULT);
        let told = self
            .parts
            .typing
            .tell(&room, &user, Source::Federation, timeout);
        told.await.map_err(|_| Dropped::NotWritten)
    }

    async fn presence(
        &self,
        origin: &ServerName,
        content: &CanonicalJsonObject,
    ) -> Result<(), Dropped> {
        let pushed = content.get("push").and_then(CanonicalJsonValue::as_array);
        let pushed = pushed.ok_or(Dropped::Malformed)?;
        let Some(presence) = &self.parts.presence else {
            return Ok(());
        };
        for told in presence::last_of_each(pushed) {
            if let Err(dropped) = self.presence_of_one(origin, presence, told).await {
                dropped.count();
            }
        }
        Ok(())
    }

    async fn presence_of_one(
        &self,
        origin: &ServerName,
        presence: &RemotePresence,
        told: &CanonicalJsonObject,
    ) -> Result<(), Dropped> {
        let user = user_of(origin, text(told, "user_id")?)?;
        let shown = presence::shown(told).ok_or(Dropped::Malformed)?;
        let shares = self.shares_a_room(&user)?;
        // Servers tell who is there when they let us in, and we are in a moment later.
        if !shares && !self.parts.remote.is_joining() {
            return Err(Dropped::NotThere);
        }
        let told = presence.tell(&user, shown, shares);
        told.map_err(|_| Dropped::NotWritten)
    }

    /// The room, if we are in it and it lets the server take part.
    fn open_room(&self, origin: &ServerName, room: &RoomId) -> Result<Arc<RoomHead>, Dropped> {
        let head = self.parts.rooms.head(room)?;
        let head = head.filter(|head| head.is_resident(&self.parts.own));
        let head = head.ok_or(Dropped::NotThere)?;
        match self.parts.acls.allows(&head, origin)? {
            true => Ok(head),
            false => Err(Dropped::Acl),
        }
    }

    /// Whether a user is in a room that we are in.
    fn shares_a_room(&self, user: &UserId) -> Result<bool, QueryError> {
        for membership in self.parts.rooms.rooms_of(user)? {
            if membership.membership != Membership::Join {
                continue;
            }
            let head = self.parts.rooms.head(&membership.room_id)?;
            if head.is_some_and(|head| head.is_resident(&self.parts.own)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Bytes of EDUs, as they came.
pub fn bytes(edus: &[CanonicalJsonValue]) -> usize {
    let mut bytes = Vec::new();
    edus.iter().for_each(|edu| write_value(&mut bytes, edu));
    bytes.len()
}

/// An EDU that is an object of a size that is allowed.
fn bounded(edu: &CanonicalJsonValue) -> Result<&CanonicalJsonObject, Dropped> {
    if bytes(std::slice::from_ref(edu)) > EDU_BYTES_MAX {
        return Err(Dropped::TooLarge);
    }
    edu.as_object().ok_or(Dropped::Malformed)
}

fn text<'a>(object: &'a CanonicalJsonObject, key: &str) -> Result<&'a str, Dropped> {
    let text = object.get(key).and_then(CanonicalJsonValue::as_str);
    text.ok_or(Dropped::Malformed)
}

fn room_id(text: &str) -> Result<OwnedRoomId, Dropped> {
    OwnedRoomId::try_from(text).map_err(|_| Dropped::Malformed)
}

/// A user of the server that tells.
fn user_of(origin: &ServerName, text: &str) -> Result<OwnedUserId, Dropped> {
    let user = OwnedUserId::try_from(text).map_err(|_| Dropped::Malformed)?;
    match user.server_name() == origin {
        true => Ok(user),
        false => Err(Dropped::OtherServer),
    }
}
