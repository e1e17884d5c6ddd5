//! The doors: HTTP in, HTTP out, and nothing else.
//!
//! A door parses a request into types, asks `query`, hands writes to a writer
//! and turns what comes back into JSON. It holds no state of rooms or users and
//! knows neither the log nor RocksDB.

pub mod auth;
pub mod client;
pub mod door;
pub mod errors;
pub mod extract;
pub mod federation;
pub mod guests;
pub mod limits;
pub mod ops;
pub mod rate_limit;
pub mod registrations;
pub mod sightings;
#[cfg(test)]
pub(crate) mod tests;
pub mod uia;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use ruma::{OwnedServerName, RoomVersionId};
use tokio::sync::Semaphore;

use crate::crypto::ServerKey;
use crate::crypto::openid::OpenIdTokens;
use crate::query::deliveries::Hears;
use crate::query::ephemeral::Ephemeral;
use crate::query::graph::RoomGraph;
use crate::query::receipts::Receipts;
use crate::query::relations::Relations;
use crate::query::rooms::Rooms;
use crate::query::server_acls::ServerAcls;
use crate::query::tokens::SyncPositions;
use crate::query::users::Users;
use crate::readers::client_search::ClientSearch;
use crate::readers::client_sync::ClientSync;
use crate::readers::user_directory::UserDirectory;
use crate::writers::client::accounts::Accounts;
use crate::writers::client::passwords::Passwords;
use crate::writers::client::presence_setter::PresenceSetter;
use crate::writers::client::receipt_setter::ReceiptSetter;
use crate::writers::client::room_writer::{Parts as RoomWriterParts, RoomWriter};
use crate::writers::client::typing_setter::TypingSetter;
use crate::writers::client::user_data::UserData;
use crate::writers::federation::edus::{Edus, Parts as EduParts, RemotePresence};
use crate::writers::federation::keyring::Keyring;
use crate::writers::federation::missing::MissingEvents;
use crate::writers::federation::pdu_checks::PduChecks;
use crate::writers::federation::policy_servers::PolicyServers;
use crate::writers::federation::queries::Queries;
use crate::writers::federation::receiver::{Parts as ReceiverParts, Receiver};
use crate::writers::federation::remote_rooms::RemoteRooms;
use crate::writers::federation::resident::{Parts as ResidentParts, Resident};
use crate::writers::submit::Submitter;

use self::extract::BodyPatience;
use self::rate_limit::RateLimits;
use self::registrations::Registrations;
use self::sightings::Sightings;
use self::uia::UiaSessions;

/// Who may make an account over the client API; with neither, nobody may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// Everybody.
    pub open: bool,
    /// Whoever knows this token, also while `open` is off.
    pub token: Option<String>,
    /// Everybody, for an account of a guest.
    pub guests: bool,
}

/// A TURN server that clients are sent to (client-server API, *Voice over IP*).
#[derive(Clone, PartialEq, Eq)]
pub struct Turn {
    pub uris: Vec<String>,
    /// Shared with the TURN server.
    pub secret: String,
    /// How long a user name is good for.
    pub lifetime: Duration,
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Turn({:?})", self.uris)
    }
}

/// Whom people may ask for help, for `.well-known/matrix/support`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Support {
    pub page: Option<String>,
    pub contacts: Vec<Contact>,
}

/// One of them; at least one of the two ways is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    pub role: &'static str,
    pub matrix_id: Option<String>,
    pub email: Option<String>,
}

/// What doors need of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    pub server_name: OwnedServerName,
    /// Base URL that clients are told to use in `.well-known/matrix/client`;
    /// none answers 404 there.
    pub public_base_url: Option<String>,
    pub registration: Registration,
    /// Version of rooms for which the client asks none.
    pub default_room_version: RoomVersionId,
    /// How long an access token is valid if the client can refresh it. Tokens
    /// of clients that cannot do not expire.
    pub access_token_lifetime: Duration,
    pub rate_limits_enabled: bool,
    /// The client's address is the last entry of `X-Forwarded-For`: only behind
    /// a reverse proxy that sets it.
    pub trust_forwarded_for: bool,
    /// Whom users may turn to, as a URI; sent with `M_RESOURCE_LIMIT_EXCEEDED`.
    pub admin_contact: String,
    /// None: clients are told of none.
    pub turn: Option<Turn>,
    pub support: Support,
    /// The name at which other servers find us, if it is another.
    pub delegated_to: Option<OwnedServerName>,
    /// Whether other servers may read our directory.
    pub serves_public_rooms: bool,
    /// How long bodies of other servers are waited for.
    pub server_bodies: BodyPatience,
}

