//! Folds *output* into documents and deletions of the index.
//!
//! A fold asks the room server what an event is *now*: what was redacted or is
//! in an encrypted room by then is never indexed, also where the index is built
//! anew from records of a time before. Neither is ever taken back.

use log_format::codec;
use log_format::record::output::{
    Decision, OutputRoomEvent, OutputRoomState, StateChange, Timeline, Visibility,
};
use log_format::record::{Envelope, Kind};
use ruma::{EventId, RoomId};

use super::index::{
    Document, IndexError, Writing, event_key, key_bits, room_key, sender_key, traits,
};
use super::texts::{SearchKey, may_replace, searched};
use crate::logs::log::LogRecord;
use crate::matrix::redaction::REDACTION_TYPE;
use crate::query::ids::EventSn;
use crate::query::rooms::{QueryError, Rooms, StateKey, StoredEvent};
use crate::readers::purges;
use crate::readers::run::ReaderError;

pub const ENCRYPTION: &str = "m.room.encryption";

/// The index could not follow.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    #[error(transparent)]
    Reader(#[from] ReaderError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Query(#[from] QueryError),
}

/// Folds one record. Returns how many documents and deletions it queued.
pub fn fold(
    writing: &mut Writing,
    rooms: &dyn Rooms,
    record: &LogRecord,
) -> Result<usize, FoldError> {
    let offset = record.offset;
    let envelope = record
        .envelope()
        .map_err(|source| ReaderError::Envelope { offset, source })?;
    let decoded = |source| ReaderError::Body { offset, source };
    match envelope.kind {
        Kind::OutputRoomEvent => {
            let body = codec::decode(envelope.body).map_err(decoded)?;
            room_event(writing, rooms, &envelope, &body)
        }
        Kind::OutputRoomState => {
            let body: OutputRoomState = codec::decode(envelope.body).map_err(decoded)?;
            Ok(encrypted(writing, &envelope, &body.state_delta))
        }
        Kind::OutputRoomPurged => {
            let purged = purges::dropped(record, &envelope)?;
            // Once, at the last of the many records that a large room takes:
            // nothing is found of it since the first.
            match (purged, room_of(&envelope)) {
                (Some(purged), Some(room)) if purged.finished => {
                    writing.delete_room(room_key(room));
                    Ok(1)
                }
                _ => Ok(0),
            }
        }
        // Users, receipts and the directory have nothing that is searched here.
        _ => Ok(0),
    }
}

fn room_event(
    writing: &mut Writing,
    rooms: &dyn Rooms,
    envelope: &Envelope<'_>,
    body: &OutputRoomEvent,
) -> Result<usize, FoldError> {
    let mut queued = encrypted(writing, envelope, &body.state_delta);
    let (Some(room), Some(kind)) = (room_of(envelope), envelope.event_type) else {
        return Ok(queued);
    };
    if body.decision != Decision::Accepted {
        return Ok(queued);
    }
    if kind == REDACTION_TYPE {
        queued += redact(writing, rooms, room, body.redacts.as_deref())?;
    } else if SearchKey::of_type(kind).is_some() && body.timeline != Timeline::Outside {
        queued += add(writing, rooms, room, body)?;
    }
    Ok(queued)
}

fn room_of<'e>(envelope: &Envelope<'e>) -> Option<&'e RoomId> {
    envelope.room_id.and_then(|room| room.try_into().ok())
}

/// Rooms that are end-to-end encrypted are not searched (*Search categories*):
/// what was said before goes when a room becomes one.
fn encrypted(writing: &mut Writing, envelope: &Envelope<'_>, delta: &[StateChange]) -> usize {
    let sets = |change: &StateChange| {
        change.kind == ENCRYPTION && change.state_key.is_empty() && change.to.is_some()
    };
    match room_of(envelope).filter(|_| delta.iter().any(sets)) {
        None => 0,
        Some(room) => {
            writing.delete_room(room_key(room));
            1
        }
    }
}

/// Deletes what a redaction took away. One that comes before its event deletes
/// nothing; the event will be redacted when it comes.
fn redact(
    writing: &mut Writing,
    rooms: &dyn Rooms,
    room: &RoomId,
    redacts: Option<&str>,
) -> Result<usize, FoldError> {
    let Some(target) = redacts.and_then(|target| <&EventId>::try_from(target).ok()) else {
        return Ok(0);
    };
    let event = rooms.event(room, target)?;
    let Some(event) = event.filter(|event| event.redacted_by.is_some()) else {
        return Ok(0);
    };
    let key = event_key(room, target);
    writing.delete_event(key);
    if &*event.kind == SearchKey::Body.event_type() && event.state_key.is_none() {
        writing.delete_replacements(key, sender_key(&event.sender))?;
    }
    Ok(1)
}

fn add(
    writing: &mut Writing,
    rooms: &dyn Rooms,
    room: &RoomId,
    body: &OutputRoomEvent,
) -> Result<usize, FoldError> {
    let event = rooms.events(room, &[EventSn(body.event_sn)])?.pop();
    let Some(event) = event.filter(|event| event.redacted_by.is_none()) else {
        return Ok(0);
    };
    if is_encrypted(rooms, room)? {
        return Ok(0);
    }
    let Some(searched) = searched(&event) else {
        return Ok(0);
    };
    let original = match &searched.replaces {
        None => None,
        Some(original) => rooms.event(room, original)?,
    };
    let original = original.filter(|original| may_replace(&event, original));
    if original
        .as_ref()
        .is_some_and(|original| original.redacted_by.is_some())
    {
        return Ok(0);
    }
    let mut bits = key_bits(searched.key);
    let mut set = |bit, is_so| bits |= if is_so { bit } else { 0 };
    set(traits::REPLACES, searched.replaces.is_some());
    set(traits::URL, searched.has_url);
    set(traits::OPEN, is_open(&event));
    set(traits::HISTORY, body.timeline == Timeline::History);
    let target = searched.replaces.as_deref();
    writing.add(Document {
        text: searched.text,
        room: room_key(room),
        event: event_key(room, &event.event_id),
        target: target.map(|target| event_key(room, target)),
        sn: event.event.0,
        at: original.as_ref().unwrap_or(&event).origin_server_ts,
        sender: sender_key(&event.sender),
        traits: bits,
    })?;
    Ok(1)
}

fn is_open(event: &StoredEvent) -> bool {
    matches!(
        event.visibility,
        Visibility::Shared | Visibility::WorldReadable
    )
}

/// Whether a room is end-to-end encrypted; one that is not known counts as such.
pub fn is_encrypted(rooms: &dyn Rooms, room: &RoomId) -> Result<bool, QueryError> {
    let head = rooms.head(room)?;
    Ok(head.is_none_or(|head| head.state.contains_key(&StateKey::new(ENCRYPTION, ""))))
}
