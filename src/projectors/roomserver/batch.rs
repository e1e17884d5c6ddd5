//! Records of one request that stand or fall as one: createRoom.
//!
//! They follow each other in the log and are folded together at the last of
//! them, so that nothing of a refused one is ever in the tables or in *output*
//! as accepted. The earlier ones are read from the log again, not kept: a
//! group, or the process, may end between them.

use log_format::codec;
use log_format::record::Kind;
use log_format::record::input::InputRoomEvent;
use log_format::record::output::{Decision, Reason};

use super::annotate::Annotation;
use super::events::EventError;
use super::fold::RoomServer;
use super::judge::{Event, Judged};
use super::scope::{Effort, Stop};
use super::state::StateIds;
use super::turn::{Decided, Item};
use crate::logs::log::LogRecord;
use crate::projectors::fold::FoldOutcome;
use crate::query::ids::{EventSn, RoomSn};
use crate::storage::overlay::Overlay;

/// Most records of one batch. A createRoom has about ten and its invites.
const BATCH_RECORDS_MAX: u32 = 1_000;

impl RoomServer {
    /// Decides about the batch that this record ends; an earlier record of it
    /// has nothing to say.
    ///
    /// Errors: [`Stop::Refuse`] if one of its events is refused, and then all are.
    pub(super) fn weigh_batch(
        &mut self,
        item: &Item<'_>,
        body: InputRoomEvent,
        effort: Effort,
        ids: &mut StateIds,
        tables: &mut Overlay<'_>,
    ) -> Result<Decided, Stop> {
        let (index, count) = (body.batch_index, body.batch_count);
        if index >= count || count > BATCH_RECORDS_MAX || u64::from(index) > item.offset {
            return Err(Stop::Refuse(Reason::Malformed));
        }
        if index + 1 < count {
            return Ok(Decided::silent(Decision::Accepted, Reason::None));
        }
        let earlier = self.earlier(item, index)?;
        let mut all = Decided::silent(Decision::Accepted, Reason::None);
        let mut repeated = true;
        for (at, source) in earlier.iter().enumerate() {
            let Ok(envelope) = source.envelope() else {
                return Err(Stop::Refuse(Reason::Malformed));
            };
            let read = codec::decode::<InputRoomEvent>(envelope.body).ok();
            let belongs = |read: &InputRoomEvent| {
                envelope.kind == Kind::InputRoomEvent
                    && envelope.room_id == item.envelope.room_id
                    && (read.batch_index as usize, read.batch_count) == (at, count)
            };
            let Some(body) = read.filter(belongs) else {
                return Err(Stop::Refuse(Reason::Malformed));
            };
            let part = Item::kept(item.partition, source, &envelope);
            repeated &= self.weigh_part(&part, body, &effort, ids, tables, &mut all)?;
        }
        repeated &= self.weigh_part(item, body, &effort, ids, tables, &mut all)?;
        all.outcome.decision = match repeated {
            true => Decision::Duplicate,
            false => Decision::Accepted,
        };
        if !repeated {
            all.outcome.duplicate_of = None;
        }
        Ok(all)
    }

    /// One event of a batch; whether it was there before.
    fn weigh_part(
        &mut self,
        part: &Item<'_>,
        body: InputRoomEvent,
        effort: &Effort,
        ids: &mut StateIds,
        tables: &mut Overlay<'_>,
        all: &mut Decided,
    ) -> Result<bool, Stop> {
        let event = Event::read(part.partition, part.offset, part.envelope, &body);
        let event = event.ok_or(Stop::Refuse(Reason::Malformed))?;
        // The ids behind these belong to the next record.
        if !ids.suffice() {
            return Err(Stop::Refuse(Reason::TooMuchWork));
        }
        let judged = self.judge(&event, effort.clone(), ids, tables)?;
        let decided = Decided::event(part, body, judged);
        let FoldOutcome {
            decision,
            reason,
            duplicate_of,
        } = decided.outcome;
        if decision == Decision::Rejected {
            return Err(Stop::Refuse(reason));
        }
        if all.outcome.duplicate_of.is_none() {
            all.outcome.duplicate_of = duplicate_of;
        }
        all.said.extend(decided.said);
        all.fresh.extend(decided.fresh);
        all.changed.extend(decided.changed);
        all.released.extend(decided.released);
        Ok(decision == Decision::Duplicate)
    }

    /// The decision about a batch that is refused: the same about each of its records.
    pub(super) fn refused_batch(
        &self,
        item: &Item<'_>,
        body: InputRoomEvent,
        reason: Reason,
    ) -> Decided {
        let mut all = Decided::silent(Decision::Rejected, reason);
        let refused = |offset: u64| {
            let (decision, event) = (Decision::Rejected, EventSn(offset));
            Judged::plain(Annotation::unplaced(decision, reason, RoomSn(0), event))
        };
        // What is no batch is decided about alone.
        let is_batch = body.batch_index.checked_add(1) == Some(body.batch_count)
            && body.batch_count <= BATCH_RECORDS_MAX
            && u64::from(body.batch_index) <= item.offset;
        let earlier = match is_batch {
            true => self.earlier(item, body.batch_index).unwrap_or_default(),
            false => vec![],
        };
        for source in &earlier {
            let envelope = source.envelope().ok();
            let read = envelope.as_ref().and_then(|envelope| {
                let in_batch = envelope.kind == Kind::InputRoomEvent
                    && envelope.room_id == item.envelope.room_id;
                let read = codec::decode::<InputRoomEvent>(envelope.body).ok();
                read.filter(|read| in_batch && read.batch_count == body.batch_count)
            });
            if let (Some(envelope), Some(read)) = (envelope, read) {
                let part = Item::kept(item.partition, source, &envelope);
                let decided = Decided::event(&part, read, refused(source.offset));
                all.said.extend(decided.said);
            }
        }
        let decided = Decided::event(item, body, refused(item.offset));
        all.said.extend(decided.said);
        all
    }

    /// The records before this one that belong to its batch.
    fn earlier(&self, item: &Item<'_>, index: u32) -> Result<Vec<LogRecord>, EventError> {
        let mut found: Vec<LogRecord> = vec![];
        let mut next = item.offset - u64::from(index);
        while next < item.offset {
            let read = self.shared.events.records_from(item.partition, next)?;
            let read = read
                .into_iter()
                .take_while(|read| read.offset < item.offset);
            let before = found.len();
            found.extend(read);
            if found.len() == before {
                break;
            }
            next = found.last().map_or(next, |last| last.offset + 1);
        }
        Ok(found)
    }
}