impl Settings {
    /// Settings of a server whose operator configured nothing but its name.
    pub fn new(server_name: OwnedServerName) -> Settings {
        let admin_contact = format!("mailto:postmaster@{}", server_name.host());
        Settings {
            server_name,
            public_base_url: None,
            registration: Registration::default(),
            default_room_version: RoomVersionId::V12,
            access_token_lifetime: Duration::from_secs(60 * 60),
            rate_limits_enabled: true,
            trust_forwarded_for: false,
            admin_contact,
            turn: None,
            support: Support::default(),
            delegated_to: None,
            serves_public_rooms: true,
            server_bodies: BodyPatience::default(),
        }
    }
}

/// The lower floors, as doors see them. `app` fills it.
pub struct Ports {
    pub rooms: Arc<dyn Rooms>,
    pub graph: Arc<dyn RoomGraph>,
    pub users: Arc<dyn Users>,
    pub receipts: Arc<dyn Receipts>,
    pub relations: Arc<dyn Relations>,
    pub submitter: Submitter,
    pub typing_setter: TypingSetter,
    pub presence_setter: PresenceSetter,
    /// Of users of other servers; none where the operator has no presence.
    pub remote_presence: Option<RemotePresence>,
    /// Who types and who is there.
    pub ephemeral: Arc<dyn Ephemeral>,
    /// Signs the events of our users.
    pub signing_key: Arc<ServerKey>,
    /// Where a token of `/sync` stands in a room.
    pub sync_positions: Arc<dyn SyncPositions>,
    /// Answers `/sync`.
    pub sync: Arc<ClientSync>,
    /// Answers `/search`; none where messages are not indexed.
    pub search: Option<Arc<ClientSearch>>,
    /// Answers `/user_directory/search`.
    pub user_directory: Arc<UserDirectory>,
    /// Other servers' keys, and ours.
    pub keyring: Arc<Keyring>,
    /// Asks other servers what is theirs.
    pub queries: Queries,
    /// Is told which servers speak to us.
    pub ears: Arc<dyn Hears>,
    /// Rooms that live elsewhere.
    pub remote: RemoteRooms,
    /// Fetches what events of other servers build on.
    pub missing: MissingEvents,
    /// Asks the policy servers of rooms.
    pub policies: PolicyServers,
}

/// What every handler gets: the ports, the writers, the settings, and the
/// bounded memory that only doors need.
pub struct Api {
    pub settings: Settings,
    pub rooms: Arc<dyn Rooms>,
    pub graph: Arc<dyn RoomGraph>,
    /// Which servers rooms let take part.
    pub acls: ServerAcls,
    pub users: Arc<dyn Users>,
    pub relations: Arc<dyn Relations>,
    pub accounts: Accounts,
    pub user_data: UserData,
    pub room_writer: RoomWriter,
    pub receipt_setter: ReceiptSetter,
    pub typing_setter: TypingSetter,
    pub presence_setter: PresenceSetter,
    pub ephemeral: Arc<dyn Ephemeral>,
    pub sync_positions: Arc<dyn SyncPositions>,
    pub sync: Arc<ClientSync>,
    pub search: Option<Arc<ClientSearch>>,
    pub user_directory: Arc<UserDirectory>,
    /// Answers to other servers that read much of a room, at work now.
    pub large_answers: Semaphore,
    /// Searches that run now.
    pub searches: Semaphore,
    pub rate_limits: RateLimits,
    pub uia: UiaSessions,
    pub registrations: Registrations,
    pub sightings: Sightings,
    pub openid: OpenIdTokens,
    pub keyring: Arc<Keyring>,
    pub queries: Queries,
    pub ears: Arc<dyn Hears>,
    /// Rooms that live elsewhere.
    pub remote: RemoteRooms,
    /// Helps servers that are not in a room.
    pub resident: Resident,
    /// Takes in what other servers send.
    pub receiver: Receiver,
    in_flight: Semaphore,
}

