//! An event becomes part of its room: rows, state, extremities, head, annotation.

use std::sync::Arc;

use log_format::record::Source;
use log_format::record::output::{Decision, Reason, Timeline, Visibility};

use super::annotate::Annotation;
use super::current_state::StateDelta;
use super::events;
use super::heads::Head;
use super::judge::{Case, Event, Joint, Judged};
use super::rows::{self, EventRow};
use super::scope::{Prior, Scope, Stop};
use super::state::{self, Change, StateNode};
use crate::query::ids::{EventSn, Place, StateId};
use crate::query::rooms::{Extremity, StateKey};
use crate::storage::columns::{EVENT_IDS, IDEMPOTENCY, TIMELINE};
use crate::storage::overlay::{Overlay, StoreError};

/// What an accepted event wrote.
struct Entered {
    row: EventRow,
    /// The state after it, and what it changed itself.
    after: StateNode,
    own: Option<Change>,
    changed: Vec<EventSn>,
    released: Vec<u64>,
}

impl Event<'_> {
    /// Makes the event the newest of the room. A plain message takes four rows
    /// beside the room's own: event, event id, timeline, idempotency.
    pub(super) fn accept(
        &self,
        head: &mut Head,
        case: &Case<'_>,
        before: &StateNode,
        joint: Joint,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Judged, Stop> {
        let place = match (head.shown.extremities.is_empty(), joint) {
            (true, _) => Place::FIRST,
            (false, Joint::BehindGap | Joint::Rejoin) => head.shown.last_place.behind_gap(),
            (false, Joint::Seamless) => head.shown.last_place.next(),
        };
        let is_built_on = self.is_built_on(case);
        let entered = self.enter(head, case, before, (place, is_built_on), scope)?;
        let delta = self.extend(head, &entered, before, joint, scope)?;
        head.shown.last_place = place;
        Ok(self.entered(head, entered, Timeline::Live, delta, scope))
    }

    /// Makes the event part of the room's past, right before a known one.
    pub(super) fn accept_history(
        &self,
        head: &mut Head,
        case: &Case<'_>,
        before: &StateNode,
        later: &str,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Judged, Stop> {
        let place = match scope.prior(later)? {
            Prior::Accepted(sn) => {
                let later = EventRow::load(&*scope.tables, self.partition, sn)?;
                match later {
                    Some(later) => self.place_before(later.place, scope)?,
                    None => None,
                }
            }
            Prior::Unknown | Prior::Other(..) => None,
        };
        let Some(place) = place else {
            // Nobody knows where it belongs until a later record says so.
            let kept = (Decision::Outlier, Reason::NotFound);
            let judged = self.keep_unplaced(head, case, kept, None, scope)?;
            head.store(scope.tables, self.partition);
            return Ok(judged);
        };
        for id in &self.body.prev_events {
            if !matches!(scope.prior(id)?, Prior::Accepted(_)) {
                self.build_on(head, id, scope)?;
            }
        }
        let entered = self.enter(head, case, before, (place, true), scope)?;
        let delta = StateDelta::default();
        Ok(self.entered(head, entered, Timeline::History, delta, scope))
    }

    /// A place right before a known one and behind all that come before that; none
    /// if there is no room left.
    ///
    /// History comes in chunks, the oldest event of a chunk first, all before the
    /// same known event. A chunk begins a stretch before that event, and the next
    /// ones of it follow each other closely: so a later chunk, before this one, has
    /// a stretch of its own.
    ///
    /// An event that another server gave by itself is no part of a chunk: what
    /// lies between it and the known one is still to come.
    fn place_before(&self, later: Place, scope: &Scope<'_, '_>) -> Result<Option<Place>, Stop> {
        let earlier = last_before(scope, later)?;
        Ok(match self.envelope.source {
            Source::Federation => Place::apart(earlier, later),
            Source::Backfill | Source::Client | Source::Appservice | Source::Internal => {
                Place::between(earlier, later)
            }
        })
    }

    /// Writes what an accepted event has wherever it stands: its rows, the state
    /// after it, what it redacts, and who need not wait for it any more.
    fn enter(
        &self,
        head: &mut Head,
        case: &Case<'_>,
        before: &StateNode,
        (place, built_on): (Place, bool),
        scope: &mut Scope<'_, '_>,
    ) -> Result<Entered, Stop> {
        let released = self.release(head, case, Decision::Accepted, true, scope)?;
        let seen_before = self.visibility_before(head, before, scope)?;
        let (after, own) = self.state_after(head, before, scope)?;
        let has_power = self.may_redact(head, case.version, before, scope)?;
        let row = EventRow {
            room: head.shown.room,
            decision: Decision::Accepted,
            reason: Reason::None,
            built_on,
            // Who could see the room before or after a change of visibility may
            // see the change (client-server API, *History visibility*).
            visibility: more_open(seen_before, self.visibility_set().unwrap_or(seen_before)),
            place,
            depth: self.body.depth,
            state_before: before.id,
            state_after: after.id,
            replaces: own.and_then(|own| own.from),
            redacted_by: self.redacted_by(head, case, scope.tables)?,
        };
        self.store(&row, scope.tables);
        self.store_edges(case, scope);
        let mut changed = self.redact(head, has_power, scope)?;
        changed.extend(case.prior.is_some().then_some(self.sn));
        Ok(Entered {
            row,
            after,
            own,
            changed,
            released,
        })
    }

    /// Stores the head with an event in it, and tells what became of that.
    fn entered(
        &self,
        head: &mut Head,
        entered: Entered,
        timeline: Timeline,
        delta: StateDelta,
        scope: &mut Scope<'_, '_>,
    ) -> Judged {
        head.store(scope.tables, self.partition);
        scope.remember(self.event_id.as_str(), self.sn);
        let row = entered.row;
        let annotation = Annotation {
            place: row.place,
            state_before: row.state_before,
            state_after: row.state_after,
            state_delta: delta.changes,
            memberships: delta.memberships,
            visibility: row.visibility,
            timeline,
            ..Annotation::of(head, Decision::Accepted, Reason::None, self.sn)
        };
        let transaction = self.body.transaction.as_ref();
        let fresh = events::stored_event(&row, self.sn, self.envelope, transaction);
        Judged {
            fresh: fresh.map(Arc::new),
            changed: entered.changed,
            released: entered.released,
            ..Judged::plain(annotation)
        }
    }

    /// Keeps an event outside of the timeline; with the state at it, if that is known.
    pub(super) fn keep_unplaced(
        &self,
        head: &mut Head,
        case: &Case<'_>,
        (decision, reason): (Decision, Reason),
        before: Option<StateNode>,
        scope: &mut Scope<'_, '_>,
    ) -> Result<Judged, Stop> {
        let (state_before, state_after, visibility) = match before {
            None => (StateId::EMPTY, StateId::EMPTY, Visibility::Shared),
            Some(before) => {
                // A rejected event changes nothing; what builds on it stands on
                // the state before it.
                let after = match decision {
                    Decision::Rejected => before,
                    _ => self.state_after(head, &before, scope)?.0,
                };
                let seen = self.visibility_before(head, &before, scope)?;
                (before.id, after.id, seen)
            }
        };
        let row = EventRow {
            room: head.shown.room,
            decision,
            reason,
            built_on: self.is_built_on(case),
            visibility,
            place: Place::START,
            depth: self.body.depth,
            state_before,
            state_after,
            replaces: None,
            redacted_by: self.redacted_by(head, case, scope.tables)?,
        };
        row.store(scope.tables, self.partition, self.sn);
        let key = rows::room_text_key(self.partition, row.room, self.event_id.as_str());
        scope
            .tables
            .put(EVENT_IDS, key.as_ref(), rows::number(self.sn.0));
        if decision != Decision::Rejected {
            self.store_edges(case, scope);
        }
        Ok(Judged {
            changed: vec![self.sn],
            ..Judged::plain(Annotation {
                state_before,
                state_after,
                visibility,
                ..Annotation::of(head, decision, reason, self.sn)
            })
        })
    }

    /// Remembers an event that was refused without its state being worked out.
    /// One that was kept before stays as it is: states may hold it.
    pub(super) fn remember_refused(
        &self,
        head: &Head,
        reason: Reason,
        tables: &mut Overlay<'_>,
    ) -> Result<(), StoreError> {
        let key = rows::room_text_key(self.partition, head.shown.room, self.event_id.as_str());
        if self.is_local() || tables.get(EVENT_IDS, key.as_ref())?.is_some() {
            return Ok(());
        }
        let row = EventRow {
            room: head.shown.room,
            decision: Decision::Rejected,
            reason,
            built_on: false,
            visibility: Visibility::Shared,
            place: Place::START,
            depth: self.body.depth,
            state_before: StateId::EMPTY,
            state_after: StateId::EMPTY,
            replaces: None,
            redacted_by: None,
        };
        row.store(tables, self.partition, self.sn);
        tables.put(EVENT_IDS, key.as_ref(), rows::number(self.sn.0));
        Ok(())
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

    /// The state after the event, and what it changed.
    fn state_after(
        &self,
        head: &Head,
        before: &StateNode,
        scope: &mut Scope<'_, '_>,
    ) -> Result<(StateNode, Option<Change>), Stop> {
        let Some(state_key) = self.state_key else {
            return Ok((*before, None));
        };
        let from = match before.id == head.node.id {
            true => {
                let key = StateKey::new(self.kind, state_key);
                head.shown.state.get(&key).copied()
            }
            false => {
                let entry = scope.states().entry(before.id, self.kind, state_key)?;
                entry.and_then(|entry| entry.event)
            }
        };
        let key = (self.kind, state_key);
        let (partition, room) = (self.partition, head.shown.room);
        let change = Change {
            key: state::intern_key(scope.tables, partition, room, key, self.sn)?,
            from,
            to: Some(self.sn),
            membership: self.membership,
        };
        let after = state::apply(
            scope.tables,
            partition,
            room,
            &scope.shared.digest_key,
            before,
            &[change],
            scope.ids,
        )?;
        Ok((after, Some(change)))
    }

    /// Makes the event a forward extremity in place of those that it builds on,
    /// and current state what follows from all that are left. A rejoin leaves none.
    fn extend(
        &self,
        head: &mut Head,
        entered: &Entered,
        before: &StateNode,
        joint: Joint,
        scope: &mut Scope<'_, '_>,
    ) -> Result<StateDelta, Stop> {
        let row = &entered.row;
        let mut retired: Vec<String> = vec![];
        for id in &self.body.prev_events {
            let extremities = &head.shown.extremities;
            if extremities.iter().any(|known| known.event_id == *id) {
                continue;
            }
            if !matches!(scope.prior(id)?, Prior::Accepted(_)) {
                retired.extend(self.build_on(head, id, scope)?);
            }
        }
        let old = head.shown.extremities.clone();
        let builds_on = |known: &&Extremity| {
            let id = known.event_id.as_str();
            joint == Joint::Rejoin
                || self.body.prev_events.iter().any(|previous| previous == id)
                || retired.iter().any(|reached| reached == id)
        };
        let mut extremities: Vec<Extremity> = Vec::with_capacity(old.len() + 1);
        extremities.extend(old.iter().filter(|known| !builds_on(known)).cloned());
        // Ids of versions 1 and 2 are no hashes: events there may name each other
        // in a circle, and a room must have an end all the same.
        if !row.built_on || extremities.is_empty() {
            extremities.push(Extremity {
                event_id: self.event_id.to_owned(),
                event: self.sn,
                depth: self.body.depth,
                state_after: row.state_after,
            });
            extremities.sort_by(|a, b| a.event_id.cmp(&b.event_id));
        }
        let (current, changes) = self.current_state(head, &extremities, before, entered, scope)?;
        head.shown.extremities = extremities.into();
        match changes.is_empty() {
            true => Ok(StateDelta::default()),
            false => head.move_to(current, &changes, self.sn, scope),
        }
    }

    /// What current state becomes with new extremities, and how.
    fn current_state(
        &self,
        head: &Head,
        extremities: &[Extremity],
        before: &StateNode,
        entered: &Entered,
        scope: &mut Scope<'_, '_>,
    ) -> Result<(StateNode, Vec<Change>), Stop> {
        let current = match extremities {
            [only] if only.event == self.sn => entered.after,
            _ => {
                let states = distinct(extremities);
                if states == distinct(&head.shown.extremities) {
                    return Ok((head.node, vec![]));
                }
                let states = states.into_iter().collect();
                scope.merged(&head.shown.authority.create_info, states)?
            }
        };
        if current.id == head.node.id {
            return Ok((current, vec![]));
        }
        if before.id == head.node.id && current.id == entered.after.id {
            return Ok((current, entered.own.into_iter().collect()));
        }
        let changes = scope.difference(&head.node, &current)?;
        Ok((current, changes))
    }

    /// The visibility in force before the event.
    fn visibility_before(
        &self,
        head: &Head,
        before: &StateNode,
        scope: &Scope<'_, '_>,
    ) -> Result<Visibility, Stop> {
        if before.id == head.node.id {
            return Ok(head.shown.visibility);
        }
        let kind = "m.room.history_visibility";
        let entry = scope.states().entry(before.id, kind, "")?;
        scope.visibility_of(entry.and_then(|entry| entry.event))
    }

    /// The visibility that this event sets.
    fn visibility_set(&self) -> Option<Visibility> {
        if (self.kind, self.state_key) != ("m.room.history_visibility", Some("")) {
            return None;
        }
        let read = super::accepted_event::AcceptedEvent::read(self.envelope)?;
        let word = read.content.get("history_visibility")?.as_str()?;
        Some(Visibility::parse(word))
    }
}

fn distinct(extremities: &[Extremity]) -> Vec<StateId> {
    let mut states: Vec<StateId> = extremities.iter().map(|tip| tip.state_after).collect();
    states.sort();
    states.dedup();
    states
}

/// The place of the event before a known one.
fn last_before(scope: &Scope<'_, '_>, later: Place) -> Result<Place, Stop> {
    let Some(last) = later.0.checked_sub(1) else {
        return Ok(Place::START);
    };
    let prefix = rows::room_key(scope.partition, scope.room);
    let from = rows::timeline_key(scope.partition, scope.room, Place(last));
    let earlier = scope
        .tables
        .range(TIMELINE, prefix.as_ref(), Some(from.as_ref()), true, 1)?;
    Ok(match earlier.first() {
        None => Place::START,
        Some((key, _)) => rows::place_of_key(key, prefix.as_ref())?,
    })
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
