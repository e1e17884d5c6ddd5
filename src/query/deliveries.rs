//! What other servers acknowledged of what they are sent.

use std::collections::BTreeMap;

use log_format::record::input::Emitted;
use ruma::{OwnedServerName, ServerName};

use super::rooms::QueryError;

/// How far one server has acknowledged one partition of *output*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last event that was acknowledged.
    pub upto: Emitted,
    /// The last event of the transaction that comes next; none if nothing waited.
    pub next: Option<Emitted>,
}

/// What is known of the deliveries to one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// By partition.
    pub progress: BTreeMap<u32, Progress>,
    /// Attempts that failed since the last one that did not.
    pub failures: u32,
    /// Not tried again before then, in milliseconds since the epoch.
    pub retry_at_ms: u64,
    /// When the server last acknowledged something; 0 if it never did.
    pub succeeded_ms: u64,
}

/// The delivery server's table, read-only.
pub trait Deliveries: Send + Sync {
    /// What is known of one server; the default where nothing is.
    fn delivery(&self, server: &ServerName) -> Result<Delivery, QueryError>;
    /// Servers of which something is known, by name within each partition.
    fn servers(&self) -> Result<Vec<OwnedServerName>, QueryError>;
}

/// Hears which servers speak to us: whoever does may well be reached again.
pub trait Hears: Send + Sync {
    /// A request of this server was signed by it.
    fn heard_from(&self, server: &ServerName);
}

#[cfg(test)]
pub mod fake {
    //! A stand-in for the federation sender.

    use super::*;

    /// Sends nothing, so that it does not matter who can be reached.
    pub struct Deaf;

    impl Hears for Deaf {
        fn heard_from(&self, _: &ServerName) {}
    }
}
