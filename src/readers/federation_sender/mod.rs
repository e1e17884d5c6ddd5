//! Federation sender: brings what happens here to the servers that are in the
//! rooms (server-server API, *Transactions*).
//!
//! It follows *output* and keeps, for each server, the events that wait: their
//! names, not their bodies. A courier takes them there, one transaction at a
//! time. What was acknowledged is recorded in *input*, so that whatever becomes
//! of the tables nothing is sent again but the one transaction that was under
//! way. Replaying sends nothing: only [`FederationSender::run`] does.
//!
//! What is told beside events is in memory alone and goes with the process: a
//! crash repeats none of it (see [`transaction`]).

mod back_off;
mod carrier;
mod courier;
mod destination;
mod destinations;
mod edus;
mod fold;
mod moments;
pub mod overview;
mod queue;
mod rest;
mod rows;
mod run;
mod servers;
#[cfg(test)]
mod tests;
pub mod time;
mod transaction;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use log_format::codec;
use log_format::record::input::InputDelivery;
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::OwnedServerName;

pub use self::carrier::{Carried, Carrier};

use self::destination::Destination;
use self::destinations::Destinations;
use self::edus::{About, Said};
use self::fold::{Group, News};
use self::rows::TABLES_VERSION;
use self::run::Ways;
use self::servers::Federated;
use self::time::Time;
use crate::logs::log::{Append, AppendTicket, Log, LogRecord, NewRecord, PartitionId};
use crate::query::deliveries::{Deliveries, Hears};
use crate::query::ephemeral::Ephemeral;
use crate::query::rooms::{QueryError, Rooms};
use crate::query::tokens::Epoch;
use crate::readers::run::{Reader, ReaderError};
use crate::readers::store::{Cursor, Write, clear};
use crate::storage::columns::{SENDER_QUEUE, SENDER_SERVERS, SENDER_TIPS, Table};
use crate::storage::overlay::{Overlay, StoreError};

/// Under which the cursors are kept.
const NAME: &str = "federation_sender";

/// Rows for servers above which a group is written: one event may lead to
/// thousands of them, and they are in memory until then.
const GROUP_ROWS: usize = 16 * 1024;

/// Every table of this reader.
const TABLES: [Table; 3] = [SENDER_SERVERS, SENDER_QUEUE, SENDER_TIPS];

/// What the sender is built from.
pub struct Ports {
    pub store: Arc<dyn Write>,
    pub rooms: Arc<dyn Rooms>,
    pub deliveries: Arc<dyn Deliveries>,
    pub ephemeral: Arc<dyn Ephemeral>,
    pub output: Arc<dyn Log>,
    /// Where acknowledgements are recorded.
    pub input: Arc<dyn Append>,
    pub carrier: Arc<dyn Carrier>,
    pub server_name: OwnedServerName,
    pub epoch: Epoch,
    pub time: Arc<dyn Time>,
}

/// The reader, and what sends.
pub struct FederationSender {
    ports: Ports,
    time: Arc<dyn Time>,
    cursors: Box<[AtomicU64]>,
    /// By partition, where *output* ended at the start: older receipts and the like
    /// were told before, or are lost with what held them.
    began_at: Box<[u64]>,
    destinations: Arc<Destinations>,
    federated: Federated,
    ways: Ways,
}

/// Sums over all destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Events that wait.
    pub waiting: u64,
    /// Servers whose last transaction failed, and for which something waits or is told.
    pub failing: u64,
    /// Servers that are in memory.
    pub in_memory: u64,
}

/// The sender cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Query(#[from] QueryError),
}

impl FederationSender {
    /// Finds the tables as they were left, or empties those that belong to
    /// another epoch or version, or lie ahead of *output*, to be rebuilt.
    pub fn open(ports: Ports) -> Result<FederationSender, OpenError> {
        let store = ports.store.clone();
        let partitions = ports.output.partitions();
        let (deliveries, time) = (ports.deliveries.clone(), ports.time.clone());
        let destinations = Destinations::new(store.clone(), deliveries, partitions, time);
        let federated = Federated::default();
        let (mut cursors, mut began_at) = (Vec::new(), Vec::new());
        for partition in 0..partitions {
            let end = ports.output.end(partition);
            let cursor = Cursor::load(&*store, NAME, partition)?.filter(|cursor| {
                cursor.version == TABLES_VERSION
                    && cursor.epoch == ports.epoch
                    && cursor.next <= end
            });
            if cursor.is_none() {
                for table in TABLES {
                    clear(&*store, table, rows::partition_key(partition).as_bytes())?;
                }
            }
            federated.load(&*store, partition)?;
            cursors.push(AtomicU64::new(cursor.map_or(0, |cursor| cursor.next)));
            began_at.push(end);
        }
        destinations.count_rows()?;
        Ok(FederationSender {
            time: ports.time.clone(),
            cursors: cursors.into(),
            began_at: began_at.into(),
            destinations: Arc::new(destinations),
            federated,
            ways: Ways::default(),
            ports,
        })
    }

