//! The federation receiver: what other servers send becomes records of *input*
//! (server-server API, *Transactions*).
//!
//! A transaction is taken in once, however often it comes ([`origins`]). Each
//! event stands for itself: one that is refused has its error in the answer and
//! stops no other. The events of a room go in the order in which they came,
//! rooms side by side; EDUs come last, since receipts are about events. The
//! answer is given when everything is durable. It has the outcome of the fold
//! where that is there in time, and never waits for a room that is parked.
//!
//! What needs another server's help, for its past or for a key, is put [`aside`]
//! until the rest of the transaction is in the log. Servers share the memory for
//! all of it ([`shares`]), so that those who are slow on purpose hold up nobody.

mod aside;
mod origins;
mod room;
mod shares;
mod transaction;
mod withdrawn;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use ruma::{OwnedEventId, OwnedServerName, ServerName};
use tokio::sync::Semaphore;

pub use self::transaction::TransactionError;

use self::aside::Aside;
use self::origins::{NoTurn, Origins};
use self::shares::{Share, Shares};
use self::transaction::Transaction;
use super::edus::{self, Edus};
use super::missing::MissingEvents;
use super::pdu_checks::PduChecks;
use super::policy_servers::PolicyServers;
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::query::rooms::{QueryError, Rooms};
use crate::query::server_acls::ServerAcls;
use crate::telemetry::names;
use crate::writers::submit::{SubmitError, Submitter};

/// Rooms of one transaction that are worked on at a time.
const ROOMS_AT_ONCE: usize = 4;
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
    /// Bodies of transactions that are at work or wait for it: in memory they are
    /// some five times as large.
    bodies: Shares,
    /// Events that are put aside, the same.
    aside: Shares,
    at_work: Semaphore,
}

impl Receiver {
    pub fn new(parts: Parts) -> Receiver {
        Receiver {
            inner: Arc::new(Inner {
                parts,
                origins: Origins::default(),
                bodies: Shares::default(),
                aside: Shares::default(),
                at_work: Semaphore::new(AT_WORK_MAX),
            }),
        }
    }

    /// Takes in a transaction that `origin` signed, which came as so many bytes.
    ///
    /// Errors: nothing of it is remembered, and it may come again; what was
    /// appended already is known by then.
    pub async fn receive(
        &self,
        origin: &ServerName,
        transaction_id: &str,
        (body, bytes): (CanonicalJsonObject, usize),
    ) -> Result<Arc<Received>, ReceiveError> {
        let transaction = Transaction::read(origin, body)?;
        let work = || {
            let body = self.inner.bodies.take(origin, bytes);
            let body = body.ok_or(Err(ReceiveError::Busy))?;
            self.inner.show_bytes();
            let (inner, origin) = (self.inner.clone(), origin.to_owned());
            Ok(async move {
                let answer = inner.take_in(&origin, transaction, body).await;
                inner.show_bytes();
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
    async fn take_in(&self, origin: &ServerName, transaction: Transaction, body: Share) -> Answer {
        metrics::counter!(names::TRANSACTIONS_RECEIVED).increment(1);
        let rooms = transaction.rooms.into_iter();
        let rooms = rooms.map(|(room, events)| self.receive_in_room(origin, room, events));
        let mut received = Received::new();
        let mut aside: Vec<Aside> = Vec::new();
        let mut rooms = stream::iter(rooms).buffer_unordered(ROOMS_AT_ONCE);
        while let Some(in_room) = rooms.next().await {
            let (in_room, put_aside) = in_room?;
            received.extend(in_room);
            aside.extend(put_aside);
        }
        drop(rooms);
        let mut share = None;
        if !aside.is_empty() {
            // What waits is little, and must not hold what others need now.
            let events: usize = aside.iter().map(Aside::bytes).sum();
            share = self
                .aside
                .take(origin, events + edus::bytes(&transaction.edus));
            drop(body);
            self.show_bytes();
            let aside = self.receive_aside(origin, aside, share.is_some());
            received.extend(aside.await?);
        }
        self.parts.edus.receive(origin, transaction.edus).await;
        drop(share);
        Ok(Arc::new(received))
    }

    fn show_bytes(&self) {
        let taken = self.bodies.taken() + self.aside.taken();
        metrics::gauge!(names::RECEIVING_BYTES).set(taken as f64);
    }
}
