//! What our users do in rooms that live elsewhere: what its parts share. Joins
//! are in `remote_join.rs`, leaves and knocks in `remote_leave.rs` and
//! `remote_knock.rs`, invites in `remote_invite.rs`.

use std::sync::Arc;

use dashmap::DashMap;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};

use super::given_state::intake::IntakeError;
use super::given_state::{GivenStateError, GivenStates};
use super::keyring::Keyring;
use super::own_keys::OwnKeys;
use super::pdu_checks::PduChecks;
use super::remote_join::RunningJoin;
use super::remote_past::Line;
use super::template::{self, Asked, TemplateError};
use super::told::{Teller, ToldError};
use crate::matrix::RoomVersion;
use crate::matrix::build::{BuiltEvent, build_and_sign};
use crate::matrix::canonical_json::{CanonicalJsonObject, parse_stored_object};
use crate::outbound::answer::{Refusal, RequestError};
use crate::outbound::federation::FederationClient;
use crate::outbound::federation::handshakes::{self, Handshake};
use crate::query::outside::OutsideMembership;
use crate::query::rooms::{QueryError, RoomHead, Rooms};
use crate::writers::client::joins::AUTHORISED_BY;
use crate::writers::submit::{SubmitError, Submitter};

/// Servers that are asked for one user's event, one after the other. Ours: a
/// client waits, and each may take its time.
const SERVERS_MAX: usize = 10;

/// Why another server could not be brought to do what a user of ours wants.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RemoteRoomError {
    /// Nobody said which servers are in the room.
    #[error("no server is known that is in the room")]
    NoServer,
    #[error("room version {0} is not supported")]
    Version(String),
    /// It said no.
    #[error("another server refused: {0}")]
    Refused(Refusal),
    #[error("no server of the room could be asked: {0}")]
    Unreachable(RequestError),
    #[error("another server's answer does not fit: {0}")]
    Template(#[from] TemplateError),
    #[error("another server's answer does not fit: {0}")]
    BadAnswer(&'static str),
    #[error("event could not be built: {0}")]
    Build(String),
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error("{0}")]
    Query(Arc<QueryError>),
    #[error("server is stopping")]
    Stopping,
}

impl From<QueryError> for RemoteRoomError {
    fn from(error: QueryError) -> RemoteRoomError {
        RemoteRoomError::Query(Arc::new(error))
    }
}

impl From<GivenStateError> for RemoteRoomError {
    fn from(error: GivenStateError) -> RemoteRoomError {
        match error {
            GivenStateError::Incomplete { .. } => {
                RemoteRoomError::BadAnswer("much of its state does not pass its checks")
            }
            GivenStateError::Refused(_) => {
                RemoteRoomError::BadAnswer("its state does not allow the join")
            }
            GivenStateError::Parked => RemoteRoomError::BadAnswer("its state takes too long"),
            GivenStateError::OtherVersion(named) => match RoomVersion::parse(&named) {
                Some(_) => RemoteRoomError::BadAnswer("the room has another version"),
                None => RemoteRoomError::Version(shown(&named)),
            },
            GivenStateError::Full => RemoteRoomError::BadAnswer("too much is taken in at a time"),
            GivenStateError::TooMany(_) => RemoteRoomError::BadAnswer("it names too many events"),
            GivenStateError::Panicked => RemoteRoomError::Stopping,
            GivenStateError::Submit(error) => error.into(),
            GivenStateError::Query(error) => error.into(),
        }
    }
}

impl From<ToldError> for RemoteRoomError {
    fn from(error: ToldError) -> RemoteRoomError {
        match error {
            ToldError::TooMuch => RemoteRoomError::BadAnswer("it takes too many requests"),
            ToldError::Request(error) => error.into(),
            ToldError::Given(error) => error.into(),
            ToldError::Query(error) => error.into(),
        }
    }
}

impl From<IntakeError> for RemoteRoomError {
    fn from(error: IntakeError) -> RemoteRoomError {
        match error {
            IntakeError::Request(error) => error.into(),
            IntakeError::Given(error) => error.into(),
        }
    }
}

impl From<RequestError> for RemoteRoomError {
    fn from(error: RequestError) -> RemoteRoomError {
        match error {
            RequestError::Refused(refusal) => RemoteRoomError::Refused(refusal),
            error => RemoteRoomError::Unreachable(error),
        }
    }
}

impl RemoteRoomError {
    /// Whether another server may have another answer. What it says of the user's
    /// right counts less than what one that knows better says.
    pub(super) fn is_of_the_server(&self) -> bool {
        match self {
            RemoteRoomError::Refused(_)
            | RemoteRoomError::Unreachable(_)
            | RemoteRoomError::Template(_)
            | RemoteRoomError::BadAnswer(_) => true,
            // The room has one version, whoever is asked, but who lies about it?
            RemoteRoomError::Version(_) => true,
            RemoteRoomError::NoServer
            | RemoteRoomError::Build(_)
            | RemoteRoomError::Submit(_)
            | RemoteRoomError::Query(_)
            | RemoteRoomError::Stopping => false,
        }
    }

    /// The version of the room, where that is why.
    pub fn room_version(&self) -> Option<&str> {
        match self {
            RemoteRoomError::Version(version) => Some(version),
            RemoteRoomError::Refused(refusal) => match refusal.errcode.as_str() {
                "M_INCOMPATIBLE_ROOM_VERSION" => refusal.room_version.as_deref(),
                _ => None,
            },
            _ => None,
        }
    }

