//! Several servers that ask one another, and servers that lie.
//!
//! Each server has a loopback address of its own, so that all of them can listen
//! at the usual port, and none gets in the way of another test or process.

mod answers;
mod crowd;
mod elsewhere;
pub mod fake;
mod floods;
mod guest;
mod guests;
mod history;
mod identity;
mod interrupted;
mod inviting;
mod joining;
mod jumping;
mod keys;
mod killed;
mod knocking;
mod large;
mod large_room;
mod library;
mod lies;
mod listing;
mod made_up;
mod missing;
mod newcomers;
mod nonsense;
mod odd_events;
mod outside;
mod partition;
mod past;
mod poisoned;
mod policy;
mod receiving;
mod restricted;
mod sending;
mod sights;
mod soft_failure;
mod stopping;
mod third_party;
mod upgraded;
pub mod visitor;
mod wire;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::{Builder, Server};

/// Names that the test certificate is good for.
pub const NAMES: [&str; 3] = ["a.test", "b.test", "c.test"];

/// A file of the test certificate.
pub fn pem(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/server/tls")
        .join(name)
}

/// Where the servers of one test listen: one address each, by name.
#[derive(Clone)]
pub struct Neighbourhood {
    addresses: Vec<(&'static str, Ipv4Addr)>,
}

impl Neighbourhood {
    /// Addresses in 127.0.0.0/8 that no other test of this process, and no
    /// process that runs now, uses.
    pub fn new() -> Neighbourhood {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let addresses = NAMES.into_iter().map(|name| {
            // 22 bits of a process id (Linux allows no larger ones) would leave
            // too few: those of the processes that run are told apart by 14.
            let process = std::process::id() & 0x3FFF;
            let number = NEXT.fetch_add(1, Ordering::Relaxed) & 0xFF;
            let host = (1 << 23) | (process << 8) | number;
            (name, Ipv4Addr::from((127 << 24) | host))
        });
        Neighbourhood {
            addresses: addresses.collect(),
        }
    }

    /// The address of a server.
    pub fn address(&self, name: &str) -> Ipv4Addr {
        let found = self.addresses.iter().find(|(other, _)| *other == name);
        found.unwrap_or_else(|| panic!("{name} is no neighbour")).1
    }

    /// Settings of a server of that name that finds the others.
    pub fn builder(&self, name: &str) -> Builder {
        let others = self.addresses.iter().filter(|(other, _)| *other != name);
        let hosts: Vec<String> = others
            .map(|(other, address)| format!("{other}={address}:8448"))
            .collect();
        Server::builder()
            .set("SERVER_NAME", name)
            .set("FEDERATION__BIND", format!("{}:8448", self.address(name)))
            .set("FEDERATION__TLS_CERT", pem("test_cert.pem").display())
            .set("FEDERATION__TLS_KEY", pem("test_key.pem").display())
            .set("FEDERATION__EXTRA_CA", pem("test_ca.pem").display())
            .set("FEDERATION__STATIC_HOSTS", hosts.join(","))
            .set("FEDERATION__PUBLIC_ROOMS", true)
    }
}
