//! Authorization: the checks on receipt of a PDU (server-server API), and the
//! parsed facts that decide a plain message without them.
//!
//! The rules are ruma's. A plain message (no state key, no type with rules of
//! its own) whose auth events are those of current state needs only three of
//! them, which [`allows_plain`] decides from memory; a property test holds the
//! two against each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use ruma::events::{StateEventType, TimelineEventType};
use ruma::room_version_rules::AuthorizationRules;
use ruma::state_res::events::RoomPowerLevelsIntField as Field;
use ruma::state_res::events::{RoomCreateEvent, RoomJoinRulesEvent, RoomPowerLevelsEvent};
use ruma::state_res::{
    auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules,
};
use ruma::{OwnedUserId, RoomVersionId, UserId};

use super::auth_event::{self, AuthEvent};
use super::events::{EventError, Events};
use crate::query::authority::{Authority, Levels, Member};
use crate::query::ids::EventSn;
use crate::query::rooms::{StateKey, StateMap};

/// The rules of a version; none if ruma does not know it.
pub fn rules(version: &RoomVersionId) -> Option<AuthorizationRules> {
    version.rules().map(|rules| rules.authorization)
}

/// An event that the rules do not allow. The text is for the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Forbidden(pub String);

/// The state entries that the checks of one event read.
#[derive(Debug, Default)]
pub struct AuthState(Vec<Arc<AuthEvent>>);

impl AuthState {
    /// The entries that the rules read for this event, out of a state.
    pub fn select(
        rules: &AuthorizationRules,
        event: &AuthEvent,
        mut entry: impl FnMut(&str, &str) -> Result<Option<Arc<AuthEvent>>, EventError>,
    ) -> Result<Result<AuthState, Forbidden>, EventError> {
        let needed = auth_types_for_event(
            event.kind(),
            event.sender(),
            event.state_key(),
            event.content(),
            rules,
        );
        let mut needed = match needed {
            Ok(needed) => needed,
            Err(why) => return Ok(Err(Forbidden(why))),
        };
        // Version 12 names it no longer, but the rules still read it.
        let create = (StateEventType::RoomCreate, String::new());
        if !needed.contains(&create) {
            needed.push(create);
        }
        let mut found = vec![];
        for (kind, state_key) in needed {
            found.extend(entry(&kind.to_string(), &state_key)?);
        }
        Ok(Ok(AuthState(found)))
    }

    /// The events themselves, as a state.
    pub fn of(events: Vec<Arc<AuthEvent>>) -> AuthState {
        AuthState(events)
    }

    fn find(&self, kind: &StateEventType, state_key: &str) -> Option<Arc<AuthEvent>> {
        let kind = TimelineEventType::from(kind.clone());
        let found = self
            .0
            .iter()
            .find(|event| *event.kind() == kind && event.state_key() == Some(state_key));
        found.cloned()
    }

    /// The rules that depend on state, against this one.
    pub fn check(&self, rules: &AuthorizationRules, event: &AuthEvent) -> Result<(), Forbidden> {
        check_state_dependent_auth_rules(rules, event, |kind, key| self.find(kind, key))
            .map_err(Forbidden)
    }
}

/// The rules that depend on no state, and the state rules against the auth
/// events. `create` is the room's create event, which version 12 does not list.
pub fn check_auth_events(
    rules: &AuthorizationRules,
    event: &AuthEvent,
    auth_events: Vec<Arc<AuthEvent>>,
    create: Option<Arc<AuthEvent>>,
) -> Result<(), Forbidden> {
    let mut known = auth_events;
    if rules.room_create_event_id_as_room_id {
        known.extend(create);
    }
    check_state_independent_auth_rules(rules, event, |id| auth_event::find(&known, id))
        .map_err(Forbidden)?;
    AuthState::of(known).check(rules, event)
}

/// Types whose events have rules of their own, or had in some version.
fn has_own_rules(kind: &str) -> bool {
    matches!(
        kind,
        "m.room.create"
            | "m.room.member"
            | "m.room.power_levels"
            | "m.room.third_party_invite"
            | "m.room.redaction"
            | "m.room.aliases"
    )
}

/// Whether [`allows_plain`] may decide an event of this type.
pub fn is_plain(rules: &AuthorizationRules, kind: &str, state_key: Option<&str>) -> bool {
    let redaction = kind == "m.room.redaction" && !rules.special_case_room_redaction;
    state_key.is_none() && (redaction || !has_own_rules(kind))
}

