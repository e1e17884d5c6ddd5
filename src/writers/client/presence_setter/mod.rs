//! Presence of local users (client-server API, *Presence*): set by them, and by
//! what their devices do. [`tracked`] has the rules, this keeps the clock.
//!
//! A record is appended where something changed that others are told of, so that
//! a client which syncs on and on costs a look at memory. What a change costs
//! does not depend on who will be told of it: that is found out by who reads.

#[cfg(test)]
mod tests;
mod tracked;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use log_format::record::Source;
use log_format::record::ephemeral::PresenceState;
use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::tracked::Timing;
use self::tracked::{Moment, Tracked};
use super::deadlines::{self, Deadlines};
use crate::clock::now_ms;
use crate::logs::log::AppendError;
use crate::query::ephemeral::Since;
use crate::query::ids::EphemeralOffset;
use crate::writers::ephemeral::{EphemeralWriter, Pending, presence_record};
use crate::writers::submit::SubmitError;

/// When it is tried again to tell what could not be told.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a user is tracked who is offline: what was told last of them is in
/// the answers of the query window by then.
const LINGERS_FOR: Duration = Duration::from_secs(10);

/// The writer of presence. Cheap to clone.
#[derive(Clone)]
pub struct PresenceSetter {
    inner: Arc<Inner>,
}

struct Inner {
    enabled: bool,
    timing: Timing,
    server: OwnedServerName,
    ephemeral: EphemeralWriter,
    /// Held while a record is queued, so that the log has the order of what is
    /// decided here. Inside it the query window is read and the queue's lock taken.
    state: Mutex<State>,
    /// Notified when the next deadline moves forward.
    earlier: Notify,
}

#[derive(Default)]
struct State {
    users: HashMap<OwnedUserId, Tracked>,
    /// When a user's presence may change by itself.
    due: Deadlines<OwnedUserId>,
    claims: u64,
}

impl State {
    fn next_claim(&mut self) -> u64 {
        self.claims += 1;
        self.claims
    }
}

impl PresenceSetter {
    /// Users of `server` who were there when the process before ended are so for
    /// as long as their devices take to sync again.
    pub fn new(
        enabled: bool,
        timing: Timing,
        server: &ServerName,
        ephemeral: EphemeralWriter,
    ) -> PresenceSetter {
        let mut state = State::default();
        let now = moment();
        let known = match enabled {
            true => ephemeral.window().changes(Since::Nothing).presence,
            false => Vec::new(),
        };
        for presence in known {
            if presence.user_id.server_name() == server {
                let user = presence.user_id.clone();
                let tracked = Tracked::left_behind(&presence, now, timing);
                state.users.insert(user.clone(), tracked);
                state.due.set(user, now.at);
            }
        }
        PresenceSetter {
            inner: Arc::new(Inner {
                enabled,
                timing,
                server: server.to_owned(),
                ephemeral,
                state: Mutex::new(state),
                earlier: Notify::new(),
            }),
        }
    }

    /// Whether the operator has presence.
    pub fn is_enabled(&self) -> bool {
        self.inner.enabled
    }

    /// A user sets their presence.
    pub async fn set(
        &self,
        user: &UserId,
        device: &DeviceId,
        presence: PresenceState,
        status_msg: Option<Box<str>>,
    ) -> Result<(), SubmitError> {
        if !self.inner.enabled {
            return Ok(());
        }
        let pending = {
            let now = moment();
            let mut state = self.inner.state.lock();
            let number = state.next_claim();
            let times = (now, self.inner.timing);
            self.tracked(&mut state, user, now)
                .set(device, presence, status_msg, number, times);
            self.settle(&mut state, user, now)?
        };
        match pending {
            Some(pending) => Ok(pending.finish().await?),
            None => Ok(()),
        }
    }

    /// A sync of a device begins, which by `set_presence` says what its user is.
    /// It is over when the value is dropped. None where it says nothing.
    pub async fn sync(
        &self,
        user: &UserId,
        device: &DeviceId,
        says: PresenceState,
    ) -> Option<Syncing> {
        if !self.inner.enabled || says == PresenceState::Offline {
            return None;
        }
        let (number, settled) = {
            let now = moment();
            let mut state = self.inner.state.lock();
            let number = state.next_claim();
            let unavailable = says == PresenceState::Unavailable;
            let number =
                self.tracked(&mut state, user, now)
                    .sync_began(device, unavailable, number, now);
            (number, self.settle(&mut state, user, now))
        };
        let syncing = Syncing {
            setter: self.clone(),
            user: user.to_owned(),
            device: device.to_owned(),
            number,
        };
        // What cannot be told now is told later; nobody who syncs waits for that.
        if let Ok(Some(pending)) = settled {
            let _ = pending.finish().await;
        }
        Some(syncing)
    }

