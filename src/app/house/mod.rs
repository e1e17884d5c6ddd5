//! Builds the house: opens what is on disk in the one right order, and gives
//! each part its ports.
//!
//! [`disk`] opens store and logs, [`readers`] what follows *output*, [`others`]
//! the writers that speak with other servers, [`settings`] is what the doors
//! need of the configuration. The order is that of log.md, settled rule 2:
//! lock, disk, fold what is missing, let the readers catch up. Doors are opened
//! by the caller afterwards.

mod disk;
mod others;
mod readers;
mod settings;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use self::disk::Opened;
use self::others::Others;
use self::readers::{Following, Readers};
use super::data_dir::{DataDir, DataDirLock};
use super::exit::Exit;
use super::foundation::{self, Tables};
use super::momentary::Momentary;
use super::outbound;
use super::rooms::Desk;
use super::space::Space;
use crate::api::{Api, ApiState, Ports as ApiPorts};
use crate::clock;
use crate::config::Config;
use crate::crypto::signing_key::ServerKey;
use crate::logs::log::Log;
use crate::logs::{EphemeralLog, InputLog};
use crate::projectors::output_log::{EmbeddedOutput, OutputLog as OutputPort};
use crate::projectors::receiptserver::ReceiptAnswers;
use crate::projectors::roomserver::RoomTables;
use crate::projectors::run::{Parts, Projection, SnapshotSchedule};
use crate::projectors::userserver::UserAnswers;
use crate::query::tokens::Epoch;
use crate::storage::open::Store;
use crate::writers::client::accounts::Accounts;
use crate::writers::client::follow_ups;
use crate::writers::client::room_purge::RoomPurger;
use crate::writers::federation::missing::MissingEvents;
use crate::writers::room_work::RoomWork;
use crate::writers::submit::Submitter;

/// How long a stop waits for what is left to be folded, which does not come to
/// an end on a full disk.
const FOLD_AT_STOP_MAX: Duration = Duration::from_secs(10);

/// Everything but the doors, running.
pub struct House {
    pub api: ApiState,
    pub input: Arc<InputLog>,
    pub ephemeral: Arc<EphemeralLog>,
    pub output: Arc<dyn OutputPort>,
    pub store: Arc<Store>,
    pub projection: Arc<Projection>,
    pub readers: Readers,
    pub data_dir: DataDir,
    pub space: Arc<Space>,
    /// Answers the operator's questions about rooms.
    pub rooms: Arc<Desk>,
    /// Purges rooms for the operator.
    pub purger: RoomPurger,
    following: Following,
    /// Tasks of the writers: they may be ended at any point, as by a crash.
    writing: Vec<JoinHandle<()>>,
    /// Of what is true for minutes.
    momentary: Vec<JoinHandle<()>>,
    snapshot_at_stop: bool,
    /// Last: released once everything else is closed.
    _lock: DataDirLock,
}

impl House {
    /// Opens the data folder and returns once everything durable is folded and
    /// visible to readers.
    pub async fn open(config: &Config) -> Result<House, Exit> {
        let identity = &config.identity;
        let (data_dir, lock) = DataDir::open(&identity.data_dir, &identity.server_name)?;
        House::open_locked(config, data_dir, lock).await
    }