    /// Who is to be told which servers speak to us.
    pub fn ears(&self) -> Arc<dyn Hears> {
        self.destinations.clone()
    }

    /// How it stands, for metrics.
    pub fn counts(&self) -> Counts {
        let all = self.destinations.all();
        let at_rest = *self.destinations.at_rest.lock();
        let mut counts = Counts {
            waiting: at_rest.waiting,
            failing: at_rest.failing,
            in_memory: all.len() as u64,
        };
        for destination in all {
            let state = destination.state();
            counts.waiting += state.waiting();
            counts.failing += u64::from(state.failures > 0);
        }
        counts
    }

    /// Folds so many of the records as make a batch of a bounded size, at least
    /// one. Returns those that are left.
    fn fold_some<'a>(
        &self,
        partition: PartitionId,
        records: &'a [LogRecord],
    ) -> Result<&'a [LogRecord], ReaderError> {
        let mut group = Group {
            partition,
            rows: Overlay::new(&*self.ports.store),
            server_name: &self.ports.server_name,
            destinations: &self.destinations,
            federated: &self.federated,
            told_from: self.began_at.get(partition as usize).copied().unwrap_or(0),
            news: News::default(),
        };
        let mut left = records;
        while let Some((record, behind)) = left.split_first()
            && group.news.rows < GROUP_ROWS
        {
            group.fold(record)?;
            left = behind;
        }
        let folded = records.len() - left.len();
        let Some(last) = records.get(..folded).and_then(<[LogRecord]>::last) else {
            return Ok(left);
        };
        let next = last.offset + 1;
        let Group { mut rows, news, .. } = group;
        let cursor = Cursor {
            version: TABLES_VERSION,
            epoch: self.ports.epoch,
            next,
        };
        cursor.put(NAME, partition, &mut rows);
        self.ports.store.write(rows.into_writes())?;
        if let Some(cursor) = self.cursors.get(partition as usize) {
            cursor.store(next, Ordering::Release);
        }
        self.spread(partition, news)?;
        Ok(left)
    }

    /// Tells destinations what is in the tables for them by now.
    fn spread(&self, partition: PartitionId, news: News) -> Result<(), ReaderError> {
        for (server, about, said) in news.receipts {
            let destination = self.destinations.of(&server)?;
            self.tell(&destination, about, said);
        }
        for (destination, added) in news.queued.into_values() {
            destination.state().line(partition).waiting += added;
            self.destinations.call(&destination);
        }
        for destination in news.behind.values() {
            queue::thin_out(&*self.ports.store, partition, destination)?;
        }
        for (room, arrivals) in &news.arrivals {
            self.tell_arrivals(room, arrivals)?;
        }
        Ok(())
    }

    /// Leaves with a destination what is true for a while, if it is to be told.
    fn tell(&self, destination: &Arc<Destination>, about: Arc<About>, said: Arc<Said>) {
        {
            let mut state = destination.state();
            if !state.is_told(self.time.now_ms()) {
                return;
            }
            match state.failures {
                0 => state.edus.add(about, said),
                _ => state.edus.add_if_failing(about, said),
            }
        }
        self.destinations.call(destination);
    }

    /// Records how it stands with a destination. The ticket resolves once that is
    /// durable, which nobody needs to wait for; none if nothing is taken any more.
    fn record(&self, destination: &Destination, body: &InputDelivery) -> Option<AppendTicket> {
        let body = codec::encode(body);
        let server = destination.name.as_str();
        let envelope = NewEnvelope {
            key: server,
            received_us: self.time.now_ms().saturating_mul(1000),
            body: &body,
            ..NewEnvelope::default()
        };
        let record = NewRecord::new(Kind::InputDelivery, Source::Internal, &envelope);
        let input = &self.ports.input;
        match input.enqueue(input.partition_of(server), vec![record]) {
            Ok(ticket) => Some(ticket),
            Err(error) => {
                tracing::warn!(server, %error, "delivery not recorded");
                None
            }
        }
    }
}

impl Reader for FederationSender {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cursor(&self, partition: PartitionId) -> u64 {
        let cursor = self.cursors.get(partition as usize);
        cursor.map_or(0, |cursor| cursor.load(Ordering::Acquire))
    }

    fn fold(&self, partition: PartitionId, records: &[LogRecord]) -> Result<(), ReaderError> {
        let mut left = records;
        while !left.is_empty() {
            left = self.fold_some(partition, left)?;
        }
        Ok(())
    }
}
