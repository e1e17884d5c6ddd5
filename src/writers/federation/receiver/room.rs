//! Events of one room, in their order: those that pass the checks are appended
//! (server-server API, *Checks performed on receipt of a PDU*).

use std::collections::HashSet;
use std::time::Duration;

use log_format::record::Source;
use log_format::record::input::Placement;
use log_format::record::output::{Decision, Reason};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, ServerName};
use tokio::time::Instant;

use super::transaction::event_id;
use super::turn::Turn;
use super::{Inner, ReceiveError, Received};
use crate::logs::log::AppendError;
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::query::rooms::{QueryError, RoomHead};
use crate::telemetry::names;
use crate::writers::federation::missing::GapError;
use crate::writers::federation::past::{self, has_state};
use crate::writers::federation::pdu_checks::{CheckedPdu, PduRefusal};
use crate::writers::submit::{Durable, PendingSubmit, SubmitError};

/// How long the answer waits, once everything is durable, for what the fold says.
const OUTCOME_MAX: Duration = Duration::from_secs(5);

/// Why an event is not taken in, as its server is told.
#[derive(Debug, thiserror::Error)]
enum Refused {
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
struct OnItsWay {
    event_id: OwnedEventId,
    pending: PendingSubmit,
}

/// What is told of the events of one room while they are taken in.
#[derive(Default)]
struct InRoom {
    received: Received,
    pending: Vec<OnItsWay>,
    /// Ids of what was appended, so that what builds on it need not wait.
    appended: HashSet<OwnedEventId>,
}

impl InRoom {
    fn refuse(&mut self, event_id: OwnedEventId, why: &Refused) {
        metrics::counter!(names::PDUS_RECEIVED, "result" => "refused").increment(1);
        tracing::debug!(%event_id, %why, "event refused");
        self.received.insert(event_id, Some(why.to_string()));
    }

    fn accept(&mut self, event_id: OwnedEventId) {
        metrics::counter!(names::PDUS_RECEIVED, "result" => "accepted").increment(1);
        self.received.insert(event_id, None);
    }
}

impl Inner {
    /// Takes in events that `origin` sent of one room.
    ///
    /// Errors: those of our own; what is wrong with an event is in the answer.
    pub(super) async fn receive_in_room(
        &self,
        origin: &ServerName,
        room: OwnedRoomId,
        events: Vec<CanonicalJsonObject>,
    ) -> Result<Received, ReceiveError> {
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
            let named = events
                .iter()
                .filter_map(|pdu| event_id(RoomVersion::V1, pdu));
            let why = || Some(Refused::NotResident.to_string());
            let mut received: Received = named.map(|id| (id, why())).collect();
            received.extend(withdrawn);
            return Ok(received);
        };
        let Ok(version) = RoomVersion::try_from(&head.version) else {
            return Ok(Received::new());
        };
        let mut in_room = InRoom::default();
        if let Some(refused) = self.refuses_room(&head, origin)? {
            for id in events.iter().filter_map(|pdu| event_id(version, pdu)) {
                in_room.refuse(id, &refused);
            }
            in_room.received.extend(withdrawn);
            return Ok(in_room.received);
        }
        let mut turn = Turn::take(&self.at_work).await;
        let ids: Vec<_> = events.iter().map(|pdu| event_id(version, pdu)).collect();
        let checked = self.parts.checks.check_all(version, events).await;
        for (id, checked) in ids.into_iter().zip(checked) {
            match checked {
                Ok(event) => {
                    self.receive_event(origin, &head, event, &mut in_room, &mut turn)
                        .await?;
                }
                Err(refusal) => {
                    if let Some(id) = id {
                        in_room.refuse(id, &refusal.into());
                    }
                }
            }
        }
        self.settle(&room, &mut in_room).await?;
        Ok(in_room.received)
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

    async fn receive_event(
        &self,
        origin: &ServerName,
        head: &RoomHead,
        event: CheckedPdu,
        in_room: &mut InRoom,
        turn: &mut Turn<'_>,
    ) -> Result<(), ReceiveError> {
        let id = event.pdu.event_id.clone();
        if in_room.appended.contains(&id) {
            return Ok(());
        }
        // Whoever relays an event is not who made it: both must be let in.
        let sender = event.pdu.sender.server_name();
        if sender != origin && !self.parts.acls.allows(head, sender)? {
            in_room.refuse(id, &Refused::Acl(sender.to_string()));
            return Ok(());
        }
        match self.standing(&head.room_id, &id)? {
            Standing::Done => {
                in_room.accept(id);
                return Ok(());
            }
            Standing::Unsettled => (),
        }
        let comes = |id: &EventId| in_room.appended.contains(id);
        let missing = past::missing(&*self.parts.rooms, &event.pdu, comes)?;
        // Of a parked room nobody sees what is appended already: the fold tells
        // what is missing when it gets there.
        if !missing.is_empty() && !self.is_parked(&head.room_id)? {
            // What was sent before it may be what is missing.
            self.settle(&head.room_id, in_room).await?;
            let filled = self.parts.missing.fill(origin, head, &event);
            match turn.given_back(filled).await {
                Ok(()) => (),
                Err(GapError::Submit(error)) => return Err(error.into()),
                Err(GapError::Query(error)) => return Err(error.into()),
                Err(error) => {
                    in_room.refuse(id, &error.into());
                    return Ok(());
                }
            }
        }
        let pending = match self.enqueue(origin, head, &event).await {
            Err(SubmitError::Append(AppendError::Overloaded)) => {
                // What is queued of ours goes first.
                self.settle(&head.room_id, in_room).await?;
                self.enqueue(origin, head, &event).await?
            }
            queued => queued?,
        };
        in_room.appended.insert(id.clone());
        in_room.pending.push(OnItsWay {
            event_id: id,
            pending,
        });
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
    async fn settle(&self, room: &RoomId, in_room: &mut InRoom) -> Result<(), ReceiveError> {
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
