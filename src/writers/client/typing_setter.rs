//! Typing (client-server API, *Typing Notifications*): who begins, and when it is over.
//!
//! It ends when the user says so, when their time is up, and when they are no
//! longer in the room; a message does not end it, clients say so themselves.
//! Saying again that one types costs no record, only moves the end.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use log_format::codec;
use log_format::record::output::{Membership, MembershipChange, OutputRoomEvent, OutputRoomState};
use log_format::record::{Kind, Source};
use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::deadlines::{self, Deadlines};
use super::room_error::RoomWriteError;
use crate::logs::log::{AppendError, Log, LogRecord, PartitionId, ReadError};
use crate::query::ephemeral::Since;
use crate::query::rooms::Rooms;
use crate::writers::ephemeral::{EphemeralWriter, Pending, typing_record};
use crate::writers::submit::SubmitError;

/// How long who names no timeout is typing; clients say it again after 20 to 30
/// seconds.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// The longest timeout that is granted: a client that went away should not type
/// for long.
const TIMEOUT_MAX: Duration = Duration::from_secs(120);
/// Users who type at the same time, each room counted; some 200 bytes each.
const TYPING_MAX: usize = 50_000;
/// When it is tried again to tell that somebody ceased to type.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Payload bytes of one read of *output*.
const GROUP_BYTES: usize = 256 * 1024;

/// The writer of typing. Cheap to clone.
#[derive(Clone)]
pub struct TypingSetter {
    inner: Arc<Inner>,
}

struct Inner {
    rooms: Arc<dyn Rooms>,
    ephemeral: EphemeralWriter,
    /// Held while a record is queued, so that the log has the order of what is
    /// decided here; no other lock is taken inside but that of the queue.
    state: Mutex<State>,
    /// Notified when the next end moves forward.
    earlier: Notify,
}

/// Who types, as was told last.
#[derive(Default)]
struct State {
    rooms: HashMap<OwnedRoomId, BTreeSet<OwnedUserId>>,
    ends: Deadlines<(OwnedRoomId, OwnedUserId)>,
}

impl TypingSetter {
    /// Those who typed when the process before ended type no more: nothing would
    /// else end it.
    pub fn new(rooms: Arc<dyn Rooms>, ephemeral: EphemeralWriter) -> TypingSetter {
        let mut state = State::default();
        let now = Instant::now();
        for room in ephemeral.window().changes(Since::Nothing).typing {
            for user in room.typing() {
                state.insert((room.room_id.clone(), user.to_owned()), now);
            }
        }
        TypingSetter {
            inner: Arc::new(Inner {
                rooms,
                ephemeral,
                state: Mutex::new(state),
                earlier: Notify::new(),
            }),
        }
    }

    /// A local user types for so long from now on, or no more.
    ///
    /// Errors: `Forbidden` for who is not in the room.
    pub async fn set(
        &self,
        room: &RoomId,
        user: &UserId,
        typing: Option<Duration>,
    ) -> Result<(), RoomWriteError> {
        let head = self.inner.rooms.head(room)?;
        if !head.is_some_and(|head| head.authority.is_joined(user)) {
            let text = "you are not in this room".to_owned();
            return Err(RoomWriteError::Forbidden(text));
        }
        let told = self.tell(room, user, Source::Client, typing).await;
        Ok(told.map_err(SubmitError::from)?)
    }

    /// The same of any user; whether they may is checked before.
    pub async fn tell(
        &self,
        room: &RoomId,
        user: &UserId,
        source: Source,
        typing: Option<Duration>,
    ) -> Result<(), AppendError> {
        let key = (room.to_owned(), user.to_owned());
        let pending = match typing.filter(|timeout| !timeout.is_zero()) {
            Some(timeout) => self.begin(key, source, Instant::now() + timeout.min(TIMEOUT_MAX))?,
            None => self.end(&key, source)?,
        };
        match pending {
            Some(pending) => pending.finish().await,
            None => Ok(()),
        }
    }

    /// How many type, for `/metrics`.
    pub fn count(&self) -> usize {
        self.inner.state.lock().ends.len()
    }

    /// Ends what is over, until it is dropped.
    pub async fn run(self) {
        let next = || self.inner.state.lock().ends.next();
        deadlines::keep(&self.inner.earlier, next, |now| self.end_due(now)).await;
    }

    /// Follows a partition of *output*: who leaves a room types no more in it.
    pub async fn follow(self, output: Arc<dyn Log>, partition: PartitionId) {
        let mut next = output.end(partition);
        loop {
            output.wait_beyond(partition, next).await;
            match output.read(partition, next, GROUP_BYTES) {
                Ok(records) => {
                    records
                        .iter()
                        .for_each(|record| self.end_for_leavers(record));
                    next = records.last().map_or(next, |last| last.offset + 1);
                }
                Err(ReadError::Trimmed { begin, .. }) => next = begin,
                Err(error) => {
                    tracing::error!(partition, %error, "output could not be followed");
                    return;
                }
            }
        }
    }

    fn begin(
        &self,
        key: (OwnedRoomId, OwnedUserId),
        source: Source,
        until: Instant,
    ) -> Result<Option<Pending>, AppendError> {
        let mut state = self.inner.state.lock();
        let pending = match state.ends.contains(&key) {
            true => None,
            false if state.ends.len() >= TYPING_MAX => return Err(AppendError::Overloaded),
            false => {
                let record = typing_record(&key.0, &key.1, true, source);
                Some(self.inner.ephemeral.enqueue(record)?)
            }
        };
        if state.insert(key, until) {
            self.inner.earlier.notify_waiters();
        }
        Ok(pending)
    }

