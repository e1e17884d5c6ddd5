//! All destinations, and who is called when there is something to send.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use ruma::{OwnedServerName, ServerName};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::back_off::pause_if_heard;
use super::destination::{Courier, Destination};
use super::time::Time;
use crate::query::deliveries::{Deliveries, Hears};
use crate::query::rooms::QueryError;

/// What the runner is told.
pub enum Call {
    /// There is something to send; the courier counts as out from here on.
    Now(Arc<Destination>),
    /// There may be at `retry_at_ms`.
    Later(Arc<Destination>),
}

/// The destinations that this process has had to do with: some hundred bytes
/// each, and what is told beside events.
pub struct Destinations {
    known: RwLock<HashMap<OwnedServerName, Arc<Destination>>>,
    deliveries: Arc<dyn Deliveries>,
    time: Arc<dyn Time>,
    calls: UnboundedSender<Call>,
    /// Taken by the runner.
    called: Mutex<Option<UnboundedReceiver<Call>>>,
}

impl Destinations {
    pub fn new(deliveries: Arc<dyn Deliveries>, time: Arc<dyn Time>) -> Destinations {
        let (calls, called) = unbounded_channel();
        Destinations {
            known: RwLock::default(),
            deliveries,
            time,
            calls,
            called: Mutex::new(Some(called)),
        }
    }

    /// A destination, as it was recorded if it is new to this process.
    pub fn of(&self, server: &ServerName) -> Result<Arc<Destination>, QueryError> {
        if let Some(known) = self.known.read().get(server) {
            return Ok(known.clone());
        }
        let recorded = self.deliveries.delivery(server)?;
        let mut all = self.known.write();
        let known = all
            .entry(server.to_owned())
            .or_insert_with(|| Arc::new(Destination::new(server.to_owned(), &recorded)));
        Ok(known.clone())
    }

    /// All that this process has had to do with.
    pub fn all(&self) -> Vec<Arc<Destination>> {
        self.known.read().values().cloned().collect()
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
                Call::Later(destination.clone())
            }
        };
        drop(state);
        // Nobody listens any more at a stop: what waits lies in the tables.
        let _ = self.calls.send(call);
    }
}

impl Hears for Destinations {
    fn heard_from(&self, server: &ServerName) {
        let known = self.known.read().get(server).cloned();
        let Some(destination) = known else { return };
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
