//! The few state events by which one event is judged.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::Membership;
use super::super::auth_rules::{
    self, AuthEvent, AuthKeys, AuthState, CreateInfo, EventContent, JoinRule, MemberContent,
    PowerLevels, ThirdPartyInvite, auth_types_for_event,
};
use super::super::ids::{OwnedUserId, UserId};
use super::super::room_version::RoomVersion;
use super::events::Events;
use super::{ResolutionEvent, ResolveError};

/// Parsed state, gathered for one event.
struct Gathered<'a> {
    create: &'a CreateInfo,
    levels: Option<Arc<PowerLevels>>,
    join_rule: JoinRule,
    members: BTreeMap<OwnedUserId, Membership>,
    invites: BTreeMap<Box<str>, ThirdPartyInvite>,
}

impl AuthState for Gathered<'_> {
    fn create(&self) -> Option<&CreateInfo> {
        Some(self.create)
    }
    fn power_levels(&self) -> Option<&PowerLevels> {
        self.levels.as_deref()
    }
    fn join_rule(&self) -> JoinRule {
        self.join_rule
    }
    fn membership(&self, user: &UserId) -> Option<Membership> {
        self.members.get(user).copied()
    }
    fn third_party_invite(&self, token: &str) -> Option<ThirdPartyInvite> {
        self.invites.get(token).cloned()
    }
}

/// The keys whose state decides about an event; none if it is malformed.
pub(super) fn deciding_keys<Id>(
    version: RoomVersion,
    event: &ResolutionEvent<Id>,
) -> Option<AuthKeys<'_>> {
    let member = match &*event.kind {
        "m.room.member" => Some(MemberContent::parse(&event.content).ok()?),
        _ => None,
    };
    Some(auth_types_for_event(
        version,
        &event.kind,
        &event.sender,
        Some(&event.state_key),
        member,
    ))
}

/// Whether a room allows an event whose deciding state is these events. Where
/// two hold the same key, the later one counts.
pub(super) fn is_allowed<Id, E, F>(
    events: &mut Events<'_, Id, F>,
    event: &ResolutionEvent<Id>,
    state: &[Id],
) -> Result<bool, ResolveError<E>>
where
    Id: Copy + Ord,
    F: FnMut(Id) -> Result<Option<Arc<ResolutionEvent<Id>>>, E>,
{
    let mut gathered = Gathered {
        create: events.create,
        levels: None,
        join_rule: JoinRule::Invite,
        members: BTreeMap::new(),
        invites: BTreeMap::new(),
    };
    for &id in state {
        let holder = events.get(id)?;
        match (&*holder.kind, &*holder.state_key) {
            ("m.room.power_levels", "") => gathered.levels = events.levels(id)?,
            ("m.room.join_rules", "") => gathered.join_rule = JoinRule::parse(&holder.content),
            ("m.room.member", user) => {
                let membership = holder
                    .content
                    .get("membership")
                    .and_then(|word| word.as_str());
                let membership = membership.and_then(Membership::parse);
                if let (Ok(user), Some(membership)) = (OwnedUserId::try_from(user), membership) {
                    gathered.members.insert(user, membership);
                }
            }
            ("m.room.third_party_invite", token) => {
                let invite = ThirdPartyInvite::parse(holder.sender.clone(), &holder.content);
                gathered.invites.insert(token.into(), invite);
            }
            _ => {}
        }
    }
    let judged = AuthEvent {
        event_id: &event.event_id,
        room_id: &event.room_id,
        sender: &event.sender,
        kind: &event.kind,
        state_key: Some(&event.state_key),
        content: EventContent::Parsed(&event.content),
        prev_events_count: event.prev_events_count,
        first_prev_event: event.first_prev_event.as_ref().map(|id| id.as_str()),
        redacts: None,
    };
    Ok(auth_rules::check(events.version, &judged, &gathered).is_ok())
}
