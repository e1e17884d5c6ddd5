//! Names into addresses. A port, so that tests of discovery need no name server.
//!
//! Addresses are looked up as the system does it (hosts file included); SRV
//! records, for which the system has no call, by a resolver of our own. Both are
//! cached for a short while, and what does not exist as well: a room of many dead
//! servers asks for the same names again and again.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Names whose addresses or services are remembered.
const CACHED_NAMES: usize = 4_096;
/// How long an address is remembered: shorter than most records allow, since the
/// system's call does not tell how long they do.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Longest time that one look-up takes.
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// Look-ups at a time: each holds a thread of the blocking pool.
const LOOKUPS_AT_A_TIME: usize = 32;
/// Addresses or services that one name may have; the rest is left out.
const RECORDS_MAX: usize = 16;

/// A name could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    #[error("{0} has no address")]
    NoAddress(Box<str>),
    #[error("{name} could not be looked up: {why}")]
    Failed { name: Box<str>, why: Box<str> },
}

/// Where a service is offered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    pub host: String,
    pub port: u16,
}

/// The answer of a look-up, some day.
pub type Looking<T> = Pin<Box<dyn Future<Output = Result<T, DnsError>> + Send>>;

/// Looks names up.
pub trait Dns: Send + Sync {
    /// Addresses of a host (A, AAAA and what leads to them).
    ///
    /// Errors: a host without any is [`DnsError::NoAddress`].
    fn addresses(&self, host: &str) -> Looking<Vec<IpAddr>>;

    /// SRV records of a name, in the order in which they are to be tried; none
    /// where there are none.
    fn services(&self, name: &str) -> Looking<Vec<Service>>;
}

type Remembered<T> = Cache<String, (Instant, Result<T, DnsError>)>;

/// The system's names.
pub struct SystemDns {
    inner: Arc<Inner>,
}

struct Inner {
    /// None where the system names no name server; then nothing has SRV records.
    resolver: Option<TokioResolver>,
    addresses: Remembered<Vec<IpAddr>>,
    services: Remembered<Vec<Service>>,
    lookups: Semaphore,
}

impl SystemDns {
    /// Reads the system's configuration.
    pub fn new() -> SystemDns {
        let resolver = TokioResolver::builder_tokio().and_then(|mut builder| {
            let options = builder.options_mut();
            options.timeout = LOOKUP_MAX / 2;
            options.attempts = 1;
            builder.build()
        });
        let resolver = match resolver {
            Ok(resolver) => Some(resolver),
            Err(error) => {
                tracing::warn!(%error, "no name server: SRV records are not looked up");
                None
            }
        };
        SystemDns {
            inner: Arc::new(Inner {
                resolver,
                addresses: Cache::new(CACHED_NAMES),
                services: Cache::new(CACHED_NAMES),
                lookups: Semaphore::new(LOOKUPS_AT_A_TIME),
            }),
        }
    }
}

impl Default for SystemDns {
    fn default() -> SystemDns {
        SystemDns::new()
    }
}

impl Dns for SystemDns {
    fn addresses(&self, host: &str) -> Looking<Vec<IpAddr>> {
        let (inner, host) = (self.inner.clone(), host.to_ascii_lowercase());
        Box::pin(async move {
            if let Some(known) = remembered(&inner.addresses, &host) {
                return known;
            }
            let found = within(&host, inner.look_up_addresses(&host)).await;
            inner
                .addresses
                .insert(host, (Instant::now(), found.clone()));
            found
        })
    }

    fn services(&self, name: &str) -> Looking<Vec<Service>> {
        let (inner, name) = (self.inner.clone(), name.to_ascii_lowercase());
        Box::pin(async move {
            if let Some(known) = remembered(&inner.services, &name) {
                return known;
            }
            let found = within(&name, inner.look_up_services(&name)).await;
            inner.services.insert(name, (Instant::now(), found.clone()));
            found
        })
    }
}

