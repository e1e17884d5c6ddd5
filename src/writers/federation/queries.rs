//! Reads that another server answers: profiles and aliases that are not ours.
//! Nothing of them is written; they are here since doors do not speak outward.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, ServerName, UserId};
use serde_json::{Map, Value};

pub use crate::outbound::federation::listings::{ListedRoom, Listing, SummedUp};
pub use crate::outbound::federation::queries::Directory;

use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::outbound::answer::{Refusal, RequestError};
use crate::outbound::federation::{FederationClient, listings, queries};

/// Bytes of a profile field's name that are asked for; longer ones do not exist.
const FIELD_BYTES_MAX: usize = 255;

/// Why another server has no answer for us.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RemoteError {
    /// It says that there is no such thing.
    #[error("the other server knows no such thing")]
    NotFound,
    /// It does not tell us.
    #[error("the other server does not tell: {0}")]
    Forbidden(Refusal),
    #[error("the other server could not be asked: {0}")]
    Unreachable(RequestError),
}

impl From<RequestError> for RemoteError {
    fn from(error: RequestError) -> RemoteError {
        match error {
            RequestError::Refused(refusal) => match refusal.status {
                404 => RemoteError::NotFound,
                403 => RemoteError::Forbidden(refusal),
                _ => RemoteError::Unreachable(RequestError::Refused(refusal)),
            },
            error => RemoteError::Unreachable(error),
        }
    }
}

/// Servers that are asked for a description of one room.
const SERVERS_PER_ROOM: usize = 3;
/// Rooms elsewhere whose descriptions are kept, and for how long: pages of a
/// space's hierarchy come by the same rooms again.
const ROOMS_KEPT: usize = 1_000;
const KEPT: Duration = Duration::from_secs(300);

/// A description, none where nobody gave one, and when it was asked for.
type Described = (Instant, Option<Arc<SummedUp>>);

/// Asks.
#[derive(Clone)]
pub struct Queries {
    client: Arc<FederationClient>,
    rooms: Arc<Cache<OwnedRoomId, Described>>,
}

impl Queries {
    pub fn new(client: Arc<FederationClient>) -> Queries {
        Queries {
            client,
            rooms: Arc::new(Cache::new(ROOMS_KEPT)),
        }
    }

    /// The profile of a user of another server, whole or one field of it.
    pub async fn profile(
        &self,
        user: &UserId,
        field: Option<&str>,
    ) -> Result<Map<String, Value>, RemoteError> {
        if field.is_some_and(|field| field.len() > FIELD_BYTES_MAX) {
            return Err(RemoteError::NotFound);
        }
        let mut found = queries::profile(&self.client, user, field).await?;
        // A field that is null is one that is not set.
        found.retain(|name, value| !value.is_null() && field.is_none_or(|field| field == name));
        Ok(found)
    }

    /// A page of another server's directory.
    pub async fn public_rooms(
        &self,
        server: &ServerName,
        search: &CanonicalJsonObject,
    ) -> Result<Listing, RemoteError> {
        Ok(listings::public_rooms(&self.client, server, search).await?)
    }

    /// A room that lives elsewhere, as one of the servers describes it to us. Who
    /// of our users may know of it is not looked at.
    pub async fn room(
        &self,
        room: &RoomId,
        servers: impl IntoIterator<Item = OwnedServerName>,
    ) -> Option<Arc<SummedUp>> {
        if let Some((asked, known)) = self.rooms.get(room)
            && asked.elapsed() < KEPT
        {
            return known;
        }
        let own = self.client.origin();
        let servers = servers.into_iter().filter(|server| server != own);
        let mut found = None;
        let mut was_asked = false;
        for server in servers.take(SERVERS_PER_ROOM) {
            was_asked = true;
            match listings::hierarchy(&self.client, &server, room).await {
                Ok(told) if told.room.room_id == *room => {
                    found = Some(Arc::new(told));
                    break;
                }
                Ok(_) => tracing::debug!(%room, %server, "description of another room"),
                Err(error) => tracing::debug!(%room, %server, %error, "room is not described"),
            }
        }
        if was_asked {
            let described = (Instant::now(), found.clone());
            self.rooms.insert(room.to_owned(), described);
        }
        found
    }

    /// Where an alias of another server leads.
    pub async fn directory(&self, alias: &RoomAliasId) -> Result<Directory, RemoteError> {
        Ok(queries::directory(&self.client, alias).await?)
    }
}
