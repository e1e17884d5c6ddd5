//! One user's presence, as it follows from what their devices do: pure, with
//! the time as an argument (client-server API, *Presence*).
//!
//! A device *claims* that its user is there for as long as it syncs, and a
//! little longer; so does one that sets a presence. Without a claim the user is
//! offline. Of several claims the most present one counts.

use std::collections::BTreeMap;
use std::time::Duration;

use log_format::record::ephemeral::PresenceState;
use ruma::{DeviceId, OwnedDeviceId};
use tokio::time::Instant;

use crate::query::ephemeral::Presence;
use crate::writers::ephemeral::Shown;

/// For how long a user counts as currently active after they did something.
const ACTIVE_FOR: Duration = Duration::from_secs(60);
/// How much newer than what was told the last activity is before it is written
/// down again, where nothing else changed: others see it when they ask.
const ACTIVE_WRITTEN_EVERY_MS: u64 = 20_000;
/// Devices of a user that claim at the same time; the one that ends first goes.
const CLAIMS_MAX: usize = 32;
/// The claim of an earlier process, which is nobody's device.
const EARLIER: &str = "";

/// A moment, by the clock that never goes back and by the one on the wall.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub at: Instant,
    /// Milliseconds since the epoch.
    pub ms: u64,
}

/// The times that an operator sets.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Without activity for so long a user is unavailable.
    pub idle_after: Duration,
    /// Without a sync for so long a device's user is offline.
    pub offline_after: Duration,
}

/// What was told of a user.
pub fn shown_of(known: &Presence) -> Shown {
    Shown {
        state: known.state,
        status_msg: known.status_msg.clone(),
        last_active_ms: known.last_active_ms,
        currently_active: known.currently_active,
    }
}

/// What a device last said.
#[derive(Debug)]
struct Claim {
    /// Names it, so that a sync which ends late ends no other.
    number: u64,
    unavailable: bool,
    /// Syncs that are being answered.
    syncing: usize,
    /// When it ends, while none is.
    until: Instant,
}

/// A user, tracked while there is a claim.
#[derive(Debug)]
pub struct Tracked {
    claims: BTreeMap<OwnedDeviceId, Claim>,
    /// The user said that they are unavailable, and did nothing since.
    away: bool,
    status_msg: Option<Box<str>>,
    active: Option<Moment>,
    /// What was told last.
    pub told: Shown,
}

impl Tracked {
    /// A user as they were told before; none of whom nothing is known.
    pub fn found(known: Option<&Presence>, now: Moment) -> Tracked {
        let told = known.map_or(
            Shown {
                state: PresenceState::Offline,
                status_msg: None,
                last_active_ms: None,
                currently_active: false,
            },
            shown_of,
        );
        let active = told.last_active_ms.and_then(|ms| {
            let ago = Duration::from_millis(now.ms.saturating_sub(ms));
            let at = now.at.checked_sub(ago)?;
            Some(Moment { at, ms })
        });
        Tracked {
            claims: BTreeMap::new(),
            away: false,
            status_msg: told.status_msg.clone(),
            active,
            told,
        }
    }

    /// A user who was there when the process before ended: their devices have
    /// some time to sync again.
    pub fn left_behind(known: &Presence, now: Moment, timing: Timing) -> Tracked {
        let mut tracked = Tracked::found(Some(known), now);
        let claim = Claim {
            number: 0,
            unavailable: known.state == PresenceState::Unavailable,
            syncing: 0,
            until: now.at + timing.offline_after,
        };
        tracked.claims.insert(EARLIER.into(), claim);
        tracked
    }

    /// A sync begins that says the user is there, or idle. `number` is new.
    /// Returns the number of the claim that it is part of.
    pub fn sync_began(
        &mut self,
        device: &DeviceId,
        unavailable: bool,
        number: u64,
        now: Moment,
    ) -> u64 {
        self.drop_ended(now);
        // Who was there before the restart did not just come.
        let earlier = self.claims.get(<&DeviceId>::from(EARLIER));
        let known = self.claims.get(device).or(earlier);
        let was_there = known.is_some_and(|claim| !claim.unavailable);
        if !unavailable && !was_there {
            self.acted(now);
        }
        self.make_room(device);
        let claim = self.claims.entry(device.to_owned()).or_insert(Claim {
            number,
            unavailable,
            syncing: 0,
            until: now.at,
        });
        claim.unavailable = unavailable;
        claim.syncing += 1;
        claim.number
    }

