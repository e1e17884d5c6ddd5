//! Token buckets per user, address or room, by security.md, section 2.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use quick_cache::unsync::Cache;

use super::errors::ApiError;

/// What is limited, by whom it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Events sent, by user.
    Message,
    /// Login attempts, by address.
    LoginAddress,
    /// Login attempts, by account.
    LoginAccount,
    /// Failed logins and failed password stages, by account.
    FailedLogin,
    /// Registrations, by address.
    Registration,
    /// Checks of registration tokens and user names, by address.
    TokenValidity,
    /// Joins of rooms that we are in, by user.
    JoinLocal,
    /// Joins through other servers, by user.
    JoinRemote,
    /// Joins, by room.
    JoinRoom,
    /// Invites, by room.
    InviteRoom,
    /// Invites, by invited user.
    InviteTarget,
    /// Invites, by inviting user.
    InviteIssuer,
    /// Rooms created, by user.
    RoomCreation,
    /// Changes of profile, account data, filters and devices, by user.
    UserData,
    /// Receipts, read markers and typing, by user.
    Ephemeral,
    /// Changes of presence, by user.
    Presence,
    /// Look-ups of other users, by address: more would list who is here.
    LookUp,
    /// Rooms of other servers that are looked at, by user: each costs a request.
    RemoteLookup,
    /// Reports, by user: people read them.
    Report,
    /// Keys of other servers, by address: each may cost a request of ours.
    Notary,
    /// Questions of another server about a room's history, by server.
    History,
    /// Joins, leaves, knocks and invites of another server through us, by server.
    Handshake,
}

impl Limit {
    const ALL: [Limit; 22] = [
        Limit::Message,
        Limit::LoginAddress,
        Limit::LoginAccount,
        Limit::FailedLogin,
        Limit::Registration,
        Limit::TokenValidity,
        Limit::JoinLocal,
        Limit::JoinRemote,
        Limit::JoinRoom,
        Limit::InviteRoom,
        Limit::InviteTarget,
        Limit::InviteIssuer,
        Limit::RoomCreation,
        Limit::UserData,
        Limit::Ephemeral,
        Limit::Presence,
        Limit::LookUp,
        Limit::RemoteLookup,
        Limit::Report,
        Limit::Notary,
        Limit::History,
        Limit::Handshake,
    ];

    /// Time until one more is allowed, and how many may come at once.
    fn quota(self) -> (Duration, u32) {
        match self {
            Limit::Message => (Duration::from_millis(200), 50),
            Limit::LoginAddress | Limit::LoginAccount => (Duration::from_secs(333), 5),
            Limit::FailedLogin => (Duration::from_millis(5_882), 3),
            Limit::Registration => (Duration::from_millis(5_882), 3),
            Limit::TokenValidity => (Duration::from_secs(10), 5),
            Limit::JoinLocal => (Duration::from_secs(10), 10),
            Limit::JoinRemote => (Duration::from_secs(100), 10),
            Limit::JoinRoom => (Duration::from_secs(1), 10),
            Limit::InviteRoom => (Duration::from_millis(3_333), 10),
            Limit::InviteTarget => (Duration::from_secs(333), 5),
            Limit::InviteIssuer => (Duration::from_millis(3_333), 10),
            Limit::RoomCreation => (Duration::from_millis(62_500), 10),
            Limit::UserData => (Duration::from_millis(200), 50),
            Limit::Ephemeral => (Duration::from_millis(100), 100),
            Limit::Presence => (Duration::from_secs(1), 10),
            // A client that opens a large room looks all its members up.
            Limit::LookUp => (Duration::from_millis(100), 500),
            Limit::RemoteLookup => (Duration::from_secs(1), 50),
            Limit::Report => (Duration::from_secs(10), 10),
            Limit::Notary => (Duration::from_secs(1), 50),
            // After a partition there is much to ask for.
            Limit::History => (Duration::from_millis(10), 1_000),
            // Many users of a large server may come at once.
            Limit::Handshake => (Duration::from_millis(100), 200),
        }
    }
}

/// One bucket per limit and key; keys are hashed under a random seed, so that
/// a check allocates nothing and nobody can aim at another's bucket.
type Buckets = DefaultKeyedRateLimiter<u64>;

/// How many checks go by between two sweeps of full buckets. A bucket is some
/// forty bytes, so this bounds memory by the rate of distinct keys in it.
const SWEEP_EVERY: u32 = 65_536;

/// Accounts that are barred at the same time; the least used is let in again.
const BARRED_MAX: usize = 100_000;

/// All limits, or none of them.
pub struct RateLimits {
    buckets: Option<Box<[Buckets]>>,
    /// Keys whose failures used up their bucket, and until when.
    barred: Mutex<Cache<(Limit, u64), Instant>>,
    seed: RandomState,
    clock: DefaultClock,
    checks: AtomicU32,
}

