//! One fold's turn in a room: the record itself, then the records that it
//! releases, each decided as a whole or not at all.

use std::collections::VecDeque;
use std::sync::Arc;

use log_format::codec;
use log_format::record::input::InputRoomEvent;
use log_format::record::output::{Decision, Origin, Reason};
use log_format::record::{Envelope, Kind};
use ruma::{OwnedRoomId, RoomId};

use super::annotate::{self, Annotation, Gap};
use super::fold::{RoomServer, no_body};
use super::given;
use super::heads::Head;
use super::judge::{Event, Judged};
use super::parked::Parked;
use super::scope::{Effort, Scope, Stop};
use super::state::{StateIds, StateNode};
use crate::limits::RELEASED_RECORDS_MAX;
use crate::logs::log::{LogRecord, NewRecord};
use crate::projectors::fold::{FoldError, FoldInput, FoldOutcome, Folded, PROJECTOR_VERSION};
use crate::query::ids::{EventSn, RoomSn};
use crate::query::rooms::{StateMap, StoredEvent};
use crate::storage::batch::Writes;
use crate::storage::overlay::Overlay;

/// A record to be decided, with its envelope read.
pub(super) struct Item<'a> {
    pub partition: u32,
    pub offset: u64,
    pub envelope: &'a Envelope<'a>,
    /// None for the record that is folded, whose envelope the caller holds.
    pub record: Option<&'a LogRecord>,
}

impl<'a> Item<'a> {
    /// An earlier record, read from the log again.
    pub fn kept(partition: u32, record: &'a LogRecord, envelope: &'a Envelope<'a>) -> Item<'a> {
        Item {
            partition,
            offset: record.offset,
            envelope,
            record: Some(record),
        }
    }
}

/// What a decision says in *output*.
pub(super) enum Said {
    Event {
        /// None for the record that is folded.
        record: Option<LogRecord>,
        about: u64,
        body: Box<InputRoomEvent>,
        annotation: Box<Annotation>,
        gap: Option<Gap>,
    },
    /// A state was given of which some events are not known.
    Gap {
        record: Option<LogRecord>,
        about: u64,
        room: RoomSn,
        gap: Gap,
    },
}

/// What became of one record.
pub(super) struct Decided {
    pub outcome: FoldOutcome,
    pub said: Vec<Said>,
    /// Events as they are served from now on.
    pub fresh: Vec<Arc<StoredEvent>>,
    /// Events whose rows changed.
    pub changed: Vec<EventSn>,
    /// Offsets of records that waited for what it brought.
    pub released: Vec<u64>,
}

impl Decided {
    /// A decision that changes nothing, and says nothing.
    pub fn silent(decision: Decision, reason: Reason) -> Decided {
        Decided {
            outcome: FoldOutcome::of(decision, reason),
            said: vec![],
            fresh: vec![],
            changed: vec![],
            released: vec![],
        }
    }

    /// The decision about one event.
    pub fn event(item: &Item<'_>, body: InputRoomEvent, judged: Judged) -> Decided {
        let annotation = judged.annotation;
        Decided {
            outcome: FoldOutcome {
                decision: annotation.decision,
                reason: annotation.reason,
                duplicate_of: judged.duplicate_of,
            },
            said: vec![Said::Event {
                record: item.record.cloned(),
                about: item.offset,
                body: Box::new(body),
                annotation: Box::new(annotation),
                gap: judged.gap,
            }],
            fresh: judged.fresh.into_iter().collect(),
            changed: judged.changed,
            released: judged.released,
        }
    }
}

/// What a turn has come to.
pub(super) struct Tally {
    pub ids: StateIds,
    pub said: Vec<Said>,
    /// Outcomes of earlier records, by offset.
    pub settled: Vec<(u64, FoldOutcome)>,
}

impl Tally {
    /// The tally of the turn at this record.
    pub fn of(record: &FoldInput<'_>) -> Tally {
        Tally {
            ids: StateIds::of(record.offset),
            said: vec![],
            settled: vec![],
        }
    }

