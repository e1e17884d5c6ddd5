//! Invites of our users by other servers: signed, and remembered for the user.
//!
//! Our signature says that the user may be invited, so nothing but an invite of
//! one of our users gets it, however it is called (server-server API, *Inviting
//! to a room*).

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, UserId};
use tokio::time::timeout;

use log_format::record::Source;
use log_format::record::input::Placement;

use super::handed::DECISION_MAX;
use super::{Resident, ResidentError};
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue, to_bytes};
use crate::matrix::event::Pdu;
use crate::matrix::signing::sign_event;
use crate::matrix::{Membership, RoomVersion};
use crate::query::rooms::RoomHead;
use crate::query::unwanted::blocks_invites;
use crate::writers::client::authorize;
use crate::writers::client::event_builder::{Draft, Parents};
use crate::writers::federation::outside_membership;
use crate::writers::federation::pdu_checks::PduRefusal;

/// Entries of the state that comes with an invite which are looked at, and their
/// bytes all together. Further ones are dropped: a room is described by less than
/// ten, and a user is to be able to sync and to reject whatever they were sent.
const STATE_ENTRIES_MAX: usize = 50;
const STATE_BYTES_MAX: usize = 64 * 1024;

/// An invite as another server sends it.
pub struct Invite {
    pub origin: OwnedServerName,
    /// As the path has them.
    pub room_id: OwnedRoomId,
    pub event_id: OwnedEventId,
    /// None of an endpoint that is older than later versions: 1 or 2, which are
    /// alike in what an invite is.
    pub version: Option<RoomVersion>,
    pub event: CanonicalJsonObject,
    /// `invite_room_state`.
    pub state: Vec<CanonicalJsonValue>,
}

impl Resident {
    /// Checks and signs an invite; gives the event with our signature.
    pub async fn invited(&self, invite: Invite) -> Result<CanonicalJsonObject, ResidentError> {
        let head = self.rooms().head(&invite.room_id)?;
        let head = head.filter(|head| head.is_resident(self.own_name()));
        if let Some(head) = &head
            && !self.parts.acls.allows(head, &invite.origin)?
        {
            return Err(ResidentError::ServerDenied);
        }
        let version = match (invite.version, &head) {
            (Some(version), _) => version,
            (None, Some(head)) => head.authority.create_info.version,
            (None, None) => RoomVersion::V1,
        };
        let pdu = Pdu::from_object(version, invite.event.clone()).map_err(PduRefusal::Format)?;
        let target = self.invitee(&pdu)?;
        if pdu.sender.server_name() != invite.origin {
            return Err(ResidentError::SenderElsewhere);
        }
        if pdu.room_id != invite.room_id {
            return Err(ResidentError::Misfit("the event is of another room"));
        }
        if pdu.event_id != invite.event_id {
            return Err(ResidentError::Misfit("the event has another id"));
        }
        if blocks_invites(&*self.parts.users, target) {
            return Err(ResidentError::InviteBlocked);
        }
        if let Some(head) = &head {
            self.check_in_room(head, &pdu)?;
        }
        let state = described(invite.state);
        if head.is_none() {
            self.check_create(version, &pdu, &state).await?;
        }
        let mut event = invite.event;
        let own = self.parts.keyring.own();
        sign_event(version, &mut event, &own.server, &own.current);
        let checked = self.checks.check(version, event.clone()).await?;
        if checked.is_redacted {
            return Err(ResidentError::Misfit("the content hash is wrong"));
        }
        let record = match &head {
            // Comes once more, from the inviter, to everybody in the room.
            Some(_) if !self.knows_past_of(&pdu)? => return Ok(event),
            Some(head) => {
                let record = checked.record(Placement::New, Source::Federation, &invite.origin);
                Some(self.parts.policies.sought(head, record).await)
            }
            None => outside_membership::record(&checked.pdu, &state, Some(&invite.origin)),
        };
        let record = record.ok_or(ResidentError::Misfit("the event is no invite"))?;
        let submitted = self
            .parts
            .submitter
            .submit(invite.room_id.as_str(), vec![record]);
        match timeout(DECISION_MAX, submitted).await {
            Ok(submitted) => submitted.map_err(ResidentError::of_submit)?,
            Err(_) => return Err(ResidentError::Busy),
        };
        Ok(event)
    }

