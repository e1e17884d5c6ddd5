//! A room goes on: the work for which it waited was done aside.

use log_format::codec;
use log_format::record::input::InputRoomResumed;
use log_format::record::output::{Decision, Reason};
use ruma::RoomId;

use super::fold::RoomServer;
use super::parked::{self, Parked};
use super::scope::Effort;
use super::state::StateIds;
use super::turn::{Decided, Item, Tally, envelope_of};
use crate::limits::RELEASED_RECORDS_MAX;
use crate::projectors::fold::{FoldError, FoldInput, FoldOutcome, Folded, PROJECTOR_VERSION};
use crate::storage::overlay::Overlay;

impl RoomServer {
    /// Puts a record into the queue of a room that waits.
    pub(super) fn queue(
        &mut self,
        record: &FoldInput<'_>,
        room_id: &RoomId,
        tables: &mut Overlay<'_>,
    ) -> Folded {
        if let Some(head) = self.group.heads.get_mut(room_id)
            && let Some(parked) = &mut head.parked
        {
            parked.queue(record.offset, tables, record.partition, head.shown.room);
        }
        Folded::waiting()
    }

    /// Takes over what was done aside, or does it again, and goes on with the
    /// records that wait.
    pub(super) fn resume(
        &mut self,
        record: &FoldInput<'_>,
        room_id: &RoomId,
        tables: &mut Overlay<'_>,
    ) -> Result<Folded, FoldError> {
        let Ok(body) = codec::decode::<InputRoomResumed>(record.envelope.body) else {
            return Ok(silent(Decision::Rejected, Reason::Malformed));
        };
        let head = self.group.heads.get(room_id);
        let parked = head.and_then(|head| {
            let parked = head.parked.filter(|parked| parked.cause == body.cause)?;
            Some((parked, head.shown.room))
        });
        let Some((mut parked, room)) = parked else {
            // Said twice, for instance around a restart.
            return Ok(silent(Decision::Duplicate, Reason::None));
        };
        let partition = record.partition;
        let mut tally = Tally::of(record);
        let queue = Parked::first(&*tables, partition, room, RELEASED_RECORDS_MAX)?;
        for (index, (number, offset)) in queue.into_iter().enumerate() {
            let decided = match index {
                0 => Some(self.decided_aside(record, room_id, &parked, offset, &body, tables)?),
                _ if tally.ids.suffice() => {
                    self.decide_kept(record, offset, &mut tally.ids, tables)?
                }
                _ => None,
            };
            let Some(decided) = decided else { break };
            Parked::decided(number, tables, partition, room);
            for released in decided.released {
                parked.queue(released, tables, partition, room);
            }
            tally.said.extend(decided.said);
            tally.settled.push((offset, decided.outcome));
        }
        let since = (record.offset, tally.ids.used());
        let parked = parked.again(since, tables, partition, room)?;
        if let Some(head) = self.group.heads.get_mut(room_id) {
            head.parked = parked;
        }
        tally.folded(record, FoldOutcome::of(Decision::Accepted, Reason::None))
    }

    fn decided_aside(
        &mut self,
        record: &FoldInput<'_>,
        room_id: &RoomId,
        parked: &Parked,
        offset: u64,
        body: &InputRoomResumed,
        tables: &mut Overlay<'_>,
    ) -> Result<Decided, FoldError> {
        // What another version decided is decided anew.
        let is_ours = body.projector_version == PROJECTOR_VERSION;
        let prepared = self.shared.parked.take(room_id, parked.cause);
        if let Some(prepared) =
            prepared.filter(|prepared| is_ours && prepared.digest == body.digest)
        {
            tables.absorb(prepared.writes);
            if let Some(head) = prepared.head {
                self.graphs.forget(head.shown.room);
                self.group.heads.insert(room_id.to_owned(), head);
            }
            self.keep(record.partition, &prepared.decided);
            return Ok(prepared.decided);
        }
        let source = self.shared.events.log_record(record.partition, offset)?;
        let envelope = envelope_of(&source)?;
        let item = Item::kept(record.partition, &source, &envelope);
        let mut ids = StateIds::after(parked.cause, parked.ids_used);
        let attempt = self.attempt(&item, Effort::aside(), &mut ids, tables)?;
        let differs = || FoldError::ResumedOtherwise {
            offset: record.offset,
        };
        let (decided, writes) = attempt.ok_or_else(differs)?;
        if is_ours && parked::digest(&writes, &decided) != body.digest {
            return Err(differs());
        }
        tables.absorb(writes);
        self.keep(record.partition, &decided);
        Ok(decided)
    }
}

fn silent(decision: Decision, reason: Reason) -> Folded {
    Folded {
        output: vec![],
        outcome: Some(FoldOutcome::of(decision, reason)),
        settled: vec![],
    }
}
