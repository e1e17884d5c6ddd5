//! The federation receiver: what other servers send becomes records of *input*
//! (server-server API, *Transactions*).
//!
//! A transaction is taken in once, however often it comes ([`origins`]). Each
//! event stands for itself: one that is refused has its error in the answer and
//! stops no other. The events of a room go in the order in which they came,
//! rooms side by side; EDUs come last, since receipts are about events. The
//! answer is given when everything is durable. It has the outcome of the fold
//! where that is there in time, and never waits for a room that is parked.

mod origins;
mod room;
mod transaction;
mod turn;
mod withdrawn;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use ruma::{OwnedEventId, OwnedServerName, ServerName};
use tokio::sync::Semaphore;

pub use self::transaction::TransactionError;

use self::origins::{NoTurn, Origins};
use self::transaction::Transaction;
use super::edus::Edus;
use super::missing::MissingEvents;
use super::pdu_checks::PduChecks;
use super::policy_servers::PolicyServers;
use crate::matrix::canonical_json::{CanonicalJsonObject, to_bytes};
use crate::query::rooms::{QueryError, Rooms};
use crate::query::server_acls::ServerAcls;
use crate::telemetry::names;
use crate::writers::submit::{SubmitError, Submitter};

/// Rooms of one transaction that are worked on at a time.
const ROOMS_AT_ONCE: usize = 4;
/// Bodies of transactions that are at work or wait, in KiB: in memory they are
/// some five times as large.
const BODIES_KIB_MAX: usize = 64 * 1024;
/// Rooms of transactions that are at work, over all servers: each keeps a
/// processor and the log busy, and clients want their share. One that waits for
/// another server does not count.
const AT_WORK_MAX: usize = 32;

/// Why a transaction is not answered; its server sends it again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// This server, or all of them together, sent more than is taken in now.
    #[error("too much is received at a time")]
    Busy,
    /// What was begun ended without an answer.
    #[error("the work on the transaction broke off")]
    Broken,
    /// Events could not be made durable.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error("the query window has no answer: {0}")]
    Query(Arc<QueryError>),
}

impl From<QueryError> for ReceiveError {
    fn from(error: QueryError) -> ReceiveError {
        ReceiveError::Query(Arc::new(error))
    }
}

/// What became of each event: nothing to tell, or why it was refused.
pub type Received = BTreeMap<OwnedEventId, Option<String>>;

type Answer = Result<Arc<Received>, ReceiveError>;

/// What the receiver is made from.
pub struct Parts {
    /// Our own name.
    pub own: OwnedServerName,
    pub rooms: Arc<dyn Rooms>,
    pub checks: PduChecks,
    pub acls: ServerAcls,
    pub missing: MissingEvents,
    pub policies: PolicyServers,
    pub submitter: Submitter,
    pub edus: Edus,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Receiver {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    origins: Origins<Answer>,
    bodies: Arc<Semaphore>,
    at_work: Semaphore,
}

impl Receiver {
    pub fn new(parts: Parts) -> Receiver {
        Receiver {
            inner: Arc::new(Inner {
                parts,
                origins: Origins::default(),
                bodies: Arc::new(Semaphore::new(BODIES_KIB_MAX)),
                at_work: Semaphore::new(AT_WORK_MAX),
            }),
        }
    }

    /// Takes in a transaction that `origin` signed.
    ///
    /// Errors: nothing of it is remembered, and it may come again; what was
    /// appended already is known by then.
    pub async fn receive(
        &self,
        origin: &ServerName,
        transaction_id: &str,
        body: CanonicalJsonObject,
    ) -> Result<Arc<Received>, ReceiveError> {
        let kib = to_bytes(&body).len().div_ceil(1024);
        let transaction = Transaction::read(origin, body)?;
        let work = || {
            let kib = u32::try_from(kib).unwrap_or(u32::MAX);
            let bodies = self.inner.bodies.clone();
            let body = bodies.try_acquire_many_owned(kib);
            let body = body.map_err(|_| Err(ReceiveError::Busy))?;
            self.inner.show_bodies();
            let (inner, origin) = (self.inner.clone(), origin.to_owned());
            Ok(async move {
                let answer = inner.take_in(&origin, transaction).await;
                drop(body);
                inner.show_bodies();
                answer
            })
        };
        let once = self
            .inner
            .origins
            .once(origin, transaction_id, Result::is_ok, work);
        match once.await {
            Ok(answer) => answer,
            Err(NoTurn::TooMany) => Err(ReceiveError::Busy),
            Err(NoTurn::Broken) => Err(ReceiveError::Broken),
        }
    }
}

impl Inner {
    async fn take_in(&self, origin: &ServerName, transaction: Transaction) -> Answer {
        metrics::counter!(names::TRANSACTIONS_RECEIVED).increment(1);
        let rooms = transaction.rooms.into_iter();
        let rooms = rooms.map(|(room, events)| self.receive_in_room(origin, room, events));
        let mut received = Received::new();
        let mut rooms = stream::iter(rooms).buffer_unordered(ROOMS_AT_ONCE);
        while let Some(in_room) = rooms.next().await {
            received.extend(in_room?);
        }
        self.parts.edus.receive(origin, transaction.edus).await;
        Ok(Arc::new(received))
    }

    fn show_bodies(&self) {
        let taken = BODIES_KIB_MAX.saturating_sub(self.bodies.available_permits());
        metrics::gauge!(names::RECEIVING_BYTES).set((taken * 1024) as f64);
    }
}
