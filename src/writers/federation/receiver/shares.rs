//! Memory that all servers share, so that no dozen of them can use up all of it.
//!
//! A server may hold a part of what is free, and no more: each one that comes is
//! left less, and the last is left something still. What is small has memory of
//! its own, so that whoever sends the usual few events never waits for those who
//! send as much as there may be.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};

/// Bytes that small and large things take at most.
const SMALL_BYTES_MAX: usize = 16 * 1024 * 1024;
const LARGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What is small: some hundred events of the usual size.
const SMALL_BYTES: usize = 128 * 1024;
/// Of small and large things a server may hold so much of what is free.
const SMALL_PART: usize = 32;
const LARGE_PART: usize = 4;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Shares {
    small: Arc<Mutex<Pool>>,
    large: Arc<Mutex<Pool>>,
}

struct Pool {
    free: usize,
    part: usize,
    held: HashMap<OwnedServerName, usize>,
}

/// Bytes that a server holds, given back when dropped.
pub struct Share {
    pool: Arc<Mutex<Pool>>,
    server: OwnedServerName,
    bytes: usize,
}

impl Default for Shares {
    fn default() -> Shares {
        let pool = |free, part| {
            let held = HashMap::new();
            Arc::new(Mutex::new(Pool { free, part, held }))
        };
        Shares {
            small: pool(SMALL_BYTES_MAX, SMALL_PART),
            large: pool(LARGE_BYTES_MAX, LARGE_PART),
        }
    }
}

impl Shares {
    /// Takes so many bytes for a server; none if that is more than its share.
    pub fn take(&self, server: &ServerName, bytes: usize) -> Option<Share> {
        let pool = match bytes <= SMALL_BYTES {
            true => &self.small,
            false => &self.large,
        };
        pool.lock().take(server, bytes).then(|| Share {
            pool: pool.clone(),
            server: server.to_owned(),
            bytes,
        })
    }

    /// Bytes that are held.
    pub fn taken(&self) -> usize {
        let free = self.small.lock().free + self.large.lock().free;
        (SMALL_BYTES_MAX + LARGE_BYTES_MAX).saturating_sub(free)
    }
}

impl Pool {
    fn take(&mut self, server: &ServerName, bytes: usize) -> bool {
        let held = self.held.get(server).copied().unwrap_or(0);
        let share = self.free.saturating_add(held) / self.part;
        if held.saturating_add(bytes) > share {
            return false;
        }
        self.free = self.free.saturating_sub(bytes);
        *self.held.entry(server.to_owned()).or_default() += bytes;
        true
    }

    fn give_back(&mut self, server: &ServerName, bytes: usize) {
        self.free += bytes;
        if let Some(held) = self.held.get_mut(server) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.held.remove(server);
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pool.lock().give_back(&self.server, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SEND_BODY_BYTES_MAX;

    fn server(number: usize) -> OwnedServerName {
        OwnedServerName::try_from(format!("server{number}")).expect("a name")
    }

    /// Takes as much as there is for a server, in pieces that it may choose.
    fn greedy(shares: &Shares, server: &ServerName) -> Vec<Share> {
        let mut held = Vec::new();
        for bytes in [SEND_BODY_BYTES_MAX, 1024 * 1024, SMALL_BYTES, 1024] {
            held.extend(std::iter::from_fn(|| shares.take(server, bytes)));
        }
        held
    }

    #[test]
    fn one_server_alone_may_send_what_there_may_be() {
        let shares = Shares::default();
        assert!(shares.take(&server(0), SEND_BODY_BYTES_MAX).is_some());
        assert_eq!(shares.taken(), 0);
    }

    #[test]
    fn greedy_servers_leave_something_to_the_next() {
        let shares = Shares::default();
        let held: Vec<Vec<Share>> = (0..20).map(|n| greedy(&shares, &server(n))).collect();
        let usual = shares.take(&server(90), SMALL_BYTES);
        let taken = shares.taken();
        assert!(usual.is_some(), "of {taken} taken");
        assert!(shares.take(&server(91), SEND_BODY_BYTES_MAX).is_none());
        drop((held, usual));
        assert_eq!(shares.taken(), 0);
        assert!(shares.small.lock().held.is_empty() && shares.large.lock().held.is_empty());
    }
}
