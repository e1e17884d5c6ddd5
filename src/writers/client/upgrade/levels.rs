//! Power levels around an upgrade: those that the successor begins with, and
//! those that leave the old room silent.

use ruma::{OwnedUserId, UserId};

use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::PowerLevels;
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use crate::query::authority::{Authority, Levels as InForce};
use crate::writers::client::room_presets::{Preset, has_privileged_creators, level, power_levels};

const TOMBSTONE: &str = super::TOMBSTONE;
/// What an upgrade takes in version 12, where the old room does not say.
const TOMBSTONE_LEVEL: i64 = 150;
/// The level of an administrator, which creators had before version 12.
const ADMIN_LEVEL: i64 = 100;

/// What the successor's levels depend on.
pub struct Request<'a> {
    pub old: &'a Authority,
    /// Of the old room's power levels.
    pub content: Option<CanonicalJsonObject>,
    /// The successor's.
    pub version: RoomVersion,
    /// The successor's; who upgrades is the first.
    pub creators: &'a [OwnedUserId],
    /// Types of the state that the successor begins with.
    pub kinds: &'a [&'a str],
    pub has_bans: bool,
}

/// The successor's levels.
pub struct Levels {
    /// Set at once.
    pub first: CanonicalJsonObject,
    /// Set at the end, where the creator needs more power for the beginning than
    /// they had in the old room.
    pub last: Option<CanonicalJsonObject>,
    /// The creator's level while the room is made; none if it is infinite.
    creator_level: Option<i64>,
    in_force: InForce,
}

impl Levels {
    /// Whether the creator may ban a user while the room is made.
    pub fn may_ban(&self, user: &str) -> bool {
        let users = &self.in_force.users;
        let listed = users.iter().find(|(listed, _)| listed.as_str() == user);
        let theirs = listed.map_or(self.in_force.users_default, |(_, level)| *level);
        self.creator_level.is_none_or(|creator| theirs < creator)
    }
}

impl Request<'_> {
    /// The old room's levels, as far as the new version can have them.
    pub fn levels(self) -> Levels {
        let mut content = match self.content.clone() {
            Some(content) => well_formed(content),
            None => {
                let creator = self.creator();
                let mut content = power_levels(self.version, Preset::PrivateChat, creator, &[]);
                if !has_privileged_creators(self.version) {
                    self.list_old_creators(&mut content, ADMIN_LEVEL);
                }
                content
            }
        };
        if has_privileged_creators(self.version) {
            change(&mut content, "users", |users| {
                users.retain(|user, _| !self.creators.iter().any(|creator| creator == user));
            });
            raise_tombstone(&mut content);
            return Levels {
                in_force: in_force(&content),
                first: content,
                last: None,
                creator_level: None,
            };
        }
        let needed = self.needed(&in_force(&content));
        if has_privileged_creators(self.old.create_info.version) {
            // Who stood above all levels stands above all that are listed.
            self.list_old_creators(&mut content, needed.max(ADMIN_LEVEL));
        }
        let own = {
            let levels = in_force(&content);
            let listed = levels.users.get(self.creator());
            listed.copied().unwrap_or(levels.users_default)
        };
        let mut levels = Levels {
            in_force: in_force(&content),
            first: content,
            last: None,
            creator_level: Some(own.max(needed)),
        };
        if own < needed {
            levels.last = Some(levels.first.clone());
            set_user(&mut levels.first, self.creator(), needed);
        }
        levels
    }

    fn creator(&self) -> &UserId {
        // Who upgrades is always the first of the creators.
        match self.creators.first() {
            Some(creator) => creator,
            None => &self.old.create_sender,
        }
    }

    /// The level that making the room takes.
    fn needed(&self, levels: &InForce) -> i64 {
        let state = self.kinds.iter().map(|kind| {
            let listed = levels.events.get(*kind).copied();
            listed.unwrap_or(levels.state_default)
        });
        let member = levels.events.get("m.room.member").copied();
        let bans = [levels.ban, member.unwrap_or(levels.state_default)];
        let bans = bans.into_iter().filter(|_| self.has_bans);
        state.chain(bans).max().unwrap_or(levels.state_default)
    }

    fn list_old_creators(&self, content: &mut CanonicalJsonObject, at_least: i64) {
        let listed = in_force(content).users.into_values().max();
        let highest = listed.unwrap_or(at_least).max(at_least);
        for creator in &self.old.create_info.creators {
            set_user(content, creator, highest);
        }
    }
}

