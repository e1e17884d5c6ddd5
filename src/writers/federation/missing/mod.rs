//! Fetches what an event from elsewhere builds on and is not here (server-server
//! API, *Backfilling and retrieving missing events*).
//!
//! First the events in between, by `get_missing_events` ([`walk`]): if they close
//! the gap they are appended before the event, as news, since nobody here has
//! seen them. Otherwise the events before the oldest of them are fetched, with the
//! state before each, which is given ([`state`]); or else the state before the
//! event itself. What authorises an event and is missing is fetched by
//! `event_auth`. All of it has bounds ([`Budget`]) and waits for its turn ([`turns`]).
//!
//! The events in between are news like the event itself, so the room's ACL is for
//! the servers of their senders as well: one that is not let in is left out, and
//! what builds on it gets the state before it given. The ACL is not for what is
//! told of the state and of who authorised it, which no client is shown as news:
//! most of that was sent while its server was let in, and a state that lacks it
//! would be another one than that of the other servers.

mod follower;
mod pauses;
mod state;
mod turns;
mod walk;

use std::sync::Arc;

use log_format::record::Source;
use log_format::record::input::Placement;
use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, ServerName};
use tokio::time::{Instant, timeout_at};

use self::pauses::Pauses;
use self::turns::{Turn, Turns};
use self::walk::Walked;
use super::budget::{self, Budget};
use super::given_state::{GivenStateError, GivenStates};
use super::past::{self, Missing};
use super::pdu_checks::{CheckedPdu, PduChecks};
use super::policy_servers::PolicyServers;
use super::told::ToldError;
use crate::matrix::RoomVersion;
use crate::matrix::event::Pdu;
use crate::outbound::answer::RequestError;
use crate::outbound::federation::{FederationClient, event};
use crate::query::rooms::{QueryError, RoomHead, Rooms};
use crate::query::server_acls::ServerAcls;
use crate::telemetry::names;
use crate::writers::submit::{SubmitError, Submitter};

/// Servers that are asked beside the one that sent the event.
const OTHER_SERVERS: usize = 2;
/// Events before which a state is given to close one gap; if more would need it,
/// it is given before the event itself.
const OPEN_ENDS_MAX: usize = 4;

