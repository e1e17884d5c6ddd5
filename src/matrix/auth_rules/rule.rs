//! Every authorization rule by name, and the versions that have it.
//!
//! Refusals name their rule ([`super::AuthError::rule`]), scenarios expect it by
//! name, and a test can switch one rule off to see whether anything notices.
//! Signatures (rule 5.2) and the shape of an event (rule 1.2 of version 12) are
//! judged where the event is parsed and verified, and are not among these.

use std::fmt;

use super::AuthError;
use crate::matrix::RoomVersion;

/// A rule that refuses or allows events. Variants stand in the order in which
/// the rules of version 12 do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    CreateWithPrevEvents,
    CreateRoomIdDomain,
    CreateUnknownVersion,
    CreateWithoutCreator,
    CreateAdditionalCreators,
    NoCreate,
    RoomIdMismatch,
    AuthEventsDuplicate,
    AuthEventsUnexpected,
    AuthEventsRejected,
    AuthEventsWithoutCreate,
    AuthEventsOtherRoom,
    NotFederated,
    AliasesWithoutStateKey,
    AliasesDomain,
    /// Allows: an `m.room.aliases` event of the sender's server.
    AliasesOfServer,
    MemberMalformed,
    /// Allows: the creator joins first.
    JoinOfCreator,
    JoinForOther,
    JoinBanned,
    JoinNotInvited,
    /// Allows: who is invited or joined may join where invitations count.
    JoinInvited,
    /// Allows: who is invited or joined needs nobody's authority.
    JoinRestrictedInvited,
    JoinAuthoriserNotJoined,
    JoinAuthoriserPower,
    /// Allows: anybody may join a public room.
    JoinPublic,
    JoinRule,
    ThirdPartyInviteBanned,
    ThirdPartyInviteUnsigned,
    ThirdPartyInviteMalformed,
    ThirdPartyInviteOtherUser,
    ThirdPartyInviteUnknownToken,
    ThirdPartyInviteOtherSender,
    /// Allows: a signature of the invitation's key.
    ThirdPartyInviteSigned,
    ThirdPartyInviteSignature,
    InviteSenderNotJoined,
    InviteTargetJoinedOrBanned,
    InvitePower,
    /// Allows: who is in the room, or on the way in, may leave.
    LeaveOwn,
    LeaveNotMember,
    KickSenderNotJoined,
    UnbanPower,
    KickPower,
    KickTargetPower,
    BanSenderNotJoined,
    BanPower,
    BanTargetPower,
    KnockRule,
    KnockForOther,
    KnockMembership,
    MembershipUnknown,
    SenderNotJoined,
    /// Allows: `m.room.third_party_invite` takes the invite level, and no other.
    ThirdPartyInviteByLevel,
    ThirdPartyInvitePower,
    EventPower,
    StateKeyOfOther,
    PowerLevelsNotInteger,
    PowerLevelsNotIntegers,
    PowerLevelsUsers,
    PowerLevelsCreator,
    /// Allows: the room's first power levels.
    PowerLevelsFirst,
    PowerLevelsFieldCurrent,
    PowerLevelsFieldNew,
    PowerLevelsEventCurrent,
    PowerLevelsEventNew,
    PowerLevelsNotificationCurrent,
    PowerLevelsNotificationNew,
    PowerLevelsOtherUser,
    PowerLevelsUserRaised,
    /// Allows: who has the redact level redacts anything.
    RedactionByLevel,
    /// Allows: events of the same server.
    RedactionOfServer,
    RedactionPower,
}

/// A rule's name, number, and first and last version.
struct Row(Rule, &'static str, &'static str, RoomVersion, RoomVersion);

const V1: RoomVersion = RoomVersion::V1;
const V2: RoomVersion = RoomVersion::V2;
const V5: RoomVersion = RoomVersion::V5;
const V6: RoomVersion = RoomVersion::V6;
const V7: RoomVersion = RoomVersion::V7;
const V8: RoomVersion = RoomVersion::V8;
const V10: RoomVersion = RoomVersion::V10;
const V11: RoomVersion = RoomVersion::V11;
const V12: RoomVersion = RoomVersion::V12;