/// The content that leaves the old room to those with some power: what talking
/// and inviting takes is the greater of 50 and one more than what everybody has.
/// None where it is so already.
pub fn silenced(levels: &InForce, content: CanonicalJsonObject) -> Option<CanonicalJsonObject> {
    let mut content = well_formed(content);
    let least = levels.users_default.saturating_add(1).max(50);
    let mut changed = false;
    for (field, now) in [
        ("events_default", levels.events_default),
        ("invite", levels.invite),
    ] {
        if now < least {
            content.insert(field.into(), level(least));
            changed = true;
        }
    }
    changed.then_some(content)
}

/// An upgrade must take more than setting any state (room version 12).
fn raise_tombstone(content: &mut CanonicalJsonObject) {
    let levels = in_force(content);
    let now = levels.events.get(TOMBSTONE).copied();
    if now.is_some_and(|now| now > levels.state_default) {
        return;
    }
    let raised = TOMBSTONE_LEVEL.max(levels.state_default.saturating_add(1));
    change(content, "events", |events| {
        events.insert(TOMBSTONE.into(), level(raised));
    });
}

/// The content as new events may have it: levels that old versions took as text
/// become integers, what cannot be read is left out, and so are users who are none.
fn well_formed(content: CanonicalJsonObject) -> CanonicalJsonObject {
    let entry = |(field, value): (String, CanonicalJsonValue)| {
        let value = match (field.as_str(), value) {
            ("users", CanonicalJsonValue::Object(users)) => {
                let users = users.into_iter();
                let users = users.filter(|(user, _)| UserId::parse(user).is_ok());
                CanonicalJsonValue::Object(users.filter_map(integer).collect())
            }
            ("events" | "notifications", CanonicalJsonValue::Object(levels)) => {
                CanonicalJsonValue::Object(levels.into_iter().filter_map(integer).collect())
            }
            ("users" | "events" | "notifications", _) => return None,
            (name, value) if is_level(name) => return integer((field, value)),
            (_, value) => value,
        };
        Some((field, value))
    };
    content.into_iter().filter_map(entry).collect()
}

fn is_level(field: &str) -> bool {
    matches!(
        field,
        "users_default" | "events_default" | "state_default" | "ban" | "kick" | "redact" | "invite"
    )
}

fn integer((key, value): (String, CanonicalJsonValue)) -> Option<(String, CanonicalJsonValue)> {
    match value {
        CanonicalJsonValue::Integer(_) => Some((key, value)),
        CanonicalJsonValue::String(text) => {
            let number: i64 = text.trim().parse().ok()?;
            let number = ruma::Int::new(number)?;
            Some((key, CanonicalJsonValue::Integer(number)))
        }
        _ => None,
    }
}

/// The levels of a well-formed content.
fn in_force(content: &CanonicalJsonObject) -> InForce {
    let parsed = PowerLevels::parse(RoomVersion::V10, content);
    parsed.map_or_else(|_| InForce::default(), |levels| InForce::of(&levels))
}

fn set_user(content: &mut CanonicalJsonObject, user: &UserId, to: i64) {
    change(content, "users", |users| {
        users.insert(user.to_string(), level(to));
    });
}

/// Changes a member that is an object, or is to be one.
fn change(
    content: &mut CanonicalJsonObject,
    field: &str,
    change: impl FnOnce(&mut CanonicalJsonObject),
) {
    let mut object = match content.remove(field) {
        Some(CanonicalJsonValue::Object(object)) => object,
        _ => CanonicalJsonObject::new(),
    };
    change(&mut object);
    content.insert(field.into(), CanonicalJsonValue::Object(object));
}