/// Why an event's past is not here.
#[derive(Debug, thiserror::Error)]
pub enum GapError {
    /// It had no turn in time.
    #[error("the past of other events is fetched first")]
    Busy,
    #[error("its past could not be fetched a moment ago")]
    Pausing,
    #[error("fetching its past takes too long")]
    TooLong,
    #[error("fetching its past takes too many requests")]
    TooMuch,
    #[error("its past could not be fetched: {0}")]
    Request(#[from] RequestError),
    #[error("its past is not taken over: {0}")]
    Given(GivenStateError),
    /// Servers were asked, and did not help.
    #[error("what it builds on cannot be had: {0}")]
    NoPast(OwnedEventId),
    /// Servers were asked, and did not help.
    #[error("events that authorise it cannot be had: {0}")]
    NoAuthority(OwnedEventId),
    #[error("the room does not let the server of {0} take part")]
    Acl(OwnedEventId),
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Query(#[from] QueryError),
}

impl From<ToldError> for GapError {
    fn from(error: ToldError) -> GapError {
        match error {
            ToldError::TooMuch => GapError::TooMuch,
            ToldError::Request(error) => GapError::Request(error),
            ToldError::Given(error) => error.into(),
            ToldError::Query(error) => GapError::Query(error),
        }
    }
}

impl GapError {
    /// Whether there was too little time, and nothing else.
    pub fn is_of_time(&self) -> bool {
        matches!(self, GapError::Busy | GapError::TooLong)
    }
}

impl From<GivenStateError> for GapError {
    fn from(error: GivenStateError) -> GapError {
        match error {
            GivenStateError::Submit(error) => GapError::Submit(error),
            GivenStateError::Query(error) => GapError::Query(error),
            error => GapError::Given(error),
        }
    }
}

/// What is made use of.
pub struct Parts {
    /// Our own name.
    pub own: OwnedServerName,
    pub rooms: Arc<dyn Rooms>,
    pub client: Arc<FederationClient>,
    pub checks: PduChecks,
    pub given: GivenStates,
    pub policies: PolicyServers,
    pub submitter: Submitter,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct MissingEvents {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    acls: ServerAcls,
    pauses: Pauses,
    turns: Turns,
}

/// Where an event's past is looked for.
struct Place<'a> {
    head: &'a RoomHead,
    room: &'a RoomId,
    version: RoomVersion,
    /// What is at the end of what is known.
    extremities: Vec<&'a EventId>,
    /// The server that sent the event, then others that are in the room; none
    /// that the room does not let take part.
    servers: Vec<&'a ServerName>,
}

impl MissingEvents {
    pub fn new(parts: Parts) -> MissingEvents {
        MissingEvents {
            inner: Arc::new(Inner {
                acls: ServerAcls::new(parts.rooms.clone()),
                parts,
                pauses: Pauses::default(),
                turns: Turns::default(),
            }),
        }
    }

    /// Sees to it that an event that `origin` sent can be judged: what it builds
    /// on is here afterwards, or the state before it was given.
    ///
    /// Errors: nothing more is done about it by then. What was not done in time
    /// ([`GapError::is_of_time`]), or may take none, is done later if the event is
    /// appended.
    pub async fn fill(
        &self,
        origin: &ServerName,
        head: &RoomHead,
        event: &CheckedPdu,
        deadline: Option<Instant>,
    ) -> Result<(), GapError> {
        let (inner, room) = (&self.inner, &*head.room_id);
        if inner.pauses.left(room, origin).is_some() {
            return Err(GapError::Pausing);
        }
        let deadline = deadline.ok_or(GapError::Busy)?;
        let turn = timeout_at(deadline, inner.turns.take(room, origin)).await;
        let turn = turn.map_err(|_| GapError::Busy)?;
        // Whoever was here before may have fetched the same, or failed.
        let missing = inner.missing(event)?;
        if missing.is_empty() {
            return Ok(());
        }
        if inner.pauses.left(room, origin).is_some() {
            return Err(GapError::Pausing);
        }
        let deadline = deadline.min(Instant::now() + budget::TIME_MAX);
        let filled = inner.fill(origin, head, event, missing);
        let filled = while_its_turn(&turn, deadline, filled).await;
        inner.pauses.note(room, origin, filled.is_ok());
        inner.turns.note(origin, filled.is_ok());
        let result = if filled.is_ok() { "filled" } else { "failed" };
        metrics::counter!(names::GAPS, "result" => result).increment(1);
        if let Err(error) = &filled {
            let event = &event.pdu.event_id;
            tracing::info!(%room, %origin, %event, %error, "a gap is not filled");
        }
        filled
    }
}

/// Work that is dropped when its turn is over, or its time.
async fn while_its_turn(
    turn: &Turn,
    deadline: Instant,
    work: impl Future<Output = Result<(), GapError>>,
) -> Result<(), GapError> {
    tokio::select! {
        done = timeout_at(deadline, work) => done.unwrap_or(Err(GapError::TooLong)),
        () = turn.over() => Err(GapError::TooLong),
    }
}

impl Inner {
    fn missing(&self, event: &CheckedPdu) -> Result<Missing, QueryError> {
        past::missing(&*self.parts.rooms, &event.pdu, |_| false)
    }

    async fn fill(
        &self,
        origin: &ServerName,
        head: &RoomHead,
        event: &CheckedPdu,
        missing: Missing,
    ) -> Result<(), GapError> {
        let place = self.place(origin, head, event)?;
        let mut budget = Budget::default();
        if !missing.prev_events.is_empty() {
            self.fill_past(&place, event, &missing.prev_events, &mut budget)
                .await?;
        }
        self.seek_authorities(&place, event, |_| false, &mut budget)
            .await
    }

    fn place<'a>(
        &self,
        origin: &'a ServerName,
        head: &'a RoomHead,
        event: &'a CheckedPdu,
    ) -> Result<Place<'a>, QueryError> {
        let mut servers = Vec::new();
        let sender = event.pdu.sender.server_name();
        let mut others: Vec<_> = head.servers.iter().collect();
        // Those with most users there are most likely to have all of it.
        others.sort_by(|(a, most_a), (b, most_b)| most_b.cmp(most_a).then_with(|| a.cmp(b)));
        let others = others.into_iter().map(|(server, _)| &**server);
        for server in [origin, sender].into_iter().chain(others) {
            if servers.len() <= OTHER_SERVERS
                && server != self.parts.own
                && !servers.contains(&server)
                && self.acls.allows(head, server)?
            {
                servers.push(server);
            }
        }
        let extremities = head.extremities.iter();
        Ok(Place {
            head,
            room: &head.room_id,
            version: event.pdu.version,
            extremities: extremities
                .take(crate::limits::PREV_EVENTS_MAX)
                .map(|extremity| &*extremity.event_id)
                .collect(),
            servers,
        })
    }

    /// The events between what is known and the event; or some of them, and the
    /// state before the oldest.
    async fn fill_past(
        &self,
        place: &Place<'_>,
        event: &CheckedPdu,
        missing: &[OwnedEventId],
        budget: &mut Budget,
    ) -> Result<(), GapError> {
        let mut walked = self.walk(place, &event.pdu, missing, budget).await?;
        let reaches = missing.iter().all(|id| walked.holds(id));
        walked.deny(|pdu| self.is_denied(place.head, pdu))?;
        let open = walked.open_ends(&*self.parts.rooms)?;
        let behind_denied = walked.behind_denied();
        if reaches && open.len() + behind_denied.len() <= OPEN_ENDS_MAX {
            let crossed = self.cross(place, &open, &behind_denied, budget);
            match crossed.await {
                Ok(()) => {
                    self.append_walked(place, walked, budget).await?;
                    // One of them may be refused for ever.
                    if self.missing(event)?.prev_events.is_empty() {
                        return Ok(());
                    }
                }
                Err(error @ (GapError::Submit(_) | GapError::Query(_))) => return Err(error),
                Err(error) => tracing::debug!(%error, "the end of a gap is not had"),
            }
        }
        self.give_before(place, &event.pdu.event_id, budget).await
    }

