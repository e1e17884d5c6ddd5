//! The authorization rules of room versions 1 to 12, straight from the room
//! version specifications.
//!
//! One code for all versions: they differ by the flags of their rules. Comments
//! cite rule numbers of version 12. State comes parsed ([`AuthState`]), so that
//! a plain message is decided without reading any JSON.

mod contents;
mod error;
mod member;
mod power_levels;
pub(crate) mod rule;
mod selection;
#[cfg(test)]
pub(crate) mod tests;

use std::borrow::Cow;

pub use contents::{
    CreateInfo, JoinRule, MemberContent, ThirdPartyInvite, allowed_rooms, room_version_of,
};
pub use error::AuthError;
pub use power_levels::{Level, PowerLevels, PowerLevelsView};
pub use rule::Rule;
pub use selection::{AuthKey, AuthKeys, auth_types_for_event};

use super::Membership;
use super::canonical_json::{CanonicalJsonObject, CanonicalJsonValue, parse_stored_object};
use super::event::Pdu;
use super::ids::{EventId, RoomId, UserId, domain_of};
use super::room_version::RoomVersion;
use rule::{allows, refuse, require};

/// Room state as the rules read it, parsed when it changed and not at each look.
pub trait AuthState {
    /// The create event; none only while there is no room.
    fn create(&self) -> Option<&CreateInfo>;
    /// The power levels event.
    fn power_levels(&self) -> Option<&PowerLevels>;
    /// [`JoinRule::Invite`] where the room sets none.
    fn join_rule(&self) -> JoinRule;
    /// A user's membership; none for one who never had any.
    fn membership(&self, user: &UserId) -> Option<Membership>;
    /// The `m.room.third_party_invite` with this state key.
    fn third_party_invite(&self, token: &str) -> Option<ThirdPartyInvite>;
}

/// An event's content, parsed only if a rule reads it.
#[derive(Clone, Copy, Debug)]
pub enum EventContent<'a> {
    Parsed(&'a CanonicalJsonObject),
    /// JSON of the content alone.
    Bytes(&'a [u8]),
    /// What stays when the body is erased: the redacted event and the auth
    /// extract. The rules decide the same from it as from the whole event.
    Skeleton {
        skeleton: &'a [u8],
        auth_extract: Option<&'a [u8]>,
    },
}

impl<'a> EventContent<'a> {
    /// The content as an object.
    pub fn load(&self) -> Result<Cow<'a, CanonicalJsonObject>, AuthError> {
        let parse = |bytes: &[u8]| parse_stored_object(bytes).map_err(|_| AuthError::Content);
        match *self {
            EventContent::Parsed(content) => Ok(Cow::Borrowed(content)),
            EventContent::Bytes(bytes) => parse(bytes).map(Cow::Owned),
            EventContent::Skeleton {
                skeleton,
                auth_extract,
            } => {
                let content = parse(skeleton)?.remove("content");
                let Some(CanonicalJsonValue::Object(mut content)) = content else {
                    return Err(AuthError::Content);
                };
                if let Some(extract) = auth_extract {
                    content.extend(parse(extract)?);
                }
                Ok(Cow::Owned(content))
            }
        }
    }
}

/// An event as the rules read it.
#[derive(Clone, Copy, Debug)]
pub struct AuthEvent<'a> {
    pub event_id: &'a EventId,
    /// In version 12, for a create event, the id that it makes.
    pub room_id: &'a RoomId,
    pub sender: &'a UserId,
    pub kind: &'a str,
    pub state_key: Option<&'a str>,
    pub content: EventContent<'a>,
    pub prev_events_count: usize,
    pub first_prev_event: Option<&'a str>,
    /// What a redaction names.
    pub redacts: Option<&'a str>,
}

impl<'a> From<&'a Pdu> for AuthEvent<'a> {
    fn from(pdu: &'a Pdu) -> AuthEvent<'a> {
        AuthEvent {
            event_id: &pdu.event_id,
            room_id: &pdu.room_id,
            sender: &pdu.sender,
            kind: &pdu.kind,
            state_key: pdu.state_key.as_deref(),
            content: EventContent::Parsed(pdu.content()),
            prev_events_count: pdu.prev_events.len(),
            first_prev_event: pdu.prev_events.first().map(|id| id.as_str()),
            redacts: pdu.redacts.as_ref().map(|id| id.as_str()),
        }
    }
}

/// An event that another cites in its `auth_events`.
#[derive(Clone, Copy, Debug)]
pub struct CitedEvent<'a> {
    pub kind: &'a str,
    pub state_key: &'a str,
    pub room_id: &'a RoomId,
    pub rejected: bool,
}

