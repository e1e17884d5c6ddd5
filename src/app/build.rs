//! Builds the house: opens what is on disk in the one right order, and gives
//! each part its ports.
//!
//! The order is that of log.md, settled rule 2: lock, store (a witness of what
//! was durable), *input*, *output*, make store and *output* fit, fold what is
//! missing, let the readers catch up. Doors are opened by the caller afterwards.

use std::sync::Arc;
use std::time::Duration;

use log_format::LogId;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::data_dir::{DataDir, DataDirLock};
use super::exit::Exit;
use super::foundation::{self, Tables};
use super::momentary::Momentary;
use super::rooms::Desk;
use super::space::Space;
use super::{old_keys, outbound};
use crate::api::{
    Api, ApiState, Contact, Ports as ApiPorts, Registration, Settings, Support, Turn,
};
use crate::clock;
use crate::config::Config;
use crate::crypto::random;
use crate::crypto::signing_key::ServerKey;
use crate::logs::log::Log;
use crate::logs::{EphemeralLog, InputLog, OutputLog};
use crate::projectors::deliveryserver::DeliveryAnswers;
use crate::projectors::keyserver::KeyAnswers;
use crate::projectors::output_log::{EmbeddedOutput, OutputLog as OutputPort};
use crate::projectors::receiptserver::ReceiptAnswers;
use crate::projectors::run::{Parts, Projection, SnapshotSchedule, epoch};
use crate::projectors::start::{Report, fit, open_store, witnesses};
use crate::projectors::userserver::UserAnswers;
use crate::query::begun_states::BegunStates;
use crate::query::tokens::Epoch;
use crate::readers::client_search::{self, ClientSearch, Ports as SearchPorts};
use crate::readers::client_sync::{ClientSync, Ports as SyncPorts};
use crate::readers::federation_sender::time::WallClock;
use crate::readers::federation_sender::{FederationSender, Ports as SenderPorts};
use crate::readers::relations::EventRelations;
use crate::readers::run::{Reader, ReaderError, spawn};
use crate::readers::user_directory::{Ports as DirectoryPorts, UserDirectory};
use crate::storage::open::Store;
use crate::storage::overlay::StoreError;
use crate::writers::client::accounts::Accounts;
use crate::writers::client::follow_ups;
use crate::writers::client::room_purge::RoomPurger;
use crate::writers::federation::given_state::GivenStates;
use crate::writers::federation::keyring::{Keyring, Parts as KeyringParts};
use crate::writers::federation::missing::{MissingEvents, Parts as MissingParts};
use crate::writers::federation::own_keys::OwnKeys;
use crate::writers::federation::pdu_checks::PduChecks;
use crate::writers::federation::policy_servers::PolicyServers;
use crate::writers::federation::queries::Queries;
use crate::writers::federation::remote_rooms::{Parts as RemoteParts, RemoteRooms};
use crate::writers::room_work::RoomWork;
use crate::writers::submit::Submitter;

/// How often a reader that catches up is looked at.
const CATCH_UP_POLL: Duration = Duration::from_millis(2);

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
    pub sync: Arc<ClientSync>,
    /// None where messages are not indexed.
    pub search: Option<Arc<ClientSearch>>,
    pub user_directory: Arc<UserDirectory>,
    /// Sends nothing until it is run.
    pub sender: Arc<FederationSender>,
    pub data_dir: DataDir,
    pub space: Arc<Space>,
    /// Answers the operator's questions about rooms.
    pub rooms: Arc<Desk>,
    /// Purges rooms for the operator.
    pub purger: RoomPurger,
    stop_readers: CancellationToken,
    readers: Vec<Arc<dyn Reader>>,
    /// The tasks of the readers, one for each of them and partition.
    following: Vec<JoinHandle<Result<(), ReaderError>>>,
    /// Goes on whatever fails: the rest of the server does without search.
    search_follower: Option<JoinHandle<()>>,
    room_work: JoinHandle<()>,
    room_purges: JoinHandle<()>,
    follow_ups: Vec<JoinHandle<()>>,
    /// Of what is true for minutes.
    momentary: Vec<JoinHandle<()>>,
    snapshot_at_stop: bool,
    /// Last: released once everything else is closed.
    _lock: DataDirLock,
}

