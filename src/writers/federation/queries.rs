//! Reads that another server answers: profiles and aliases that are not ours.
//! Nothing of them is written; they are here since doors do not speak outward.

use std::sync::Arc;

use ruma::{RoomAliasId, UserId};
use serde_json::{Map, Value};

pub use crate::outbound::federation::queries::Directory;

use crate::outbound::answer::{Refusal, RequestError};
use crate::outbound::federation::{FederationClient, queries};

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

/// Asks.
#[derive(Clone)]
pub struct Queries {
    client: Arc<FederationClient>,
}

impl Queries {
    pub fn new(client: Arc<FederationClient>) -> Queries {
        Queries { client }
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

    /// Where an alias of another server leads.
    pub async fn directory(&self, alias: &RoomAliasId) -> Result<Directory, RemoteError> {
        Ok(queries::directory(&self.client, alias).await?)
    }
}
