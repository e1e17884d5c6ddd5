//! What registrations under way asked for, and which accounts they made.
//!
//! A client may send what it wants only with its first request, and one that
//! lost our answer asks again; both name their user-interactive session. It is
//! memory only: after a restart a client begins anew.

use std::time::Instant;

use parking_lot::Mutex;
use quick_cache::unsync::Cache;
use ruma::OwnedUserId;

use super::limits::{REGISTRATIONS_MAX, UIA_SESSION_LIFETIME};

/// What a client wants of its new account.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub username: Option<String>,
    pub password: Option<String>,
    pub device_id: Option<String>,
    pub initial_device_display_name: Option<String>,
    pub inhibit_login: Option<bool>,
    pub refresh_token: Option<bool>,
    /// Of the guest whose account it is to be.
    pub guest_access_token: Option<String>,
}

impl Wanted {
    /// Takes from `earlier` what is left out here.
    pub fn or(self, earlier: Wanted) -> Wanted {
        Wanted {
            username: self.username.or(earlier.username),
            password: self.password.or(earlier.password),
            device_id: self.device_id.or(earlier.device_id),
            initial_device_display_name: self
                .initial_device_display_name
                .or(earlier.initial_device_display_name),
            inhibit_login: self.inhibit_login.or(earlier.inhibit_login),
            refresh_token: self.refresh_token.or(earlier.refresh_token),
            guest_access_token: self.guest_access_token.or(earlier.guest_access_token),
        }
    }
}

/// What is known of a registration by its session.
#[derive(Clone, Debug)]
pub struct Known {
    pub wanted: Wanted,
    /// The account, once there is one.
    pub made: Option<OwnedUserId>,
    since: Instant,
}

/// Registrations by session id, the least used forgotten first.
pub struct Registrations {
    by_session: Mutex<Cache<String, Known>>,
}

impl Default for Registrations {
    fn default() -> Registrations {
        Registrations {
            by_session: Mutex::new(Cache::new(REGISTRATIONS_MAX)),
        }
    }
}

impl Registrations {
    /// What an earlier request of this session left.
    pub fn find(&self, session: &str) -> Option<Known> {
        let mut by_session = self.by_session.lock();
        let known = by_session.get(session)?;
        if known.since.elapsed() < UIA_SESSION_LIFETIME {
            return Some(known.clone());
        }
        by_session.remove(session);
        None
    }

    /// Remembers what was asked for while stages are missing.
    pub fn ask(&self, session: &str, wanted: Wanted) {
        self.insert(session, wanted, None);
    }

    /// Remembers the account that came of it, and its password no longer.
    pub fn made(&self, session: &str, wanted: Wanted, user: OwnedUserId) {
        let wanted = Wanted {
            password: None,
            guest_access_token: None,
            ..wanted
        };
        self.insert(session, wanted, Some(user));
    }

    fn insert(&self, session: &str, wanted: Wanted, made: Option<OwnedUserId>) {
        let mut by_session = self.by_session.lock();
        let since = by_session.get(session).map(|known| known.since);
        let known = Known {
            wanted,
            made,
            since: since.unwrap_or_else(Instant::now),
        };
        by_session.insert(session.to_owned(), known);
    }
}
