//! Power levels: parsed content, effective levels, and the rules for changing them.

use std::collections::BTreeMap;

use ruma::room_version_rules::AuthorizationRules;

use super::super::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use super::super::ids::{OwnedUserId, UserId};
use super::super::room_version::RoomVersion;
use super::contents::CreateInfo;
use super::rule::{allows, refuse, require};
use super::{AuthError, Rule};

/// A user's power level. Any level is below that of the creators of a version
/// 12 room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Finite(i64),
    Infinite,
}

/// Level of a pre-12 room's creator while the room has no power levels.
const CREATOR_LEVEL: i64 = 100;
const USERS_DEFAULT: i64 = 0;
const EVENTS_DEFAULT: i64 = 0;
const STATE_DEFAULT: i64 = 50;
const INVITE_DEFAULT: i64 = 0;
const MODERATION_DEFAULT: i64 = 50;

/// An `m.room.power_levels` content. What it leaves out is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PowerLevels {
    pub users_default: Option<i64>,
    pub events_default: Option<i64>,
    pub state_default: Option<i64>,
    pub ban: Option<i64>,
    pub redact: Option<i64>,
    pub kick: Option<i64>,
    pub invite: Option<i64>,
    pub events: BTreeMap<Box<str>, i64>,
    pub notifications: BTreeMap<Box<str>, i64>,
    pub users: BTreeMap<OwnedUserId, i64>,
}

impl PowerLevels {
    /// Reads a content as the version's rules do (rules 10.1 to 10.3): integers,
    /// before version 10 also strings that are integers.
    ///
    /// Before version 10 the rules speak of `users` alone; other members that
    /// are no integers are refused too, as nothing could be compared with them.
    pub fn parse(
        version: RoomVersion,
        content: &CanonicalJsonObject,
    ) -> Result<PowerLevels, AuthError> {
        let rules = &version.rules().authorization;
        let field = |name: &'static str| match content.get(name) {
            None => Ok(None),
            Some(value) => level(rules, value)
                .map(Some)
                .ok_or(AuthError::PowerLevelsNotInteger(name)),
        };
        let map = |name: &'static str| {
            let Some(value) = content.get(name) else {
                return Ok(BTreeMap::new());
            };
            let entries = value
                .as_object()
                .ok_or(AuthError::PowerLevelsNotIntegers(name))?;
            entries
                .iter()
                .map(|(key, value)| Some((key.as_str().into(), level(rules, value)?)))
                .collect::<Option<BTreeMap<Box<str>, i64>>>()
                .ok_or(AuthError::PowerLevelsNotIntegers(name))
        };
        let notifications = match map("notifications") {
            // Versions 1 to 5 do not read them.
            Err(_) if !rules.limit_notifications_power_levels => BTreeMap::new(),
            other => other?,
        };
        let users = match content.get("users") {
            None => BTreeMap::new(),
            Some(users) => users_map(rules, users).ok_or(AuthError::PowerLevelsUsers)?,
        };
        Ok(PowerLevels {
            users_default: field("users_default")?,
            events_default: field("events_default")?,
            state_default: field("state_default")?,
            ban: field("ban")?,
            redact: field("redact")?,
            kick: field("kick")?,
            invite: field("invite")?,
            events: map("events")?,
            notifications,
            users,
        })
    }

    fn fields(&self) -> [(&'static str, Option<i64>); 7] {
        [
            ("users_default", self.users_default),
            ("events_default", self.events_default),
            ("state_default", self.state_default),
            ("ban", self.ban),
            ("redact", self.redact),
            ("kick", self.kick),
            ("invite", self.invite),
        ]
    }
}

fn users_map(
    rules: &AuthorizationRules,
    users: &CanonicalJsonValue,
) -> Option<BTreeMap<OwnedUserId, i64>> {
    let users = users.as_object()?.iter();
    users
        .map(|(user, value)| {
            Some((
                OwnedUserId::try_from(user.as_str()).ok()?,
                level(rules, value)?,
            ))
        })
        .collect()
}

