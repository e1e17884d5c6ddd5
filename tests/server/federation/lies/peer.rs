//! A homeserver that is honest in everything but one: what is told about one kind
//! of request is a lie.
//!
//! It is named by an address and a port, which the test certificate is good for,
//! so there may be as many of them as there are lies, and none of them is in the
//! way of another.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use axum_server::tls_rustls::RustlsConfig;
use engram::crypto::signing_key::ServerKey;
use engram::matrix::RoomVersion;
use engram::matrix::canonical_json::to_bytes;
use engram::matrix::redaction::redact;
use engram::matrix::signing::{sign_event, sign_json};
use http::{HeaderValue, StatusCode, Uri};
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use super::super::fake::{FAR, Fake, answer, object, own_keys};
use super::super::library::{Library, unescape};
use super::super::{Neighbourhood, pem};
use super::fetches::Fetch;
use super::front::Front;
use super::transport::Transport;
use super::watch::Watch;

/// Bytes of a request that are read; ours are smaller.
const REQUEST_BYTES_MAX: usize = 16 << 20;

/// What a lie makes of the truth.
pub type Twist = fn(&Told, Value) -> Value;

/// What is told.
#[derive(Clone, Copy, Debug)]
pub enum Lie {
    Transport(Transport),
    /// Its name, and whether what it says may be taken for what it is.
    Twist(&'static str, bool, Twist),
}

impl Lie {
    pub fn name(&self) -> String {
        match self {
            Lie::Transport(lie) => format!("{lie:?}"),
            Lie::Twist(name, ..) => (*name).to_owned(),
        }
    }

    /// Whether there is something true in it that may be made use of.
    pub fn is_usable(&self) -> bool {
        match self {
            Lie::Transport(lie) => lie.is_usable(),
            Lie::Twist(_, is_usable, _) => *is_usable,
        }
    }
}

/// What all of the hostile servers share.
#[derive(Clone)]
pub struct Common {
    pub neighbourhood: Neighbourhood,
    pub watch: Arc<Watch>,
    /// What a notary says of a server, where it lies.
    pub of_notary: Arc<Mutex<BTreeMap<String, Lie>>>,
    /// Where nobody may be led to, and how often somebody came.
    pub inside: SocketAddr,
}

/// See the module.
pub struct Peer {
    pub fake: Fake,
    pub front: Front,
    pub told: Arc<Told>,
}

/// Where a peer makes events up: a room, its user there, and what events of that
/// user build on and cite.
#[derive(Clone, Debug)]
pub struct Place {
    pub version: RoomVersion,
    pub room: String,
    pub user: String,
    pub tips: Vec<String>,
    /// Of a join; and of whatever else.
    pub cites: [Vec<String>; 2],
}

/// What a peer answers.
pub struct Told {
    pub name: OwnedServerName,
    pub key: ServerKey,
    pub library: Library,
    pub place: Mutex<Option<Place>>,
    common: Common,
    lie: Mutex<Option<(Fetch, Lie)>>,
    /// What is answered in truth, where nothing is looked up for it; with a status.
    answers: Mutex<BTreeMap<Fetch, (u16, Value)>>,
    asked: Mutex<BTreeMap<Fetch, u32>>,
    /// Paths that no request of ours has.
    strange: Mutex<Vec<String>>,
}

impl Peer {
    pub async fn start(common: &Common) -> Peer {
        Peer::at(common, Ipv4Addr::LOCALHOST).await
    }

    /// At another address, for which the certificate is not.
    pub async fn impostor(common: &Common) -> Peer {
        Peer::at(common, Ipv4Addr::new(127, 0, 0, 2)).await
    }

    async fn at(common: &Common, address: Ipv4Addr) -> Peer {
        let bind = |address: Ipv4Addr| TcpListener::bind((address, 0)).unwrap();
        let (outer, inner) = (bind(address), bind(Ipv4Addr::LOCALHOST));
        let name = outer.local_addr().unwrap().to_string();
        let front = Front::before(outer, inner.local_addr().unwrap());
        let told = Arc::new(Told {
            name: OwnedServerName::try_from(name.as_str()).unwrap(),
            key: ServerKey::from_seed([3; 32], "fake"),
            library: Library::default(),
            place: Mutex::default(),
            common: common.clone(),
            lie: Mutex::default(),
            answers: Mutex::default(),
            asked: Mutex::default(),
            strange: Mutex::default(),
        });
        let tells = told.clone();
        let answers = move |request: Request| {
            let told = tells.clone();
            async move { told.answer(request).await }
        };
        let fake = Fake::listen(&common.neighbourhood, &name, inner, tls(), answers);
        Peer {
            fake: fake.await,
            front,
            told,
        }
    }

    pub fn name(&self) -> &str {
        self.told.name.as_str()
    }

    /// A user of the peer.
    pub fn user(&self, localpart: &str) -> String {
        format!("@{localpart}:{}", self.told.name)
    }

    /// From now on it lies about that.
    pub fn lie(&self, fetch: Fetch, lie: Lie) {
        *self.told.lie.lock() = Some((fetch, lie));
    }

    /// What it says to that in truth.
    pub fn say(&self, fetch: Fetch, status: u16, truth: Value) {
        self.told.answers.lock().insert(fetch, (status, truth));
    }

    /// See [`Peer::say`].
    pub fn truth(&self, fetch: Fetch) -> Value {
        self.told.answers.lock()[&fetch].1.clone()
    }

