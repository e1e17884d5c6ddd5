//! The way out: over HTTP, or whatever a test makes of it.

use std::future::Future;
use std::pin::Pin;

use ruma::ServerName;

use crate::outbound::answer::RequestError;
use crate::outbound::federation::FederationClient;
use crate::outbound::federation::transactions::{self, Refused, Transaction};

/// What became of a transaction: the other server has it, or why not.
pub type Carried<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<Refused>, RequestError>> + Send + 'a>>;

/// Takes transactions to other servers. How many are under way is for the caller
/// to bound.
pub trait Carrier: Send + Sync {
    fn carry<'a>(
        &'a self,
        destination: &'a ServerName,
        transaction: &'a Transaction,
    ) -> Carried<'a>;
}

impl Carrier for FederationClient {
    fn carry<'a>(
        &'a self,
        destination: &'a ServerName,
        transaction: &'a Transaction,
    ) -> Carried<'a> {
        Box::pin(transactions::send(self, destination, transaction))
    }
}
