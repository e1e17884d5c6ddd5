//! The state before an event, as another server tells it.

use ruma::{EventId, ServerName};

use super::{GapError, Inner, Place};
use crate::outbound::federation::event;
use crate::writers::federation::budget::Budget;
use crate::writers::federation::pdu_checks::CheckedPdu;
use crate::writers::federation::told::Teller;

impl Inner {
    /// Gives the state before an event: from the server that sent it, or else
    /// from another one in the room.
    pub(super) async fn give_before(
        &self,
        place: &Place<'_>,
        event: &EventId,
        budget: &mut Budget,
    ) -> Result<(), GapError> {
        let mut failed = GapError::NoPast(event.to_owned());
        for server in &place.servers {
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
        let parts = &self.parts;
        let teller = Teller {
            client: &parts.client,
            rooms: &*parts.rooms,
            given: &parts.given,
            server,
            room: place.room,
            version: place.version,
        };
        let state = teller.state_before(event, budget).await?;
        parts.given.give(place.room, event, &state).await?;
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
}