    /// How often it was asked for that.
    pub fn asked(&self, fetch: Fetch) -> u32 {
        self.told.asked.lock().get(&fetch).copied().unwrap_or(0)
    }

    /// Paths that it was asked for and that no list has.
    pub fn strange(&self) -> Vec<String> {
        self.told.strange.lock().clone()
    }
}

impl Told {
    async fn answer(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, REQUEST_BYTES_MAX).await;
        let body: Value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
        let path = parts.uri.path();
        self.common.watch.look(path, &body);
        let Some(fetch) = Fetch::of(path) else {
            self.strange.lock().push(path.to_owned());
            return answer(StatusCode::NOT_FOUND, b"{}".to_vec());
        };
        *self.asked.lock().entry(fetch).or_default() += 1;
        if matches!(fetch, Fetch::SendJoin | Fetch::OldSendJoin) {
            // It is asked for what is before it later.
            let id = path.rsplit('/').next().unwrap_or_default();
            self.library.add(&unescape(id), &body, Vec::new());
        }
        let (status, truth) = self.truth(fetch, &parts.uri, &body);
        let lie = match fetch {
            Fetch::Notary => self.lie_of_notary(&body),
            fetch => self.lie.lock().filter(|(about, _)| *about == fetch),
        };
        let uri = parts.uri.to_string();
        let mut told = match lie {
            Some((_, Lie::Transport(lie))) => lie.tell(&truth, &uri, self.common.inside).await,
            Some((_, Lie::Twist(_, _, twist))) => {
                let lie = twist(self, truth).to_string();
                answer(StatusCode::OK, lie.into_bytes())
            }
            None => answer(
                StatusCode::from_u16(status).unwrap(),
                truth.to_string().into_bytes(),
            ),
        };
        let close = HeaderValue::from_static("close");
        told.headers_mut().insert("connection", close);
        told
    }

    fn lie_of_notary(&self, body: &Value) -> Option<(Fetch, Lie)> {
        let (server, _) = body["server_keys"].as_object()?.iter().next()?;
        let lies = self.common.of_notary.lock();
        Some((Fetch::Notary, *lies.get(server)?))
    }

    fn truth(&self, fetch: Fetch, uri: &Uri, body: &Value) -> (u16, Value) {
        if let Some(fixed) = self.answers.lock().get(&fetch) {
            return fixed.clone();
        }
        let unknown = || (404, json!({ "errcode": "M_NOT_FOUND", "error": "unknown" }));
        let truth = match fetch {
            Fetch::Keys => json!(own_keys(self.name.as_str(), &self.key, FAR)),
            Fetch::Notary => match body["server_keys"].as_object() {
                Some(asked) => json!({ "server_keys": self.notarised(asked.keys()) }),
                None => return unknown(),
            },
            Fetch::Version => json!({ "server": { "name": "Honest", "version": "1" } }),
            Fetch::Invite => self.invited(&body["room_version"], &body["event"]),
            Fetch::OldInvite => json!([200, self.invited(&json!("2"), body)]),
            Fetch::SendLeave => json!({}),
            Fetch::OldSendLeave => json!([200, {}]),
            Fetch::SendKnock => json!({ "knock_room_state": [] }),
            Fetch::Send => json!({ "pdus": {} }),
            Fetch::PolicySign => self.recommended(body),
            _ => match self.library.find(uri, body) {
                Some(found) => found,
                None => return unknown(),
            },
        };
        (200, truth)
    }

    /// Keys of others, which are the same everywhere, as a notary passes them on.
    fn notarised<'a>(&self, servers: impl Iterator<Item = &'a String>) -> Vec<Value> {
        let keys = servers.map(|server| {
            let mut keys = own_keys(server, &self.key, FAR);
            sign_json(&mut keys, &self.name, &self.key);
            json!(keys)
        });
        keys.collect()
    }

    /// An invite, with the signature of who is invited.
    fn invited(&self, version: &Value, event: &Value) -> Value {
        let version = RoomVersion::parse(version.as_str().unwrap_or("1"));
        let mut event = object(event);
        sign_event(version.unwrap(), &mut event, &self.name, &self.key);
        json!({ "event": event })
    }

    /// The room that it makes events up in.
    pub fn place(&self) -> Place {
        self.place.lock().clone().expect("the peer is in a room")
    }

    /// What a policy server answers about an event of a room of version 11.
    pub fn recommended(&self, event: &Value) -> Value {
        self.signed_as(&policy_key(), &self.name, event)
    }

    /// The signature of a policy server with that key and name.
    pub fn signed_as(&self, key: &ServerKey, name: &ServerName, event: &Value) -> Value {
        let mut redacted = redact(&RoomVersion::V11.rules().redaction, &object(event));
        redacted.remove("signatures");
        redacted.remove("unsigned");
        sign_json(&mut redacted, name, key);
        let signed: Value = serde_json::from_slice(&to_bytes(&redacted)).unwrap();
        signed["signatures"].clone()
    }
}

pub fn policy_key() -> ServerKey {
    ServerKey::from_seed([9; 32], "policy_server")
}

/// The test certificate, and HTTP/1.1 alone: its lies are more.
fn tls() -> RustlsConfig {
    let certificates = CertificateDer::pem_file_iter(pem("test_cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(pem("test_key.pem")).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(certificates.map(Result::unwrap).collect(), key);
    RustlsConfig::from_config(Arc::new(config.unwrap()))
}