/// What lies on disk, made to fit together.
struct Opened {
    input: Arc<InputLog>,
    ephemeral: Arc<EphemeralLog>,
    output: Arc<EmbeddedOutput>,
    output_id: LogId,
    store: Arc<Store>,
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
        let signing = key(&data_dir.signing_key())?;
        let checkpoint = key(&data_dir.checkpoint_key())?;
        let opened = {
            let (config, data_dir) = (config.clone(), data_dir.clone());
            let open = move || open_disk(&config, &data_dir, &checkpoint);
            spawn_blocking(open).await.map_err(|_| panicked())??
        };
        let Opened {
            input,
            ephemeral,
            output,
            output_id,
            store,
        } = opened;
        let folded: Arc<dyn Log> = input.clone();
        let tables = Tables::load(config, &store, &folded, input.log_id())?;
        let lanes = foundation::lane_count(config);
        let options = foundation::store_options(config);
        let schedule = &config.snapshots;
        let projection = Projection::start(Parts {
            store: store.clone(),
            input: input.clone(),
            output: output.clone(),
            snapshots: foundation::snapshots(config, &data_dir.snapshots(), &options),
            schedule: SnapshotSchedule {
                seconds: u64::from(schedule.interval_seconds.0),
                records: u64::from(schedule.interval_records.0),
            },
            lanes: (0..input.partitions())
                .map(|_| tables.lanes(lanes))
                .collect(),
        });
        let projection = Arc::new(projection.map_err(|error| Exit::failed(error.to_string()))?);
        catch_up(&projection).await?;
        let rooms = tables.rooms.clone();
        let users = Arc::new(UserAnswers::new(
            store.clone(),
            tables.sessions.clone(),
            rooms.clone(),
            input.partitions(),
        ));
        let receipts = Arc::new(ReceiptAnswers::new(store.clone(), input.partitions()));
        let epoch = Epoch::of_log(&output_id.0);
        let relations = EventRelations::open(store.clone(), rooms.clone(), output.clone(), epoch);
        let relations = Arc::new(relations.map_err(store_failed)?);
        let momentary = Momentary::new(config, &ephemeral, &rooms);
        let sync = ClientSync::open(
            SyncPorts {
                store: store.clone(),
                rooms: rooms.clone(),
                users: users.clone(),
                receipts: receipts.clone(),
                relations: relations.clone(),
                ephemeral: momentary.projection.clone(),
                output: output.clone(),
            },
            config.identity.server_name.clone(),
            epoch,
            u32::from_le_bytes(random::bytes()),
        );
        let sync = Arc::new(sync.map_err(store_failed)?);
        let user_directory = UserDirectory::open(
            DirectoryPorts {
                store: store.clone(),
                rooms: rooms.clone(),
                users: users.clone(),
                output: output.clone(),
            },
            config.identity.server_name.clone(),
            epoch,
        );
        let user_directory = Arc::new(user_directory.map_err(store_failed)?);
        let search = match config.search.enabled {
            false => None,
            true => Some(open_search(SearchPorts {
                rooms: rooms.clone(),
                users: users.clone(),
                output: output.clone(),
                folder: data_dir.search(),
                epoch,
            })?),
        };
        let desk = {
            let projection = projection.clone();
            Arc::new(Desk {
                rooms: rooms.clone(),
                store: store.clone(),
                server_name: config.identity.server_name.clone(),
                partitions: input.partitions(),
                unfolded: Box::new(move || projection.lag()),
            })
        };
        let submitter = Submitter::new(input.clone(), projection.outcomes());
        let signing = Arc::new(signing);
        let client = outbound::federation_client(config, signing.clone())?;
        let keyring = Arc::new(Keyring::new(KeyringParts {
            own: Arc::new(OwnKeys {
                server: config.identity.server_name.clone(),
                current: signing.clone(),
                old: old_keys::load(&data_dir.old_keys())?,
            }),
            stored: Arc::new(KeyAnswers::new(store.clone(), input.partitions())),
            client: client.clone(),
            submitter: submitter.clone(),
            notaries: config.federation.notaries.clone(),
        }));
        let checks = PduChecks::new(keyring.clone());
        let given = GivenStates::new(checks.clone(), rooms.clone(), submitter.clone());
        close_given_states(&given, &*rooms).await;
        let sender = FederationSender::open(SenderPorts {
            store: store.clone(),
            rooms: rooms.clone(),
            deliveries: Arc::new(DeliveryAnswers::new(store.clone(), input.partitions())),
            ephemeral: momentary.projection.clone(),
            output: output.clone(),
            input: input.clone(),
            carrier: client.clone(),
            server_name: config.identity.server_name.clone(),
            epoch,
            time: Arc::new(WallClock),
        });
        let sender = sender.map_err(|error| Exit::failed(format!("federation sender: {error}")))?;
        let sender = Arc::new(sender);
        let policies = PolicyServers::new(rooms.clone(), client.clone());
        let missing = MissingEvents::new(MissingParts {
            own: config.identity.server_name.clone(),
            rooms: rooms.clone(),
            client: client.clone(),
            checks,
            given,
            policies: policies.clone(),
            submitter: submitter.clone(),
        });
        let ports = ApiPorts {
            remote: RemoteRooms::new(RemoteParts {
                client: client.clone(),
                keyring: keyring.clone(),
                rooms: rooms.clone(),
                submitter: submitter.clone(),
            }),
            keyring,
            queries: Queries::new(client),
            ears: sender.ears(),
            missing: missing.clone(),
            policies,
            rooms,
            graph: tables.rooms.clone(),
            users,
            receipts,
            relations: relations.clone(),
            submitter: submitter.clone(),
            typing_setter: momentary.typing.clone(),
            presence_setter: momentary.presence.clone(),
            remote_presence: momentary.remote_presence.clone(),
            ephemeral: momentary.projection.clone(),
            signing_key: signing,
            sync_positions: sync.clone(),
            sync: sync.clone(),
            search: search.clone(),
            user_directory: user_directory.clone(),
        };
        let work = RoomWork::new(Arc::new(tables.rooms.clone()), submitter.clone());
        let api = Api::new(ports, settings(config));
        let purger = RoomPurger::new(api.room_writer.clone(), tables.rooms.clone());
        let stop_readers = CancellationToken::new();
        let follow_ups = (0..output.partitions())
            .flat_map(|partition| {
                let rooms = api.room_writer.clone();
                let gaps = missing.clone().follow(output.clone(), partition);
                [
                    tokio::spawn(follow_ups::follow(rooms, output.clone(), partition)),
                    tokio::spawn(gaps),
                ]
            })
            .collect();
        let readers: Vec<Arc<dyn Reader>> = vec![
            sync.clone(),
            relations,
            user_directory.clone(),
            sender.clone(),
        ];
        let follow: Arc<dyn Log> = output.clone();
        let following = readers
            .iter()
            .flat_map(|reader| spawn(reader, &follow, &stop_readers))
            .collect();
        let (counted, space_file) = (output.clone(), data_dir.space());
        let space = Arc::new(Space::open(store.clone(), counted, output_id, space_file));
        let momentary = momentary.run(&sync, &output);
        let house = House {
            space,
            rooms: desk,
            readers,
            following,
            search_follower: search
                .as_ref()
                .map(|search| client_search::spawn(search, &stop_readers)),
            search,
            user_directory,
            sender,
            api,
            input,
            ephemeral,
            output,
            store,
            projection,
            sync,
            data_dir,
            stop_readers,
            room_work: tokio::spawn(work.run()),
            room_purges: tokio::spawn(purger.clone().run()),
            purger,
            follow_ups,
            momentary,
            snapshot_at_stop: schedule.at_stop,
            _lock: lock,
        };
        house.readers_caught_up().await?;
        Ok(house)
    }

    /// The writer of accounts, for the operator's commands.
    pub fn accounts(&self) -> &Accounts {
        &self.api.accounts
    }

    /// Waits until the readers show all of *output*: after a restart everything
    /// that was acknowledged must be visible to the first request.
    async fn readers_caught_up(&self) -> Result<(), Exit> {
        for partition in 0..self.output.partitions() {
            let end = self.output.end(partition);
            let behind = |reader: &Arc<dyn Reader>| reader.cursor(partition) < end;
            while self.readers.iter().any(behind) {
                if self.following.iter().any(JoinHandle::is_finished) {
                    return Err(Exit::failed("a reader stopped, see the log"));
                }
                tokio::time::sleep(CATCH_UP_POLL).await;
            }
        }
        Ok(())
    }

    /// Resolves with the reason when a part failed that the rest cannot go on without.
    pub async fn failed(&mut self) -> Failure {
        let readers = futures_util::future::select_all(self.following.iter_mut());
        tokio::select! {
            why = self.input.failed() => Failure::Log(why),
            error = self.projection.failed() => Failure::Part(format!("projection: {error}")),
            _ = readers => Failure::Part("a reader stopped".to_owned()),
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
            self.readers_caught_up().await
        });
        let caught_up = folded.await.unwrap_or_else(|_| {
            tracing::warn!("stopping with records that are left to be folded");
            Ok(())
        });
        self.stop_readers.cancel();
        self.room_work.abort();
        self.room_purges.abort();
        self.follow_ups.iter().for_each(JoinHandle::abort);
        for reader in self.following {
            // A reader that failed has said so, and is rebuilt from its cursor.
            let _ = reader.await;
        }
        if let Some(follower) = self.search_follower {
            // One that panicked has said so; the index is brought up at the next start.
            let _ = follower.await;
        }
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
        self.stop_readers.cancel();
        self.room_work.abort();
        self.room_purges.abort();
        self.follow_ups.iter().for_each(JoinHandle::abort);
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

