//! `presence`: who is there, of those who share a room with the user
//! (client-server API, *Presence*).
//!
//! What changed, the user's own included; the whole of it, but for who is offline,
//! to a client that knows nothing; and of those who newly share a room what is
//! current.

use std::collections::BTreeSet;
use std::sync::Arc;

use log_format::record::ephemeral::PresenceState;
use log_format::record::output::Membership;
use ruma::UserId;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::answer::Building;
use super::memory::{Memory, UserIx, UserSlot};
use super::room::Events;
use super::{ClientSync, SyncError, SyncRequest};
use crate::query::ephemeral::{Changes, Presence, Since};
use crate::query::ids::EphemeralOffset;
use crate::query::tokens::SyncToken;

/// Users that one answer tells of; the rest of a very large server is told as it
/// changes.
const USERS_MAX: usize = 5_000;

/// Of so many who newly share a room an answer tells also that they are offline.
/// Of a crowd it does not: clients take those for offline of whom they are told
/// nothing, and a large room would be told of as often as somebody joins.
const ABSENT_MAX: usize = 50;

const PRESENCE: &str = "m.presence";

impl ClientSync {
    /// Whether a request may be told of anybody's presence.
    pub(super) fn tells_presence(&self, request: &SyncRequest) -> bool {
        self.ephemeral.keeps_presence() && request.filter.presence.matches_type(PRESENCE)
    }

    /// The presence of local users that a request is told of, and whether its user
    /// came to a room. `known` is the
    /// token up to which its client was told of presence by this process.
    pub(super) fn presence_in(
        &self,
        memory: &Memory,
        request: &SyncRequest,
        known: Option<&SyncToken>,
        changes: &Changes,
    ) -> (Vec<Arc<Presence>>, bool) {
        if !self.tells_presence(request) {
            return (Vec::new(), false);
        }
        // Who never was in a room shares none with anybody.
        let user = memory.user_ix(&request.user);
        let is_told = |presence: &&Arc<Presence>| {
            if presence.user_id == request.user {
                return true;
            }
            let other = memory.user_ix(&presence.user_id);
            let both = user.zip(other);
            both.is_some_and(|(user, other)| memory.share_a_room(user, other))
        };
        let newest = changes.presence.iter().rev();
        let mut told: Vec<_> = newest.filter(is_told).take(USERS_MAX).cloned().collect();
        let (Some(known), Some(user)) = (known, user) else {
            return (told, false);
        };
        let (mut others, came) = newly_shared(memory, memory.user_at(user), known);
        for presence in &told {
            if let Some(other) = memory.user_ix(&presence.user_id) {
                others.remove(&other);
            }
        }
        others.remove(&user);
        let others = others
            .into_iter()
            .map(|other| &memory.user_at(other).user_id);
        let others = others.map(|other| {
            let known = self.ephemeral.presence_of(other);
            known.unwrap_or_else(|| Arc::new(never_there(other)))
        });
        let (absent, present): (Vec<_>, Vec<_>) =
            others.partition(|presence| presence.state == PresenceState::Offline);
        told.extend(present.into_iter().take(USERS_MAX));
        if absent.len() <= ABSENT_MAX {
            told.extend(absent);
        }
        (told, came)
    }

    /// The same of users of other servers: changes of those who share a room. If the
    /// user `came` to a room, what is current too: it may have been told before the
    /// join was done.
    pub(super) fn add_presence_of_remote(
        &self,
        request: &SyncRequest,
        changes: &Changes,
        came: bool,
        told: &mut Vec<Arc<Presence>>,
    ) -> Result<(), SyncError> {
        if !self.tells_presence(request) {
            return Ok(());
        }
        let current = match came {
            true => self.ephemeral.changes(Since::Nothing).presence,
            false => vec![],
        };
        let news: BTreeSet<&UserId> = changes.presence.iter().map(|it| &*it.user_id).collect();
        let current = current.iter().rev();
        let current = current.filter(|presence| !news.contains(&*presence.user_id));
        let remote = changes.presence.iter().rev().chain(current);
        let remote = remote.filter(|presence| !self.is_local(&presence.user_id));
        for presence in remote.take(USERS_MAX) {
            if self.is_in_a_room_of(presence, &request.user)? {
                told.push(presence.clone());
            }
        }
        Ok(())
    }

    fn is_in_a_room_of(&self, presence: &Presence, user: &UserId) -> Result<bool, SyncError> {
        let rooms = self.joined_rooms(&presence.user_id)?;
        let memory = self.memory.read();
        let rooms = rooms.iter().filter_map(|room| memory.room_ix(room));
        let user = memory.user_ix(user);
        let is_joined = |ix| user.is_some_and(|user| memory.room(ix).joined.contains(&user));
        Ok(rooms.into_iter().any(is_joined))
    }
}

/// Somebody of whom nothing is known.
fn never_there(user: &UserId) -> Presence {
    Presence {
        user_id: user.to_owned(),
        state: PresenceState::Offline,
        status_msg: None,
        last_active_ms: None,
        currently_active: false,
        changed_at: EphemeralOffset(0),
        written_at: EphemeralOffset(0),
    }
}

/// Local users who came to a room of the user since a token, or to whose rooms
/// the user came; and whether there are any of these.
fn newly_shared(memory: &Memory, user: &UserSlot, known: &SyncToken) -> (BTreeSet<UserIx>, bool) {
    let (mut others, mut came) = (BTreeSet::new(), false);
    for (ix, standing) in &user.rooms {
        if standing.membership != Membership::Join {
            continue;
        }
        let slot = memory.room(*ix);
        let since = known.vector.get(slot.partition as usize);
        let since = since.map_or(0, |since| since.0);
        match standing.joined_at >= Some(since) {
            true => {
                came = true;
                others.extend(slot.joined.iter().take(USERS_MAX).copied());
            }
            false => others.extend(memory.joined_since(*ix, since)),
        }
    }
    (others, came)
}

impl Building<'_> {
    /// Presence as it is sent, without users that the client does not want.
    pub(super) fn presence_events(&self, presence: &[Arc<Presence>]) -> Result<Events, SyncError> {
        let filter = &self.request.filter.presence;
        let wanted = presence.iter().filter(|presence| {
            let user = &presence.user_id;
            filter.matches(user, PRESENCE) && !self.unwanted.is_ignored(user)
        });
        let events = wanted.map(|presence| event(presence, self.now_ms));
        Ok(Events {
            events: events.collect::<Result<_, _>>()?,
        })
    }
}

fn event(presence: &Presence, now_ms: u64) -> Result<Box<RawValue>, SyncError> {
    #[derive(Serialize)]
    struct Event<'a> {
        content: Content<'a>,
        sender: &'a UserId,
        #[serde(rename = "type")]
        event_type: &'static str,
    }
    #[derive(Serialize)]
    struct Content<'a> {
        presence: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        last_active_ago: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        status_msg: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        currently_active: Option<bool>,
    }
    let is_online = presence.state == PresenceState::Online;
    Ok(to_raw_value(&Event {
        content: Content {
            presence: presence.state.as_str(),
            last_active_ago: presence.last_active_ms.map(|ms| now_ms.saturating_sub(ms)),
            status_msg: presence.status_msg.as_deref(),
            currently_active: is_online.then_some(presence.currently_active),
        },
        sender: &presence.user_id,
        event_type: PRESENCE,
    })?)
}
