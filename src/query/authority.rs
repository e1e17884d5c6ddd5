//! What the auth rules read of a room's current state, parsed once per change.
//!
//! With it a plain message is authorised without parsing JSON: by two look-ups
//! and two comparisons. The rules themselves stay in one place (the room
//! server's checks); this holds the facts that they ask for.

use std::collections::BTreeMap;
use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::{OwnedEventId, OwnedUserId, UserId};

use super::ids::EventSn;

/// The events that authorise others, as of one room state, and what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    pub create_event: OwnedEventId,
    pub power_levels_event: Option<OwnedEventId>,
    pub join_rules_event: Option<OwnedEventId>,
    /// Interned ids of the same.
    pub create: EventSn,
    pub power_levels: Option<EventSn>,
    pub join_rules: Option<EventSn>,
    /// Sender of the create event.
    pub create_sender: OwnedUserId,
    /// Who created the room: their power is 100 as long as there are no power
    /// levels, and infinite where the version says so (12).
    pub creators: Vec<OwnedUserId>,
    pub creators_are_infinite: bool,
    /// `m.federate` of the create event.
    pub federates: bool,
    /// `join_rule` of the join rules, `invite` if there are none.
    pub join_rule: Box<str>,
    pub levels: Arc<Levels>,
    /// Whether `levels` says all that the power levels event says. False only in
    /// early room versions, where a level may be no number.
    pub is_exact: bool,
    /// Every user with an `m.room.member` event whose user id is well-formed.
    pub members: imbl::OrdMap<OwnedUserId, Member>,
}

/// A user's entry in current state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub membership: Membership,
    pub event: EventSn,
}

/// `m.room.power_levels` with defaults filled in (client-server API,
/// `m.room.power_levels`), or the defaults where there is no such event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    pub users: BTreeMap<OwnedUserId, i64>,
    /// Event types whose required level differs from the default.
    pub events: BTreeMap<Box<str>, i64>,
    pub users_default: i64,
    pub events_default: i64,
    pub state_default: i64,
    pub ban: i64,
    pub kick: i64,
    pub redact: i64,
    pub invite: i64,
}

impl Default for Levels {
    fn default() -> Levels {
        Levels {
            users: BTreeMap::new(),
            events: BTreeMap::new(),
            users_default: 0,
            events_default: 0,
            state_default: 50,
            ban: 50,
            kick: 50,
            redact: 50,
            invite: 0,
        }
    }
}

impl Levels {
    /// What sending an event of this type takes.
    pub fn required(&self, kind: &str, is_state: bool) -> i64 {
        let default = match is_state {
            true => self.state_default,
            false => self.events_default,
        };
        self.events.get(kind).copied().unwrap_or(default)
    }
}

/// A user's power; every finite one is below [`Power::Infinite`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Power {
    Level(i64),
    /// Of the creators of a room of version 12 or later.
    Infinite,
}

impl Authority {
    /// The power of a user.
    pub fn power(&self, user: &UserId) -> Power {
        let created = self.creators.iter().any(|creator| creator == user);
        if created && self.creators_are_infinite {
            return Power::Infinite;
        }
        if self.power_levels.is_none() {
            return Power::Level(if created { 100 } else { 0 });
        }
        let level = self.levels.users.get(user).copied();
        Power::Level(level.unwrap_or(self.levels.users_default))
    }

    /// Whether the user has the power for an event of this type. That is one of
    /// the auth rules, not all of them.
    pub fn has_power_to_send(&self, user: &UserId, kind: &str, is_state: bool) -> bool {
        self.power(user) >= Power::Level(self.levels.required(kind, is_state))
    }

    /// The user's membership; none if they never had one.
    pub fn membership(&self, user: &UserId) -> Option<Membership> {
        self.members.get(user).map(|member| member.membership)
    }

    /// Whether the user is joined.
    pub fn is_joined(&self, user: &UserId) -> bool {
        self.membership(user) == Some(Membership::Join)
    }
}
