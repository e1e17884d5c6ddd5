//! An event as the auth rules read it: as it was accepted.
//!
//! Its content is what redaction keeps (the skeleton) and what the rules read
//! beyond that (the auth extract), never the body, which may be erased: so a
//! rewritten log folds to the same decisions.

use std::fmt;

use log_format::codec;
use log_format::record::Envelope;
use log_format::record::input::InputRoomEvent;
use ruma::events::TimelineEventType;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt,
    UserId,
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// See the module.
pub struct AuthEvent {
    event_id: OwnedEventId,
    /// As the event itself says; create events of version 12 say none.
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    kind: TimelineEventType,
    state_key: Option<Box<str>>,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    content: Box<RawValue>,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    redacts: Option<OwnedEventId>,
}

#[derive(Deserialize)]
struct Skeleton<'a> {
    room_id: Option<OwnedRoomId>,
    #[serde(borrow)]
    content: &'a RawValue,
}

impl AuthEvent {
    /// Reads a record; none if it is not a well-formed event.
    pub fn read(envelope: &Envelope<'_>) -> Option<AuthEvent> {
        let body: InputRoomEvent = codec::decode(envelope.body).ok()?;
        AuthEvent::read_with(envelope, &body)
    }

    /// [`AuthEvent::read`] of a record whose body was decoded already.
    pub fn read_with(envelope: &Envelope<'_>, body: &InputRoomEvent) -> Option<AuthEvent> {
        let skeleton: Skeleton<'_> = serde_json::from_slice(envelope.skeleton.bytes()?).ok()?;
        let content = match envelope.auth_extract.bytes() {
            None => skeleton.content.to_owned(),
            Some(extract) => merged(skeleton.content, extract)?,
        };
        let timestamp = UInt::try_from(envelope.origin_ts_ms).ok()?;
        Some(AuthEvent {
            event_id: OwnedEventId::try_from(envelope.event_id?).ok()?,
            room_id: skeleton.room_id,
            sender: OwnedUserId::try_from(envelope.sender?).ok()?,
            kind: TimelineEventType::from(envelope.event_type?),
            state_key: envelope.state_key.map(Into::into),
            origin_server_ts: MilliSecondsSinceUnixEpoch(timestamp),
            content,
            prev_events: ids(&body.prev_events)?,
            auth_events: ids(&body.auth_events)?,
            redacts: match &body.redacts {
                None => None,
                Some(id) => Some(OwnedEventId::try_from(id.as_str()).ok()?),
            },
        })
    }

    pub fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    pub fn sender(&self) -> &UserId {
        &self.sender
    }

    pub fn kind(&self) -> &TimelineEventType {
        &self.kind
    }

    pub fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    pub fn content(&self) -> &RawValue {
        &self.content
    }

    /// Roughly what it takes in memory.
    pub fn size_bytes(&self) -> usize {
        let ids = self.prev_events.len() + self.auth_events.len();
        400 + self.content.get().len() + 64 * ids
    }

    /// A text field of the content.
    pub fn content_text(&self, field: &str) -> Option<String> {
        let content: serde_json::Value = serde_json::from_str(self.content.get()).ok()?;
        Some(content.get(field)?.as_str()?.to_owned())
    }
}

fn ids(texts: &[String]) -> Option<Vec<OwnedEventId>> {
    let parse = |text: &String| OwnedEventId::try_from(text.as_str()).ok();
    texts.iter().map(parse).collect()
}

/// The redacted content with what the extract adds or gives whole.
fn merged(content: &RawValue, extract: &[u8]) -> Option<Box<RawValue>> {
    type Object = serde_json::Map<String, serde_json::Value>;
    let mut content: Object = serde_json::from_str(content.get()).ok()?;
    let extract: Object = serde_json::from_slice(extract).ok()?;
    content.extend(extract);
    serde_json::value::to_raw_value(&content).ok()
}

impl fmt::Debug for AuthEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Contents stay out of log lines.
        f.debug_tuple("AuthEvent").field(&self.event_id).finish()
    }
}

impl ruma::state_res::Event for AuthEvent {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.room_id.as_deref()
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }

    fn content(&self) -> &RawValue {
        &self.content
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }

    /// Only accepted events are ever asked to authorise another.
    fn rejected(&self) -> bool {
        false
    }
}

/// So that ids can be looked up by text.
pub fn find<'a>(
    events: &'a [std::sync::Arc<AuthEvent>],
    id: &EventId,
) -> Option<&'a std::sync::Arc<AuthEvent>> {
    events.iter().find(|event| event.event_id == id)
}
