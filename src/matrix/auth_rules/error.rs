//! Why the authorization rules refuse an event: a variant per rule.

use super::super::ids::OwnedUserId;
use super::rule::Rule;

/// A rule that refused an event. Numbers are those of room version 12, unless a
/// variant names another version; older versions number the same rules lower.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("rule 1.1: a create event has prev_events")]
    CreateWithPrevEvents,
    #[error("rule 1.2 (up to version 11): the room id is not of the sender's server")]
    CreateRoomIdDomain,
    #[error("rule 1.3: room version {0:?} is not recognised")]
    CreateUnknownVersion(Box<str>),
    #[error("rule 1.4 (up to version 10): the create event names no creator")]
    CreateWithoutCreator,
    #[error("rule 1.4: additional_creators is no list of user ids")]
    CreateAdditionalCreators,
    #[error("rule 2: the room has no create event with this room id")]
    RoomIdMismatch,
    #[error("rule 3.1: auth_events cites {kind:?} {state_key:?} twice")]
    AuthEventsDuplicate { kind: Box<str>, state_key: Box<str> },
    #[error("rule 3.2: auth_events cites {kind:?} {state_key:?}, which authorises nothing here")]
    AuthEventsUnexpected { kind: Box<str>, state_key: Box<str> },
    #[error("rule 3.3: auth_events cites a rejected event")]
    AuthEventsRejected,
    #[error("rule 2.4 (up to version 11): auth_events cites no create event")]
    AuthEventsWithoutCreate,
    #[error("rule 3.5: auth_events cites an event of another room")]
    AuthEventsOtherRoom,
    #[error("the room has no create event")]
    NoCreate,
    #[error("rule 4: the room does not federate and the sender is of another server")]
    NotFederated,
    #[error("rule 4.1 (versions 1 to 5): an m.room.aliases event has no state key")]
    AliasesWithoutStateKey,
    #[error("rule 4.2 (versions 1 to 5): aliases of another server")]
    AliasesDomain,
    #[error("rule 5.1: a member event without state key or membership")]
    MemberMalformed,
    #[error("rule 5.3.2: a user joins for another")]
    JoinForOther,
    #[error("rule 5.3.3: the user is banned")]
    JoinBanned,
    #[error("rule 5.3.4: the room is joined by invitation")]
    JoinNotInvited,
    #[error("rule 5.3.5.2: the join is not authorised by a member")]
    JoinAuthoriserNotJoined,
    #[error("rule 5.3.5.2: the join is authorised by a member who may not invite")]
    JoinAuthoriserPower,
    #[error("rule 5.3.7: the join rule lets nobody in")]
    JoinRule,
    #[error("rule 5.4.1.1: the invited user is banned")]
    ThirdPartyInviteBanned,
    #[error("rule 5.4.1.2: third_party_invite is not signed")]
    ThirdPartyInviteUnsigned,
    #[error("rule 5.4.1.3: signed lacks mxid or token")]
    ThirdPartyInviteMalformed,
    #[error("rule 5.4.1.4: mxid is not the invited user")]
    ThirdPartyInviteOtherUser,
    #[error("rule 5.4.1.5: no m.room.third_party_invite with this token")]
    ThirdPartyInviteUnknownToken,
    #[error("rule 5.4.1.6: the invitation was made by another user")]
    ThirdPartyInviteOtherSender,
    #[error("rule 5.4.1.8: no signature matches a public key of the invitation")]
    ThirdPartyInviteSignature,
    #[error("rule 5.4.2: the inviting user is not in the room")]
    InviteSenderNotJoined,
    #[error("rule 5.4.3: the invited user is joined or banned")]
    InviteTargetJoinedOrBanned,
    #[error("rule 5.4.5: the sender may not invite")]
    InvitePower,
    #[error("rule 5.5.1: the user is not in the room")]
    LeaveNotMember,
    #[error("rule 5.5.2: the kicking user is not in the room")]
    KickSenderNotJoined,
    #[error("rule 5.5.3: the sender may not lift a ban")]
    UnbanPower,
    #[error("rule 5.5.5: the sender may not kick")]
    KickPower,
    #[error("rule 5.5.5: the user's level is not below the sender's")]
    KickTargetPower,
    #[error("rule 5.6.1: the banning user is not in the room")]
    BanSenderNotJoined,
    #[error("rule 5.6.3: the sender may not ban")]
    BanPower,
    #[error("rule 5.6.3: the user's level is not below the sender's")]
    BanTargetPower,
    #[error("rule 5.7.1: the room is not joined by knocking")]
    KnockRule,
    #[error("rule 5.7.2: a user knocks for another")]
    KnockForOther,
    #[error("rule 5.7.4: the user is banned, invited or joined")]
    KnockMembership,
    #[error("rule 5.8: membership {0:?} is unknown")]
    MembershipUnknown(Box<str>),
    #[error("rule 6: the sender is not in the room")]
    SenderNotJoined,
    #[error("rule 7.1: the sender may not invite third parties")]
    ThirdPartyInvitePower,
    #[error("rule 8: the sender may not send events of this type")]
    EventPower,
    #[error("rule 9: the state key is another user's id")]
    StateKeyOfOther,
    #[error("rule 10.1: {0} is not an integer")]
    PowerLevelsNotInteger(&'static str),
    #[error("rule 10.2: {0} is not an object of integers")]
    PowerLevelsNotIntegers(&'static str),
    #[error("rule 10.3: users is not an object of user ids and integers")]
    PowerLevelsUsers,
    #[error("rule 10.4: users names the room creator {0}")]
    PowerLevelsCreator(OwnedUserId),
    #[error("rule 10.6.1: {0} is higher than the sender's level")]
    PowerLevelsFieldCurrent(&'static str),
    #[error("rule 10.6.2: {0} becomes higher than the sender's level")]
    PowerLevelsFieldNew(&'static str),
    #[error("rule 10.7: the level of event type {0:?} is higher than the sender's")]
    PowerLevelsEventCurrent(Box<str>),
    #[error("rule 10.8: the level of event type {0:?} becomes higher than the sender's")]
    PowerLevelsEventNew(Box<str>),
    #[error("rule 10.7 (since version 6): notification {0:?} is higher than the sender's level")]
    PowerLevelsNotificationCurrent(Box<str>),
    #[error(
        "rule 10.8 (since version 6): notification {0:?} becomes higher than the sender's level"
    )]
    PowerLevelsNotificationNew(Box<str>),
    #[error("rule 10.9: {0} has a level not below the sender's")]
    PowerLevelsOtherUser(OwnedUserId),
    #[error("rule 10.10: {0} gets a level above the sender's")]
    PowerLevelsUserRaised(OwnedUserId),
    #[error("rule 11.3 (versions 1 and 2): the sender may not redact this event")]
    RedactionPower,
    #[error("content could not be read")]
    Content,
}

impl AuthError {
    /// The rule that refused; none if the event could not be read at all.
    pub fn rule(&self) -> Option<Rule> {
        Some(match self {
            AuthError::CreateWithPrevEvents => Rule::CreateWithPrevEvents,
            AuthError::CreateRoomIdDomain => Rule::CreateRoomIdDomain,
            AuthError::CreateUnknownVersion(_) => Rule::CreateUnknownVersion,
            AuthError::CreateWithoutCreator => Rule::CreateWithoutCreator,
            AuthError::CreateAdditionalCreators => Rule::CreateAdditionalCreators,
            AuthError::RoomIdMismatch => Rule::RoomIdMismatch,
            AuthError::AuthEventsDuplicate { .. } => Rule::AuthEventsDuplicate,
            AuthError::AuthEventsUnexpected { .. } => Rule::AuthEventsUnexpected,
            AuthError::AuthEventsRejected => Rule::AuthEventsRejected,
            AuthError::AuthEventsWithoutCreate => Rule::AuthEventsWithoutCreate,
            AuthError::AuthEventsOtherRoom => Rule::AuthEventsOtherRoom,
            AuthError::NoCreate => Rule::NoCreate,
            AuthError::NotFederated => Rule::NotFederated,
            AuthError::AliasesWithoutStateKey => Rule::AliasesWithoutStateKey,
            AuthError::AliasesDomain => Rule::AliasesDomain,
            AuthError::MemberMalformed => Rule::MemberMalformed,
            AuthError::JoinForOther => Rule::JoinForOther,
            AuthError::JoinBanned => Rule::JoinBanned,
            AuthError::JoinNotInvited => Rule::JoinNotInvited,
            AuthError::JoinAuthoriserNotJoined => Rule::JoinAuthoriserNotJoined,
            AuthError::JoinAuthoriserPower => Rule::JoinAuthoriserPower,
            AuthError::JoinRule => Rule::JoinRule,
            AuthError::ThirdPartyInviteBanned => Rule::ThirdPartyInviteBanned,
            AuthError::ThirdPartyInviteUnsigned => Rule::ThirdPartyInviteUnsigned,
            AuthError::ThirdPartyInviteMalformed => Rule::ThirdPartyInviteMalformed,
            AuthError::ThirdPartyInviteOtherUser => Rule::ThirdPartyInviteOtherUser,
            AuthError::ThirdPartyInviteUnknownToken => Rule::ThirdPartyInviteUnknownToken,
            AuthError::ThirdPartyInviteOtherSender => Rule::ThirdPartyInviteOtherSender,
            AuthError::ThirdPartyInviteSignature => Rule::ThirdPartyInviteSignature,
            AuthError::InviteSenderNotJoined => Rule::InviteSenderNotJoined,
            AuthError::InviteTargetJoinedOrBanned => Rule::InviteTargetJoinedOrBanned,
            AuthError::InvitePower => Rule::InvitePower,
            AuthError::LeaveNotMember => Rule::LeaveNotMember,
            AuthError::KickSenderNotJoined => Rule::KickSenderNotJoined,
            AuthError::UnbanPower => Rule::UnbanPower,
            AuthError::KickPower => Rule::KickPower,
            AuthError::KickTargetPower => Rule::KickTargetPower,
            AuthError::BanSenderNotJoined => Rule::BanSenderNotJoined,
            AuthError::BanPower => Rule::BanPower,
            AuthError::BanTargetPower => Rule::BanTargetPower,
            AuthError::KnockRule => Rule::KnockRule,
            AuthError::KnockForOther => Rule::KnockForOther,
            AuthError::KnockMembership => Rule::KnockMembership,
            AuthError::MembershipUnknown(_) => Rule::MembershipUnknown,
            AuthError::SenderNotJoined => Rule::SenderNotJoined,
            AuthError::ThirdPartyInvitePower => Rule::ThirdPartyInvitePower,
            AuthError::EventPower => Rule::EventPower,
            AuthError::StateKeyOfOther => Rule::StateKeyOfOther,
            AuthError::PowerLevelsNotInteger(_) => Rule::PowerLevelsNotInteger,
            AuthError::PowerLevelsNotIntegers(_) => Rule::PowerLevelsNotIntegers,
            AuthError::PowerLevelsUsers => Rule::PowerLevelsUsers,
            AuthError::PowerLevelsCreator(_) => Rule::PowerLevelsCreator,
            AuthError::PowerLevelsFieldCurrent(_) => Rule::PowerLevelsFieldCurrent,
            AuthError::PowerLevelsFieldNew(_) => Rule::PowerLevelsFieldNew,
            AuthError::PowerLevelsEventCurrent(_) => Rule::PowerLevelsEventCurrent,
            AuthError::PowerLevelsEventNew(_) => Rule::PowerLevelsEventNew,
            AuthError::PowerLevelsNotificationCurrent(_) => Rule::PowerLevelsNotificationCurrent,
            AuthError::PowerLevelsNotificationNew(_) => Rule::PowerLevelsNotificationNew,
            AuthError::PowerLevelsOtherUser(_) => Rule::PowerLevelsOtherUser,
            AuthError::PowerLevelsUserRaised(_) => Rule::PowerLevelsUserRaised,
            AuthError::RedactionPower => Rule::RedactionPower,
            AuthError::Content => return None,
        })
    }
}