    /// The same, of a folder that the caller has locked.
    pub async fn open_locked(
        config: &Config,
        data_dir: DataDir,
        lock: DataDirLock,
    ) -> Result<House, Exit> {
        let signing = Arc::new(key(&data_dir.signing_key())?);
        let checkpoint = key(&data_dir.checkpoint_key())?;
        let opened = {
            let (config, data_dir) = (config.clone(), data_dir.clone());
            let open = move || disk::open(&config, &data_dir, &checkpoint);
            spawn_blocking(open).await.map_err(|_| panicked())??
        };
        let folded: Arc<dyn Log> = opened.input.clone();
        let tables = Tables::load(config, &opened.store, &folded, opened.input.log_id())?;
        let projection = project(config, &data_dir, &opened, &tables)?;
        catch_up(&projection).await?;
        let Opened {
            input,
            ephemeral,
            output,
            output_id,
            store,
        } = opened;
        let (rooms, partitions) = (tables.rooms.clone(), input.partitions());
        let users = Arc::new(UserAnswers::new(
            store.clone(),
            tables.sessions.clone(),
            rooms.clone(),
            partitions,
        ));
        let receipts = Arc::new(ReceiptAnswers::new(store.clone(), partitions));
        let momentary = Momentary::new(config, &ephemeral, &rooms);
        let client = outbound::federation_client(config, signing.clone())?;
        let ground = readers::Ground {
            store: store.clone(),
            rooms: rooms.clone(),
            users: users.clone(),
            receipts: receipts.clone(),
            ephemeral: momentary.projection.clone(),
            input: input.clone(),
            output: output.clone(),
            epoch: Epoch::of_log(&output_id.0),
            server_name: config.identity.server_name.clone(),
            carrier: client.clone(),
        };
        let readers = Readers::open(config, &data_dir, &ground)?;
        let submitter = Submitter::new(input.clone(), projection.outcomes());
        let ground = others::Ground {
            store: store.clone(),
            rooms: rooms.clone(),
            submitter: submitter.clone(),
            client,
            signing: signing.clone(),
            partitions,
        };
        let others = Others::new(config, &data_dir, ground).await?;
        let missing = others.missing.clone();
        let ports = ApiPorts {
            keyring: others.keyring,
            queries: others.queries,
            remote: others.remote,
            missing: others.missing,
            policies: others.policies,
            ears: readers.sender.ears(),
            rooms: rooms.clone(),
            graph: rooms.clone(),
            users,
            receipts,
            relations: readers.relations.clone(),
            submitter: submitter.clone(),
            typing_setter: momentary.typing.clone(),
            presence_setter: momentary.presence.clone(),
            remote_presence: momentary.remote_presence.clone(),
            ephemeral: momentary.projection.clone(),
            signing_key: signing,
            sync_positions: readers.sync.clone(),
            sync: readers.sync.clone(),
            search: readers.search.clone(),
            user_directory: readers.user_directory.clone(),
        };
        let api = Api::new(ports, settings::of(config));
        let purger = RoomPurger::new(api.room_writer.clone(), rooms.clone());
        let work = RoomWork::new(Arc::new(rooms.clone()), submitter);
        let mut writing = follow_output(&api, &missing, &output);
        writing.push(tokio::spawn(work.run()));
        writing.push(tokio::spawn(purger.clone().run()));
        let house = House {
            space: Arc::new(Space::open(
                store.clone(),
                output.clone(),
                output_id,
                data_dir.space(),
            )),
            rooms: desk(config, rooms, &store, &projection, partitions),
            following: readers.follow(&output),
            momentary: momentary.run(&readers.sync, &output),
            snapshot_at_stop: config.snapshots.at_stop,
            api,
            input,
            ephemeral,
            output,
            store,
            projection,
            readers,
            data_dir,
            purger,
            writing,
            _lock: lock,
        };
        house.following.caught_up().await?;
        Ok(house)
    }

    /// The writer of accounts, for the operator's commands.
    pub fn accounts(&self) -> &Accounts {
        &self.api.accounts
    }

    /// Resolves with the reason when a part failed that the rest cannot go on without.
    pub async fn failed(&mut self) -> Failure {
        tokio::select! {
            why = self.input.failed() => Failure::Log(why),
            error = self.projection.failed() => Failure::Part(format!("projection: {error}")),
            () = self.following.failed() => Failure::Part("a reader stopped".to_owned()),
        }
    }