/// A level as the version writes it.
///
/// Source: room version 1, *m.room.power_levels events accept values as
/// strings*: digits with leading zeroes, one sign, whitespace around; up to
/// version 5 also *as floats*, whose fraction is cut off.
fn level(rules: &AuthorizationRules, value: &CanonicalJsonValue) -> Option<i64> {
    match value {
        CanonicalJsonValue::Integer(integer) => Some(i64::from(*integer)),
        CanonicalJsonValue::Number(number) if !rules.strict_canonical_json => {
            Some(number.truncated())
        }
        CanonicalJsonValue::String(text) if !rules.integer_power_levels => text.trim().parse().ok(),
        _ => None,
    }
}

/// The levels in force in a room: its power levels event, or the defaults.
#[derive(Clone, Copy, Debug)]
pub struct PowerLevelsView<'a> {
    create: &'a CreateInfo,
    levels: Option<&'a PowerLevels>,
}

impl<'a> PowerLevelsView<'a> {
    pub fn new(create: &'a CreateInfo, levels: Option<&'a PowerLevels>) -> PowerLevelsView<'a> {
        PowerLevelsView { create, levels }
    }

    /// The level of a user.
    pub fn user_level(&self, user: &UserId) -> Level {
        let rules = &self.create.version.rules().authorization;
        let is_creator = self.create.is_creator(user);
        if rules.explicitly_privilege_room_creators && is_creator {
            return Level::Infinite;
        }
        Level::Finite(match self.levels {
            Some(levels) => levels
                .users
                .get(user)
                .copied()
                .or(levels.users_default)
                .unwrap_or(USERS_DEFAULT),
            None if is_creator => CREATOR_LEVEL,
            None => USERS_DEFAULT,
        })
    }

    /// The level that sending an event of a type needs: the *required power level*.
    pub fn event_level(&self, kind: &str, is_state: bool) -> i64 {
        let default = if is_state {
            STATE_DEFAULT
        } else {
            EVENTS_DEFAULT
        };
        let Some(levels) = self.levels else {
            return default;
        };
        let room_default = if is_state {
            levels.state_default
        } else {
            levels.events_default
        };
        levels
            .events
            .get(kind)
            .copied()
            .or(room_default)
            .unwrap_or(default)
    }

    /// The level that notifying the whole room needs (`key` is `room`).
    pub fn notification_level(&self, key: &str) -> i64 {
        let level = self
            .levels
            .and_then(|levels| levels.notifications.get(key).copied());
        level.unwrap_or(MODERATION_DEFAULT)
    }

    pub fn invite_level(&self) -> i64 {
        self.levels
            .and_then(|levels| levels.invite)
            .unwrap_or(INVITE_DEFAULT)
    }

    pub fn kick_level(&self) -> i64 {
        self.levels
            .and_then(|levels| levels.kick)
            .unwrap_or(MODERATION_DEFAULT)
    }

    pub fn ban_level(&self) -> i64 {
        self.levels
            .and_then(|levels| levels.ban)
            .unwrap_or(MODERATION_DEFAULT)
    }

    pub fn redact_level(&self) -> i64 {
        self.levels
            .and_then(|levels| levels.redact)
            .unwrap_or(MODERATION_DEFAULT)
    }

    /// Whether a user's level suffices to send an event of a type.
    pub fn can_send(&self, user: &UserId, kind: &str, is_state: bool) -> bool {
        self.has(user, self.event_level(kind, is_state))
    }

    /// Whether a user's level suffices to invite.
    pub fn can_invite(&self, user: &UserId) -> bool {
        self.has(user, self.invite_level())
    }

    /// Whether a user's level suffices to kick another.
    pub fn can_kick(&self, user: &UserId, target: &UserId) -> bool {
        self.has(user, self.kick_level()) && self.user_level(target) < self.user_level(user)
    }

    /// Whether a user's level suffices to ban another.
    pub fn can_ban(&self, user: &UserId, target: &UserId) -> bool {
        self.has(user, self.ban_level()) && self.user_level(target) < self.user_level(user)
    }

    /// Whether a user's level suffices to lift a ban (to kick and to ban).
    pub fn can_unban(&self, user: &UserId, target: &UserId) -> bool {
        self.has(user, self.ban_level()) && self.can_kick(user, target)
    }

    /// Whether a user's level suffices to redact events of others.
    pub fn can_redact_others(&self, user: &UserId) -> bool {
        self.has(user, self.redact_level())
    }

    fn has(&self, user: &UserId, needed: i64) -> bool {
        self.user_level(user) >= Level::Finite(needed)
    }
}

