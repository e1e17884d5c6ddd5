//! Leaving every room, as a user does who goes for good.

use log_format::record::output::Membership;
use ruma::UserId;

use super::membership::Act;
use super::room_error::RoomWriteError;
use super::room_writer::RoomWriter;

impl RoomWriter {
    /// Leaves the rooms that the user is in, rejects invites and takes back
    /// knocks. A room that refuses is skipped: nobody is kept for it.
    ///
    /// Broken off, it can be done again and goes on where it was.
    pub async fn leave_all(&self, user: &UserId) -> Result<(), RoomWriteError> {
        for seen in self.rooms().outside_of(user)? {
            self.leave_elsewhere(&seen.room_id, user, None).await?;
        }
        for room in self.rooms().rooms_of(user)? {
            match room.membership {
                Membership::Join | Membership::Invite | Membership::Knock => {}
                Membership::Leave | Membership::Ban => continue,
            }
            let left = self.change_membership(Act::Leave, &room.room_id, user, user, None);
            match left.await {
                Ok(()) | Err(RoomWriteError::Forbidden(_) | RoomWriteError::UnknownRoom) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }
}
