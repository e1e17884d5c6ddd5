//! An event as the auth rules read it: as it was accepted.
//!
//! Its content is what redaction keeps (the skeleton) and what the rules read
//! beyond that (the auth extract), never the body, which may be erased: so a
//! rewritten log folds to the same decisions.

use std::borrow::Cow;
use std::fmt;

use log_format::record::Envelope;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};

use crate::matrix::auth_rules::{AuthError, CitedEvent, EventContent};
use crate::matrix::canonical_json::CanonicalJsonObject;

/// See the module.
pub struct AcceptedEvent {
    pub event_id: OwnedEventId,
    pub room_id: OwnedRoomId,
    pub sender: OwnedUserId,
    pub kind: Box<str>,
    pub state_key: Option<Box<str>>,
    pub content: CanonicalJsonObject,
    content_bytes: usize,
}

/// The content that the rules read of a record.
pub fn content<'a>(envelope: &Envelope<'a>) -> Result<EventContent<'a>, AuthError> {
    Ok(EventContent::Skeleton {
        skeleton: envelope.skeleton.bytes().ok_or(AuthError::Content)?,
        auth_extract: envelope.auth_extract.bytes(),
    })
}

impl AcceptedEvent {
    /// Reads a record; none if it is not a well-formed event. Content that is
    /// none says nothing: where the rules ask for it, the event was refused, and
    /// no record that was kept may stop the fold of those that refer to it.
    pub fn read(envelope: &Envelope<'_>) -> Option<AcceptedEvent> {
        let skeleton = envelope.skeleton.bytes().map_or(0, <[u8]>::len);
        let extract = envelope.auth_extract.bytes().map_or(0, <[u8]>::len);
        Some(AcceptedEvent {
            event_id: OwnedEventId::try_from(envelope.event_id?).ok()?,
            room_id: OwnedRoomId::try_from(envelope.room_id?).ok()?,
            sender: OwnedUserId::try_from(envelope.sender?).ok()?,
            kind: envelope.event_type?.into(),
            state_key: envelope.state_key.map(Into::into),
            content: content(envelope)
                .and_then(|content| content.load())
                .map_or_else(|_| CanonicalJsonObject::new(), Cow::into_owned),
            content_bytes: skeleton + extract,
        })
    }

    /// The event as another's `auth_events` cite it. Only accepted events are kept.
    pub fn cited(&self) -> CitedEvent<'_> {
        CitedEvent {
            kind: &self.kind,
            // What is no state event has no key that any event would cite.
            state_key: self.state_key.as_deref().unwrap_or("\u{0}"),
            room_id: &self.room_id,
            rejected: false,
        }
    }

    /// Roughly what it takes in memory.
    pub fn size_bytes(&self) -> usize {
        512 + 3 * self.content_bytes
    }
}

impl fmt::Debug for AcceptedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Contents stay out of log lines.
        f.debug_tuple("AcceptedEvent")
            .field(&self.event_id)
            .finish()
    }
}
