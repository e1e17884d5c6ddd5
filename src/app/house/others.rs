//! The writers that speak with other servers, put together.

use std::sync::Arc;

use ruma::OwnedServerName;

use crate::app::data_dir::DataDir;
use crate::app::exit::Exit;
use crate::app::old_keys;
use crate::config::Config;
use crate::crypto::signing_key::ServerKey;
use crate::outbound::federation::FederationClient;
use crate::projectors::keyserver::KeyAnswers;
use crate::projectors::roomserver::RoomTables;
use crate::query::begun_states::BegunStates;
use crate::storage::open::Store;
use crate::writers::federation::given_state::GivenStates;
use crate::writers::federation::keyring::{Keyring, Parts as KeyringParts};
use crate::writers::federation::missing::{MissingEvents, Parts as MissingParts};
use crate::writers::federation::own_keys::OwnKeys;
use crate::writers::federation::pdu_checks::PduChecks;
use crate::writers::federation::policy_servers::PolicyServers;
use crate::writers::federation::queries::Queries;
use crate::writers::federation::remote_rooms::{Parts as RemoteParts, RemoteRooms};
use crate::writers::submit::Submitter;

/// What these writers stand on.
pub struct Ground {
    pub store: Arc<Store>,
    pub rooms: Arc<RoomTables>,
    pub submitter: Submitter,
    pub client: Arc<FederationClient>,
    pub signing: Arc<ServerKey>,
    /// Of *input*.
    pub partitions: u32,
}

/// The writers.
pub struct Others {
    pub keyring: Arc<Keyring>,
    pub queries: Queries,
    pub missing: MissingEvents,
    pub policies: PolicyServers,
    pub remote: RemoteRooms,
}

impl Others {
    /// Puts them together, and closes states that an earlier process left half given.
    pub async fn new(config: &Config, data_dir: &DataDir, ground: Ground) -> Result<Others, Exit> {
        let Ground {
            rooms,
            submitter,
            client,
            ..
        } = &ground;
        let server: &OwnedServerName = &config.identity.server_name;
        let keyring = Arc::new(Keyring::new(KeyringParts {
            own: Arc::new(OwnKeys {
                server: server.clone(),
                current: ground.signing.clone(),
                old: old_keys::load(&data_dir.old_keys())?,
            }),
            stored: Arc::new(KeyAnswers::new(ground.store.clone(), ground.partitions)),
            client: client.clone(),
            submitter: submitter.clone(),
            notaries: config.federation.notaries.clone(),
        }));
        let checks = PduChecks::new(keyring.clone());
        let given = GivenStates::new(checks.clone(), rooms.clone(), submitter.clone());
        close_given_states(&given, &**rooms).await;
        let policies = PolicyServers::new(rooms.clone(), client.clone());
        Ok(Others {
            queries: Queries::new(client.clone()),
            missing: MissingEvents::new(MissingParts {
                own: server.clone(),
                rooms: rooms.clone(),
                client: client.clone(),
                checks,
                given,
                policies: policies.clone(),
                submitter: submitter.clone(),
            }),
            remote: RemoteRooms::new(RemoteParts {
                client: client.clone(),
                keyring: keyring.clone(),
                rooms: rooms.clone(),
                submitter: submitter.clone(),
            }),
            policies,
            keyring,
        })
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
