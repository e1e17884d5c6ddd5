//! Authorization: what an event cites as its authority, and the parsed facts
//! that the rules read. The rules themselves are in [`crate::matrix::auth_rules`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use log_format::record::output::Membership;
use ruma::{OwnedUserId, UserId};

use super::accepted_event::AcceptedEvent;
use super::events::{EventError, Events};
use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::{
    self, AuthError, AuthEvent, AuthKey, AuthKeys, AuthState, CitedEvent, CreateInfo, JoinRule,
    MemberContent, PowerLevels, ThirdPartyInvite,
};
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::query::authority::{Authority, Levels, Member};
use crate::query::ids::EventSn;
use crate::query::rooms::{RoomHead, StateKey, StateMap};

/// The event of current state that has a key which authorises others.
pub fn current(head: &RoomHead, key: &AuthKey<'_>) -> Option<EventSn> {
    let authority = &head.authority;
    match key.kind {
        "m.room.create" => Some(authority.create),
        "m.room.power_levels" => authority.power_levels,
        "m.room.join_rules" => authority.join_rules,
        "m.room.member" => {
            let user = <&UserId>::try_from(key.state_key.as_ref()).ok()?;
            authority.members.get(user).map(|member| member.event)
        }
        kind => head
            .state
            .get(&StateKey::new(kind, &key.state_key))
            .copied(),
    }
}

/// Whether an event cites just what current state has of the keys that
/// authorise it. Then what it cites is well chosen, and the rules say the same
/// of it as of current state.
pub fn cites_current_state(
    head: &RoomHead,
    version: RoomVersion,
    event: &AuthEvent<'_>,
    content: Option<&CanonicalJsonObject>,
    cited: &[EventSn],
) -> Result<bool, AuthError> {
    let keys = deciding_keys(version, event, content)?;
    let mut expected = keys.iter().filter_map(|key| current(head, key));
    let count = expected.clone().count();
    // Keys differ, so their events do: equal counts and all found is equal.
    Ok(count == cited.len() && expected.all(|sn| cited.contains(&sn)))
}

/// The state keys whose events decide about an event.
pub fn deciding_keys<'a>(
    version: RoomVersion,
    event: &AuthEvent<'a>,
    content: Option<&'a CanonicalJsonObject>,
) -> Result<AuthKeys<'a>, AuthError> {
    let member = content.map(MemberContent::parse).transpose()?;
    Ok(auth_rules::auth_types_for_event(
        version,
        event.kind,
        event.sender,
        event.state_key,
        member,
    ))
}

/// The rules against a state, of which the entries that decide are given.
pub fn check_at(
    version: RoomVersion,
    event: &AuthEvent<'_>,
    entries: &[Arc<AcceptedEvent>],
    room: &Authority,
) -> Result<(), AuthError> {
    let facts = Facts::of(version, entries, room)?;
    auth_rules::check(version, event, &facts)
}

/// The rules about `auth_events`, and the others against what they say.
pub fn check_cited(
    version: RoomVersion,
    event: &AuthEvent<'_>,
    cited: &[Arc<AcceptedEvent>],
    room: &Authority,
) -> Result<(), AuthError> {
    let list: Vec<CitedEvent<'_>> = cited.iter().map(|event| event.cited()).collect();
    auth_rules::check_auth_events(version, event, &list)?;
    let facts = Facts::of(version, cited, room)?;
    auth_rules::check(version, event, &facts)
}

/// What the cited events say. Who cites no create event of versions before 12
/// was refused before; it is the room's one in any case.
struct Facts<'a> {
    create: &'a CreateInfo,
    levels: Option<PowerLevels>,
    join_rule: JoinRule,
    members: BTreeMap<OwnedUserId, Membership>,
    third_party_invites: BTreeMap<Box<str>, ThirdPartyInvite>,
}

impl<'a> Facts<'a> {
    fn of(
        version: RoomVersion,
        events: &[Arc<AcceptedEvent>],
        room: &'a Authority,
    ) -> Result<Facts<'a>, AuthError> {
        let mut facts = Facts {
            create: &room.create_info,
            levels: None,
            join_rule: JoinRule::Invite,
            members: BTreeMap::new(),
            third_party_invites: BTreeMap::new(),
        };
        for event in events {
            facts.learn(version, event)?;
        }
        Ok(facts)
    }

    fn learn(&mut self, version: RoomVersion, event: &AcceptedEvent) -> Result<(), AuthError> {
        match (event.kind.as_ref(), event.state_key.as_deref()) {
            ("m.room.power_levels", Some("")) => {
                self.levels = Some(PowerLevels::parse(version, &event.content)?);
            }
            ("m.room.join_rules", Some("")) => {
                self.join_rule = JoinRule::parse(&event.content);
            }
            ("m.room.member", Some(user)) => {
                let word = MemberContent::parse(&event.content)?.membership;
                let membership = Membership::parse(word);
                if let (Ok(user), Some(membership)) = (OwnedUserId::try_from(user), membership) {
                    self.members.insert(user, membership);
                }
            }
            ("m.room.third_party_invite", Some(token)) => {
                let invite = ThirdPartyInvite::parse(event.sender.clone(), &event.content);
                self.third_party_invites.insert(token.into(), invite);
            }
            _ => {}
        }
        Ok(())
    }
}

