//! The client for other servers, from the configuration.

use std::sync::Arc;
use std::time::Duration;

use super::exit::Exit;
use crate::config::Config;
use crate::crypto::signing_key::ServerKey;
use crate::outbound::addresses::AddressFilter;
use crate::outbound::dns::SystemDns;
use crate::outbound::federation::{FederationClient, Patience, Settings};

/// Makes the client. Connects to nobody.
pub fn federation_client(
    config: &Config,
    key: Arc<ServerKey>,
) -> Result<Arc<FederationClient>, Exit> {
    let federation = &config.federation;
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let extra_ca = match &federation.extra_ca {
        None => None,
        Some(path) => {
            let pem = std::fs::read(path);
            let named =
                |error| Exit::usage(format!("federation.extra_ca = {}: {error}", path.display()));
            Some(pem.map_err(named)?)
        }
    };
    let client = FederationClient::new(Settings {
        origin: config.identity.server_name.clone(),
        key,
        static_hosts: federation.static_hosts.clone(),
        filter: AddressFilter::new(federation.deny_addresses.clone()),
        extra_ca,
        dns: Arc::new(SystemDns::new()),
        patience: Patience {
            connect: seconds(federation.connect_seconds.0),
            answer: seconds(federation.answer_seconds.0),
            state: seconds(federation.state_seconds.0),
        },
    });
    let client = client.map_err(|error| Exit::usage(error.to_string()))?;
    Ok(Arc::new(client))
}
