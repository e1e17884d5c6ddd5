//! From what a user wants to write to a signed event in its *input* record.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use log_format::codec;
use log_format::record::envelope::Part;
use log_format::record::input::{InputRoomEvent, Placement, Relation, VerifiedKey};
use log_format::record::{Kind, NewEnvelope, Source};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId};

use super::room_error::RoomWriteError;
use super::sequencer::ClientTransaction;
use crate::clock;
use crate::crypto::{ServerKey, random};
use crate::logs::log::NewRecord;
use crate::matrix::RoomVersion;
use crate::matrix::build::{BuildError, BuiltEvent, EventRef, ProtoEvent, build_and_sign};
use crate::matrix::canonical_json::{CanonicalJsonObject, CanonicalJsonValue, parse_stored_object};
use crate::query::rooms::StoredEvent;

/// An event before it has a place in its room.
#[derive(Clone, Debug)]
pub struct Draft {
    pub sender: OwnedUserId,
    pub kind: Box<str>,
    /// Present on state events.
    pub state_key: Option<Box<str>>,
    pub content: CanonicalJsonObject,
    /// What a redaction redacts.
    pub redacts: Option<OwnedEventId>,
}

impl Draft {
    /// An event that is no state.
    pub fn message(sender: &UserId, kind: &str, content: CanonicalJsonObject) -> Draft {
        Draft {
            sender: sender.to_owned(),
            kind: kind.into(),
            state_key: None,
            content,
            redacts: None,
        }
    }

    /// A state event.
    pub fn state(
        sender: &UserId,
        kind: &str,
        state_key: &str,
        content: CanonicalJsonObject,
    ) -> Draft {
        Draft {
            sender: sender.to_owned(),
            kind: kind.into(),
            state_key: Some(state_key.into()),
            content,
            redacts: None,
        }
    }
}

/// What an event builds on.
#[derive(Clone, Debug, Default)]
pub struct Parents {
    pub prev_events: Vec<EventRef>,
    /// Of the new event: one more than the deepest parent's.
    pub depth: u64,
}

/// What the sequencer knows about an event beside its draft.
pub struct RecordFields<'a> {
    /// None for the create event of a version 12 room.
    pub room_id: Option<&'a RoomId>,
    pub version: RoomVersion,
    pub parents: Parents,
    pub auth_events: &'a [EventRef],
    pub transaction: Option<&'a ClientTransaction>,
    pub placement: Placement,
    /// Index in, and size of, the batch that stands or falls as one.
    pub batch: (u32, u32),
}

/// A signed event and its record.
pub struct Built {
    pub event_id: OwnedEventId,
    /// The event as the next ones cite it.
    pub reference: EventRef,
    pub room_id: OwnedRoomId,
    /// The PDU as canonical JSON.
    pub json: Vec<u8>,
    pub record: NewRecord,
}

/// Signs events in the name of this server.
pub struct EventBuilder {
    server_name: OwnedServerName,
    key: Arc<ServerKey>,
    /// `origin_server_ts` of the newest create event. From room version 12 a
    /// room's id is the hash of its create event, and two rooms that one user
    /// makes alike in one millisecond would be one room.
    last_created_ms: AtomicU64,
}

impl EventBuilder {
    pub fn new(server_name: OwnedServerName, key: Arc<ServerKey>) -> EventBuilder {
        EventBuilder {
            server_name,
            key,
            last_created_ms: AtomicU64::new(0),
        }
    }