/// The rules for an event that [`is_plain`], against one state.
///
/// Source: room version 12, authorization rules 4 (federation), 6 (membership)
/// and 8 (power); the same rules under other numbers in the versions before.
pub fn allows_plain(authority: &Authority, sender: &UserId, kind: &str) -> bool {
    let federated =
        authority.federates || sender.server_name() == authority.create_sender.server_name();
    federated && authority.is_joined(sender) && authority.has_power_to_send(sender, kind, false)
}

/// The authority in a room of which only the create event is there.
pub fn of_create(
    rules: &AuthorizationRules,
    sn: EventSn,
    event: &AuthEvent,
) -> Result<Authority, Forbidden> {
    let parsed = RoomCreateEvent::new(event);
    let creators = parsed.creators(rules).map_err(Forbidden)?;
    let mut creators: Vec<OwnedUserId> = creators.into_iter().collect();
    creators.sort();
    Ok(Authority {
        create_event: event.event_id().clone(),
        power_levels_event: None,
        join_rules_event: None,
        create: sn,
        power_levels: None,
        join_rules: None,
        create_sender: event.sender().to_owned(),
        creators,
        creators_are_infinite: rules.explicitly_privilege_room_creators,
        federates: parsed.federate().map_err(Forbidden)?,
        join_rule: "invite".into(),
        levels: Arc::new(Levels::default()),
        is_exact: true,
        members: imbl::OrdMap::new(),
    })
}

/// Parses what a state says about authority. `members` are its member entries.
pub fn authority(
    events: &Events,
    partition: u32,
    version: &RoomVersionId,
    state: &StateMap,
    members: imbl::OrdMap<OwnedUserId, Member>,
) -> Result<Authority, EventError> {
    let entry = |kind: &str| state.get(&StateKey::new(kind, "")).copied();
    let create = entry("m.room.create").ok_or(EventError::NotAnEvent(0))?;
    let event = events.judged(partition, create)?;
    let broken = EventError::NotAnEvent(create.0);
    let Some(rules) = rules(version) else {
        return Err(broken);
    };
    let mut authority = of_create(&rules, create, &event).map_err(|_| broken)?;
    authority.members = members;
    if let Some(levels) = entry("m.room.power_levels") {
        let event = events.judged(partition, levels)?;
        set_power_levels(&mut authority, &rules, levels, &event);
    }
    if let Some(join_rules) = entry("m.room.join_rules") {
        let event = events.judged(partition, join_rules)?;
        set_join_rules(&mut authority, join_rules, &event);
    }
    Ok(authority)
}

/// These power levels are in force now.
pub fn set_power_levels(
    authority: &mut Authority,
    rules: &AuthorizationRules,
    sn: EventSn,
    event: &Arc<AuthEvent>,
) {
    let levels = parse_levels(rules, event);
    authority.power_levels = Some(sn);
    authority.power_levels_event = Some(event.event_id().clone());
    // Early versions accept levels that cannot be read; there every event is
    // judged by the rules themselves, which fail where they meet such a field.
    authority.is_exact = levels.is_some();
    authority.levels = Arc::new(levels.unwrap_or_default());
}

fn parse_levels(rules: &AuthorizationRules, event: &Arc<AuthEvent>) -> Option<Levels> {
    let parsed = RoomPowerLevelsEvent::new(event.clone());
    let level = |field| {
        let level = parsed.get_as_int_or_default(field, rules).ok()?;
        Some(i64::from(level))
    };
    let users = parsed.users(rules).ok()?.cloned().unwrap_or_default();
    let events = parsed.events(rules).ok()?.unwrap_or_default();
    let events: BTreeMap<Box<str>, i64> = events
        .into_iter()
        .map(|(kind, level)| (kind.to_string().into(), i64::from(level)))
        .collect();
    Some(Levels {
        users: users
            .into_iter()
            .map(|(user, level)| (user, i64::from(level)))
            .collect(),
        events,
        users_default: level(Field::UsersDefault)?,
        events_default: level(Field::EventsDefault)?,
        state_default: level(Field::StateDefault)?,
        ban: level(Field::Ban)?,
        kick: level(Field::Kick)?,
        redact: level(Field::Redact)?,
        invite: level(Field::Invite)?,
    })
}

/// These join rules are in force now.
pub fn set_join_rules(authority: &mut Authority, sn: EventSn, event: &AuthEvent) {
    authority.join_rules = Some(sn);
    authority.join_rules_event = Some(event.event_id().clone());
    let rule = RoomJoinRulesEvent::new(event).join_rule();
    authority.join_rule = match rule {
        Ok(rule) => rule.as_str().into(),
        Err(_) => "".into(),
    };
}
