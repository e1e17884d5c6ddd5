//! Events that need another server's help: their past is not here, the key that
//! they are signed with is not known, or a policy server is to look at them.
//!
//! They wait while the rest of their transaction is in the log already, for a
//! while and in memory that their server has its share of. What is not had by then
//! goes to the log without its past, where it is safe: the room server keeps it
//! until that comes, and [`MissingEvents::follow`] goes on fetching it.
//!
//! [`MissingEvents::follow`]: crate::writers::federation::missing::MissingEvents::follow

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use ruma::{OwnedEventId, ServerName};
use tokio::time::Instant;

use super::room::{Fit, InRoom};
use super::{Inner, ROOMS_AT_ONCE, ReceiveError, Received};
use crate::matrix::RoomVersion;
use crate::query::rooms::RoomHead;
use crate::writers::federation::keyring::KeyError;
use crate::writers::federation::missing::GapError;
use crate::writers::federation::pdu_checks::{AtHand, CheckedPdu, PduRefusal};

/// How long an answer waits for the past of events: their server waits for it, and
/// many give up after a minute.
const PAST_MAX: Duration = Duration::from_secs(30);

/// Those of one room, in their order; at least one.
pub struct Aside {
    head: Arc<RoomHead>,
    version: RoomVersion,
    events: Vec<AtHand>,
}

impl Aside {
    pub fn of(head: Arc<RoomHead>, version: RoomVersion, events: Vec<AtHand>) -> Option<Aside> {
        (!events.is_empty()).then_some(Aside {
            head,
            version,
            events,
        })
    }

    /// Bytes of the events, as they came.
    pub fn bytes(&self) -> usize {
        let bytes = self.events.iter().map(|event| match event {
            AtHand::Checked(event) => event.bytes().len(),
            AtHand::NoKeys(event) => event.bytes().len(),
            AtHand::Refused(..) => 0,
        });
        bytes.sum()
    }
}

impl Inner {
    /// Takes in what was put aside, and waits for others if that may be.
    pub(super) async fn receive_aside(
        &self,
        origin: &ServerName,
        aside: Vec<Aside>,
        may_wait: bool,
    ) -> Result<Received, ReceiveError> {
        let deadline = may_wait.then(|| Instant::now() + PAST_MAX);
        let rooms = aside.into_iter();
        let rooms = rooms.map(|room| self.receive_aside_in_room(origin, room, deadline));
        let mut rooms = stream::iter(rooms).buffer_unordered(ROOMS_AT_ONCE);
        let mut received = Received::new();
        while let Some(in_room) = rooms.next().await {
            received.extend(in_room?);
        }
        Ok(received)
    }

    async fn receive_aside_in_room(
        &self,
        origin: &ServerName,
        aside: Aside,
        deadline: Option<Instant>,
    ) -> Result<Received, ReceiveError> {
        let (head, version) = (aside.head, aside.version);
        let mut in_room = InRoom::default();
        let ids: Vec<Option<OwnedEventId>> = aside.events.iter().map(id_of).collect();
        let checked = match deadline {
            Some(_) => self.parts.checks.complete(version, aside.events).await,
            None => without_asking(aside.events),
        };
        for (id, checked) in ids.into_iter().zip(checked) {
            let event = match (id, checked) {
                (_, Ok(event)) => event,
                (Some(id), Err(refusal)) => {
                    in_room.refuse(id, &refusal.into());
                    continue;
                }
                (None, Err(_)) => continue,
            };
            let id = event.pdu.event_id.clone();
            let event = match self.fit(origin, &head, event, &mut in_room)? {
                Fit::Done => continue,
                Fit::Ready(event) => event,
                Fit::PastMissing(event) => {
                    // What was sent before it may be what is missing.
                    self.settle(&head.room_id, &mut in_room).await?;
                    let missing = &self.parts.missing;
                    match missing.fill(origin, &head, &event, deadline).await {
                        Ok(()) => event,
                        Err(error) if error.is_of_time() => event,
                        Err(GapError::Submit(error)) => return Err(error.into()),
                        Err(GapError::Query(error)) => return Err(error.into()),
                        Err(error) => {
                            in_room.refuse(id, &error.into());
                            continue;
                        }
                    }
                }
            };
            self.append(origin, &head, event, &mut in_room).await?;
        }
        self.settle(&head.room_id, &mut in_room).await?;
        Ok(in_room.received)
    }
}

fn id_of(event: &AtHand) -> Option<OwnedEventId> {
    match event {
        AtHand::Checked(event) => Some(event.pdu.event_id.clone()),
        AtHand::NoKeys(event) => Some(event.pdu.event_id.clone()),
        AtHand::Refused(id, _) => id.clone(),
    }
}

/// The verdicts where nobody may be asked for keys.
fn without_asking(events: Vec<AtHand>) -> Vec<Result<CheckedPdu, PduRefusal>> {
    let verdict = |event| match event {
        AtHand::Checked(event) => Ok(event),
        AtHand::Refused(_, refusal) => Err(refusal),
        AtHand::NoKeys(_) => Err(PduRefusal::Keys(Arc::new(KeyError::Busy))),
    };
    events.into_iter().map(verdict).collect()
}
