//! What runs beside the house: housekeeping of the stores and of the metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};

use super::house::House;
use super::space::Space;
use crate::api::ApiState;
use crate::clock;
use crate::logs::EphemeralLog;
use crate::logs::ephemeral::PARTITION;
use crate::logs::log::Log as _;
use crate::projectors::output_log::OutputLog;
use crate::projectors::run::Projection;
use crate::query::ids::EphemeralOffset;
use crate::readers::client_search::ClientSearch;
use crate::readers::client_sync::ClientSync;
use crate::readers::federation_sender::FederationSender;
use crate::readers::run::Reader;
use crate::readers::user_directory::UserDirectory;
use crate::storage::open::Store;
use crate::telemetry::names;
use crate::writers::client::presence_setter::PresenceSetter;

/// How often the stores are looked after.
const STORES_EVERY: Duration = Duration::from_secs(1);
/// How often gathered histograms are folded together and gauges are set.
const METRICS_EVERY: Duration = Duration::from_secs(5);

/// Starts the tasks; they end when their handles are aborted.
pub fn start(house: &House, metrics: PrometheusHandle) -> Vec<JoinHandle<()>> {
    let gauges = Gauges {
        projection: house.projection.clone(),
        output: house.output.clone(),
        sync: house.readers.sync.clone(),
        search: house.readers.search.clone(),
        user_directory: house.readers.user_directory.clone(),
        sender: house.readers.sender.clone(),
        store: house.store.clone(),
        space: house.space.clone(),
        ephemeral: house.ephemeral.clone(),
        api: house.api.clone(),
    };
    vec![
        tokio::spawn(keep_ephemeral(
            house.ephemeral.clone(),
            house.api.presence_setter.clone(),
        )),
        tokio::spawn(house.readers.sender.clone().run()),
        tokio::spawn(keep_stores(house.projection.clone(), house.space.clone())),
        tokio::spawn(keep_metrics(gauges, metrics)),
    ]
}

/// Syncs *output*, flushes the store and makes snapshots when they are due.
async fn keep_stores(projection: Arc<Projection>, space: Arc<Space>) {
    let mut ticks = interval(STORES_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (projection, space) = (projection.clone(), space.clone());
        // Blocks for as long as a flush or a snapshot takes.
        let ticked = spawn_blocking(move || {
            let ticked = projection.tick(clock::now_us());
            if let Err(error) = space.write_if_flushed(clock::now_us()) {
                tracing::warn!(%error, "space.json not written");
            }
            ticked
        });
        let ticked = ticked.await;
        match ticked {
            Ok(Ok(None)) => (),
            Ok(Ok(Some(records))) => {
                metrics::counter!(names::SNAPSHOTS).increment(1);
                tracing::info!(records, "snapshot made");
            }
            // It is tried again at the next tick; nothing acknowledged depends on it.
            Ok(Err(error)) => tracing::error!(%error, "housekeeping of the store"),
            Err(error) => tracing::error!(%error, "housekeeping of the store panicked"),
        }
    }
}

/// Removes what *ephemeral* has kept for long enough, but for status messages.
async fn keep_ephemeral(log: Arc<EphemeralLog>, presence: PresenceSetter) {
    let mut ticks = interval(STORES_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(before) = log.due(Instant::now()) else {
            continue;
        };
        if let Err(error) = presence.carry_on(EphemeralOffset(before)) {
            // Nothing goes before all of them are: the next time comes soon.
            tracing::warn!(%error, "status messages were not written again");
            continue;
        }
        let log = log.clone();
        match spawn_blocking(move || log.trim(PARTITION, before)).await {
            Ok(Ok(())) => (),
            // Tried again with the next mark.
            Ok(Err(error)) => tracing::warn!(%error, "ephemeral log was not trimmed"),
            Err(error) => tracing::error!(%error, "trimming the ephemeral log panicked"),
        }
    }
}

struct Gauges {
    projection: Arc<Projection>,
    output: Arc<dyn OutputLog>,
    sync: Arc<ClientSync>,
    search: Option<Arc<ClientSearch>>,
    user_directory: Arc<UserDirectory>,
    sender: Arc<FederationSender>,
    store: Arc<Store>,
    space: Arc<Space>,
    ephemeral: Arc<EphemeralLog>,
    api: ApiState,
}

async fn keep_metrics(gauges: Gauges, handle: PrometheusHandle) {
    let mut ticks = interval(METRICS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        gauges.set();
        let space = gauges.space.clone();
        match spawn_blocking(move || space.measure()).await {
            Ok(Ok(())) => (),
            Ok(Err(error)) => tracing::warn!(%error, "output not counted"),
            Err(error) => tracing::error!(%error, "counting output panicked"),
        }
        handle.run_upkeep();
    }
}

impl Gauges {
    fn set(&self) {
        metrics::gauge!(names::PROJECTION_LAG).set(self.projection.lag() as f64);
        let behind = |reader: &dyn Reader| -> u64 {
            let partitions = 0..self.output.partitions();
            let behind = partitions.map(|partition| {
                let end = self.output.end(partition);
                end.saturating_sub(reader.cursor(partition))
            });
            behind.sum()
        };
        metrics::gauge!(names::SYNC_LAG).set(behind(&*self.sync) as f64);
        metrics::gauge!(names::DIRECTORY_LAG).set(behind(&*self.user_directory) as f64);
        metrics::gauge!(names::SENDER_LAG).set(behind(&*self.sender) as f64);
        let sending = self.sender.counts();
        metrics::gauge!(names::EVENTS_TO_SEND).set(sending.waiting as f64);
        metrics::gauge!(names::SERVERS_FAILING).set(sending.failing as f64);
        metrics::gauge!(names::DESTINATIONS).set(sending.in_memory as f64);
        if let Some(search) = &self.search {
            metrics::gauge!(names::SEARCH_LAG).set(search.behind() as f64);
        }
        metrics::gauge!(names::SYNC_WAITERS).set(self.sync.waiting() as f64);
        let queued = self.ephemeral.queued_bytes();
        metrics::gauge!(names::EPHEMERAL_QUEUED_BYTES).set(queued as f64);
        metrics::gauge!(names::TYPING_USERS).set(self.api.typing_setter.count() as f64);
        metrics::gauge!(names::PRESENT_USERS).set(self.api.presence_setter.count() as f64);
        let store = self.store.metrics();
        metrics::counter!(names::STORE_FLUSHES).absolute(store.flushes);
        metrics::gauge!(names::STORE_MEMTABLE_BYTES).set(store.memtable_bytes as f64);
        metrics::gauge!(names::STORE_CACHE_BYTES).set(store.block_cache_bytes as f64);
        metrics::gauge!(names::STORE_FILE_BYTES).set(store.table_file_bytes as f64);
    }
}
