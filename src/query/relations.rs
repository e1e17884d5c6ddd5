//! How events of a room relate to one another, and when they were sent
//! (client-server API, *Forming relationships between events*).
//!
//! A reader keeps it, doors and other readers ask. It knows nothing of who may
//! see what: whoever shows what is found asks [`super::visibility`] first.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;

use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId};

use super::ids::{EventSn, Place, RoomSn};
use super::rooms::{Direction, QueryError, RoomHead, StoredEvent};

/// A room, by both of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InRoom<'a> {
    pub room_id: &'a RoomId,
    pub room: RoomSn,
}

impl<'a> InRoom<'a> {
    pub fn of(head: &'a RoomHead) -> InRoom<'a> {
        InRoom {
            room_id: &head.room_id,
            room: head.room,
        }
    }
}

/// What relates to an event, counted: by all senders, seen or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events of any `rel_type`.
    pub children: u64,
    /// Those that look like edits, whoever sent them.
    pub edits: u64,
    pub references: u64,
    pub thread: ThreadSummary,
}

/// The events that relate to a root by `m.thread`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadSummary {
    pub replies: u64,
    pub senders: u64,
    /// Place of the newest; means nothing where there are none.
    pub latest: Place,
}

impl Default for ThreadSummary {
    fn default() -> ThreadSummary {
        ThreadSummary {
            replies: 0,
            senders: 0,
            latest: Place::START,
        }
    }
}

impl Summary {
    /// Whether an event that shows this to clients has anything to show.
    pub fn is_bundled(&self) -> bool {
        self.edits > 0 || self.references > 0 || self.thread.replies > 0
    }
}

/// An event that relates to another, as it was when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub event: EventSn,
    pub place: Place,
    pub event_id: OwnedEventId,
    pub sender: OwnedUserId,
    pub rel_type: Box<str>,
    pub kind: Box<str>,
}

/// Which children of an event are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Children<'a> {
    pub parent: &'a EventId,
    /// None: of any.
    pub rel_type: Option<&'a str>,
    /// Strictly beyond this in the direction given.
    pub from: Place,
    pub direction: Direction,
    pub limit: usize,
}

/// A thread, where its newest reply stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    pub latest: Place,
    pub root: OwnedEventId,
}

/// An event of a room's timeline by when its server says that it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SentAt {
    /// `origin_server_ts`, in milliseconds since the epoch.
    pub ts: u64,
    pub place: Place,
    pub event: EventSn,
}

/// A future without a value.
pub type Waiting<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The relations of events, read-only. A redacted event relates to nothing;
/// a redacted parent keeps its children. Events that are in no timeline
/// (rejected, soft-failed, outliers) do not count. The parent need not be known.
pub trait Relations: Send + Sync {
    /// Resolves once answers contain all that was decided before the call (in
    /// one room, or in all), or after a bounded time.
    fn passed<'a>(&'a self, room: Option<&RoomId>) -> Waiting<'a>;

    /// Of each parent, in the order asked. Costs next to nothing for one that
    /// has nothing to be bundled: then it may be given as if it had no children.
    fn bundled(&self, room: InRoom<'_>, parents: &[&EventId]) -> Result<Vec<Summary>, QueryError>;

    /// Of one parent, exactly.
    fn summary(&self, room: InRoom<'_>, parent: &EventId) -> Result<Summary, QueryError>;

    /// Children in the order of the room.
    fn children(&self, room: InRoom<'_>, wanted: Children<'_>) -> Result<Vec<Child>, QueryError>;

    /// Replacements of an event by its own sender and of its own type, the most
    /// recent first: by `origin_server_ts`, then by event id.
    fn edits(
        &self,
        room: InRoom<'_>,
        original: &StoredEvent,
        limit: usize,
    ) -> Result<Vec<EventSn>, QueryError>;

    /// How many replies in a thread are by any of these users.
    fn replies_by(
        &self,
        room: InRoom<'_>,
        root: &EventId,
        users: &BTreeSet<OwnedUserId>,
    ) -> Result<u64, QueryError>;

    /// Whether a user replied in a thread.
    fn has_replied(
        &self,
        room: InRoom<'_>,
        root: &EventId,
        user: &UserId,
    ) -> Result<bool, QueryError>;

    /// Threads whose newest reply stands strictly before `before`, that with the
    /// newest reply first.
    fn threads(
        &self,
        room: InRoom<'_>,
        before: Place,
        limit: usize,
    ) -> Result<Vec<Thread>, QueryError>;

    /// Whether a user annotated an event so already.
    fn is_annotated(
        &self,
        room: InRoom<'_>,
        parent: &EventId,
        annotation: Annotation<'_>,
    ) -> Result<bool, QueryError>;

    /// Timeline events sent at `ts` or later (forward) or earlier (backward),
    /// the nearest first; strictly beyond `after`, if there is one.
    fn sent_about(
        &self,
        room: InRoom<'_>,
        ts: u64,
        direction: Direction,
        after: Option<SentAt>,
        limit: usize,
    ) -> Result<Vec<SentAt>, QueryError>;
}

/// What makes two annotations of one event the same (client-server API,
/// *Avoiding duplicate annotations*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Annotation<'a> {
    pub sender: &'a str,
    pub kind: &'a str,
    pub key: &'a str,
}

#[cfg(test)]
pub mod fake {
    //! A stand-in for the reader.

    use super::*;

    /// Nothing relates to anything.
    pub struct NoRelations;

    impl Relations for NoRelations {
        fn passed<'a>(&'a self, _: Option<&RoomId>) -> Waiting<'a> {
            Box::pin(std::future::ready(()))
        }
        fn bundled(&self, _: InRoom<'_>, parents: &[&EventId]) -> Result<Vec<Summary>, QueryError> {
            Ok(vec![Summary::default(); parents.len()])
        }
        fn summary(&self, _: InRoom<'_>, _: &EventId) -> Result<Summary, QueryError> {
            Ok(Summary::default())
        }
        fn children(&self, _: InRoom<'_>, _: Children<'_>) -> Result<Vec<Child>, QueryError> {
            Ok(Vec::new())
        }
        fn edits(
            &self,
            _: InRoom<'_>,
            _: &StoredEvent,
            _: usize,
        ) -> Result<Vec<EventSn>, QueryError> {
            Ok(Vec::new())
        }
        fn replies_by(
            &self,
            _: InRoom<'_>,
            _: &EventId,
            _: &BTreeSet<OwnedUserId>,
        ) -> Result<u64, QueryError> {
            Ok(0)
        }
        fn has_replied(&self, _: InRoom<'_>, _: &EventId, _: &UserId) -> Result<bool, QueryError> {
            Ok(false)
        }
        fn threads(&self, _: InRoom<'_>, _: Place, _: usize) -> Result<Vec<Thread>, QueryError> {
            Ok(Vec::new())
        }
        fn is_annotated(
            &self,
            _: InRoom<'_>,
            _: &EventId,
            _: Annotation<'_>,
        ) -> Result<bool, QueryError> {
            Ok(false)
        }
        fn sent_about(
            &self,
            _: InRoom<'_>,
            _: u64,
            _: Direction,
            _: Option<SentAt>,
            _: usize,
        ) -> Result<Vec<SentAt>, QueryError> {
            Ok(Vec::new())
        }
    }
}