/// Rule 3 (2 before version 12): what an event cites as its authority.
///
/// `cited` are the events of its `auth_events`, all of which must be known.
pub fn check_auth_events(
    version: RoomVersion,
    event: &AuthEvent<'_>,
    cited: &[CitedEvent<'_>],
) -> Result<(), AuthError> {
    let content = match event.kind {
        "m.room.member" => Some(event.content.load()?),
        _ => None,
    };
    // Without a membership it is refused by rule 5.1, and cites what any event does.
    let member = content
        .as_deref()
        .and_then(|content| MemberContent::parse(content).ok());
    let expected = auth_types_for_event(version, event.kind, event.sender, event.state_key, member);
    for (index, entry) in cited.iter().enumerate() {
        let same =
            |other: &CitedEvent<'_>| other.kind == entry.kind && other.state_key == entry.state_key;
        // Rule 3.1.
        if cited[..index].iter().any(same) {
            refuse(AuthError::AuthEventsDuplicate {
                kind: entry.kind.into(),
                state_key: entry.state_key.into(),
            })?;
        }
        // Rule 3.2.
        if !expected
            .iter()
            .any(|key| key.kind == entry.kind && key.state_key == entry.state_key)
        {
            refuse(AuthError::AuthEventsUnexpected {
                kind: entry.kind.into(),
                state_key: entry.state_key.into(),
            })?;
        }
        // Rule 3.3.
        require(!entry.rejected, AuthError::AuthEventsRejected)?;
        // Rule 3.5.
        require(
            entry.room_id == event.room_id,
            AuthError::AuthEventsOtherRoom,
        )?;
    }
    // Rule 2.4 up to version 11.
    let must_cite_create = version
        .rules()
        .event_format
        .allow_room_create_in_auth_events
        && event.kind != "m.room.create";
    let cites_create = cited.iter().any(|entry| entry.kind == "m.room.create");
    require(
        cites_create || !must_cite_create,
        AuthError::AuthEventsWithoutCreate,
    )
}

/// Whether a room in `state` allows an event: every rule but those about
/// `auth_events` ([`check_auth_events`]) and signatures (`matrix::signing`).
///
/// A create event is judged by itself. Costs some map look-ups for events that
/// are no state; member and power levels events parse their content.
pub fn check(
    version: RoomVersion,
    event: &AuthEvent<'_>,
    state: &impl AuthState,
) -> Result<(), AuthError> {
    let rules = &version.rules().authorization;
    // Rule 1.
    if event.kind == "m.room.create" {
        return check_create(version, event);
    }
    let Some(create) = state.create() else {
        return refuse(AuthError::NoCreate);
    };
    // Rule 2, since version 12.
    if rules.room_create_event_id_as_room_id {
        require(create.makes(event.room_id), AuthError::RoomIdMismatch)?;
    }
    // Rule 4.
    let may_federate = create.federate || create.sender.server_name() == event.sender.server_name();
    require(may_federate, AuthError::NotFederated)?;
    // Rule 4 of versions 1 to 5.
    if rules.special_case_room_aliases && event.kind == "m.room.aliases" {
        let Some(server) = event.state_key else {
            return refuse(AuthError::AliasesWithoutStateKey);
        };
        let own = event.sender.server_name().as_str() == server;
        require(own, AuthError::AliasesDomain)?;
        if allows(Rule::AliasesOfServer, true) {
            return Ok(());
        }
    }
    // Rule 5.
    if event.kind == "m.room.member" {
        return member::check(event, event.content.load()?.as_ref(), create, state);
    }
    // Rule 6.
    let joined = state.membership(event.sender) == Some(Membership::Join);
    require(joined, AuthError::SenderNotJoined)?;
    let levels = PowerLevelsView::new(create, state.power_levels());
    // Rule 7.
    if event.kind == "m.room.third_party_invite" {
        require(
            levels.can_invite(event.sender),
            AuthError::ThirdPartyInvitePower,
        )?;
        if allows(Rule::ThirdPartyInviteByLevel, true) {
            return Ok(());
        }
    }
    // Rule 8.
    let may_send = levels.can_send(event.sender, event.kind, event.state_key.is_some());
    require(may_send, AuthError::EventPower)?;
    // Rule 9.
    let of_other = |key: &str| key.starts_with('@') && key != event.sender.as_str();
    require(
        !event.state_key.is_some_and(of_other),
        AuthError::StateKeyOfOther,
    )?;
    match event.kind {
        // Rule 10.
        "m.room.power_levels" => {
            let content = event.content.load()?;
            power_levels::check_change(event.sender, &content, create, state.power_levels())
        }
        // Rule 11 of versions 1 and 2.
        "m.room.redaction" if rules.special_case_room_redaction => check_redaction(event, &levels),
        // Rule 11.
        _ => Ok(()),
    }
}

/// Rule 1. Rule 1.2 of version 12 (no `room_id`) is checked where the event is
/// parsed, for here it has one in any case.
fn check_create(version: RoomVersion, event: &AuthEvent<'_>) -> Result<(), AuthError> {
    let rules = &version.rules().authorization;
    // Rule 1.1.
    require(
        event.prev_events_count == 0,
        AuthError::CreateWithPrevEvents,
    )?;
    // Rule 1.2 up to version 11.
    if !rules.room_create_event_id_as_room_id {
        let own = domain_of(event.room_id.as_str()) == Some(event.sender.server_name().as_str());
        require(own, AuthError::CreateRoomIdDomain)?;
    }
    let content = event.content.load()?;
    // Rule 1.3.
    room_version_of(&content).map(drop).or_else(refuse)?;
    // Rule 1.4 up to version 10.
    if !rules.use_room_create_sender {
        require(
            content.contains_key("creator"),
            AuthError::CreateWithoutCreator,
        )?;
    }
    // Rule 1.4 of version 12.
    if rules.additional_room_creators {
        let named = contents::additional_creators(&content).map(drop);
        named.or_else(refuse)?;
    }
    Ok(())
}

/// Rule 11 of versions 1 and 2.
fn check_redaction(event: &AuthEvent<'_>, levels: &PowerLevelsView<'_>) -> Result<(), AuthError> {
    // Rule 11.1.
    if allows(
        Rule::RedactionByLevel,
        levels.can_redact_others(event.sender),
    ) {
        return Ok(());
    }
    // Rule 11.2.
    let target = event.redacts.and_then(domain_of);
    let own = target.is_some() && target == domain_of(event.event_id.as_str());
    if allows(Rule::RedactionOfServer, own) {
        return Ok(());
    }
    // Rule 11.3.
    refuse(AuthError::RedactionPower)
}