/// Drops the states that the process before began to give: nobody goes on with
/// them. What fails is done at the next start.
async fn close_given_states(given: &GivenStates, rooms: &impl BegunStates) {
    let closed = match rooms.begun_states() {
        Ok(begun) => given.close(begun).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = closed {
        tracing::warn!(%error, "states that were given in part are kept");
    }
}

/// Why the house cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A write or flush of *input* failed.
    Log(String),
    Part(String),
}

fn key(path: &std::path::Path) -> Result<ServerKey, Exit> {
    ServerKey::load_or_generate(path).map_err(|error| Exit::failed(error.to_string()))
}

fn store_failed(error: StoreError) -> Exit {
    Exit::failed(format!("store: {error}"))
}

fn open_search(ports: SearchPorts) -> Result<Arc<ClientSearch>, Exit> {
    let opened = ClientSearch::open(ports);
    let search = opened.map_err(|error| Exit::failed(format!("search index: {error}")))?;
    Ok(Arc::new(search))
}

fn panicked() -> Exit {
    Exit::failed("a part of the server panicked, see the log")
}

/// Opens store and logs and makes them fit. Blocks.
fn open_disk(config: &Config, data_dir: &DataDir, key: &ServerKey) -> Result<Opened, Exit> {
    let failed = |error: &dyn std::fmt::Display| Exit::failed(error.to_string());
    let folders = foundation::folders(data_dir);
    let options = foundation::store_options(config);
    let snapshots = foundation::snapshots(config, &data_dir.snapshots(), &options);
    let log_settings = foundation::log_settings(config, data_dir, Some(key));
    let mut report = Report::default();
    let store = open_store(&folders, &options, &mut report).map_err(|error| failed(&error))?;
    let known: Vec<_> = witnesses(&store, config.log.partitions.0)
        .into_iter()
        .map(|applied| applied.map(foundation::witness))
        .collect();
    let (input, recoveries) =
        InputLog::open(&log_settings, &known).map_err(|error| foundation::log_exit(&error))?;
    for (partition, recovery) in recoveries.iter().enumerate() {
        foundation::report_recovery(partition, recovery);
    }
    let ephemeral =
        EphemeralLog::open(&log_settings).map_err(|error| foundation::log_exit(&error))?;
    let (output, _) = OutputLog::open(&log_settings, input.log_id(), epoch())
        .map_err(|error| foundation::log_exit(&error))?;
    let output_id = output.log_id();
    let output = EmbeddedOutput::new(Arc::new(output));
    let store = fit(
        store,
        &folders,
        &options,
        Some(&snapshots),
        &input,
        &output,
        &mut report,
    )
    .map_err(|error| failed(&error))?;
    for note in &report.notes {
        tracing::warn!("{note}");
    }
    if report.completed > 0 {
        tracing::info!(
            records = report.completed,
            "output completed from the store"
        );
    }
    Ok(Opened {
        input: Arc::new(input),
        ephemeral: Arc::new(ephemeral),
        output: Arc::new(output),
        output_id,
        store,
    })
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

/// What the doors need of the configuration.
fn settings(config: &Config) -> Settings {
    let mut settings = Settings::new(config.identity.server_name.clone());
    settings.public_base_url = config.client.public_url.clone();
    let registration = &config.registration;
    settings.registration = Registration {
        open: registration.open,
        token: registration
            .token
            .as_ref()
            .map(|token| token.expose().to_owned()),
        guests: registration.guests,
    };
    settings.turn = turn(config);
    settings.support = support(config);
    settings.serves_public_rooms = config.federation.public_rooms;
    settings.delegated_to = config.federation.delegate_to.clone();
    settings.default_room_version = config.rooms.default_version.clone();
    settings.access_token_lifetime =
        Duration::from_secs(u64::from(config.client.access_token_seconds.0));
    settings.rate_limits_enabled = config.rate_limits.enabled;
    settings.trust_forwarded_for = config.client.trust_forwarded_for;
    if let Some(contact) = &config.identity.admin_contact {
        settings.admin_contact = contact.clone();
    }
    settings
}

/// The TURN server, if one is configured whole.
fn turn(config: &Config) -> Option<Turn> {
    let (turn, secret) = (&config.turn, config.turn.secret.as_ref()?);
    (!turn.uris.is_empty()).then(|| Turn {
        uris: turn.uris.clone(),
        secret: secret.expose().to_owned(),
        lifetime: Duration::from_secs(u64::from(turn.user_lifetime.0)),
    })
}

fn support(config: &Config) -> Support {
    let support = &config.support;
    let contact = |role, matrix_id: &Option<String>, email: &Option<String>| {
        (matrix_id.is_some() || email.is_some()).then(|| Contact {
            role,
            matrix_id: matrix_id.clone(),
            email: email.clone(),
        })
    };
    let (admin, security) = (
        contact(
            "m.role.admin",
            &support.admin_matrix_id,
            &support.admin_email,
        ),
        contact(
            "m.role.security",
            &support.security_matrix_id,
            &support.security_email,
        ),
    );
    Support {
        page: support.page.clone(),
        contacts: admin.into_iter().chain(security).collect(),
    }
}
