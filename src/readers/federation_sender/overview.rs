//! How it stands with each server, for whoever runs this one.

use std::collections::BTreeMap;

use ruma::OwnedServerName;

use super::{FederationSender, OpenError, rows};
use crate::query::deliveries::{Deliveries, Delivery};
use crate::readers::store::scan;
use crate::storage::columns::SENDER_QUEUE;
use crate::storage::overlay::{Read, StoreError};

/// What waits for one server, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    pub server: OwnedServerName,
    /// Events.
    pub waiting: u64,
    /// Attempts that failed since the last one that did not.
    pub failures: u32,
    /// When the server last acknowledged something, in milliseconds since the
    /// epoch; 0 if it never did.
    pub succeeded_ms: u64,
    /// Not tried again before then; 0 if nothing speaks against it.
    pub retry_at_ms: u64,
    /// Of the last attempt, if this process made it.
    pub error: Option<Box<str>>,
}

/// Every server that was ever sent to or is to be, by name: from the tables, so
/// that it can be told beside a stopped server too. Reads all that waits.
pub fn queues(
    store: &dyn Read,
    deliveries: &dyn Deliveries,
    partitions: u32,
) -> Result<Vec<Queue>, OpenError> {
    let mut known: BTreeMap<OwnedServerName, (Delivery, u64)> = BTreeMap::new();
    for server in deliveries.servers()? {
        let delivery = deliveries.delivery(&server)?;
        known.insert(server, (delivery, 0));
    }
    for partition in 0..partitions {
        let prefix = rows::partition_key(partition);
        scan(store, SENDER_QUEUE, prefix.as_bytes(), |key, _| {
            let (server, at) = rows::queued_at(key)?;
            let server = rows::server_name(SENDER_QUEUE, server)?;
            let (delivery, waiting) = known.entry(server).or_default();
            let progress = delivery.progress.get(&partition);
            // A store that was not flushed since may hold what was acknowledged.
            if progress.is_none_or(|progress| progress.upto < at) {
                *waiting += 1;
            }
            Ok::<(), StoreError>(())
        })?;
    }
    let queues = known
        .into_iter()
        .map(|(server, (delivery, waiting))| Queue {
            server,
            waiting,
            failures: delivery.failures,
            succeeded_ms: delivery.succeeded_ms,
            retry_at_ms: delivery.retry_at_ms,
            error: None,
        });
    Ok(queues.collect())
}

impl FederationSender {
    /// [`queues`], with what only this process knows.
    pub fn queues(&self) -> Result<Vec<Queue>, OpenError> {
        let ports = &self.ports;
        let partitions = ports.output.partitions();
        let mut queues = queues(&*ports.store, &*ports.deliveries, partitions)?;
        for queue in &mut queues {
            // Of one that is not in memory its rows say all there is to say.
            let Some(destination) = self.destinations.in_memory(&queue.server) else {
                continue;
            };
            let state = destination.state();
            queue.failures = state.failures;
            queue.succeeded_ms = state.succeeded_ms;
            queue.retry_at_ms = state.retry_at_ms;
            queue.error.clone_from(&state.error);
        }
        Ok(queues)
    }
}