/// Numbers are those of version 12, or of the last version that has the rule.
#[rustfmt::skip]
static ROWS: [Row; 72] = [
    Row(Rule::CreateWithPrevEvents, "create-with-prev-events", "1.1", V1, V12),
    Row(Rule::CreateRoomIdDomain, "create-room-id-domain", "1.2", V1, V11),
    Row(Rule::CreateUnknownVersion, "create-unknown-version", "1.3", V1, V12),
    Row(Rule::CreateWithoutCreator, "create-without-creator", "1.4", V1, V10),
    Row(Rule::CreateAdditionalCreators, "create-additional-creators", "1.4", V12, V12),
    Row(Rule::NoCreate, "no-create", "2", V1, V12),
    Row(Rule::RoomIdMismatch, "room-id-mismatch", "2", V12, V12),
    Row(Rule::AuthEventsDuplicate, "auth-events-duplicate", "3.1", V1, V12),
    Row(Rule::AuthEventsUnexpected, "auth-events-unexpected", "3.2", V1, V12),
    Row(Rule::AuthEventsRejected, "auth-events-rejected", "3.3", V1, V12),
    Row(Rule::AuthEventsWithoutCreate, "auth-events-without-create", "2.4", V1, V11),
    Row(Rule::AuthEventsOtherRoom, "auth-events-other-room", "3.5", V1, V12),
    Row(Rule::NotFederated, "not-federated", "4", V1, V12),
    Row(Rule::AliasesWithoutStateKey, "aliases-without-state-key", "4.1", V1, V5),
    Row(Rule::AliasesDomain, "aliases-domain", "4.2", V1, V5),
    Row(Rule::AliasesOfServer, "aliases-of-server", "4.3", V1, V5),
    Row(Rule::MemberMalformed, "member-malformed", "5.1", V1, V12),
    Row(Rule::JoinOfCreator, "join-of-creator", "5.3.1", V1, V12),
    Row(Rule::JoinForOther, "join-for-other", "5.3.2", V1, V12),
    Row(Rule::JoinBanned, "join-banned", "5.3.3", V1, V12),
    Row(Rule::JoinNotInvited, "join-not-invited", "5.3.4", V1, V12),
    Row(Rule::JoinInvited, "join-invited", "5.3.4", V1, V12),
    Row(Rule::JoinRestrictedInvited, "join-restricted-invited", "5.3.5.1", V8, V12),
    Row(Rule::JoinAuthoriserNotJoined, "join-authoriser-not-joined", "5.3.5.2", V8, V12),
    Row(Rule::JoinAuthoriserPower, "join-authoriser-power", "5.3.5.2", V8, V12),
    Row(Rule::JoinPublic, "join-public", "5.3.6", V1, V12),
    Row(Rule::JoinRule, "join-rule", "5.3.7", V1, V12),
    Row(Rule::ThirdPartyInviteBanned, "third-party-invite-banned", "5.4.1.1", V1, V12),
    Row(Rule::ThirdPartyInviteUnsigned, "third-party-invite-unsigned", "5.4.1.2", V1, V12),
    Row(Rule::ThirdPartyInviteMalformed, "third-party-invite-malformed", "5.4.1.3", V1, V12),
    Row(Rule::ThirdPartyInviteOtherUser, "third-party-invite-other-user", "5.4.1.4", V1, V12),
    Row(Rule::ThirdPartyInviteUnknownToken, "third-party-invite-unknown-token", "5.4.1.5", V1, V12),
    Row(Rule::ThirdPartyInviteOtherSender, "third-party-invite-other-sender", "5.4.1.6", V1, V12),
    Row(Rule::ThirdPartyInviteSigned, "third-party-invite-signed", "5.4.1.7", V1, V12),
    Row(Rule::ThirdPartyInviteSignature, "third-party-invite-signature", "5.4.1.8", V1, V12),
    Row(Rule::InviteSenderNotJoined, "invite-sender-not-joined", "5.4.2", V1, V12),
    Row(Rule::InviteTargetJoinedOrBanned, "invite-target-joined-or-banned", "5.4.3", V1, V12),
    Row(Rule::InvitePower, "invite-power", "5.4.5", V1, V12),
    Row(Rule::LeaveOwn, "leave-own", "5.5.1", V1, V12),
    Row(Rule::LeaveNotMember, "leave-not-member", "5.5.1", V1, V12),
    Row(Rule::KickSenderNotJoined, "kick-sender-not-joined", "5.5.2", V1, V12),
    Row(Rule::UnbanPower, "unban-power", "5.5.3", V1, V12),
    Row(Rule::KickPower, "kick-power", "5.5.4", V1, V12),
    Row(Rule::KickTargetPower, "kick-target-power", "5.5.4", V1, V12),
    Row(Rule::BanSenderNotJoined, "ban-sender-not-joined", "5.6.1", V1, V12),
    Row(Rule::BanPower, "ban-power", "5.6.2", V1, V12),
    Row(Rule::BanTargetPower, "ban-target-power", "5.6.2", V1, V12),
    Row(Rule::KnockRule, "knock-rule", "5.7.1", V7, V12),
    Row(Rule::KnockForOther, "knock-for-other", "5.7.2", V7, V12),
    Row(Rule::KnockMembership, "knock-membership", "5.7.4", V7, V12),
    Row(Rule::MembershipUnknown, "membership-unknown", "5.8", V1, V12),
    Row(Rule::SenderNotJoined, "sender-not-joined", "6", V1, V12),
    Row(Rule::ThirdPartyInviteByLevel, "third-party-invite-by-level", "7.1", V1, V12),
    Row(Rule::ThirdPartyInvitePower, "third-party-invite-power", "7.1", V1, V12),
    Row(Rule::EventPower, "event-power", "8", V1, V12),
    Row(Rule::StateKeyOfOther, "state-key-of-other", "9", V1, V12),
    Row(Rule::PowerLevelsNotInteger, "power-levels-not-integer", "10.1", V1, V12),
    Row(Rule::PowerLevelsNotIntegers, "power-levels-not-integers", "10.2", V1, V12),
    Row(Rule::PowerLevelsUsers, "power-levels-users", "10.3", V1, V12),
    Row(Rule::PowerLevelsCreator, "power-levels-creator", "10.4", V12, V12),
    Row(Rule::PowerLevelsFirst, "power-levels-first", "10.5", V1, V12),
    Row(Rule::PowerLevelsFieldCurrent, "power-levels-field-current", "10.6.1", V1, V12),
    Row(Rule::PowerLevelsFieldNew, "power-levels-field-new", "10.6.2", V1, V12),
    Row(Rule::PowerLevelsEventCurrent, "power-levels-event-current", "10.7.1", V1, V12),
    Row(Rule::PowerLevelsEventNew, "power-levels-event-new", "10.8.1", V1, V12),
    Row(Rule::PowerLevelsNotificationCurrent, "power-levels-notification-current", "10.7.1", V6, V12),
    Row(Rule::PowerLevelsNotificationNew, "power-levels-notification-new", "10.8.1", V6, V12),
    Row(Rule::PowerLevelsOtherUser, "power-levels-other-user", "10.9.1", V1, V12),
    Row(Rule::PowerLevelsUserRaised, "power-levels-user-raised", "10.10.1", V1, V12),
    Row(Rule::RedactionByLevel, "redaction-by-level", "11.1", V1, V2),
    Row(Rule::RedactionOfServer, "redaction-of-server", "11.2", V1, V2),
    Row(Rule::RedactionPower, "redaction-power", "11.3", V1, V2),
];

