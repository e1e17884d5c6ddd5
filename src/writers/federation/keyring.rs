//! Other servers' keys: from what is known, else fetched, checked and recorded.
//!
//! A key that was once fetched is in the log, so that old events can be verified
//! when their server is gone. Fetching is bounded: one request at a time for a
//! server, with a pause that grows when it fails, and few at a time in all, since
//! anybody can name a server that does not exist.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log_format::codec;
use log_format::record::input::InputServerKeys;
use log_format::record::{Kind, NewEnvelope, Part, Source};
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;

use super::own_keys::OwnKeys;
use crate::clock::now_ms;
use crate::clock::now_us;
use crate::crypto::random;
use crate::logs::log::NewRecord;
use crate::matrix::canonical_json::parse_stored_object;
use crate::matrix::server_keys::{PublicKey, ServerKeys, ServerKeysError};
use crate::matrix::signing::verify_json;
use crate::outbound::answer::RequestError;
use crate::outbound::federation::{FederationClient, server_keys};
use crate::query::rooms::QueryError;
use crate::query::server_keys::{StoredKeys, StoredServerKeys};
use crate::writers::submit::{SubmitError, Submitter};

/// Servers whose keys are held in memory, of some 1 KiB each.
const CACHED_SERVERS: usize = 4_096;
/// Servers that are fetched from at a time.
const FETCHES_AT_A_TIME: usize = 32;
/// How long one waits for a turn to fetch.
const TURN_MAX: Duration = Duration::from_secs(10);
/// Pause between two fetches from a server; doubled from the second failure on.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

/// Why there is no key to check a signature with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{0} publishes no such key, or it is not valid any more")]
    NotPublished(OwnedServerName),
    #[error("the keys of {server} could not be fetched: {why}")]
    Fetch {
        server: OwnedServerName,
        why: RequestError,
    },
    #[error("the keys of {server} are refused: {why}")]
    Refused {
        server: OwnedServerName,
        why: ServerKeysError,
    },
    /// What it signed before could not be told from what somebody else signs now.
    #[error("{0} publishes another key under an id that it used before")]
    Replaced(OwnedServerName),
    /// Fetching failed a moment ago, and is not tried again yet.
    #[error("the keys of {0} could not be fetched a moment ago")]
    Pausing(OwnedServerName),
    #[error("too many servers are asked for keys")]
    Busy,
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

/// What the keyring is made from.
pub struct Parts {
    pub own: Arc<OwnKeys>,
    pub stored: Arc<dyn StoredServerKeys>,
    pub client: Arc<FederationClient>,
    pub submitter: Submitter,
    /// Asked for the keys of servers that do not answer.
    pub notaries: Vec<OwnedServerName>,
}

/// Finds keys.
pub struct Keyring {
    parts: Parts,
    known: Cache<OwnedServerName, Arc<StoredKeys>>,
    attempts: Cache<OwnedServerName, Arc<Mutex<Attempts>>>,
    fetches: Semaphore,
}

/// Fetches from one server. Whoever fetches holds it locked.
#[derive(Default)]
struct Attempts {
    last: Option<Instant>,
    failures: u32,
}

impl Attempts {
    /// How long until the next may begin.
    fn pause(&self) -> Duration {
        let doubled = PAUSE_MIN * 2_u32.pow(self.failures.saturating_sub(1).min(12));
        let pause = doubled.min(PAUSE_MAX);
        let since = self.last.map(|last| last.elapsed());
        since.map_or(Duration::ZERO, |since| pause.saturating_sub(since))
    }
}

impl Keyring {
    pub fn new(parts: Parts) -> Keyring {
        Keyring {
            parts,
            known: Cache::new(CACHED_SERVERS),
            attempts: Cache::new(CACHED_SERVERS),
            fetches: Semaphore::new(FETCHES_AT_A_TIME),
        }
    }

    /// The keys that are ours.
    pub fn own(&self) -> &OwnKeys {
        &self.parts.own
    }