    /// A sync was answered, or its client went away.
    pub fn sync_ended(&mut self, device: &DeviceId, number: u64, now: Moment, timing: Timing) {
        let claim = self.claims.get_mut(device);
        if let Some(claim) = claim.filter(|claim| claim.number == number) {
            claim.syncing = claim.syncing.saturating_sub(1);
            claim.until = now.at + timing.offline_after;
        }
    }

    /// The user sets their presence. `number` is new.
    pub fn set(
        &mut self,
        device: &DeviceId,
        state: PresenceState,
        status_msg: Option<Box<str>>,
        number: u64,
        (now, timing): (Moment, Timing),
    ) {
        self.drop_ended(now);
        self.status_msg = status_msg;
        self.active = Some(now);
        self.away = state == PresenceState::Unavailable;
        if state == PresenceState::Offline {
            // The next sync that says otherwise brings them back.
            self.claims.clear();
            return;
        }
        self.make_room(device);
        let claim = self.claims.entry(device.to_owned()).or_insert(Claim {
            number,
            unavailable: false,
            syncing: 0,
            until: now.at,
        });
        claim.until = claim.until.max(now.at + timing.offline_after);
        claim.unavailable = false;
    }

    /// The user did something: that makes them online, unless they are offline.
    pub fn acted(&mut self, now: Moment) {
        self.active = Some(now);
        self.away = false;
        for claim in self.claims.values_mut() {
            claim.unavailable = false;
        }
    }

    /// What is true now, and when it may change by itself; never without a claim.
    pub fn shown(&mut self, now: Moment, timing: Timing) -> (Shown, Option<Instant>) {
        self.drop_ended(now);
        let ends = self.claims.values().filter(|claim| claim.syncing == 0);
        let mut next = ends.map(|claim| claim.until).min();
        let mut within = |duration: Duration| {
            let until = self.active.map(|active| active.at + duration);
            let until = until.filter(|until| *until > now.at);
            next = [next, until].into_iter().flatten().min();
            until.is_some()
        };
        let claimed = self.claims.values();
        let state = match claimed.map(|claim| claim.unavailable).min() {
            None => PresenceState::Offline,
            Some(false) if !self.away && within(timing.idle_after) => PresenceState::Online,
            Some(_) => PresenceState::Unavailable,
        };
        let shown = Shown {
            state,
            status_msg: self.status_msg.clone(),
            last_active_ms: self.last_active_ms(),
            currently_active: state == PresenceState::Online && within(ACTIVE_FOR),
        };
        (shown, next)
    }

    /// Whether something is to be written down.
    pub fn differs(&self, shown: &Shown) -> bool {
        let told = &self.told;
        let newer = shown.last_active_ms.unwrap_or(0);
        let newer = newer.saturating_sub(told.last_active_ms.unwrap_or(0));
        told.state != shown.state
            || told.status_msg != shown.status_msg
            || told.currently_active != shown.currently_active
            || newer >= ACTIVE_WRITTEN_EVERY_MS
    }

    pub fn last_active_ms(&self) -> Option<u64> {
        self.active
            .map(|active| active.ms)
            .or(self.told.last_active_ms)
    }

    pub fn is_there(&self) -> bool {
        !self.claims.is_empty()
    }

    fn drop_ended(&mut self, now: Moment) {
        self.claims
            .retain(|_, claim| claim.syncing > 0 || claim.until > now.at);
    }

    /// Makes room for one more device.
    fn make_room(&mut self, device: &DeviceId) {
        if self.claims.len() < CLAIMS_MAX || self.claims.contains_key(device) {
            return;
        }
        let first = self.claims.iter();
        let first = first.min_by_key(|(_, claim)| (claim.syncing > 0, claim.until));
        if let Some(first) = first.map(|(device, _)| device.clone()) {
            self.claims.remove(&first);
        }
    }
}