/// The state of the router: one reference count per request.
pub type ApiState = Arc<Api>;

impl Api {
    /// Puts the doors together. Needs no runtime and starts no task.
    pub fn new(ports: Ports, settings: Settings) -> ApiState {
        let passwords = Arc::new(Passwords::default());
        let openid = OpenIdTokens::new(&ports.signing_key);
        let room_writer = RoomWriter::new(RoomWriterParts {
            server_name: settings.server_name.clone(),
            key: ports.signing_key,
            default_version: settings.default_room_version.clone(),
            rooms: ports.rooms.clone(),
            users: ports.users.clone(),
            relations: ports.relations.clone(),
            submitter: ports.submitter.clone(),
            remote: ports.remote.clone(),
            policies: ports.policies.clone(),
        });
        let user_data = room_writer.user_data().clone();
        let acls = ServerAcls::new(ports.rooms.clone());
        let resident = Resident::new(ResidentParts {
            rooms: ports.rooms.clone(),
            users: ports.users.clone(),
            acls: acls.clone(),
            keyring: ports.keyring.clone(),
            policies: ports.policies.clone(),
            submitter: ports.submitter.clone(),
        });
        let receipt_setter = ReceiptSetter::new(
            ports.rooms.clone(),
            ports.users.clone(),
            ports.receipts.clone(),
            user_data.clone(),
            ports.submitter.clone(),
        );
        let edus = Edus::new(EduParts {
            own: settings.server_name.clone(),
            rooms: ports.rooms.clone(),
            acls: acls.clone(),
            typing: ports.typing_setter.clone(),
            receipts: receipt_setter.clone(),
            remote: ports.remote.clone(),
            presence: ports.remote_presence,
        });
        let receiver = Receiver::new(ReceiverParts {
            own: settings.server_name.clone(),
            rooms: ports.rooms.clone(),
            checks: PduChecks::new(ports.keyring.clone()),
            acls: acls.clone(),
            missing: ports.missing,
            policies: ports.policies,
            submitter: ports.submitter.clone(),
            edus,
        });
        Arc::new(Api {
            accounts: Accounts::new(
                settings.server_name.clone(),
                settings.access_token_lifetime,
                ports.users.clone(),
                ports.submitter,
                passwords,
            ),
            receipt_setter,
            receiver,
            typing_setter: ports.typing_setter,
            presence_setter: ports.presence_setter,
            ephemeral: ports.ephemeral,
            openid,
            room_writer,
            user_data,
            sync_positions: ports.sync_positions,
            sync: ports.sync,
            search: ports.search,
            user_directory: ports.user_directory,
            large_answers: Semaphore::new(limits::LARGE_ANSWERS_MAX),
            searches: Semaphore::new(limits::SEARCHES_MAX),
            keyring: ports.keyring,
            queries: ports.queries,
            ears: ports.ears,
            remote: ports.remote,
            resident,
            acls,
            graph: ports.graph,
            rate_limits: RateLimits::new(settings.rate_limits_enabled),
            uia: UiaSessions::default(),
            registrations: Registrations::default(),
            sightings: Sightings::default(),
            in_flight: Semaphore::new(limits::REQUESTS_IN_FLIGHT_MAX),
            rooms: ports.rooms,
            users: ports.users,
            relations: ports.relations,
            settings,
        })
    }
}

/// The whole router. Both listeners serve it; give the make-service the client's
/// address (`into_make_service_with_connect_info::<SocketAddr>()`), which rate
/// limits go by.
///
/// Install the metrics recorder first: handles of the latency histograms are
/// taken here, once.
pub fn router(state: ApiState) -> Router {
    door::wrap(client::routes::routes(), state)
}
