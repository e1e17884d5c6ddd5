//! Which events authorise what a local user writes, and whether they do.
//!
//! A refusal here leaves no record. The fold checks again and decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use ruma::{EventId, OwnedUserId, RoomId, UserId};

use super::event_builder::{Built, Draft, Parents, reference_to};
use super::room_error::RoomWriteError;
use crate::matrix::auth_rules::{
    self, AuthError, AuthEvent, AuthKey, AuthKeys, AuthState, CreateInfo, EventContent, JoinRule,
    MemberContent, PowerLevels, ThirdPartyInvite, auth_types_for_event,
};
use crate::matrix::build::EventRef;
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::matrix::{Membership, RoomVersion};
use crate::query::ids::EventSn;
use crate::query::rooms::{RoomHead, Rooms, StateKey};

/// The state of a room in the making, as far as the rules read it.
#[derive(Default)]
struct Facts {
    create: Option<CreateInfo>,
    levels: Option<PowerLevels>,
    join_rule: Option<JoinRule>,
    members: BTreeMap<OwnedUserId, Membership>,
    /// By token, the state key.
    third_party_invites: BTreeMap<Box<str>, ThirdPartyInvite>,
}

impl AuthState for Facts {
    fn create(&self) -> Option<&CreateInfo> {
        self.create.as_ref()
    }

    fn power_levels(&self) -> Option<&PowerLevels> {
        self.levels.as_ref()
    }

    fn join_rule(&self) -> JoinRule {
        self.join_rule.unwrap_or(JoinRule::Invite)
    }

    fn membership(&self, user: &UserId) -> Option<Membership> {
        self.members.get(user).copied()
    }

    fn third_party_invite(&self, token: &str) -> Option<ThirdPartyInvite> {
        self.third_party_invites.get(token).cloned()
    }
}

/// A state event, as [`Facts`] take it in.
struct Fact<'a> {
    event_id: &'a EventId,
    room_id: &'a RoomId,
    sender: &'a UserId,
    kind: &'a str,
    state_key: &'a str,
    content: &'a CanonicalJsonObject,
}

