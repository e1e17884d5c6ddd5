//! Receipts and fully-read markers of users (client-server API, *Receipts* and
//! *Fully read markers*).
//!
//! What adds nothing is not appended: a client that repeats itself costs a
//! look-up. Of two requests at the same time the fold decides.

use std::sync::Arc;

use log_format::codec;
use log_format::record::input::{InputReceipt, ReceiptType};
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::room_error::RoomWriteError;
use super::user_data::{UserData, UserDataError};
use crate::clock::{now_ms, now_us};
use crate::logs::log::NewRecord;
use crate::matrix::relation::{Relation, THREAD};
use crate::query::ids::Place;
use crate::query::receipts::{ReceiptThread, Receipts, moves_forward};
use crate::query::rooms::{QueryError, Rooms, StoredEvent};
use crate::query::threads::THREAD_HOPS_MAX;
use crate::query::users::Users;
use crate::writers::submit::Submitter;

/// Account data that says up to where a user has fully read a room.
const FULLY_READ: &str = "m.fully_read";

/// A receipt to be written.
#[derive(Clone, Debug)]
pub struct NewReceipt {
    pub user: OwnedUserId,
    pub receipt_type: ReceiptType,
    pub thread: ReceiptThread,
    pub event_id: OwnedEventId,
    /// Of the event; none where it is not known here.
    pub place: Option<Place>,
    /// Milliseconds since the epoch.
    pub ts: u64,
}

/// The writer of receipts.
#[derive(Clone)]
pub struct ReceiptSetter {
    rooms: Arc<dyn Rooms>,
    users: Arc<dyn Users>,
    receipts: Arc<dyn Receipts>,
    user_data: UserData,
    submitter: Submitter,
}

impl ReceiptSetter {
    pub fn new(
        rooms: Arc<dyn Rooms>,
        users: Arc<dyn Users>,
        receipts: Arc<dyn Receipts>,
        user_data: UserData,
        submitter: Submitter,
    ) -> ReceiptSetter {
        ReceiptSetter {
            rooms,
            users,
            receipts,
            user_data,
            submitter,
        }
    }

    /// A receipt of a local user, sent now, for an event that they may see.
    ///
    /// Errors: `InvalidParam` if the event is not related to the thread.
    pub fn check(
        &self,
        room: &RoomId,
        user: &UserId,
        event: &StoredEvent,
        receipt_type: ReceiptType,
        thread: ReceiptThread,
    ) -> Result<NewReceipt, RoomWriteError> {
        if !self.is_related(room, event, &thread)? {
            let text = "event is not related to the thread".to_owned();
            return Err(RoomWriteError::InvalidParam(text));
        }
        Ok(NewReceipt {
            user: user.to_owned(),
            receipt_type,
            thread,
            event_id: event.event_id.clone(),
            place: Some(event.place),
            ts: now_ms(),
        })
    }

    /// Writes receipts of one room, of any users: those that move forward, as
    /// one batch. Who may send which of them was checked before.
    pub async fn set(
        &self,
        room: &RoomId,
        source: Source,
        receipts: Vec<NewReceipt>,
    ) -> Result<(), RoomWriteError> {
        let mut batch = Vec::new();
        for receipt in &receipts {
            if self.moves(room, receipt)? {
                batch.push(record(room, source, receipt));
            }
        }
        if !batch.is_empty() {
            self.submitter.submit(room.as_str(), batch).await?;
        }
        Ok(())
    }

    /// Moves the fully-read marker of a local user to an event of the room, if
    /// that is further than where it stands.
    pub async fn set_fully_read(
        &self,
        room: &RoomId,
        user: &UserId,
        event: &StoredEvent,
    ) -> Result<(), UserDataError> {
        let marker = self.users.account_data(user, Some(room), FULLY_READ);
        if let Some(marker) = marker
            && let Some(place) = self.place_of_marker(room, &marker.content)
            && place >= event.place
        {
            return Ok(());
        }
        let event_id = Value::String(event.event_id.to_string());
        let content = Map::from_iter([("event_id".to_owned(), event_id)]);
        self.user_data
            .set_account_data(user, Some(room), FULLY_READ, &content)
            .await
    }

    /// Whether a receipt says more than what stands.
    fn moves(&self, room: &RoomId, receipt: &NewReceipt) -> Result<bool, QueryError> {
        let standing =
            self.receipts
                .receipt(room, &receipt.user, receipt.receipt_type, &receipt.thread)?;
        Ok(standing
            .is_none_or(|old| moves_forward((old.place, old.ts), (receipt.place, receipt.ts))))
    }

    /// Where the marker stands; none if its event is not known (any more).
    fn place_of_marker(&self, room: &RoomId, content: &str) -> Option<Place> {
        #[derive(Deserialize)]
        struct Marker {
            event_id: OwnedEventId,
        }
        let marker: Marker = serde_json::from_str(content).ok()?;
        let event = self.rooms.event(room, &marker.event_id);
        event.ok().flatten().map(|event| event.place)
    }

    /// Whether a receipt for the event may name the thread. `main` is for what
    /// is in no thread; a thread's receipts are for what is in it, its root, and
    /// what relates to its root, which both stand in the main timeline as well.
    fn is_related(
        &self,
        room: &RoomId,
        event: &StoredEvent,
        thread: &ReceiptThread,
    ) -> Result<bool, QueryError> {
        let root = match thread {
            ReceiptThread::Unthreaded => return Ok(true),
            ReceiptThread::Main => None,
            ReceiptThread::Root(root) if *root == event.event_id => return Ok(true),
            ReceiptThread::Root(root) => Some(root.as_str()),
        };
        let mut parent: Option<Arc<StoredEvent>> = None;
        for _ in 0..THREAD_HOPS_MAX {
            let pdu = parent.as_ref().map_or(&event.json, |parent| &parent.json);
            let Some(relation) = Relation::of_event(pdu) else {
                break;
            };
            if relation.rel_type == THREAD {
                return Ok(root == Some(&*relation.parent));
            }
            if root == Some(&*relation.parent) {
                return Ok(true);
            }
            let parent_id = <&EventId>::try_from(&*relation.parent).ok();
            let next = match parent_id {
                Some(parent_id) => self.rooms.event(room, parent_id)?,
                None => None,
            };
            let Some(next) = next else { break };
            parent = Some(next);
        }
        Ok(root.is_none())
    }
}

fn record(room: &RoomId, source: Source, receipt: &NewReceipt) -> NewRecord {
    let body = codec::encode(&InputReceipt {
        receipt_type: receipt.receipt_type,
        thread: receipt.thread.as_thread_id().map(str::to_owned),
        place: receipt.place.map(Place::to_bytes),
    });
    let envelope = NewEnvelope {
        received_us: now_us(),
        origin_ts_ms: receipt.ts,
        key: room.as_str(),
        room_id: Some(room.as_str()),
        event_id: Some(receipt.event_id.as_str()),
        sender: Some(receipt.user.as_str()),
        body: &body,
        ..NewEnvelope::default()
    };
    NewRecord::new(Kind::InputReceipt, source, &envelope)
}
