//! An event becomes part of its room: rows, state, head, annotation.

use std::sync::Arc;

use log_format::record::input::Placement;
use log_format::record::output::{
    Decision, Membership, MembershipChange, Reason, StateChange, StateChangeCause, Timeline,
    Visibility,
};

use super::accepted_event::AcceptedEvent;
use super::annotate::Annotation;
use super::answers::RoomTables;
use super::auth;
use super::events::{self, EventError};
use super::heads::{self, Head};
use super::judge::{Event, Judged};
use super::redaction::REDACTION;
use super::rows::{self, EventRow};
use super::state::{self, Change, StateNode};
use crate::matrix::auth_rules::{self, CreateInfo};
use crate::matrix::{RoomVersion, ids};
use crate::projectors::fold::FoldError;
use crate::query::authority::{Authority, Member};
use crate::query::ids::{EventSn, Place, RoomSn, StateId};
use crate::query::rooms::{Extremity, RoomHead, StateKey, StateMap};
use crate::storage::columns::{EVENT_IDS, IDEMPOTENCY, ROOM_IDS, TIMELINE, USER_ROOMS};
use crate::storage::overlay::Overlay;

impl Event<'_> {
    /// An event of a room that is not known: its create event, or refused.
    pub(super) fn create_room(
        &self,
        shared: &RoomTables,
        tables: &mut Overlay<'_>,
    ) -> Result<(Judged, Option<Head>), FoldError> {
        match self.new_head() {
            Err(reason) => Ok((Judged::rejected(self, reason), None)),
            Ok((mut head, version)) => {
                let key = rows::room_id_key(self.partition, self.room_id.as_str());
                tables.put(ROOM_IDS, key.as_ref(), rows::number(self.sn.0));
                let judged = self.accept(shared, &mut head, version, &[], tables)?;
                Ok((judged, Some(head)))
            }
        }
    }

    /// The head before the create event: a room with nothing in it.
    fn new_head(&self) -> Result<(Head, RoomVersion), Reason> {
        if self.kind != "m.room.create" || self.body.placement != Placement::New {
            return Err(Reason::UnknownRoom);
        }
        let event = self.to_judge().map_err(|_| Reason::Malformed)?;
        let content = event.content.load().map_err(|_| Reason::Malformed)?;
        let version = auth_rules::room_version_of(&content).map_err(|_| Reason::Malformed)?;
        let named = self.envelope.room_version.unwrap_or(version.as_str());
        let sound = named == version.as_str()
            && self.state_key == Some("")
            && self.body.prev_events.is_empty()
            && self.body.auth_events.is_empty();
        if !sound {
            return Err(Reason::Malformed);
        }
        let info = CreateInfo::parse(
            version,
            self.event_id.to_owned(),
            self.room_id.to_owned(),
            self.sender.to_owned(),
            &content,
        );
        let info = info.map_err(|_| Reason::Forbidden)?;
        let authority = Authority::of_create(self.sn, info);
        auth_rules::check(version, &event, &authority).map_err(|_| Reason::Forbidden)?;
        let made = ids::room_id_of_create(self.event_id).ok();
        if version.room_id_is_create_hash() && made.as_deref() != Some(self.room_id) {
            return Err(Reason::Forbidden);
        }
        let shown = RoomHead {
            room_id: self.room_id.to_owned(),
            room: RoomSn(self.sn.0),
            version: version.id(),
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
        Ok((head, version))
    }

    pub(super) fn keep_unplaced(
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
    pub(super) fn accept(
        &self,
        shared: &RoomTables,
        head: &mut Head,
        version: RoomVersion,
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
            membership = self.change_facts(head, version, state_key, tables)?;
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
            true => self.redact(shared, head, version, tables)?,
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
            current_state: head.node.id,
            state_delta,
            memberships: membership.into_iter().collect(),
            extremities: event_ids(&head.shown.extremities),
            visibility: row.visibility,
            timeline: Timeline::Live,
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
        version: RoomVersion,
        state_key: &str,
        tables: &mut Overlay<'_>,
    ) -> Result<Option<MembershipChange>, FoldError> {
        if self.kind == "m.room.member" {
            return Ok(self.change_member(head, state_key, tables));
        }
        let read = match self.kind {
            "m.room.power_levels"
            | "m.room.join_rules"
            | "m.room.third_party_invite"
            | "m.room.history_visibility" => AcceptedEvent::read(self.envelope),
            _ => None,
        };
        // Of those that the rules read, the auth check read the content already.
        let Some(read) = read else {
            return Ok(None);
        };
        if self.kind == "m.room.history_visibility" {
            if state_key.is_empty() {
                let word = read.content.get("history_visibility");
                let word = word.and_then(|word| word.as_str()).unwrap_or_default();
                head.shown.visibility = Visibility::parse(word);
            }
            return Ok(None);
        }
        let authority = Arc::make_mut(&mut head.shown.authority);
        auth::learn(authority, version, self.sn, &read)
            .map_err(|_| EventError::NotAnEvent(self.offset))?;
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

fn event_ids(extremities: &[Extremity]) -> Vec<String> {
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