impl Facts {
    fn learn(&mut self, version: RoomVersion, fact: Fact<'_>) -> Result<(), AuthError> {
        match (fact.kind, fact.state_key) {
            ("m.room.create", "") => {
                self.create = Some(CreateInfo::parse(
                    version,
                    fact.event_id.to_owned(),
                    fact.room_id.to_owned(),
                    fact.sender.to_owned(),
                    fact.content,
                )?);
            }
            ("m.room.power_levels", "") => {
                self.levels = Some(PowerLevels::parse(version, fact.content)?);
            }
            ("m.room.join_rules", "") => self.join_rule = Some(JoinRule::parse(fact.content)),
            ("m.room.member", user) => {
                let member = MemberContent::parse(fact.content)?;
                let membership = Membership::parse(member.membership);
                if let (Ok(user), Some(membership)) = (UserId::parse(user), membership) {
                    self.members.insert(user, membership);
                }
            }
            ("m.room.third_party_invite", token) => {
                let invite = ThirdPartyInvite::parse(fact.sender.to_owned(), fact.content);
                self.third_party_invites.insert(token.into(), invite);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The auth rules for a draft, against current state.
pub fn check(
    head: &RoomHead,
    version: RoomVersion,
    draft: &Draft,
    parents: &Parents,
) -> Result<(), RoomWriteError> {
    // The id is not made yet. A rule of versions 1 and 2 reads the server in it,
    // which is the sender's.
    let own_id = match version.has_event_id_field() {
        true => EventId::parse(format!("$_:{}", draft.sender.server_name())).ok(),
        false => None,
    };
    let event = AuthEvent {
        event_id: own_id.as_deref().unwrap_or(&head.authority.create_event),
        room_id: &head.room_id,
        sender: &draft.sender,
        kind: &draft.kind,
        state_key: draft.state_key.as_deref(),
        content: EventContent::Parsed(&draft.content),
        prev_events_count: parents.prev_events.len(),
        first_prev_event: parents
            .prev_events
            .first()
            .map(|parent| parent.event_id.as_str()),
        redacts: draft.redacts.as_ref().map(|id| id.as_str()),
    };
    auth_rules::check(version, &event, &*head.authority).map_err(forbidden)
}

/// The auth events of any message of a sender who is joined.
pub fn message_auth_events(
    rooms: &dyn Rooms,
    head: &RoomHead,
    version: RoomVersion,
    sender: &UserId,
) -> Result<Arc<[EventRef]>, RoomWriteError> {
    let keys = auth_types_for_event(version, "m.room.message", sender, None, None);
    Ok(current_events(rooms, head, version, &keys)?.into())
}

/// Checks a draft against current state and gives its auth events.
pub fn authorize(
    rooms: &dyn Rooms,
    head: &RoomHead,
    version: RoomVersion,
    draft: &Draft,
    parents: &Parents,
) -> Result<Vec<EventRef>, RoomWriteError> {
    check_form(draft).map_err(|error| RoomWriteError::BadJson(error.to_string()))?;
    let member = member_content(draft).map_err(forbidden)?;
    let state_key = draft.state_key.as_deref();
    let keys = auth_types_for_event(version, &draft.kind, &draft.sender, state_key, member);
    check(head, version, draft, parents)?;
    current_events(rooms, head, version, &keys)
}

/// The events that current state has under these keys.
fn current_events(
    rooms: &dyn Rooms,
    head: &RoomHead,
    version: RoomVersion,
    keys: &AuthKeys<'_>,
) -> Result<Vec<EventRef>, RoomWriteError> {
    let entry = |key: &AuthKey<'_>| head.state.get(&StateKey::new(key.kind, &key.state_key));
    let entries: Vec<EventSn> = keys.iter().filter_map(entry).copied().collect();
    let events = rooms.events(&head.room_id, &entries)?;
    let references = events.iter().map(|event| reference_to(version, event));
    Ok(references.collect())
}

/// Old versions take power levels that are no integers, but nobody is to send
/// new ones (room version 1, *Deprecated event content schemas*).
fn check_form(draft: &Draft) -> Result<(), AuthError> {
    match (&*draft.kind, draft.state_key.as_deref()) {
        ("m.room.power_levels", Some(_)) => {
            PowerLevels::parse(RoomVersion::V10, &draft.content).map(drop)
        }
        _ => Ok(()),
    }
}

fn member_content(draft: &Draft) -> Result<Option<MemberContent<'_>>, AuthError> {
    match &*draft.kind {
        "m.room.member" => MemberContent::parse(&draft.content).map(Some),
        _ => Ok(None),
    }
}

fn forbidden(error: AuthError) -> RoomWriteError {
    RoomWriteError::Forbidden(format!("not allowed by the room ({error})"))
}

/// The state of a room in the making.
pub struct NewRoomState {
    version: RoomVersion,
    facts: Facts,
    entries: BTreeMap<StateKey, EventRef>,
}

impl NewRoomState {
    /// The empty state.
    pub fn new(version: RoomVersion) -> NewRoomState {
        NewRoomState {
            version,
            facts: Facts::default(),
            entries: BTreeMap::new(),
        }
    }

    /// The auth events of the next event.
    pub fn auth_events(&self, draft: &Draft) -> Result<Vec<EventRef>, RoomWriteError> {
        let member = member_content(draft).map_err(invalid)?;
        let state_key = draft.state_key.as_deref();
        let keys =
            auth_types_for_event(self.version, &draft.kind, &draft.sender, state_key, member);
        let cited = keys.iter().filter_map(|key| {
            let key = StateKey::new(key.kind, &key.state_key);
            self.entries.get(&key).cloned()
        });
        Ok(cited.collect())
    }

    /// Checks the event that was built from `draft` and takes it in.
    pub fn check_and_apply(
        &mut self,
        draft: &Draft,
        prev_event: Option<&EventId>,
        built: &Built,
    ) -> Result<(), RoomWriteError> {
        let event = AuthEvent {
            event_id: &built.event_id,
            room_id: &built.room_id,
            sender: &draft.sender,
            kind: &draft.kind,
            state_key: draft.state_key.as_deref(),
            content: EventContent::Parsed(&draft.content),
            prev_events_count: usize::from(prev_event.is_some()),
            first_prev_event: prev_event.map(EventId::as_str),
            redacts: None,
        };
        check_form(draft).map_err(invalid)?;
        auth_rules::check(self.version, &event, &self.facts).map_err(invalid)?;
        let state_key = draft.state_key.as_deref().unwrap_or_default();
        let fact = Fact {
            event_id: &built.event_id,
            room_id: &built.room_id,
            sender: &draft.sender,
            kind: &draft.kind,
            state_key,
            content: &draft.content,
        };
        self.facts.learn(self.version, fact).map_err(invalid)?;
        let key = StateKey::new(&draft.kind, state_key);
        self.entries.insert(key, built.reference.clone());
        Ok(())
    }
}

fn invalid(error: AuthError) -> RoomWriteError {
    RoomWriteError::InvalidRoomState(error.to_string())
}
