//! Has rooms purged that the operator wants gone.
//!
//! That it is wanted is a record, so that a restart goes on with it. Then the room
//! leaves the directory, its aliases go, its local users leave it, so that other
//! servers know and clients see it; and records follow that drop what is kept of
//! it, until the room server says that nothing is left. Each step may be done
//! again.

use std::sync::Arc;
use std::time::Duration;

use log_format::codec;
use log_format::record::input::{InputRoomPublished, InputRoomPurged, PurgeStep};
use log_format::record::output::{Membership, Reason};
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::{OwnedUserId, RoomId};

use super::membership::Act;
use super::room_error::RoomWriteError;
use super::room_writer::RoomWriter;
use crate::clock;
use crate::logs::log::{AppendError, NewRecord};
use crate::query::purges::{Purge, PurgeStage, RoomPurges};
use crate::query::rooms::QueryError;
use crate::writers::submit::SubmitError;

/// Records that drop rows and share a flush: the folds of so many take some ten
/// milliseconds, in which the other rooms wait.
const DROPS_AT_ONCE: usize = 4;
/// How often local users are looked for who are (again) in the room: it may be
/// open to anybody who comes back. Who is left is told all the same.
const ROUNDS_MAX: usize = 3;
/// How long it waits after a failure that may pass, a full disk for instance.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct RoomPurger {
    rooms: RoomWriter,
    purges: Arc<dyn RoomPurges>,
}

impl RoomPurger {
    pub fn new(rooms: RoomWriter, purges: Arc<dyn RoomPurges>) -> RoomPurger {
        RoomPurger { rooms, purges }
    }

    /// Has a room purged; [`RoomPurger::run`] does it. One that is being purged
    /// already is no error.
    ///
    /// Errors: `UnknownRoom`.
    pub async fn begin(&self, room_id: &RoomId) -> Result<(), RoomWriteError> {
        let record = step_record(room_id, PurgeStep::Begin);
        let submitter = self.rooms.submitter();
        match submitter.submit(room_id.as_str(), vec![record]).await {
            Ok(_) => Ok(()),
            Err(SubmitError::Refused(Reason::UnknownRoom)) => Err(RoomWriteError::UnknownRoom),
            Err(other) => Err(other.into()),
        }
    }

    /// How far the purge of a room has come; none if it never was purged.
    pub fn stage(&self, room_id: &RoomId) -> Result<Option<PurgeStage>, QueryError> {
        self.purges.purge_of(room_id)
    }

    /// Local users who are in a room, or invited to it, or knock on it.
    pub fn local_members(&self, room_id: &RoomId) -> Result<Vec<OwnedUserId>, QueryError> {
        let Some(head) = self.rooms.rooms().head(room_id)? else {
            return Ok(Vec::new());
        };
        let members = head.authority.members.iter();
        let inside = members.filter(|(user, member)| {
            let is_inside = match member.membership {
                Membership::Join | Membership::Invite | Membership::Knock => true,
                Membership::Leave | Membership::Ban => false,
            };
            is_inside && user.server_name() == self.rooms.server_name()
        });
        Ok(inside.map(|(user, _)| user.clone()).collect())
    }

    /// Purges, one room after the other, until it is dropped or nothing more is
    /// accepted.
    pub async fn run(self) {
        let mut changed = self.purges.purges_changed();
        loop {
            changed.borrow_and_update();
            let purges = match self.purges.purges() {
                Ok(purges) => purges,
                Err(error) => {
                    tracing::error!(%error, "purges could not be listed");
                    tokio::time::sleep(RETRY_AFTER).await;
                    continue;
                }
            };
            for purge in &purges {
                if !self.carry_out(purge).await {
                    return;
                }
            }
            // What began meanwhile is seen as a change.
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Purges a room, again after failures that may pass; false if nothing more
    /// is accepted.
    async fn carry_out(&self, purge: &Purge) -> bool {
        let room_id = &purge.room_id;
        loop {
            match self.try_carry_out(room_id).await {
                Ok(()) => {
                    tracing::info!(%room_id, "room purged");
                    return true;
                }
                Err(
                    RoomWriteError::Stopping
                    | RoomWriteError::Submit(
                        SubmitError::Append(AppendError::Closed) | SubmitError::Outcome(_),
                    ),
                ) => return false,
                Err(error) => {
                    tracing::error!(%room_id, %error, "the purge of a room waits");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    async fn try_carry_out(&self, room_id: &RoomId) -> Result<(), RoomWriteError> {
        if self.stage(room_id)? == Some(PurgeStage::Leaving) {
            self.hide(room_id).await?;
            self.empty(room_id).await?;
        }
        let submitter = self.rooms.submitter();
        loop {
            match self.stage(room_id)? {
                Some(PurgeStage::Leaving | PurgeStage::Dropping) => {}
                Some(PurgeStage::Complete(_)) | None => return Ok(()),
            }
            let drops = (0..DROPS_AT_ONCE).map(|_| step_record(room_id, PurgeStep::Drop));
            let submitted = submitter.submit(room_id.as_str(), drops.collect());
            submitted.await?;
        }
    }

    /// Takes the room out of the directory, and its aliases away.
    async fn hide(&self, room_id: &RoomId) -> Result<(), RoomWriteError> {
        let body = codec::encode(&InputRoomPublished { published: false });
        let record = of_room(room_id, Kind::InputRoomPublished, &body);
        let submitter = self.rooms.submitter();
        submitter.submit(room_id.as_str(), vec![record]).await?;
        for alias in self.rooms.users().aliases_of(room_id) {
            let Some(known) = self.rooms.users().alias(&alias) else {
                continue;
            };
            match self
                .rooms
                .append_alias_removal(&known.creator, &alias)
                .await
            {
                Ok(()) | Err(RoomWriteError::NotFound(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Has the local users leave. Nobody is kept for a room that refuses it.
    async fn empty(&self, room_id: &RoomId) -> Result<(), RoomWriteError> {
        for _ in 0..ROUNDS_MAX {
            let inside = self.local_members(room_id)?;
            if inside.is_empty() {
                return Ok(());
            }
            for user in inside {
                let left = self
                    .rooms
                    .change_membership(Act::Leave, room_id, &user, &user, None);
                match left.await {
                    Ok(()) | Err(RoomWriteError::Forbidden(_) | RoomWriteError::UnknownRoom) => {}
                    Err(other) => return Err(other),
                }
            }
        }
        Ok(())
    }
}

fn step_record(room_id: &RoomId, step: PurgeStep) -> NewRecord {
    let body = codec::encode(&InputRoomPurged { step });
    of_room(room_id, Kind::InputRoomPurged, &body)
}

fn of_room(room_id: &RoomId, kind: Kind, body: &[u8]) -> NewRecord {
    let envelope = NewEnvelope {
        received_us: clock::now_us(),
        key: room_id.as_str(),
        room_id: Some(room_id.as_str()),
        body,
        ..NewEnvelope::default()
    };
    NewRecord::new(kind, Source::Internal, &envelope)
}