impl AuthState for Facts<'_> {
    fn create(&self) -> Option<&CreateInfo> {
        Some(self.create)
    }

    fn power_levels(&self) -> Option<&PowerLevels> {
        self.levels.as_ref()
    }

    fn join_rule(&self) -> JoinRule {
        self.join_rule
    }

    fn membership(&self, user: &UserId) -> Option<Membership> {
        self.members.get(user).copied()
    }

    fn third_party_invite(&self, token: &str) -> Option<ThirdPartyInvite> {
        self.third_party_invites.get(token).cloned()
    }
}

/// Parses what a state says about authority. `create` is the room's create
/// event, `members` are the state's member entries.
pub fn authority(
    events: &Events,
    partition: u32,
    version: RoomVersion,
    create: EventSn,
    state: &StateMap,
    members: imbl::OrdMap<OwnedUserId, Member>,
) -> Result<Authority, EventError> {
    let broken = |_| EventError::NotAnEvent(create.0);
    let event = events.accepted(partition, create)?;
    let info = CreateInfo::parse(
        version,
        event.event_id.clone(),
        event.room_id.clone(),
        event.sender.clone(),
        &event.content,
    );
    let mut authority = Authority::of_create(create, info.map_err(broken)?);
    authority.members = members;
    for kind in ["m.room.power_levels", "m.room.join_rules"] {
        let Some(sn) = state.get(&StateKey::new(kind, "")).copied() else {
            continue;
        };
        let event = events.accepted(partition, sn)?;
        learn(&mut authority, version, sn, &event).map_err(broken)?;
    }
    let invites = Arc::new(StateKey::new("m.room.third_party_invite", ""));
    for (key, sn) in state.range(invites..) {
        if key.kind.as_ref() != "m.room.third_party_invite" {
            break;
        }
        let event = events.accepted(partition, *sn)?;
        learn(&mut authority, version, *sn, &event).map_err(broken)?;
    }
    Ok(authority)
}

/// This event has its key in current state now. Member events change more than
/// authority, and are not for this function.
///
/// Errors: contents that the rules would not have accepted.
pub fn learn(
    authority: &mut Authority,
    version: RoomVersion,
    sn: EventSn,
    event: &AcceptedEvent,
) -> Result<(), AuthError> {
    match (event.kind.as_ref(), event.state_key.as_deref()) {
        ("m.room.power_levels", Some("")) => {
            let power = PowerLevels::parse(version, &event.content)?;
            authority.power_levels = Some(sn);
            authority.power_levels_event = Some(event.event_id.clone());
            authority.levels = Arc::new(Levels::of(&power));
            authority.power = Some(Arc::new(power));
        }
        ("m.room.join_rules", Some("")) => {
            let word = event
                .content
                .get("join_rule")
                .and_then(|rule| rule.as_str());
            authority.join_rules = Some(sn);
            authority.join_rules_event = Some(event.event_id.clone());
            authority.rule = JoinRule::parse(&event.content);
            authority.join_rule = word.unwrap_or_default().into();
        }
        ("m.room.third_party_invite", Some(token)) => {
            let invite = ThirdPartyInvite::parse(event.sender.clone(), &event.content);
            authority.third_party_invites.insert(token.into(), invite);
        }
        _ => {}
    }
    Ok(())
}

/// No event has this key in current state any more; see [`learn`].
pub fn forget(authority: &mut Authority, key: &StateKey) {
    match (key.kind.as_ref(), key.state_key.as_ref()) {
        ("m.room.power_levels", "") => {
            authority.power_levels = None;
            authority.power_levels_event = None;
            authority.levels = Arc::new(Levels::default());
            authority.power = None;
        }
        ("m.room.join_rules", "") => {
            authority.join_rules = None;
            authority.join_rules_event = None;
            authority.rule = JoinRule::Invite;
            authority.join_rule = JoinRule::Invite.as_str().into();
        }
        ("m.room.third_party_invite", token) => {
            authority.third_party_invites.remove(token);
        }
        _ => {}
    }
}

/// The content of an event, if the rules choose its authority by it.
pub fn member_content<'a>(
    event: &AuthEvent<'a>,
) -> Result<Option<Cow<'a, CanonicalJsonObject>>, AuthError> {
    match event.kind {
        "m.room.member" => event.content.load().map(Some),
        _ => Ok(None),
    }
}
