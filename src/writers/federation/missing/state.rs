//! The state before an event, as another server tells it.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ruma::{EventId, ServerName};

use super::budget::Budget;
use super::{GapError, Inner, Place};
use crate::matrix::canonical_json::{Numbers, parse_object_with};
use crate::matrix::event::Pdu;
use crate::outbound::answer::RequestError;
use crate::outbound::federation::{event, room_state};
use crate::writers::federation::past::unknown;
use crate::writers::federation::pdu_checks::CheckedPdu;

/// Events of a state that are fetched one by one; where more are missing all of
/// it comes at once.
const ONE_BY_ONE_MAX: usize = 100;
/// Requests for single events at a time.
const AT_A_TIME: usize = 8;

impl Inner {
    /// Gives the state before an event: from the server that sent it, or else
    /// from another one in the room.
    pub(super) async fn give_before(
        &self,
        place: &Place<'_>,
        event: &EventId,
        budget: &mut Budget,
    ) -> Result<(), GapError> {
        let mut failed = GapError::TooMuch;
        for server in &place.servers {
            if !budget.request() {
                return Err(GapError::TooMuch);
            }
            match self.give_from(place, server, event, budget).await {
                Ok(()) => return Ok(()),
                Err(error @ (GapError::Submit(_) | GapError::Query(_))) => return Err(error),
                Err(error) => {
                    tracing::debug!(%server, %event, %error, "the state before an event is not had");
                    failed = error;
                }
            }
        }
        Err(failed)
    }

    async fn give_from(
        &self,
        place: &Place<'_>,
        server: &ServerName,
        event: &EventId,
        budget: &mut Budget,
    ) -> Result<(), GapError> {
        let (client, given) = (&self.parts.client, &self.parts.given);
        let told = room_state::state_ids(client, server, place.room, event).await?;
        let named = told.auth_chain.iter().chain(&told.state);
        let missing = unknown(&*self.parts.rooms, place.room, named).await?;
        if missing.len() > ONE_BY_ONE_MAX {
            if !budget.request() {
                return Err(GapError::TooMuch);
            }
            let whole = room_state::state(client, server, place.room, event).await?;
            let mut events = whole.auth_chain;
            events.extend(whole.state);
            given
                .append_outliers(place.room, place.version, server, events)
                .await?;
        } else if !missing.is_empty() {
            let events = self.one_by_one(place, server, missing, budget).await?;
            given
                .append_outliers(place.room, place.version, server, events)
                .await?;
        }
        given.give(place.room, event, &told.state).await?;
        Ok(())
    }

    /// One event, checked; none if no server has it.
    pub(super) async fn fetch(
        &self,
        place: &Place<'_>,
        id: &EventId,
        budget: &mut Budget,
    ) -> Result<Option<CheckedPdu>, GapError> {
        for server in &place.servers {
            if !budget.request() {
                return Err(GapError::TooMuch);
            }
            match event::event(&self.parts.client, server, id).await {
                Ok(answer) => {
                    let events = answer.into_iter().collect();
                    let found = self.checked(place, events).await.remove(id);
                    if let Some((event, _)) = found {
                        return Ok(Some(event));
                    }
                }
                Err(error) => tracing::debug!(%server, %id, %error, "an event is not told"),
            }
        }
        Ok(None)
    }

    /// Single events, those that the server has.
    async fn one_by_one(
        &self,
        place: &Place<'_>,
        server: &ServerName,
        ids: BTreeSet<&EventId>,
        budget: &mut Budget,
    ) -> Result<Vec<Bytes>, GapError> {
        let granted = budget.requests(ids.len());
        if granted < ids.len() {
            return Err(GapError::TooMuch);
        }
        let fetches = ids.into_iter().map(|id| async move {
            let found = event::event(&self.parts.client, server, id).await?;
            Ok::<_, RequestError>(found.filter(|event| is_named(place, id, event)))
        });
        let fetches: Vec<_> = fetches.collect();
        let mut events = Vec::with_capacity(fetches.len());
        let mut answers = stream::iter(fetches).buffer_unordered(AT_A_TIME);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(found) => events.extend(found),
                // Whether enough of the state is there is seen when it is given.
                Err(error) => tracing::debug!(%server, %error, "an event is not told"),
            }
        }
        Ok(events)
    }
}

/// Whether this is the event that was asked for.
fn is_named(place: &Place<'_>, id: &EventId, event: &Bytes) -> bool {
    let object = parse_object_with(event, Numbers::Kept).ok();
    let pdu = object.and_then(|object| Pdu::from_object(place.version, object).ok());
    pdu.is_some_and(|pdu| pdu.event_id == id)
}
