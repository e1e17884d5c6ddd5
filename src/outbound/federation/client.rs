//! The one client for requests to homeservers: finds the server, signs, bounds
//! time and bytes, follows no redirect.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Method, RequestBuilder, Url};
use ruma::{OwnedServerName, ServerName};
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::discovery::{Discovery, Route, Step};
use super::well_known::{WellKnown, literal};
use crate::config::values::StaticAddress;
use crate::crypto::ServerKey;
use crate::matrix::canonical_json::{CanonicalJsonObject, to_bytes};
use crate::matrix::x_matrix::SignedRequest;
use crate::outbound::addresses::AddressFilter;
use crate::outbound::answer::{RequestError, accepted, begun};
use crate::outbound::dns::Dns;
use crate::outbound::names::{FederationNames, StaticName, WebNames, federation_addresses};
use crate::outbound::streamed::{Body, Pace};

/// How long a connection that nobody uses is kept.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Unused connections that are kept for one server.
const IDLE_PER_SERVER: usize = 2;
/// Requests at a time, over all servers; transactions are not among them.
const REQUESTS_AT_A_TIME: usize = 256;

/// No request may take longer by its own bounds, but for those that ask for the
/// state of a room, see [`Pace`].
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Bounds on one request and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub answer_bytes_max: usize,
    /// From the first byte of the request to the last one of the answer. The
    /// operator may allow less, see [`Patience`].
    pub timeout: Duration,
}

impl Bounds {
    /// What fits most requests.
    pub const DEFAULT: Bounds = Bounds {
        answer_bytes_max: 32 * 1024 * 1024,
        timeout: Duration::from_secs(60),
    };
    /// Keys, versions and the like, for which others wait.
    pub const SMALL: Bounds = Bounds {
        answer_bytes_max: 1024 * 1024,
        timeout: Duration::from_secs(8),
    };
}

/// How long the operator lets us wait for others (`federation.connect_seconds`
/// and its neighbours).
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To connect, handshake included.
    pub connect: Duration,
    /// For an answer.
    pub answer: Duration,
    /// For an answer that is the state of a room.
    pub state: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(10),
            answer: ANSWER_MAX,
            state: Duration::from_secs(900),
        }
    }
}

impl Patience {
    /// How long a request with these bounds may take.
    fn with(&self, bounds: Bounds) -> Duration {
        let most = match bounds.timeout > ANSWER_MAX {
            true => self.state,
            false => self.answer,
        };
        bounds.timeout.min(most)
    }
}

/// What the client is made from.
pub struct Settings {
    pub origin: OwnedServerName,
    pub key: Arc<ServerKey>,
    pub static_hosts: BTreeMap<OwnedServerName, StaticAddress>,
    pub filter: AddressFilter,
    /// PEM of certificates that are trusted beside the system's.
    pub extra_ca: Option<Vec<u8>>,
    pub dns: Arc<dyn Dns>,
    pub patience: Patience,
}

/// `extra_ca` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("federation.extra_ca holds no certificates in PEM: {0}")]
pub struct ExtraCaError(reqwest::Error);

/// A request to a server.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub method: Method,
    /// Path and query, percent-encoded, from `/_matrix` on.
    pub uri: &'a str,
    pub body: Option<&'a CanonicalJsonObject>,
    pub bounds: Bounds,
}

impl<'a> Request<'a> {
    pub fn get(uri: &'a str, bounds: Bounds) -> Request<'a> {
        Request {
            method: Method::GET,
            uri,
            body: None,
            bounds,
        }
    }
}

/// Asks homeservers. Cheap to share behind a reference count.
pub struct FederationClient {
    origin: OwnedServerName,
    key: Arc<ServerKey>,
    discovery: Discovery,
    filter: AddressFilter,
    dns: Arc<dyn Dns>,
    /// For routes whose port is settled, and for those whose port is to be found.
    settled_http: Result<Client, RequestError>,
    open_http: Result<Client, RequestError>,
    static_http: BTreeMap<OwnedServerName, Result<Client, RequestError>>,
    requests: Semaphore,
    patience: Patience,
}

impl FederationClient {
    /// Connects to nobody yet. A system without trusted certificates is told at
    /// the first request, since a server that does not federate needs none.
    pub fn new(settings: Settings) -> Result<FederationClient, ExtraCaError> {
        let extra = match &settings.extra_ca {
            Some(pem) => Certificate::from_pem_bundle(pem).map_err(ExtraCaError)?,
            None => Vec::new(),
        };
        let (dns, filter) = (&settings.dns, &settings.filter);
        let connect = settings.patience.connect;
        let web = client(&extra, connect, |builder| {
            let (dns, filter) = (dns.clone(), filter.clone());
            builder.dns_resolver(Arc::new(WebNames { dns, filter }))
        });
        let open_http = client(&extra, connect, |builder| {
            let (dns, filter) = (dns.clone(), filter.clone());
            builder.dns_resolver(Arc::new(FederationNames { dns, filter }))
        });
        let static_http = settings.static_hosts.iter().map(|(server, address)| {
            let client = client(&extra, connect, |builder| {
                builder.dns_resolver(Arc::new(StaticName {
                    dns: dns.clone(),
                    host: address.host.clone(),
                    port: address.port,
                }))
            });
            (server.clone(), client)
        });
        Ok(FederationClient {
            origin: settings.origin,
            key: settings.key,
            static_http: static_http.collect(),
            discovery: Discovery::new(
                settings.static_hosts,
                WellKnown::new(web.clone(), filter.clone()),
            ),
            settled_http: web,
            open_http,
            filter: settings.filter,
            dns: settings.dns,
            requests: Semaphore::new(REQUESTS_AT_A_TIME),
            patience: settings.patience,
        })
    }

