//! Room upgrades (client-server API, *Room Upgrades*): a successor is made, a
//! tombstone put on the old room, and what the server keeps about it moved.
//!
//! The successor is appended first, while the line of the old room is held, so
//! that no tombstone ever names a room that is not there. All that comes behind
//! the tombstone can be done again: who repeats an upgrade that broke off there
//! gets the same successor.

mod carry_over;
mod levels;
mod successor;

use std::sync::Arc;

use log_format::record::output::Membership;
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::Value;

use self::successor::Successor;
use super::aliases::publish_record;
use super::event_builder::Draft;
use super::room_error::RoomWriteError;
use super::room_presets::text;
use super::room_state::RoomState;
use super::room_writer::RoomWriter;
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::query::rooms::RoomHead;

pub(super) const TOMBSTONE: &str = "m.room.tombstone";
const CANONICAL_ALIAS: &str = "m.room.canonical_alias";
const POWER_LEVELS: &str = "m.room.power_levels";

/// A request to upgrade a room.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// Name of the successor's version.
    pub version: String,
    /// Creators beside who upgrades; without meaning before version 12.
    pub additional_creators: Vec<OwnedUserId>,
}

/// How far the making of the successor got.
enum Progress {
    Begun,
    /// Planned on the newest head, not appended.
    Planned(Box<Successor>),
    /// In the log, not named by a tombstone yet.
    Created(OwnedRoomId),
    /// An earlier request made this one.
    Earlier(OwnedRoomId),
}

impl RoomWriter {
    /// Upgrades a room and returns the id of its successor. It goes on by itself
    /// when the caller is dropped.
    ///
    /// Errors: `UnknownRoom` also for rooms that the user is not in;
    /// `UnsupportedRoomVersion`; `Forbidden` for who may send no tombstone.
    pub async fn upgrade_room(
        &self,
        user: &UserId,
        room_id: &RoomId,
        request: Upgrade,
    ) -> Result<OwnedRoomId, RoomWriteError> {
        let Some(version) = RoomVersion::parse(&request.version) else {
            return Err(RoomWriteError::UnsupportedRoomVersion(request.version));
        };
        let membership = self.rooms().membership(room_id, user)?;
        if membership != Some(Membership::Join) {
            return Err(RoomWriteError::UnknownRoom);
        }
        let (writer, user, room_id) = (self.clone(), user.to_owned(), room_id.to_owned());
        let creators = request.additional_creators;
        let steps = async move {
            let successor = writer.replace(&user, &room_id, version, creators).await?;
            writer.move_aliases(&user, &room_id, &successor).await?;
            writer.withdraw_canonical_alias(&user, &room_id).await?;
            writer
                .move_in_directory(&user, &room_id, &successor)
                .await?;
            writer.silence(&user, &room_id).await?;
            writer.carry_over(&user, &successor).await?;
            Ok(successor)
        };
        match tokio::spawn(steps).await {
            Ok(done) => done,
            Err(_) => Err(RoomWriteError::Stopping),
        }
    }

    /// Makes the successor and puts the tombstone, or finds what an earlier
    /// request of the same user made.
    async fn replace(
        &self,
        user: &UserId,
        room_id: &RoomId,
        version: RoomVersion,
        creators: Vec<OwnedUserId>,
    ) -> Result<OwnedRoomId, RoomWriteError> {
        let progress = Arc::new(Mutex::new(Progress::Begun));
        let (writer, sender, shared) = (self.clone(), user.to_owned(), progress.clone());
        let choose = Box::new(move |head: &RoomHead| {
            if let Progress::Created(successor) = &*shared.lock() {
                return Ok(Some(tombstone(&sender, successor)));
            }
            if let Some(earlier) = writer.successor_of(head, &sender, version)? {
                *shared.lock() = Progress::Earlier(earlier);
                return Ok(None);
            }
            let plan = Successor::plan(&writer, head, &sender, version, &creators)?;
            let draft = tombstone(&sender, plan.room_id());
            *shared.lock() = Progress::Planned(Box::new(plan));
            Ok(Some(draft))
        });
        let (writer, shared) = (self.clone(), progress.clone());
        let before = Box::new(move |tombstone: OwnedEventId| {
            let work = async move {
                let planned = std::mem::replace(&mut *shared.lock(), Progress::Begun);
                let Progress::Planned(plan) = planned else {
                    return Ok(());
                };
                let (room_id, batch) = plan.build(&writer, &tombstone)?;
                writer.submitter().submit(room_id.as_str(), batch).await?;
                *shared.lock() = Progress::Created(room_id);
                Ok(())
            };
            Box::pin(work) as super::sequencer::Work
        });
        self.sequencer()
            .set_state_after(room_id, choose, before)
            .await?;
        match &*progress.lock() {
            Progress::Created(successor) | Progress::Earlier(successor) => Ok(successor.clone()),
            Progress::Begun | Progress::Planned(_) => Err(RoomWriteError::Contended),
        }
    }

