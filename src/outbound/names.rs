//! How the HTTP client resolves names: through [`Dns`] and the address filter,
//! so that what is connected to is what was checked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::addresses::AddressFilter;
use super::dns::{Dns, DnsError};

/// Names of the web: the port is that of the URL.
pub(super) struct WebNames {
    pub dns: Arc<dyn Dns>,
    pub filter: AddressFilter,
}

impl Resolve for WebNames {
    fn resolve(&self, name: Name) -> Resolving {
        let looking = self.dns.addresses(name.as_str());
        let filter = self.filter.clone();
        Box::pin(async move {
            let addresses = filter.allowed(looking.await?)?;
            Ok(with_port(addresses, 0))
        })
    }
}

/// Names of homeservers: steps 3.3 to 3.5 and 4 to 6 of *Resolving server
/// names*. The port that is found here counts where the URL has none.
pub(super) struct FederationNames {
    pub dns: Arc<dyn Dns>,
    pub filter: AddressFilter,
}

impl Resolve for FederationNames {
    fn resolve(&self, name: Name) -> Resolving {
        let (dns, filter) = (self.dns.clone(), self.filter.clone());
        Box::pin(async move {
            let found = federation_addresses(&*dns, name.as_str()).await?;
            let mut allowed = Vec::with_capacity(found.len());
            let mut denied = None;
            for address in found {
                match filter.check(address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(error) => denied = Some(error),
                }
            }
            match denied {
                Some(error) if allowed.is_empty() => Err(error.into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

/// One server that is reached at a fixed address, which the operator chose and
/// no filter forbids.
pub(super) struct StaticName {
    pub dns: Arc<dyn Dns>,
    pub host: String,
    pub port: u16,
}

impl Resolve for StaticName {
    fn resolve(&self, _: Name) -> Resolving {
        let port = self.port;
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Box::pin(std::future::ready(Ok(with_port(vec![address], port))));
        }
        let looking = self.dns.addresses(&self.host);
        Box::pin(async move { Ok(with_port(looking.await?, port)) })
    }
}

fn with_port(addresses: Vec<IpAddr>, port: u16) -> Addrs {
    let addresses = addresses.into_iter();
    Box::new(addresses.map(move |address| SocketAddr::new(address, port)))
}

/// The port where no SRV record names another.
pub(super) const FEDERATION_PORT: u16 = 8448;
/// SRV names, the one in use first.
const SERVICES: [&str; 2] = ["_matrix-fed._tcp", "_matrix._tcp"];

/// Where a homeserver of that host listens, by SRV records or else at port 8448.
pub(super) async fn federation_addresses(
    dns: &dyn Dns,
    host: &str,
) -> Result<Vec<SocketAddr>, DnsError> {
    for service in SERVICES {
        // A name server that fails is not one that says no, but the next step
        // may still find the server, as it would without SRV records.
        let services = dns.services(&format!("{service}.{host}")).await;
        let Ok(services) = services else {
            continue;
        };
        if services.is_empty() {
            continue;
        }
        let mut found = Vec::new();
        let mut failed = None;
        for service in services {
            match dns.addresses(&service.host).await {
                Ok(addresses) => found.extend(
                    addresses
                        .into_iter()
                        .map(|address| SocketAddr::new(address, service.port)),
                ),
                Err(error) => failed = Some(error),
            }
        }
        return match failed {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        };
    }
    let addresses = dns.addresses(host).await?;
    Ok(addresses
        .into_iter()
        .map(|address| SocketAddr::new(address, FEDERATION_PORT))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::dns::Service;
    use super::super::dns::fake::FakeDns;
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn service(host: &str, port: u16) -> Vec<Service> {
        vec![Service {
            priority: 0,
            weight: 0,
            host: host.to_owned(),
            port,
        }]
    }

    async fn found(dns: &FakeDns, host: &str) -> Vec<String> {
        let found = federation_addresses(dns, host).await.unwrap_or_default();
        found.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn srv_records_come_before_the_usual_port() {
        let mut dns = FakeDns::default();
        dns.addresses
            .insert("hs", vec![ip("1.0.0.1"), ip("1.0.0.2")]);
        dns.addresses.insert("new", vec![ip("1.0.0.3")]);
        dns.addresses.insert("old", vec![ip("1.0.0.4")]);
        assert_eq!(found(&dns, "hs").await, ["1.0.0.1:8448", "1.0.0.2:8448"]);
        dns.services.insert("_matrix._tcp.hs", service("old", 2));
        assert_eq!(found(&dns, "hs").await, ["1.0.0.4:2"]);
        dns.services
            .insert("_matrix-fed._tcp.hs", service("new", 1));
        assert_eq!(found(&dns, "hs").await, ["1.0.0.3:1"]);
        // What the record names must exist: there is no way back to the host.
        dns.services
            .insert("_matrix-fed._tcp.hs", service("gone", 1));
        assert!(found(&dns, "hs").await.is_empty());
    }

    #[tokio::test]
    async fn a_denied_target_is_not_connected_to() {
        let mut dns = FakeDns::default();
        dns.addresses.insert("inside", vec![ip("127.0.0.1")]);
        dns.services
            .insert("_matrix-fed._tcp.hs", service("inside", 22));
        let names = FederationNames {
            dns: Arc::new(dns),
            filter: AddressFilter::new(crate::config::values::AddressRange::private()),
        };
        let resolved = names.resolve("hs".parse().expect("name")).await;
        assert!(resolved.is_err());
    }
}
