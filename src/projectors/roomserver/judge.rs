//! What becomes of one event: known already, refused and why, or part of the
//! room.
//!
//! Everything is checked before anything is written, so a refused event leaves
//! no trace. Today a room's extremities all have the same state after them: an
//! event whose acceptance would end that needs state resolution and is refused
//! with `TooMuchWork`. So the state before an accepted event is the current
//! one, and *allowed by the state before but not by current state* (soft
//! failure) cannot happen yet.

use std::sync::Arc;

use log_format::record::input::{InputRoomEvent, Placement};
use log_format::record::output::{Decision, Membership, Reason};
use log_format::record::{Envelope, Source};
use ruma::{EventId, OwnedEventId, RoomId, UserId};
use smallvec::SmallVec;

use super::annotate::Annotation;
use super::answers::RoomTables;
use super::fold::KnownIds;
use super::heads::Head;
use super::rows::{self, EventRow};
use super::{accepted_event, auth};
use crate::limits;
use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::{self, AuthError, AuthEvent, EventContent};
use crate::projectors::fold::FoldError;
use crate::query::ids::{EventSn, RoomSn};
use crate::query::rooms::{Extremity, StoredEvent};
use crate::storage::columns::{EVENT_IDS, IDEMPOTENCY};
use crate::storage::overlay::Overlay;

/// A room event whose fields have the shapes that the fold relies on.
pub struct Event<'a> {
    pub partition: u32,
    /// Offset of the record that is folded.
    pub offset: u64,
    /// Interned id: the offset, or that of an earlier record of the same event.
    pub sn: EventSn,
    pub envelope: &'a Envelope<'a>,
    pub body: &'a InputRoomEvent,
    pub room_id: &'a RoomId,
    pub event_id: &'a EventId,
    pub sender: &'a UserId,
    pub kind: &'a str,
    pub state_key: Option<&'a str>,
    /// Of a member event.
    pub membership: Option<Membership>,
}

/// What became of an event.
pub struct Judged {
    pub annotation: Annotation,
    pub duplicate_of: Option<OwnedEventId>,
    /// The event as it is served, if it became part of the room.
    pub fresh: Option<Arc<StoredEvent>>,
    /// An event that it redacted.
    pub changed: Option<EventSn>,
}

/// An event that others refer to.
enum Prior {
    Unknown,
    Accepted(EventSn),
    Other(EventSn, EventRow),
}

/// Why an event goes no further.
enum Stop {
    Fail(FoldError),
    Refuse(Reason),
}

impl<E: Into<FoldError>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Fail(error.into())
    }
}

impl Judged {
    pub(super) fn plain(annotation: Annotation) -> Judged {
        Judged {
            annotation,
            duplicate_of: None,
            fresh: None,
            changed: None,
        }
    }

    /// A refusal that leaves no trace in the tables.
    pub fn rejected(event: &Event<'_>, reason: Reason) -> Judged {
        Judged::refused(event, RoomSn(0), reason)
    }

    fn refused(event: &Event<'_>, room: RoomSn, reason: Reason) -> Judged {
        let decision = Decision::Rejected;
        Judged::plain(Annotation::unplaced(decision, reason, room, event.sn))
    }

    fn duplicate(room: RoomSn, of: EventSn, id: OwnedEventId) -> Judged {
        let annotation = Annotation::unplaced(Decision::Duplicate, Reason::None, room, of);
        Judged {
            duplicate_of: Some(id),
            ..Judged::plain(annotation)
        }
    }
}

