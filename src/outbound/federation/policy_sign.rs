//! `POST /_matrix/policy/v1/sign` (server-server API, *Asking for a Policy Server
//! signature on an event*).

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use ruma::ServerName;

use super::client::{Bounds, FederationClient, Request};
use crate::matrix::canonical_json::CanonicalJsonObject;
use crate::matrix::policy::POLICY_KEY_ID;
use crate::outbound::answer::RequestError;

/// A room waits for the answer.
const BOUNDS: Bounds = Bounds {
    answer_bytes_max: 64 * 1024,
    timeout: Duration::from_secs(5),
};

/// Asks a policy server to sign an event; its signature, unchecked. None if the
/// answer has none of it.
pub async fn sign(
    client: &FederationClient,
    server: &ServerName,
    event: &CanonicalJsonObject,
) -> Result<Option<String>, RequestError> {
    let request = Request {
        method: Method::POST,
        uri: "/_matrix/policy/v1/sign",
        body: Some(event),
        bounds: BOUNDS,
    };
    let mut answer: BTreeMap<String, BTreeMap<String, String>> =
        client.ask(server, &request).await?;
    let own = answer.remove(server.as_str());
    Ok(own.and_then(|mut own| own.remove(POLICY_KEY_ID)))
}
