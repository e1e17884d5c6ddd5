//! Federation sender: brings what happens here to the servers that are in the
//! rooms (server-server API, *Transactions*).
//!
//! It follows *output* and keeps, for each server, the events that wait: their
//! names, not their bodies. A courier takes them there, one transaction at a
//! time. What was acknowledged is recorded in *input*, so that whatever becomes
//! of the tables nothing is sent again but the one transaction that was under
//! way. Replaying sends nothing: only [`FederationSender::run`] does.

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
mod rows;
mod run;
mod servers;
#[cfg(test)]
mod tests;
pub mod time;
mod transaction;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use log_format::codec;
use log_format::record::input::InputDelivery;
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::{OwnedServerName, ServerName};

pub use self::carrier::{Carried, Carrier};

use self::destination::Destination;
use self::destinations::Destinations;
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
use crate::readers::store::{Cursor, Write, clear, scan};
use crate::storage::columns::{SENDER_QUEUE, SENDER_SERVERS, SENDER_TIPS, Table};
use crate::storage::overlay::{Overlay, StoreError};

/// Under which the cursors are kept.
const NAME: &str = "federation_sender";

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
    /// By partition, where *output* ended at the start: older receipts were told
    /// before, or are lost with what held them.
    began_at: Box<[u64]>,
    destinations: Arc<Destinations>,
    federated: Federated,
    ways: Ways,
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
    /// another epoch or version, or lie ahead of *output*, to be rebuilt. What
    /// was acknowledged since they were last flushed is taken out.
    pub fn open(ports: Ports) -> Result<FederationSender, OpenError> {
        let store = ports.store.clone();
        let destinations = Destinations::new(ports.deliveries.clone(), ports.time.clone());
        let federated = Federated::default();
        let (mut cursors, mut began_at) = (Vec::new(), Vec::new());
        for partition in 0..ports.output.partitions() {
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
            load_queues(&*store, partition, &destinations)?;
            cursors.push(AtomicU64::new(cursor.map_or(0, |cursor| cursor.next)));
            began_at.push(end);
        }
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

    /// Events that wait, over all servers, and servers whose last transaction failed.
    pub fn counts(&self) -> (u64, u64) {
        let all = self.destinations.all();
        let states = all.iter().map(|destination| {
            let state = destination.state();
            (state.waiting(), u64::from(state.failures > 0))
        });
        states.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    fn fold_group(&self, partition: PartitionId, records: &[LogRecord]) -> Result<(), ReaderError> {
        let Some(last) = records.last() else {
            return Ok(());
        };
        let next = last.offset + 1;
        let mut group = Group {
            partition,
            rows: Overlay::new(&*self.ports.store),
            server_name: &self.ports.server_name,
            destinations: &self.destinations,
            federated: &self.federated,
            receipts_from: self.began_at.get(partition as usize).copied().unwrap_or(0),
            news: News::default(),
        };
        for record in records {
            group.fold(record)?;
        }
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
        Ok(())
    }

    /// Tells destinations what is in the tables for them by now.
    fn spread(&self, partition: PartitionId, news: News) -> Result<(), QueryError> {
        for (server, about, said) in news.receipts {
            let destination = self.destinations.of(&server)?;
            destination.state().edus.add(about, said);
            self.destinations.call(&destination);
        }
        for (destination, added) in news.queued.into_values() {
            destination.state().line(partition).waiting += added;
            self.destinations.call(&destination);
        }
        Ok(())
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
        self.fold_group(partition, records)
    }
}

/// Counts what waits for whom. Rows that were acknowledged are of before a crash,
/// and removed.
fn load_queues(
    store: &dyn Write,
    partition: PartitionId,
    destinations: &Destinations,
) -> Result<(), OpenError> {
    let mut waiting: BTreeMap<String, u64> = BTreeMap::new();
    let mut stale: Vec<Vec<u8>> = Vec::new();
    let mut current: Option<Arc<Destination>> = None;
    let prefix = rows::partition_key(partition);
    let mut failed = None;
    scan(store, SENDER_QUEUE, prefix.as_bytes(), |key, _| {
        let (server, at) = rows::queued_at(key)?;
        let known = current.take().filter(|known| known.name == server);
        let destination = match known {
            Some(known) => known,
            None => match destinations.of(&rows::server_name(SENDER_QUEUE, server)?) {
                Ok(destination) => destination,
                Err(error) => {
                    failed.get_or_insert(error);
                    return Ok(());
                }
            },
        };
        match destination.state().line(partition).has(at) {
            true => stale.push(key.to_vec()),
            false => *waiting.entry(server.to_owned()).or_default() += 1,
        }
        current = Some(destination);
        Ok(())
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let mut rows = Overlay::new(store);
    for key in &stale {
        rows.delete(SENDER_QUEUE, key);
    }
    store.write(rows.into_writes())?;
    for (server, waiting) in waiting {
        let server = <&ServerName>::try_from(server.as_str());
        if let Ok(server) = server {
            let destination = destinations.of(server)?;
            destination.state().line(partition).waiting = waiting;
            destinations.call(&destination);
        }
    }
    Ok(())
}
