//! What becomes of one event: known already, refused and why, kept aside, or
//! part of the room.
//!
//! Three questions, as the server-server API asks them (*Checks performed on
//! receipt of a PDU*): does what the event cites as its authority allow it, does
//! the state before it, does the room's current state? No to the first two
//! rejects it, no to the third alone makes it soft-failed. An event whose state
//! cannot be told, since what it builds on is not known, waits as an outlier.
//!
//! Everything that may call the decision off is done before the first write
//! that others would see; see [`super::turn`].

use std::borrow::Cow;
use std::sync::Arc;

use log_format::record::input::{InputRoomEvent, Placement};
use log_format::record::output::{Decision, Membership, Reason};
use log_format::record::{Envelope, Source};
use ruma::{EventId, OwnedEventId, RoomId, UserId};

use super::accepted_event;
use super::annotate::{Annotation, Gap};
use super::answers::RoomTables;
use super::auth;
use super::heads::Head;
use super::rows::{self, EventRow};
use super::scope::{Cited, Prior, Scope, Stop};
use super::state::StateNode;
use super::waiting::Waiters;
use crate::limits;
use crate::matrix::RoomVersion;
use crate::matrix::auth_rules::{self, AuthError, AuthEvent, EventContent};
use crate::matrix::canonical_json::{CanonicalJsonObject, parse_stored_object};
use crate::matrix::policy::{self, POLICY_TYPE, PolicyServer};
use crate::query::ids::{EventSn, RoomSn};
use crate::query::rooms::{Extremity, StateKey, StoredEvent};
use crate::storage::columns::IDEMPOTENCY;
use crate::storage::overlay::Overlay;

/// What verifying a signature costs, in steps of work (see
/// [`limits::ROOM_WORK_INLINE_MAX`]).
const SIGNATURE_STEPS: u64 = 20;

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
    /// What the event builds on and is not known.
    pub gap: Option<Gap>,
    /// The event as it is served, if it became part of the room.
    pub fresh: Option<Arc<StoredEvent>>,
    /// Events whose rows changed: redacted ones, and the event itself if it was
    /// kept before.
    pub changed: Vec<EventSn>,
    /// Offsets of records that waited for this event.
    pub released: Vec<u64>,
}

/// What is known of an event when its decision begins.
pub(super) struct Case<'a> {
    pub version: RoomVersion,
    pub event: AuthEvent<'a>,
    pub content: Option<Cow<'a, CanonicalJsonObject>>,
    pub cited: Cited,
    /// Its row, if it was kept before.
    pub prior: Option<EventRow>,
    pub waiters: Waiters,
}

/// The state before an event, or the `prev_events` for which it cannot be told.
pub(super) enum Before {
    State {
        node: StateNode,
        /// A writer gave it: there is history before the event that is not known.
        is_given: bool,
    },
    Unknown(Vec<String>),
}

/// How a new event meets what is known of the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joint {
    /// All that it builds on is known.
    Seamless,
    /// Another server told us the state before it: there may be history between
    /// it and what is known.
    BehindGap,
    /// The same, and nothing of what was known goes on: our users come back to a
    /// room that none of them was in.
    Rejoin,
}

impl Judged {
    pub(super) fn plain(annotation: Annotation) -> Judged {
        Judged {
            annotation,
            duplicate_of: None,
            gap: None,
            fresh: None,
            changed: vec![],
            released: vec![],
        }
    }

    fn duplicate(room: RoomSn, of: EventSn, id: OwnedEventId) -> Judged {
        let annotation = Annotation::unplaced(Decision::Duplicate, Reason::None, room, of);
        Judged {
            duplicate_of: Some(id),
            ..Judged::plain(annotation)
        }
    }
}

