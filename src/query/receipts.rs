//! Receipts: how far users have read the rooms that they are in.

use std::collections::BTreeMap;

use log_format::record::input::ReceiptType;
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId};

use super::ids::{OutputOffset, Place};
use super::rooms::QueryError;

/// Which part of a room a receipt is about (client-server API, *Threaded read
/// receipts*).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReceiptThread {
    /// The whole room, threads included: no `thread_id`.
    Unthreaded,
    /// What is in no thread: `main`.
    Main,
    /// The thread of this root.
    Root(OwnedEventId),
}

impl ReceiptThread {
    /// `thread_id` of what is in no thread.
    pub const MAIN: &'static str = "main";

    /// Reads a `thread_id`; none if it is neither `main` nor an event id.
    pub fn parse(thread_id: Option<&str>) -> Option<ReceiptThread> {
        match thread_id {
            None => Some(ReceiptThread::Unthreaded),
            Some(ReceiptThread::MAIN) => Some(ReceiptThread::Main),
            Some(root) => OwnedEventId::try_from(root).ok().map(ReceiptThread::Root),
        }
    }

    /// The `thread_id`, if there is to be one.
    pub fn as_thread_id(&self) -> Option<&str> {
        match self {
            ReceiptThread::Unthreaded => None,
            ReceiptThread::Main => Some(ReceiptThread::MAIN),
            ReceiptThread::Root(root) => Some(root.as_str()),
        }
    }
}

/// How far a user has read: up to this event, which is included.
///
/// A user has one of each type for each thread. `m.read` and `m.read.private`
/// move apart from one another; who asks how far somebody read takes the one
/// that is further, by `place`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub receipt_type: ReceiptType,
    pub thread: ReceiptThread,
    pub event_id: OwnedEventId,
    /// The event's place in its room; none where the event was not known here
    /// when the receipt came.
    pub place: Option<Place>,
    /// `ts`: milliseconds since the epoch.
    pub ts: u64,
    /// *Output* offset of the change, in the room's partition.
    pub changed_at: OutputOffset,
}

/// Whether a receipt at `new` (place, `ts`) moves forward one that stands at `old`.
///
/// Places decide. What has a place wins over what has none; of two without, the
/// later time wins. So a receipt about an event that is not known here, which
/// only another server can send, never takes back what is known to be read.
pub fn moves_forward(old: (Option<Place>, u64), new: (Option<Place>, u64)) -> bool {
    match (old.0, new.0) {
        (Some(old), Some(new)) => new > old,
        (None, Some(_)) => true,
        (Some(_), None) => false,
        (None, None) => new.1 > old.1,
    }
}

/// How far a user has read a room, by all of their receipts: the public and the
/// private one of a thread count alike, and one for the whole room in each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadUpTo {
    all: Option<Place>,
    main: Option<Place>,
    threads: BTreeMap<OwnedEventId, Place>,
}

impl ReadUpTo {
    /// By receipts of one user in one room. What is about an event that is not
    /// known here tells nothing.
    pub fn of(receipts: &[Receipt]) -> ReadUpTo {
        let mut read = ReadUpTo::default();
        for receipt in receipts {
            let place = receipt.place;
            match &receipt.thread {
                ReceiptThread::Unthreaded => read.all = read.all.max(place),
                ReceiptThread::Main => read.main = read.main.max(place),
                ReceiptThread::Root(root) => {
                    if let Some(place) = place {
                        let known = read.threads.entry(root.clone()).or_insert(place);
                        *known = place.max(*known);
                    }
                }
            }
        }
        read
    }

    /// How far in every thread.
    pub fn everywhere(&self) -> Option<Place> {
        self.all
    }

    /// How far in a thread, or in the main timeline.
    pub fn in_thread(&self, root: Option<&EventId>) -> Option<Place> {
        let own = match root {
            None => self.main,
            Some(root) => self.threads.get(root).copied(),
        };
        self.all.max(own)
    }
}

/// The receipt server's tables, read-only. Every answer contains all records
/// whose outcome was published.
pub trait Receipts: Send + Sync {
    /// All receipts of a user in a room, private ones included, ordered by type
    /// and thread.
    fn of_user(&self, room: &RoomId, user: &UserId) -> Result<Vec<Receipt>, QueryError>;

    /// One of them.
    fn receipt(
        &self,
        room: &RoomId,
        user: &UserId,
        receipt_type: ReceiptType,
        thread: &ReceiptThread,
    ) -> Result<Option<Receipt>, QueryError>;

