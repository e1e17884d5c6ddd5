//! What one server tells of a room's past, brought here within a budget: single
//! events, and the state before an event but for what is here already.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ruma::{EventId, OwnedEventId, RoomId, ServerName};

use super::budget::Budget;
use super::given_state::intake::IntakeError;
use super::given_state::{GivenStateError, GivenStates};
use super::past::unknown;
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::{Numbers, parse_object_with};
use crate::matrix::event::Pdu;
use crate::outbound::answer::RequestError;
use crate::outbound::federation::{FederationClient, event, room_state};
use crate::query::rooms::{QueryError, Rooms};

/// Events of a state that are fetched one by one; where more are missing all of
/// it comes at once.
const ONE_BY_ONE_MAX: usize = 100;
/// Requests for single events at a time.
const AT_A_TIME: usize = 8;

/// Why nothing is brought here.
#[derive(Debug, thiserror::Error)]
pub enum ToldError {
    #[error("it takes too many requests")]
    TooMuch,
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Given(#[from] GivenStateError),
    #[error(transparent)]
    Query(#[from] QueryError),
}

impl From<IntakeError> for ToldError {
    fn from(error: IntakeError) -> ToldError {
        match error {
            IntakeError::Request(error) => ToldError::Request(error),
            IntakeError::Given(error) => ToldError::Given(error),
        }
    }
}

/// A server that is asked about a room.
#[derive(Clone, Copy)]
pub struct Teller<'a> {
    pub client: &'a FederationClient,
    pub rooms: &'a dyn Rooms,
    pub given: &'a GivenStates,
    pub server: &'a ServerName,
    pub room: &'a RoomId,
    pub version: RoomVersion,
}

impl Teller<'_> {
    /// The ids of the state before an event, whose events are here as outliers
    /// then. Whether enough of them are is seen when the state is given.
    pub async fn state_before(
        &self,
        event: &EventId,
        budget: &mut Budget,
    ) -> Result<Vec<OwnedEventId>, ToldError> {
        let (client, server, room) = (self.client, self.server, self.room);
        budget.request().then_some(()).ok_or(ToldError::TooMuch)?;
        let told = room_state::state_ids(client, server, room, event).await?;
        let named = told.auth_chain.iter().chain(&told.state);
        let missing = unknown(self.rooms, room, named).await?;
        if missing.len() > ONE_BY_ONE_MAX {
            budget.request().then_some(()).ok_or(ToldError::TooMuch)?;
            let mut answer = room_state::state(client, server, room, event).await?;
            let mut intake = self.given.intake(room, self.version, server)?;
            intake.take(&mut answer).await?;
            intake.finish().await?;
        } else if !missing.is_empty() {
            let events = self.events(&missing, budget).await?;
            let given = self.given;
            given
                .append_outliers(room, self.version, server, events)
                .await?;
        }
        Ok(told.state)
    }

    /// Some of what authorises others and is not here: the events themselves, or,
    /// where those are many, the auth chains of some that wait for them.
    pub async fn authorities(
        &self,
        absent: &[OwnedEventId],
        waiting: &[OwnedEventId],
        budget: &mut Budget,
    ) -> Result<Vec<Bytes>, ToldError> {
        if absent.len() <= ONE_BY_ONE_MAX {
            let ids = absent.iter().map(|id| &**id).collect();
            return self.events(&ids, budget).await;
        }
        let mut events = Vec::new();
        for event in waiting {
            budget.request().then_some(()).ok_or(ToldError::TooMuch)?;
            let chain = event::event_auth(self.client, self.server, self.room, event);
            events.extend(chain.await?);
        }
        Ok(events)
    }

    /// Single events, those that the server has, unchecked but for their ids.
    pub async fn events(
        &self,
        ids: &BTreeSet<&EventId>,
        budget: &mut Budget,
    ) -> Result<Vec<Bytes>, ToldError> {
        if budget.requests(ids.len()) < ids.len() {
            return Err(ToldError::TooMuch);
        }
        let fetches = ids.iter().map(|id| async move {
            let found = event::event(self.client, self.server, id).await?;
            Ok::<_, RequestError>(found.filter(|event| self.is_named(id, event)))
        });
        let fetches: Vec<_> = fetches.collect();
        let mut events = Vec::with_capacity(fetches.len());
        let mut answers = stream::iter(fetches).buffer_unordered(AT_A_TIME);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(found) => events.extend(found),
                Err(error) => {
                    tracing::debug!(server = %self.server, %error, "an event is not told");
                }
            }
        }
        Ok(events)
    }

    /// Whether this is the event that was asked for.
    fn is_named(&self, id: &EventId, event: &Bytes) -> bool {
        let object = parse_object_with(event, Numbers::Kept).ok();
        let pdu = object.and_then(|object| Pdu::from_object(self.version, object).ok());
        pdu.is_some_and(|pdu| pdu.event_id == id)
    }
}