    /// What the fold of the record says.
    pub fn folded(self, record: &FoldInput<'_>, outcome: FoldOutcome) -> Result<Folded, FoldError> {
        Ok(Folded {
            output: told(record, self.said)?,
            outcome: Some(outcome),
            settled: self.settled,
        })
    }
}

impl RoomServer {
    /// Folds a record of a room that does not wait, and what it releases.
    pub(super) fn take_turn(
        &mut self,
        record: &FoldInput<'_>,
        room_id: &RoomId,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        let item = Item {
            partition: record.partition,
            offset: record.offset,
            envelope: record.envelope,
            record: None,
        };
        let mut tally = Tally::of(record);
        let ids = &mut tally.ids;
        let body = codec::decode::<InputRoomEvent>(record.envelope.body).ok();
        let body = body.filter(|_| record.envelope.kind == Kind::InputRoomEvent);
        let decided = match body {
            Some(body) if self.is_plain(&item, &body, room_id) => {
                Some(self.decide_plainly(&item, body, ids, tables)?)
            }
            _ => {
                let effort = Effort::inline(self.shared.inline_work);
                self.decide(&item, effort, ids, tables)?
            }
        };
        let Some(decided) = decided else {
            let used = tally.ids.used();
            self.park(room_id, &[record.offset], record, used, tables)?;
            return Ok(Folded::waiting());
        };
        tally.said = decided.said;
        if !decided.released.is_empty() {
            let queue = VecDeque::from(decided.released);
            self.go_on(record, room_id, queue, &mut tally, tables)?;
        }
        tally.folded(record, decided.outcome)
    }

    /// Decides released records, and those that they release; parks the room
    /// with those that are too many or too much.
    fn go_on(
        &mut self,
        record: &FoldInput<'_>,
        room_id: &RoomId,
        mut queue: VecDeque<u64>,
        tally: &mut Tally,
        tables: &mut Overlay<'_>,
    ) -> Result<(), FoldError> {
        let mut done = 0;
        while let Some(offset) = queue.pop_front() {
            let decided = match done < RELEASED_RECORDS_MAX && tally.ids.suffice() {
                true => self.decide_kept(record, offset, &mut tally.ids, tables)?,
                false => None,
            };
            let Some(decided) = decided else {
                let rest: Vec<u64> = std::iter::once(offset).chain(queue).collect();
                return self.park(room_id, &rest, record, tally.ids.used(), tables);
            };
            done += 1;
            queue.extend(decided.released);
            tally.said.extend(decided.said);
            tally.settled.push((offset, decided.outcome));
        }
        Ok(())
    }

    /// [`RoomServer::decide`] about an earlier record, which is read again.
    pub(super) fn decide_kept(
        &mut self,
        record: &FoldInput<'_>,
        offset: u64,
        ids: &mut StateIds,
        tables: &mut Overlay<'_>,
    ) -> Result<Option<Decided>, FoldError> {
        let source = self.shared.events.log_record(record.partition, offset)?;
        let envelope = envelope_of(&source)?;
        let item = Item::kept(record.partition, &source, &envelope);
        let effort = Effort::inline(self.shared.inline_work);
        self.decide(&item, effort, ids, tables)
    }

    /// Makes a room wait, with the records that are to be decided when it goes on.
    fn park(
        &mut self,
        room_id: &RoomId,
        offsets: &[u64],
        record: &FoldInput<'_>,
        ids_used: u64,
        tables: &mut Overlay<'_>,
    ) -> Result<(), FoldError> {
        let Some(head) = self.group.heads.get_mut(room_id) else {
            // Only rooms with a head have anything to do that takes long.
            return Ok(());
        };
        let mut parked = Parked::at(record.offset, ids_used);
        for offset in offsets {
            parked.queue(*offset, tables, record.partition, head.shown.room);
        }
        head.parked = Some(parked);
        Ok(())
    }

    /// Whether an event can take no more than the work of a plain message, so
    /// that nothing need be taken back.
    fn is_plain(&self, item: &Item<'_>, body: &InputRoomEvent, room_id: &RoomId) -> bool {
        if body.batch_count > 1 {
            return false;
        }
        let Some(head) = self.group.heads.get(room_id) else {
            return true;
        };
        let event = Event::read(item.partition, item.offset, item.envelope, body);
        event.is_some_and(|event| event.is_next(head) && (head.waiting == 0 || event.is_local()))
    }

    /// [`RoomServer::decide`] where nothing can stop the decision halfway.
    fn decide_plainly(
        &mut self,
        item: &Item<'_>,
        body: InputRoomEvent,
        ids: &mut StateIds,
        tables: &mut Overlay<'_>,
    ) -> Result<Decided, FoldError> {
        let event = Event::read(item.partition, item.offset, item.envelope, &body);
        let judged = match event {
            Some(event) => self.judge(&event, Effort::aside(), ids, tables),
            None => Err(Stop::Refuse(Reason::Malformed)),
        };
        match judged {
            Ok(judged) => {
                let decided = Decided::event(item, body, judged);
                self.keep(item.partition, &decided);
                Ok(decided)
            }
            Err(Stop::Fail(error)) => Err(error),
            Err(Stop::Refuse(reason)) => self.refused(item, reason, tables),
            // Effort that is spent aside never asks to wait.
            Err(Stop::Wait) => self.refused(item, Reason::TooMuchWork, tables),
        }
    }

