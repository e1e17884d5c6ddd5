//! What the auth rules read of a room's current state, parsed once per change.
//!
//! With it a plain message is authorised without parsing JSON: by two look-ups
//! and two comparisons. The rules themselves stay in one place (the room
//! server's checks); this holds the facts that they ask for.

use std::collections::BTreeMap;
use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::{OwnedEventId, OwnedUserId, ServerName, UserId};

use super::ids::EventSn;
use crate::matrix::auth_rules::{
    AuthState, CreateInfo, JoinRule, Level, PowerLevels, PowerLevelsView, ThirdPartyInvite,
};

/// The events that authorise others, as of one room state, and what they say:
/// as they were accepted, whatever was redacted since. Events are judged
/// against it by [`crate::matrix::auth_rules::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    pub create_event: OwnedEventId,
    pub power_levels_event: Option<OwnedEventId>,
    pub join_rules_event: Option<OwnedEventId>,
    /// Interned ids of the same.
    pub create: EventSn,
    pub power_levels: Option<EventSn>,
    pub join_rules: Option<EventSn>,
    pub create_info: Arc<CreateInfo>,
    /// The power levels event as it stands; [`Authority::levels`] has the defaults.
    pub power: Option<Arc<PowerLevels>>,
    /// Sender of the create event.
    pub create_sender: OwnedUserId,
    /// `m.federate` of the create event.
    pub federates: bool,
    /// `join_rule` of the join rules, `invite` if there are none.
    pub join_rule: Box<str>,
    pub rule: JoinRule,
    pub levels: Arc<Levels>,
    /// Every user with an `m.room.member` event whose user id is well-formed.
    pub members: imbl::OrdMap<OwnedUserId, Member>,
    /// `m.room.third_party_invite` events by token.
    pub third_party_invites: imbl::OrdMap<Box<str>, ThirdPartyInvite>,
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
    /// The levels in force under a power levels event.
    pub fn of(power: &PowerLevels) -> Levels {
        let default = Levels::default();
        Levels {
            users: power.users.clone(),
            events: power.events.clone(),
            users_default: power.users_default.unwrap_or(default.users_default),
            events_default: power.events_default.unwrap_or(default.events_default),
            state_default: power.state_default.unwrap_or(default.state_default),
            ban: power.ban.unwrap_or(default.ban),
            kick: power.kick.unwrap_or(default.kick),
            redact: power.redact.unwrap_or(default.redact),
            invite: power.invite.unwrap_or(default.invite),
        }
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
    /// The authority in a room of which only the create event is there.
    pub fn of_create(create: EventSn, info: CreateInfo) -> Authority {
        Authority {
            create_event: info.event_id.clone(),
            power_levels_event: None,
            join_rules_event: None,
            create,
            power_levels: None,
            join_rules: None,
            create_sender: info.sender.clone(),
            federates: info.federate,
            create_info: Arc::new(info),
            power: None,
            join_rule: JoinRule::Invite.as_str().into(),
            rule: JoinRule::Invite,
            levels: Arc::new(Levels::default()),
            members: imbl::OrdMap::new(),
            third_party_invites: imbl::OrdMap::new(),
        }
    }

    /// Power levels with the version's rules and defaults.
    pub fn view(&self) -> PowerLevelsView<'_> {
        PowerLevelsView::new(&self.create_info, self.power.as_deref())
    }

    /// The power of a user.
    pub fn power(&self, user: &UserId) -> Power {
        match self.view().user_level(user) {
            Level::Finite(level) => Power::Level(level),
            Level::Infinite => Power::Infinite,
        }
    }

    /// Whether the user has the power for an event of this type. That is one of
    /// the auth rules, not all of them.
    pub fn has_power_to_send(&self, user: &UserId, kind: &str, is_state: bool) -> bool {
        self.view().can_send(user, kind, is_state)
    }

    /// The user's membership; none if they never had one.
    pub fn membership(&self, user: &UserId) -> Option<Membership> {
        self.members.get(user).map(|member| member.membership)
    }

    /// The first joined user of a server who may invite others. Looks at members
    /// until one is found.
    pub fn inviter_of(&self, server: &ServerName) -> Option<&OwnedUserId> {
        let invites = Power::Level(self.levels.invite);
        let inviter = self.members.iter().find(|(member, standing)| {
            member.server_name() == server
                && standing.membership == Membership::Join
                && self.power(member) >= invites
        });
        inviter.map(|(user, _)| user)
    }

    /// Whether the user is joined.
    pub fn is_joined(&self, user: &UserId) -> bool {
        self.membership(user) == Some(Membership::Join)
    }
}

impl AuthState for Authority {
    fn create(&self) -> Option<&CreateInfo> {
        Some(&self.create_info)
    }

    fn power_levels(&self) -> Option<&PowerLevels> {
        self.power.as_deref()
    }

    fn join_rule(&self) -> JoinRule {
        self.rule
    }

    fn membership(&self, user: &UserId) -> Option<Membership> {
        Authority::membership(self, user)
    }

    fn third_party_invite(&self, token: &str) -> Option<ThirdPartyInvite> {
        self.third_party_invites.get(token).cloned()
    }
}
