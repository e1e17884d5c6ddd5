//! Rule 5: `m.room.member` events (rule 4 in versions 6 to 11).
//!
//! Whether the server of an authorising user signed a join (rule 5.2) is
//! checked with the other signatures, in `matrix::signing`.

use ruma::CanonicalJsonObject;
use ruma::canonical_json::CanonicalJsonValue;

use super::super::Membership;
use super::super::canonical_json::to_bytes_without;
use super::super::ids::UserId;
use super::super::signing::verify_bytes;
use super::contents::{CreateInfo, JoinRule, MemberContent};
use super::{AuthError, AuthEvent, AuthState, Level, PowerLevelsView};

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
    let target = event.state_key.ok_or(AuthError::MemberMalformed)?;
    let member = Member {
        content: MemberContent::parse(content)?,
        target: <&UserId>::try_from(target).map_err(|_| AuthError::MemberMalformed)?,
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
        other => Err(AuthError::MembershipUnknown(other.into())),
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
        if first && founder {
            return Ok(());
        }
        // Rule 5.3.2.
        if self.event.sender != self.target {
            return Err(AuthError::JoinForOther);
        }
        // Rule 5.3.3.
        let membership = self.state.membership(self.target);
        if membership == Some(Membership::Ban) {
            return Err(AuthError::JoinBanned);
        }
        let invited = matches!(membership, Some(Membership::Invite | Membership::Join));
        match self.state.join_rule() {
            // Rule 5.3.4.
            JoinRule::Invite => allow_if(invited, AuthError::JoinNotInvited),
            JoinRule::Knock if rules.knocking => allow_if(invited, AuthError::JoinNotInvited),
            // Rule 5.3.5.
            JoinRule::Restricted if rules.restricted_join_rule => self.check_restricted(invited),
            JoinRule::KnockRestricted if rules.knock_restricted_join_rule => {
                self.check_restricted(invited)
            }
            // Rule 5.3.6.
            JoinRule::Public => Ok(()),
            // Rule 5.3.7.
            _ => Err(AuthError::JoinRule),
        }
    }

    /// Rule 5.3.5.
    fn check_restricted(&self, invited: bool) -> Result<(), AuthError> {
        if invited {
            return Ok(());
        }
        let authoriser = self
            .content
            .join_authorised_via_users_server
            .and_then(|user| <&UserId>::try_from(user).ok())
            .ok_or(AuthError::JoinNotAuthorised)?;
        let joined = self.state.membership(authoriser) == Some(Membership::Join);
        allow_if(
            joined && self.levels.can_invite(authoriser),
            AuthError::JoinNotAuthorised,
        )
    }

    /// Rule 5.4.
    fn check_invite(&self) -> Result<(), AuthError> {
        // Rule 5.4.1.
        if let Some(invite) = self.content.third_party_invite {
            return self.check_third_party_invite(invite);
        }
        // Rule 5.4.2.
        if !self.sender_joined() {
            return Err(AuthError::InviteSenderNotJoined);
        }
        // Rule 5.4.3.
        if let Some(Membership::Join | Membership::Ban) = self.state.membership(self.target) {
            return Err(AuthError::InviteTargetJoinedOrBanned);
        }
        // Rules 5.4.4 and 5.4.5.
        allow_if(
            self.levels.can_invite(self.event.sender),
            AuthError::InvitePower,
        )
    }

    /// Rule 5.4.1.
    fn check_third_party_invite(&self, invite: &CanonicalJsonValue) -> Result<(), AuthError> {
        // Rule 5.4.1.1.
        if self.state.membership(self.target) == Some(Membership::Ban) {
            return Err(AuthError::ThirdPartyInviteBanned);
        }
        // Rule 5.4.1.2.
        let signed = invite
            .as_object()
            .and_then(|invite| invite.get("signed")?.as_object())
            .ok_or(AuthError::ThirdPartyInviteUnsigned)?;
        // Rule 5.4.1.3.
        let text = |key: &str| signed.get(key).and_then(|value| value.as_str());
        let (Some(mxid), Some(token)) = (text("mxid"), text("token")) else {
            return Err(AuthError::ThirdPartyInviteMalformed);
        };
        // Rule 5.4.1.4.
        if mxid != self.target.as_str() {
            return Err(AuthError::ThirdPartyInviteOtherUser);
        }
        // Rule 5.4.1.5.
        let invitation = self
            .state
            .third_party_invite(token)
            .ok_or(AuthError::ThirdPartyInviteUnknownToken)?;
        // Rule 5.4.1.6.
        if invitation.sender != self.event.sender {
            return Err(AuthError::ThirdPartyInviteOtherSender);
        }
        // Rules 5.4.1.7 and 5.4.1.8.
        let bytes = to_bytes_without(signed, &["signatures", "unsigned"]);
        let matches_key = |signature: &str| {
            invitation
                .public_keys
                .iter()
                .any(|key| verify_bytes(&bytes, signature, key))
        };
        let valid = signed
            .get("signatures")
            .and_then(|signatures| signatures.as_object())
            .into_iter()
            .flat_map(|by_entity| by_entity.values())
            .filter_map(|by_key| by_key.as_object())
            .flatten()
            .filter(|(key_id, _)| key_id.starts_with("ed25519:"))
            .any(|(_, signature)| signature.as_str().is_some_and(matches_key));
        allow_if(valid, AuthError::ThirdPartyInviteSignature)
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
            return allow_if(may_leave, AuthError::LeaveNotMember);
        }
        // Rule 5.5.2.
        if !self.sender_joined() {
            return Err(AuthError::KickSenderNotJoined);
        }
        // Rule 5.5.3.
        let sender_level = self.levels.user_level(self.event.sender);
        if target_membership == Some(Membership::Ban)
            && sender_level < Level::Finite(self.levels.ban_level())
        {
            return Err(AuthError::UnbanPower);
        }
        // Rules 5.5.4 and 5.5.5.
        allow_if(
            self.levels.can_kick(self.event.sender, self.target),
            AuthError::KickPower,
        )
    }

    /// Rule 5.6.
    fn check_ban(&self) -> Result<(), AuthError> {
        if !self.sender_joined() {
            return Err(AuthError::BanSenderNotJoined);
        }
        allow_if(
            self.levels.can_ban(self.event.sender, self.target),
            AuthError::BanPower,
        )
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
        if !knockable {
            return Err(AuthError::KnockRule);
        }
        // Rule 5.7.2.
        if self.event.sender != self.target {
            return Err(AuthError::KnockForOther);
        }
        // Rules 5.7.3 and 5.7.4.
        let membership = self.state.membership(self.target);
        let outside = !matches!(
            membership,
            Some(Membership::Ban | Membership::Invite | Membership::Join)
        );
        allow_if(outside, AuthError::KnockMembership)
    }
}

fn allow_if(allowed: bool, error: AuthError) -> Result<(), AuthError> {
    if allowed { Ok(()) } else { Err(error) }
}