    /// Decides about one record; none if that takes more than `effort`, and then
    /// nothing has changed.
    fn decide(
        &mut self,
        item: &Item<'_>,
        effort: Effort,
        ids: &mut StateIds,
        tables: &mut Overlay<'_>,
    ) -> Result<Option<Decided>, FoldError> {
        let Some((decided, writes)) = self.attempt(item, effort, ids, tables)? else {
            return Ok(None);
        };
        tables.absorb(writes);
        self.keep(item.partition, &decided);
        Ok(Some(decided))
    }

    /// Works out a decision and what it writes, above the tables. The group's
    /// head of the room is as after it; as before, if there is no decision.
    pub(super) fn attempt(
        &mut self,
        item: &Item<'_>,
        effort: Effort,
        ids: &mut StateIds,
        tables: &Overlay<'_>,
    ) -> Result<Option<(Decided, Writes)>, FoldError> {
        let room_id = room_id_of(item.envelope);
        let saved = room_id
            .as_ref()
            .and_then(|room_id| self.group.heads.get(room_id).cloned());
        let ids_before = ids.clone();
        self.graphs.begin();
        let mut above = Overlay::new(tables);
        let stopped = match self.weigh(item, effort, ids, &mut above) {
            Ok(decided) => return Ok(Some((decided, above.into_writes()))),
            Err(stopped) => stopped,
        };
        *ids = ids_before;
        self.take_back(item, room_id, saved);
        match stopped {
            Stop::Fail(error) => Err(error),
            Stop::Wait => Ok(None),
            Stop::Refuse(reason) => {
                let mut above = Overlay::new(tables);
                let decided = self.refused(item, reason, &mut above)?;
                Ok(Some((decided, above.into_writes())))
            }
        }
    }

    /// The room's head as it was, and nothing remembered of what was tried.
    fn take_back(&mut self, item: &Item<'_>, room_id: Option<OwnedRoomId>, saved: Option<Head>) {
        match item.envelope.event_id {
            Some(event_id) if !is_batch(item) => drop(self.known.remove(event_id)),
            _ => self.known.clear(),
        }
        self.graphs.take_back();
        let Some(room_id) = room_id else { return };
        match saved {
            Some(head) => self.group.heads.insert(room_id, head),
            None => self.group.heads.remove(&room_id),
        };
    }

    fn weigh(
        &mut self,
        item: &Item<'_>,
        effort: Effort,
        ids: &mut StateIds,
        tables: &mut Overlay<'_>,
    ) -> Result<Decided, Stop> {
        if item.envelope.kind != Kind::InputRoomEvent {
            return self.weigh_given(item, effort, ids, tables);
        }
        let Ok(body) = codec::decode::<InputRoomEvent>(item.envelope.body) else {
            return Err(Stop::Refuse(Reason::Malformed));
        };
        if body.batch_count > 1 {
            return self.weigh_batch(item, body, effort, ids, tables);
        }
        let event = Event::read(item.partition, item.offset, item.envelope, &body);
        let Some(event) = event else {
            return Err(Stop::Refuse(Reason::Malformed));
        };
        let judged = self.judge(&event, effort, ids, tables)?;
        Ok(Decided::event(item, body, judged))
    }

    /// Judges one event, of a known room or a new one.
    pub(super) fn judge(
        &mut self,
        event: &Event<'_>,
        effort: Effort,
        ids: &mut StateIds,
        tables: &mut Overlay<'_>,
    ) -> Result<Judged, Stop> {
        let is_known = self.bring_head(event.partition, event.room_id, tables)?;
        let mut head = match is_known {
            true => self.group.heads.remove(event.room_id),
            false => None,
        };
        let room = head.as_ref().map(|head| head.shown.room);
        let mut scope = Scope {
            shared: &self.shared,
            partition: event.partition,
            room: room.unwrap_or(RoomSn(event.offset)),
            room_id: event.room_id,
            node: head.as_ref().map_or(StateNode::EMPTY, |head| head.node),
            state: head
                .as_ref()
                .map_or_else(StateMap::new, |head| head.shown.state.clone()),
            known: &mut self.known,
            graphs: &mut self.graphs,
            tables,
            ids,
            effort,
        };
        let judged = match &mut head {
            Some(head) => event.judge(head, &mut scope),
            None => event.create_room(&mut scope).map(|(judged, made)| {
                head = Some(made);
                judged
            }),
        };
        if let Some(head) = head {
            self.group.heads.insert(event.room_id.to_owned(), head);
        }
        judged
    }

