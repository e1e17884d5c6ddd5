//! Asks a room's policy server to recommend what is to be appended (server-server
//! API, *Policy Servers*).
//!
//! The signature becomes a part of the event, and the fold decides by it alone.
//! An event of a local user without one is refused to its client; one from
//! elsewhere is appended as it came, and soft-failed. A policy server has five
//! seconds; one that does not answer is not asked again for a while, which is as
//! if it had refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log_format::record::{Envelope, Part};
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::Semaphore;

use crate::limits::PDU_BYTES_MAX;
use crate::logs::log::NewRecord;
use crate::matrix::RoomVersion;
use crate::matrix::canonical_json::{CanonicalJsonObject, parse_stored_object, to_bytes};
use crate::matrix::event::Pdu;
use crate::matrix::policy::{PolicyServer, is_asked_about};
use crate::outbound::answer::{Refusal, RequestError};
use crate::outbound::federation::{FederationClient, policy_sign};
use crate::query::policy_servers::policy_server;
use crate::query::rooms::{QueryError, RoomHead, Rooms};

/// Events that policy servers look at at a time.
const ASKED_AT_ONCE: usize = 64;
/// How long a policy server that did not answer is not asked.
const PAUSE: Duration = Duration::from_secs(30);
/// Policy servers that did not answer and are remembered.
const SILENT_MAX: usize = 1_024;

/// Why an event is not recommended.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Its words are for the user.
    #[error("the room's policy server refuses: {0}")]
    Refused(Refusal),
    #[error("the room's policy server does not answer: {0}")]
    Unreachable(RequestError),
    #[error("the room's policy server did not answer a moment ago")]
    Pausing,
    #[error("the room's policy server gave no signature that holds")]
    Unsigned,
    #[error(transparent)]
    Query(#[from] QueryError),
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct PolicyServers {
    inner: Arc<Inner>,
}

struct Inner {
    rooms: Arc<dyn Rooms>,
    client: Arc<FederationClient>,
    silent: Cache<OwnedServerName, Instant>,
    turns: Semaphore,
}

impl PolicyServers {
    pub fn new(rooms: Arc<dyn Rooms>, client: Arc<FederationClient>) -> PolicyServers {
        PolicyServers {
            inner: Arc::new(Inner {
                rooms,
                client,
                silent: Cache::new(SILENT_MAX),
                turns: Semaphore::new(ASKED_AT_ONCE),
            }),
        }
    }

    /// The record of an event with the signature of the room's policy server; as
    /// it is where the room has none, or the event has its signature already.
    pub async fn recommended(
        &self,
        head: &RoomHead,
        record: NewRecord,
    ) -> Result<NewRecord, PolicyError> {
        let Some(policy) = policy_server(&*self.inner.rooms, head)? else {
            return Ok(record);
        };
        match self.signature(head, &policy, &record).await? {
            Some(signature) => signed(&policy, &record, &signature),
            None => Ok(record),
        }
    }

    /// The same of an event from elsewhere, which goes as it is if the policy
    /// server does not sign it.
    pub async fn sought(&self, head: &RoomHead, record: NewRecord) -> NewRecord {
        let policy = match policy_server(&*self.inner.rooms, head) {
            Ok(Some(policy)) => policy,
            Ok(None) | Err(_) => return record,
        };
        match self.signature(head, &policy, &record).await {
            Ok(Some(signature)) => signed(&policy, &record, &signature).unwrap_or(record),
            Ok(None) => record,
            Err(error) => {
                tracing::debug!(room = %head.room_id, %error, "an event is not recommended");
                record
            }
        }
    }

    /// Whether a policy server would be asked about an event from elsewhere.
    pub fn is_to_ask(&self, head: &RoomHead, pdu: &Pdu) -> Result<bool, QueryError> {
        let Some(policy) = policy_server(&*self.inner.rooms, head)? else {
            return Ok(false);
        };
        Ok(is_asked_about(&pdu.kind, pdu.state_key.as_deref())
            && !policy.recommends(pdu.version, pdu.object()))
    }

    /// The signature that the event lacks.
    async fn signature(
        &self,
        head: &RoomHead,
        policy: &PolicyServer,
        record: &NewRecord,
    ) -> Result<Option<String>, PolicyError> {
        let Ok(envelope) = Envelope::parse(&record.payload) else {
            return Ok(None);
        };
        let version = RoomVersion::try_from(&head.version);
        let (Some(kind), Ok(version)) = (envelope.event_type, version) else {
            return Ok(None);
        };
        if !is_asked_about(kind, envelope.state_key) {
            return Ok(None);
        }
        let Some(event) = event(&envelope.body_part) else {
            return Ok(None);
        };
        if policy.recommends(version, &event) {
            return Ok(None);
        }
        let signature = self.ask(&policy.via, &event).await?;
        let mut with = event;
        policy.add(&mut with, &signature);
        let fits = to_bytes(&with).len() <= PDU_BYTES_MAX;
        match fits && policy.recommends(version, &with) {
            true => Ok(Some(signature)),
            false => Err(PolicyError::Unsigned),
        }
    }

    async fn ask(
        &self,
        via: &ServerName,
        event: &CanonicalJsonObject,
    ) -> Result<String, PolicyError> {
        let inner = &self.inner;
        // We are none, and nobody asks themselves.
        if via == inner.client.origin() {
            return Err(PolicyError::Unsigned);
        }
        if inner
            .silent
            .get(via)
            .is_some_and(|since| since.elapsed() < PAUSE)
        {
            return Err(PolicyError::Pausing);
        }
        // Never closed, so there is always a permit to come.
        let _turn = inner.turns.acquire().await;
        match policy_sign::sign(&inner.client, via, event).await {
            Ok(signature) => signature.ok_or(PolicyError::Unsigned),
            Err(RequestError::Refused(refusal)) if refusal.status < 500 => {
                Err(PolicyError::Refused(refusal))
            }
            Err(error) => {
                inner.silent.insert(via.to_owned(), Instant::now());
                Err(PolicyError::Unreachable(error))
            }
        }
    }
}

fn event(part: &Part<'_>) -> Option<CanonicalJsonObject> {
    parse_stored_object(part.bytes()?).ok()
}

/// The record with a signature in both forms of its event. Ids and hashes are
/// over what is signed, not over signatures, and stay.
fn signed(
    policy: &PolicyServer,
    record: &NewRecord,
    signature: &str,
) -> Result<NewRecord, PolicyError> {
    let Ok(read) = Envelope::parse(&record.payload) else {
        return Err(PolicyError::Unsigned);
    };
    let with = |part: &Part<'_>| {
        let mut event = event(part)?;
        policy.add(&mut event, signature);
        Some(to_bytes(&event))
    };
    let (Some(skeleton), Some(body)) = (with(&read.skeleton), with(&read.body_part)) else {
        return Err(PolicyError::Unsigned);
    };
    let mut envelope = read.to_new();
    envelope.skeleton = Part::Present(&skeleton);
    envelope.body_part = Part::Present(&body);
    Ok(NewRecord::new(record.kind, read.source, &envelope))
}
