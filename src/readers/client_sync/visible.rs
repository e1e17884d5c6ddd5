//! Which events of a room an answer tells a user of: what they may see by
//! [`crate::query::visibility`], within what concerns who left.

use log_format::record::output::Membership;
use ruma::UserId;

use super::SyncError;
use super::history::RoomHistory;
use super::memory::Standing;
use crate::query::rooms::StoredEvent;
use crate::query::unwanted::Unwanted;
use crate::query::visibility::{Viewer, Viewpoint};

/// Judges the events of one room for one user.
pub struct Judge<'a> {
    pub viewpoint: Viewpoint<'a>,
    user: &'a UserId,
    is_joined: bool,
    /// Offset at which the last stay ended, of a user who is no longer joined.
    left_at: Option<u64>,
}

impl<'a> Judge<'a> {
    pub fn new(
        history: &RoomHistory<'a>,
        user: &'a UserId,
        standing: Standing,
        unwanted: &Unwanted,
    ) -> Result<Judge<'a>, SyncError> {
        let is_joined = standing.membership == Membership::Join;
        let (mut was_joined, mut left_at) = (false, None);
        if !is_joined {
            for (offset, row) in history.memberships(user, 0, standing.changed_at + 1)? {
                let joins = row.membership == Membership::Join;
                if was_joined && !joins {
                    left_at = Some(offset);
                }
                was_joined = joins;
            }
        }
        Ok(Judge {
            viewpoint: Viewpoint::new(history.rooms, &history.room_id, Viewer::User(user))
                .without(unwanted.clone()),
            user,
            is_joined,
            left_at,
        })
    }

    /// Whether the user is told of an event that came at `offset`. Who never was
    /// in the room is told of their own membership alone.
    pub fn tells(&self, event: &StoredEvent, offset: u64) -> Result<bool, SyncError> {
        // An own membership event is always of interest to whom it concerns: an
        // invite that was rejected, a ban.
        if &*event.kind == "m.room.member" && event.state_key.as_deref() == Some(self.user.as_str())
        {
            return Ok(true);
        }
        // Whoever left is told up to then, also where the whole world may read on.
        if !self.is_joined && self.left_at.is_none_or(|left| left < offset) {
            return Ok(false);
        }
        // The rows know each stay as it was, also one that a resolution undid.
        let joined_later = self.is_joined || self.left_at.is_some_and(|left| left > offset);
        Ok(self.viewpoint.may_see_given(event, joined_later)?)
    }
}