    fn weigh_given(
        &mut self,
        item: &Item<'_>,
        effort: Effort,
        ids: &mut StateIds,
        tables: &mut Overlay<'_>,
    ) -> Result<Decided, Stop> {
        let Some(room_id) = room_id_of(item.envelope) else {
            return Err(Stop::Refuse(Reason::Malformed));
        };
        if !self.bring_head(item.partition, &room_id, tables)? {
            return Err(Stop::Refuse(Reason::UnknownRoom));
        }
        let Some(mut head) = self.group.heads.remove(&room_id) else {
            return Err(Stop::Refuse(Reason::UnknownRoom));
        };
        let room = head.shown.room;
        let mut scope = Scope {
            shared: &self.shared,
            partition: item.partition,
            room,
            room_id: &room_id,
            node: head.node,
            state: head.shown.state.clone(),
            known: &mut self.known,
            graphs: &mut self.graphs,
            tables,
            ids,
            effort,
        };
        let folded = given::fold(&mut head, item.offset, item.envelope, &mut scope);
        self.group.heads.insert(room_id.clone(), head);
        let folded = folded?;
        let decision = match folded.reason {
            Reason::None => Decision::Accepted,
            _ => Decision::Rejected,
        };
        let mut decided = Decided::silent(decision, folded.reason);
        decided.said.extend(folded.gap.map(|gap| Said::Gap {
            record: item.record.cloned(),
            about: item.offset,
            room,
            gap,
        }));
        Ok(decided)
    }

    /// The decision about a record that is refused. One of another server that
    /// takes too much work is remembered, so that what builds on it does not ask
    /// for it again.
    fn refused(
        &mut self,
        item: &Item<'_>,
        reason: Reason,
        tables: &mut Overlay<'_>,
    ) -> Result<Decided, FoldError> {
        if item.envelope.kind != Kind::InputRoomEvent {
            return Ok(Decided::silent(Decision::Rejected, reason));
        }
        let body = codec::decode(item.envelope.body).unwrap_or_else(|_| no_body());
        if body.batch_count > 1 {
            return Ok(self.refused_batch(item, body, reason));
        }
        if let Some(event) = Event::read(item.partition, item.offset, item.envelope, &body)
            && let Some(head) = self.group.heads.get(event.room_id)
            && reason == Reason::TooMuchWork
        {
            event.remember_refused(head, reason, tables)?;
        }
        let unplaced =
            Annotation::unplaced(Decision::Rejected, reason, RoomSn(0), EventSn(item.offset));
        Ok(Decided::event(item, body, Judged::plain(unplaced)))
    }

    /// Keeps for publishing what a decision changed.
    pub(super) fn keep(&mut self, partition: u32, decided: &Decided) {
        let fresh = decided.fresh.iter();
        let fresh = fresh.map(|event| (partition, event.clone()));
        self.group.fresh.extend(fresh);
        let changed = decided.changed.iter().map(|event| (partition, *event));
        self.group.changed.extend(changed);
    }
}

fn is_batch(item: &Item<'_>) -> bool {
    let body = codec::decode::<InputRoomEvent>(item.envelope.body);
    body.is_ok_and(|body| body.batch_count > 1)
}

/// The room of a record.
pub(super) fn room_id_of(envelope: &Envelope<'_>) -> Option<OwnedRoomId> {
    let room_id = envelope.room_id.filter(|id| *id == envelope.key)?;
    OwnedRoomId::try_from(room_id).ok()
}

pub(super) fn envelope_of(record: &LogRecord) -> Result<Envelope<'_>, FoldError> {
    record.envelope().map_err(|source| FoldError::Envelope {
        offset: record.offset,
        source,
    })
}

/// *Output* records of what was said, numbered.
fn told(record: &FoldInput<'_>, said: Vec<Said>) -> Result<Vec<NewRecord>, FoldError> {
    let count: u32 = said
        .iter()
        .map(|said| match said {
            Said::Event {
                annotation, gap, ..
            } => annotation.count(gap.as_ref()),
            Said::Gap { .. } => 1,
        })
        .sum();
    let mut sub = 0;
    let mut next = |about: u64| {
        sub += 1;
        Origin {
            src_offset: record.offset,
            about,
            src_sub: sub - 1,
            src_last: sub == count,
            projector_version: PROJECTOR_VERSION,
        }
    };
    let mut output = Vec::with_capacity(count as usize);
    for said in said {
        let (source, about) = match &said {
            Said::Event { record, about, .. } | Said::Gap { record, about, .. } => {
                (record.clone(), *about)
            }
        };
        let read = source.as_ref().map(envelope_of).transpose()?;
        let envelope = read.as_ref().unwrap_or(record.envelope);
        match said {
            Said::Event {
                body,
                annotation,
                gap,
                ..
            } => output.extend(annotation.records(envelope, *body, gap, || next(about))),
            Said::Gap { room, gap, .. } => {
                output.push(annotate::gap(envelope, room, gap, next(about)));
            }
        }
    }
    Ok(output)
}