impl Case<'_> {
    /// The event with the content that was loaded for it.
    pub fn event(&self) -> AuthEvent<'_> {
        match &self.content {
            Some(content) => AuthEvent {
                content: EventContent::Parsed(content),
                ..self.event
            },
            None => self.event,
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

    /// Whether this server made the event, or brings it into the room for another
    /// that made it from our template. Then what it builds on was here when it was
    /// built, and if it is not now, the fold refused it.
    pub(super) fn is_local(&self) -> bool {
        match self.envelope.source {
            Source::Client | Source::Appservice | Source::Internal => true,
            Source::Federation | Source::Backfill => false,
        }
    }

    /// The decision if an earlier record has the same idempotency key.
    fn repeated(
        &self,
        shared: &RoomTables,
        room: RoomSn,
        tables: &Overlay<'_>,
    ) -> Result<Option<Judged>, Stop> {
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

    /// An event of a known room.
    ///
    /// Errors: [`Stop::Refuse`] leaves no trace and stands for the event's
    /// decision; the others call the decision off.
    pub(super) fn judge(&self, head: &mut Head, scope: &mut Scope<'_, '_>) -> Result<Judged, Stop> {
        let room = head.shown.room;
        if let Some(repeated) = self.repeated(scope.shared, room, scope.tables)? {
            return Ok(repeated);
        }
        match scope.prior(self.event_id.as_str())? {
            Prior::Unknown => self.decide(head, None, scope),
            Prior::Accepted(sn) => Ok(Judged::duplicate(room, sn, self.event_id.to_owned())),
            Prior::Other(sn, row) => {
                if !self.adds_to(sn, &row, scope)? {
                    return Ok(Judged::duplicate(room, sn, self.event_id.to_owned()));
                }
                let reused = Event { sn, ..*self };
                reused.decide(head, Some(row), scope)
            }
        }
    }

    /// Whether a repeat of an event that was kept may change what became of it.
    fn adds_to(&self, sn: EventSn, row: &EventRow, scope: &Scope<'_, '_>) -> Result<bool, Stop> {
        let adds = match row.decision {
            // An outlier may become part of the graph.
            Decision::Outlier => self.body.placement != Placement::Outlier,
            // What was rejected for want of something may have it now; and what
            // builds on a rejected event waits for the state at it.
            Decision::Rejected => {
                matches!(
                    row.reason,
                    Reason::MissingAuthEvents | Reason::RejectedAuthEvent | Reason::TooMuchWork
                ) || !row.has_state() && self.body.placement != Placement::Outlier
            }
            Decision::Accepted | Decision::SoftFailed | Decision::Duplicate => false,
        };
        // In versions 1 and 2 another event may have the same id: the first stays.
        let skeleton = self.envelope.skeleton.bytes();
        Ok(adds && scope.read(sn, |first| Some(first.skeleton.bytes() == skeleton))?)
    }

    fn decide(
        &self,
        head: &mut Head,
        prior: Option<EventRow>,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Judged, Stop> {
        let version = head.shown.authority.create_info.version;
        let named = self.envelope.room_version.unwrap_or(version.as_str());
        if named != version.as_str() {
            return Err(Stop::Refuse(Reason::Malformed));
        }
        if self.kind == "m.room.create" {
            return match (&self.body.placement, prior) {
                (Placement::Backfill { before }, Some(row)) if self.sn.0 == head.shown.room.0 => {
                    self.place_create(head, row, before, scope)
                }
                _ => Err(Stop::Refuse(Reason::RoomExists)),
            };
        }
        // What this server makes is news.
        let is_news = self.body.placement == Placement::New || !self.is_local();
        if self.body.prev_events.is_empty() || !is_news {
            return Err(Stop::Refuse(Reason::Malformed));
        }
        let forbidden = |_: AuthError| Stop::Refuse(Reason::Forbidden);
        let event = self.to_judge().map_err(forbidden)?;
        let content = auth::member_content(&event).map_err(forbidden)?;
        let word = content.as_ref().map(|content| content.get("membership"));
        if let Some(word) = word
            && word.and_then(|word| word.as_str()) != self.body.membership.as_deref()
        {
            return Err(Stop::Refuse(Reason::Malformed));
        }
        let case = Case {
            version,
            event,
            content,
            cited: scope.cited(&self.body.auth_events)?,
            prior,
            waiters: self.waiters(head, scope)?,
        };
        let refused = self.refused_by_cited(head, &case, scope)?;
        if self.body.placement == Placement::Outlier {
            let decision = match refused {
                Some(_) => Decision::Rejected,
                None => Decision::Outlier,
            };
            let reason = refused.unwrap_or(Reason::None);
            return self.keep(head, &case, (decision, reason), None, vec![], scope);
        }
        let (before, is_given) = match self.state_before(head, case.prior.as_ref(), scope)? {
            Before::State { node, is_given } => (node, is_given),
            Before::Unknown(missing) => {
                let kept = match refused {
                    Some(reason) => (Decision::Rejected, reason),
                    None => (Decision::Outlier, Reason::MissingEvents),
                };
                return self.keep(head, &case, kept, None, missing, scope);
            }
        };
        let is_current = before.id == head.node.id;
        let refused = match refused {
            None if !is_current => self.refused_by_state(head, &before, &case, scope)?,
            other => other,
        };
        if let Some(reason) = refused {
            let kept = (Decision::Rejected, reason);
            return self.keep(head, &case, kept, Some(before), vec![], scope);
        }
        if let Placement::Backfill { before: later } = &self.body.placement {
            return self.accept_history(head, &case, &before, later, scope);
        }
        let joint = match (is_given, &self.body.placement) {
            (true, Placement::Rejoin) => Joint::Rejoin,
            (true, _) => Joint::BehindGap,
            (false, _) => Joint::Seamless,
        };
        // A room that is only known from outside has no current state yet, and one
        // to which we come back none that counts.
        let allowed = head.shown.extremities.is_empty()
            || joint == Joint::Rejoin
            || auth_rules::check(version, &case.event(), &*head.shown.authority).is_ok();
        let is_recommended = self.is_recommended(head, version, scope)?;
        match (allowed, is_current) {
            (true, _) if !is_recommended => {
                let kept = (Decision::SoftFailed, Reason::Forbidden);
                self.keep(head, &case, kept, Some(before), vec![], scope)
            }
            (true, _) => self.accept(head, &case, &before, joint, scope),
            (false, true) => {
                let kept = (Decision::Rejected, Reason::Forbidden);
                self.keep(head, &case, kept, Some(before), vec![], scope)
            }
            (false, false) => {
                let kept = (Decision::SoftFailed, Reason::Forbidden);
                self.keep(head, &case, kept, Some(before), vec![], scope)
            }
        }
    }

    /// Gives the create event of a room that was known from outside its place at
    /// the begin of the history. By what it says the room has been known.
    fn place_create(
        &self,
        head: &mut Head,
        row: EventRow,
        later: &str,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Judged, Stop> {
        let event = self.to_judge();
        let case = Case {
            version: head.shown.authority.create_info.version,
            event: event.map_err(|_| Stop::Refuse(Reason::Forbidden))?,
            content: None,
            cited: Cited::default(),
            prior: Some(row),
            waiters: self.waiters(head, scope)?,
        };
        self.accept_history(head, &case, &StateNode::EMPTY, later, scope)
    }

    /// Whether the room's policy server, if it uses one, recommends the event
    /// (server-server API, *Validating Policy Server signatures*).
    fn is_recommended(
        &self,
        head: &Head,
        version: RoomVersion,
        scope: &mut Scope<'_, '_>,
    ) -> Result<bool, Stop> {
        let named = head.shown.state.get(&StateKey::new(POLICY_TYPE, ""));
        let Some(named) = named.filter(|_| policy::is_asked_about(self.kind, self.state_key))
        else {
            return Ok(true);
        };
        // A policy that was redacted is none any more.
        let row = EventRow::load(&*scope.tables, self.partition, *named)?;
        if row.is_none_or(|row| row.redacted_by.is_some()) {
            return Ok(true);
        }
        let stated = scope.shared.events.accepted(self.partition, *named)?;
        let Some(policy) = PolicyServer::parse(&stated.content) else {
            return Ok(true);
        };
        if !head.shown.is_resident(&policy.via) {
            return Ok(true);
        }
        scope.effort.charge(SIGNATURE_STEPS)?;
        let skeleton = self.envelope.skeleton.bytes().unwrap_or_default();
        let event = parse_stored_object(skeleton).unwrap_or_default();
        Ok(policy.recommends(version, &event))
    }

    /// Why what the event cites as its authority does not allow it; none if it
    /// does. What cites just what current state has is left to the check
    /// against that: the rules say the same of both, and no JSON is parsed.
    fn refused_by_cited(
        &self,
        head: &Head,
        case: &Case<'_>,
        scope: &Scope<'_, '_>,
    ) -> Result<Option<Reason>, Stop> {
        if !case.cited.missing.is_empty() {
            return Ok(Some(match self.is_local() {
                true => Reason::Rebase,
                false => Reason::MissingAuthEvents,
            }));
        }
        if !case.cited.rejected.is_empty() {
            return Ok(Some(Reason::RejectedAuthEvent));
        }
        let (event, shown) = (case.event(), &head.shown);
        let cited = &case.cited.events;
        if self.is_next(head) {
            let content = case.content.as_deref();
            match auth::cites_current_state(shown, case.version, &event, content, cited) {
                Ok(true) => return Ok(None),
                Ok(false) => {}
                Err(_) => return Ok(Some(Reason::Forbidden)),
            }
        }
        let mut events = Vec::with_capacity(cited.len());
        for sn in cited {
            events.push(scope.shared.events.accepted(self.partition, *sn)?);
        }
        let allowed = auth::check_cited(case.version, &event, &events, &shown.authority);
        Ok(allowed.err().map(|_| Reason::Forbidden))
    }

    /// Whether the event builds on just the room's forward extremities, so that
    /// the state before it is the current one.
    pub(super) fn is_next(&self, head: &Head) -> bool {
        let (extremities, previous) = (&head.shown.extremities, &self.body.prev_events);
        // Extremities differ, but an event may name one of them twice.
        let is_named = |known: &Extremity| previous.iter().any(|id| known.event_id == *id);
        self.body.placement == Placement::New
            && head.given_states == 0
            && !extremities.is_empty()
            && previous.len() == extremities.len()
            && extremities.iter().all(is_named)
    }

    /// Why a state that is not current does not allow the event; none if it does.
    fn refused_by_state(
        &self,
        head: &Head,
        before: &StateNode,
        case: &Case<'_>,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Option<Reason>, Stop> {
        let event = case.event();
        let keys = auth::deciding_keys(case.version, &event, case.content.as_deref());
        let Ok(keys) = keys else {
            return Ok(Some(Reason::Forbidden));
        };
        let mut events = Vec::with_capacity(keys.len());
        for key in &keys {
            let entry = scope.states().entry(before.id, key.kind, &key.state_key)?;
            if let Some(sn) = entry.and_then(|entry| entry.event) {
                events.push(scope.shared.events.accepted(self.partition, sn)?);
            }
        }
        let allowed = auth::check_at(case.version, &event, &events, &head.shown.authority);
        Ok(allowed.err().map(|_| Reason::Forbidden))
    }

    /// The state before the event: as a writer gave it, or out of the states
    /// after its `prev_events`.
    fn state_before(
        &self,
        head: &mut Head,
        prior: Option<&EventRow>,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Before, Stop> {
        if let Some(node) = self.given_state(head, scope)? {
            self.forget_given(head, scope);
            return Ok(Before::State {
                node,
                is_given: true,
            });
        }
        if self.is_next(head) {
            return Ok(Before::State {
                node: head.node,
                is_given: false,
            });
        }
        let mut states = vec![];
        let mut missing = vec![];
        for id in &self.body.prev_events {
            let mut extremities = head.shown.extremities.iter();
            if let Some(extremity) = extremities.find(|known| known.event_id == *id) {
                states.push(extremity.state_after);
                continue;
            }
            let row = match scope.prior(id)? {
                Prior::Unknown => None,
                Prior::Accepted(sn) => EventRow::load(&*scope.tables, self.partition, sn)?,
                Prior::Other(_, row) => Some(row),
            };
            match row.filter(EventRow::has_state) {
                Some(row) => states.push(row.state_after),
                None => missing.push(id.clone()),
            }
        }
        if !missing.is_empty() {
            // A state that was given when the event was kept first. Where it was
            // not, what the event builds on may have been judged again since.
            if let Some(prior) = prior.filter(|row| row.has_state())
                && let Some(node) = scope.states().node(prior.state_before)?
            {
                return Ok(Before::State {
                    node,
                    is_given: true,
                });
            }
            return Ok(Before::Unknown(missing));
        }
        Ok(Before::State {
            node: scope.merged(&head.shown.authority.create_info, states)?,
            is_given: false,
        })
    }

    /// Keeps an event that is no part of the timeline, and what it waits for. A
    /// local event that is refused never existed.
    fn keep(
        &self,
        head: &mut Head,
        case: &Case<'_>,
        (decision, reason): (Decision, Reason),
        before: Option<StateNode>,
        missing: Vec<String>,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Judged, Stop> {
        if self.is_local() {
            return Err(Stop::Refuse(match reason {
                Reason::MissingEvents | Reason::MissingAuthEvents => Reason::Rebase,
                other => other,
            }));
        }
        let released = self.release(head, case, decision, before.is_some(), scope)?;
        let mut judged = self.keep_unplaced(head, case, (decision, reason), before, scope)?;
        judged.released = released;
        self.wait_for(head, case, &missing, scope)?;
        let auth_events = case.cited.missing.clone();
        if !missing.is_empty() || !auth_events.is_empty() {
            judged.gap = Some(Gap {
                prev_events: missing,
                auth_events,
            });
        }
        head.store(scope.tables, self.partition);
        Ok(judged)
    }
}