    /// Leaves in order: writers drain, the log syncs, what is durable is folded,
    /// readers save their cursors, a snapshot is made.
    pub async fn close(self) -> Result<(), Exit> {
        self.momentary.iter().for_each(JoinHandle::abort);
        let (input, ephemeral) = (self.input.clone(), self.ephemeral.clone());
        let close = move || {
            ephemeral.close();
            input.close();
        };
        spawn_blocking(close).await.map_err(|_| panicked())?;
        // What is durable and not folded yet is folded at the next start.
        let folded = timeout(FOLD_AT_STOP_MAX, async {
            catch_up(&self.projection).await?;
            self.following.caught_up().await
        });
        let caught_up = folded.await.unwrap_or_else(|_| {
            tracing::warn!("stopping with records that are left to be folded");
            Ok(())
        });
        self.writing.iter().for_each(JoinHandle::abort);
        self.following.close().await;
        let (projection, snapshot) = (self.projection, self.snapshot_at_stop);
        let space = self.space;
        let stop = move || {
            let stopped = projection.stop(snapshot);
            if stopped.is_ok() {
                space.leave(clock::now_us());
            }
            stopped
        };
        spawn_blocking(stop)
            .await
            .map_err(|_| panicked())?
            .map_err(|error| Exit::failed(error.to_string()))?;
        caught_up
    }

    /// Leaves after a failure: nothing more is accepted or written.
    pub async fn abandon(self) {
        self.following.cancel();
        self.writing.iter().for_each(JoinHandle::abort);
        self.momentary.iter().for_each(JoinHandle::abort);
        let (input, ephemeral, projection) = (self.input, self.ephemeral, self.projection);
        let _ = spawn_blocking(move || {
            projection.halt();
            ephemeral.close();
            input.close();
        })
        .await;
    }
}

/// Why the house cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A write or flush of *input* failed.
    Log(String),
    Part(String),
}

fn key(path: &Path) -> Result<ServerKey, Exit> {
    ServerKey::load_or_generate(path).map_err(|error| Exit::failed(error.to_string()))
}

fn panicked() -> Exit {
    Exit::failed("a part of the server panicked, see the log")
}

/// Starts to fold *input*.
fn project(
    config: &Config,
    data_dir: &DataDir,
    opened: &Opened,
    tables: &Tables,
) -> Result<Arc<Projection>, Exit> {
    let options = foundation::store_options(config);
    let schedule = &config.snapshots;
    let lanes = foundation::lane_count(config);
    let projection = Projection::start(Parts {
        store: opened.store.clone(),
        input: opened.input.clone(),
        output: opened.output.clone(),
        snapshots: foundation::snapshots(config, &data_dir.snapshots(), &options),
        schedule: SnapshotSchedule {
            seconds: u64::from(schedule.interval_seconds.0),
            records: u64::from(schedule.interval_records.0),
        },
        lanes: (0..opened.input.partitions())
            .map(|_| tables.lanes(lanes))
            .collect(),
    });
    let projection = projection.map_err(|error| Exit::failed(error.to_string()))?;
    Ok(Arc::new(projection))
}

async fn catch_up(projection: &Projection) -> Result<(), Exit> {
    let lag = projection.lag();
    if lag > 0 {
        tracing::info!(records = lag, "folding what the store has not seen yet");
    }
    projection.caught_up().await.map_err(|error| match error {
        Some(error) => Exit::failed(format!("projection: {error}")),
        None => Exit::failed("the projection was stopped"),
    })
}

/// Starts the writers that go on from what *output* says.
fn follow_output(
    api: &Api,
    missing: &MissingEvents,
    output: &Arc<EmbeddedOutput>,
) -> Vec<JoinHandle<()>> {
    let partitions = 0..output.partitions();
    let tasks = partitions.flat_map(|partition| {
        let rooms = api.room_writer.clone();
        let gaps = missing.clone().follow(output.clone(), partition);
        [
            tokio::spawn(follow_ups::follow(rooms, output.clone(), partition)),
            tokio::spawn(gaps),
        ]
    });
    tasks.collect()
}

fn desk(
    config: &Config,
    rooms: Arc<RoomTables>,
    store: &Arc<Store>,
    projection: &Arc<Projection>,
    partitions: u32,
) -> Arc<Desk> {
    let projection = projection.clone();
    Arc::new(Desk {
        rooms,
        store: store.clone(),
        server_name: config.identity.server_name.clone(),
        partitions,
        unfolded: Box::new(move || projection.lag()),
    })
}
