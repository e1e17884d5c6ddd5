//! Rule 5: `m.room.member` events (rule 4 in versions 6 to 11).
//!
//! Whether the server of an authorising user signed a join (rule 5.2) is
//! checked with the other signatures, in `matrix::signing`.

use super::super::Membership;
use super::super::canonical_json::{CanonicalJsonObject, CanonicalJsonValue, to_bytes_without};
use super::super::ids::UserId;
use super::super::signing::verify_bytes;
use super::contents::{CreateInfo, JoinRule, MemberContent};
use super::rule::{allows, refuse, require};
use super::{AuthError, AuthEvent, AuthState, Level, PowerLevelsView, Rule};

/// Pairs of signature and key that are tried on a third-party invite. Identity
/// servers use one or two of each; an event has room for some hundred thousand
/// pairs, which would take half a minute.
const SIGNATURES_TRIED_MAX: usize = 256;

/// What the sub-rules share.
struct Member<'a, S> {
    event: &'a AuthEvent<'a>,
    content: MemberContent<'a>,
    target: &'a UserId,
    create: &'a CreateInfo,
    levels: PowerLevelsView<'a>,
    state: &'a S,
}

/// Checks a member event against room state.
pub(super) fn check<S: AuthState>(
    event: &AuthEvent<'_>,
    content: &CanonicalJsonObject,
    create: &CreateInfo,
    state: &S,
) -> Result<(), AuthError> {
    // Rule 5.1. A state key that is no user id can be no member's.
    let target = event
        .state_key
        .and_then(|key| <&UserId>::try_from(key).ok());
    let (Some(target), Ok(content)) = (target, MemberContent::parse(content)) else {
        return refuse(AuthError::MemberMalformed);
    };
    let member = Member {
        content,
        target,
        levels: PowerLevelsView::new(create, state.power_levels()),
        event,
        create,
        state,
    };
    let knocking = create.version.rules().authorization.knocking;
    match member.content.membership {
        "join" => member.check_join(),
        "invite" => member.check_invite(),
        "leave" => member.check_leave(),
        "ban" => member.check_ban(),
        "knock" if knocking => member.check_knock(),
        other => refuse(AuthError::MembershipUnknown(other.into())),
    }
}