    fn end(
        &self,
        key: &(OwnedRoomId, OwnedUserId),
        source: Source,
    ) -> Result<Option<Pending>, AppendError> {
        let mut state = self.inner.state.lock();
        if !state.ends.contains(key) {
            return Ok(None);
        }
        let record = typing_record(&key.0, &key.1, false, source);
        let pending = self.inner.ephemeral.enqueue(record)?;
        state.remove(key);
        Ok(Some(pending))
    }

    fn end_due(&self, now: Instant) {
        let mut state = self.inner.state.lock();
        for key in state.ends.take_due(now) {
            let record = typing_record(&key.0, &key.1, false, Source::Internal);
            match self.inner.ephemeral.enqueue(record) {
                Ok(_) => state.remove(&key),
                // Nothing more is told before the process ends.
                Err(AppendError::Closed) => state.remove(&key),
                Err(_) => drop(state.insert(key, now + RETRY_AFTER)),
            }
        }
    }

    fn end_for_leavers(&self, record: &LogRecord) {
        let Ok(envelope) = record.envelope() else {
            return;
        };
        let room = envelope.room_id.map(<&RoomId>::try_from);
        let Some(Ok(room)) = room else { return };
        // Of most records nothing more is read.
        if !self.inner.state.lock().rooms.contains_key(room) {
            return;
        }
        for change in membership_changes(envelope.kind, envelope.body) {
            if change.to != Membership::Join
                && let Ok(user) = OwnedUserId::try_from(change.user_id)
                && let Err(error) = self.end(&(room.to_owned(), user), Source::Internal)
            {
                tracing::debug!(%error, "typing of a user who left ends with its time");
            }
        }
    }
}

fn membership_changes(kind: Kind, body: &[u8]) -> Vec<MembershipChange> {
    match kind {
        Kind::OutputRoomEvent => {
            codec::decode::<OutputRoomEvent>(body).map_or(Vec::new(), |body| body.memberships)
        }
        Kind::OutputRoomState => {
            codec::decode::<OutputRoomState>(body).map_or(Vec::new(), |body| body.memberships)
        }
        _ => Vec::new(),
    }
}

impl State {
    /// Says whether the next end is earlier for it.
    fn insert(&mut self, key: (OwnedRoomId, OwnedUserId), until: Instant) -> bool {
        let users = self.rooms.entry(key.0.clone()).or_default();
        users.insert(key.1.clone());
        self.ends.set(key, until)
    }

    fn remove(&mut self, key: &(OwnedRoomId, OwnedUserId)) {
        self.ends.clear(key);
        if let Some(users) = self.rooms.get_mut(&key.0) {
            users.remove(&key.1);
            if users.is_empty() {
                self.rooms.remove(&key.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use log_format::record::Envelope;
    use log_format::record::ephemeral::EphemeralTyping;

    use super::*;
    use crate::query::ephemeral::fake::Silence;
    use crate::writers::testing::{Forgetful, World};

    fn setter() -> (TypingSetter, Arc<Forgetful>) {
        let log = Arc::<Forgetful>::default();
        let writer = EphemeralWriter::new(log.clone(), Arc::new(Silence));
        let rooms = Arc::<World>::default();
        (TypingSetter::new(rooms, writer), log)
    }

    /// What each record says.
    fn said(log: &Forgetful) -> Vec<bool> {
        let records = log.appended.lock();
        let bodies = records.iter().map(|record| {
            let envelope = Envelope::parse(&record.payload).expect("an envelope");
            codec::decode::<EphemeralTyping>(envelope.body).expect("a body")
        });
        bodies.map(|body| body.typing).collect()
    }

    async fn tell(setter: &TypingSetter, seconds: Option<u64>) -> Result<(), AppendError> {
        let (room, user) = (ruma::room_id!("!a:hs"), ruma::user_id!("@a:hs"));
        let typing = seconds.map(Duration::from_secs);
        setter.tell(room, user, Source::Client, typing).await
    }

    #[tokio::test]
    async fn what_is_said_again_costs_no_record() {
        let (setter, log) = setter();
        tell(&setter, None).await.expect("nothing to end");
        for _ in 0..3 {
            tell(&setter, Some(30)).await.expect("is appended");
        }
        assert_eq!((said(&log), setter.count()), (vec![true], 1));
        tell(&setter, Some(0)).await.expect("is appended");
        tell(&setter, None).await.expect("nothing to end");
        assert_eq!((said(&log), setter.count()), (vec![true, false], 0));
        assert!(setter.inner.state.lock().rooms.is_empty());
    }

    #[tokio::test]
    async fn the_end_comes_by_itself_and_is_told_though_the_disk_is_full() {
        let (setter, log) = setter();
        let begun = Instant::now();
        tell(&setter, Some(10)).await.expect("is appended");
        // It moves, and no further than is granted.
        tell(&setter, Some(1_000_000)).await.expect("no record");
        setter.end_due(begun + Duration::from_secs(11));
        assert_eq!(said(&log), [true]);
        log.is_full.store(true, Ordering::Relaxed);
        let over = Instant::now() + TIMEOUT_MAX;
        setter.end_due(over);
        assert_eq!((said(&log), setter.count()), (vec![true], 1));
        let refused = tell(&setter, None).await;
        assert_eq!(refused, Err(AppendError::DiskFull));
        log.is_full.store(false, Ordering::Relaxed);
        setter.end_due(over);
        assert_eq!(said(&log), [true], "not yet");
        setter.end_due(over + RETRY_AFTER);
        assert_eq!((said(&log), setter.count()), (vec![true, false], 0));
    }
}