    /// How much it tells the user, of several servers' answers.
    pub(super) fn weight(&self) -> u8 {
        match self {
            RemoteRoomError::Version(_) => 4,
            RemoteRoomError::Refused(refusal) if refusal.status == 403 => 3,
            RemoteRoomError::Refused(refusal) if refusal.status < 500 => 2,
            RemoteRoomError::Refused(_)
            | RemoteRoomError::Template(_)
            | RemoteRoomError::BadAnswer(_) => 1,
            _ => 0,
        }
    }
}

/// What [`RemoteRooms`] is made from.
pub struct Parts {
    pub client: Arc<FederationClient>,
    pub keyring: Arc<Keyring>,
    pub rooms: Arc<dyn Rooms>,
    pub submitter: Submitter,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct RemoteRooms {
    pub(super) parts: Arc<Parts>,
    pub(super) checks: PduChecks,
    pub(super) given: GivenStates,
    /// Joins that run, so that nobody does one twice.
    pub(super) joins: Arc<DashMap<(OwnedRoomId, OwnedUserId), RunningJoin>>,
    /// See [`super::remote_past`].
    pub(super) lines: Arc<DashMap<OwnedRoomId, Arc<Line>>>,
    /// Held by whoever brings us into a room.
    pub(super) doors: Arc<DashMap<OwnedRoomId, Arc<tokio::sync::Mutex<()>>>>,
}

/// A member event of ours that a resident has still to accept.
pub(super) struct Signed {
    pub version: RoomVersion,
    pub built: BuiltEvent,
    pub object: CanonicalJsonObject,
    /// A user of the resident lets ours in, and the resident has to sign as well.
    pub is_vouched_for: bool,
}

impl RemoteRooms {
    pub fn new(parts: Parts) -> RemoteRooms {
        let checks = PduChecks::new(parts.keyring.clone());
        let (rooms, submitter) = (parts.rooms.clone(), parts.submitter.clone());
        RemoteRooms {
            given: GivenStates::new(checks.clone(), rooms, submitter),
            checks,
            parts: Arc::new(parts),
            joins: Arc::default(),
            lines: Arc::default(),
            doors: Arc::default(),
        }
    }

    /// Whether a user of ours is on the way into a room: its servers count us in
    /// before we do.
    pub fn is_joining(&self) -> bool {
        self.doors.iter().any(|door| door.try_lock().is_err())
    }

    pub(super) fn own(&self) -> &OwnKeys {
        self.parts.keyring.own()
    }

    /// A server that is asked about the past of a room.
    pub(super) fn teller<'a>(
        &'a self,
        server: &'a ServerName,
        room: &'a RoomId,
        version: RoomVersion,
    ) -> Teller<'a> {
        Teller {
            client: &self.parts.client,
            rooms: &*self.parts.rooms,
            given: &self.given,
            server,
            room,
            version,
        }
    }

    /// Whether we know the room ourselves, and need no other server for it.
    pub fn is_here(&self, room: &RoomId) -> Result<bool, QueryError> {
        let head = self.parts.rooms.head(room)?;
        Ok(head.is_some_and(|head| self.lives_here(&head)))
    }

    /// Whether a user of ours is in the room, or nobody is any more: then what we
    /// know of it is as good as what anybody knows.
    pub fn lives_here(&self, head: &RoomHead) -> bool {
        let is_entered = !head.extremities.is_empty();
        is_entered && (head.is_resident(&self.own().server) || head.servers.is_empty())
    }

    /// Servers that may be in the room: those that were named, then who invited
    /// the user or took the knock, then who made the room, where its id says so.
    pub(super) fn candidates(
        &self,
        room: &RoomId,
        named: &[OwnedServerName],
        seen: Option<&OutsideMembership>,
    ) -> Vec<OwnedServerName> {
        let inviter = seen.map(|seen| seen.sender.server_name().to_owned());
        let teller = seen.and_then(|seen| seen.origin.clone());
        let maker = room.server_name().map(ToOwned::to_owned);
        let mut candidates: Vec<OwnedServerName> = Vec::new();
        for server in named
            .iter()
            .cloned()
            .chain(inviter)
            .chain(teller)
            .chain(maker)
        {
            if server != self.own().server && !candidates.contains(&server) {
                candidates.push(server);
            }
        }
        candidates.truncate(SERVERS_MAX);
        candidates
    }

    /// Has a server propose an event, and builds and signs ours.
    pub(super) async fn prepare(
        &self,
        server: &ServerName,
        handshake: Handshake,
        (room, user): (&RoomId, &UserId),
        content: CanonicalJsonObject,
    ) -> Result<Signed, RemoteRoomError> {
        let parts = &self.parts;
        let versions = RoomVersion::all().map(RoomVersion::as_str);
        let made = handshakes::make(&parts.client, server, handshake, (room, user), versions);
        let made = made.await?;
        let named = made.room_version.as_deref().unwrap_or("1");
        let version = RoomVersion::parse(named);
        let version = version.ok_or_else(|| RemoteRoomError::Version(shown(named)))?;
        let asked = Asked {
            version,
            room,
            user,
            membership: handshake.membership(),
            resident: server,
        };
        let event = template::rebuild(&asked, &made.event, content)?;
        let is_vouched_for = event.content.contains_key(AUTHORISED_BY);
        let own = self.own();
        let built = build_and_sign(version, event, &own.server, &own.current);
        let built = built.map_err(|error| RemoteRoomError::Build(error.to_string()))?;
        let object = parse_stored_object(&built.json);
        let object = object.map_err(|error| RemoteRoomError::Build(error.to_string()))?;
        Ok(Signed {
            version,
            built,
            object,
            is_vouched_for,
        })
    }
}

/// A version's name of another server's choice, short enough to be shown.
fn shown(version: &str) -> String {
    version
        .chars()
        .filter(|c| !c.is_control())
        .take(32)
        .collect()
}
