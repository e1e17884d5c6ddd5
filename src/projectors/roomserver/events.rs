//! Events by interned id: the row from the tables, the JSON from the record of
//! *input* at that offset, both kept in bounded caches.

use std::sync::Arc;

use bytes::Bytes;
use log_format::codec;
use log_format::record::input::{InputRoomEvent, Transaction};
use log_format::record::output::Membership;
use log_format::record::{Envelope, Kind};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use ruma::{OwnedDeviceId, OwnedEventId, OwnedUserId};

use super::accepted_event::AcceptedEvent;
use super::rows::EventRow;
use crate::logs::log::{Log, LogRecord, ReadError};
use crate::query::ids::EventSn;
use crate::query::rooms::{StateKey, StoredEvent};
use crate::storage::overlay::{Read, StoreError};

/// Average weights, by which the caches guess how many entries they will hold.
const EVENT_BYTES: usize = 1024;
const ACCEPTED_EVENT_BYTES: usize = 512;

/// Bytes asked of the log when several records follow each other.
const READ_BYTES: usize = 256 << 10;

/// Events that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("log could not be read: {0}")]
    Log(#[from] ReadError),
    /// The tables name an event whose record is gone or is no event.
    #[error("input offset {0} holds no room event")]
    NotAnEvent(u64),
}

#[derive(Clone)]
struct EventWeighter;

impl Weighter<(u32, EventSn), Arc<StoredEvent>> for EventWeighter {
    fn weight(&self, _: &(u32, EventSn), event: &Arc<StoredEvent>) -> u64 {
        (event.json.len() + 384) as u64
    }
}

#[derive(Clone)]
struct AcceptedWeighter;

impl Weighter<(u32, EventSn), Arc<AcceptedEvent>> for AcceptedWeighter {
    fn weight(&self, _: &(u32, EventSn), event: &Arc<AcceptedEvent>) -> u64 {
        event.size_bytes() as u64
    }
}

/// Where events come from.
pub struct Events {
    input: Arc<dyn Log>,
    served: Cache<(u32, EventSn), Arc<StoredEvent>, EventWeighter>,
    accepted: Cache<(u32, EventSn), Arc<AcceptedEvent>, AcceptedWeighter>,
}

impl Events {
    /// Caches of at most so many bytes each: events as they are served, and
    /// events as the auth rules read them.
    pub fn new(input: Arc<dyn Log>, served_bytes: usize, accepted_bytes: usize) -> Events {
        Events {
            input,
            served: Cache::with_weighter(
                served_bytes / EVENT_BYTES,
                served_bytes as u64,
                EventWeighter,
            ),
            accepted: Cache::with_weighter(
                accepted_bytes / ACCEPTED_EVENT_BYTES,
                accepted_bytes as u64,
                AcceptedWeighter,
            ),
        }
    }

    /// The record of an event.
    pub fn record(&self, partition: u32, event: EventSn) -> Result<LogRecord, EventError> {
        let records = self.input.read(partition, event.0, 1)?;
        let record = records.into_iter().next();
        record
            .filter(|record| record.offset == event.0)
            .ok_or(EventError::NotAnEvent(event.0))
    }

