//! Which events of a room a user may see (client-server API, *Room history visibility*).

use std::collections::HashMap;
use std::sync::Arc;

use log_format::record::output::{Membership, Visibility};
use ruma::UserId;
use serde::Deserialize;

use super::SyncError;
use super::history::RoomHistory;
use super::memory::Standing;
use crate::matrix::client_event::content_of;
use crate::matrix::history_visibility::Sight;
use crate::query::ids::{EventSn, StateId};
use crate::query::rooms::{StateKey, StoredEvent};

const VISIBILITY: &str = "m.room.history_visibility";

/// Judges the events of one room for one user.
pub struct Judge<'a> {
    history: &'a RoomHistory<'a>,
    user: &'a UserId,
    standing: Standing,
    member_key: StateKey,
    /// Newest offset at which the user began or continued to be joined.
    last_joined: Option<u64>,
    /// Offset at which the last stay ended, of a user who is no longer joined.
    left_at: Option<u64>,
    memberships: HashMap<EventSn, Membership>,
}

impl<'a> Judge<'a> {
    pub fn new(
        history: &'a RoomHistory<'a>,
        user: &'a UserId,
        standing: Standing,
    ) -> Result<Judge<'a>, SyncError> {
        let (mut last_joined, mut left_at) = (None, None);
        if standing.membership == Membership::Join {
            last_joined = Some(standing.changed_at);
        } else {
            for (offset, row) in history.memberships(user, 0, standing.changed_at + 1)? {
                if row.membership == Membership::Join {
                    (last_joined, left_at) = (Some(offset), None);
                } else if last_joined.is_some() && left_at.is_none() {
                    left_at = Some(offset);
                }
            }
        }
        Ok(Judge {
            history,
            user,
            standing,
            member_key: StateKey::new("m.room.member", user.as_str()),
            last_joined,
            left_at,
            memberships: HashMap::new(),
        })
    }

    /// Whether the user may see an event that came at `offset`, and their
    /// membership at it, its own effect included.
    pub fn judge(
        &mut self,
        event: &StoredEvent,
        offset: u64,
    ) -> Result<(bool, Membership), SyncError> {
        // The usual case: the user was joined then and has been ever since.
        if self.standing.joined_at.is_some_and(|since| since <= offset) {
            return Ok((true, Membership::Join));
        }
        let after = self.membership_in(event.state_after)?;
        let own = &*event.kind == "m.room.member"
            && event.state_key.as_deref() == Some(self.user.as_str());
        let before = match own {
            true => self.membership_in(event.state_before)?,
            false => after,
        };
        // Whoever left is told up to then, also where the whole world may read on.
        if !own && self.left_at.is_some_and(|left| left < offset) {
            return Ok((false, after.unwrap_or(Membership::Leave)));
        }
        let joined_later = self.last_joined.is_some_and(|joined| joined > offset);
        let (visibility_before, visibility_after) = self.visibilities(event)?;
        let sight = Sight {
            visibility_before,
            visibility_after,
            membership_before: before,
            membership_after: after,
            joined_later,
        };
        // An own membership event is always of interest to whom it concerns: an
        // invite that was rejected, a ban.
        Ok((sight.may_see() || own, after.unwrap_or(Membership::Leave)))
    }

    /// Whether the user may see an event of which only the states are known.
    pub fn may_see_replaced(&mut self, event: &StoredEvent) -> Result<bool, SyncError> {
        let joined_later = self.last_joined.is_some();
        let sight = |membership| Sight::unchanged(event.visibility, membership, joined_later);
        Ok(sight(None).may_see() || sight(self.membership_in(event.state_after)?).may_see())
    }

    /// The visibilities before and after an event: the same, but for one that
    /// changes it.
    fn visibilities(&self, event: &StoredEvent) -> Result<(Visibility, Visibility), SyncError> {
        if &*event.kind != VISIBILITY || event.state_key.as_deref() != Some("") {
            return Ok((event.visibility, event.visibility));
        }
        let before = self.entry(event.state_before, &StateKey::new(VISIBILITY, ""))?;
        let before = match before {
            Some(before) => visibility_of(&before)?,
            None => Visibility::Shared,
        };
        Ok((before, visibility_of(event)?))
    }

    fn entry(&self, state: StateId, key: &StateKey) -> Result<Option<Arc<StoredEvent>>, SyncError> {
        let (rooms, room_id) = (self.history.rooms, &self.history.room_id);
        let Some(event) = rooms.state_entry(room_id, state, key)? else {
            return Ok(None);
        };
        Ok(rooms.events(room_id, &[event])?.pop())
    }

    fn membership_in(&mut self, state: StateId) -> Result<Option<Membership>, SyncError> {
        let (rooms, room_id) = (self.history.rooms, &self.history.room_id);
        let Some(event) = rooms.state_entry(room_id, state, &self.member_key)? else {
            return Ok(None);
        };
        if let Some(known) = self.memberships.get(&event) {
            return Ok(Some(*known));
        }
        let membership = match rooms.events(room_id, &[event])?.pop() {
            Some(stored) => membership_of(&stored)?,
            None => Membership::Leave,
        };
        self.memberships.insert(event, membership);
        Ok(Some(membership))
    }
}

#[derive(Deserialize)]
struct MemberContent<'a> {
    #[serde(borrow)]
    membership: std::borrow::Cow<'a, str>,
}

/// What an `m.room.member` event says; anything else counts as `leave`.
pub fn membership_of(event: &StoredEvent) -> Result<Membership, SyncError> {
    let content = content_of(&event.json)?;
    Ok(serde_json::from_str::<MemberContent<'_>>(content)
        .ok()
        .and_then(|content| Membership::parse(&content.membership))
        .unwrap_or(Membership::Leave))
}

#[derive(Deserialize)]
struct VisibilityContent<'a> {
    #[serde(borrow)]
    history_visibility: std::borrow::Cow<'a, str>,
}

fn visibility_of(event: &StoredEvent) -> Result<Visibility, SyncError> {
    let content = content_of(&event.json)?;
    Ok(serde_json::from_str::<VisibilityContent<'_>>(content)
        .map_or(Visibility::Shared, |content| {
            Visibility::parse(&content.history_visibility)
        }))
}