    /// The user of ours whom an event invites.
    fn invitee<'a>(&self, pdu: &'a Pdu) -> Result<&'a UserId, ResidentError> {
        if &*pdu.kind != "m.room.member" || pdu.membership() != Some(Membership::Invite) {
            return Err(ResidentError::Misfit("the event is no invite"));
        }
        let target = pdu.state_key.as_deref();
        let target = target.and_then(|target| <&UserId>::try_from(target).ok());
        let exists = |target: &&UserId| {
            let account = self.parts.users.account(target);
            target.server_name() == self.own_name()
                && account.is_some_and(|account| !account.deactivated)
        };
        target.filter(exists).ok_or(ResidentError::Misfit(
            "the invited user is none of this server",
        ))
    }

    /// What a room that we are in says of an invite, as it is now.
    fn check_in_room(&self, head: &RoomHead, pdu: &Pdu) -> Result<(), ResidentError> {
        if head.authority.create_info.version != pdu.version {
            return Err(ResidentError::Misfit("the room is of another version"));
        }
        let draft = Draft {
            sender: pdu.sender.clone(),
            kind: pdu.kind.clone(),
            state_key: pdu.state_key.clone(),
            content: pdu.content().clone(),
            redacts: None,
        };
        let cited = pdu.prev_events.iter().cloned();
        let parents = Parents {
            prev_events: cited.map(Into::into).collect(),
            depth: pdu.depth,
        };
        Ok(authorize::check(head, pdu.version, &draft, &parents)?)
    }

    /// Whether the room has all that the event builds on.
    fn knows_past_of(&self, pdu: &Pdu) -> Result<bool, ResidentError> {
        for cited in pdu.prev_events.iter().chain(&pdu.auth_events) {
            if self.rooms().event(&pdu.room_id, cited)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// That the room is the one that its create event makes, which must come with
    /// the invite from version 12 on. Whoever made an older room is not told by
    /// its id, so there nothing is demanded.
    ///
    /// Source: server-server API, *PUT invite*, validation of `invite_room_state`.
    /// Other entries are shown to the user or left out; none of them is believed.
    async fn check_create(
        &self,
        version: RoomVersion,
        pdu: &Pdu,
        state: &[CanonicalJsonObject],
    ) -> Result<(), ResidentError> {
        if !version.room_id_is_create_hash() {
            return Ok(());
        }
        let is_create = |event: &&CanonicalJsonObject| {
            event.get("type").and_then(CanonicalJsonValue::as_str) == Some("m.room.create")
        };
        let create = state.iter().find(is_create);
        let create = create.ok_or(ResidentError::Misfit("the create event is missing"))?;
        match self.checks.check(version, create.clone()).await {
            Ok(create) if create.pdu.room_id == pdu.room_id => Ok(()),
            Ok(_) => Err(ResidentError::Misfit("the create event is of another room")),
            // Its server may be gone; the room's id is a hash of the event.
            Err(PduRefusal::Keys(_)) => match Pdu::from_object(version, create.clone()) {
                Ok(create) if create.room_id == pdu.room_id => Ok(()),
                _ => Err(ResidentError::Misfit("the create event is of another room")),
            },
            Err(refusal) => Err(refusal.into()),
        }
    }
}

/// What is looked at of the state that comes with an invite.
fn described(state: Vec<CanonicalJsonValue>) -> Vec<CanonicalJsonObject> {
    let mut bytes = 0;
    let objects = state.into_iter().filter_map(|entry| match entry {
        CanonicalJsonValue::Object(entry) => Some(entry),
        _ => None,
    });
    let fits = |entry: &CanonicalJsonObject| {
        bytes += to_bytes(entry).len();
        bytes <= STATE_BYTES_MAX
    };
    objects.take(STATE_ENTRIES_MAX).take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::canonical_json::parse_value;

    /// Row CVE-2024-52815: whatever shape it has.
    #[test]
    fn cve_2023_32323_the_state_of_an_invite_is_bounded() {
        let value = |json: &str| parse_value(json.as_bytes()).expect("parses");
        let small = vec![value(r#"{"type":"m.room.name"}"#); 1_000];
        assert_eq!(described(small).len(), STATE_ENTRIES_MAX);
        let large = value(&format!(r#"{{"a":"{}"}}"#, "x".repeat(STATE_BYTES_MAX / 2)));
        assert_eq!(described(vec![large; 3]).len(), 1);
        let odd = ["1", "null", "[]", r#""text""#, "{}"].map(value);
        assert_eq!(described(odd.to_vec()).len(), 1);
    }
}