    /// Our own name.
    pub fn origin(&self) -> &ServerName {
        &self.origin
    }

    /// How a server is reached.
    pub async fn route(&self, server: &ServerName) -> Route {
        self.discovery.route(server).await
    }

    /// Where a route leads, as it would be connected to now.
    pub async fn addresses(&self, route: &Route) -> Result<Vec<SocketAddr>, RequestError> {
        if let Step::Static(address) = &route.step {
            let found = match address.host.parse() {
                Ok(ip) => vec![ip],
                Err(_) => self.dns.addresses(&address.host).await?,
            };
            return Ok(with_port(found, address.port));
        }
        let url = Url::parse(&format!("https://{}/", route.authority));
        let url = url.map_err(|error| RequestError::Connection(error.to_string().into()))?;
        if let Some(ip) = literal(&url) {
            self.filter.check(ip)?;
            return Ok(with_port(vec![ip], url.port().unwrap_or(443)));
        }
        let host = url.host_str().unwrap_or_default();
        if route.settled {
            let found = self.filter.allowed(self.dns.addresses(host).await?)?;
            return Ok(with_port(found, url.port().unwrap_or(443)));
        }
        let found = federation_addresses(&*self.dns, host).await?;
        let allowed = self
            .filter
            .allowed(found.iter().map(SocketAddr::ip).collect())?;
        let found = found.into_iter();
        Ok(found.filter(|at| allowed.contains(&at.ip())).collect())
    }

    /// Sends a signed request; the answer is the body of a 200.
    pub async fn send(
        &self,
        destination: &ServerName,
        request: &Request<'_>,
    ) -> Result<Bytes, RequestError> {
        let authorization = self.authorization(destination, request);
        let _permit = self.permit(request.bounds).await?;
        self.exchange(destination, request, Some(authorization))
            .await
    }

    /// [`FederationClient::send`], for what is sent unasked: whoever sends it
    /// bounds how much that is at a time, so that servers that are gone keep
    /// nobody waiting who asks something.
    pub async fn deliver(
        &self,
        destination: &ServerName,
        request: &Request<'_>,
    ) -> Result<Bytes, RequestError> {
        let authorization = self.authorization(destination, request);
        self.exchange(destination, request, Some(authorization))
            .await
    }

    /// [`FederationClient::send`], with the answer read as JSON.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        destination: &ServerName,
        request: &Request<'_>,
    ) -> Result<T, RequestError> {
        let answer = self.send(destination, request).await?;
        serde_json::from_slice(&answer).map_err(|_| RequestError::NotJson)
    }

    /// Sends a signed request whose answer is read while it comes. The permit is
    /// to be held until it is read.
    pub async fn open(
        &self,
        destination: &ServerName,
        (method, uri, body): (Method, &str, Option<&CanonicalJsonObject>),
        pace: Pace,
    ) -> Result<(Body, Option<SemaphorePermit<'_>>), RequestError> {
        let pace = pace.within(self.patience.state);
        let bounds = Bounds {
            answer_bytes_max: pace.bytes_max,
            timeout: pace.begin_max,
        };
        let request = Request {
            method,
            uri,
            body,
            bounds,
        };
        let authorization = self.authorization(destination, &request);
        let permit = self.permit(bounds).await?;
        let begins = async {
            let sent = self.request(destination, &request, Some(authorization));
            let response = sent.await?.send().await;
            let response = response.map_err(|error| RequestError::of(&error, pace.begin_max))?;
            begun(response, pace.begin_max).await
        };
        let response = timeout(pace.begin_max, begins).await;
        let response = response.map_err(|_| RequestError::Timeout(pace.begin_max))??;
        Ok((Body::new(response, pace)?, permit))
    }