    /// What `read` makes of an event's record.
    pub fn read<T>(
        &self,
        partition: u32,
        event: EventSn,
        read: impl FnOnce(&Envelope<'_>) -> Option<T>,
    ) -> Result<T, EventError> {
        let record = self.record(partition, event)?;
        read(&room_event(&record)?).ok_or(EventError::NotAnEvent(event.0))
    }

    /// The state key that an event sets.
    pub fn state_key(&self, partition: u32, event: EventSn) -> Result<StateKey, EventError> {
        if let Some(known) = self.accepted.get(&(partition, event))
            && let Some(state_key) = &known.state_key
        {
            return Ok(StateKey::new(&known.kind, state_key));
        }
        self.read(partition, event, |envelope| {
            Some(StateKey::new(envelope.event_type?, envelope.state_key?))
        })
    }

    /// The membership that a member event says; none if it is another event.
    pub fn membership(
        &self,
        partition: u32,
        event: EventSn,
    ) -> Result<Option<Membership>, EventError> {
        self.read(partition, event, |envelope| {
            if envelope.event_type? != "m.room.member" {
                return Some(None);
            }
            let body: InputRoomEvent = codec::decode(envelope.body).ok()?;
            Some(body.membership.as_deref().and_then(Membership::parse))
        })
    }

    /// Any record, by its offset.
    pub fn log_record(&self, partition: u32, offset: u64) -> Result<LogRecord, EventError> {
        self.record(partition, EventSn(offset))
    }

    /// Records from an offset on, as the log hands them out.
    pub fn records_from(&self, partition: u32, offset: u64) -> Result<Vec<LogRecord>, EventError> {
        Ok(self.input.read(partition, offset, READ_BYTES)?)
    }

    /// The sender of an event.
    pub fn sender(&self, partition: u32, event: EventSn) -> Result<OwnedUserId, EventError> {
        if let Some(known) = self.served.get(&(partition, event)) {
            return Ok(known.sender.clone());
        }
        let record = self.record(partition, event)?;
        let sender = room_event(&record)?.sender.map(OwnedUserId::try_from);
        match sender {
            Some(Ok(sender)) => Ok(sender),
            _ => Err(EventError::NotAnEvent(event.0)),
        }
    }

    /// The event as it is served; none if the tables do not know it.
    pub fn stored(
        &self,
        tables: &dyn Read,
        partition: u32,
        event: EventSn,
    ) -> Result<Option<Arc<StoredEvent>>, EventError> {
        // A placeholder that a publish voids in the meantime is not filled, so
        // what is read here never replaces something newer.
        let guard = match self.served.get_value_or_guard(&(partition, event), None) {
            quick_cache::sync::GuardResult::Value(known) => return Ok(Some(known)),
            quick_cache::sync::GuardResult::Guard(guard) => Some(guard),
            quick_cache::sync::GuardResult::Timeout => None,
        };
        let Some(row) = EventRow::load(tables, partition, event)? else {
            return Ok(None);
        };
        let record = self.record(partition, event)?;
        let envelope = room_event(&record)?;
        let body: InputRoomEvent =
            codec::decode(envelope.body).map_err(|_| EventError::NotAnEvent(event.0))?;
        let made = stored_event(&row, event, &envelope, body.transaction.as_ref());
        let made = Arc::new(made.ok_or(EventError::NotAnEvent(event.0))?);
        if let Some(guard) = guard {
            let _ = guard.insert(made.clone());
        }
        Ok(Some(made))
    }

    /// The event as the auth rules read it: as it was accepted, whatever was
    /// redacted or erased since.
    pub fn accepted(
        &self,
        partition: u32,
        event: EventSn,
    ) -> Result<Arc<AcceptedEvent>, EventError> {
        if let Some(known) = self.accepted.get(&(partition, event)) {
            return Ok(known);
        }
        let record = self.record(partition, event)?;
        let read = AcceptedEvent::read(&room_event(&record)?);
        let read = Arc::new(read.ok_or(EventError::NotAnEvent(event.0))?);
        self.accepted.insert((partition, event), read.clone());
        Ok(read)
    }

    /// The id of an event whose record is in the log.
    pub fn event_id(&self, partition: u32, event: EventSn) -> Result<OwnedEventId, EventError> {
        if let Some(known) = self.accepted.get(&(partition, event)) {
            return Ok(known.event_id.clone());
        }
        if let Some(known) = self.served.get(&(partition, event)) {
            return Ok(known.event_id.clone());
        }
        let record = self.record(partition, event)?;
        let id = room_event(&record)?.event_id.map(OwnedEventId::try_from);
        match id {
            Some(Ok(id)) => Ok(id),
            _ => Err(EventError::NotAnEvent(event.0)),
        }
    }

    /// Keeps an event that was just published.
    pub fn keep(&self, partition: u32, event: Arc<StoredEvent>) {
        self.served.insert((partition, event.event), event);
    }

    /// Drops an event whose row changed.
    pub fn forget(&self, partition: u32, event: EventSn) {
        self.served.remove(&(partition, event));
    }
}

/// The `prev_events` of a record.
pub fn prev_events(envelope: &Envelope<'_>) -> Option<Vec<String>> {
    let body: InputRoomEvent = codec::decode(envelope.body).ok()?;
    Some(body.prev_events)
}

fn room_event(record: &LogRecord) -> Result<Envelope<'_>, EventError> {
    let envelope = record.envelope().ok();
    let event = envelope.filter(|envelope| envelope.kind == Kind::InputRoomEvent);
    event.ok_or(EventError::NotAnEvent(record.offset))
}

/// Puts row and record together; none if the record is no event.
pub fn stored_event(
    row: &EventRow,
    event: EventSn,
    envelope: &Envelope<'_>,
    transaction: Option<&Transaction>,
) -> Option<StoredEvent> {
    let skeleton = envelope.skeleton.bytes();
    let json = match (row.redacted_by, envelope.body_part.bytes()) {
        (None, Some(body)) => body,
        _ => skeleton?,
    };
    Some(StoredEvent {
        room: row.room,
        event,
        event_id: OwnedEventId::try_from(envelope.event_id?).ok()?,
        sender: OwnedUserId::try_from(envelope.sender?).ok()?,
        kind: envelope.event_type?.into(),
        state_key: envelope.state_key.map(Into::into),
        origin_server_ts: envelope.origin_ts_ms,
        place: row.place,
        decision: row.decision,
        state_before: row.state_before,
        state_after: row.state_after,
        visibility: row.visibility,
        replaces: row.replaces,
        redacted_by: row.redacted_by,
        transaction: transaction.map(|transaction| {
            let device = OwnedDeviceId::from(transaction.device_id.as_str());
            (device, transaction.txn_id.as_str().into())
        }),
        json: Bytes::copy_from_slice(json),
    })
}
