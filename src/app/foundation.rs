//! What the serving house and `engram replay` both stand on: options made from
//! the configuration, and the lanes over a store.

use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;

use log_format::{LogId, Recovery, SyncMode, Witness};

use super::data_dir::DataDir;
use super::exit::{Exit, FAILED, IN_USE, LOG_DAMAGED, USAGE};
use crate::config::Config;
use crate::config::values::ByteSize;
use crate::crypto::signing_key::ServerKey;
use crate::logs::log::Log;
use crate::logs::{LogSettings, OpenLogError};
use crate::projectors::aliasserver::AliasProjector;
use crate::projectors::applied::Applied;
use crate::projectors::deliveryserver::DeliveryProjector;
use crate::projectors::keyserver::KeyProjector;
use crate::projectors::lanes::Lane;
use crate::projectors::receiptserver::ReceiptProjector;
use crate::projectors::roomserver::{RoomServer, RoomServerOptions, RoomTables};
use crate::projectors::snapshots::Snapshots;
use crate::projectors::start::Folders;
use crate::projectors::userserver::{Sessions, UserProjector};
use crate::storage::open::{Store, StoreOptions};

/// Lanes beyond this do not help: what remains serial (the merge, the store's
/// batch, *output*) takes the rest of the time.
const LANES_MAX: usize = 8;

/// How often a store is opened anew that changed while it was being opened.
const OPEN_ATTEMPTS: u32 = 5;

/// How the logs are opened.
pub fn log_settings(config: &Config, data_dir: &DataDir, key: Option<&ServerKey>) -> LogSettings {
    let log = &config.log;
    let mut settings = LogSettings::new(
        &data_dir.logs(),
        log.partitions.0,
        log.segment_bytes.0,
        log.reserve_bytes.0,
    );
    settings.checkpoint_key = key.map(|key| key.signing_key().clone());
    settings.synced_marker = log.synced_marker;
    if !log.sync {
        tracing::warn!("UNSAFE: log.sync is off, a power cut loses acknowledged messages");
        settings.sync = SyncMode::Off;
    }
    settings
}

fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

/// How the store is opened.
pub fn store_options(config: &Config) -> StoreOptions {
    let store = &config.store;
    StoreOptions {
        block_cache_bytes: bytes(store.cache_bytes),
        memtable_bytes: bytes(store.memtable_bytes),
        flush_interval_us: u64::from(store.flush_seconds.0) * 1_000_000,
        ..StoreOptions::default()
    }
}

/// Opens the store without a lock. A running server may remove files while they
/// are being opened; then it is tried again.
pub fn open_beside(data_dir: &DataDir, options: &StoreOptions) -> Result<Store, Exit> {
    let options = StoreOptions {
        // All files are opened at once, so that none can vanish later.
        open_files_max: -1,
        ..options.clone()
    };
    let mut attempt = 1;
    loop {
        match Store::open_read_only(&data_dir.store(), &options) {
            Ok(store) => return Ok(store),
            Err(error) if attempt == OPEN_ATTEMPTS => return Err(Exit::failed(error.to_string())),
            Err(_) => attempt += 1,
        }
    }
}

/// Where the store lies.
pub fn folders(data_dir: &DataDir) -> Folders {
    Folders {
        store: data_dir.store(),
        snapshots: data_dir.snapshots(),
    }
}

/// The snapshots of the store.
pub fn snapshots(config: &Config, folder: &Path, options: &StoreOptions) -> Snapshots {
    let keep = config.snapshots.keep.0 as usize;
    Snapshots::new(folder, keep, options, config.log.partitions.0)
}

/// What the store proves about *input*: that it was durable up to there.
pub fn witness(applied: Applied) -> Witness {
    Witness {
        end: applied.input_end,
        link: Some(applied.input_link),
    }
}

/// What is shared by all lanes over one store.
pub struct Tables {
    pub rooms: Arc<RoomTables>,
    pub sessions: Arc<Sessions>,
}

impl Tables {
    /// Loads what is held in memory.
    /// `log_id` is that of *input*.
    pub fn load(
        config: &Config,
        store: &Arc<Store>,
        input: &Arc<dyn Log>,
        log_id: LogId,
    ) -> Result<Tables, Exit> {
        let partitions = config.log.partitions.0;
        let sessions = Sessions::load(store, partitions)
            .map_err(|error| Exit::failed(format!("store: {error}")))?;
        let caches = &config.caches;
        let options = RoomServerOptions {
            heads_bytes: bytes(caches.heads_bytes),
            events_bytes: bytes(caches.events_bytes),
            auth_events_bytes: bytes(caches.auth_events_bytes),
            ..RoomServerOptions::default()
        };
        Ok(Tables {
            rooms: RoomTables::new(store.clone(), input.clone(), &log_id.0, &options),
            sessions: Arc::new(sessions),
        })
    }

    /// The lanes of one partition.
    pub fn lanes(&self, count: usize) -> Vec<Lane> {
        let lane = |_| Lane {
            rooms: Box::new(RoomServer::new(self.rooms.clone())),
            users: Box::new(UserProjector::new(self.sessions.clone())),
            aliases: Box::new(AliasProjector),
            receipts: Box::new(ReceiptProjector::default()),
            keys: Box::new(KeyProjector),
            deliveries: Box::new(DeliveryProjector),
        };
        (0..count).map(lane).collect()
    }
}

/// How many lanes a partition has.
pub fn lane_count(config: &Config) -> usize {
    match config.log.lanes.0 {
        0 => available_parallelism()
            .map_or(1, usize::from)
            .min(LANES_MAX),
        lanes => lanes as usize,
    }
}

/// Says what recovery found, where it is not simply clean.
pub fn report_recovery(partition: usize, recovery: &Recovery) {
    match recovery {
        Recovery::Torn {
            end,
            cut_bytes,
            quarantine,
        } => tracing::warn!(
            partition,
            end,
            cut_bytes,
            quarantine = %quarantine.display(),
            "the tail of input was never acknowledged, and was cut off and kept aside"
        ),
        Recovery::Clean { end } => tracing::debug!(partition, end, "input is clean"),
    }
}

/// A log that does not open is damaged, unless something else stands in the way.
pub fn log_exit(error: &OpenLogError) -> Exit {
    use log_format::OpenError;
    let code = match error {
        OpenLogError::Partition { source, .. } | OpenLogError::Root(source) => match source {
            OpenError::Corrupt(_) | OpenError::Refused { .. } => LOG_DAMAGED,
            OpenError::Locked(_) => IN_USE,
            OpenError::Io { .. } => FAILED,
        },
        OpenLogError::Read(_) => LOG_DAMAGED,
        OpenLogError::Partitions { .. } => USAGE,
        OpenLogError::Marker(_) | OpenLogError::Thread(_) => FAILED,
    };
    Exit::with(code, error.to_string())
}
