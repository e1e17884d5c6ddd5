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
    /// Local users whose presence changed, for all who share a room with them.
    pub presence: BTreeSet<UserIx>,
}

/// Requests of one user that wait.
#[derive(Default)]
struct Waiter {
    news: Arc<Notify>,
    requests: usize,
    /// How many of them tell of presence.
    hear_presence: usize,
}

/// All requests that wait, by user.
#[derive(Default)]
pub struct Waiters {
    waiting: Mutex<HashMap<UserIx, Waiter>>,
    /// Those of them that look into a room, by room, whoever is in it.
    peeking: Mutex<HashMap<RoomIx, Waiter>>,
}

impl Waiters {
    /// Enters a request that waits, until its place is dropped. Changes of
    /// presence wake it only if it tells of them.
    pub fn enter(&self, user: UserIx, hears_presence: bool) -> Place<'_> {
        let mut waiting = self.waiting.lock();
        let waiter = waiting.entry(user).or_default();
        waiter.requests += 1;
        waiter.hear_presence += usize::from(hears_presence);
        Place {
            waiters: self,
            user,
            hears_presence,
            news: waiter.news.clone(),
        }
    }

    /// Enters a request that looks into a room, until its place is dropped.
    pub fn enter_room(&self, room: RoomIx) -> RoomPlace<'_> {
        let mut peeking = self.peeking.lock();
        let waiter = peeking.entry(room).or_default();
        waiter.requests += 1;
        RoomPlace {
            waiters: self,
            room,
            news: waiter.news.clone(),
        }
    }

    /// Wakes whom the news concern. A room costs as much as the smaller of two
    /// sets: its members, and the users who wait. A change of presence costs as
    /// much as there are users who wait, in however many rooms it is told.
    pub fn wake(&self, memory: &Memory, news: &News) {
        self.wake_peeking(news);
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
        if news.presence.is_empty() {
            return;
        }
        let hearers = waiting
            .iter()
            .filter(|(_, waiter)| waiter.hear_presence > 0);
        for (user, waiter) in hearers {
            let mut changed = news.presence.iter();
            if changed.any(|other| user == other || memory.share_a_room(*user, *other)) {
                waiter.news.notify_waiters();
            }
        }
    }

    fn wake_peeking(&self, news: &News) {
        let peeking = self.peeking.lock();
        for room in &news.rooms {
            if let Some(waiter) = peeking.get(room) {
                waiter.news.notify_waiters();
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
    hears_presence: bool,
    /// Notified when something concerns the user.
    pub news: Arc<Notify>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiters.waiting.lock();
        if let Some(waiter) = waiting.get_mut(&self.user) {
            waiter.requests -= 1;
            waiter.hear_presence -= usize::from(self.hears_presence);
            if waiter.requests == 0 {
                waiting.remove(&self.user);
            }
        }
    }
}

/// The same of a request that looks into a room.
pub struct RoomPlace<'a> {
    waiters: &'a Waiters,
    room: RoomIx,
    /// Notified when something changed in the room.
    pub news: Arc<Notify>,
}

impl Drop for RoomPlace<'_> {
    fn drop(&mut self) {
        let mut peeking = self.waiters.peeking.lock();
        if let Some(waiter) = peeking.get_mut(&self.room) {
            waiter.requests -= 1;
            if waiter.requests == 0 {
                peeking.remove(&self.room);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use log_format::record::output::Membership;
    use ruma::{RoomId, UserId};

    use super::super::memory::MembershipNews;
    use super::*;
    use crate::query::ids::RoomSn;

    fn user(memory: &mut Memory, name: &str) -> UserIx {
        let user = UserId::parse(format!("@{name}:here")).expect("a plain name");
        memory.intern_user(&user)
    }

    /// A room with these members.
    fn room(memory: &mut Memory, number: u64, members: &[UserIx]) -> RoomIx {
        let room = RoomId::parse(format!("!{number}:here")).expect("a plain name");
        let ix = memory.intern_room(&room, 0, RoomSn(number));
        for member in members {
            let news = MembershipNews {
                membership: Membership::Join,
                event: None,
                offset: number,
                at_us: 0,
                by_self: true,
                encrypted: false,
                outside: false,
            };
            memory.set_membership(*member, ix, news);
        }
        ix
    }

    /// Which of the users are woken, each of whom waits once; `deaf` do not tell
    /// of presence.
    fn woken(memory: &Memory, users: &[UserIx], deaf: &[UserIx], news: &News) -> Vec<usize> {
        let waiters = Waiters::default();
        let places: Vec<_> = users
            .iter()
            .map(|user| waiters.enter(*user, !deaf.contains(user)))
            .collect();
        let mut waiting: Vec<_> = places
            .iter()
            .map(|place| Box::pin(place.news.notified()))
            .collect();
        for one in &mut waiting {
            one.as_mut().enable();
        }
        waiters.wake(memory, news);
        let woken = waiting.into_iter().enumerate();
        let woken = woken.filter_map(|(ix, one)| one.now_or_never().map(|()| ix));
        let woken = woken.collect();
        assert_eq!(waiters.count(), users.len());
        drop(places);
        assert_eq!(waiters.count(), 0);
        woken
    }

    #[test]
    fn only_those_are_woken_whom_it_concerns() {
        let mut memory = Memory::new(1);
        let users = ["ann", "ben", "cat", "dan"].map(|name| user(&mut memory, name));
        let [ann, ben, cat, dan] = users;
        let one = room(&mut memory, 1, &[ann, ben]);
        room(&mut memory, 2, &[ben, cat]);
        room(&mut memory, 3, &[dan]);
        let in_room = News {
            rooms: [one].into(),
            ..News::default()
        };
        assert_eq!(woken(&memory, &users, &[], &in_room), [0, 1]);
        let of = |changed: &[UserIx]| News {
            presence: changed.iter().copied().collect(),
            ..News::default()
        };
        assert_eq!(woken(&memory, &users, &[], &of(&[ben])), [0, 1, 2]);
        assert_eq!(woken(&memory, &users, &[], &of(&[dan])), [3]);
        assert_eq!(
            woken(&memory, &users, &[ann, dan], &of(&[ben, dan])),
            [1, 2]
        );
        assert_eq!(woken(&memory, &users, &users, &of(&[ben])), [0; 0]);
    }
}