    /// The key with which a server may sign a request that comes now.
    pub async fn for_request(
        &self,
        server: &ServerName,
        key_id: &str,
    ) -> Result<PublicKey, KeyError> {
        let good = |keys: &StoredKeys| {
            let key = keys.keys.get(key_id)?;
            key.is_good_for_request(now_ms()).then_some(key.key)
        };
        let keys = self
            .with(server, key_id, |keys| good(keys).is_some())
            .await?;
        good(&keys).ok_or_else(|| KeyError::NotPublished(server.to_owned()))
    }

    /// The keys of a server, fetched anew unless what is known will do.
    ///
    /// Errors: they will not do, and cannot be fetched now. Keys that will not do
    /// after a fetch are no error here.
    pub async fn with(
        &self,
        server: &ServerName,
        key_id: &str,
        will_do: impl Fn(&StoredKeys) -> bool,
    ) -> Result<Arc<StoredKeys>, KeyError> {
        if let Some(known) = self.known(server)?.filter(|known| will_do(known)) {
            return Ok(known);
        }
        let attempts = self
            .attempts
            .get_or_insert_with(server, || Ok::<_, KeyError>(Arc::default()))?;
        let mut attempts = attempts.lock().await;
        // Somebody else may have fetched them while we waited.
        if let Some(known) = self.known(server)?.filter(|known| will_do(known)) {
            return Ok(known);
        }
        // A server that has just changed its key is worth a moment.
        match attempts.pause() {
            pause if pause > PAUSE_MIN => return Err(KeyError::Pausing(server.to_owned())),
            pause => tokio::time::sleep(pause).await,
        }
        let turn = timeout(TURN_MAX, self.fetches.acquire()).await;
        let _turn = turn.map_err(|_| KeyError::Busy)?;
        let fetched = self.fetch(server, key_id).await;
        attempts.last = Some(Instant::now());
        attempts.failures = match &fetched {
            Ok(_) => 0,
            Err(_) => attempts.failures.saturating_add(1),
        };
        self.record(fetched?).await?;
        self.known(server)?
            .ok_or_else(|| KeyError::NotPublished(server.to_owned()))
    }

    /// What is known of a server, however old.
    pub fn known(&self, server: &ServerName) -> Result<Option<Arc<StoredKeys>>, QueryError> {
        if let Some(known) = self.known.get(server) {
            return Ok(Some(known));
        }
        let Some(stored) = self.parts.stored.keys_of(server)? else {
            return Ok(None);
        };
        let stored = Arc::new(stored);
        self.known.insert(server.to_owned(), stored.clone());
        Ok(Some(stored))
    }

    /// The newest answer of a server, for a notary to pass on.
    pub fn newest(&self, server: &ServerName) -> Result<Option<ServerKeys>, QueryError> {
        let Some(known) = self.known(server)? else {
            return Ok(None);
        };
        let json = parse_stored_object(&known.json).ok();
        Ok(json.and_then(|json| ServerKeys::check(json, server, known.fetched_ms).ok()))
    }

    /// The newest answer of a server that names a key, if it is not the newest of
    /// all: the server may have forgotten a key that old events are signed with.
    pub fn older_with(
        &self,
        server: &ServerName,
        key_id: &str,
    ) -> Result<Option<ServerKeys>, QueryError> {
        let Some(known) = self.known(server)? else {
            return Ok(None);
        };
        let answers = known.older.iter().filter_map(|json| {
            let json = parse_stored_object(json).ok()?;
            ServerKeys::check(json, server, known.fetched_ms).ok()
        });
        let mut naming = answers.filter(|keys| keys.keys.contains_key(key_id));
        Ok(naming.next())
    }