    /// A user did something that others notice. Says nothing of who is offline.
    pub fn acted(&self, user: &UserId) {
        let now = moment();
        let mut state = self.inner.state.lock();
        let Some(tracked) = state.users.get_mut(user) else {
            return;
        };
        if tracked.is_there() {
            tracked.acted(now);
            let _ = self.settle(&mut state, user, now);
        }
    }

    /// When a user last did something, in milliseconds since the epoch, where
    /// that is newer here than in what was told.
    pub fn last_active_ms(&self, user: &UserId) -> Option<u64> {
        let state = self.inner.state.lock();
        state.users.get(user)?.last_active_ms()
    }

    /// Writes status messages again whose records lie below `before`, so that they
    /// outlive those. Whoever reads finds nothing new in it.
    pub fn carry_on(&self, before: EphemeralOffset) -> Result<(), AppendError> {
        // Under the lock, so that none is written behind a newer one.
        let state = self.inner.state.lock();
        for known in self.inner.ephemeral.window().statuses_before(before) {
            let user = &known.user_id;
            let is_ours = user.server_name() == self.inner.server;
            // What is told of a tracked user may not be in the answers yet.
            let tracked = state.users.get(user);
            let shown = tracked.map_or_else(|| tracked::shown_of(&known), |it| it.told.clone());
            if is_ours && self.inner.enabled {
                let record = presence_record(user, &shown, Source::Internal);
                self.inner.ephemeral.enqueue(record)?;
            }
        }
        Ok(())
    }

    /// Users who are tracked, for `/metrics`.
    pub fn count(&self) -> usize {
        self.inner.state.lock().users.len()
    }

    /// Lets users go idle and offline, until it is dropped.
    pub async fn run(self) {
        let next = || self.inner.state.lock().due.next();
        deadlines::keep(&self.inner.earlier, next, |_| self.settle_due(moment())).await;
    }

    fn settle_due(&self, now: Moment) {
        let mut state = self.inner.state.lock();
        for user in state.due.take_due(now.at) {
            let is_over = state.users.get(&user).is_some_and(|tracked| {
                let told = tracked.told.state;
                !tracked.is_there() && told == PresenceState::Offline
            });
            match is_over {
                true => drop(state.users.remove(&user)),
                // What fails is due again.
                false => drop(self.settle(&mut state, &user, now)),
            }
        }
    }

    fn tracked<'a>(&self, state: &'a mut State, user: &UserId, now: Moment) -> &'a mut Tracked {
        state.users.entry(user.to_owned()).or_insert_with(|| {
            let known = self.inner.ephemeral.window().presence_of(user);
            Tracked::found(known.as_deref(), now)
        })
    }

    /// Tells what is true of a user now, if that is news.
    fn settle(
        &self,
        state: &mut State,
        user: &UserId,
        now: Moment,
    ) -> Result<Option<Pending>, AppendError> {
        let Some(tracked) = state.users.get_mut(user) else {
            return Ok(None);
        };
        let (shown, next) = tracked.shown(now, self.inner.timing);
        let told = match tracked.differs(&shown) {
            false => Ok(None),
            true => {
                let record = presence_record(user, &shown, Source::Client);
                let queued = self.inner.ephemeral.enqueue(record);
                queued.map(|pending| {
                    tracked.told = shown;
                    Some(pending)
                })
            }
        };
        let due = match &told {
            Ok(_) => next.unwrap_or(now.at + LINGERS_FOR),
            Err(_) => now.at + RETRY_AFTER,
        };
        if state.due.set(user.to_owned(), due) {
            self.inner.earlier.notify_waiters();
        }
        told
    }
}

/// A sync that is being answered.
pub struct Syncing {
    setter: PresenceSetter,
    user: OwnedUserId,
    device: OwnedDeviceId,
    number: u64,
}

impl Drop for Syncing {
    fn drop(&mut self) {
        let now = moment();
        let inner = &self.setter.inner;
        let mut state = inner.state.lock();
        if let Some(tracked) = state.users.get_mut(&self.user) {
            tracked.sync_ended(&self.device, self.number, now, inner.timing);
            let _ = self.setter.settle(&mut state, &self.user, now);
        }
    }
}

fn moment() -> Moment {
    Moment {
        at: Instant::now(),
        ms: now_ms(),
    }
}
