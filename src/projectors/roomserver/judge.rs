//! What becomes of one event: known already, refused and why, or part of the
//! room.
//!
//! Everything is checked before anything is written, so a refused event leaves
//! no trace. Today a room's extremities all have the same state after them: an
//! event whose acceptance would end that needs state resolution and is refused
//! with `UnsupportedFork`. So the state before an accepted event is the current
//! one, and *allowed by the state before but not by current state* (soft
//! failure) cannot happen yet.

use std::sync::Arc;

use log_format::record::Envelope;
use log_format::record::Source;
use log_format::record::input::{InputRoomEvent, Placement};
use log_format::record::output::{
    Decision, Membership, MembershipChange, Reason, StateChange, StateChangeCause, Visibility,
};
use ruma::room_version_rules::AuthorizationRules;
use ruma::{EventId, OwnedEventId, RoomId, UserId};

use super::annotate::Annotation;
use super::answers::RoomTables;
use super::auth::{self, AuthState};
use super::auth_event::AuthEvent;
use super::events;
use super::fold::KnownIds;
use super::heads::{self, Head};
use super::redaction::REDACTION;
use super::rows::{self, EventRow};
use super::state::{self, Change, StateNode};
use crate::limits;
use crate::projectors::fold::FoldError;
use crate::query::authority::Member;
use crate::query::ids::{EventSn, Place, RoomSn, StateId};
use crate::query::rooms::{Extremity, RoomHead, StateKey, StateMap, StoredEvent};
use crate::storage::columns::{EVENT_IDS, IDEMPOTENCY, ROOM_IDS, TIMELINE, USER_ROOMS};
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
    fn plain(annotation: Annotation) -> Judged {
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

    /// An event of a room that is not known: its create event, or refused.
    pub(super) fn create_room(
        &self,
        shared: &RoomTables,
        tables: &mut Overlay<'_>,
    ) -> Result<(Judged, Option<Head>), FoldError> {
        match self.new_head() {
            Err(reason) => Ok((Judged::rejected(self, reason), None)),
            Ok((mut head, rules)) => {
                let key = rows::room_id_key(self.partition, self.room_id.as_str());
                tables.put(ROOM_IDS, key.as_ref(), rows::number(self.sn.0));
                let judged = self.accept(shared, &mut head, &rules, &[], tables)?;
                Ok((judged, Some(head)))
            }
        }
    }

    /// The head before the create event: a room with nothing in it.
    fn new_head(&self) -> Result<(Head, AuthorizationRules), Reason> {
        if self.kind != "m.room.create" || self.body.placement != Placement::New {
            return Err(Reason::UnknownRoom);
        }
        let read = AuthEvent::read_with(self.envelope, self.body).ok_or(Reason::Malformed)?;
        let created = ruma::state_res::events::RoomCreateEvent::new(&read);
        let version = created.room_version().map_err(|_| Reason::Malformed)?;
        let rules = auth::rules(&version).ok_or(Reason::Malformed)?;
        let named = self.envelope.room_version.unwrap_or(version.as_str());
        let sound = named == version.as_str()
            && self.state_key == Some("")
            && self.body.prev_events.is_empty()
            && self.body.auth_events.is_empty();
        if !sound {
            return Err(Reason::Malformed);
        }
        auth::check_auth_events(&rules, &read, vec![], None).map_err(|_| Reason::Forbidden)?;
        let hash = self.event_id.as_str().strip_prefix('$');
        let named_by_hash = hash == self.room_id.as_str().strip_prefix('!');
        if rules.room_create_event_id_as_room_id && !named_by_hash {
            return Err(Reason::Forbidden);
        }
        let authority = auth::of_create(&rules, self.sn, &read).map_err(|_| Reason::Forbidden)?;
        let shown = RoomHead {
            room_id: self.room_id.to_owned(),
            room: RoomSn(self.sn.0),
            version,
            extremities: Arc::new([]),
            last_place: Place::START,
            state_id: StateId::EMPTY,
            state: StateMap::new(),
            authority: Arc::new(authority),
            visibility: Visibility::Shared,
            joined_members: 0,
            invited_members: 0,
        };
        let head = Head {
            shown,
            node: StateNode::EMPTY,
            early_redactions: 0,
        };
        Ok((head, rules))
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
            Ok(Some((rules, extremities))) => {
                let judged = event.accept(shared, head, &rules, &extremities, tables)?;
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
    /// Returns the rules and the extremities that stay beside it; none for an outlier.
    fn check(
        &self,
        shared: &RoomTables,
        head: &Head,
        known: &mut KnownIds,
        tables: &Overlay<'_>,
    ) -> Result<Option<(AuthorizationRules, Vec<Extremity>)>, Stop> {
        let version = &head.shown.version;
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
            Placement::Backfill => return Err(Stop::Refuse(Reason::Malformed)),
        }
        let rules = auth::rules(version).ok_or(Stop::Refuse(Reason::Malformed))?;
        let left = self.check_previous(head, known, tables)?;
        self.check_auth(shared, head, &rules, known, tables)?;
        Ok(Some((rules, left)))
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
                return Err(Stop::Refuse(Reason::UnsupportedFork));
            }
        }
        let left: Vec<Extremity> = extremities
            .iter()
            .filter(|known| !previous.iter().any(|id| known.event_id == *id))
            .cloned()
            .collect();
        if !left.is_empty() && self.state_key.is_some() {
            return Err(Stop::Refuse(Reason::UnsupportedFork));
        }
        Ok(left)
    }

    /// The auth rules: against the auth events, and against the state before,
    /// which is the current one.
    fn check_auth(
        &self,
        shared: &RoomTables,
        head: &Head,
        rules: &AuthorizationRules,
        known: &mut KnownIds,
        tables: &Overlay<'_>,
    ) -> Result<(), Stop> {
        let room = head.shown.room;
        let mut auth_events = Vec::with_capacity(self.body.auth_events.len());
        for id in &self.body.auth_events {
            let Prior::Accepted(sn) = self.prior(room, id, known, tables)? else {
                return Err(Stop::Refuse(self.missing()));
            };
            auth_events.push(sn);
        }
        let authority = &head.shown.authority;
        if auth::is_plain(rules, self.kind, self.state_key)
            && authority.is_exact
            && self.names_current_authority(head, rules, &auth_events)
        {
            return match auth::allows_plain(authority, self.sender, self.kind) {
                true => Ok(()),
                false => Err(Stop::Refuse(Reason::Forbidden)),
            };
        }
        let read = AuthEvent::read_with(self.envelope, self.body);
        let read = read.ok_or(Stop::Refuse(Reason::Malformed))?;
        if let Some(membership) = self.membership
            && read.content_text("membership").as_deref() != Some(membership.as_str())
        {
            return Err(Stop::Refuse(Reason::Malformed));
        }
        let judged = |sn| shared.events.judged(self.partition, sn);
        let mut auth_contents = Vec::with_capacity(auth_events.len());
        for sn in auth_events {
            auth_contents.push(judged(sn)?);
        }
        let create = judged(authority.create)?;
        auth::check_auth_events(rules, &read, auth_contents, Some(create))
            .map_err(|_| Stop::Refuse(Reason::Forbidden))?;
        let selected = AuthState::select(rules, &read, |kind, state_key| {
            let entry = head.shown.state.get(&StateKey::new(kind, state_key));
            entry.map(|sn| judged(*sn)).transpose()
        })?;
        selected
            .and_then(|current| current.check(rules, &read))
            .map_err(|_| Stop::Refuse(Reason::Forbidden))
    }

    /// Whether the auth events are just those that current state selects for a
    /// plain message: create (up to version 11), power levels, own membership.
    fn names_current_authority(
        &self,
        head: &Head,
        rules: &AuthorizationRules,
        auth_events: &[EventSn],
    ) -> bool {
        let authority = &head.shown.authority;
        let Some(member) = authority.members.get(self.sender) else {
            return false;
        };
        let create = Some(authority.create).filter(|_| !rules.room_create_event_id_as_room_id);
        let expected = [create, authority.power_levels, Some(member.event)];
        let expected = expected.into_iter().flatten();
        // Expected ids differ from each other, so equal counts and all found is equal.
        expected.clone().count() == auth_events.len()
            && expected.into_iter().all(|sn| auth_events.contains(&sn))
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

    fn keep_unplaced(
        &self,
        room: RoomSn,
        decision: Decision,
        reason: Reason,
        tables: &mut Overlay<'_>,
    ) -> Result<Judged, FoldError> {
        let row = EventRow {
            room,
            decision,
            visibility: Visibility::Shared,
            place: Place::START,
            depth: self.body.depth,
            state_before: StateId::EMPTY,
            state_after: StateId::EMPTY,
            replaces: None,
            redacted_by: None,
        };
        row.store(tables, self.partition, self.sn);
        let key = rows::room_text_key(self.partition, room, self.event_id.as_str());
        tables.put(EVENT_IDS, key.as_ref(), rows::number(self.sn.0));
        Ok(Judged {
            changed: Some(self.sn),
            ..Judged::plain(Annotation::unplaced(decision, reason, room, self.sn))
        })
    }

    /// Makes the event part of the room. A plain message takes four rows beside
    /// the room's own: event, event id, timeline, idempotency.
    fn accept(
        &self,
        shared: &RoomTables,
        head: &mut Head,
        rules: &AuthorizationRules,
        left: &[Extremity],
        tables: &mut Overlay<'_>,
    ) -> Result<Judged, FoldError> {
        let room = head.shown.room;
        let state_before = head.node.id;
        let before = head.shown.visibility;
        let mut replaces = None;
        let mut state_delta = vec![];
        let mut membership = None;
        if let Some(state_key) = self.state_key {
            replaces = self.change_state(shared, head, state_key, tables)?;
            let from = match replaces {
                Some(sn) => Some(shared.events.event_id(self.partition, sn)?.to_string()),
                None => None,
            };
            state_delta.push(StateChange {
                kind: self.kind.to_owned(),
                state_key: state_key.to_owned(),
                from,
                to: Some(self.event_id.to_string()),
                cause: StateChangeCause::Event,
            });
            membership = self.change_facts(head, rules, state_key, tables)?;
        }
        let place = match head.shown.extremities.is_empty() {
            true => Place::FIRST,
            false => head.shown.last_place.next(),
        };
        let redacted_by = self.take_early_redaction(head, tables)?;
        let row = EventRow {
            room,
            decision: Decision::Accepted,
            // Who could see the room before or after a change of visibility may
            // see the change (client-server API, *History visibility*).
            visibility: more_open(before, head.shown.visibility),
            place,
            depth: self.body.depth,
            state_before,
            state_after: head.node.id,
            replaces,
            redacted_by,
        };
        self.store(&row, tables);
        let changed = match self.kind == REDACTION {
            true => self.redact(shared, head, rules.special_case_room_redaction, tables)?,
            false => None,
        };
        self.extend(head, left, place);
        head.store(tables, self.partition);
        let annotation = Annotation {
            decision: row.decision,
            reason: Reason::None,
            room,
            event: self.sn,
            place,
            state_before,
            state_after: row.state_after,
            state_delta,
            membership,
            extremities: ids(&head.shown.extremities),
            visibility: row.visibility,
        };
        let transaction = self.body.transaction.as_ref();
        let fresh = events::stored_event(&row, self.sn, self.envelope, transaction);
        Ok(Judged {
            fresh: fresh.map(Arc::new),
            changed,
            ..Judged::plain(annotation)
        })
    }

    fn store(&self, row: &EventRow, tables: &mut Overlay<'_>) {
        row.store(tables, self.partition, self.sn);
        let number = rows::number(self.sn.0);
        let key = rows::room_text_key(self.partition, row.room, self.event_id.as_str());
        tables.put(EVENT_IDS, key.as_ref(), number.clone());
        let key = rows::timeline_key(self.partition, row.room, row.place);
        tables.put(TIMELINE, key.as_ref(), number.clone());
        if self.envelope.idempotency != [0; 16] {
            let key = rows::idempotency_key(self.partition, row.room, &self.envelope.idempotency);
            tables.put(IDEMPOTENCY, key.as_ref(), number);
        }
    }

    fn extend(&self, head: &mut Head, left: &[Extremity], place: Place) {
        let mut extremities = Vec::with_capacity(left.len() + 1);
        extremities.extend_from_slice(left);
        extremities.push(Extremity {
            event_id: self.event_id.to_owned(),
            event: self.sn,
            depth: self.body.depth,
        });
        extremities.sort_by(|a, b| a.event_id.cmp(&b.event_id));
        head.shown.extremities = extremities.into();
        head.shown.last_place = place;
    }

    /// Sets the event's key in current state; returns the event that had it.
    fn change_state(
        &self,
        shared: &RoomTables,
        head: &mut Head,
        state_key: &str,
        tables: &mut Overlay<'_>,
    ) -> Result<Option<EventSn>, FoldError> {
        let room = head.shown.room;
        let map_key = Arc::new(StateKey::new(self.kind, state_key));
        let replaces = head.shown.state.insert(map_key, self.sn);
        let key = (self.kind, state_key);
        let change = Change {
            key: state::intern_key(tables, self.partition, room, key, self.sn)?,
            from: replaces,
            to: Some(self.sn),
            membership: self.membership,
        };
        head.node = state::apply(
            tables,
            self.partition,
            room,
            &shared.digest_key,
            &head.node,
            &[change],
            // By the record folded, not the event, so that ids along a branch rise.
            state::id_after(EventSn(self.offset)),
        )?;
        head.shown.state_id = head.node.id;
        Ok(replaces)
    }

    /// Updates what the head knows of its state beyond the event ids.
    fn change_facts(
        &self,
        head: &mut Head,
        rules: &AuthorizationRules,
        state_key: &str,
        tables: &mut Overlay<'_>,
    ) -> Result<Option<MembershipChange>, FoldError> {
        if self.kind == "m.room.member" {
            return Ok(self.change_member(head, state_key, tables));
        }
        let reads_content = state_key.is_empty()
            && matches!(
                self.kind,
                "m.room.power_levels" | "m.room.join_rules" | "m.room.history_visibility"
            );
        if !reads_content {
            return Ok(None);
        }
        let Some(read) = AuthEvent::read_with(self.envelope, self.body).map(Arc::new) else {
            // The auth check read it already.
            return Ok(None);
        };
        let authority = Arc::make_mut(&mut head.shown.authority);
        match self.kind {
            "m.room.power_levels" => auth::set_power_levels(authority, rules, self.sn, &read),
            "m.room.join_rules" => auth::set_join_rules(authority, self.sn, &read),
            _ => {
                let word = read.content_text("history_visibility").unwrap_or_default();
                head.shown.visibility = Visibility::parse(&word);
            }
        }
        Ok(None)
    }

    fn change_member(
        &self,
        head: &mut Head,
        state_key: &str,
        tables: &mut Overlay<'_>,
    ) -> Option<MembershipChange> {
        let key = StateKey::new(self.kind, state_key);
        let (user, member) = heads::member_entry(&key, self.membership, self.sn)?;
        let Member { membership, event } = member;
        let authority = Arc::make_mut(&mut head.shown.authority);
        let from = authority.members.insert(user, member);
        let from = from.map(|member| member.membership);
        let count = |total: &mut u64, counted: Membership| {
            *total += u64::from(membership == counted);
            *total -= u64::from(from == Some(counted)).min(*total);
        };
        count(&mut head.shown.joined_members, Membership::Join);
        count(&mut head.shown.invited_members, Membership::Invite);
        let key = rows::user_room_key(self.partition, state_key, self.room_id.as_str());
        tables.put(USER_ROOMS, key.as_ref(), rows::user_room(membership, event));
        Some(MembershipChange {
            user_id: state_key.to_owned(),
            from,
            to: membership,
        })
    }
}

fn ids(extremities: &[Extremity]) -> Vec<String> {
    extremities
        .iter()
        .map(|extremity| extremity.event_id.to_string())
        .collect()
}

/// The visibility that shows more.
fn more_open(a: Visibility, b: Visibility) -> Visibility {
    let openness = |visibility: Visibility| match visibility {
        Visibility::WorldReadable => 3,
        Visibility::Shared => 2,
        Visibility::Invited => 1,
        Visibility::Joined => 0,
    };
    match openness(a) >= openness(b) {
        true => a,
        false => b,
    }
}
