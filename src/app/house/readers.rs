//! The readers of *output*: opened over the store, followed, and stopped together.

use std::sync::Arc;
use std::time::Duration;

use ruma::OwnedServerName;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::data_dir::DataDir;
use crate::app::exit::Exit;
use crate::config::Config;
use crate::crypto::random;
use crate::logs::InputLog;
use crate::logs::log::Log;
use crate::outbound::federation::FederationClient;
use crate::projectors::deliveryserver::DeliveryAnswers;
use crate::projectors::ephemeral::EphemeralProjection;
use crate::projectors::output_log::EmbeddedOutput;
use crate::projectors::receiptserver::ReceiptAnswers;
use crate::projectors::roomserver::RoomTables;
use crate::projectors::userserver::UserAnswers;
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

/// How often a reader that catches up is looked at.
const CATCH_UP_POLL: Duration = Duration::from_millis(2);

/// What readers stand on.
pub struct Ground {
    pub store: Arc<Store>,
    pub rooms: Arc<RoomTables>,
    pub users: Arc<UserAnswers>,
    pub receipts: Arc<ReceiptAnswers>,
    pub ephemeral: Arc<EphemeralProjection>,
    pub input: Arc<InputLog>,
    pub output: Arc<EmbeddedOutput>,
    pub epoch: Epoch,
    pub server_name: OwnedServerName,
    /// Carries transactions to other servers.
    pub carrier: Arc<FederationClient>,
}

/// The readers, each at its cursor.
#[derive(Clone)]
pub struct Readers {
    pub sync: Arc<ClientSync>,
    pub relations: Arc<EventRelations>,
    pub user_directory: Arc<UserDirectory>,
    /// None where messages are not indexed.
    pub search: Option<Arc<ClientSearch>>,
    /// Sends nothing until it is run.
    pub sender: Arc<FederationSender>,
}

impl Readers {
    /// Opens their tables; nothing is read of *output* yet.
    pub fn open(config: &Config, data_dir: &DataDir, ground: &Ground) -> Result<Readers, Exit> {
        let relations = Arc::new(
            EventRelations::open(
                ground.store.clone(),
                ground.rooms.clone(),
                ground.output.clone(),
                ground.epoch,
            )
            .map_err(store_failed)?,
        );
        Ok(Readers {
            sync: open_sync(ground, &relations)?,
            user_directory: open_directory(ground)?,
            search: match config.search.enabled {
                false => None,
                true => Some(open_search(ground, data_dir)?),
            },
            sender: open_sender(ground)?,
            relations,
        })
    }

    /// Those that the server cannot do without. Search is none of them.
    fn needed(&self) -> Vec<Arc<dyn Reader>> {
        vec![
            self.sync.clone(),
            self.relations.clone(),
            self.user_directory.clone(),
            self.sender.clone(),
        ]
    }

    /// Starts to follow *output*.
    pub fn follow(&self, output: &Arc<EmbeddedOutput>) -> Following {
        let stop = CancellationToken::new();
        let readers = self.needed();
        let log: Arc<dyn Log> = output.clone();
        let tasks = readers
            .iter()
            .flat_map(|reader| spawn(reader, &log, &stop))
            .collect();
        let search = self.search.as_ref();
        Following {
            output: log,
            readers,
            tasks,
            search: search.map(|search| client_search::spawn(search, &stop)),
            stop,
        }
    }
}

/// Readers that follow *output*.
pub struct Following {
    output: Arc<dyn Log>,
    readers: Vec<Arc<dyn Reader>>,
    /// One for each reader and partition.
    tasks: Vec<JoinHandle<Result<(), ReaderError>>>,
    /// Goes on whatever fails: the rest of the server does without search.
    search: Option<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Following {
    /// Waits until the readers show all of *output*: after a restart everything
    /// that was acknowledged must be visible to the first request.
    pub async fn caught_up(&self) -> Result<(), Exit> {
        for partition in 0..self.output.partitions() {
            let end = self.output.end(partition);
            let behind = |reader: &Arc<dyn Reader>| reader.cursor(partition) < end;
            while self.readers.iter().any(behind) {
                if self.tasks.iter().any(JoinHandle::is_finished) {
                    return Err(Exit::failed("a reader stopped, see the log"));
                }
                tokio::time::sleep(CATCH_UP_POLL).await;
            }
        }
        Ok(())
    }

    /// Resolves when a reader ended that the server cannot do without.
    pub async fn failed(&mut self) {
        let _ = futures_util::future::select_all(self.tasks.iter_mut()).await;
    }

    /// Has them end after the group that they fold, without waiting for it.
    pub fn cancel(&self) {
        self.stop.cancel();
    }

    /// Ends them: each saves its cursor.
    pub async fn close(self) {
        self.stop.cancel();
        for task in self.tasks {
            // A reader that failed has said so, and is rebuilt from its cursor.
            let _ = task.await;
        }
        if let Some(search) = self.search {
            // One that panicked has said so; the index is brought up at the next start.
            let _ = search.await;
        }
    }
}

fn open_sync(ground: &Ground, relations: &Arc<EventRelations>) -> Result<Arc<ClientSync>, Exit> {
    let ports = SyncPorts {
        store: ground.store.clone(),
        rooms: ground.rooms.clone(),
        users: ground.users.clone(),
        receipts: ground.receipts.clone(),
        relations: relations.clone(),
        ephemeral: ground.ephemeral.clone(),
        output: ground.output.clone(),
    };
    let boot = u32::from_le_bytes(random::bytes());
    let sync = ClientSync::open(ports, ground.server_name.clone(), ground.epoch, boot);
    Ok(Arc::new(sync.map_err(store_failed)?))
}

fn open_directory(ground: &Ground) -> Result<Arc<UserDirectory>, Exit> {
    let ports = DirectoryPorts {
        store: ground.store.clone(),
        rooms: ground.rooms.clone(),
        users: ground.users.clone(),
        output: ground.output.clone(),
    };
    let directory = UserDirectory::open(ports, ground.server_name.clone(), ground.epoch);
    Ok(Arc::new(directory.map_err(store_failed)?))
}

fn open_search(ground: &Ground, data_dir: &DataDir) -> Result<Arc<ClientSearch>, Exit> {
    let search = ClientSearch::open(SearchPorts {
        rooms: ground.rooms.clone(),
        users: ground.users.clone(),
        output: ground.output.clone(),
        folder: data_dir.search(),
        epoch: ground.epoch,
    });
    let search = search.map_err(|error| Exit::failed(format!("search index: {error}")))?;
    Ok(Arc::new(search))
}

fn open_sender(ground: &Ground) -> Result<Arc<FederationSender>, Exit> {
    let partitions = ground.input.partitions();
    let sender = FederationSender::open(SenderPorts {
        store: ground.store.clone(),
        rooms: ground.rooms.clone(),
        deliveries: Arc::new(DeliveryAnswers::new(ground.store.clone(), partitions)),
        ephemeral: ground.ephemeral.clone(),
        output: ground.output.clone(),
        input: ground.input.clone(),
        carrier: ground.carrier.clone(),
        server_name: ground.server_name.clone(),
        epoch: ground.epoch,
        time: Arc::new(WallClock),
    });
    let sender = sender.map_err(|error| Exit::failed(format!("federation sender: {error}")))?;
    Ok(Arc::new(sender))
}

fn store_failed(error: StoreError) -> Exit {
    Exit::failed(format!("store: {error}"))
}
