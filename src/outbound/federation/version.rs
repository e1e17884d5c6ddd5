//! `GET /_matrix/federation/v1/version`: what a server runs (server-server API,
//! *Server implementation*).

use ruma::ServerName;
use serde::Deserialize;

use super::client::{Bounds, FederationClient, Request};
use crate::outbound::answer::RequestError;

/// Name and version of an implementation, as it tells them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Implementation {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub version: String,
}

/// Asks a server what it runs.
pub async fn version(
    client: &FederationClient,
    server: &ServerName,
) -> Result<Implementation, RequestError> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        server: Implementation,
    }
    let request = Request::get("/_matrix/federation/v1/version", Bounds::SMALL);
    let answer = client.send_unsigned(server, &request).await?;
    let body: Body = serde_json::from_slice(&answer).map_err(|_| RequestError::NotJson)?;
    Ok(body.server)
}
