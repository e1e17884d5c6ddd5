//! Requests that wait for something new, and who is woken by what.
//!
//! It has a lock of its own, so that neither a request that begins to wait nor
//! one that ends holds up a fold.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::memory::{Memory, RoomIx, UserIx};

/// Whom records concern.
#[derive(Debug, Default)]
pub struct News {
    /// Rooms in which something changed for all who are joined.
    pub rooms: BTreeSet<RoomIx>,
    /// Users for whom something changed beside that.
    pub users: BTreeSet<UserIx>,
}

/// Requests of one user that wait.
#[derive(Default)]
struct Waiter {
    news: Arc<Notify>,
    requests: usize,
}

/// All requests that wait, by user.
#[derive(Default)]
pub struct Waiters {
    waiting: Mutex<HashMap<UserIx, Waiter>>,
}

impl Waiters {
    /// Enters a request that waits, until its place is dropped.
    pub fn enter(&self, user: UserIx) -> Place<'_> {
        let mut waiting = self.waiting.lock();
        let waiter = waiting.entry(user).or_default();
        waiter.requests += 1;
        Place {
            waiters: self,
            user,
            news: waiter.news.clone(),
        }
    }

    /// Wakes whom the news concern. A room costs as much as the smaller of two
    /// sets: its members, and the users who wait.
    pub fn wake(&self, memory: &Memory, news: &News) {
        let waiting = self.waiting.lock();
        let wake = |user: &UserIx| {
            if let Some(waiter) = waiting.get(user) {
                waiter.news.notify_waiters();
            }
        };
        news.users.iter().for_each(wake);
        for room in &news.rooms {
            let joined = &memory.room(*room).joined;
            if joined.len() <= waiting.len() {
                joined.iter().for_each(wake);
            } else {
                let concerned = waiting.iter().filter(|(user, _)| joined.contains(user));
                concerned.for_each(|(_, waiter)| waiter.news.notify_waiters());
            }
        }
    }

    /// Wakes every request.
    pub fn wake_all(&self) {
        let waiting = self.waiting.lock();
        waiting
            .values()
            .for_each(|waiter| waiter.news.notify_waiters());
    }

    /// Requests that wait now.
    pub fn count(&self) -> usize {
        let waiting = self.waiting.lock();
        waiting.values().map(|waiter| waiter.requests).sum()
    }
}

/// A request's place among those that wait; given back when it is dropped, also
/// when the client has gone away.
pub struct Place<'a> {
    waiters: &'a Waiters,
    user: UserIx,
    /// Notified when something concerns the user.
    pub news: Arc<Notify>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiters.waiting.lock();
        if let Some(waiter) = waiting.get_mut(&self.user) {
            waiter.requests -= 1;
            if waiter.requests == 0 {
                waiting.remove(&self.user);
            }
        }
    }
}