/// Rule 10 for a new power levels event: its shape, and whether the sender may
/// make each change that it makes.
///
/// An added or removed member has no value on one side and nothing is compared
/// there, as the rules are worded and as Synapse does it; its default does not
/// take its place.
pub(super) fn check_change(
    sender: &UserId,
    content: &CanonicalJsonObject,
    create: &CreateInfo,
    current: Option<&PowerLevels>,
) -> Result<(), AuthError> {
    let rules = &create.version.rules().authorization;
    // Rules 10.1 to 10.3.
    let new = match PowerLevels::parse(create.version, content) {
        Ok(new) => new,
        Err(error) => return refuse(error),
    };
    // Rule 10.4.
    if rules.explicitly_privilege_room_creators {
        let named = create
            .creators
            .iter()
            .find(|creator| new.users.contains_key(*creator));
        if let Some(creator) = named {
            refuse(AuthError::PowerLevelsCreator(creator.clone()))?;
        }
    }
    // Rule 10.5.
    if allows(Rule::PowerLevelsFirst, current.is_none()) {
        return Ok(());
    }
    let none = PowerLevels::default();
    let current = current.unwrap_or(&none);
    let sender_level = PowerLevelsView::new(create, Some(current)).user_level(sender);
    let above = |level: Option<i64>| level.is_some_and(|level| Level::Finite(level) > sender_level);

    // Rule 10.6.
    for ((name, old), (_, new)) in current.fields().into_iter().zip(new.fields()) {
        if old != new {
            require(!above(old), AuthError::PowerLevelsFieldCurrent(name))?;
            require(!above(new), AuthError::PowerLevelsFieldNew(name))?;
        }
    }
    // Rules 10.7 and 10.8; `notifications` since version 6.
    for (key, old, new) in changed(&current.events, &new.events) {
        if above(old) {
            refuse(AuthError::PowerLevelsEventCurrent(key.clone()))?;
        }
        if above(new) {
            refuse(AuthError::PowerLevelsEventNew(key.clone()))?;
        }
    }
    if rules.limit_notifications_power_levels {
        for (key, old, new) in changed(&current.notifications, &new.notifications) {
            if above(old) {
                refuse(AuthError::PowerLevelsNotificationCurrent(key.clone()))?;
            }
            if above(new) {
                refuse(AuthError::PowerLevelsNotificationNew(key.clone()))?;
            }
        }
    }
    check_users_change(sender, sender_level, &current.users, &new.users)
}

/// The entries that differ, each with its old and new level.
fn changed<'a, K: Ord>(
    old: &'a BTreeMap<K, i64>,
    new: &'a BTreeMap<K, i64>,
) -> impl Iterator<Item = (&'a K, Option<i64>, Option<i64>)> {
    let added = new.keys().filter(|key| !old.contains_key(*key));
    let keys = old.keys().chain(added);
    let entries = keys.map(|key| (key, old.get(key).copied(), new.get(key).copied()));
    entries.filter(|(_, old, new)| old != new)
}

/// Rules 10.9 and 10.10.
fn check_users_change(
    sender: &UserId,
    sender_level: Level,
    old: &BTreeMap<OwnedUserId, i64>,
    new: &BTreeMap<OwnedUserId, i64>,
) -> Result<(), AuthError> {
    for (user, old, new) in changed(old, new) {
        let not_below = old.is_some_and(|level| Level::Finite(level) >= sender_level);
        if user != sender && not_below {
            refuse(AuthError::PowerLevelsOtherUser(user.clone()))?;
        }
        if new.is_some_and(|level| Level::Finite(level) > sender_level) {
            refuse(AuthError::PowerLevelsUserRaised(user.clone()))?;
        }
    }
    Ok(())
}