    /// The room of this version that the same user made as the successor, if
    /// the tombstone that holds names one that they are still in.
    fn successor_of(
        &self,
        head: &RoomHead,
        user: &UserId,
        version: RoomVersion,
    ) -> Result<Option<OwnedRoomId>, RoomWriteError> {
        let rooms = &**self.rooms();
        let Some(tombstone) = RoomState::new(rooms, head).event(TOMBSTONE, "")? else {
            return Ok(None);
        };
        if tombstone.sender != user {
            return Ok(None);
        }
        let Some(named) = replacement_room(&tombstone.json) else {
            return Ok(None);
        };
        let Some(successor) = rooms.head(&named)? else {
            return Ok(None);
        };
        let authority = &successor.authority;
        let is_theirs = authority.create_sender == user
            && authority.create_info.version == version
            && authority.is_joined(user)
            && predecessor(&RoomState::new(rooms, &successor))?.as_ref() == Some(&head.room_id);
        Ok(is_theirs.then_some(named))
    }

    /// The successor has the canonical alias now. Who may not say so in the old
    /// room leaves it there.
    async fn withdraw_canonical_alias(
        &self,
        user: &UserId,
        room_id: &RoomId,
    ) -> Result<(), RoomWriteError> {
        let (rooms, sender) = (self.rooms().clone(), user.to_owned());
        let choose = Box::new(move |head: &RoomHead| {
            let content = RoomState::new(&*rooms, head).content(CANONICAL_ALIAS, "")?;
            let is_due = content.is_some_and(|content| !content.is_empty());
            let empty = CanonicalJsonObject::new();
            Ok(is_due.then(|| Draft::state(&sender, CANONICAL_ALIAS, "", empty)))
        });
        may_be_forbidden(self.sequencer().set_state(room_id, choose).await.map(drop))
    }

    /// The successor takes the old room's place in the published directory, now
    /// that a tombstone leads there.
    async fn move_in_directory(
        &self,
        user: &UserId,
        room_id: &RoomId,
        successor: &RoomId,
    ) -> Result<(), RoomWriteError> {
        if !self.rooms().published()?.iter().any(|room| room == room_id) {
            return Ok(());
        }
        for (room, published) in [(successor, true), (room_id, false)] {
            let batch = vec![publish_record(user, room, published)];
            self.submitter().submit(room.as_str(), batch).await?;
        }
        Ok(())
    }

    /// Raises what talking and inviting takes in the old room.
    async fn silence(&self, user: &UserId, room_id: &RoomId) -> Result<(), RoomWriteError> {
        let (rooms, sender) = (self.rooms().clone(), user.to_owned());
        let choose = Box::new(move |head: &RoomHead| {
            let content = RoomState::new(&*rooms, head).canonical(POWER_LEVELS, "")?;
            let silent = levels::silenced(&head.authority.levels, content.unwrap_or_default());
            Ok(silent.map(|content| Draft::state(&sender, POWER_LEVELS, "", content)))
        });
        may_be_forbidden(self.sequencer().set_state(room_id, choose).await.map(drop))
    }
}

/// What the old room does not allow is not done there.
fn may_be_forbidden(done: Result<(), RoomWriteError>) -> Result<(), RoomWriteError> {
    match done {
        Err(RoomWriteError::Forbidden(_) | RoomWriteError::BadJson(_)) => Ok(()),
        done => done,
    }
}

fn tombstone(sender: &UserId, successor: &RoomId) -> Draft {
    let mut content = text("body", "This room has been replaced");
    content.extend(text("replacement_room", successor.as_str()));
    Draft::state(sender, TOMBSTONE, "", content)
}

/// The successor that a tombstone names.
fn replacement_room(tombstone: &[u8]) -> Option<OwnedRoomId> {
    let mut content = super::room_state::content_of(tombstone)?;
    match content.remove("replacement_room") {
        Some(Value::String(room)) => OwnedRoomId::try_from(room).ok(),
        _ => None,
    }
}

/// The room that this one is the successor of, as its create event says.
fn predecessor(room: &RoomState<'_>) -> Result<Option<OwnedRoomId>, RoomWriteError> {
    let content = room.content("m.room.create", "")?.unwrap_or_default();
    let named = content
        .get("predecessor")
        .and_then(|it| it.get("room_id"))
        .and_then(Value::as_str);
    Ok(named.and_then(|room| OwnedRoomId::try_from(room).ok()))
}