    /// Sends a request that needs no signature.
    pub async fn send_unsigned(
        &self,
        destination: &ServerName,
        request: &Request<'_>,
    ) -> Result<Bytes, RequestError> {
        let _permit = self.permit(request.bounds).await?;
        self.exchange(destination, request, None).await
    }

    /// The header that signs a request.
    fn authorization(&self, destination: &ServerName, request: &Request<'_>) -> String {
        SignedRequest {
            method: request.method.as_str(),
            uri: request.uri,
            origin: &self.origin,
            destination,
            content: request.body,
        }
        .authorization(&self.key)
    }

    /// A turn to ask, for which nobody waits longer than for the answer.
    async fn permit(&self, bounds: Bounds) -> Result<Option<SemaphorePermit<'_>>, RequestError> {
        let wait = self.patience.with(bounds);
        let turn = tokio::time::timeout(wait, self.requests.acquire()).await;
        // Never closed, so there is always a permit to come.
        turn.map(Result::ok)
            .map_err(|_| RequestError::Timeout(wait))
    }

    async fn exchange(
        &self,
        destination: &ServerName,
        request: &Request<'_>,
        authorization: Option<String>,
    ) -> Result<Bytes, RequestError> {
        let bounds = request.bounds;
        let wait = self.patience.with(bounds);
        let sent = self.request(destination, request, authorization).await?;
        let response = sent.timeout(wait).send().await;
        let response = response.map_err(|error| RequestError::of(&error, wait))?;
        accepted(response, bounds.answer_bytes_max, wait).await
    }

    /// A request that is ready to be sent, without a bound on its time.
    async fn request(
        &self,
        destination: &ServerName,
        request: &Request<'_>,
        authorization: Option<String>,
    ) -> Result<RequestBuilder, RequestError> {
        let route = self.route(destination).await;
        let (http, url) = self.way(destination, &route, request.uri)?;
        let mut sent = http
            .request(request.method.clone(), url)
            .header(HOST, &route.host);
        if let Some(authorization) = authorization {
            sent = sent.header(AUTHORIZATION, authorization);
        }
        if let Some(body) = request.body {
            sent = sent
                .header(CONTENT_TYPE, "application/json")
                .body(to_bytes(body));
        }
        Ok(sent)
    }

    /// The client and the URL for a route, once a literal address is checked.
    fn way(
        &self,
        destination: &ServerName,
        route: &Route,
        uri: &str,
    ) -> Result<(&Client, Url), RequestError> {
        let url = format!("https://{}{uri}", route.authority);
        let url =
            Url::parse(&url).map_err(|error| RequestError::Connection(error.to_string().into()))?;
        let http = match route.step {
            Step::Static(_) => self.static_http.get(destination),
            _ => {
                if let Some(address) = literal(&url) {
                    self.filter.check(address)?;
                }
                None
            }
        };
        let http = http.unwrap_or(match route.settled {
            true => &self.settled_http,
            false => &self.open_http,
        });
        Ok((http.as_ref().map_err(RequestError::clone)?, url))
    }
}

fn with_port(addresses: Vec<IpAddr>, port: u16) -> Vec<SocketAddr> {
    let addresses = addresses.into_iter();
    addresses.map(|ip| SocketAddr::new(ip, port)).collect()
}

/// A client with our bounds that trusts the system's certificates and `extra`.
pub(super) fn client(
    extra: &[Certificate],
    connect: Duration,
    names: impl Fn(ClientBuilder) -> ClientBuilder,
) -> Result<Client, RequestError> {
    let builder = || {
        let builder = Client::builder()
            .user_agent(concat!("Engram/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .https_only(true)
            .no_proxy()
            .connect_timeout(connect)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_PER_SERVER);
        names(builder)
    };
    let merged = builder().tls_certs_merge(extra.iter().cloned()).build();
    merged.or_else(|error| {
        // Without certificates of the system's, ours may do.
        if extra.is_empty() {
            return Err(RequestError::Connection(
                format!(
                    "no trusted certificates ({error}); install Debian's ca-certificates or set \
                     federation.extra_ca"
                )
                .into(),
            ));
        }
        let only = builder().tls_certs_only(extra.iter().cloned()).build();
        only.map_err(|error| RequestError::Connection(error.to_string().into()))
    })
}
