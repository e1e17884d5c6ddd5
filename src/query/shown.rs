//! Stored events as one device of a user sees them: formatted, with the
//! `unsigned` that is theirs (client-server API, *Room event format*).
//!
//! Every endpoint that gives events to clients gives them through this, so that
//! what is redacted is redacted everywhere, and what relates to an event is
//! bundled with it wherever it shows ([`bundles`]).

mod bundles;

use std::collections::HashMap;
use std::sync::Arc;

use ruma::{DeviceId, EventId, UserId};
use serde_json::value::RawValue;

use self::bundles::{Level, bundles};
pub use self::bundles::{newest_reply, participates};
use super::ids::EventSn;
use super::relations::Relations;
use super::rooms::{QueryError, StoredEvent};
use super::visibility::Viewpoint;
use crate::matrix::Membership;
use crate::matrix::client_event::{Format, FormatError, Unsigned, client_event, content_of};

/// An event could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    #[error(transparent)]
    Query(#[from] QueryError),
    /// An event of ours is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Shows events of one room to one device.
#[derive(Clone, Copy)]
pub struct Show<'a> {
    pub viewpoint: &'a Viewpoint<'a>,
    pub user: &'a UserId,
    pub device: &'a DeviceId,
    /// Milliseconds since the epoch, for `age`.
    pub now_ms: u64,
    /// Everywhere but in `/sync`, where the room is known.
    pub names_room: bool,
    /// What relates to an event is bundled with it; none leaves that to the
    /// client, which has or is given it all.
    pub relations: Option<&'a dyn Relations>,
}

/// Events by interned id.
type Named = HashMap<EventSn, Arc<StoredEvent>>;

impl Show<'_> {
    /// Events for their own sake, in the order given, with all that `unsigned`
    /// has for them. Says nothing about whether they may be seen.
    pub fn timeline(&self, events: &[Arc<StoredEvent>]) -> Result<Vec<Box<RawValue>>, ShowError> {
        let beside = events
            .iter()
            .flat_map(|event| [event.replaces, event.redacted_by]);
        let beside = self.load(beside)?;
        let bundles = bundles(self, events.iter().map(|event| &**event), Level::Outer)?;
        let shown = events.iter().map(|event| {
            let bundle = bundles.get(&event.event).map(String::as_str);
            self.timeline_event(event, &beside, bundle)
        });
        shown.collect()
    }

    /// One event as [`Show::timeline`] shows it.
    pub fn event(&self, event: &StoredEvent) -> Result<Box<RawValue>, ShowError> {
        let bundles = bundles(self, std::iter::once(event), Level::Outer)?;
        self.event_with(event, bundles.get(&event.event).map(String::as_str))
    }

    /// The same, with `m.relations` as JSON.
    fn event_with(
        &self,
        event: &StoredEvent,
        bundle: Option<&str>,
    ) -> Result<Box<RawValue>, ShowError> {
        let beside = self.load([event.replaces, event.redacted_by].into_iter())?;
        self.timeline_event(event, &beside, bundle)
    }

    /// Events as parts of a state: without what would take a look at other
    /// states for each of them, as a room may have 50,000.
    pub fn state(&self, events: &[Arc<StoredEvent>]) -> Result<Vec<Box<RawValue>>, ShowError> {
        let redactions = self.load(events.iter().map(|event| event.redacted_by))?;
        events
            .iter()
            .map(|event| {
                let redaction = self.redacted_because(event, &redactions)?;
                let unsigned = Unsigned {
                    redacted_because: redaction.as_deref().map(RawValue::get),
                    redacted_by: redacted_by(event, &redactions),
                    ..self.aged(event)
                };
                self.format(event, &event.json, unsigned)
            })
            .collect()
    }

    fn timeline_event(
        &self,
        event: &StoredEvent,
        beside: &Named,
        bundle: Option<&str>,
    ) -> Result<Box<RawValue>, ShowError> {
        let redaction = self.redacted_because(event, beside)?;
        let replaced = event.replaces.and_then(|replaced| beside.get(&replaced));
        // What was replaced is named even where its content may not be shown.
        let prev_content = match replaced {
            Some(replaced)
                if self.viewpoint.may_see(replaced)? && !self.viewpoint.is_erased(replaced)? =>
            {
                Some(content_of(&replaced.json)?)
            }
            _ => None,
        };
        let membership = self.viewpoint.membership_behind(event)?;
        let unsigned = Unsigned {
            membership: Some(membership.unwrap_or(Membership::Leave)),
            transaction_id: self.transaction_id(event),
            prev_content,
            replaces_state: replaced.map(|replaced| &*replaced.event_id),
            redacted_because: redaction.as_deref().map(RawValue::get),
            redacted_by: redacted_by(event, beside),
            relations: bundle,
            ..self.aged(event)
        };
        self.format(event, &self.viewpoint.given(event)?, unsigned)
    }

    /// The redaction that was applied, as clients see it.
    fn redacted_because(
        &self,
        event: &StoredEvent,
        beside: &Named,
    ) -> Result<Option<Box<RawValue>>, ShowError> {
        let redaction = event.redacted_by.and_then(|event| beside.get(&event));
        redaction
            .map(|redaction| {
                let json = self.viewpoint.given(redaction)?;
                self.format(redaction, &json, self.aged(redaction))
            })
            .transpose()
    }

    fn load(&self, events: impl Iterator<Item = Option<EventSn>>) -> Result<Named, QueryError> {
        let wanted: Vec<EventSn> = events.flatten().collect();
        if wanted.is_empty() {
            return Ok(Named::new());
        }
        let found = self
            .viewpoint
            .rooms()
            .events(self.viewpoint.room_id(), &wanted)?;
        Ok(found
            .into_iter()
            .map(|event| (event.event, event))
            .collect())
    }

    fn format(
        &self,
        event: &StoredEvent,
        json: &[u8],
        unsigned: Unsigned<'_>,
    ) -> Result<Box<RawValue>, ShowError> {
        let format = Format {
            event_id: &event.event_id,
            room_id: self.names_room.then(|| self.viewpoint.room_id()),
            unsigned,
        };
        Ok(client_event(json, &format)?)
    }

    /// How old the event is, and nothing else.
    fn aged(&self, event: &StoredEvent) -> Unsigned<'static> {
        let ms = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        Unsigned {
            age: Some(ms(self.now_ms) - ms(event.origin_server_ts)),
            ..Unsigned::default()
        }
    }

    /// The transaction id, for the device that sent the event.
    fn transaction_id<'e>(&self, event: &'e StoredEvent) -> Option<&'e str> {
        let (device, transaction) = event.transaction.as_ref()?;
        let own = event.sender == self.user && device == self.device;
        own.then_some(&**transaction)
    }
}

/// The id of the redaction that was applied.
fn redacted_by<'a>(event: &StoredEvent, beside: &'a Named) -> Option<&'a EventId> {
    let redaction = beside.get(&event.redacted_by?)?;
    Some(&redaction.event_id)
}
