//! All destinations, and who is called when there is something to send.
//!
//! Those that nobody has anything for are not in memory (see [`super::rest`]):
//! [`Destinations::of`] brings each back from its rows.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use ruma::{OwnedServerName, ServerName};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::back_off::pause_if_heard;
use super::destination::{Courier, Destination};
use super::queue;
use super::rest::AtRest;
use super::time::Time;
use crate::logs::log::PartitionId;
use crate::query::deliveries::{Deliveries, Hears};
use crate::query::rooms::QueryError;
use crate::readers::store::Write;

/// What the runner is told.
pub enum Call {
    /// There is something to send; the courier counts as out from here on.
    Now(Arc<Destination>),
    /// There may be at this time, in milliseconds since the epoch.
    Later(u64, OwnedServerName),
}

/// The destinations of this process.
pub struct Destinations {
    /// Those in memory: one to two kilobytes each, and what is told beside events.
    pub(super) known: RwLock<HashMap<OwnedServerName, Arc<Destination>>>,
    /// What waits for all others.
    pub(super) at_rest: Mutex<AtRest>,
    pub(super) store: Arc<dyn Write>,
    pub(super) deliveries: Arc<dyn Deliveries>,
    pub(super) partitions: PartitionId,
    pub(super) time: Arc<dyn Time>,
    calls: UnboundedSender<Call>,
    /// Taken by the runner.
    called: Mutex<Option<UnboundedReceiver<Call>>>,
}

impl Destinations {
    /// Nobody is in memory yet, and nothing counted.
    pub fn new(
        store: Arc<dyn Write>,
        deliveries: Arc<dyn Deliveries>,
        partitions: PartitionId,
        time: Arc<dyn Time>,
    ) -> Destinations {
        let (calls, called) = unbounded_channel();
        Destinations {
            known: RwLock::default(),
            at_rest: Mutex::default(),
            store,
            deliveries,
            partitions,
            time,
            calls,
            called: Mutex::new(Some(called)),
        }
    }

    /// A destination, for which there is something: from its rows if it is not in
    /// memory.
    pub fn of(&self, server: &ServerName) -> Result<Arc<Destination>, QueryError> {
        let now = self.time.now_ms();
        if let Some(known) = self.known.read().get(server) {
            known.use_at(now);
            return Ok(known.clone());
        }
        let found = Arc::new(self.read(server, now)?);
        let mut all = self.known.write();
        // Somebody else may have been faster; what they found has changed since.
        if let Some(known) = all.get(server) {
            return Ok(known.clone());
        }
        self.at_rest.lock().is_back(&found.state());
        all.insert(server.to_owned(), found.clone());
        Ok(found)
    }

    /// A destination, if it is in memory.
    pub fn in_memory(&self, server: &ServerName) -> Option<Arc<Destination>> {
        self.known.read().get(server).cloned()
    }

    /// All that are in memory.
    pub fn all(&self) -> Vec<Arc<Destination>> {
        self.known.read().values().cloned().collect()
    }

    fn read(&self, server: &ServerName, now_ms: u64) -> Result<Destination, QueryError> {
        let recorded = self.deliveries.delivery(server)?;
        let destination = Destination::new(server.to_owned(), &recorded, now_ms);
        for partition in 0..self.partitions {
            let progress = recorded.progress.get(&partition);
            let upto = progress.map(|progress| progress.upto);
            let waiting = queue::settle(&*self.store, partition, server, upto)
                .map_err(|error| QueryError::Store(error.to_string()))?;
            if waiting > 0 {
                destination.state().line(partition).waiting = waiting;
            }
        }
        Ok(destination)
    }

    /// The calls, once.
    pub fn take_calls(&self) -> Option<UnboundedReceiver<Call>> {
        self.called.lock().take()
    }

    /// There may be something to send: a courier goes, now or when it is time.
    pub fn call(&self, destination: &Arc<Destination>) {
        let mut state = destination.state();
        let call = match state.courier {
            Courier::Out => {
                state.courier = Courier::OutAndCalled;
                return;
            }
            Courier::OutAndCalled => return,
            Courier::Home if !state.has_work() => return,
            Courier::Home if state.is_due(&destination.name, self.time.now_ms()) => {
                state.courier = Courier::Out;
                Call::Now(destination.clone())
            }
            Courier::Home if state.timed => return,
            Courier::Home => {
                state.timed = true;
                Call::Later(state.retry_at_ms, destination.name.clone())
            }
        };
        drop(state);
        // Nobody listens any more at a stop: what waits lies in the tables.
        let _ = self.calls.send(call);
    }

    /// A destination that waits for a better time: none that never had trouble,
    /// which costs a look at its row if it is not in memory.
    fn failing(&self, server: &ServerName) -> Result<Option<Arc<Destination>>, QueryError> {
        if let Some(known) = self.in_memory(server) {
            return Ok(Some(known));
        }
        match self.deliveries.delivery(server)?.failures {
            0 => Ok(None),
            _ => self.of(server).map(Some),
        }
    }
}

impl Hears for Destinations {
    fn heard_from(&self, server: &ServerName) {
        let destination = match self.failing(server) {
            Ok(Some(destination)) => destination,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%server, %error, "not known whether the server is waited for");
                return;
            }
        };
        {
            let mut state = destination.state();
            let now = self.time.now_ms();
            let pause = pause_if_heard(server, state.failures).as_millis();
            let pause = u64::try_from(pause).unwrap_or(u64::MAX);
            let soon = state.tried_at_ms.saturating_add(pause).max(now);
            if state.failures == 0 || state.retry_at_ms <= soon {
                return;
            }
            state.retry_at_ms = soon;
            // The runner's list has it at a later time: it is told anew.
            state.timed = false;
        }
        self.call(&destination);
    }
}
