//! A homeserver that is none: it signs requests with a key of its own, and
//! answers what a test tells it to.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use engram::crypto::signing_key::ServerKey;
use engram::matrix::canonical_json::{CanonicalJsonObject, Numbers, parse_object_with, to_bytes};
use engram::matrix::server_keys::published;
use engram::matrix::x_matrix::SignedRequest;
use http::StatusCode;
use reqwest::Method;
use ruma::{OwnedServerName, ServerName};
use serde_json::Value;

use super::{NAMES, Neighbourhood, pem};

/// A server under a name of the neighbourhood.
pub struct Fake {
    pub name: OwnedServerName,
    pub key: Arc<ServerKey>,
    http: reqwest::Client,
    handle: Handle<SocketAddr>,
}

impl Fake {
    /// Listens, and answers by `answers` whatever it is asked.
    pub async fn start<F>(
        neighbourhood: &Neighbourhood,
        name: &'static str,
        answers: impl Fn(Request) -> F + Clone + Send + Sync + 'static,
    ) -> Fake
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let config = tls().await;
        let address = SocketAddr::from((neighbourhood.address(name), 8448));
        let listener = TcpListener::bind(address).unwrap();
        Fake::listen(neighbourhood, name, listener, config, answers).await
    }

    /// The same under any name, wherever it listens.
    pub async fn listen<F>(
        neighbourhood: &Neighbourhood,
        name: &str,
        listener: TcpListener,
        config: RustlsConfig,
        answers: impl Fn(Request) -> F + Clone + Send + Sync + 'static,
    ) -> Fake
    where
        F: Future<Output = Response> + Send + 'static,
    {
        listener.set_nonblocking(true).unwrap();
        let handle = Handle::new();
        let router = Router::new().fallback(answers);
        let server = axum_server::from_tcp_rustls(listener, config).unwrap();
        let server = server.handle(handle.clone());
        tokio::spawn(server.serve(router.into_make_service()));
        handle.listening().await.expect("the fake server listens");
        let mut http = reqwest::Client::builder().tls_certs_only([certificate()]);
        for name in NAMES {
            let at = SocketAddr::from((neighbourhood.address(name), 8448));
            http = http.resolve(name, at);
        }
        Fake {
            name: OwnedServerName::try_from(name).unwrap(),
            key: Arc::new(ServerKey::from_seed([3; 32], "fake")),
            http: http.build().unwrap(),
            handle,
        }
    }

    /// A server whose name is an address and a port: there may be many of them. It
    /// publishes its key, and answers by `answers` what else it is asked.
    pub async fn numbered<F>(
        neighbourhood: &Neighbourhood,
        answers: impl Fn(Request) -> F + Clone + Send + Sync + 'static,
    ) -> Fake
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let name = listener.local_addr().unwrap().to_string();
        let keys = own_keys(&name, &ServerKey::from_seed([3; 32], "fake"), FAR);
        let keys = to_bytes(&keys);
        let answers = move |request: Request| {
            let keys = keys.clone();
            let is_key = request.uri().path() == "/_matrix/key/v2/server";
            let other = (!is_key).then(|| answers(request));
            async move {
                match other {
                    Some(other) => other.await,
                    None => answer(StatusCode::OK, keys),
                }
            }
        };
        let config = tls().await;
        Fake::listen(neighbourhood, &name, listener, config, answers).await
    }

    /// A server that publishes its key, and knows nothing else.
    pub async fn with_keys(neighbourhood: &Neighbourhood, name: &'static str) -> Fake {
        let keys = own_keys(name, &ServerKey::from_seed([3; 32], "fake"), FAR);
        Fake::start(neighbourhood, name, move |request: Request| {
            let answer = match request.uri().path() {
                "/_matrix/key/v2/server" => answer(StatusCode::OK, to_bytes(&keys)),
                _ => answer(
                    StatusCode::NOT_FOUND,
                    br#"{"errcode":"M_NOT_FOUND"}"#.to_vec(),
                ),
            };
            std::future::ready(answer)
        })
        .await
    }

    /// A client that finds the others, for requests that no server should make.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The header with which this server signs a request.
    pub fn authorization(
        &self,
        destination: &str,
        method: &Method,
        uri: &str,
        body: Option<&CanonicalJsonObject>,
    ) -> String {
        SignedRequest {
            method: method.as_str(),
            uri,
            origin: &self.name,
            destination: <&ServerName>::try_from(destination).unwrap(),
            content: body,
        }
        .authorization(&self.key)
    }

    /// Asks a server, with any header.
    pub async fn ask_with(
        &self,
        server: &str,
        method: Method,
        uri: &str,
        authorization: &str,
    ) -> (u16, Value) {
        let url = format!("https://{server}:8448{uri}");
        let request = self.http.request(method, url);
        let request = request.header("Authorization", authorization);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.bytes().await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Sends a server a body, signed as it should be.
    pub async fn send(
        &self,
        server: &str,
        method: Method,
        uri: &str,
        body: &CanonicalJsonObject,
    ) -> (u16, Value) {
        let answer = self.try_send(server, method, uri, body).await;
        answer.expect("is answered")
    }

    /// The same with a server that may be gone: none if it does not answer.
    pub async fn try_send(
        &self,
        server: &str,
        method: Method,
        uri: &str,
        body: &CanonicalJsonObject,
    ) -> Option<(u16, Value)> {
        let authorization = self.authorization(server, &method, uri, Some(body));
        let url = format!("https://{server}:8448{uri}");
        let request = self.http.request(method, url);
        let request = request
            .header("Authorization", authorization)
            .body(to_bytes(body));
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let body = answer.bytes().await.ok()?;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Some((status, body))
    }

    /// Asks a server as it should be asked.
    pub async fn get(&self, server: &str, uri: &str) -> (u16, Value) {
        let authorization = self.authorization(server, &Method::GET, uri, None);
        self.ask_with(server, Method::GET, uri, &authorization)
            .await
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

/// A time that no test comes to: 2200.
pub const FAR: u64 = 7_258_118_400_000;

/// What a server publishes of itself.
pub fn own_keys(name: &str, key: &ServerKey, valid_until_ts: u64) -> CanonicalJsonObject {
    let name = <&ServerName>::try_from(name).unwrap();
    published(name, key, &[], valid_until_ts)
}

/// An answer with a body.
pub fn answer(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
}

/// JSON as the server's own type.
pub fn object(json: &Value) -> CanonicalJsonObject {
    parse_object_with(json.to_string().as_bytes(), Numbers::Kept).unwrap()
}

/// The test certificate, for a server.
async fn tls() -> RustlsConfig {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = RustlsConfig::from_pem_file(pem("test_cert.pem"), pem("test_key.pem"));
    config.await.unwrap()
}

fn certificate() -> reqwest::Certificate {
    let pem = std::fs::read(pem("test_ca.pem")).unwrap();
    reqwest::Certificate::from_pem(&pem).unwrap()
}
