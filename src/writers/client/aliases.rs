//! Room aliases of this server, and the published room directory.

use log_format::codec;
use log_format::record::input::{InputAliasCreated, InputAliasRemoved, InputRoomPublished};
use log_format::record::output::{Membership, Reason};
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::{RoomAliasId, RoomId, UserId};

use super::event_builder::Draft;
use super::room_error::RoomWriteError;
use super::room_state::RoomState;
use super::room_writer::RoomWriter;
use crate::clock;
use crate::logs::log::NewRecord;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::query::rooms::RoomHead;
use crate::query::users::Alias;
use crate::writers::submit::SubmitError;

const CANONICAL_ALIAS: &str = "m.room.canonical_alias";

impl RoomWriter {
    /// Gives a room an alias of this server.
    ///
    /// Errors: [`RoomWriteError::AliasExists`], `InvalidParam` for an alias of
    /// another server, `Forbidden` for a room that the user is not in.
    pub async fn create_alias(
        &self,
        user: &UserId,
        alias: &RoomAliasId,
        room_id: &RoomId,
    ) -> Result<(), RoomWriteError> {
        self.check_alias_is_ours(alias)?;
        let membership = self.rooms().membership(room_id, user)?;
        if membership != Some(Membership::Join) {
            return Err(RoomWriteError::Forbidden("you are not in this room".into()));
        }
        match self.append_alias(user, alias, room_id).await {
            Err(RoomWriteError::AliasTaken(alias)) => Err(RoomWriteError::AliasExists(alias)),
            other => other,
        }
    }