    /// Receipts of a room by user, private ones included, from the one behind
    /// `after` on, of at most `users` users: a page of a list that may be long.
    fn receipts_in(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        users: usize,
    ) -> Result<Vec<(OwnedUserId, Vec<Receipt>)>, QueryError>;
}

#[cfg(test)]
pub mod fake {
    //! A stand-in for the receipt server.

    use parking_lot::RwLock;
    use ruma::OwnedRoomId;

    use super::*;

    /// What users have read, as a test says.
    #[derive(Default)]
    pub struct SomeReceipts {
        by_user: RwLock<BTreeMap<(OwnedRoomId, OwnedUserId), Vec<Receipt>>>,
    }

    impl SomeReceipts {
        /// Moves a receipt forward; whether it did.
        pub fn set(&self, room: &RoomId, user: &UserId, new: Receipt) -> bool {
            let mut by_user = self.by_user.write();
            let of_user = by_user.entry((room.to_owned(), user.to_owned()));
            let receipts = of_user.or_default();
            let same = |old: &&mut Receipt| {
                old.receipt_type == new.receipt_type && old.thread == new.thread
            };
            match receipts.iter_mut().find(same) {
                Some(old) if !moves_forward((old.place, old.ts), (new.place, new.ts)) => false,
                Some(old) => {
                    *old = new;
                    true
                }
                None => {
                    receipts.push(new);
                    true
                }
            }
        }
    }

    impl Receipts for SomeReceipts {
        fn of_user(&self, room: &RoomId, user: &UserId) -> Result<Vec<Receipt>, QueryError> {
            let key = (room.to_owned(), user.to_owned());
            Ok(self.by_user.read().get(&key).cloned().unwrap_or_default())
        }
        fn receipt(
            &self,
            room: &RoomId,
            user: &UserId,
            receipt_type: ReceiptType,
            thread: &ReceiptThread,
        ) -> Result<Option<Receipt>, QueryError> {
            let mut receipts = self.of_user(room, user)?.into_iter();
            Ok(
                receipts
                    .find(|known| known.receipt_type == receipt_type && known.thread == *thread),
            )
        }
        fn receipts_in(
            &self,
            room: &RoomId,
            after: Option<&UserId>,
            users: usize,
        ) -> Result<Vec<(OwnedUserId, Vec<Receipt>)>, QueryError> {
            let by_user = self.by_user.read();
            let in_room = by_user.iter().filter(|((of, user), _)| {
                of == room && after.is_none_or(|after| user.as_str() > after.as_str())
            });
            Ok(in_room
                .take(users)
                .map(|((_, user), receipts)| (user.clone(), receipts.clone()))
                .collect())
        }
    }

    /// Nobody has read anything.
    pub struct NoReceipts;

    impl Receipts for NoReceipts {
        fn of_user(&self, _: &RoomId, _: &UserId) -> Result<Vec<Receipt>, QueryError> {
            Ok(Vec::new())
        }
        fn receipt(
            &self,
            _: &RoomId,
            _: &UserId,
            _: ReceiptType,
            _: &ReceiptThread,
        ) -> Result<Option<Receipt>, QueryError> {
            Ok(None)
        }
        fn receipts_in(
            &self,
            _: &RoomId,
            _: Option<&UserId>,
            _: usize,
        ) -> Result<Vec<(OwnedUserId, Vec<Receipt>)>, QueryError> {
            Ok(Vec::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_ids_read_back() {
        for thread_id in [None, Some("main"), Some("$root"), Some("$root:hs")] {
            let thread = ReceiptThread::parse(thread_id);
            assert_eq!(thread.expect("parses").as_thread_id(), thread_id);
        }
        for thread_id in ["", "mains", "root", "!room:hs"] {
            assert_eq!(ReceiptThread::parse(Some(thread_id)), None, "{thread_id}");
        }
    }

    #[test]
    fn receipts_move_forward_only() {
        let (early, late) = (Some(Place(1)), Some(Place(2)));
        assert!(moves_forward((early, 9), (late, 1)));
        assert!(!moves_forward((late, 1), (early, 9)));
        assert!(!moves_forward((late, 1), (late, 9)));
        assert!(moves_forward((None, 9), (early, 1)));
        assert!(!moves_forward((early, 1), (None, 9)));
        assert!(moves_forward((None, 1), (None, 2)));
        assert!(!moves_forward((None, 2), (None, 2)));
    }
}