    /// The time that an event carries: now, and for create events each later
    /// than the one before.
    fn origin_server_ts(&self, kind: &str, now_ms: u64) -> u64 {
        if kind != "m.room.create" {
            return now_ms;
        }
        let next = |last: u64| now_ms.max(last.saturating_add(1));
        let last =
            self.last_created_ms
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                    Some(next(last))
                });
        next(last.unwrap_or_else(|last| last))
    }

    /// Hashes, signs and encodes one event. About 50 µs, most of it the signature.
    pub fn build(&self, draft: &Draft, fields: RecordFields<'_>) -> Result<Built, RoomWriteError> {
        let received_us = clock::now_us();
        let origin_server_ts = self.origin_server_ts(&draft.kind, received_us / 1000);
        let prev_events = fields.parents.prev_events;
        let proto = ProtoEvent {
            room_id: fields.room_id.map(RoomId::to_owned),
            sender: draft.sender.clone(),
            kind: draft.kind.clone(),
            state_key: draft.state_key.clone(),
            content: draft.content.clone(),
            redacts: draft.redacts.clone(),
            prev_events: prev_events.clone(),
            auth_events: fields.auth_events.to_vec(),
            depth: fields.parents.depth,
            origin_server_ts,
            event_localpart: fields
                .version
                .has_event_id_field()
                .then(|| random::event_localpart().into()),
        };
        let built = build_and_sign(fields.version, proto, &self.server_name, &self.key)
            .map_err(build_error)?;
        let body = codec::encode(&InputRoomEvent {
            placement: fields.placement,
            depth: fields.parents.depth,
            prev_events: ids(&prev_events),
            auth_events: ids(fields.auth_events),
            redacts: draft.redacts.as_ref().map(|id| id.to_string()),
            relation: relation(&draft.content),
            membership: membership(draft),
            transaction: fields.transaction.map(|from| from.echo.clone()),
            verified_with: vec![VerifiedKey {
                server: self.server_name.to_string(),
                key_id: self.key.key_id().to_owned(),
                valid_until_ms: u64::MAX,
            }],
            batch_index: fields.batch.0,
            batch_count: fields.batch.1,
        });
        let record = record(
            draft,
            fields.version,
            fields.transaction,
            (received_us, origin_server_ts),
            &built,
            &body,
        );
        Ok(Built {
            reference: built.reference(),
            event_id: built.event_id,
            room_id: built.room_id,
            json: built.json,
            record,
        })
    }
}

/// An event that is stored, as new ones cite it. In versions 1 and 2 it is
/// parsed and hashed for that, which takes some 20 µs.
pub fn reference_to(version: RoomVersion, event: &StoredEvent) -> EventRef {
    let id = &event.event_id;
    if !version.has_event_id_field() {
        return id.clone().into();
    }
    match parse_stored_object(&event.json) {
        Ok(object) => EventRef::to(version, id, &object),
        // What is stored was parsed before; without a hash the id still counts.
        Err(_) => id.clone().into(),
    }
}

fn ids(references: &[EventRef]) -> Vec<String> {
    let ids = references.iter().map(|cited| cited.event_id.to_string());
    ids.collect()
}

fn record(
    draft: &Draft,
    version: RoomVersion,
    transaction: Option<&ClientTransaction>,
    (received_us, origin_ts_ms): (u64, u64),
    built: &BuiltEvent,
    body: &[u8],
) -> NewRecord {
    let envelope = NewEnvelope {
        received_us,
        origin_ts_ms,
        idempotency: transaction.map_or([0; 16], |from| from.idempotency),
        key: built.room_id.as_str(),
        room_id: Some(built.room_id.as_str()),
        event_id: Some(built.event_id.as_str()),
        sender: Some(draft.sender.as_str()),
        event_type: Some(&draft.kind),
        state_key: draft.state_key.as_deref(),
        room_version: Some(version.as_str()),
        body,
        auth_extract: match &built.auth_extract {
            Some(extract) => Part::Present(extract),
            None => Part::Absent,
        },
        skeleton: Part::Present(&built.skeleton),
        body_part: Part::Present(&built.json),
        salt: crate::crypto::random::bytes(),
        ..NewEnvelope::default()
    };
    NewRecord::new(Kind::InputRoomEvent, Source::Client, &envelope)
}

/// `m.relates_to` as far as the record carries it.
pub fn relation(content: &CanonicalJsonObject) -> Option<Relation> {
    let relates = content.get("m.relates_to")?.as_object()?;
    Some(Relation {
        rel_type: relates.get("rel_type")?.as_str()?.to_owned(),
        event_id: relates.get("event_id")?.as_str()?.to_owned(),
    })
}

fn membership(draft: &Draft) -> Option<String> {
    if &*draft.kind != "m.room.member" {
        return None;
    }
    match draft.content.get("membership") {
        Some(CanonicalJsonValue::String(membership)) => Some(membership.clone()),
        _ => None,
    }
}

fn build_error(error: BuildError) -> RoomWriteError {
    match error {
        BuildError::TooLong(_) | BuildError::TooLarge(_) => {
            RoomWriteError::TooLarge(error.to_string())
        }
        BuildError::TooManyReferences(_)
        | BuildError::OutOfRange(_)
        | BuildError::NoRoomId
        | BuildError::RoomIdOnCreate
        | BuildError::NoEventLocalpart
        | BuildError::BadEventId => RoomWriteError::Build(error.to_string()),
    }
}