    /// Whether an event may not come in because of who sent it.
    fn is_denied(&self, head: &RoomHead, pdu: &Pdu) -> Result<bool, QueryError> {
        Ok(!self.acls.allows(head, pdu.sender.server_name())?)
    }

    /// Sees to it that a walk can be appended: brings in its open ends, and gives
    /// the state before what builds on events that may not come in.
    async fn cross(
        &self,
        place: &Place<'_>,
        open: &[OwnedEventId],
        behind_denied: &[OwnedEventId],
        budget: &mut Budget,
    ) -> Result<(), GapError> {
        for event in open {
            self.bring_in_one(place, event, budget).await?;
        }
        for event in behind_denied {
            self.give_before(place, event, budget).await?;
        }
        Ok(())
    }

    /// Appends one event behind the state before it.
    async fn bring_in_one(
        &self,
        place: &Place<'_>,
        id: &EventId,
        budget: &mut Budget,
    ) -> Result<(), GapError> {
        self.give_before(place, id, budget).await?;
        let event = self.fetch(place, id, budget).await?;
        let event = event.ok_or_else(|| GapError::NoPast(id.to_owned()))?;
        if self.is_denied(place.head, &event.pdu)? {
            return Err(GapError::Acl(id.to_owned()));
        }
        self.append_walked(place, Walked::of(event), budget).await
    }

    /// Appends the events of a walk, oldest first, as news.
    async fn append_walked(
        &self,
        place: &Place<'_>,
        walked: Walked,
        budget: &mut Budget,
    ) -> Result<(), GapError> {
        let origin = place.servers.first().copied().unwrap_or(&self.parts.own);
        let mut batch = walk::Batch::new(place.room, &self.parts.submitter);
        for event in walked.oldest_first() {
            let ids = batch.ids();
            let comes = |id: &EventId| ids.contains(id);
            self.seek_authorities(place, &event, comes, budget).await?;
            let record = event.record(Placement::New, Source::Federation, origin);
            let record = self.parts.policies.sought(place.head, record).await;
            batch.push(event.pdu.event_id, record).await?;
        }
        metrics::counter!(names::GAP_EVENTS).increment(batch.ids().len() as u64);
        batch.finish().await?;
        Ok(())
    }

    /// [`Inner::fetch_authorities`]. An event whose authority cannot be had is
    /// judged all the same: it is rejected, until that comes.
    async fn seek_authorities(
        &self,
        place: &Place<'_>,
        event: &CheckedPdu,
        comes: impl Fn(&EventId) -> bool,
        budget: &mut Budget,
    ) -> Result<(), GapError> {
        match self.fetch_authorities(place, event, comes, budget).await {
            Err(error @ (GapError::Submit(_) | GapError::Query(_) | GapError::TooMuch)) => {
                Err(error)
            }
            Err(error) => {
                let event = &event.pdu.event_id;
                tracing::debug!(%event, %error, "what authorises an event is not had");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// What authorises an event and is neither here nor on its way.
    async fn fetch_authorities(
        &self,
        place: &Place<'_>,
        event: &CheckedPdu,
        comes: impl Fn(&EventId) -> bool,
        budget: &mut Budget,
    ) -> Result<(), GapError> {
        let rooms = &*self.parts.rooms;
        let lacking = |event: &CheckedPdu| -> Result<Option<OwnedEventId>, QueryError> {
            for id in &event.pdu.auth_events {
                if !comes(id) && !past::is_known(rooms, place.room, id)? {
                    return Ok(Some(id.clone()));
                }
            }
            Ok(None)
        };
        let mut failed = None;
        for server in &place.servers {
            if lacking(event)?.is_none() {
                return Ok(());
            }
            if !budget.request() {
                return Err(GapError::TooMuch);
            }
            let id = &event.pdu.event_id;
            match event::event_auth(&self.parts.client, server, place.room, id).await {
                Ok(chain) => {
                    let given = &self.parts.given;
                    given
                        .append_outliers(place.room, place.version, server, chain)
                        .await?;
                }
                Err(error) => failed = Some(error),
            }
        }
        match (lacking(event)?, failed) {
            (None, _) => Ok(()),
            (Some(_), Some(error)) => Err(error.into()),
            (Some(id), None) => Err(GapError::NoAuthority(id)),
        }
    }
}