fn remembered<T: Clone>(cache: &Remembered<T>, name: &str) -> Option<Result<T, DnsError>> {
    let (since, known) = cache.get(name)?;
    (since.elapsed() < REMEMBERED).then_some(known)
}

async fn within<T>(
    name: &str,
    lookup: impl Future<Output = Result<T, DnsError>>,
) -> Result<T, DnsError> {
    match timeout(LOOKUP_MAX, lookup).await {
        Ok(found) => found,
        Err(_) => Err(failed(name, "no answer in time")),
    }
}

fn failed(name: &str, why: impl std::fmt::Display) -> DnsError {
    DnsError::Failed {
        name: name.into(),
        why: why.to_string().into(),
    }
}

impl Inner {
    async fn look_up_addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        let _permit = self.lookups.acquire().await;
        // The port is not looked up, but the call wants one.
        let found = tokio::net::lookup_host((host, 0)).await;
        let found = found.map_err(|error| failed(host, error))?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found.map(|found| found.ip()) {
            if !addresses.contains(&address) && addresses.len() < RECORDS_MAX {
                addresses.push(address);
            }
        }
        match addresses.is_empty() {
            true => Err(DnsError::NoAddress(host.into())),
            false => Ok(addresses),
        }
    }

    async fn look_up_services(&self, name: &str) -> Result<Vec<Service>, DnsError> {
        let Some(resolver) = &self.resolver else {
            return Ok(Vec::new());
        };
        // A trailing dot: the system's search domains are not the server's.
        let found = match resolver.srv_lookup(format!("{name}.")).await {
            Ok(found) => found,
            Err(error) if error.is_no_records_found() => return Ok(Vec::new()),
            Err(error) => return Err(failed(name, error)),
        };
        let mut services: Vec<Service> = Vec::new();
        for record in found.answers() {
            let RData::SRV(srv) = &record.data else {
                continue;
            };
            let host = srv.target.to_utf8();
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            // A target of `.` says that the service is not offered (RFC 2782).
            if host.is_empty() || services.len() == RECORDS_MAX {
                continue;
            }
            services.push(Service {
                priority: srv.priority,
                weight: srv.weight,
                host,
                port: srv.port,
            });
        }
        // The heaviest first within a priority: it shares load less well than a
        // draw by lot would, and tries the same server each time.
        services.sort_by_key(|service| (service.priority, u16::MAX - service.weight));
        Ok(services)
    }
}

#[cfg(test)]
pub mod fake {
    //! A name server of a few names.

    use std::collections::HashMap;

    use parking_lot::Mutex;

    use super::*;

    /// Knows what it is told, and counts what it is asked.
    #[derive(Default)]
    pub struct FakeDns {
        pub addresses: HashMap<&'static str, Vec<IpAddr>>,
        pub services: HashMap<&'static str, Vec<Service>>,
        pub asked: Mutex<Vec<String>>,
    }

    impl Dns for FakeDns {
        fn addresses(&self, host: &str) -> Looking<Vec<IpAddr>> {
            self.asked.lock().push(host.to_owned());
            let found = self.addresses.get(host).cloned();
            let found = found.ok_or(DnsError::NoAddress(host.into()));
            Box::pin(std::future::ready(found))
        }

        fn services(&self, name: &str) -> Looking<Vec<Service>> {
            self.asked.lock().push(name.to_owned());
            let found = self.services.get(name).cloned().unwrap_or_default();
            Box::pin(std::future::ready(Ok(found)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_hosts_file_is_read_and_what_is_not_there_is_told() {
        let dns = SystemDns::new();
        let found = dns.addresses("LOCALHOST").await.expect("localhost");
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
        assert_eq!(dns.addresses("localhost").await, Ok(found));
        // RFC 2606: no such name, here or anywhere.
        assert!(dns.addresses("nowhere.invalid").await.is_err());
    }
}