impl<S: AuthState> Member<'_, S> {
    fn sender_joined(&self) -> bool {
        self.state.membership(self.event.sender) == Some(Membership::Join)
    }

    /// Rule 5.3.
    fn check_join(&self) -> Result<(), AuthError> {
        let rules = &self.create.version.rules().authorization;
        // Rule 5.3.1. Before version 11 the creator is whom the content names.
        let first = self.event.prev_events_count == 1
            && self.event.first_prev_event == Some(self.create.event_id.as_str());
        let founder = if rules.use_room_create_sender {
            self.create.sender == self.target
        } else {
            self.create.is_creator(self.target)
        };
        if allows(Rule::JoinOfCreator, first && founder) {
            return Ok(());
        }
        // Rule 5.3.2.
        require(self.event.sender == self.target, AuthError::JoinForOther)?;
        // Rule 5.3.3.
        let membership = self.state.membership(self.target);
        require(membership != Some(Membership::Ban), AuthError::JoinBanned)?;
        let invited = matches!(membership, Some(Membership::Invite | Membership::Join));
        match self.state.join_rule() {
            // Rule 5.3.4.
            JoinRule::Invite => check_invited(invited),
            JoinRule::Knock if rules.knocking => check_invited(invited),
            // Rule 5.3.5.
            JoinRule::Restricted if rules.restricted_join_rule => self.check_restricted(invited),
            JoinRule::KnockRestricted if rules.knock_restricted_join_rule => {
                self.check_restricted(invited)
            }
            // Rule 5.3.6.
            JoinRule::Public if allows(Rule::JoinPublic, true) => Ok(()),
            // Rule 5.3.7.
            _ => refuse(AuthError::JoinRule),
        }
    }

    /// Rule 5.3.5.
    fn check_restricted(&self, invited: bool) -> Result<(), AuthError> {
        if allows(Rule::JoinRestrictedInvited, invited) {
            return Ok(());
        }
        let authoriser = self
            .content
            .join_authorised_via_users_server
            .and_then(|user| <&UserId>::try_from(user).ok());
        let Some(authoriser) = authoriser else {
            return refuse(AuthError::JoinAuthoriserNotJoined);
        };
        let joined = self.state.membership(authoriser) == Some(Membership::Join);
        require(joined, AuthError::JoinAuthoriserNotJoined)?;
        require(
            self.levels.can_invite(authoriser),
            AuthError::JoinAuthoriserPower,
        )
    }

    /// Rule 5.4.
    fn check_invite(&self) -> Result<(), AuthError> {
        // Rule 5.4.1.
        if let Some(invite) = self.content.third_party_invite {
            return self.check_third_party_invite(invite);
        }
        // Rule 5.4.2.
        require(self.sender_joined(), AuthError::InviteSenderNotJoined)?;
        // Rule 5.4.3.
        let target = self.state.membership(self.target);
        require(
            !matches!(target, Some(Membership::Join | Membership::Ban)),
            AuthError::InviteTargetJoinedOrBanned,
        )?;
        // Rules 5.4.4 and 5.4.5.
        require(
            self.levels.can_invite(self.event.sender),
            AuthError::InvitePower,
        )
    }

    /// Rule 5.4.1.
    fn check_third_party_invite(&self, invite: &CanonicalJsonValue) -> Result<(), AuthError> {
        // Rule 5.4.1.1.
        let banned = self.state.membership(self.target) == Some(Membership::Ban);
        require(!banned, AuthError::ThirdPartyInviteBanned)?;
        // Rule 5.4.1.2.
        let signed = invite
            .as_object()
            .and_then(|invite| invite.get("signed")?.as_object());
        let Some(signed) = signed else {
            return refuse(AuthError::ThirdPartyInviteUnsigned);
        };
        // Rule 5.4.1.3.
        let text = |key: &str| signed.get(key).and_then(|value| value.as_str());
        let (Some(mxid), Some(token)) = (text("mxid"), text("token")) else {
            return refuse(AuthError::ThirdPartyInviteMalformed);
        };
        // Rule 5.4.1.4.
        require(
            mxid == self.target.as_str(),
            AuthError::ThirdPartyInviteOtherUser,
        )?;
        // Rule 5.4.1.5.
        let Some(invitation) = self.state.third_party_invite(token) else {
            return refuse(AuthError::ThirdPartyInviteUnknownToken);
        };
        // Rule 5.4.1.6.
        require(
            invitation.sender == self.event.sender,
            AuthError::ThirdPartyInviteOtherSender,
        )?;
        // Rules 5.4.1.7 and 5.4.1.8.
        let bytes = to_bytes_without(signed, &["signatures", "unsigned"]);
        let keys = invitation.public_keys.as_slice();
        let signatures = signed
            .get("signatures")
            .and_then(|signatures| signatures.as_object())
            .into_iter()
            .flat_map(|by_entity| by_entity.values())
            .filter_map(|by_key| by_key.as_object())
            .flatten()
            .filter(|(key_id, _)| key_id.starts_with("ed25519:"))
            .filter_map(|(_, signature)| signature.as_str());
        let valid = signatures
            .flat_map(|signature| keys.iter().map(move |key| (signature, key)))
            .take(SIGNATURES_TRIED_MAX)
            .any(|(signature, key)| verify_bytes(&bytes, signature, key));
        if allows(Rule::ThirdPartyInviteSigned, valid) {
            return Ok(());
        }
        refuse(AuthError::ThirdPartyInviteSignature)
    }

    /// Rule 5.5.
    fn check_leave(&self) -> Result<(), AuthError> {
        let rules = &self.create.version.rules().authorization;
        let target_membership = self.state.membership(self.target);
        // Rule 5.5.1; a knock may be withdrawn since version 7.
        if self.event.sender == self.target {
            let may_leave = match target_membership {
                Some(Membership::Invite | Membership::Join) => true,
                Some(Membership::Knock) => rules.knocking,
                _ => false,
            };
            if allows(Rule::LeaveOwn, may_leave) {
                return Ok(());
            }
            return refuse(AuthError::LeaveNotMember);
        }
        // Rule 5.5.2.
        require(self.sender_joined(), AuthError::KickSenderNotJoined)?;
        // Rule 5.5.3.
        let sender_level = self.levels.user_level(self.event.sender);
        let may_ban = sender_level >= Level::Finite(self.levels.ban_level());
        require(
            target_membership != Some(Membership::Ban) || may_ban,
            AuthError::UnbanPower,
        )?;
        // Rules 5.5.4 and 5.5.5.
        let may_kick = sender_level >= Level::Finite(self.levels.kick_level());
        require(may_kick, AuthError::KickPower)?;
        require(self.is_above_target(), AuthError::KickTargetPower)
    }

    fn is_above_target(&self) -> bool {
        let target_level = self.levels.user_level(self.target);
        target_level < self.levels.user_level(self.event.sender)
    }

    /// Rule 5.6.
    fn check_ban(&self) -> Result<(), AuthError> {
        // Rule 5.6.1.
        require(self.sender_joined(), AuthError::BanSenderNotJoined)?;
        // Rules 5.6.2 and 5.6.3.
        let sender_level = self.levels.user_level(self.event.sender);
        let may_ban = sender_level >= Level::Finite(self.levels.ban_level());
        require(may_ban, AuthError::BanPower)?;
        require(self.is_above_target(), AuthError::BanTargetPower)
    }

    /// Rule 5.7.
    fn check_knock(&self) -> Result<(), AuthError> {
        let rules = &self.create.version.rules().authorization;
        // Rule 5.7.1.
        let knockable = match self.state.join_rule() {
            JoinRule::Knock => true,
            JoinRule::KnockRestricted => rules.knock_restricted_join_rule,
            _ => false,
        };
        require(knockable, AuthError::KnockRule)?;
        // Rule 5.7.2.
        require(self.event.sender == self.target, AuthError::KnockForOther)?;
        // Rules 5.7.3 and 5.7.4.
        let membership = self.state.membership(self.target);
        let outside = !matches!(
            membership,
            Some(Membership::Ban | Membership::Invite | Membership::Join)
        );
        require(outside, AuthError::KnockMembership)
    }
}

/// Rule 5.3.4.
fn check_invited(invited: bool) -> Result<(), AuthError> {
    if allows(Rule::JoinInvited, invited) {
        return Ok(());
    }
    refuse(AuthError::JoinNotInvited)
}