impl RateLimits {
    /// With `enabled` false every check passes.
    pub fn new(enabled: bool) -> RateLimits {
        let bucket = |limit: Limit| {
            let (period, burst) = limit.quota();
            // The table above holds no zero; were there one, the limit would be one a second.
            let quota = Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MIN));
            RateLimiter::keyed(quota.allow_burst(NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN)))
        };
        RateLimits {
            buckets: enabled.then(|| Limit::ALL.into_iter().map(bucket).collect()),
            barred: Mutex::new(Cache::new(BARRED_MAX)),
            seed: RandomState::new(),
            clock: DefaultClock::default(),
            checks: AtomicU32::new(0),
        }
    }

    /// Takes one from the key's bucket.
    ///
    /// Errors: `LimitExceeded` with the time until there is one again.
    pub fn check(&self, limit: Limit, key: impl Hash) -> Result<(), ApiError> {
        let Some(bucket) = self
            .buckets
            .as_ref()
            .and_then(|all| all.get(limit as usize))
        else {
            return Ok(());
        };
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.sweep();
        }
        let key = self.seed.hash_one(key);
        bucket
            .check_key(&key)
            .map_err(|until| ApiError::LimitExceeded {
                retry_after: until.wait_time_from(self.clock.now()),
            })
    }

    /// Takes one from the bucket of an address; IPv6 counts by /64, since a
    /// client has that many addresses for free.
    pub fn check_address(&self, limit: Limit, address: IpAddr) -> Result<(), ApiError> {
        match address.to_canonical() {
            IpAddr::V4(v4) => self.check(limit, v4),
            IpAddr::V6(v6) => self.check(limit, &v6.octets()[..8]),
        }
    }

    /// Notes a failure; once the bucket is empty, [`RateLimits::not_barred`]
    /// refuses until there is one again.
    pub fn note_failure(&self, limit: Limit, key: impl Hash + Copy) {
        if let Err(ApiError::LimitExceeded { retry_after }) = self.check(limit, key) {
            let until = Instant::now() + retry_after;
            let key = (limit, self.seed.hash_one(key));
            self.barred.lock().insert(key, until);
        }
    }

    /// Passes unless failures used up the key's bucket; takes nothing from it.
    pub fn not_barred(&self, limit: Limit, key: impl Hash) -> Result<(), ApiError> {
        let key = (limit, self.seed.hash_one(key));
        let mut barred = self.barred.lock();
        let Some(until) = barred.get(&key).copied() else {
            return Ok(());
        };
        let retry_after = until.saturating_duration_since(Instant::now());
        if retry_after.is_zero() {
            barred.remove(&key);
            return Ok(());
        }
        Err(ApiError::LimitExceeded { retry_after })
    }

    /// Forgets buckets that are full again.
    fn sweep(&self) {
        for bucket in self.buckets.iter().flatten() {
            bucket.retain_recent();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_in_the_order_of_their_numbers() {
        for (at, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, at, "{limit:?}");
        }
    }

    #[test]
    fn a_burst_passes_and_then_a_wait_is_named() {
        let limits = RateLimits::new(true);
        for _ in 0..5 {
            limits.check(Limit::LoginAddress, "a").unwrap();
        }
        let Err(ApiError::LimitExceeded { retry_after }) = limits.check(Limit::LoginAddress, "a")
        else {
            panic!("the sixth must wait");
        };
        assert!(retry_after > Duration::from_secs(300), "{retry_after:?}");
        limits.check(Limit::LoginAddress, "b").unwrap();
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_bucket() {
        let limits = RateLimits::new(true);
        for last in 0..3 {
            let address = format!("2001:db8:1:1::{last}").parse().unwrap();
            limits.check_address(Limit::Registration, address).unwrap();
        }
        let same = "2001:db8:1:1:ffff::1".parse().unwrap();
        assert!(limits.check_address(Limit::Registration, same).is_err());
        let other = "2001:db8:1:2::1".parse().unwrap();
        assert!(limits.check_address(Limit::Registration, other).is_ok());
    }

    #[test]
    fn failures_bar_a_key_once_its_bucket_is_empty() {
        let limits = RateLimits::new(true);
        for _ in 0..4 {
            limits.not_barred(Limit::FailedLogin, "a").unwrap();
            limits.note_failure(Limit::FailedLogin, "a");
        }
        assert!(limits.not_barred(Limit::FailedLogin, "a").is_err());
        limits.not_barred(Limit::FailedLogin, "b").unwrap();
    }

    #[test]
    fn disabled_limits_never_refuse() {
        let limits = RateLimits::new(false);
        for _ in 0..1_000 {
            limits.check(Limit::LoginAddress, "a").unwrap();
        }
    }
}