impl<'a> Event<'a> {
    /// Reads a record; none if it is malformed.
    pub fn read(
        partition: u32,
        offset: u64,
        envelope: &'a Envelope<'a>,
        body: &'a InputRoomEvent,
    ) -> Option<Event<'a>> {
        let kind = envelope.event_type?;
        let state_key = envelope.state_key;
        let sound = body.prev_events.len() <= limits::PREV_EVENTS_MAX
            && body.auth_events.len() <= limits::AUTH_EVENTS_MAX
            && body.depth <= limits::INTEGER_MAX as u64
            && kind.len() <= limits::EVENT_TYPE_BYTES_MAX
            && state_key.is_none_or(|key| key.len() <= limits::STATE_KEY_BYTES_MAX)
            && envelope.skeleton.bytes().is_some()
            && envelope.room_id == Some(envelope.key);
        if !sound {
            return None;
        }
        let membership = match (kind, state_key) {
            ("m.room.member", Some(_)) => Some(Membership::parse(body.membership.as_deref()?)?),
            _ => None,
        };
        Some(Event {
            partition,
            offset,
            sn: EventSn(offset),
            envelope,
            body,
            room_id: <&RoomId>::try_from(envelope.room_id?).ok()?,
            event_id: <&EventId>::try_from(envelope.event_id?).ok()?,
            sender: <&UserId>::try_from(envelope.sender?).ok()?,
            kind,
            state_key,
            membership,
        })
    }

    /// Whether this server made the event. Then what it builds on was here when
    /// it was built, and if it is not now, the fold refused it.
    fn is_local(&self) -> bool {
        match self.envelope.source {
            Source::Client | Source::Appservice | Source::Internal => true,
            Source::Federation | Source::Backfill => false,
        }
    }

    fn missing(&self) -> Reason {
        match self.is_local() {
            true => Reason::Rebase,
            false => Reason::MissingEvents,
        }
    }

    /// An event of a known room.
    pub(super) fn judge(
        &self,
        shared: &RoomTables,
        head: &mut Head,
        known: &mut KnownIds,
        tables: &mut Overlay<'_>,
    ) -> Result<Judged, FoldError> {
        let room = head.shown.room;
        if let Some(repeated) = self.repeated(shared, room, tables)? {
            return Ok(repeated);
        }
        let reused;
        let mut event = self;
        match self.prior(room, self.event_id.as_str(), known, tables)? {
            Prior::Unknown => {}
            Prior::Accepted(sn) => {
                return Ok(Judged::duplicate(room, sn, self.event_id.to_owned()));
            }
            Prior::Other(sn, row) => {
                let adds = match row.decision {
                    // An outlier may become part of the graph, a rejected event
                    // may be judged again.
                    Decision::Outlier => self.body.placement == Placement::New,
                    Decision::Rejected => true,
                    Decision::Accepted | Decision::SoftFailed | Decision::Duplicate => false,
                };
                if !adds {
                    return Ok(Judged::duplicate(room, sn, self.event_id.to_owned()));
                }
                reused = Event { sn, ..*self };
                event = &reused;
            }
        }
        match event.check(shared, head, known, tables) {
            Err(Stop::Fail(error)) => Err(error),
            Err(Stop::Refuse(reason)) => event.refuse(room, reason, tables),
            Ok(None) => event.keep_unplaced(room, Decision::Outlier, Reason::None, tables),
            Ok(Some((version, left))) => {
                let judged = event.accept(shared, head, version, &left, tables)?;
                let id = Box::from(event.event_id.as_str());
                known.insert(id, (event.partition, room, event.sn));
                Ok(judged)
            }
        }
    }

    /// The decision if an earlier record has the same idempotency key.
    fn repeated(
        &self,
        shared: &RoomTables,
        room: RoomSn,
        tables: &Overlay<'_>,
    ) -> Result<Option<Judged>, FoldError> {
        if self.envelope.idempotency == [0; 16] {
            return Ok(None);
        }
        let key = rows::idempotency_key(self.partition, room, &self.envelope.idempotency);
        let Some(sn) = rows::find_number(tables, IDEMPOTENCY, &key)?.map(EventSn) else {
            return Ok(None);
        };
        let id = shared.events.event_id(self.partition, sn)?;
        Ok(Some(Judged::duplicate(room, sn, id)))
    }

    fn prior(
        &self,
        room: RoomSn,
        id: &str,
        known: &mut KnownIds,
        tables: &Overlay<'_>,
    ) -> Result<Prior, FoldError> {
        if let Some((partition, in_room, sn)) = known.get(id)
            && (*partition, *in_room) == (self.partition, room)
        {
            return Ok(Prior::Accepted(*sn));
        }
        let key = rows::room_text_key(self.partition, room, id);
        let Some(sn) = rows::find_number(tables, EVENT_IDS, &key)?.map(EventSn) else {
            return Ok(Prior::Unknown);
        };
        let Some(row) = EventRow::load(tables, self.partition, sn)? else {
            return Ok(Prior::Unknown);
        };
        if row.decision != Decision::Accepted {
            return Ok(Prior::Other(sn, row));
        }
        known.insert(Box::from(id), (self.partition, room, sn));
        Ok(Prior::Accepted(sn))
    }

    /// Everything that must hold before the event becomes part of the room.
    /// Returns the room's version and the extremities that stay beside the event;
    /// none for an outlier.
    fn check(
        &self,
        shared: &RoomTables,
        head: &Head,
        known: &mut KnownIds,
        tables: &Overlay<'_>,
    ) -> Result<Option<(RoomVersion, Vec<Extremity>)>, Stop> {
        let version = head.shown.authority.create_info.version;
        let named = self.envelope.room_version.unwrap_or(version.as_str());
        if named != version.as_str() {
            return Err(Stop::Refuse(Reason::Malformed));
        }
        if self.kind == "m.room.create" {
            return Err(Stop::Refuse(Reason::RoomExists));
        }
        match self.body.placement {
            Placement::New => {}
            Placement::Outlier => return Ok(None),
            // No writer of this version makes one.
            Placement::Backfill { .. } => return Err(Stop::Refuse(Reason::Malformed)),
        }
        let left = self.check_previous(head, known, tables)?;
        self.check_auth(shared, head, version, known, tables)?;
        Ok(Some((version, left)))
    }

    /// All previous events are accepted, and the state before the event is the
    /// current one. Returns the extremities that it leaves.
    fn check_previous(
        &self,
        head: &Head,
        known: &mut KnownIds,
        tables: &Overlay<'_>,
    ) -> Result<Vec<Extremity>, Stop> {
        let previous = &self.body.prev_events;
        if previous.is_empty() {
            return Err(Stop::Refuse(Reason::Malformed));
        }
        let extremities = &head.shown.extremities;
        for id in previous {
            // The state after each extremity is the current one.
            if extremities.iter().any(|known| known.event_id == *id) {
                continue;
            }
            let Prior::Accepted(sn) = self.prior(head.shown.room, id, known, tables)? else {
                return Err(Stop::Refuse(self.missing()));
            };
            let row = EventRow::load(tables, self.partition, sn)?;
            if row.map(|row| row.state_after) != Some(head.node.id) {
                return Err(Stop::Refuse(Reason::TooMuchWork));
            }
        }
        let left: Vec<Extremity> = extremities
            .iter()
            .filter(|known| !previous.iter().any(|id| known.event_id == *id))
            .cloned()
            .collect();
        if !left.is_empty() && self.state_key.is_some() {
            return Err(Stop::Refuse(Reason::TooMuchWork));
        }
        Ok(left)
    }

    /// The auth rules: against the auth events, and against the state before,
    /// which is the current one. A plain message parses no JSON here, as long as
    /// it cites current state.
    fn check_auth(
        &self,
        shared: &RoomTables,
        head: &Head,
        version: RoomVersion,
        known: &mut KnownIds,
        tables: &Overlay<'_>,
    ) -> Result<(), Stop> {
        let room = head.shown.room;
        let mut cited = SmallVec::<[EventSn; 6]>::new();
        for id in &self.body.auth_events {
            let Prior::Accepted(sn) = self.prior(room, id, known, tables)? else {
                return Err(Stop::Refuse(self.missing()));
            };
            cited.push(sn);
        }
        let forbidden = |_: AuthError| Stop::Refuse(Reason::Forbidden);
        let event = self.to_judge().map_err(forbidden)?;
        let content = auth::member_content(&event).map_err(forbidden)?;
        if let Some(content) = &content
            && content.get("membership").and_then(|word| word.as_str())
                != self.body.membership.as_deref()
        {
            return Err(Stop::Refuse(Reason::Malformed));
        }
        let event = match &content {
            Some(content) => AuthEvent {
                content: EventContent::Parsed(content),
                ..event
            },
            None => event,
        };
        let authority = &head.shown.authority;
        let same =
            auth::cites_current_state(&head.shown, version, &event, content.as_deref(), &cited);
        if !same.map_err(forbidden)? {
            let mut events = Vec::with_capacity(cited.len());
            for sn in cited {
                events.push(shared.events.accepted(self.partition, sn)?);
            }
            auth::check_cited(version, &event, &events, authority).map_err(forbidden)?;
        }
        auth_rules::check(version, &event, &**authority).map_err(forbidden)
    }

    /// The event as the rules read it.
    pub(super) fn to_judge(&self) -> Result<AuthEvent<'_>, AuthError> {
        Ok(AuthEvent {
            event_id: self.event_id,
            room_id: self.room_id,
            sender: self.sender,
            kind: self.kind,
            state_key: self.state_key,
            content: accepted_event::content(self.envelope)?,
            prev_events_count: self.body.prev_events.len(),
            first_prev_event: self.body.prev_events.first().map(String::as_str),
            redacts: self.body.redacts.as_deref(),
        })
    }

    fn refuse(
        &self,
        room: RoomSn,
        reason: Reason,
        tables: &mut Overlay<'_>,
    ) -> Result<Judged, FoldError> {
        // A remote event that the rules reject is remembered, so that what
        // builds on it is rejected too; a local one never existed.
        if reason == Reason::Forbidden && !self.is_local() {
            return self.keep_unplaced(room, Decision::Rejected, reason, tables);
        }
        Ok(Judged::refused(self, room, reason))
    }
}
