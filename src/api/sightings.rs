//! From where devices were seen last, for `GET /devices` and `GET /admin/whois`.
//!
//! Addresses say where people are, so they are in memory only: no log and no
//! table keeps them, and after a restart a device is unknown until it asks again.

use std::net::IpAddr;

use parking_lot::Mutex;
use quick_cache::unsync::Cache;
use ruma::{DeviceId, UserId};

use super::limits::{SIGHTING_AGENT_BYTES_MAX, SIGHTING_PRECISION, SIGHTINGS_MAX};

/// The last request of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub address: IpAddr,
    /// As the client names itself; the first [`SIGHTING_AGENT_BYTES_MAX`] bytes.
    pub user_agent: Option<Box<str>>,
    /// Milliseconds since the epoch, up to [`SIGHTING_PRECISION`] old.
    pub at_ms: u64,
}

/// Sightings by device, the least used forgotten first.
pub struct Sightings {
    by_device: Mutex<Cache<[u8; 32], Sighting>>,
}

impl Default for Sightings {
    fn default() -> Sightings {
        Sightings {
            by_device: Mutex::new(Cache::new(SIGHTINGS_MAX)),
        }
    }
}

impl Sightings {
    /// Notes a request. Every request does, so one that tells nothing new within
    /// [`SIGHTING_PRECISION`] costs a look-up.
    pub fn note(
        &self,
        user: &UserId,
        device: &DeviceId,
        address: IpAddr,
        user_agent: Option<&str>,
        now_ms: u64,
    ) {
        let user_agent = user_agent.map(shortened);
        let key = key(user, device);
        let mut by_device = self.by_device.lock();
        let is_known = by_device.get(&key).is_some_and(|known| {
            known.address == address
                && known.user_agent.as_deref() == user_agent
                && u128::from(now_ms.saturating_sub(known.at_ms)) < SIGHTING_PRECISION.as_millis()
        });
        if !is_known {
            let sighting = Sighting {
                address,
                user_agent: user_agent.map(Box::from),
                at_ms: now_ms,
            };
            by_device.insert(key, sighting);
        }
    }

    /// The last sighting of a device, if it is remembered.
    pub fn of(&self, user: &UserId, device: &DeviceId) -> Option<Sighting> {
        self.by_device.lock().get(&key(user, device)).cloned()
    }
}

/// Of the same size for any device.
fn key(user: &UserId, device: &DeviceId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    // No user id holds a zero byte.
    hasher.update(user.as_bytes());
    hasher.update(&[0]);
    hasher.update(device.as_bytes());
    *hasher.finalize().as_bytes()
}

fn shortened(agent: &str) -> &str {
    let mut ends = (0..=agent.len().min(SIGHTING_AGENT_BYTES_MAX)).rev();
    ends.find_map(|end| agent.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn what_is_new_is_noted_at_once_and_time_now_and_then() {
        let sightings = Sightings::default();
        let (user, phone) = (user_id!("@a:x"), device_id!("PHONE"));
        let note = |agent, now_ms| sightings.note(user, phone, HERE, agent, now_ms);
        let last = || sightings.of(user, phone).map(|seen| seen.at_ms);
        let precision = u64::try_from(SIGHTING_PRECISION.as_millis()).unwrap();
        assert_eq!(last(), None);
        note(None, 1_000);
        note(None, 999 + precision);
        assert_eq!(last(), Some(1_000));
        note(None, 1_000 + precision);
        assert_eq!(last(), Some(1_000 + precision));
        note(Some("other"), 1_001 + precision);
        assert_eq!(last(), Some(1_001 + precision));
        assert_eq!(sightings.of(user, device_id!("TABLET")), None);
        assert_eq!(sightings.of(user_id!("@b:x"), phone), None);
    }

    #[test]
    fn a_long_name_is_cut() {
        let sightings = Sightings::default();
        let (user, phone) = (user_id!("@a:x"), device_id!("PHONE"));
        let long = format!("x{}", "ä".repeat(SIGHTING_AGENT_BYTES_MAX));
        sightings.note(user, phone, HERE, Some(&long), 1);
        let kept = sightings.of(user, phone).and_then(|seen| seen.user_agent);
        let kept = kept.unwrap();
        assert!(kept.len() <= SIGHTING_AGENT_BYTES_MAX && long.starts_with(&*kept));
    }
}
