//! Events of one room, in their order: those that pass the checks are appended
//! (server-server API, *Checks performed on receipt of a PDU*).

use std::collections::HashSet;
use std::time::Duration;

use log_format::record::Source;
use log_format::record::input::Placement;
use log_format::record::output::{Decision, Reason};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, ServerName};
use tokio::time::Instant;

use super::aside::Aside;
use super::{Inner, ReceiveError, Received};
use crate::logs::log::AppendError;
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::matrix::event::id_of;
use crate::query::rooms::{QueryError, RoomHead};
use crate::telemetry::names;
use crate::writers::federation::missing::GapError;
use crate::writers::federation::past::{self, has_state};
use crate::writers::federation::pdu_checks::{AtHand, CheckedPdu, PduRefusal};
use crate::writers::submit::{Durable, PendingSubmit, SubmitError};

/// How long the answer waits, once everything is durable, for what the fold says.
const OUTCOME_MAX: Duration = Duration::from_secs(5);

/// Why an event is not taken in, as its server is told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("this server is not in the room")]
    NotResident,
    #[error("the room does not let {0} take part")]
    Acl(String),
    #[error(transparent)]
    Check(#[from] PduRefusal),
    #[error(transparent)]
    UnknownPast(#[from] GapError),
    /// The room server could make nothing of it.
    #[error("it is not taken in: {0}")]
    Unworkable(&'static str),
}

/// An event on its way into the log.
pub(super) struct OnItsWay {
    event_id: OwnedEventId,
    pending: PendingSubmit,
}

/// What is told of the events of one room while they are taken in.
#[derive(Default)]
pub(super) struct InRoom {
    pub received: Received,
    pending: Vec<OnItsWay>,
    /// Ids of what was appended, so that what builds on it need not wait.
    appended: HashSet<OwnedEventId>,
}

/// How an event stands to the room.
pub(super) enum Fit {
    /// Told already, or on its way.
    Done,
    /// It may be appended, once the room's policy server has seen it.
    Ready(CheckedPdu),
    /// Something of its past is not here.
    PastMissing(CheckedPdu),
}

impl InRoom {
    pub(super) fn refuse(&mut self, event_id: OwnedEventId, why: &Refused) {
        metrics::counter!(names::PDUS_RECEIVED, "result" => "refused").increment(1);
        tracing::debug!(%event_id, %why, "event refused");
        self.received.insert(event_id, Some(why.to_string()));
    }

    pub(super) fn accept(&mut self, event_id: OwnedEventId) {
        metrics::counter!(names::PDUS_RECEIVED, "result" => "accepted").increment(1);
        self.received.insert(event_id, None);
    }
}

impl Inner {
    /// Takes in events that `origin` sent of one room; those that need another
    /// server's help are put aside.
    ///
    /// Errors: those of our own; what is wrong with an event is in the answer.
    pub(super) async fn receive_in_room(
        &self,
        origin: &ServerName,
        room: OwnedRoomId,
        events: Vec<CanonicalJsonObject>,
    ) -> Result<(Received, Option<Aside>), ReceiveError> {
        let head = self.parts.rooms.head(&room)?;
        let is_here = head
            .as_ref()
            .is_some_and(|head| head.is_resident(&self.parts.own));
        let withdrawn = match is_here {
            true => Received::new(),
            false => self.receive_withdrawn(origin, &room, &events).await?,
        };
        let Some(head) = head else {
            // Nobody can tell the id of an event whose room version is not known,
            // but for those that say it.
            let named = events.iter().filter_map(|pdu| id_of(RoomVersion::V1, pdu));
            let why = || Some(Refused::NotResident.to_string());
            let mut received: Received = named.map(|id| (id, why())).collect();
            received.extend(withdrawn);
            return Ok((received, None));
        };
        let Ok(version) = RoomVersion::try_from(&head.version) else {
            return Ok((Received::new(), None));
        };
        let mut in_room = InRoom::default();
        if let Some(refused) = self.refuses_room(&head, origin)? {
            for id in events.iter().filter_map(|pdu| id_of(version, pdu)) {
                in_room.refuse(id, &refused);
            }
            in_room.received.extend(withdrawn);
            return Ok((in_room.received, None));
        }
        // Nobody closes the semaphore.
        let _turn = self.at_work.acquire().await;
        let mut aside = Vec::new();
        for event in self.parts.checks.check_at_hand(version, events).await {
            let event = match event {
                AtHand::Checked(event) => event,
                AtHand::Refused(Some(id), refusal) => {
                    in_room.refuse(id, &refusal.into());
                    continue;
                }
                AtHand::Refused(None, _) => continue,
                no_keys @ AtHand::NoKeys(_) => {
                    aside.push(no_keys);
                    continue;
                }
            };
            match self.fit(origin, &head, event, &mut in_room)? {
                Fit::Done => (),
                Fit::Ready(event) if !self.parts.policies.is_to_ask(&head, &event.pdu)? => {
                    self.append(origin, &head, event, &mut in_room).await?;
                }
                Fit::Ready(event) | Fit::PastMissing(event) => {
                    aside.push(AtHand::Checked(event));
                }
            }
        }
        self.settle(&room, &mut in_room).await?;
        let received = std::mem::take(&mut in_room.received);
        let aside = Aside::of(head, version, aside);
        Ok((received, aside))
    }

    /// Why nothing of this room is taken in from this server.
    fn refuses_room(
        &self,
        head: &RoomHead,
        origin: &ServerName,
    ) -> Result<Option<Refused>, QueryError> {
        if !head.is_resident(&self.parts.own) {
            return Ok(Some(Refused::NotResident));
        }
        Ok(match self.parts.acls.allows(head, origin)? {
            true => None,
            false => Some(Refused::Acl(origin.to_string())),
        })
    }

    /// Whether an event may be appended now.
    pub(super) fn fit(
        &self,
        origin: &ServerName,
        head: &RoomHead,
        event: CheckedPdu,
        in_room: &mut InRoom,
    ) -> Result<Fit, QueryError> {
        let id = &event.pdu.event_id;
        if in_room.appended.contains(id) {
            return Ok(Fit::Done);
        }
        // Whoever relays an event is not who made it: both must be let in.
        let sender = event.pdu.sender.server_name();
        if sender != origin && !self.parts.acls.allows(head, sender)? {
            in_room.refuse(id.clone(), &Refused::Acl(sender.to_string()));
            return Ok(Fit::Done);
        }
        match self.standing(&head.room_id, id)? {
            Standing::Done => {
                in_room.accept(id.clone());
                return Ok(Fit::Done);
            }
            Standing::Unsettled => (),
        }
        let comes = |id: &EventId| in_room.appended.contains(id);
        let missing = past::missing(&*self.parts.rooms, &event.pdu, comes)?;
        // Of a parked room nobody sees what is appended already: the fold tells
        // what is missing when it gets there.
        Ok(match missing.is_empty() || self.is_parked(&head.room_id)? {
            true => Fit::Ready(event),
            false => Fit::PastMissing(event),
        })
    }

    pub(super) async fn append(
        &self,
        origin: &ServerName,
        head: &RoomHead,
        event: CheckedPdu,
        in_room: &mut InRoom,
    ) -> Result<(), ReceiveError> {
        let pending = match self.enqueue(origin, head, &event).await {
            Err(SubmitError::Append(AppendError::Overloaded)) => {
                // What is queued of ours goes first.
                self.settle(&head.room_id, in_room).await?;
                self.enqueue(origin, head, &event).await?
            }
            queued => queued?,
        };
        let event_id = event.pdu.event_id;
        in_room.appended.insert(event_id.clone());
        in_room.pending.push(OnItsWay { event_id, pending });
        Ok(())
    }

    async fn enqueue(
        &self,
        origin: &ServerName,
        head: &RoomHead,
        event: &CheckedPdu,
    ) -> Result<PendingSubmit, SubmitError> {
        let record = event.record(Placement::New, Source::Federation, origin);
        let record = self.parts.policies.sought(head, record).await;
        self.parts
            .submitter
            .enqueue(head.room_id.as_str(), vec![record])
    }

    /// Waits until what was appended is durable, and a moment for its outcome.
    pub(super) async fn settle(
        &self,
        room: &RoomId,
        in_room: &mut InRoom,
    ) -> Result<(), ReceiveError> {
        let mut durable: Vec<(OwnedEventId, Durable)> = Vec::new();
        for OnItsWay { event_id, pending } in in_room.pending.drain(..) {
            durable.push((event_id, pending.durable().await?));
        }
        // Nobody knows how long a parked room will take.
        let patience = match self.is_parked(room)? {
            true => Duration::ZERO,
            false => OUTCOME_MAX,
        };
        let deadline = Instant::now() + patience;
        for (id, durable) in durable {
            let outcome = durable.outcome_by(deadline).await?;
            let rejected = outcome.filter(|outcome| outcome.decision == Decision::Rejected);
            let refused = rejected.and_then(|rejected| unworkable(rejected.reason));
            match refused {
                Some(why) => in_room.refuse(id, &Refused::Unworkable(why)),
                None => in_room.accept(id),
            }
        }
        Ok(())
    }

    fn is_parked(&self, room: &RoomId) -> Result<bool, QueryError> {
        Ok(self.parts.rooms.waits(room)?.parked_at.is_some())
    }

    /// What became of an event that was here before.
    fn standing(&self, room: &RoomId, id: &EventId) -> Result<Standing, QueryError> {
        let Some(stored) = self.parts.rooms.event(room, id)? else {
            return Ok(Standing::Unsettled);
        };
        Ok(match stored.decision {
            Decision::Accepted | Decision::SoftFailed | Decision::Duplicate => Standing::Done,
            Decision::Rejected if has_state(&stored) => Standing::Done,
            // One that has no place in the graph yet may get it now.
            Decision::Rejected | Decision::Outlier => Standing::Unsettled,
        })
    }
}

enum Standing {
    /// Here, whatever became of it.
    Done,
    /// Not here, or without a state: the fold decides.
    Unsettled,
}

/// Why the fold could make nothing of an event. One that the room's rules reject
/// is dealt with like any other, and its server is told nothing of that: it is
/// here, so that what builds on it can be judged.
fn unworkable(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::None
        | Reason::Forbidden
        | Reason::Rebase
        | Reason::MissingEvents
        | Reason::MissingAuthEvents
        | Reason::RejectedAuthEvent => None,
        Reason::Malformed => Some("it is malformed"),
        Reason::UnknownRoom => Some("the room is not known"),
        Reason::RoomExists => Some("the room has another create event"),
        Reason::TooMuchWork => Some("it would take too much work to decide about it"),
        Reason::NotFound => Some("what it names is not known"),
        Reason::Taken => Some("it was here before"),
    }
}