    /// Appends the alias without a look at the room, which may not be there yet.
    pub(super) async fn append_alias(
        &self,
        user: &UserId,
        alias: &RoomAliasId,
        room_id: &RoomId,
    ) -> Result<(), RoomWriteError> {
        if let Some(known) = self.users().alias(alias) {
            // An alias that a crash left without its room is free again.
            let is_free = self.rooms().head(&known.room_id)?.is_none()
                && !self.reserved_aliases().contains(alias);
            if !is_free {
                return Err(RoomWriteError::AliasTaken(alias.to_owned()));
            }
            self.append_alias_removal(user, alias).await?;
        }
        let servers = vec![self.server_name().to_string()];
        let record = created_record(user, alias, room_id, servers);
        let submitted = self.submitter().submit(alias.as_str(), vec![record]).await;
        match submitted {
            Ok(_) => Ok(()),
            Err(SubmitError::Refused(Reason::Taken)) => {
                Err(RoomWriteError::AliasTaken(alias.to_owned()))
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Removes an alias: who made it may, and who may set the room's canonical alias.
    /// The room then no longer names it either, if the user may say so there.
    pub async fn delete_alias(
        &self,
        user: &UserId,
        alias: &RoomAliasId,
    ) -> Result<(), RoomWriteError> {
        let Some(known) = self.users().alias(alias) else {
            return Err(RoomWriteError::NotFound("no such alias".into()));
        };
        if known.creator != user && !self.may_set(user, &known.room_id)? {
            return Err(RoomWriteError::Forbidden(
                "you may not delete this alias".into(),
            ));
        }
        self.append_alias_removal(user, alias).await?;
        self.unname(user, alias, &known.room_id).await
    }

    /// Takes a removed alias out of the room's `m.room.canonical_alias`. Who may
    /// not change that leaves it there: the alias is gone all the same.
    ///
    /// Source: client-server API, *DELETE directory/room*.
    async fn unname(
        &self,
        user: &UserId,
        alias: &RoomAliasId,
        room_id: &RoomId,
    ) -> Result<(), RoomWriteError> {
        let (rooms, sender, alias) = (self.rooms().clone(), user.to_owned(), alias.to_owned());
        let choose = Box::new(move |head: &RoomHead| {
            let named = RoomState::new(&*rooms, head).canonical(CANONICAL_ALIAS, "")?;
            let left = named.and_then(|named| without(named, &alias));
            Ok(left.map(|left| Draft::state(&sender, CANONICAL_ALIAS, "", left)))
        });
        match self.sequencer().set_state(room_id, choose).await {
            Ok(_) | Err(RoomWriteError::Forbidden(_) | RoomWriteError::UnknownRoom) => Ok(()),
            Err(other) => Err(other),
        }
    }

    pub(super) async fn append_alias_removal(
        &self,
        user: &UserId,
        alias: &RoomAliasId,
    ) -> Result<(), RoomWriteError> {
        let record = removed_record(user, alias);
        let submitted = self.submitter().submit(alias.as_str(), vec![record]).await;
        match submitted {
            Ok(_) => Ok(()),
            Err(SubmitError::Refused(Reason::NotFound)) => {
                Err(RoomWriteError::NotFound("no such alias".into()))
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Lets all our aliases of a room point to its successor. They remain those
    /// of who made them. What was moved before is not moved again.
    pub(super) async fn move_aliases(
        &self,
        user: &UserId,
        from: &RoomId,
        to: &RoomId,
    ) -> Result<(), RoomWriteError> {
        for alias in self.users().aliases_of(from) {
            let Some(known) = self.users().alias(&alias) else {
                continue;
            };
            let batch = vec![
                removed_record(user, &alias),
                created_record(&known.creator, &alias, to, servers_of(&known)),
            ];
            match self.submitter().submit(alias.as_str(), batch).await {
                // Somebody removed or moved it meanwhile.
                Ok(_) | Err(SubmitError::Refused(Reason::NotFound | Reason::Taken)) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok(())
    }

    /// Puts a room into the published directory, or takes it out. For members
    /// who may set the canonical alias, as most servers ask.
    pub async fn publish(
        &self,
        user: &UserId,
        room_id: &RoomId,
        published: bool,
    ) -> Result<(), RoomWriteError> {
        if self.rooms().head(room_id)?.is_none() {
            return Err(RoomWriteError::NotFound("no such room".into()));
        }
        if !self.may_set(user, room_id)? {
            return Err(RoomWriteError::Forbidden(
                "you may not change this room's place in the directory".into(),
            ));
        }
        let record = publish_record(user, room_id, published);
        self.submitter()
            .submit(room_id.as_str(), vec![record])
            .await?;
        Ok(())
    }

    fn may_set(&self, user: &UserId, room_id: &RoomId) -> Result<bool, RoomWriteError> {
        let Some(head) = self.rooms().head(room_id)? else {
            return Ok(false);
        };
        let authority = &head.authority;
        Ok(authority.is_joined(user) && authority.has_power_to_send(user, CANONICAL_ALIAS, true))
    }

    fn check_alias_is_ours(&self, alias: &RoomAliasId) -> Result<(), RoomWriteError> {
        if alias.server_name() != self.server_name() {
            return Err(RoomWriteError::InvalidParam(
                "the alias belongs to another server".into(),
            ));
        }
        let localpart = alias.alias();
        let strict = crate::matrix::ids::new_room_alias(localpart, self.server_name());
        match strict {
            Ok(_) => Ok(()),
            Err(why) => Err(RoomWriteError::InvalidParam(format!("the alias {why}"))),
        }
    }
}

/// The content of `m.room.canonical_alias` without an alias; none if it does not
/// name it.
fn without(mut named: CanonicalJsonObject, alias: &RoomAliasId) -> Option<CanonicalJsonObject> {
    let is_it = |value: &CanonicalJsonValue| value.as_str() == Some(alias.as_str());
    let mut found = false;
    if named.get("alias").is_some_and(is_it) {
        named.remove("alias");
        found = true;
    }
    if let Some(CanonicalJsonValue::Array(others)) = named.get_mut("alt_aliases") {
        let before = others.len();
        others.retain(|other| !is_it(other));
        found |= others.len() < before;
        if others.is_empty() {
            named.remove("alt_aliases");
        }
    }
    found.then_some(named)
}

fn servers_of(alias: &Alias) -> Vec<String> {
    let servers = alias.servers.iter();
    servers.map(ToString::to_string).collect()
}

fn created_record(
    user: &UserId,
    alias: &RoomAliasId,
    room_id: &RoomId,
    servers: Vec<String>,
) -> NewRecord {
    let body = codec::encode(&InputAliasCreated { servers });
    let envelope = NewEnvelope {
        received_us: clock::now_us(),
        key: alias.as_str(),
        room_id: Some(room_id.as_str()),
        sender: Some(user.as_str()),
        body: &body,
        ..NewEnvelope::default()
    };
    NewRecord::new(Kind::InputAliasCreated, Source::Client, &envelope)
}

fn removed_record(user: &UserId, alias: &RoomAliasId) -> NewRecord {
    let body = codec::encode(&InputAliasRemoved {});
    let envelope = NewEnvelope {
        received_us: clock::now_us(),
        key: alias.as_str(),
        sender: Some(user.as_str()),
        body: &body,
        ..NewEnvelope::default()
    };
    NewRecord::new(Kind::InputAliasRemoved, Source::Client, &envelope)
}

/// The record that changes a room's place in the directory.
pub(super) fn publish_record(user: &UserId, room_id: &RoomId, published: bool) -> NewRecord {
    let body = codec::encode(&InputRoomPublished { published });
    let envelope = NewEnvelope {
        received_us: clock::now_us(),
        key: room_id.as_str(),
        room_id: Some(room_id.as_str()),
        sender: Some(user.as_str()),
        body: &body,
        ..NewEnvelope::default()
    };
    NewRecord::new(Kind::InputRoomPublished, Source::Client, &envelope)
}
