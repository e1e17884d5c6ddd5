//! The listeners: one for clients, one with TLS for servers, one for metrics.
//! Each of the first two serves the whole router.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{Handle, Server};
use tokio::task::JoinSet;

use crate::config::Config;

/// How long a client may take for the head of a request; nothing bounds it by itself.
const HEAD_READ_MAX: Duration = Duration::from_secs(30);
/// Requests that one connection may have open at a time (HTTP/2 streams). What
/// a peer resets counts until it is cleaned up, so resets in a row get it no more.
const STREAMS_MAX: u32 = 100;
/// Header lines of a request; with more it is refused.
const HEADERS_MAX: usize = 100;
/// Bytes of a request's headers. Ours: the longest known have some 2 KiB.
const HEAD_BYTES_MAX: u32 = 32 * 1024;
/// How long a connection may stay silent before its first request.
const FIRST_REQUEST_MAX: Duration = Duration::from_secs(60);
/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// A listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    #[error("{key} = {address}: {source}")]
    Bind {
        key: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("federation.tls_cert = {cert}, tls_key = {key}: {source}", cert = .0.cert.display(), key = .0.key.display(), source = .1)]
    Certificate(CertificatePaths, io::Error),
}

/// Where the certificate of the federation listener lies.
#[derive(Clone, Debug)]
pub struct CertificatePaths {
    cert: PathBuf,
    key: PathBuf,
}

/// The certificate of the federation listener, replaceable while it serves.
#[derive(Clone)]
struct Certificate {
    paths: CertificatePaths,
    config: RustlsConfig,
}

/// Bound listeners that do not answer yet. They are bound before the logs are
/// opened, so that a port in use is told at once.
pub struct Doors {
    client: TcpListener,
    federation: Option<TcpListener>,
    certificate: Option<Certificate>,
    metrics: Option<TcpListener>,
}

/// The addresses that were really bound.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub client: SocketAddr,
    pub federation: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
}

/// Listeners that answer.
pub struct OpenDoors {
    /// One for each listener: a handle serves a single one.
    handles: Vec<Handle<SocketAddr>>,
    servers: JoinSet<io::Result<()>>,
    certificate: Option<Certificate>,
}

impl Doors {
    /// Binds every listener that is configured and reads the certificate.
    pub async fn bind(config: &Config) -> Result<Doors, DoorError> {
        let bind_if =
            |key, address: Option<SocketAddr>| address.map(|at| bind(key, at)).transpose();
        Ok(Doors {
            client: bind("client.bind", config.client.bind)?,
            federation: bind_if("federation.bind", config.federation.bind)?,
            certificate: Certificate::load(config).await?,
            metrics: bind_if("telemetry.metrics_bind", config.telemetry.metrics_bind)?,
        })
    }

    /// What was bound, with the ports that the system chose.
    pub fn addresses(&self) -> io::Result<Addresses> {
        let address = |listener: &Option<TcpListener>| {
            listener.as_ref().map(TcpListener::local_addr).transpose()
        };
        Ok(Addresses {
            client: self.client.local_addr()?,
            federation: address(&self.federation)?,
            metrics: address(&self.metrics)?,
        })
    }

    /// Begins to answer: `router` for clients and servers, `ops` on the metrics listener.
    pub fn open(self, router: &Router, ops: Router) -> io::Result<OpenDoors> {
        let mut open = OpenDoors {
            handles: Vec::new(),
            servers: JoinSet::new(),
            certificate: self.certificate.clone(),
        };
        open.serve_plain(self.client, router.clone())?;
        match (self.federation, self.certificate) {
            (Some(listener), Some(certificate)) => {
                open.serve_tls(listener, router.clone(), certificate.config)?;
            }
            // The configuration allows this for tests only.
            (Some(listener), None) => open.serve_plain(listener, router.clone())?,
            (None, _) => (),
        }
        if let Some(listener) = self.metrics {
            open.serve_plain(listener, ops)?;
        }
        Ok(open)
    }
}

impl OpenDoors {
    fn serve_plain(&mut self, listener: TcpListener, router: Router) -> io::Result<()> {
        let server = bounded(axum_server::from_tcp(listener)?).handle(self.handle());
        self.servers.spawn(server.serve(with_peer(router)));
        Ok(())
    }

    fn serve_tls(
        &mut self,
        listener: TcpListener,
        router: Router,
        config: RustlsConfig,
    ) -> io::Result<()> {
        let acceptor = RustlsAcceptor::new(config).handshake_timeout(HANDSHAKE_MAX);
        let server = bounded(axum_server::from_tcp(listener)?)
            .acceptor(acceptor)
            .handle(self.handle());
        self.servers.spawn(server.serve(with_peer(router)));
        Ok(())
    }

    fn handle(&mut self) -> Handle<SocketAddr> {
        let handle = Handle::new();
        self.handles.push(handle.clone());
        handle
    }

    /// Reads the certificate files again; the old certificate stays if that fails.
    pub async fn reload_certificate(&self) {
        let Some(Certificate { paths, config }) = &self.certificate else {
            return;
        };
        match config.reload_from_pem_file(&paths.cert, &paths.key).await {
            Ok(()) => tracing::info!("certificate of the federation listener reloaded"),
            Err(error) => tracing::error!(%error, "certificate not reloaded, the old one stays"),
        }
    }

    /// Resolves when a listener stops by itself, which none should.
    pub async fn failed(&mut self) -> io::Error {
        match self.servers.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => io::Error::other(error),
            Some(Ok(Ok(()))) | None => io::Error::other("a listener ended"),
        }
    }

    /// Accepts no more connections, lets requests in flight end, and cuts off
    /// those that take longer than `grace`.
    pub async fn close(mut self, grace: Duration) {
        for handle in &self.handles {
            handle.graceful_shutdown(Some(grace));
        }
        while self.servers.join_next().await.is_some() {}
    }
}

impl Certificate {
    async fn load(config: &Config) -> Result<Option<Certificate>, DoorError> {
        let federation = &config.federation;
        let (Some(cert), Some(key)) = (&federation.tls_cert, &federation.tls_key) else {
            return Ok(None);
        };
        let paths = CertificatePaths {
            cert: cert.clone(),
            key: key.clone(),
        };
        match RustlsConfig::from_pem_file(cert, key).await {
            Ok(config) => Ok(Some(Certificate { paths, config })),
            Err(error) => Err(DoorError::Certificate(paths, error)),
        }
    }
}

fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, DoorError> {
    TcpListener::bind(address).map_err(|source| DoorError::Bind {
        key,
        address,
        source,
    })
}

fn with_peer(router: Router) -> IntoMakeServiceWithConnectInfo<Router, SocketAddr> {
    router.into_make_service_with_connect_info::<SocketAddr>()
}

/// Bounds what a slow or silent client can hold.
fn bounded(mut server: Server<SocketAddr>) -> Server<SocketAddr> {
    let builder = server.http_builder();
    builder
        .http1()
        .header_read_timeout(HEAD_READ_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX as usize);
    builder
        .http2()
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX);
    server
        .first_request_timeout(FIRST_REQUEST_MAX)
        .accept_error_handler(|_, error| tracing::debug!(%error, "connection not accepted"))
}