    /// From the server, or else from a notary.
    async fn fetch(&self, server: &ServerName, key_id: &str) -> Result<ServerKeys, KeyError> {
        let refused = |why| KeyError::Refused {
            server: server.to_owned(),
            why,
        };
        let client = &self.parts.client;
        let why = match server_keys::own(client, server).await {
            Ok(json) => return ServerKeys::check(json, server, now_ms()).map_err(refused),
            Err(why) => why,
        };
        for notary in &self.parts.notaries {
            if notary == server || self.parts.own.is(notary) {
                continue;
            }
            match self.ask_notary(notary, server, key_id).await {
                Ok(Some(keys)) => return Ok(keys),
                Ok(None) => (),
                Err(error) => tracing::debug!(%notary, %server, %error, "notary did not help"),
            }
        }
        Err(KeyError::Fetch {
            server: server.to_owned(),
            why,
        })
    }

    /// What a notary knows, signed by both. That of the latest validity.
    async fn ask_notary(
        &self,
        notary: &ServerName,
        server: &ServerName,
        key_id: &str,
    ) -> Result<Option<ServerKeys>, KeyError> {
        let client = &self.parts.client;
        let fetch = |why| KeyError::Fetch {
            server: notary.to_owned(),
            why,
        };
        // The notary's own keys come from itself alone.
        let own = server_keys::own(client, notary).await.map_err(fetch)?;
        let own = ServerKeys::check(own, notary, now_ms()).map_err(|why| KeyError::Refused {
            server: notary.to_owned(),
            why,
        })?;
        let now = now_ms();
        let answers = server_keys::from_notary(client, notary, server, key_id, now).await;
        let signed = |json: &_| {
            own.keys.iter().any(|(id, key)| {
                key.is_good_for_request(now) && verify_json(json, notary.as_str(), id, &key.key)
            })
        };
        let answers = answers.map_err(fetch)?.into_iter().filter(signed);
        let checked = answers.filter_map(|json| ServerKeys::check(json, server, now).ok());
        Ok(checked.max_by_key(|keys| keys.valid_until_ts))
    }

    async fn record(&self, keys: ServerKeys) -> Result<(), KeyError> {
        let server = keys.server_name.clone();
        let body = codec::encode(&InputServerKeys {
            fetched_ms: now_ms(),
        });
        let json = keys.to_bytes();
        let record = NewRecord::new(
            Kind::InputServerKeys,
            Source::Federation,
            &NewEnvelope {
                received_us: now_us(),
                key: server.as_str(),
                origin: Some(server.as_str()),
                body: &body,
                body_part: Part::Present(&json),
                salt: random::bytes(),
                ..NewEnvelope::default()
            },
        );
        let submitted = self
            .parts
            .submitter
            .submit(server.as_str(), vec![record])
            .await;
        // Whether it was taken or not: what is known is what the table has.
        self.known.remove(&server);
        match submitted {
            Ok(_) => Ok(()),
            Err(SubmitError::Refused(_)) => Err(KeyError::Replaced(server)),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
impl Keyring {
    /// A keyring of the server `hs` that knows no other, and a client that finds none.
    pub fn without_others(submitter: Submitter) -> (Keyring, Arc<FederationClient>) {
        use crate::crypto::ServerKey;
        use crate::outbound::addresses::AddressFilter;
        use crate::outbound::dns::fake::FakeDns;
        use crate::outbound::federation::Settings;

        struct Nobody;
        impl StoredServerKeys for Nobody {
            fn keys_of(&self, _: &ServerName) -> Result<Option<StoredKeys>, QueryError> {
                Ok(None)
            }
        }
        // The HTTP client asks which provider of TLS there is.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = Arc::new(ServerKey::from_seed([1; 32], "a_1"));
        let server = ruma::server_name!("hs").to_owned();
        let client = FederationClient::new(Settings {
            origin: server.clone(),
            key: key.clone(),
            static_hosts: Default::default(),
            filter: AddressFilter::default(),
            extra_ca: None,
            dns: Arc::new(FakeDns::default()),
            patience: Default::default(),
        });
        let client = Arc::new(client.expect("no certificates to be read"));
        let keyring = Keyring::new(Parts {
            own: Arc::new(OwnKeys {
                server,
                current: key,
                old: Vec::new(),
            }),
            stored: Arc::new(Nobody),
            client: client.clone(),
            submitter,
            notaries: Vec::new(),
        });
        (keyring, client)
    }
}