impl Rule {
    /// Every rule, in the order of version 12.
    pub fn all() -> impl Iterator<Item = Rule> {
        ROWS.iter().map(|row| row.0)
    }

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// Its name in scenarios, errors and logs.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Its number in version 12, or in the last version that has it.
    pub fn number(self) -> &'static str {
        self.row().2
    }

    /// The rule with a name.
    pub fn parse(name: &str) -> Option<Rule> {
        Rule::all().find(|rule| rule.name() == name)
    }

    /// Whether a version has the rule.
    pub fn is_in(self, version: RoomVersion) -> bool {
        (self.row().3..=self.row().4).contains(&version)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.number())
    }
}

/// The refusal of a rule. All refusals go through here, so that a test can
/// leave one out.
#[inline]
pub(super) fn refuse(error: AuthError) -> Result<(), AuthError> {
    #[cfg(test)]
    if let Some(rule) = error.rule()
        && !switch::applies(rule)
    {
        return Ok(());
    }
    Err(error)
}

/// A refusal unless a condition holds.
#[inline]
pub(super) fn require(condition: bool, error: AuthError) -> Result<(), AuthError> {
    if condition { Ok(()) } else { refuse(error) }
}

/// Whether a rule allows what the condition says, and the rules after it need
/// not be asked. The counterpart of [`refuse`].
#[inline]
pub(super) fn allows(rule: Rule, condition: bool) -> bool {
    #[cfg(test)]
    if condition && !switch::applies(rule) {
        return false;
    }
    let _ = rule;
    condition
}

/// The switch that leaves a rule out, and a note of the rules that were decisive.
#[cfg(test)]
pub(crate) mod switch {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeSet;

    use super::Rule;

    thread_local! {
        static OFF: Cell<Option<Rule>> = const { Cell::new(None) };
        static SEEN: RefCell<BTreeSet<Rule>> = const { RefCell::new(BTreeSet::new()) };
    }

    /// Notes that a rule decides, unless it is off.
    pub(super) fn applies(rule: Rule) -> bool {
        if OFF.get() == Some(rule) {
            return false;
        }
        SEEN.with_borrow_mut(|seen| seen.insert(rule));
        true
    }

    /// Leaves a rule out on this thread, or none.
    pub(crate) fn turn_off(rule: Option<Rule>) {
        OFF.set(rule);
    }

    /// The rules that decided on this thread since the last call.
    pub(crate) fn take_seen() -> BTreeSet<Rule> {
        SEEN.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_where_their_rules_do() {
        for (index, row) in ROWS.iter().enumerate() {
            assert_eq!(row.0 as usize, index, "{}", row.1);
            assert_eq!(Rule::parse(row.1), Some(row.0));
            assert!(row.3 <= row.4);
        }
        assert!(Rule::KnockRule.is_in(V7) && !Rule::KnockRule.is_in(V6));
        assert_eq!(Rule::RedactionPower.to_string(), "redaction-power (11.3)");
    }
}
