//! Member events that another server made from a template and signed: checked,
//! and taken into the room.
//!
//! An event that the room refuses leaves no trace: nobody but the server that
//! handed it to us has it. So its record counts as one that this server made,
//! and like those it is for us to send to the other servers of the room.

use std::sync::Arc;
use std::time::Duration;

use log_format::record::Source;
use log_format::record::input::Placement;
use log_format::record::output::Decision;
use ruma::{OwnedRoomId, OwnedServerName, ServerName, UserId};
use tokio::time::timeout;

use super::{Handshake, Resident, ResidentError};
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::matrix::event::Pdu;
use crate::matrix::signing::{VerifyError, is_signed, sign_event};
use crate::matrix::{Membership, RoomVersion};
use crate::query::authority::Power;
use crate::query::rooms::{RoomHead, StoredEvent};
use crate::writers::client::joins::AUTHORISED_BY;
use crate::writers::federation::pdu_checks::{CheckedPdu, PduRefusal};

/// How long a request waits for its event to be decided. A room that waits for
/// work aside takes longer; the other server may then send the same again.
pub(super) const DECISION_MAX: Duration = Duration::from_secs(60);

/// Signatures of a server that are tried on what is no event.
const KEY_IDS_MAX: usize = 2;

/// What another server hands to us.
pub struct Handed {
    pub handshake: Handshake,
    pub origin: OwnedServerName,
    /// As the path has them. What is no event id at all is not that of the event.
    pub room_id: OwnedRoomId,
    pub event_id: String,
    pub event: CanonicalJsonObject,
}

/// An event that became part of the room.
pub struct TakenIn {
    pub version: RoomVersion,
    /// With the states before and after it.
    pub event: Arc<StoredEvent>,
    /// The room as it was when the event came.
    pub before: Arc<RoomHead>,
    /// Whether our signature was added to the event.
    pub is_cosigned: bool,
}

impl Resident {
    /// Checks an event and has it folded. The same event again gets the same
    /// answer.
    pub async fn take_in(&self, handed: Handed) -> Result<TakenIn, ResidentError> {
        let (before, version) = self.open(&handed.room_id, &handed.origin)?;
        let mut event = handed.event;
        let pdu = match Pdu::from_object(version, event.clone()) {
            Ok(pdu) => pdu,
            // What the server did not sign is refused as that, whatever else is
            // wrong with it.
            Err(why) => {
                let signed = self.check_signed(version, &event, &handed.origin).await;
                let why = signed.err().unwrap_or(PduRefusal::Format(why));
                return Err(why.into());
            }
        };
        check_form(&pdu, handed.handshake)?;
        if pdu.sender.server_name() != handed.origin {
            return Err(ResidentError::SenderElsewhere);
        }
        if pdu.room_id != handed.room_id {
            return Err(ResidentError::Misfit("the event is of another room"));
        }
        if pdu.event_id.as_str() != handed.event_id {
            return Err(ResidentError::Misfit("the event has another id"));
        }
        let is_cosigned = self.authorises(&before, &pdu)?;
        if is_cosigned {
            let own = self.parts.keyring.own();
            sign_event(version, &mut event, &own.server, &own.current);
        }
        let checked = self.checks.check(version, event).await?;
        if checked.is_redacted {
            return Err(ResidentError::Misfit("the content hash is wrong"));
        }
        self.submit(&before, &checked, &handed.origin).await?;
        let taken = self.rooms().event(&handed.room_id, &pdu.event_id)?;
        // In versions 1 and 2 another event may have had the id before.
        let is_same = |taken: &Arc<StoredEvent>| {
            taken.decision == Decision::Accepted
                && taken.sender == pdu.sender
                && taken.state_key == pdu.state_key
                && taken.kind == pdu.kind
        };
        match taken.filter(is_same) {
            Some(event) => Ok(TakenIn {
                version,
                event,
                before,
                is_cosigned,
            }),
            // It came before, and was not accepted.
            None => Err(ResidentError::Forbidden),
        }
    }

    /// That something, which need be no event otherwise, is signed by a server.
    async fn check_signed(
        &self,
        version: RoomVersion,
        event: &CanonicalJsonObject,
        server: &ServerName,
    ) -> Result<(), PduRefusal> {
        let signatures = event.get("signatures").and_then(|it| it.as_object());
        let own = signatures.and_then(|it| it.get(server.as_str())?.as_object());
        let ids = own.into_iter().flat_map(|own| own.keys());
        for id in ids.take(KEY_IDS_MAX) {
            let key = self.parts.keyring.for_request(server, id).await;
            let key = key.map_err(|error| PduRefusal::Keys(Arc::new(error)))?;
            if is_signed(version, event, (server, id), &key) {
                return Ok(());
            }
        }
        Err(VerifyError::Unsigned(server.as_str().into()).into())
    }

    /// Whether a user of ours is to authorise the join, and does.
    fn authorises(&self, head: &RoomHead, pdu: &Pdu) -> Result<bool, ResidentError> {
        let rules = &pdu.version.rules().authorization;
        if !rules.restricted_join_rule || pdu.membership() != Some(Membership::Join) {
            return Ok(false);
        }
        let named = pdu.content_str(AUTHORISED_BY);
        let named = named.and_then(|named| <&UserId>::try_from(named).ok());
        // Others sign for their users themselves.
        let Some(named) = named.filter(|named| named.server_name() == self.own_name()) else {
            return Ok(false);
        };
        // By the same rules as in the template, which may be old by now. Where
        // nobody need vouch for the user, nobody does.
        if self.authoriser(head, &pdu.sender)?.is_none() {
            return Ok(false);
        }
        let authority = &head.authority;
        let may_invite = authority.is_joined(named)
            && authority.power(named) >= Power::Level(authority.levels.invite);
        match may_invite {
            true => Ok(true),
            false => Err(ResidentError::UnableToGrant),
        }
    }

    async fn submit(
        &self,
        head: &RoomHead,
        checked: &CheckedPdu,
        origin: &OwnedServerName,
    ) -> Result<(), ResidentError> {
        let record = checked.record(Placement::New, Source::Internal, origin);
        // Without a signature the fold refuses it.
        let record = self.parts.policies.sought(head, record).await;
        let room = checked.pdu.room_id.as_str();
        let decided = self.parts.submitter.submit(room, vec![record]);
        let Ok(decided) = timeout(DECISION_MAX, decided).await else {
            return Err(ResidentError::Busy);
        };
        decided.map(drop).map_err(ResidentError::of_submit)
    }
}

/// That an event is the user's own, and of the membership that the endpoint is for.
fn check_form(pdu: &Pdu, handshake: Handshake) -> Result<(), ResidentError> {
    if &*pdu.kind != "m.room.member" {
        return Err(ResidentError::Misfit("the event is no member event"));
    }
    if pdu.membership() != Some(handshake.membership()) {
        return Err(ResidentError::Misfit("the event has another membership"));
    }
    match pdu.state_key.as_deref() == Some(pdu.sender.as_str()) {
        true => Ok(()),
        false => Err(ResidentError::Misfit("the event is about another user")),
    }
}
