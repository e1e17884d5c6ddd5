//! From a server's name to where it is asked (server-server API, *Resolving
//! server names*). What the name leaves open (SRV records, addresses) is found
//! when the connection is made, see `outbound/names.rs`.

use std::collections::BTreeMap;

use ruma::{OwnedServerName, ServerName};

use super::well_known::{WellKnown, WellKnownError};
use crate::config::values::StaticAddress;
use crate::outbound::names::FEDERATION_PORT;

/// By which step of the specification a server is found.
#[derive(Clone, Debug)]
pub enum Step {
    /// `federation.static_hosts` says where it is.
    Static(StaticAddress),
    /// 1: the name is an address.
    Literal,
    /// 2: the name has a port.
    Port,
    /// 3: the host delegates.
    Delegated(OwnedServerName),
    /// 4 to 6: it does not, for this reason.
    Itself(WellKnownError),
}

/// How a server is asked.
#[derive(Clone, Debug)]
pub struct Route {
    pub step: Step,
    /// Host, and port where it is settled, of the URL: what is connected to, and
    /// what the certificate must be for.
    pub authority: String,
    /// The `Host` header.
    pub host: String,
    /// The port is that of the authority (443 too, which a URL does not keep);
    /// else it is found with the addresses.
    pub settled: bool,
}

/// Finds servers.
pub struct Discovery {
    static_hosts: BTreeMap<OwnedServerName, StaticAddress>,
    well_known: WellKnown,
}

impl Discovery {
    pub(super) fn new(
        static_hosts: BTreeMap<OwnedServerName, StaticAddress>,
        well_known: WellKnown,
    ) -> Discovery {
        Discovery {
            static_hosts,
            well_known,
        }
    }

    /// How to ask a server. Always has an answer; whether somebody is there
    /// shows when the connection is made.
    pub async fn route(&self, server: &ServerName) -> Route {
        if let Some(address) = self.static_hosts.get(server) {
            return Route {
                authority: static_authority(server, address),
                host: server.to_string(),
                settled: server.is_ip_literal(),
                step: Step::Static(address.clone()),
            };
        }
        if let Some(route) = settled(server) {
            return route;
        }
        match self.well_known.delegated(server.host()).await {
            Ok(delegated) => {
                let step = Step::Delegated(delegated.clone());
                match settled(&delegated) {
                    Some(route) => Route { step, ..route },
                    None => open(&delegated, step),
                }
            }
            Err(error) => open(server, Step::Itself(error)),
        }
    }
}

/// The way to a server whose port is still to be found.
fn open(server: &ServerName, step: Step) -> Route {
    Route {
        step,
        authority: server.to_string(),
        host: server.to_string(),
        settled: false,
    }
}

/// The way to a server whose name says it all: steps 1 and 2, and 3.1 and 3.2
/// for a delegated name.
fn settled(server: &ServerName) -> Option<Route> {
    let port = server.port();
    let (step, port) = match (server.is_ip_literal(), port) {
        (true, port) => (Step::Literal, port.unwrap_or(FEDERATION_PORT)),
        (false, Some(port)) => (Step::Port, port),
        (false, None) => return None,
    };
    Some(Route {
        step,
        authority: format!("{}:{port}", server.host()),
        host: server.to_string(),
        settled: true,
    })
}

/// The certificate is that of the name also where the operator says where it is
/// served, unless the name is an address: then it is asked at the other one.
fn static_authority(server: &ServerName, address: &StaticAddress) -> String {
    match server.is_ip_literal() {
        true => address.to_string(),
        false => server.host().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_settle_the_way() {
        let settled = |name: &str| {
            let server = OwnedServerName::try_from(name).expect(name);
            settled(&server).map(|route| (route.authority, route.host))
        };
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(settled("1.2.3.4"), pair("1.2.3.4:8448", "1.2.3.4"));
        assert_eq!(settled("1.2.3.4:5"), pair("1.2.3.4:5", "1.2.3.4:5"));
        assert_eq!(settled("[::1]"), pair("[::1]:8448", "[::1]"));
        assert_eq!(settled("[::1]:5"), pair("[::1]:5", "[::1]:5"));
        assert_eq!(
            settled("hs.example:443"),
            pair("hs.example:443", "hs.example:443")
        );
        assert_eq!(settled("hs.example"), None);
    }
}
